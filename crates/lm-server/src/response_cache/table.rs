//! What is cached, and what is on its way there: bounded in bytes and in age.
//!
//! It must never look at a clock or wait; the lock around it is held for a look-up.
//!
//! Start reading at [`Table::find`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lastmile::{FinishReason, PromptLogprob, ReleaseHash, RequestId, TokenLogprobs, Usage};

use super::flight::Flight;
use super::key::Key;
use super::log::Said;

/// What an entry takes besides what it says: its keys in five maps, and their nodes.
const OVERHEAD_BYTES: usize = 768;
/// Entries that one sweep evicts for one reason; others are waiting for the lock.
const MOST_SWEPT: usize = 4096;

/// A whole answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    /// The request that it was computed for.
    pub(crate) computed_by: RequestId,
    /// It was drawn with.
    pub(crate) seed: u64,
    /// What computed it.
    pub(crate) release: ReleaseHash,
    pub(crate) said: Said,
    /// `Stop` or `Length`.
    pub(crate) reason: FinishReason,
    /// Nothing of it came from the prefix cache.
    pub(crate) usage: Usage,
}

/// Why an entry is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Evicted {
    /// Others needed its bytes.
    Bytes,
    /// It was too old.
    Age,
    /// Somebody called its answer bad, or corrected it.
    Feedback,
    /// Somebody's requests were erased.
    Erase,
    /// What computed it serves no longer.
    Release,
    /// An operator or a rule changed what may be answered.
    Override,
    /// It was computed again, and another answer came.
    Mismatch,
}

impl Evicted {
    pub(crate) const ALL: [Evicted; 7] = [
        Evicted::Bytes,
        Evicted::Age,
        Evicted::Feedback,
        Evicted::Erase,
        Evicted::Release,
        Evicted::Override,
        Evicted::Mismatch,
    ];

    /// A stable word for programs.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Evicted::Bytes => "bytes",
            Evicted::Age => "age",
            Evicted::Feedback => "feedback",
            Evicted::Erase => "erase",
            Evicted::Release => "release",
            Evicted::Override => "override",
            Evicted::Mismatch => "mismatch",
        }
    }
}

enum Slot {
    /// Somebody computes it.
    Flying(Arc<Flight>),
    Stored(Stored),
}

struct Stored {
    entry: Arc<Entry>,
    /// Its place among all, by when it was used last.
    used: u64,
    /// Its place among all, by age.
    landed: (Instant, u64),
    n_bytes: usize,
}

/// What is there for a key.
pub(crate) enum Found {
    Stored(Arc<Entry>),
    Flying(Arc<Flight>),
    Nothing,
}

/// All entries, and all computations that become one.
pub(crate) struct Table {
    max_bytes: usize,
    max_age: Duration,
    slots: HashMap<Key, Slot>,
    by_producer: HashMap<RequestId, Key>,
    by_use: BTreeMap<u64, Key>,
    by_age: BTreeMap<(Instant, u64), Key>,
    by_release: BTreeMap<ReleaseHash, HashSet<Key>>,
    last_use: u64,
    n_bytes: usize,
    n_evicted: [u64; Evicted::ALL.len()],
    /// Answers that were larger than all entries together may be.
    n_too_large: u64,
}

impl Table {
    pub(crate) fn new(max_bytes: usize, max_age: Duration) -> Self {
        Table {
            max_bytes,
            max_age,
            slots: HashMap::new(),
            by_producer: HashMap::new(),
            by_use: BTreeMap::new(),
            by_age: BTreeMap::new(),
            by_release: BTreeMap::new(),
            last_use: 0,
            n_bytes: 0,
            n_evicted: [0; Evicted::ALL.len()],
            n_too_large: 0,
        }
    }

    /// What is there for `key`; an entry counts as used now.
    pub(crate) fn find(&mut self, key: &Key, now: Instant) -> Found {
        let (max_age, last_use) = (self.max_age, self.last_use + 1);
        match self.slots.get_mut(key) {
            None => Found::Nothing,
            Some(Slot::Flying(flight)) => Found::Flying(Arc::clone(flight)),
            Some(Slot::Stored(stored)) if now.duration_since(stored.landed.0) > max_age => {
                self.evict(key, Evicted::Age);
                Found::Nothing
            }
            Some(Slot::Stored(stored)) => {
                self.by_use.remove(&stored.used);
                stored.used = last_use;
                self.by_use.insert(last_use, *key);
                self.last_use = last_use;
                Found::Stored(Arc::clone(&stored.entry))
            }
        }
    }

    /// Somebody computes what is not there.
    pub(crate) fn take_off(&mut self, key: Key, flight: Arc<Flight>) {
        self.evict(&key, Evicted::Age);
        self.slots.insert(key, Slot::Flying(flight));
    }

    /// Nobody computes it, or reads it, any more.
    pub(crate) fn call_off(&mut self, key: &Key, flight: &Arc<Flight>) {
        if self.is_flying(key, flight) {
            self.slots.remove(key);
        }
    }

