//! `cargo sim [--seed N | --seeds N]`: runs one seed, or the first N, and says what it met.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use lm_sim::simulate;

const USAGE: &str = "usage: cargo sim [--seed N | --seeds N]";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |text: &str| text.parse::<u64>().ok();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let seeds = match words.as_slice() {
        [] => Some(0..1000),
        ["--seed", n] => number(n).map(|n| n..n + 1),
        ["--seeds", n] => number(n).map(|n| 0..n),
        _ => None,
    };
    let Some(seeds) = seeds else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    run(seeds)
}

fn run(seeds: std::ops::Range<u64>) -> ExitCode {
    let n_seeds = seeds.end - seeds.start;
    let (mut steps, mut answers, mut preemptions, mut hits, mut imported) = (0, 0, 0, 0, 0);
    let (mut drafted, mut accepted) = (0, 0);
    for seed in seeds {
        let Ok(outcome) = catch_unwind(AssertUnwindSafe(|| simulate(seed))) else {
            eprintln!("sim: seed {seed} panicked; again with: cargo sim --seed {seed}");
            return ExitCode::FAILURE;
        };
        match outcome {
            Ok(report) => {
                steps += report.steps;
                answers += report.answers;
                preemptions += report.preemptions;
                hits += report.prefix_hit_tokens;
                imported += report.imported;
                drafted += report.drafted;
                accepted += report.accepted;
            }
            Err(failure) => {
                eprintln!("sim: {failure}; again with: cargo sim --seed {seed}");
                return ExitCode::FAILURE;
            }
        }
    }
    println!(
        "sim: {n_seeds} seeds hold: {steps} steps, {answers} answers equal to their references, \
         {preemptions} preemptions, {hits} prompt tokens from the prefix cache, {imported} blocks \
         from outside of the pool, {accepted} of {drafted} guesses right"
    );
    ExitCode::SUCCESS
}
