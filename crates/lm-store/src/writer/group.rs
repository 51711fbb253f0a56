//! What is written as one commit, and what becomes of each entry where that fails.
//!
//! It must never lose an entry for another's sake: on a server a row that fails takes its whole transaction with it.
//!
//! Start reading at [`Writer::write_all`].

use std::time::{Duration, Instant, SystemTime};

use uuid::Uuid;

use super::Writer;
use crate::erase::{Erase, Erased};
use crate::job::{Job, Reply};
use crate::mask::{Mask, Masked};
use crate::record::unix_ms;
use crate::sql;
use crate::write::{self, Written};
use crate::{Feedback, FeedbackId, Release, RunInfo, StoreError};

/// Before each further try of a group whose connection was lost: a server that is started anew is back after a second.
const RECONNECT_WAITS: [Duration; 3] =
    [Duration::ZERO, Duration::from_millis(250), Duration::from_millis(1000)];
/// For finding the rows that cannot go in; what is left by then is lost with them, as others wait.
const PARTS_PATIENCE: Duration = Duration::from_secs(10);
/// A store that closes begins no further try of a group later than this.
const CLOSING_PATIENCE: Duration = Duration::from_secs(1);
/// Requests that one line of the log names.
const MAX_NAMED: usize = 8;

/// Something that becomes rows. It may be written more than once until its fate is known, so what tells it from others
/// is made before.
pub(super) enum Entry {
    Answer(Masked),
    Feedback(FeedbackId, Feedback, Reply<FeedbackId>),
    Release(Release, Reply<()>),
    BeginRun(String, RunInfo, Reply<String>),
}

/// Whether an entry was written.
pub(super) type Fate = Result<Written, Failed>;

/// Why an entry was not written.
#[derive(Clone, Debug)]
pub(super) enum Failed {
    /// It cannot go in, whatever stands beside it.
    Refused(StoreError),
    /// Nothing could be written.
    Lost(StoreError),
}

/// What was taken from the queue at once.
#[derive(Default)]
pub(super) struct Group {
    pub(super) entries: Vec<Entry>,
    /// What its answers took in the queue.
    pub(super) size_bytes: usize,
    pub(super) flushes: Vec<Reply<()>>,
    pub(super) prune: Option<(SystemTime, Reply<()>)>,
    pub(super) erasures: Vec<(Erase, Reply<Erased>)>,
    pub(super) make_room: Option<Reply<()>>,
    pub(super) close: Option<Reply<()>>,
}

impl Group {
    pub(super) fn of(jobs: Vec<Job>, mask: &Mask) -> Group {
        let mut group = Group::default();
        for job in jobs {
            match job {
                Job::Event { event, size_bytes } => {
                    group.size_bytes += size_bytes;
                    group.entries.push(Entry::Answer(mask.answer(event)));
                }
                Job::Feedback(feedback, reply) => {
                    let id = FeedbackId(Uuid::now_v7().as_u128());
                    group.entries.push(Entry::Feedback(id, mask.feedback(feedback), reply));
                }
                Job::Release(release, reply) => group.entries.push(Entry::Release(release, reply)),
                Job::BeginRun(info, reply) => {
                    let id = Uuid::now_v7().to_string();
                    group.entries.push(Entry::BeginRun(id, info, reply));
                }
                Job::Flush(reply) => group.flushes.push(reply),
                Job::Erase(what, reply) => group.erasures.push((what, reply)),
                Job::MakeRoom(reply) => group.make_room = Some(reply),
                Job::Prune(now, reply) => group.prune = Some((now, reply)),
                Job::Close(reply) => group.close = Some(reply),
            }
        }
        group
    }

    /// The telemetry before a feedback becomes durable with it: one log, one sync.
    pub(super) fn is_durable(&self) -> bool {
        self.entries.iter().any(|entry| !matches!(entry, Entry::Answer(_)))
    }
}

impl Failed {
    fn of(error: StoreError) -> Failed {
        match error {
            StoreError::Database { .. }
            | StoreError::UnknownRequest { .. }
            | StoreError::UnknownChoice { .. } => Failed::Refused(error),
            _ => Failed::Lost(error),
        }
    }

    pub(super) fn error(&self) -> &StoreError {
        let (Failed::Refused(error) | Failed::Lost(error)) = self;
        error
    }

    fn is_of_the_connection(&self) -> bool {
        matches!(self.error(), StoreError::Unreachable { .. })
    }
}

impl Writer {
    /// Writes every entry that can be written, in order; returns what became of each.
    pub(super) fn write_all(&self, entries: &[Entry], is_durable: bool) -> Vec<Fate> {
        if entries.is_empty() {
            return Vec::new();
        }
        self.write_parts(entries, is_durable, Instant::now() + PARTS_PATIENCE)
    }

