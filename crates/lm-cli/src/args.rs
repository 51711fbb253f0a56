//! What can be said on the command line.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, FromArgMatches, Parser, Subcommand, ValueEnum};
use lastmile::KvType;

use crate::bench_args::BenchArgs;
use crate::cache_args::{CacheArgs, Speculate};
use crate::confidence::ConfidenceArgs;
use crate::config_file::ConfigArgs;
use crate::cost::{CostArgs, PriceArgs};
use crate::data_args::{DataArgs, QuarantineArgs};
use crate::doctor::DoctorArgs;
use crate::embed::EmbedArgs;
use crate::fetch_args::{InspectArgs, ModelsArgs, PullArgs, RmArgs};
use crate::how::kv_type;
use crate::keys_args::KeysArgs;
use crate::loop_args::{EvalArgs, FailuresArgs, FixArgs, LearnArgs, ReviewArgs};
use crate::net_args::NetArgs;
use crate::override_args::OverrideArgs;
use crate::placeholder::PlaceholderFiles;
use crate::placeholder_args::PlaceholderArgs;
use crate::recorder::{RecorderArgs, RecorderServeArgs};
use crate::replay_args::{BundleArgs, ReplayArgs};
use crate::served::ServedArgs;
use crate::shell::{CompletionsArgs, ManArgs};
use crate::store_args::{StoreArgs, StoreOptionArgs};
use crate::tokenize::TokenizeArgs;
use crate::top_args::TopArgs;

const AFTER_HELP: &str = "\
LASTMILE_HOME holds models, store, keys and data; by default the platform's data folder.
Exit status: 0 done, 1 the answer is no, 2 wrong use, 3 could not.

Example:
  lastmile serve";

/// Local LLM inference with continuous batching, and the scaffolding around it.
#[derive(Debug, Parser)]
#[command(name = "lastmile", version, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,
    /// How log lines on standard error look.
    #[arg(long, global = true, value_enum, default_value = "text", env = "LASTMILE_LOG_FORMAT")]
    pub(crate) log_format: LogFormat,
    /// The file with defaults for `serve`; by default `lastmile.toml` of the home, if there is one.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "LASTMILE_CONFIG",
        hide_short_help = true
    )]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Serve a model over HTTP, as OpenAI's API.
    Serve(Box<ServeArgs>),
    /// Answer one prompt and exit.
    Run(RunArgs),
    /// Turn texts into vectors.
    Embed(EmbedArgs),
    /// Talk with a model in the terminal.
    Chat(ChatArgs),
    /// Fetch a model.
    Pull(PullArgs),
    /// List the models that are known and installed.
    Models(ModelsArgs),
    /// Remove an installed model.
    Rm(RmArgs),
    /// Say how much memory a model takes, and what fits this machine.
    Plan(PlanArgs),
    /// Say what a model file holds.
    Inspect(InspectArgs),
    /// Say what tokens a text is.
    Tokenize(TokenizeArgs),
    /// Measure throughput and latency of a model: of the executor alone, or through the engine.
    Bench(BenchArgs),
    /// Make a placeholder as slow as a real model.
    Placeholder(PlaceholderArgs),
    /// Measure how well a model predicts a text, by llama.cpp's method.
    Perplexity(PerplexityArgs),
    /// Write a model as a GGUF file of another storage type.
    Quantize(QuantizeArgs),
    /// Ingest, validate and version data.
    Data(DataArgs),
    /// Make, list and revoke API keys.
    Keys(KeysArgs),
    /// See, repair and release the rows that broke a rule.
    Quarantine(QuarantineArgs),
    /// See what fails, the problems to solve first first.
    Failures(FailuresArgs),
    /// Say of failures, one by one, whether they are.
    Review(ReviewArgs),
    /// Note fixes, prove them by traffic, and keep them fixed.
    Fix(FixArgs),
    /// Ask a model the rows of a dataset and score its answers.
    Eval(EvalArgs),
    /// Say how long it takes from a failure to its proved fix.
    Learn(LearnArgs),
    /// Learn from judged answers how far a model's confidence can be trusted.
    Confidence(ConfidenceArgs),
    /// Put something in the place of a model's answers: rules, switches, people.
    Override(OverrideArgs),
    /// Try a candidate beside what answers, in stages, by evidence.
    Exp(crate::exp_args::ExpArgs),
    /// Say what runs, since when, and what went wrong.
    Doctor(DoctorArgs),
    /// Say what one request waited for, and behind whom.
    Why(crate::why::WhyArgs),
    /// Compute recorded answers again, and say whether they are identical.
    Replay(ReplayArgs),
    /// Find the release since which a recorded answer is another one.
    Bisect(crate::bisect::BisectArgs),
    /// Write everything that is recorded of one request into a file.
    Bundle(BundleArgs),
    /// Keep answers that must stay what they are, bit for bit.
    Probe(crate::probe::ProbeArgs),
    /// Try who is told of alerts, and how soon monitors notice what drifts.
    Monitor(crate::monitor::MonitorArgs),
    /// See what the flight recorder holds.
    Recorder(RecorderArgs),
    /// Say what answers took and cost, by key, day or model.
    Cost(CostArgs),
    /// Back up, upgrade and measure the store, and erase from it.
    Store(StoreArgs),
    /// Watch a server that runs, live.
    Top(TopArgs),
    /// Say what `serve` would be told, and by whom.
    Config(Box<ConfigArgs>),
    /// Write completions for a shell to standard output.
    Completions(CompletionsArgs),
    /// Write man pages into a folder.
    Man(ManArgs),
}

