//! The thread that writes: it takes what waits and puts it into the ring, and tells answers that go on for
//! long again before they are overwritten.
//!
//! It must never hold what waits locked while it writes.
//!
//! Start reading at [`Writer::run`].

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use lm_store::recipe;
use lm_types::{RequestId, TenantId};

use crate::RecorderOptions;
use crate::entry::{
    AGAIN, BEGUN, Begun, ENDED, RUN, Run, STEP, decode_step, encode_ended, key, n_rows, step_bytes,
};
use crate::recorder::{BegunAnswer, Shared, Waiting, unix_micros};
use crate::ring::RingFile;

/// How long what comes is gathered before it is written: what a killed process may lose.
const GATHER: Duration = Duration::from_millis(2);

pub(crate) struct Writer {
    ring: RingFile,
    shared: Arc<Shared>,
    options: RecorderOptions,
    /// Answers in flight, by the key of their rows.
    live: BTreeMap<u64, Live>,
    live_bytes: usize,
    n_failing: u64,
    /// Held while this process records.
    _lock: File,
}

/// An answer in flight.
struct Live {
    begun: Begun,
    size_bytes: usize,
    /// The ring's `n_written` when it was told last.
    told_at: u64,
}

impl Writer {
    pub(crate) fn new(
        ring: RingFile,
        shared: Arc<Shared>,
        options: RecorderOptions,
        lock: File,
    ) -> Self {
        let live = BTreeMap::new();
        Writer { ring, shared, options, live, live_bytes: 0, n_failing: 0, _lock: lock }
    }

    pub(crate) fn run(mut self) {
        let run = Run {
            pid: std::process::id(),
            started_at_ms: unix_micros(SystemTime::now()).cast_signed() / 1000,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let first = json(&run).and_then(|text| self.ring.append(RUN, &[&text]));
        let first = first.and_then(|()| self.ring.flush());
        self.note(first, 1);
        let mut taken = Waiting::default();
        loop {
            let is_closed = self.take(&mut taken);
            let n = taken.begun.len() + taken.ended.len();
            let written = self.write(&mut taken);
            self.note(written, n as u64);
            if is_closed {
                return;
            }
            // Else each step would wake this thread.
            std::thread::sleep(GATHER);
        }
    }

    /// Waits for work and takes it, in exchange for empty buffers. Says whether it was the last.
    fn take(&self, taken: &mut Waiting) -> bool {
        taken.steps.clear();
        let mut waiting = self.shared.lock();
        loop {
            let has_work =
                !waiting.steps.is_empty() || !waiting.begun.is_empty() || !waiting.ended.is_empty();
            if has_work || waiting.is_closed {
                std::mem::swap(&mut waiting.steps, &mut taken.steps);
                std::mem::swap(&mut waiting.begun, &mut taken.begun);
                std::mem::swap(&mut waiting.ended, &mut taken.ended);
                return waiting.is_closed;
            }
            waiting = self.shared.has_work.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Beginnings before steps before ends: so they follow each other for every answer.
    fn write(&mut self, taken: &mut Waiting) -> io::Result<()> {
        for answer in taken.begun.drain(..) {
            self.begin(&answer)?;
        }
        let mut steps = taken.steps.as_slice();
        while let Some(n_rows) = n_rows(steps) {
            let Some((step, rest)) = steps.split_at_checked(step_bytes(n_rows)) else { break };
            self.step(step)?;
            steps = rest;
        }
        for (id, choice) in taken.ended.drain(..) {
            self.ring.append(ENDED, &[&encode_ended(id, choice)])?;
            if let Some(live) = self.live.remove(&key(id, choice)) {
                self.live_bytes -= live.size_bytes;
            }
        }
        self.tell_again()?;
        self.ring.flush()
    }

    fn begin(&mut self, answer: &BegunAnswer) -> io::Result<()> {
        let request = &answer.request;
        let keeps = self.options.keeps_text;
        let mut begun = Begun {
            id: request.id.to_string(),
            choice: answer.choice,
            tenant: (request.tenant != TenantId::ANONYMOUS)
                .then(|| format!("{:016x}", request.tenant.0)),
            subject: request.subject.clone().filter(|_| keeps),
            model: answer.model.clone(),
            release: answer.release.clone(),
            arrived_at_ms: answer.arrived_at_ms,
            n_prompt_tokens: answer.prompt.len(),
            prompt: keeps.then(|| recipe::prompt_to_json(&request.prompt)),
            recipe: keeps.then(|| recipe::to_json(request)),
            prompt_tokens: keeps.then(|| answer.prompt.clone()),
            n_tokens: 0,
            tokens: Vec::new(),
        };
        let mut text = json(&begun)?;
        // Long ones would push everything else out.
        let room = RingFile::max_payload(self.options.capacity);
        let quarter = usize::try_from(self.options.capacity / 4).unwrap_or(usize::MAX);
        if text.len() > room || self.live_bytes + text.len() > quarter {
            (begun.prompt, begun.recipe, begun.prompt_tokens) = (None, None, None);
            text = json(&begun)?;
        }
        self.ring.append(BEGUN, &[&text])?;
        let live = Live { begun, size_bytes: text.len(), told_at: self.ring.n_written };
        self.live_bytes += live.size_bytes;
        if let Some(old) = self.live.insert(key(request.id, answer.choice), live) {
            self.live_bytes -= old.size_bytes;
        }
        Ok(())
    }

    fn step(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.ring.append(STEP, &[bytes])?;
        self.shared.recorded.fetch_add(1, Relaxed);
        for row in decode_step(bytes).iter().flat_map(|step| &step.rows) {
            if let Some(live) = self.live.get_mut(&row.key) {
                live.begun.n_tokens += usize::from(row.is_drawn);
                live.begun.tokens.extend(row.token);
            }
        }
        Ok(())
    }

    /// Answers whose beginning is half a ring old.
    fn tell_again(&mut self) -> io::Result<()> {
        let (now, half) = (self.ring.n_written, self.options.capacity / 2);
        for live in self.live.values_mut().filter(|live| live.told_at + half < now) {
            self.ring.append(AGAIN, &[&json(&live.begun)?])?;
            live.told_at = now;
        }
        Ok(())
    }

    /// Counts, and logs the first failure of a burst.
    fn note(&mut self, written: io::Result<()>, n: u64) {
        match written {
            Ok(()) => {
                self.shared.recorded.fetch_add(n, Relaxed);
                self.n_failing = 0;
            }
            Err(error) => {
                self.shared.dropped.fetch_add(n.max(1), Relaxed);
                if self.n_failing == 0 {
                    tracing::error!(%error, "the flight recorder cannot write; serving goes on");
                }
                self.n_failing += 1;
            }
        }
    }
}

fn json(value: &impl serde::Serialize) -> io::Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(io::Error::other)
}

/// An id as the ring keys it.
pub(crate) fn key_of(id: &str, choice: u32) -> Option<u64> {
    let id: RequestId = id.parse().ok()?;
    Some(key(id, choice))
}