    /// Keeps what a computation gave, unless it was called off meanwhile.
    pub(crate) fn land(&mut self, key: Key, flight: &Arc<Flight>, entry: Entry, now: Instant) {
        if !self.is_flying(&key, flight) {
            return;
        }
        self.slots.remove(&key);
        let n_bytes = size_bytes(&entry);
        if n_bytes > self.max_bytes {
            self.n_too_large += 1;
            return;
        }
        while self.n_bytes + n_bytes > self.max_bytes {
            let Some((_, oldest)) = self.by_use.first_key_value() else { break };
            let oldest = *oldest;
            self.evict(&oldest, Evicted::Bytes);
        }
        self.last_use += 1;
        let (used, landed) = (self.last_use, (now, self.last_use));
        self.n_bytes += n_bytes;
        self.by_use.insert(used, key);
        self.by_age.insert(landed, key);
        self.by_release.entry(entry.release).or_default().insert(key);
        self.by_producer.insert(entry.computed_by, key);
        let stored = Stored { entry: Arc::new(entry), used, landed, n_bytes };
        self.slots.insert(key, Slot::Stored(stored));
    }

    /// Forgets what was computed for a request. False when there is no such entry.
    pub(crate) fn forget(&mut self, computed_by: RequestId, why: Evicted) -> bool {
        let key = self.by_producer.get(&computed_by).copied();
        key.is_some_and(|key| self.evict(&key, why))
    }

    /// Forgets this entry, unless another one took its place.
    pub(crate) fn forget_entry(&mut self, key: &Key, entry: &Arc<Entry>, why: Evicted) -> bool {
        self.holds(key, entry) && self.evict(key, why)
    }

    /// Whether this entry is there, and not another one in its place.
    pub(crate) fn holds(&self, key: &Key, entry: &Arc<Entry>) -> bool {
        matches!(self.slots.get(key), Some(Slot::Stored(stored)) if Arc::ptr_eq(&stored.entry, entry))
    }

    /// Forgets everything; what is being computed is read to its end and not kept. Gives back what there was: freeing it
    /// takes a while, for which nobody is to hold the lock.
    #[must_use]
    pub(crate) fn clear(&mut self, why: Evicted) -> Table {
        self.n_evicted[why as usize] += self.by_use.len() as u64;
        let empty = Table {
            last_use: self.last_use,
            n_evicted: self.n_evicted,
            n_too_large: self.n_too_large,
            ..Table::new(self.max_bytes, self.max_age)
        };
        std::mem::replace(self, empty)
    }

    /// Forgets what is too old, and what was computed by none of `releases`; of many some, and the others next time.
    pub(crate) fn sweep(&mut self, releases: &[ReleaseHash], now: Instant) {
        let gone = self.by_release.iter().filter(|(release, _)| !releases.contains(release));
        let gone = gone.flat_map(|(_, keys)| keys.iter().copied());
        let gone: Vec<Key> = gone.take(MOST_SWEPT).collect();
        for key in gone {
            self.evict(&key, Evicted::Release);
        }
        for _ in 0..MOST_SWEPT {
            let Some((&(since, _), &key)) = self.by_age.first_key_value() else { break };
            if now.duration_since(since) <= self.max_age {
                break;
            }
            self.evict(&key, Evicted::Age);
        }
    }

    pub(crate) fn n_entries(&self) -> usize {
        self.by_use.len()
    }

    pub(crate) fn n_bytes(&self) -> usize {
        self.n_bytes
    }

    pub(crate) fn n_evicted(&self) -> [(&'static str, u64); Evicted::ALL.len()] {
        Evicted::ALL.map(|why| (why.as_str(), self.n_evicted[why as usize]))
    }

    pub(crate) fn n_too_large(&self) -> u64 {
        self.n_too_large
    }

    /// Changes every entry, as broken memory would.
    #[cfg(test)]
    pub(crate) fn corrupt(&mut self, change: impl Fn(&mut Entry)) {
        for slot in self.slots.values_mut() {
            if let Slot::Stored(stored) = slot {
                change(Arc::make_mut(&mut stored.entry));
            }
        }
    }

    fn is_flying(&self, key: &Key, flight: &Arc<Flight>) -> bool {
        matches!(self.slots.get(key), Some(Slot::Flying(found)) if Arc::ptr_eq(found, flight))
    }

    /// Forgets an entry; false when there is none.
    fn evict(&mut self, key: &Key, why: Evicted) -> bool {
        if !matches!(self.slots.get(key), Some(Slot::Stored(_))) {
            return false;
        }
        if let Some(Slot::Stored(stored)) = self.slots.remove(key) {
            self.by_use.remove(&stored.used);
            self.by_age.remove(&stored.landed);
            let release = stored.entry.release;
            if let Some(keys) = self.by_release.get_mut(&release) {
                keys.remove(key);
                if keys.is_empty() {
                    self.by_release.remove(&release);
                }
            }
            self.by_producer.remove(&stored.entry.computed_by);
            self.n_bytes -= stored.n_bytes;
            self.n_evicted[why as usize] += 1;
        }
        true
    }
}

/// What an entry takes in memory.
fn size_bytes(entry: &Entry) -> usize {
    let Said { prompt, text, tokens, logprobs } = &entry.said;
    let of_logprobs = |all: &[TokenLogprobs]| {
        let top: usize = all.iter().map(|one| size_of_val(one.top.as_slice())).sum();
        size_of_val(all) + top
    };
    let of_scores = |all: &[PromptLogprob]| {
        let top: usize = all.iter().map(|one| size_of_val(one.top.as_slice())).sum();
        size_of_val(all) + top
    };
    let of_prompt = prompt
        .as_ref()
        .map_or(0, |(tokens, scores)| size_of_val(tokens.as_slice()) + of_scores(scores));
    let of_tokens = size_of_val(tokens.as_slice());
    OVERHEAD_BYTES + text.len() + of_tokens + of_logprobs(logprobs) + of_prompt
}
