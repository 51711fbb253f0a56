//! What can be said to `lastmile data` and `lastmile quarantine`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[cfg(feature = "object-store")]
use crate::data_remote::MoveArgs;
use crate::data_remote::RemoteArg;
use crate::loop_args::FromRequestsArgs;

#[derive(Debug, Args)]
pub(crate) struct DataArgs {
    #[command(subcommand)]
    pub(crate) verb: DataVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DataVerb {
    /// Validate the rows of files and folders, and publish the good ones as a version.
    #[command(
        after_help = "Example:\n  lastmile data ingest mails mails.jsonl --contract mail.toml"
    )]
    Ingest(IngestArgs),
    /// Add the files of a folder as they come, each row once.
    #[command(after_help = "Example:\n  lastmile data watch mails inbox/ --format mail --once")]
    Watch(WatchArgs),
    /// Propose a contract that the rows of a file keep.
    #[command(after_help = "Example:\n  lastmile data infer mails.jsonl -o mail.toml")]
    Infer(InferArgs),
    /// List the versions of a dataset, newest first.
    Log {
        /// The dataset.
        name: String,
        #[command(flatten)]
        at: RemoteArg,
        /// One JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Say what a version is: counts, files, digests.
    Show {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        at: RemoteArg,
    },
    /// Say which rows one version has and another has not.
    Diff {
        /// The dataset.
        name: String,
        /// The older version; by default the newer one's parent.
        #[arg(long)]
        from: Option<String>,
        /// The newer version; by default the newest.
        #[arg(long)]
        to: Option<String>,
        /// At most so many rows of each kind.
        #[arg(long, default_value_t = 20, value_name = "N")]
        limit: usize,
        /// One JSON document: from, to, rows_added, rows_removed, rows_same, added, removed.
        #[arg(long)]
        json: bool,
    },
    /// Write a version's Parquet files and manifest into a new folder.
    Checkout {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        at: RemoteArg,
        /// The folder; it must not exist.
        #[arg(short, long, value_name = "FOLDER")]
        output: PathBuf,
    },
    /// Write a version's rows as JSON lines, each as it came.
    Export {
        #[command(flatten)]
        which: Which,
        /// The file; it must not exist. By default standard output.
        #[arg(short, long, value_name = "FILE", required_if_eq("json", "true"))]
        output: Option<PathBuf>,
    },
    /// Put versions into a bucket of S3, or of another store of its protocol; what is there is not sent again.
    ///
    /// The environment says how it is reached: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION,
    /// AWS_ENDPOINT_URL, AWS_ALLOW_HTTP (true allows http:// endpoints), AWS_CA_BUNDLE, AWS_MAX_ATTEMPTS.
    #[cfg(feature = "object-store")]
    #[command(after_help = "Example:\n  lastmile data push mails s3://bucket/prefix")]
    Push(MoveArgs),
    /// Take versions from such a bucket into this home; each file is held against its digest.
    ///
    /// The environment says how it is reached, as for `push`.
    #[cfg(feature = "object-store")]
    #[command(after_help = "Example:\n  lastmile data pull mails s3://bucket/prefix")]
    Pull(MoveArgs),
    /// Say which strata of another dataset, such as traffic, the dataset lacks.
    Coverage {
        /// The dataset.
        name: String,
        /// A column whose values are strata; may be given again. By default the length of the texts.
        #[arg(long, value_name = "COLUMN")]
        by: Vec<String>,
        /// The dataset to compare with.
        #[arg(long, value_name = "NAME")]
        traffic: Option<String>,
        /// One JSON document: a list.
        #[arg(long)]
        json: bool,
    },
    /// Remove files that no version has, and old versions when asked.
    Gc {
        /// The dataset.
        name: String,
        /// Keep only so many versions, the newest.
        #[arg(long, value_name = "N")]
        keep: Option<usize>,
        /// One JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Publish answers of the traffic as rows: deduplicated, masked, each with its request's id.
    #[command(
        after_help = "Example:\n  lastmile data from-requests corrections --feedback corrected"
    )]
    FromRequests(FromRequestsArgs),
    /// Show the rows that were not published, and why.
    Quarantine {
        #[command(flatten)]
        list: ListArgs,
    },
}

/// A version of a dataset.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// The dataset.
    pub(crate) name: String,
    /// The beginning of a version's id; by default the newest.
    #[arg(long)]
    pub(crate) version: Option<String>,
    /// One JSON document.
    #[arg(long)]
    pub(crate) json: bool,
}

