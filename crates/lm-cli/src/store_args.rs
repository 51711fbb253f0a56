//! What can be said of the store.

use clap::{Args, ValueEnum};

/// What `serve` can be told about the store.
#[derive(Clone, Debug, Args)]
pub(crate) struct StoreOptionArgs {
    /// What the store keeps of prompts and answers.
    #[arg(long, value_enum, default_value = "full", env = "LASTMILE_PRIVACY")]
    pub(crate) privacy: PrivacyArg,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum PrivacyArg {
    /// Everything, for 14 days.
    Full,
    /// Numbers and codes, no text.
    Off,
}