/// Which model, and how it is run.
#[derive(Clone, Debug, Args)]
pub(crate) struct ModelArgs {
    /// A card's name, a file, a folder, `hf:org/repo[:file]`, or `placeholder[:options]`.
    #[arg(long, default_value = "smollm2-135m-instruct", env = "LASTMILE_MODEL")]
    pub(crate) model: String,
    #[command(flatten)]
    pub(crate) run: RunOptions,
}

impl RunOptions {
    /// As when nothing is said on the command line.
    pub(crate) fn of_defaults() -> anyhow::Result<Self> {
        let command = RunOptions::augment_args(clap::Command::new("lastmile"));
        let matches = command.try_get_matches_from(["lastmile"])?;
        Ok(RunOptions::from_arg_matches(&matches)?)
    }
}

#[derive(Clone, Debug, Args)]
pub(crate) struct RunOptions {
    #[command(flatten)]
    pub(crate) placeholder: PlaceholderFiles,
    /// `random:SEED` runs the model's architecture with random weights.
    #[arg(long, value_name = "FROM", hide_short_help = true)]
    pub(crate) weights: Option<String>,
    /// `auto`, `cpu`, `candle` (the slow reference), `cuda:N` or `metal`.
    #[arg(long, default_value = "auto", env = "LASTMILE_DEVICE")]
    pub(crate) device: String,
    /// At most this instruction set: `scalar`, `avx2`, `avx512vnni` or `amx`.
    #[arg(long, value_name = "ISA", env = "LASTMILE_ISA", hide_short_help = true)]
    pub(crate) isa: Option<String>,
    /// How K and V are stored: `int8` takes half the memory of `f16`; `cpu` only.
    #[arg(long, value_name = "TYPE", value_parser = kv_type, env = "LASTMILE_KV_CACHE")]
    pub(crate) kv_cache: Option<KvType>,
    /// Memory for the KV cache, in MiB; by default 1024, or as much of it as there is room for.
    #[arg(long, value_name = "MIB", env = "LASTMILE_KV_MEMORY")]
    pub(crate) kv_memory: Option<u64>,
    /// Memory for everything, in MiB; by default what the control group and the machine have left.
    #[arg(long, value_name = "MIB", env = "LASTMILE_MEMORY_LIMIT", hide_short_help = true)]
    pub(crate) memory_limit: Option<u64>,
    /// Longest sequence in tokens; by default what the model was trained for, as far as the KV cache holds it.
    #[arg(long, value_name = "TOKENS", env = "LASTMILE_MAX_MODEL_LEN")]
    pub(crate) max_model_len: Option<usize>,
    /// Sequences that run at once.
    #[arg(long, default_value_t = 64, value_name = "N", env = "LASTMILE_MAX_NUM_SEQS")]
    pub(crate) max_num_seqs: usize,
    /// Tokens in one step, decodes and prefill chunks together.
    #[arg(
        long,
        default_value_t = 256,
        value_name = "N",
        env = "LASTMILE_MAX_BATCH_TOKENS",
        hide_short_help = true
    )]
    pub(crate) max_batch_tokens: usize,
    /// Requests that wait; more are refused with 429.
    #[arg(
        long,
        default_value_t = 1024,
        value_name = "N",
        env = "LASTMILE_MAX_QUEUED_REQUESTS",
        hide_short_help = true
    )]
    pub(crate) max_queued_requests: usize,
    /// Prompt tokens that wait; more are refused with 429.
    #[arg(long, default_value_t = 1 << 18, value_name = "N", env = "LASTMILE_MAX_QUEUED_TOKENS", hide_short_help = true)]
    pub(crate) max_queued_tokens: usize,
    /// Longest time between two tokens of a running answer, as far as it can be predicted; 0 is no bound.
    #[arg(long, default_value_t = 100, value_name = "MS", env = "LASTMILE_MAX_TOKEN_GAP_MS")]
    pub(crate) max_token_gap_ms: u64,
    /// Compute every prompt anew.
    #[arg(long)]
    pub(crate) no_prefix_cache: bool,
    /// Compute ahead the tokens that the text so far suggests, or that an answer's form decides, where that is
    /// expected to pay: no answer differs by it. Never on `candle` and GPUs, whose rounding depends on how many rows a
    /// step has.
    #[arg(long, value_enum, default_value_t = Speculate::Auto, value_name = "WHEN", env = "LASTMILE_SPECULATE", hide_short_help = true)]
    pub(crate) speculate: Speculate,
    /// A Jinja chat template instead of the model's own.
    #[arg(long, value_name = "FILE")]
    pub(crate) chat_template: Option<PathBuf>,
    /// Never use the network: a model that is not installed is an error.
    #[arg(long, env = "LASTMILE_OFFLINE")]
    pub(crate) offline: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lastmile serve --model placeholder --port 8081")]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) model: ServedArgs,
    /// Where to listen; other than loopback only with an API key or --insecure.
    #[arg(long, default_value = "127.0.0.1", env = "LASTMILE_HOST")]
    pub(crate) host: IpAddr,
    /// 0 takes any free port.
    #[arg(long, default_value_t = 8080, env = "LASTMILE_PORT")]
    pub(crate) port: u16,
    /// Listen beyond loopback without a key.
    ///
    /// Requests are taken whatever their Host and Origin are.
    #[arg(long)]
    pub(crate) insecure: bool,
    #[command(flatten)]
    pub(crate) net: NetArgs,
    #[command(flatten)]
    pub(crate) cache: CacheArgs,
    #[command(flatten)]
    pub(crate) recorder: RecorderServeArgs,
    /// The name that clients ask for; of the first model.
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    pub(crate) served_model_name: Option<String>,
    /// Refuse requests with unknown fields instead of answering with a warning.
    #[arg(long, env = "LASTMILE_STRICT")]
    pub(crate) strict: bool,
    /// Longest request body.
    #[arg(long, default_value_t = 1 << 20, value_name = "BYTES", hide_short_help = true)]
    pub(crate) max_body_bytes: usize,
    /// Seconds for running answers to finish after SIGTERM; a second signal ends the process at once, with status 3.
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    pub(crate) shutdown_timeout: u64,
    #[command(flatten)]
    pub(crate) store: StoreOptionArgs,
    #[command(flatten)]
    pub(crate) prices: PriceArgs,
}

