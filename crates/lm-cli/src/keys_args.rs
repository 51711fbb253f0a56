//! What can be said to `lastmile keys`.

use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lastmile keys create app --expires 30d --max-concurrent 4")]
pub(crate) struct KeysArgs {
    #[command(subcommand)]
    pub(crate) verb: KeysVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeysVerb {
    /// Make a key and show it once.
    #[command(after_help = "Example:\n  lastmile keys create app --expires 30d --max-concurrent 4")]
    Create(CreateArgs),
    /// List keys, revoked ones included.
    List {
        /// One JSON document: a list of id, name, state, scopes, created_at, expires_at, limits, ….
        #[arg(long)]
        json: bool,
    },
    /// Take a key back. A running server notices within seconds.
    Revoke {
        /// A key's name or id.
        key: String,
        /// One JSON document: the key's record.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// What you call it.
    pub(crate) name: String,
    /// What it opens: `infer` is /v1, `metrics` /metrics, `ops` what operators see.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "infer")]
    pub(crate) scopes: Vec<ScopeArg>,
    /// `30d`, `12h`, `90m`, or a date such as 2027-01-31; by default never.
    #[arg(long, value_name = "WHEN")]
    pub(crate) expires: Option<String>,
    /// Requests that may begin within a minute.
    #[arg(long, value_name = "N")]
    pub(crate) requests_per_minute: Option<u64>,
    /// Tokens of prompts and answers within a minute.
    #[arg(long, value_name = "N")]
    pub(crate) tokens_per_minute: Option<u64>,
    /// Requests that may be open at once.
    #[arg(long, value_name = "N")]
    pub(crate) max_concurrent: Option<u64>,
    /// Tokens of prompts and answers within a day, by UTC.
    #[arg(long, value_name = "N")]
    pub(crate) daily_tokens: Option<u64>,
    /// CPU time within a day, by UTC, in seconds; an answer ends when nothing is left.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) daily_cpu_seconds: Option<f64>,
    /// Money within a day, by UTC, in the currency of the server's prices; an answer ends when nothing is left.
    #[arg(long, value_name = "AMOUNT")]
    pub(crate) daily_cost: Option<f64>,
    /// One JSON document: the key's record and, as `key`, the key.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ScopeArg {
    /// Answers, and feedback on one's own.
    Infer,
    /// What operators see and do, other keys' requests included.
    Ops,
    /// Counters.
    Metrics,
}
