//! Who is told of alerts: what `serve` and `monitor test-sink` can be told about sinks.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use lm_ops::{SinkError, SinkSettings};

use crate::outcome::WrongUse;

/// A file of a secret has no more.
const MAX_SECRET_BYTES: u64 = 4096;

#[derive(Clone, Debug, Args)]
pub(crate) struct AlertArgs {
    /// Post a JSON document to this address when an alert opens, goes on or is over; may be given again.
    ///
    /// By the Standard Webhooks specification. Addresses may hold secrets: nothing shows them.
    #[arg(
        long,
        value_name = "URL",
        env = "LASTMILE_ALERT_WEBHOOK",
        hide_env_values = true,
        hide_short_help = true
    )]
    pub(crate) alert_webhook: Vec<String>,
    /// The file with the secret that messages to webhooks are signed with: base64, as `openssl rand -base64 32` writes it.
    #[arg(
        long,
        value_name = "FILE",
        env = "LASTMILE_ALERT_WEBHOOK_SECRET_FILE",
        conflicts_with = "alert_webhook_secret",
        hide_short_help = true
    )]
    pub(crate) alert_webhook_secret_file: Option<PathBuf>,
    /// The secret itself. Others can see the command line: prefer the variable or the file.
    #[arg(
        long,
        value_name = "SECRET",
        env = "LASTMILE_ALERT_WEBHOOK_SECRET",
        hide_env_values = true,
        hide_short_help = true
    )]
    pub(crate) alert_webhook_secret: Option<String>,
    /// Run this program, without a shell, with the same document on its standard input; may be given again.
    #[arg(long, value_name = "PROGRAM", env = "LASTMILE_ALERT_COMMAND", hide_short_help = true)]
    pub(crate) alert_command: Vec<PathBuf>,
    /// Seconds that a receiver may take, or a program before its group is killed.
    #[arg(
        long,
        default_value_t = 10,
        value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..=300),
        hide_short_help = true
    )]
    pub(crate) alert_timeout: u64,
}

/// What `serve` alone needs to know about sinks.
#[derive(Clone, Debug, Args)]
pub(crate) struct AlertServeArgs {
    #[command(flatten)]
    pub(crate) sinks: AlertArgs,
    /// Seconds after which an alert that goes on is told again; 0 is never.
    #[arg(long, default_value_t = 14_400, value_name = "SECONDS", hide_short_help = true)]
    pub(crate) alert_renotify: u64,
    /// Seconds after which a message that does not arrive is given up.
    #[arg(
        long,
        default_value_t = 86_400,
        value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..=2_592_000),
        hide_short_help = true
    )]
    pub(crate) alert_give_up: u64,
}

impl AlertArgs {
    pub(crate) fn settings(&self) -> anyhow::Result<SinkSettings> {
        let secret = match (&self.alert_webhook_secret_file, &self.alert_webhook_secret) {
            (Some(path), _) => Some(read_secret(path)?),
            (None, secret) => secret.clone(),
        };
        let settings =
            SinkSettings::new(&self.alert_webhook, secret.as_deref(), &self.alert_command);
        let mut settings = settings.map_err(wrong_use)?;
        settings.limits.timeout = Duration::from_secs(self.alert_timeout);
        Ok(settings)
    }
}

impl AlertServeArgs {
    pub(crate) fn settings(&self) -> anyhow::Result<SinkSettings> {
        let mut settings = self.sinks.settings()?;
        settings.limits.give_up = Duration::from_secs(self.alert_give_up);
        Ok(settings)
    }
}

fn read_secret(path: &Path) -> anyhow::Result<String> {
    let about = || format!("--alert-webhook-secret-file {}", path.display());
    let mut text = String::new();
    let file = std::fs::File::open(path).with_context(about)?;
    file.take(MAX_SECRET_BYTES).read_to_string(&mut text).with_context(about)?;
    Ok(text)
}

/// What the caller can put right by calling otherwise.
fn wrong_use(error: SinkError) -> anyhow::Error {
    match error {
        SinkError::Folder { .. } | SinkError::Thread(_) => error.into(),
        other => WrongUse(other.to_string()).into(),
    }
}