    /// In one transaction, or else its halves: so a row that cannot go in is found in few of them.
    fn write_parts(&self, entries: &[Entry], is_durable: bool, until: Instant) -> Vec<Fate> {
        match self.commit_or_reconnect(entries, is_durable) {
            Ok(fates) => fates,
            Err(Failed::Refused(_)) if entries.len() > 1 && Instant::now() < until => {
                let (first, second) = entries.split_at(entries.len() / 2);
                let mut fates = self.write_parts(first, is_durable, until);
                fates.extend(self.write_parts(second, is_durable, until));
                fates
            }
            Err(failed) if entries.len() == 1 => vec![Err(failed)],
            // Which of them it was is not known.
            Err(failed) => vec![Err(Failed::Lost(failed.error().clone())); entries.len()],
        }
    }

    /// One transaction, begun anew where the connection was lost: with patience in the first group of an outage only, as
    /// the queue fills meanwhile.
    fn commit_or_reconnect(
        &self,
        entries: &[Entry],
        is_durable: bool,
    ) -> Result<Vec<Fate>, Failed> {
        let n_waits = if self.n_failing == 0 { RECONNECT_WAITS.len() } else { 1 };
        let mut waits = RECONNECT_WAITS.iter().take(n_waits);
        let begun = Instant::now();
        let mut committed = self.commit(entries, is_durable);
        while committed.as_ref().is_err_and(Failed::is_of_the_connection)
            && !(self.is_closing() && begun.elapsed() > CLOSING_PATIENCE)
            && let Some(wait) = waits.next()
        {
            std::thread::sleep(*wait);
            committed = self.commit(entries, is_durable);
            for fate in committed.iter_mut().flatten() {
                // The commit whose end was not heard wrote it.
                if matches!(fate, Ok(Written::Duplicate)) {
                    *fate = Ok(Written::New);
                }
            }
        }
        committed
    }

    /// One transaction. `Err` when none of it is written.
    fn commit(&self, entries: &[Entry], is_durable: bool) -> Result<Vec<Fate>, Failed> {
        let lost =
            |action: &'static str, e: &sql::Error| Failed::Lost(self.context.wrap(action, e));
        let transaction =
            self.connection.begin_write(is_durable).map_err(|e| lost("begin to write", &e))?;
        let now_ms = unix_ms(SystemTime::now());
        let mut fates = Vec::with_capacity(entries.len());
        for entry in entries {
            let fate = self.write_one(&transaction, entry, now_ms).map_err(Failed::of);
            // Any failure on a server, and a full disk under a file, has rolled back all.
            match fate {
                Err(failed) if transaction.is_rolled_back() => return Err(failed),
                fate => fates.push(fate),
            }
        }
        let committed = self.counters.pace.time(|| transaction.commit());
        committed.map_err(|e| lost("commit", &e))?;
        Ok(fates)
    }

    fn write_one(
        &self,
        connection: &sql::Connection,
        entry: &Entry,
        now_ms: i64,
    ) -> Result<Written, StoreError> {
        let context = &self.context;
        let wrap = |e: sql::Error| context.wrap("write", &e);
        match entry {
            Entry::Answer(answer) => {
                return write::event(connection, answer, &self.prices).map_err(wrap);
            }
            Entry::Feedback(id, feedback, _) => {
                write::feedback(connection, *id, feedback, now_ms, context)?;
            }
            Entry::Release(release, _) => {
                write::release(connection, release, now_ms).map_err(wrap)?;
            }
            Entry::BeginRun(id, info, _) => {
                write::begin_run(connection, id, info, now_ms).map_err(wrap)?;
            }
        }
        Ok(Written::New)
    }

    /// Says once for a group which answers cannot go in, and why the first cannot.
    pub(super) fn tell_refused(&self, entries: &[Entry], fates: &[Fate]) {
        let refused: Vec<(String, &StoreError)> = entries
            .iter()
            .zip(fates)
            .filter_map(|(entry, fate)| match (entry, fate) {
                (Entry::Answer(answer), Err(Failed::Refused(error))) => {
                    Some((answer.event.request.id.to_string(), error))
                }
                _ => None,
            })
            .collect();
        let Some((_, error)) = refused.first() else { return };
        let ids: Vec<&str> = refused.iter().take(MAX_NAMED).map(|(id, _)| id.as_str()).collect();
        tracing::error!(
            n_answers = refused.len(),
            requests = ids.join(" "),
            %error,
            "answers cannot be stored as they are and are lost; those beside them are stored"
        );
    }
}

/// Tells who waits.
pub(super) fn answer(entry: Entry, fate: Fate) {
    let fate = fate.map_err(|failed| failed.error().clone());
    // Who asked may have given up.
    match entry {
        Entry::Answer(_) => {}
        Entry::Feedback(id, _, reply) => drop(reply.send(fate.map(|_| id))),
        Entry::Release(_, reply) => drop(reply.send(fate.map(drop))),
        Entry::BeginRun(id, _, reply) => drop(reply.send(fate.map(|_| id))),
    }
}
