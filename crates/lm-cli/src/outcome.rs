//! How a verb ends: exit status, and JSON on standard output.

use std::fmt;
use std::io::Write;
use std::process::ExitCode;

use lastmile::GenerateError;
use serde::Serialize;

/// Prints a line on standard output; that it cannot be written is the caller's error.
macro_rules! say {
    ($($text:tt)*) => { writeln!(std::io::stdout(), $($text)*)? };
}
pub(crate) use say;

/// A verb that did what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Done.
    Done,
    /// The answer is no: a gate failed.
    No,
}

/// A mistake in how the program was called, rather than something that could not be done.
#[derive(Debug)]
pub(crate) struct WrongUse(pub(crate) String);

impl fmt::Display for WrongUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for WrongUse {}

/// 0 done, 1 the answer is no, 2 wrong use, 3 could not.
pub(crate) fn exit_code(outcome: &anyhow::Result<Outcome>) -> ExitCode {
    match outcome {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::No) => ExitCode::from(1),
        Err(error) if error.is::<WrongUse>() => ExitCode::from(2),
        // Whoever read standard output has seen enough.
        Err(error) if is_broken_pipe(error) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(3),
    }
}

/// Whether standard output was closed by its reader.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let is_pipe = |cause: &std::io::Error| cause.kind() == std::io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| {
        let json = cause.downcast_ref::<serde_json::Error>();
        cause.downcast_ref().is_some_and(is_pipe)
            || json.is_some_and(|json| json.io_error_kind() == Some(std::io::ErrorKind::BrokenPipe))
    })
}

/// A refused request is a mistake of the caller, anything else is not.
pub(crate) fn refusal(error: GenerateError) -> anyhow::Error {
    match error {
        GenerateError::ContextTooLong { .. }
        | GenerateError::MaxTokensTooLarge { .. }
        | GenerateError::EmptyPrompt
        | GenerateError::UnknownToken { .. }
        | GenerateError::InvalidField { .. } => WrongUse(error.to_string()).into(),
        other => other.into(),
    }
}

/// An error and its causes in one line; a cause that the text already tells is not told again.
pub(crate) fn error_text(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.contains(&cause) {
            let colon = if text.is_empty() { "" } else { ": " };
            text.push_str(colon);
            text.push_str(&cause);
        }
    }
    text
}

/// Prints `value` as the one JSON document of this run.
pub(crate) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)?;
    Ok(())
}

/// Bytes for people: `98.4 MB`.
pub(crate) fn human_bytes(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let error = anyhow::anyhow!("no space left").context("cannot write: no space left");
        assert_eq!(error_text(&error.context("pull")), "pull: cannot write: no space left");
    }

    #[test]
    fn bytes_read_well() {
        assert_eq!(human_bytes(0), "0 B");
        assert_eq!(human_bytes(999), "999 B");
        assert_eq!(human_bytes(98_362_432), "98.4 MB");
        assert_eq!(human_bytes(1_000_000_000), "1.0 GB");
    }
}