/// How files are read.
#[derive(Debug, Args)]
pub(crate) struct ReadArgs {
    /// A contract in TOML; it becomes the dataset's.
    #[arg(long, value_name = "FILE", conflicts_with = "schema")]
    pub(crate) contract: Option<PathBuf>,
    /// A JSON Schema in place of a contract.
    #[arg(long, value_name = "FILE")]
    pub(crate) schema: Option<PathBuf>,
    /// `jsonl`, `json`, `csv`, `parquet`, `chat`, `sharegpt`, `mbox` or `mail`; by default told file by file.
    #[arg(long)]
    pub(crate) format: Option<String>,
    /// Of folders only files whose name fits, as `*.txt`; may be given again.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) include: Vec<String>,
    /// A rule that may fail more rows than its threshold, or `all`; may be given again.
    #[arg(long, value_name = "RULE")]
    pub(crate) allow: Vec<String>,
    /// A longer row goes to quarantine.
    #[arg(long, default_value_t = 16 << 20, value_name = "BYTES")]
    pub(crate) max_row_bytes: usize,
}

#[derive(Debug, Args)]
pub(crate) struct IngestArgs {
    /// The dataset.
    pub(crate) name: String,
    /// Files and folders; `.gz` files are decompressed.
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) read: ReadArgs,
    /// Add to the newest version what is new; by default the version is what the paths hold.
    #[arg(long)]
    pub(crate) append: bool,
    /// One JSON document: version, parent, rows_in, rows_published, rows_quarantined, by_rule, …
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// The dataset.
    pub(crate) name: String,
    /// The folder.
    pub(crate) folder: PathBuf,
    #[command(flatten)]
    pub(crate) read: ReadArgs,
    /// End when all that is in the folder is read.
    #[arg(long)]
    pub(crate) once: bool,
    /// Read a file when it did not change for so long.
    #[arg(long, default_value_t = 2.0, value_name = "SECONDS")]
    pub(crate) settle: f64,
    /// One JSON document: the newest version and versions_published. Needs --once.
    #[arg(long, requires = "once")]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InferArgs {
    /// The file.
    pub(crate) file: PathBuf,
    /// As of `ingest`.
    #[arg(long)]
    pub(crate) format: Option<String>,
    /// Read at most so many rows.
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    pub(crate) rows: u64,
    /// Write the contract here; by default to standard output.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// One JSON document: n_rows, n_broken, contract.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct QuarantineArgs {
    #[command(subcommand)]
    pub(crate) verb: QuarantineVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum QuarantineVerb {
    /// List the rows, and why they are there.
    List {
        #[command(flatten)]
        list: ListArgs,
    },
    /// Show one row whole, with its proposed repair.
    Show {
        /// The dataset.
        name: String,
        /// The beginning of the row's id.
        id: String,
        /// One JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Publish rows by their proposed repair, where that breaks no rule.
    #[command(after_help = "Example:\n  lastmile quarantine repair mails --rule mojibake")]
    Repair {
        #[command(flatten)]
        pick: PickArgs,
    },
    /// Publish rows as they are.
    #[command(after_help = "Example:\n  lastmile quarantine release mails 3f2a9c")]
    Release {
        #[command(flatten)]
        pick: PickArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// The dataset.
    pub(crate) name: String,
    /// The beginning of a version's id; by default the newest.
    #[arg(long, conflicts_with = "unpublished")]
    pub(crate) version: Option<String>,
    /// The last ingest that published nothing.
    #[arg(long)]
    pub(crate) unpublished: bool,
    /// Only rows that broke this rule.
    #[arg(long)]
    pub(crate) rule: Option<String>,
    /// At most so many rows.
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub(crate) limit: usize,
    /// One JSON document: a list.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PickArgs {
    /// The dataset.
    pub(crate) name: String,
    /// The beginnings of ids.
    #[arg(required_unless_present_any = ["rule", "all"])]
    pub(crate) ids: Vec<String>,
    /// All rows that broke this rule.
    #[arg(long, conflicts_with = "ids")]
    pub(crate) rule: Option<String>,
    /// All rows.
    #[arg(long, conflicts_with_all = ["ids", "rule"])]
    pub(crate) all: bool,
    /// One JSON document: version, rows, kept.
    #[arg(long)]
    pub(crate) json: bool,
}
