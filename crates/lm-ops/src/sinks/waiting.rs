//! A message that waits for its sink, and how it went so far.

use std::time::Instant;

use serde_json::Value;

use crate::sinks::Message;

pub(crate) struct Waiting {
    pub(crate) message: Message,
    /// What it speaks of: messages of one alert arrive in order.
    pub(crate) alert: String,
    /// Whether it lies on the disk.
    pub(crate) is_kept: bool,
    /// Attempts that failed.
    pub(crate) n_failed: u32,
    /// Of those, the ones between which the receiver took others: it has something against this one.
    pub(crate) n_alone: u32,
    /// It is not tried before.
    pub(crate) due: Instant,
    /// How many messages the sink had taken when it failed last.
    n_taken: Option<u64>,
}

impl Waiting {
    /// Due at once.
    pub(crate) fn new(message: Message, is_kept: bool) -> Waiting {
        let alert = alert(&message);
        let due = Instant::now();
        Waiting { message, alert, is_kept, n_failed: 0, n_alone: 0, due, n_taken: None }
    }

    /// An attempt failed, when the sink had taken so many others.
    pub(crate) fn failed(&mut self, n_taken: u64) {
        self.n_failed = self.n_failed.saturating_add(1);
        let before = self.n_taken.replace(n_taken);
        if before.is_some_and(|before| before < n_taken) {
            self.n_alone = self.n_alone.saturating_add(1);
        }
    }
}

/// What speaks of no alert stands for itself.
fn alert(message: &Message) -> String {
    let body: Option<Value> = serde_json::from_str(&message.body).ok();
    let alert = body.as_ref().and_then(|body| body["data"]["alert"].as_str());
    alert.unwrap_or(&message.id).to_owned()
}
