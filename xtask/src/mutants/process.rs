//! Runs a program within a time limit, and keeps what it said.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;

const POLL: Duration = Duration::from_millis(5);
const MAX_OUTPUT_BYTES: u64 = 1 << 20;

/// How a program ended.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) success: bool,
    /// Both streams, as far as the limit goes.
    pub(super) output: String,
}

/// Runs a program in `folder`. One that is not done within `patience` is killed, and has failed.
pub(super) fn run_bounded(
    folder: &Path,
    program: &str,
    args: &[&str],
    patience: Duration,
) -> anyhow::Result<Outcome> {
    // A file takes any amount of output, where a pipe that nobody reads would block the program.
    let log = folder.join("../output.log");
    let out = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut child = Command::new(program)
        .args(args)
        .current_dir(folder)
        .env_remove("CARGO_TARGET_DIR")
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    let begin = Instant::now();
    let status = loop {
        match child.try_wait()? {
            Some(status) => break Some(status),
            None if begin.elapsed() > patience => {
                child.kill()?;
                child.wait()?;
                break None;
            }
            None => std::thread::sleep(POLL),
        }
    };
    let mut bytes = Vec::new();
    File::open(&log)?.take(MAX_OUTPUT_BYTES).read_to_end(&mut bytes)?;
    let mut output = String::from_utf8_lossy(&bytes).into_owned();
    if status.is_none() {
        output = format!("it hangs: not done within {} s", patience.as_secs());
    }
    Ok(Outcome { success: status.is_some_and(|status| status.success()), output })
}
