//! What `top` can be told.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
#[command(after_help = "Keys: q quits, p pauses.\n\nExample:\n  lastmile top --once")]
pub(crate) struct TopArgs {
    /// The server.
    #[arg(long, default_value = "http://127.0.0.1:8080", env = "LASTMILE_URL")]
    pub(crate) url: String,
    /// A key with the scope `ops`. Others can see the command line: prefer the variable.
    #[arg(long, value_name = "KEY", env = "LASTMILE_API_KEY", hide_env_values = true)]
    pub(crate) api_key: Option<String>,
    /// The certificates in this file, in PEM, may vouch for the server, and no others.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Print one frame and end; status 3 when the server does not answer.
    #[arg(long)]
    pub(crate) once: bool,
    /// Seconds between two looks.
    #[arg(long, default_value_t = 2, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) interval: u64,
}
