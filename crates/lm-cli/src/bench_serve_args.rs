//! What can be said after `lastmile bench serve`. Names are those of `vllm bench serve`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  lastmile bench serve --base-url http://127.0.0.1:8080 --max-concurrency 8 --num-prompts 64"
)]
pub(crate) struct BenchServeArgs {
    /// The server; with or without /v1.
    #[arg(long, default_value = "http://127.0.0.1:8080", value_name = "URL")]
    pub(crate) base_url: String,
    /// `/v1/completions` or `/v1/chat/completions`; by default the one that takes a prompt as it is.
    #[arg(long, value_name = "PATH")]
    pub(crate) endpoint: Option<String>,
    /// The model's name; by default the first that the server lists.
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// Sent as a bearer token.
    #[arg(long, env = "OPENAI_API_KEY", hide_env_values = true, value_name = "KEY")]
    pub(crate) api_key: Option<String>,
    #[command(flatten)]
    pub(crate) prompts: PromptArgs,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    #[command(flatten)]
    pub(crate) result: ResultArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DatasetName {
    /// Random words behind a random number.
    Random,
    /// Questions of a ShareGPT file.
    Sharegpt,
    /// A JSONL file of prompt or messages, and output_len.
    Custom,
    /// What this home's store recorded, at its times; or a JSONL file with a timestamp in seconds on each line.
    Recorded,
}

impl DatasetName {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            DatasetName::Random => "random",
            DatasetName::Sharegpt => "sharegpt",
            DatasetName::Custom => "custom",
            DatasetName::Recorded => "recorded",
        }
    }
}

/// What is asked.
#[derive(Debug, Args)]
pub(crate) struct PromptArgs {
    /// Where prompts come from.
    #[arg(long, value_enum, default_value = "random")]
    pub(crate) dataset_name: DatasetName,
    /// The file of the data set.
    #[arg(long, value_name = "FILE")]
    pub(crate) dataset_path: Option<PathBuf>,
    /// Prompts to send.
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub(crate) num_prompts: usize,
    /// Tokens of a random prompt.
    #[arg(long, default_value_t = 118, value_name = "N")]
    pub(crate) random_input_len: usize,
    /// Tokens of its answer.
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub(crate) random_output_len: usize,
    /// Both vary evenly by this share of them.
    #[arg(long, default_value_t = 0.0, value_name = "RATIO", hide_short_help = true)]
    pub(crate) random_range_ratio: f64,
    /// Tokens of an answer where a data set says nothing.
    #[arg(long, value_name = "N", hide_short_help = true)]
    pub(crate) output_len: Option<usize>,
    /// Decides prompts and arrivals.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
}

/// How it is sent.
#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// Requests per second; `inf` sends all at once.
    #[arg(long, default_value_t = f64::INFINITY, value_name = "R")]
    pub(crate) request_rate: f64,
    /// Shape of the gaps between arrivals: 1 is a Poisson process, less is more bursty.
    #[arg(long, default_value_t = 1.0, value_name = "B", hide_short_help = true)]
    pub(crate) burstiness: f64,
    /// Recorded arrivals, so many times faster.
    #[arg(long, default_value_t = 1.0, value_name = "S", hide_short_help = true)]
    pub(crate) recorded_speed: f64,
    /// Requests in flight at once; with --request-rate inf a closed loop.
    #[arg(long, value_name = "N")]
    pub(crate) max_concurrency: Option<usize>,
    /// Random requests of the same lengths before the clock runs.
    #[arg(long, default_value_t = 0, value_name = "N", hide_short_help = true)]
    pub(crate) num_warmups: usize,
    /// Answers go on behind the token that ends them.
    #[arg(long)]
    pub(crate) ignore_eos: bool,
    /// JSON object whose fields go into each body.
    #[arg(long, value_name = "JSON", hide_short_help = true)]
    pub(crate) extra_body: Option<String>,
    /// Seconds after which a request has failed.
    #[arg(long, default_value_t = 600, value_name = "SECONDS", hide_short_help = true)]
    pub(crate) timeout: u64,
    /// The server's process on this machine; its CPU time is measured.
    #[arg(long, value_name = "PID", hide_short_help = true)]
    pub(crate) server_pid: Option<u32>,
}

/// What is told and kept.
#[derive(Debug, Args)]
pub(crate) struct ResultArgs {
    /// Latencies to report: ttft, tpot, itl, e2el.
    #[arg(long, default_value = "ttft,tpot,itl", value_delimiter = ',', value_name = "NAME,...")]
    pub(crate) percentile_metrics: Vec<String>,
    /// Percentiles of those.
    #[arg(long, default_value = "99", value_delimiter = ',', value_name = "P,...")]
    pub(crate) metric_percentiles: Vec<f64>,
    /// Limits of a good request in milliseconds, as in `ttft:500 tpot:50 e2el:5000`.
    #[arg(long, num_args = 1.., value_name = "NAME:MS")]
    pub(crate) goodput: Vec<String>,
    /// Write the result as a JSON file, and as a chart beside it.
    #[arg(long)]
    pub(crate) save_result: bool,
    /// With what is known of each request.
    #[arg(long, hide_short_help = true)]
    pub(crate) save_detailed: bool,
    /// The folder of results.
    #[arg(long, default_value = ".", value_name = "DIR", hide_short_help = true)]
    pub(crate) result_dir: PathBuf,
    /// By default label, rate, concurrency, model and time.
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    pub(crate) result_filename: Option<String>,
    /// A name for the result.
    #[arg(long, default_value = "openai", hide_short_help = true)]
    pub(crate) label: String,
    /// Kept in the result.
    #[arg(long, num_args = 1.., value_name = "KEY=VALUE", hide_short_help = true)]
    pub(crate) metadata: Vec<String>,
    /// One JSON document instead of the table.
    #[arg(long)]
    pub(crate) json: bool,
}
