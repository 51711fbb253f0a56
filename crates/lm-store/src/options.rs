//! What an operator may set about the store.
//!
//! It must never know where the store lies or what is in it.
//!
//! Start reading at [`StoreOptions`].

use std::path::PathBuf;
use std::time::Duration;

use lm_types::Prices;

use crate::StoreError;

/// Limits and habits of one store.
#[derive(Clone, Debug, PartialEq)]
pub struct StoreOptions {
    /// Answers that may wait for the writer; one more is dropped and counted. Range 1..=1,000,000.
    pub queue_capacity: usize,
    /// Bytes of prompts and answers that may wait for the writer. Over it, answers are dropped.
    /// An answer that is larger than this alone is always dropped.
    pub queue_bytes: usize,
    /// Whether texts are written.
    pub privacy: Privacy,
    /// The file of the key that keyed hashes are made with; by default `mask.key` beside a store that is a file. A
    /// store on a server needs it, except for [`Privacy::Full`], where nobody can then be erased whose rows were
    /// written in another mode.
    pub mask_key: Option<PathBuf>,
    /// The file into which the ids of requests go before the requests are erased, so that what else speaks of them can be
    /// erased after a crash, too: see [`Erasing`](crate::Erasing). By default there is none.
    pub erasing: Option<PathBuf>,
    /// By what each answer's cost is written.
    pub prices: Prices,
    /// When rows are erased.
    pub retention: Retention,
    /// The file does not grow over this; then writes fail with [`StoreError::Full`]. At least
    /// 1 MiB.
    pub max_bytes: u64,
    /// How long one write waits while another process writes.
    pub busy_timeout: Duration,
    /// How often a run's `last_heartbeat` is renewed while nothing else happens. At least 100 ms.
    pub heartbeat: Duration,
}

/// Whether texts are written. In every mode but `Full` a subject is written as a keyed hash, so that who asks to be
/// erased is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privacy {
    /// Prompts, stop strings, answers, comments but for [`Implied`](crate::Implied) ones, corrections, and the errors that may
    /// quote them are not written: their columns are NULL. Numbers and codes are.
    Off,
    /// As `Off`, and keyed hashes of prompts and answers, which tell whether two are equal. The key lies in
    /// `mask.key` beside the store.
    Hmac,
    /// Texts are written with secrets and personal data replaced by what they are. Prompts of token ids are withheld,
    /// as nothing in them could be masked.
    Redacted,
    /// Everything is written.
    Full,
}

/// When rows are erased. Checked at open and then daily.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Age at which prompts and answers are erased; their rows stay.
    pub bodies: Duration,
    /// Age at which whole rows go, feedback with its texts included.
    pub metadata: Duration,
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
pub(crate) const PRUNE_EVERY: Duration = DAY;

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions {
            queue_capacity: 4096,
            queue_bytes: 64 << 20,
            privacy: Privacy::Full,
            mask_key: None,
            erasing: None,
            prices: Prices::default(),
            retention: Retention { bodies: 14 * DAY, metadata: 400 * DAY },
            max_bytes: 16 << 30,
            busy_timeout: Duration::from_secs(5),
            heartbeat: Duration::from_secs(5),
        }
    }
}

impl StoreOptions {
    pub(crate) fn validate(&self) -> Result<(), StoreError> {
        let refuse =
            |field, value: String, limit| Err(StoreError::InvalidOption { field, value, limit });
        if !(1..=1_000_000).contains(&self.queue_capacity) {
            let value = self.queue_capacity.to_string();
            return refuse("queue_capacity", value, "between 1 and 1,000,000");
        }
        if self.retention.bodies > self.retention.metadata {
            let days = |age: Duration| age.as_secs() / DAY.as_secs();
            let value = format!("{} days", days(self.retention.bodies));
            return refuse("retention.bodies", value, "at most retention.metadata");
        }
        if self.max_bytes < 1 << 20 {
            return refuse("max_bytes", self.max_bytes.to_string(), "at least 1048576 (1 MiB)");
        }
        if self.heartbeat < Duration::from_millis(100) {
            let value = format!("{} ms", self.heartbeat.as_millis());
            return refuse("heartbeat", value, "at least 100 ms");
        }
        Ok(())
    }
}