/// How answers are drawn; by default as the model's authors recommend.
#[derive(Clone, Debug, Args)]
pub(crate) struct SamplingArgs {
    /// 0 always takes the most likely token.
    #[arg(long)]
    pub(crate) temperature: Option<f32>,
    /// Only the K most likely tokens.
    #[arg(long, value_name = "K")]
    pub(crate) top_k: Option<u32>,
    /// Only the most likely tokens that together are this likely.
    #[arg(long, value_name = "P")]
    pub(crate) top_p: Option<f32>,
    /// The same seed draws the same answer.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// At most so many tokens.
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<u32>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lastmile run \"Why is the sky blue?\"")]
pub(crate) struct RunArgs {
    /// The prompt; standard input when absent.
    pub(crate) prompt: Option<String>,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    /// Continue the prompt as it is, without a chat template.
    #[arg(long)]
    pub(crate) raw: bool,
    /// What the model is told before the prompt.
    #[arg(long, conflicts_with = "raw")]
    pub(crate) system: Option<String>,
    /// One JSON document: text, finish_reason, usage, timings.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lastmile chat --system \"Answer in one sentence.\"")]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    /// What the model is told at the beginning.
    #[arg(long)]
    pub(crate) system: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lastmile plan model.gguf --kv-cache int8 --memory-limit 4096")]
pub(crate) struct PlanArgs {
    /// A card's name, a file, a folder, `hf:org/repo[:file]`, or `placeholder[:options]`.
    #[arg(default_value = "smollm2-135m-instruct", env = "LASTMILE_MODEL")]
    pub(crate) model: String,
    #[command(flatten)]
    pub(crate) run: RunOptions,
    /// One JSON document.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lastmile perplexity smollm2-135m-instruct text.txt --ctx 512")]
pub(crate) struct PerplexityArgs {
    /// A card's name, a file, a folder, `hf:org/repo[:file]`, or `placeholder[:options]`.
    pub(crate) model: String,
    /// UTF-8 text.
    pub(crate) file: PathBuf,
    /// Tokens of a window; its second half is scored.
    #[arg(long, default_value_t = 512, value_name = "TOKENS")]
    pub(crate) ctx: usize,
    /// Windows to run; by default all.
    #[arg(long, value_name = "N")]
    pub(crate) chunks: Option<usize>,
    #[command(flatten)]
    pub(crate) run: RunOptions,
    /// One JSON document: perplexity, mean_nll, standard_error, windows, scored_tokens.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lastmile quantize model.gguf --type q4_k_m -o small.gguf")]
pub(crate) struct QuantizeArgs {
    /// A card's name, a file, a folder, `hf:org/repo[:file]`, or `random:SEED` with --shape and
    /// --tokenizer-from.
    pub(crate) model: String,
    /// `q2_k`, `q3_k`, `q4_0`, `q4_1`, `q5_0`, `q5_1`, `q8_0`, `q4_k`, `q4_k_m`, `q5_k`, `q6_k`, `f16`, `bf16` or `f32`.
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) recipe: String,
    /// The GGUF file to write.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// The type of the head, or of the embedding where it is the head too; by default `q6_k` when
    /// --type is quantised below 8 bits.
    #[arg(long, value_name = "TYPE")]
    pub(crate) output_type: Option<String>,
    /// The decoder of random weights: `llama-1b`, or a Hugging Face config.json.
    #[arg(long, value_name = "SHAPE")]
    pub(crate) shape: Option<String>,
    /// A model in GGUF whose tokenizer is taken; for random weights and safetensors.
    #[arg(long, value_name = "MODEL")]
    pub(crate) tokenizer_from: Option<String>,
    /// Replace a file that exists.
    #[arg(long)]
    pub(crate) force: bool,
    /// Never use the network: a model that is not installed is an error.
    #[arg(long, env = "LASTMILE_OFFLINE")]
    pub(crate) offline: bool,
    /// One JSON document: path, type, parameters, size_bytes, bits_per_weight, tensors_by_type, …
    #[arg(long)]
    pub(crate) json: bool,
}
