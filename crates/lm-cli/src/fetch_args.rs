//! What `pull`, `models`, `rm` and `inspect` can be told.

use clap::Args;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lastmile pull gemma3-270m")]
pub(crate) struct PullArgs {
    /// A card's name or `hf:org/repo[:file]`.
    #[arg(default_value = "smollm2-135m-instruct")]
    pub(crate) model: String,
    /// Never use the network: only say where the model is, if it is installed.
    #[arg(long, env = "LASTMILE_OFFLINE", conflicts_with = "force")]
    pub(crate) offline: bool,
    /// Fetch again even when it is installed.
    #[arg(long)]
    pub(crate) force: bool,
    /// One JSON document: name, path, files.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lastmile models --json")]
pub(crate) struct ModelsArgs {
    /// One JSON document: a list of name, description, license, size_bytes, installed, path.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lastmile rm gemma3-270m")]
pub(crate) struct RmArgs {
    /// A card's name or `hf:org/repo[:file]`.
    pub(crate) model: String,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lastmile inspect model.gguf")]
pub(crate) struct InspectArgs {
    /// A card's name, a file, a folder, or `hf:org/repo[:file]`; it must be there already.
    #[arg(default_value = "smollm2-135m-instruct")]
    pub(crate) model: String,
    /// One JSON document.
    #[arg(long)]
    pub(crate) json: bool,
}
