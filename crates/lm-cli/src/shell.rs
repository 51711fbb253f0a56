//! `lastmile completions` and `lastmile man`: what a shell and a reader of manuals need to know of the command line.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::args::Cli;
use crate::outcome::{Outcome, say};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lastmile completions bash > /etc/bash_completion.d/lastmile")]
pub(crate) struct CompletionsArgs {
    /// Which shell.
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lastmile man /usr/local/share/man/man1")]
pub(crate) struct ManArgs {
    /// Where to: one page for each verb.
    folder: PathBuf,
}

pub(crate) fn completions(args: &CompletionsArgs) -> anyhow::Result<Outcome> {
    // Written at once, so that a pipe that is closed early is an error and no panic.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "lastmile", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(Outcome::Done)
}

pub(crate) fn man(args: &ManArgs) -> anyhow::Result<Outcome> {
    std::fs::create_dir_all(&args.folder)?;
    clap_mangen::generate_to(Cli::command(), &args.folder)?;
    say!("the pages are in {}", args.folder.display());
    Ok(Outcome::Done)
}
