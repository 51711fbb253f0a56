//! What can be said to `lastmile override`.

use clap::{Args, Subcommand};

const EXAMPLE: &str = "\
A rule in TOML:
  id = \"no-acme\"
  owner = \"ana@example.com\"
  reason = \"contract 1234\"
  [when]
  routes = [\"/v1/chat/completions\"]
  [then]
  action = \"ban\"
  phrases = [\"Acme\"]

Example:
  lastmile override add no-acme.toml && lastmile override dry-run no-acme && lastmile override publish no-acme";

/// A server of this home that runs notices within a moment.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct OverrideArgs {
    #[command(subcommand)]
    pub(crate) verb: OverrideVerb,
    /// One JSON document.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum OverrideVerb {
    /// Add a rule as a draft.
    Add {
        /// A file in TOML or JSON; `-` is standard input.
        file: String,
    },
    /// List rules with their hits, and the operator's switches.
    List,
    /// Show a rule.
    Show {
        /// Its id.
        rule: String,
    },
    /// Say what a rule would have done to recorded traffic.
    DryRun {
        /// Its id.
        rule: String,
        /// How far back, such as 7d, 12h or 90m.
        #[arg(long, default_value = "7d", value_name = "TIME")]
        since: String,
    },
    /// Let a draft hold.
    Publish {
        /// Its id.
        rule: String,
    },
    /// End a rule now.
    Expire {
        /// Its id.
        rule: String,
    },
    /// Remove a rule; what it did stays in the audit log.
    Remove {
        /// Its id.
        rule: String,
    },
    /// Say who did what.
    Audit {
        /// Entries, newest first.
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Let a route answer nothing; what runs on it ends.
    Kill {
        /// Such as /v1/chat/completions.
        route: String,
        /// Why; goes into the audit log.
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
    },
    /// Let one model, or one release by the beginning of its hash, answer everything.
    Pin {
        /// A model's name or a release's hash.
        target: String,
        /// Why; goes into the audit log.
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
    },
    /// Take the last change back; again, the one before it.
    Rollback {
        /// Why; goes into the audit log.
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
    },
    /// List what waits for a person.
    Queue,
    /// Answer what waits.
    Answer {
        /// Its id.
        id: String,
        /// The answer; standard input when absent.
        text: Option<String>,
    },
}
