//! What can be said to `lastmile replay` and `lastmile bundle`.

use std::path::PathBuf;

use clap::Args;
use lastmile::KvType;

use crate::how::kv_type;

#[derive(Debug, Args)]
#[command(
    after_help = "Status 0 when all are identical, 1 when one diverged, 3 when one could not be computed.\n\n\
                  Example:\n  lastmile replay chatcmpl-0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"
)]
pub(crate) struct ReplayArgs {
    /// Requests, by the ids of their answers or as UUIDs; or files that `lastmile bundle` wrote.
    #[arg(required_unless_present_any = ["last", "crash"])]
    pub(crate) targets: Vec<String>,
    /// Also the newest N requests of the store that ended.
    #[arg(long, value_name = "N")]
    pub(crate) last: Option<u32>,
    /// `last`: also what was in flight when a server died, up to the last recorded token.
    #[arg(long, value_name = "WHICH", value_parser = ["last"])]
    pub(crate) crash: Option<String>,
    /// Only this of a request's answers, from 0.
    #[arg(long, value_name = "N")]
    pub(crate) choice: Option<u32>,
    /// Compute as this release did, in place of the one that answered: the beginning of its digest.
    #[arg(long = "as", value_name = "RELEASE", conflicts_with = "model")]
    pub(crate) release: Option<String>,
    /// Compute with this model, as `serve` takes it.
    #[arg(long)]
    pub(crate) model: Option<String>,
    /// Compute with at most this instruction set.
    #[arg(long, value_name = "ISA", env = "LASTMILE_ISA")]
    pub(crate) isa: Option<String>,
    /// Compute on this device.
    #[arg(long, env = "LASTMILE_DEVICE")]
    pub(crate) device: Option<String>,
    /// Compute with K and V stored so.
    #[arg(long, value_name = "TYPE", value_parser = kv_type, env = "LASTMILE_KV_CACHE")]
    pub(crate) kv_cache: Option<KvType>,
    /// Compute with this Jinja chat template.
    #[arg(long, value_name = "FILE")]
    pub(crate) chat_template: Option<PathBuf>,
    /// Compute with this system prompt.
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// Draw with this seed.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// One JSON document: n, n_identical, n_diverged, n_failed, and answers: a list of id, choice, verdict, n_tokens, at,
    /// expected, got, differs, because, error.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lastmile bundle chatcmpl-0190a1b2-… -o answer.json")]
pub(crate) struct BundleArgs {
    /// The request: the id of its answer, or a UUID.
    pub(crate) id: String,
    /// The file to write; `lastmile replay FILE` computes it elsewhere.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Leave out prompts, answers and their tokens: what is left cannot be computed again.
    #[arg(long)]
    pub(crate) redact: bool,
    /// Replace a file that exists.
    #[arg(long)]
    pub(crate) force: bool,
}
