//! The thread that adds what was sent to its datasets, at the lowest priority.
//!
//! It must never end while something can still be sent, and never keep to itself what it cannot add.
//!
//! Start reading at [`Keeper::round`].

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use lm_data::{DataError, Drained, IngestOptions};

use crate::attendant::{Next, said};
use crate::ingests::Inner;
use crate::now_ms;

/// How often it is looked whether something waits that this server did not take itself.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often old receipts are looked for.
const FORGET_EVERY: Duration = Duration::from_hours(1);

/// What the thread owns.
pub(crate) struct Keeper {
    inner: Arc<Inner>,
    bell: Receiver<()>,
    /// Until the next look; the first one is at once.
    wait: Duration,
    /// What cannot be added, by dataset, and why. What cannot even be listed has no dataset.
    failing: BTreeMap<String, String>,
    /// Datasets for which nothing was to do but wait for another contract, by what waited then.
    done: BTreeMap<String, String>,
    /// When old receipts were last removed.
    forgot_at: Option<Instant>,
}

impl Keeper {
    pub(crate) fn new(inner: Arc<Inner>, bell: Receiver<()>) -> Keeper {
        let (wait, failing, done) = (Duration::ZERO, BTreeMap::new(), BTreeMap::new());
        Keeper { inner, bell, wait, failing, done, forgot_at: None }
    }

    /// Adds what waits, when it comes and when it is looked. Over with the last handle.
    pub(crate) fn round(&mut self) -> Next {
        match self.bell.recv_timeout(self.wait) {
            Ok(()) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Next::Over,
        }
        if self.wait.is_zero() {
            step_back();
        }
        self.wait = LOOK_EVERY;
        let panicked = self.look();
        self.forget();
        self.inner.pulse.note(told(&self.failing));
        // It is counted, and waited for, as what ends a round; it came after all that could be done.
        if let Some(payload) = panicked {
            resume_unwind(payload);
        }
        Next::Round
    }

    /// Adds what waits. Returns the last panic, which costs its own dataset's turn only.
    fn look(&mut self) -> Option<Box<dyn Any + Send>> {
        let (mut failing, mut panicked) = (BTreeMap::new(), None);
        let awaited = match lm_data::awaited(&self.inner.home) {
            Ok(awaited) => awaited,
            Err(error) => {
                failing.insert(String::new(), error.to_string());
                Vec::new()
            }
        };
        self.done.retain(|source, _| awaited.contains(source));
        for source in &awaited {
            let added = catch_unwind(AssertUnwindSafe(|| self.add_new(source)));
            let added = added.unwrap_or_else(|payload| {
                let error = format!("adding its rows panicked: {}", said(payload.as_ref()));
                panicked = Some(payload);
                Err(error)
            });
            if let Err(error) = added {
                failing.insert(source.clone(), error);
            }
            self.inner.pulse.went_well();
        }
        for (dataset, error) in &failing {
            // Only a change is logged, not each look.
            if self.failing.get(dataset) != Some(error) {
                tracing::error!(dataset, error, "rows that were sent cannot be added");
            }
        }
        self.failing = failing;
        let known = self.inner.counts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for source in known.into_keys().chain(awaited) {
            // It is looked again; what cannot be read was told.
            if let Ok(backlog) = lm_data::backlog(&self.inner.home, &source) {
                self.inner.count(&source, |counts| counts.backlog = backlog);
            }
        }
        panicked
    }

    /// Adds what waits, unless all of it was refused and neither it nor the contract changed since.
    fn add_new(&mut self, source: &str) -> Result<(), String> {
        let digest = lm_data::waiting_digest(&self.inner.home, source);
        let digest = digest.map_err(|error| error.to_string())?;
        if self.done.get(source) == Some(&digest) {
            return Ok(());
        }
        if add(&self.inner, source)? {
            self.done.insert(source.to_owned(), digest);
        }
        Ok(())
    }

    /// Removes receipts that are older than they are kept, now and then.
    fn forget(&mut self) {
        if self.forgot_at.is_some_and(|at| at.elapsed() < FORGET_EVERY) {
            return;
        }
        self.forgot_at = Some(Instant::now());
        let now_ms = u64::try_from(now_ms()).unwrap_or_default();
        match lm_data::forget_receipts(&self.inner.home, now_ms) {
            Ok(0) => {}
            Ok(n_receipts) => tracing::info!(n_receipts, "old receipts of rows were removed"),
            // They take a little room until the next time.
            Err(error) => tracing::error!(%error, "old receipts of rows cannot be removed"),
        }
    }
}

/// Every dataset that cannot be added to, and why.
fn told(failing: &BTreeMap<String, String>) -> Option<String> {
    let each = failing.iter().map(|(dataset, error)| match dataset.as_str() {
        "" => error.clone(),
        dataset => format!("{dataset}: {error}"),
    });
    (!failing.is_empty()).then(|| each.collect::<Vec<String>>().join("; "))
}

/// Adds what waits for one dataset. False when somebody else adds to it.
fn add(inner: &Inner, source: &str) -> Result<bool, String> {
    let count_tokens = (inner.tokens)(&inner.home, source)?;
    let options = IngestOptions { count_tokens, ..IngestOptions::default() };
    let mut refused = Vec::new();
    loop {
        // A large batch takes its time, and goes on.
        let mut progress = |_| inner.pulse.went_well();
        match lm_data::drain(&inner.home, source, &options, &mut progress) {
            Ok(Drained::Nothing) => return Ok(true),
            Ok(Drained::Added { n_bodies, rows }) => {
                let (published, quarantined) = (rows.rows_published, rows.rows_quarantined);
                tracing::info!(dataset = source, n_bodies, published, quarantined, "added");
                inner.count(source, |counts| counts.rows.add(&rows));
            }
            Ok(Drained::Refused { bodies, error }) => {
                // Who cannot be left out would be read without end.
                if bodies == refused {
                    return Err(format!("the same bodies are refused again and again: {error}"));
                }
                tracing::warn!(dataset = source, %error, "a batch was refused");
                inner.count(source, |counts| {
                    counts.refused_batches += 1;
                    counts.refused_bodies += bodies.len() as u64;
                });
                refused = bodies;
            }
            Err(DataError::Locked { .. }) => return Ok(false),
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// Tokens come first: this thread and those that it starts get what cores have left. Only Linux has that for a thread.
#[cfg(target_os = "linux")]
fn step_back() {
    if let Err(error) = rustix::process::setpriority_process(None, 19) {
        tracing::warn!(%error, "adding rows has the priority of answers");
    }
}

#[cfg(not(target_os = "linux"))]
fn step_back() {}
