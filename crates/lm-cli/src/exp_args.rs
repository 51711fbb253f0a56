//! What can be said to `lastmile exp`.

use clap::{Args, Subcommand};

use crate::loop_args::AskArgs;

const EXAMPLE: &str = "\
An experiment in TOML:
  name = \"polite\"
  owner = \"ana@example.com\"
  reason = \"answers are too long\"
  model = \"smollm2-135m-instruct\"
  unit = \"user\"
  [candidate]
  system = \"polite\"
  [goal]
  metric = \"not_failure\"
  [[guardrails]]
  metric = \"ttft_ms\"
  quantile = 0.9
  max_ratio = 1.5

Example:
  lastmile exp prompt polite polite.txt && lastmile exp start exp.toml && lastmile exp status polite";

/// A server of this home that runs notices within a moment.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct ExpArgs {
    #[command(subcommand)]
    pub(crate) verb: ExpVerb,
    /// One JSON document.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ExpVerb {
    /// Begin an experiment.
    Start {
        /// A file in TOML or JSON; `-` is standard input.
        file: String,
    },
    /// List experiments, the newest first.
    List,
    /// Weigh what came, and say what follows; 1 when it is to be rolled back, or was.
    Status {
        /// Its name.
        name: String,
    },
    /// Say who moved it, when and why, and how the evidence came about.
    Explain {
        /// Its name.
        name: String,
    },
    /// Move it to its next stage, when the evidence carries that; 1 when it does not.
    ///
    /// Gates of verified fixes are asked first, of the server.
    Promote {
        /// Its name.
        name: String,
        /// Against the evidence.
        #[arg(long, requires = "reason")]
        force: bool,
        /// Why; goes into the audit log.
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Let the primary answer everything again.
    Rollback {
        /// Its name.
        name: String,
        /// Why; goes into the audit log.
        #[arg(long)]
        reason: String,
    },
    /// End it: requests are answered as without it.
    Stop {
        /// Its name.
        name: String,
        /// Why; goes into the audit log.
        #[arg(long)]
        reason: String,
    },
    /// Keep a system prompt as its next version; `{system}` stands for the request's own.
    Prompt {
        /// Its name.
        name: String,
        /// A file; `-` is standard input.
        file: String,
    },
    /// List system prompts, all versions.
    Prompts,
}
