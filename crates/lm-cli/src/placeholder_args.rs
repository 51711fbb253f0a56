//! What can be said after `lastmile placeholder`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::args::RunOptions;

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  lastmile placeholder calibrate smollm2-135m-instruct -o costs.toml"
)]
pub(crate) struct PlaceholderArgs {
    #[command(subcommand)]
    pub(crate) verb: PlaceholderVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PlaceholderVerb {
    /// Fit a placeholder's costs to the steps of a real model.
    Calibrate(CalibrateArgs),
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  lastmile placeholder calibrate model.gguf -o costs.toml\n  lastmile serve --model placeholder --placeholder-costs costs.toml"
)]
pub(crate) struct CalibrateArgs {
    /// The model to run: a card's name, a file, a folder, or `hf:org/repo[:file]`.
    #[arg(default_value = "smollm2-135m-instruct", env = "LASTMILE_MODEL")]
    pub(crate) model: String,
    /// Fit to the steps of this file instead of running a model.
    #[arg(long, value_name = "RUN.json")]
    pub(crate) from: Option<PathBuf>,
    /// The file of costs to write.
    #[arg(short, long, value_name = "FILE.toml")]
    pub(crate) output: PathBuf,
    /// Also write the recorded steps.
    #[arg(long, value_name = "RUN.json", conflicts_with = "from")]
    pub(crate) save_run: Option<PathBuf>,
    /// Requests in flight at once, one after another.
    #[arg(long, default_value = "1,2,8,32", value_delimiter = ',', value_name = "N,...")]
    pub(crate) streams: Vec<usize>,
    /// Requests of each stream.
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub(crate) requests_per_stream: usize,
    /// Tokens of a prompt: from half to one and a half times this.
    #[arg(long, default_value_t = 118, value_name = "N")]
    pub(crate) prompt_tokens: usize,
    /// Tokens of an answer.
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub(crate) output_tokens: u32,
    /// Decides the prompts.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) run: RunOptions,
    /// One JSON document: the costs, n_steps, n_outliers, mean_relative_error.
    #[arg(long)]
    pub(crate) json: bool,
}
