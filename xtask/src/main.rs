//! Chores around the code: `cargo xtask tidy`, `cargo xtask mutants`, `cargo xtask miri` and `cargo xtask gpu-check`.
//!
//! It must never be needed to build or run lastmile.
//!
//! Start reading at [`tidy::run`], [`mutants::run`], [`miri::run`] and [`gpu_check::run`].

mod gpu_check;
mod miri;
mod mutants;
mod tidy;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;

const USAGE: &str = "usage: cargo xtask <tidy | mutants | miri | gpu-check>
  tidy      sizes, floors, unsafe code, words, docs, dependency versions
  mutants   plants bugs in the scheduler and expects that each is caught
  miri      unsafe code under Miri; needs the nightly toolchain with its component miri
  gpu-check compiles the executor for CUDA, and type-checks it for Metal; needs the network and Python 3";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let verb = match args.as_slice() {
        [verb] => verb.as_str(),
        _ => "",
    };
    let outcome = match verb {
        "tidy" => root().and_then(tidy::run),
        "mutants" => root().and_then(mutants::run),
        "miri" => root().and_then(miri::run),
        "gpu-check" => root().and_then(gpu_check::run),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask {verb}: {error:#}");
            ExitCode::from(3)
        }
    }
}

/// The folder of the workspace.
fn root() -> anyhow::Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace")
}
