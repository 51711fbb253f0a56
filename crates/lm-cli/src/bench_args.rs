//! What can be said after `lastmile bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::args::RunOptions;
use crate::bench_serve_args::BenchServeArgs;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lastmile bench engine model.gguf")]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    pub(crate) verb: BenchVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchVerb {
    /// Measure the executor alone, beside the roofline of this machine.
    Engine(BenchEngineArgs),
    /// Measure answers through the engine: requests in a closed loop.
    Loop(BenchLoopArgs),
    /// Measure a server over HTTP, as its clients see it.
    Serve(Box<BenchServeArgs>),
}

/// Which model is measured.
#[derive(Debug, Args)]
pub(crate) struct BenchedModel {
    /// A card's name, a file, a folder, `hf:org/repo[:file]`, or `placeholder[:options]`.
    #[arg(default_value = "smollm2-135m-instruct", env = "LASTMILE_MODEL")]
    pub(crate) model: String,
    #[command(flatten)]
    pub(crate) run: RunOptions,
    /// Decides the prompts.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// One JSON document.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  lastmile bench engine model.gguf --batch 1,8,32 --context 1024"
)]
pub(crate) struct BenchEngineArgs {
    #[command(flatten)]
    pub(crate) model: BenchedModel,
    /// Tokens of a prompt.
    #[arg(long, default_value_t = 512, value_name = "N")]
    pub(crate) prompt_tokens: usize,
    /// Sequences that decode together; one case for each.
    #[arg(long, default_value = "1,8,32", value_delimiter = ',', value_name = "N,...")]
    pub(crate) batch: Vec<usize>,
    /// Tokens of each sequence in the cache before it decodes.
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub(crate) context: usize,
    /// Decode steps of one repeat.
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub(crate) steps: usize,
    /// How often each case is run; the cases take turns.
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub(crate) repeat: usize,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lastmile bench loop model.gguf --concurrency 8 --requests 32")]
pub(crate) struct BenchLoopArgs {
    #[command(flatten)]
    pub(crate) model: BenchedModel,
    /// Requests in flight at once.
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub(crate) concurrency: usize,
    /// Requests in all.
    #[arg(long, default_value_t = 32, value_name = "N")]
    pub(crate) requests: usize,
    /// Tokens of each prompt, drawn at random.
    #[arg(long, default_value_t = 118, value_name = "N")]
    pub(crate) prompt_tokens: usize,
    /// Tokens of each answer.
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub(crate) max_tokens: u32,
    /// Measure what recording costs: a store and a flight recorder are kept in this new folder, and rounds with and
    /// without them take turns.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) record: Option<PathBuf>,
    /// Rounds of each, with --record.
    #[arg(long, default_value_t = 10, value_name = "N", requires = "record")]
    pub(crate) rounds: usize,
}
