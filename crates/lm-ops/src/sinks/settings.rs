//! Where alerts go, and within which limits.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ring::digest::{SHA256, digest};
use ureq::http::Uri;

use crate::sinks::command::CommandSink;
use crate::sinks::signature::Secret;
use crate::sinks::webhook::WebhookSink;
use crate::sinks::{Delivery, Message};

/// Where alerts go, and within which limits.
#[derive(Debug, Default)]
pub struct SinkSettings {
    webhooks: Vec<WebhookSink>,
    commands: Vec<PathBuf>,
    /// How long, how often, how many.
    pub limits: SinkLimits,
}

/// How long is tried and how much may wait.
#[derive(Clone, Copy, Debug)]
pub struct SinkLimits {
    /// How long a receiver or a program may take.
    pub timeout: Duration,
    /// The wait before the second attempt; it doubles up to `longest_backoff`.
    pub backoff: Duration,
    /// The longest wait between two attempts, also where the receiver asks for more.
    pub longest_backoff: Duration,
    /// A message that is older is given up.
    pub give_up: Duration,
    /// A message is given up after so many failed attempts between which the receiver took others.
    pub attempts: u32,
    /// Messages that may wait for one sink; beyond it the oldest is given up.
    pub queue: usize,
}

/// What can be wrong with sinks. Secrets and addresses are never echoed: an address may hold a secret.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// No address.
    #[error(
        "--alert-webhook number {n} is no address: it must be http://HOST or https://HOST, with a port and a path or without"
    )]
    Url {
        /// Which, counted from 1.
        n: usize,
    },
    /// A name or a password in the address.
    #[error(
        "--alert-webhook number {n} must not hold a user or a password: let the receiver check the signature (--alert-webhook-secret-file)"
    )]
    Credentials {
        /// Which, counted from 1.
        n: usize,
    },
    /// One sink twice.
    #[error("{option} number {n} is given twice")]
    Twice {
        /// The option.
        option: &'static str,
        /// Which, counted from 1.
        n: usize,
    },
    /// A secret of another form.
    #[error(
        "the webhook secret must be base64 of 24 to 64 bytes, with whsec_ before it or without, such as `openssl rand -base64 32` writes"
    )]
    Secret,
    /// A secret that nobody uses.
    #[error("a webhook secret is given, but no --alert-webhook")]
    SecretAlone,
    /// No program.
    #[error("--alert-command {}: {why}", path.display())]
    Command {
        /// As given.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The home cannot be written.
    #[error("alerts cannot be kept in {}: {source}", path.display())]
    Folder {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The system gave no thread.
    #[error("cannot start the thread of an alert sink: {0}")]
    Thread(std::io::Error),
}

impl Default for SinkLimits {
    fn default() -> Self {
        SinkLimits {
            timeout: Duration::from_secs(10),
            backoff: Duration::from_secs(1),
            longest_backoff: Duration::from_secs(10 * 60),
            give_up: Duration::from_secs(24 * 60 * 60),
            attempts: 10,
            queue: 256,
        }
    }
}

impl SinkSettings {
    /// Sinks as an operator names them; `secret` signs what all webhooks get.
    ///
    /// # Errors
    /// What cannot be used, by its option.
    pub fn new(
        webhooks: &[String],
        secret: Option<&str>,
        commands: &[PathBuf],
    ) -> Result<SinkSettings, SinkError> {
        let secret = secret.map(Secret::parse).transpose()?;
        if secret.is_some() && webhooks.is_empty() {
            return Err(SinkError::SecretAlone);
        }
        let mut settings = SinkSettings::default();
        for (i, url) in webhooks.iter().enumerate() {
            if webhooks[..i].contains(url) {
                return Err(SinkError::Twice { option: "--alert-webhook", n: i + 1 });
            }
            let host = host(url, i + 1)?;
            settings.webhooks.push(WebhookSink::new(url.clone(), host, secret.clone()));
        }
        for (i, path) in commands.iter().enumerate() {
            if commands[..i].contains(path) {
                return Err(SinkError::Twice { option: "--alert-command", n: i + 1 });
            }
            settings.commands.push(program(path)?);
        }
        Ok(settings)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.webhooks.is_empty() && self.commands.is_empty()
    }

    pub(crate) fn into_targets(self) -> Vec<Target> {
        let webhooks = self.webhooks.into_iter().map(Box::new).map(Target::Webhook);
        let commands = self.commands.into_iter().map(CommandSink).map(Target::Command);
        webhooks.chain(commands).collect()
    }
}

/// One sink.
pub(crate) enum Target {
    Webhook(Box<WebhookSink>),
    Command(CommandSink),
}

impl Target {
    /// One attempt; programs also end when `is_over`.
    pub(crate) fn deliver(
        &self,
        message: &Message,
        timeout: Duration,
        is_over: &dyn Fn() -> bool,
    ) -> Delivery {
        match self {
            Target::Webhook(webhook) => webhook.post(message, timeout),
            Target::Command(command) => command.run(message, timeout, is_over),
        }
    }

    /// The same for the same address in every process, and without it.
    pub(crate) fn key(&self) -> String {
        let (kind, text) = match self {
            Target::Webhook(webhook) => ("webhook", webhook.url.as_bytes()),
            Target::Command(command) => ("command", command.0.as_os_str().as_encoded_bytes()),
        };
        let digest = digest(&SHA256, text);
        let hex: String = digest.as_ref()[..4].iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{kind}-{hex}")
    }

    /// For people.
    pub(crate) fn to(&self) -> String {
        match self {
            Target::Webhook(webhook) => webhook.host.clone(),
            Target::Command(command) => command.0.display().to_string(),
        }
    }
}

/// The host and port of an address that can be posted to.
fn host(url: &str, n: usize) -> Result<String, SinkError> {
    if url.split('/').nth(2).is_some_and(|authority| authority.contains('@')) {
        return Err(SinkError::Credentials { n });
    }
    let uri: Uri = url.parse().map_err(|_| SinkError::Url { n })?;
    let authority = uri.authority().map(|authority| authority.as_str().to_owned());
    let has_host = uri.host().is_some_and(|host| !host.is_empty());
    // What is no number of a port is taken for none.
    let port = authority.as_deref().and_then(|authority| authority.rsplit_once(':'));
    let is_port = port.is_none_or(|(_, port)| port.ends_with(']') || uri.port_u16().is_some());
    match authority {
        Some(authority)
            if has_host && is_port && matches!(uri.scheme_str(), Some("http" | "https")) =>
        {
            Ok(authority)
        }
        _ => Err(SinkError::Url { n }),
    }
}

/// An absolute path: the folder that a service runs in is nobody's choice.
fn program(path: &Path) -> Result<PathBuf, SinkError> {
    let wrong = |why: &str| SinkError::Command { path: path.to_owned(), why: why.to_owned() };
    let found = std::fs::metadata(path).map_err(|error| wrong(&error.to_string()))?;
    if !found.is_file() {
        return Err(wrong("it is no file"));
    }
    #[cfg(unix)]
    if std::os::unix::fs::PermissionsExt::mode(&found.permissions()) & 0o111 == 0 {
        return Err(wrong("it is not executable"));
    }
    std::path::absolute(path).map_err(|error| wrong(&error.to_string()))
}
