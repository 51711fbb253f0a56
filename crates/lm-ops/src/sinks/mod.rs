//! Where alerts go besides the page and the log: webhooks, and programs of the operator.
//!
//! Each sink has a thread and a bounded queue of its own: what has no room is dropped and counted. What was not delivered
//! lies in the home, so that the next server goes on with it. A receiver may get a message twice, never two of one id that differ.
//! Messages of one alert arrive in order; one that the receiver does not take keeps no other alert waiting.
//!
//! It must never make a monitor wait, and never write down a secret, or an address that may hold one.
//!
//! Start reading at [`Sinks::offer`], then `courier`.

mod claim;
mod command;
mod courier;
mod message;
mod settings;
mod signature;
mod spool;
mod waiting;
mod webhook;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use crate::sinks::claim::Claim;
use crate::sinks::courier::Desk;
pub(crate) use crate::sinks::message::Message;
use crate::sinks::settings::Target;
pub use crate::sinks::settings::{SinkError, SinkLimits, SinkSettings};
pub(crate) use crate::sinks::spool::write_private;

/// Where a server keeps which of its own alerts it told of.
pub const SERVER_ALERTS: &str = "server.json";
/// Where the home keeps which alerts of monitors are open.
pub(crate) const OPEN_ALERTS: &str = "open.json";

/// The sinks of one server. Clones share them.
#[derive(Clone)]
pub struct Sinks(Arc<Inner>);

struct Inner {
    desks: Vec<Arc<Desk>>,
    claim: Claim,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.desks.iter().for_each(|desk| desk.ask_to_end());
    }
}

/// How a sink stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SinkStanding {
    /// Its stable name.
    pub sink: String,
    /// The receiver's host, or the program.
    pub to: String,
    /// Messages that wait for delivery.
    pub waiting: u64,
    /// Messages that were delivered since the start.
    pub delivered: u64,
    /// Messages that never will be, since the start.
    pub given_up: u64,
    /// Since when nothing arrives, in Unix milliseconds.
    pub failing_since_ms: Option<i64>,
    /// Why something was not delivered, the last time.
    pub last_error: Option<String>,
}

/// What became of a test alert.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SinkTest {
    /// The sink's stable name.
    pub sink: String,
    /// The receiver's host, or the program.
    pub to: String,
    /// Whether it was taken.
    pub is_delivered: bool,
    /// Why not.
    pub error: Option<String>,
    /// How long it took.
    pub took_ms: f64,
}

/// What became of one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// It was taken.
    Taken,
    /// Trying again may help.
    Later(Later),
    /// Trying again does not help.
    Refused {
        /// What happened.
        why: String,
    },
}

/// An attempt that failed and may be made again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Later {
    /// What happened.
    pub(crate) why: String,
    /// How long the receiver asks to wait.
    pub(crate) after: Option<Duration>,
    /// Whether it asks that of all messages.
    pub(crate) is_for_all: bool,
}

impl Sinks {
    /// Starts a thread for each sink. What an earlier server did not deliver is in `folder` and comes first.
    ///
    /// # Errors
    /// The folder cannot be written, or the system has no thread left.
    pub fn start(settings: SinkSettings, folder: &Path) -> Result<Sinks, SinkError> {
        let limits = settings.limits;
        let claim = Claim::take(folder)?;
        let mut desks = Vec::new();
        for target in settings.into_targets() {
            desks.push(Desk::start(target, limits, claim.folder())?);
        }
        claim.warn_of_strangers(&desks.iter().map(|desk| desk.key()).collect::<Vec<_>>());
        Ok(Sinks(Arc::new(Inner { desks, claim })))
    }

    /// Hands a message to every sink. Never waits: where there is no room it is given up, and counted.
    pub(crate) fn offer(&self, message: &Message) {
        self.0.desks.iter().for_each(|desk| desk.offer(message.clone()));
    }

    /// Tells every sink of an alert: `kind` is a stable word such as `alert.opened`. Never waits: where there is no room it is
    /// given up, and counted.
    pub fn announce(&self, kind: &str, data: &Value, now_ms: i64) {
        self.offer(&Message::new(kind, data, now_ms));
    }

    /// Keeps a text for the next server, by a file's name; the first sink's thread writes it.
    pub fn keep(&self, name: &'static str, text: String) {
        if let Some(desk) = self.0.desks.first() {
            desk.keep(self.0.claim.folder().join(name), text);
        }
    }

    /// What earlier servers kept with [`Sinks::keep`]: whose place this one takes first, then others that are gone.
    #[must_use]
    pub fn kept(&self, name: &str) -> Vec<String> {
        let files = self.0.claim.files(name);
        files.iter().filter_map(|path| std::fs::read_to_string(path).ok()).collect()
    }

    /// Keeps in one's own file what several had; blocks.
    ///
    /// # Errors
    /// What the file system says.
    pub fn fold(&self, name: &str, text: &str) -> std::io::Result<()> {
        let files = self.0.claim.files(name);
        let Some((own, others)) = files.split_first() else { return Ok(()) };
        write_private(own, text.as_bytes())?;
        others.iter().try_for_each(std::fs::remove_file)
    }

    /// How every sink stands.
    #[must_use]
    pub fn standing(&self) -> Vec<SinkStanding> {
        self.0.desks.iter().map(|desk| desk.standing()).collect()
    }

    /// Ends the threads. What waits is kept for the next server. Takes `within` at most, beside the disk.
    pub fn close(&self, within: Duration) {
        let deadline = Instant::now() + within;
        self.0.desks.iter().for_each(|desk| desk.ask_to_end());
        self.0.desks.iter().for_each(|desk| desk.end(deadline));
    }

    /// Sends a test alert through each sink, once, one after the other.
    #[must_use]
    pub fn test(settings: SinkSettings, now_ms: i64) -> Vec<SinkTest> {
        let timeout = settings.limits.timeout;
        let test = |target: Target| {
            let began = Instant::now();
            let delivery = target.deliver(&Message::test(now_ms), timeout, &|| false);
            let took_ms = began.elapsed().as_secs_f64() * 1e3;
            let error = match delivery {
                Delivery::Taken => None,
                Delivery::Later(Later { why, .. }) | Delivery::Refused { why } => Some(why),
            };
            SinkTest {
                sink: target.key(),
                to: target.to(),
                is_delivered: error.is_none(),
                error,
                took_ms,
            }
        };
        settings.into_targets().into_iter().map(test).collect()
    }
}

#[cfg(test)]
mod tests;
