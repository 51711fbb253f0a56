//! What can be said to the verbs of the feedback loop: `failures`, `review`, `fix`, `eval` and `learn`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lastmile failures top")]
pub(crate) struct FailuresArgs {
    #[command(subcommand)]
    pub(crate) verb: FailuresVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum FailuresVerb {
    /// The problems to solve first: surely frequent, bad, and cheap to fix.
    Top {
        /// Failures of so many days.
        #[arg(long, default_value_t = 7.0, value_name = "DAYS")]
        days: f64,
        /// At most so many problems.
        #[arg(long, default_value_t = 10, value_name = "N")]
        limit: usize,
        /// One JSON document: a list of cluster, fingerprint, n_failures, n_answers, rate_low, score, ….
        #[arg(long)]
        json: bool,
    },
    /// The newest failures, one a line.
    List {
        /// Only of this cluster.
        #[arg(long, value_name = "ID")]
        cluster: Option<String>,
        /// At most so many.
        #[arg(long, default_value_t = 100, value_name = "N")]
        limit: u32,
        /// One JSON document: a list.
        #[arg(long)]
        json: bool,
    },
    /// One problem with prompts and answers of its newest failures.
    Show {
        /// The beginning of the cluster's id.
        cluster: String,
        /// At most so many failures.
        #[arg(long, default_value_t = 5, value_name = "N")]
        limit: u32,
        /// One JSON document: a list of failures with their requests.
        #[arg(long)]
        json: bool,
    },
    /// Say how many days a fix of a problem would take; the ranking divides by it.
    Effort {
        /// The beginning of the cluster's id.
        cluster: String,
        /// Days.
        days: f64,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lastmile review next")]
pub(crate) struct ReviewArgs {
    #[command(subcommand)]
    pub(crate) verb: ReviewVerb,
    /// Whose review it is.
    #[arg(long = "as", global = true, value_name = "NAME", env = "USER", default_value = "me")]
    pub(crate) reviewer: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ReviewVerb {
    /// Lease the next failure for 15 minutes and show it: the most uncertain one, every fifth at random.
    Next {
        /// One JSON document: the failure and its request.
        #[arg(long)]
        json: bool,
    },
    /// It is a failure.
    Accept {
        /// As `review next` names it.
        answer: String,
    },
    /// It is none: it no longer counts.
    Reject {
        /// As `review next` names it.
        answer: String,
    },
    /// It is a failure, and this is what it should have been.
    Correct {
        /// As `review next` names it.
        answer: String,
        /// The text.
        text: String,
    },
    /// A word to find it by; the review goes on.
    Tag {
        /// As `review next` names it.
        answer: String,
        /// The word.
        tag: String,
    },
    /// Take your verdict back: the failure is yours again, and waits for another one.
    Undo {
        /// As `review next` names it.
        answer: String,
    },
    /// End your leases, so that others need not wait for them to end.
    GiveBack,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  lastmile fix add c3f2 --note \"say the format\" --system \"Answer in JSON.\""
)]
pub(crate) struct FixArgs {
    #[command(subcommand)]
    pub(crate) verb: FixVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum FixVerb {
    /// Note what was done about a problem. From now on its traffic counts as after the fix.
    Add(FixAddArgs),
    /// Say whether traffic fails less since; a fix that is proved is guarded by a dataset from then on.
    Verify {
        /// The beginning of the fix's id.
        fix: String,
        /// One JSON document: verdict, change_low, change_high, before_n, before_failed, after_n, after_failed,
        /// after_moved, horizon_ms, gate.
        #[arg(long)]
        json: bool,
    },
    /// List fixes, newest first.
    List {
        /// One JSON document: a list.
        #[arg(long)]
        json: bool,
    },
    /// Ask a server what every proved fix must still get right. Status 1 when one is broken again.
    Gate {
        #[command(flatten)]
        ask: AskArgs,
        /// One JSON document: a list of fix, dataset, n, n_passed, failed.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct FixAddArgs {
    /// The beginning of the cluster's id.
    pub(crate) cluster: String,
    /// What was done.
    #[arg(long)]
    pub(crate) note: String,
    /// The new system instruction, when that is the fix.
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// What the user's last message became, with `{question}` for itself, when that is the fix.
    #[arg(long, value_name = "TEXT")]
    pub(crate) template: Option<String>,
    /// How a good answer is told: `contains:TEXT`, `regex:PATTERN`, `json`, `not:truncated`, …; by default by the
    /// problem's kind.
    #[arg(long, value_name = "SCORER")]
    pub(crate) expect: Option<String>,
    /// The release that has the fix, in hexadecimal; by default all traffic from now on.
    #[arg(long, value_name = "HASH")]
    pub(crate) release: Option<String>,
    /// One JSON document: id, cluster, note, ….
    #[arg(long)]
    pub(crate) json: bool,
}

/// Whom to ask.
#[derive(Debug, Args)]
pub(crate) struct AskArgs {
    /// The server.
    #[arg(long, default_value = "http://127.0.0.1:8080", value_name = "URL")]
    pub(crate) base_url: String,
    /// The model's name as served; by default what the server serves.
    #[arg(long)]
    pub(crate) model: Option<String>,
    /// The model that judges, for the scorer `judge`; by default the same.
    #[arg(long, value_name = "MODEL")]
    pub(crate) judge: Option<String>,
    /// The encoder that compares texts, for the scorer `similarity`. It runs here, not on the server.
    #[arg(long, default_value = "all-minilm-l6-v2", value_name = "MODEL")]
    pub(crate) encoder: String,
    /// A key of the server.
    #[arg(long, env = "LASTMILE_API_KEY", hide_env_values = true)]
    pub(crate) api_key: Option<String>,
    /// Longest answer.
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub(crate) max_tokens: u32,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lastmile eval capitals --scorer contains --min-pass 0.9")]
pub(crate) struct EvalArgs {
    /// A dataset, or a file of JSON lines: `messages` or `prompt`, `expected`, `scorer`.
    pub(crate) dataset: String,
    /// Of a dataset: the beginning of a version's id; by default the newest.
    #[arg(long)]
    pub(crate) version: Option<String>,
    /// For rows that name none: `exact`, `contains`, `regex`, `json`, `json_schema`, `not:KIND`, `answered`, `judge`,
    /// `similarity:COSINE` or `logprob:NATS` (nothing is answered: the mean log-probability of the expected text's tokens
    /// is at least that; -1 unless said).
    #[arg(long, value_name = "SCORER")]
    pub(crate) scorer: Option<String>,
    /// At most so many rows.
    #[arg(long, default_value_t = 1000, value_name = "N")]
    pub(crate) limit: usize,
    /// Status 1 when a smaller share of the answers passes.
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub(crate) min_pass: f64,
    /// Tell the server of each answer whether it passed, as feedback, where the scorer is `exact`, `contains` or `regex`;
    /// `lastmile confidence fit` learns from it.
    #[arg(long)]
    pub(crate) rate: bool,
    /// What answers, which must be served: a model's or an adapter's name, the beginning of a release's digest (8 digits or
    /// more), or EXPERIMENT/primary or EXPERIMENT/candidate, which is an operator's to say.
    #[arg(long, value_name = "RELEASE")]
    pub(crate) release: Option<String>,
    #[command(flatten)]
    pub(crate) ask: AskArgs,
    /// One JSON document: n, n_passed, rate_low, rate_high, failed, n_rated, mean_logprob.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lastmile learn")]
pub(crate) struct LearnArgs {
    /// Failures of so many days.
    #[arg(long, default_value_t = 90.0, value_name = "DAYS")]
    pub(crate) days: f64,
    /// One JSON document: n_failures, and n, median_s, p90_s of noticed, clustered, fixed, verified, whole.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct FromRequestsArgs {
    /// The dataset.
    pub(crate) name: String,
    /// Only answers of which that was said.
    #[arg(long, value_enum)]
    pub(crate) feedback: Option<RatingArg>,
    /// Only failures of this cluster.
    #[arg(long, value_name = "ID")]
    pub(crate) cluster: Option<String>,
    /// Only answers of this model.
    #[arg(long)]
    pub(crate) model: Option<String>,
    /// Only answers of this route, such as /v1/chat/completions.
    #[arg(long)]
    pub(crate) route: Option<String>,
    /// Only answers whose tokens have at most this mean log-probability, such as -1.5; their requests must have asked for
    /// log-probabilities.
    #[arg(long, value_name = "NATS", allow_negative_numbers = true)]
    pub(crate) max_mean_logprob: Option<f64>,
    /// Only of so many days.
    #[arg(long, value_name = "DAYS")]
    pub(crate) days: Option<f64>,
    /// Only from before so many days.
    #[arg(long, value_name = "DAYS")]
    pub(crate) older_than: Option<f64>,
    /// Add to the newest version what it does not have, by request and choice and by conversation; else the version is
    /// what is found now. An answer that is there stays as it is.
    #[arg(long)]
    pub(crate) append: bool,
    /// A contract in TOML in place of the one for traffic.
    #[arg(long, value_name = "FILE")]
    pub(crate) contract: Option<PathBuf>,
    /// One JSON document: the version, and under traffic what became rows.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum RatingArg {
    /// Last, that it is good.
    Liked,
    /// Last, that it is bad.
    Disliked,
    /// What it should have been; that becomes the answer.
    Corrected,
}
