//! The queue of one sink and the thread that delivers it: messages of one alert in order, and none behind another's trouble.
//!
//! Start reading at [`Desk::offer`], then [`Courier::run`].

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::now_ms;
use crate::sinks::settings::Target;
use crate::sinks::spool::{Spool, write_private};
use crate::sinks::waiting::Waiting;
use crate::sinks::{Delivery, Later, Message, SinkError, SinkLimits, SinkStanding};

/// What all may ask of a sink.
pub(crate) struct Desk {
    key: String,
    limits: SinkLimits,
    spool: Spool,
    inbox: Mutex<Inbox>,
    woken: Condvar,
    is_closing: AtomicBool,
    standing: Mutex<SinkStanding>,
    /// Closed when the thread has ended.
    ended: Mutex<Receiver<()>>,
}

/// What the thread did not take yet.
#[derive(Default)]
struct Inbox {
    new: VecDeque<Message>,
    /// What else to write down, by where.
    kept: BTreeMap<PathBuf, String>,
}

/// What the thread owns.
struct Courier {
    desk: Arc<Desk>,
    target: Target,
    /// The oldest first.
    waiting: VecDeque<Waiting>,
    /// Messages that were taken.
    n_taken: u64,
    /// Failed attempts since the last message that was taken or refused.
    n_in_row: u32,
    /// Nothing is tried before.
    due: Instant,
}

impl Desk {
    /// Starts the thread; what the folder holds is due at once.
    pub(crate) fn start(
        target: Target,
        limits: SinkLimits,
        folder: &Path,
    ) -> Result<Arc<Desk>, SinkError> {
        let (alive, ended) = channel();
        let (key, to) = (target.key(), target.to());
        let spool = Spool::new(folder.join(&key));
        let kept = spool.all().into_iter().map(|message| Waiting::new(message, true));
        let waiting: VecDeque<Waiting> = kept.collect();
        let standing = SinkStanding {
            sink: key.clone(),
            to,
            waiting: waiting.len() as u64,
            delivered: 0,
            given_up: 0,
            failing_since_ms: None,
            last_error: None,
        };
        let desk = Arc::new(Desk {
            key,
            limits,
            spool,
            inbox: Mutex::default(),
            woken: Condvar::new(),
            is_closing: AtomicBool::new(false),
            standing: Mutex::new(standing),
            ended: Mutex::new(ended),
        });
        let due = Instant::now();
        let own = Arc::clone(&desk);
        let courier = Courier { desk: own, target, waiting, n_taken: 0, n_in_row: 0, due };
        let run = move || {
            courier.run();
            drop(alive);
        };
        let thread = std::thread::Builder::new().name("lm-alert-sink".to_owned());
        thread.spawn(run).map_err(SinkError::Thread)?;
        Ok(desk)
    }

    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// Never waits for the disk or the receiver. Without room the message is given up.
    pub(crate) fn offer(&self, message: Message) {
        let mut inbox = self.inbox();
        if inbox.new.len() >= self.limits.queue {
            drop(inbox);
            return self.gave_up(&message, "there is no room for it");
        }
        inbox.new.push_back(message);
        self.lock_standing().waiting += 1;
        self.woken.notify_all();
    }

    /// Writes a text into a file, in the place of what it was last told to write there and did not yet.
    pub(crate) fn keep(&self, path: PathBuf, text: String) {
        self.inbox().kept.insert(path, text);
        self.woken.notify_all();
    }

    pub(crate) fn standing(&self) -> SinkStanding {
        self.lock_standing().clone()
    }

    pub(crate) fn ask_to_end(&self) {
        // Under the lock, so that the thread does not go to sleep in between.
        let inbox = self.inbox();
        self.is_closing.store(true, Relaxed);
        drop(inbox);
        self.woken.notify_all();
    }

    /// Waits for the thread, and keeps what it did not take.
    pub(crate) fn end(&self, deadline: Instant) {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        // Closed or too late: either way the rest is kept here.
        let _ended = ended.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        drop(self.take_new());
        let waiting = self.lock_standing().waiting;
        if waiting > 0 {
            tracing::warn!(sink = self.key, waiting, "alerts wait for the next server to deliver");
        }
    }

    /// What came since the last time, each kept as far as the disk takes it.
    fn take_new(&self) -> Vec<Waiting> {
        let Inbox { new, kept } = std::mem::take(&mut *self.inbox());
        for (path, text) in kept {
            self.told(write_private(&path, text.as_bytes()));
        }
        let new = new.into_iter().map(|message| {
            let is_kept = self.told(self.spool.put(&message));
            Waiting::new(message, is_kept)
        });
        new.collect()
    }

    /// Whether something was written down; where it was not, the log says so.
    fn told(&self, written: std::io::Result<()>) -> bool {
        if let Err(error) = &written {
            tracing::warn!(sink = self.key, %error, "alerts cannot be kept: a restart loses them");
        }
        written.is_ok()
    }

    fn gave_up(&self, message: &Message, why: &str) {
        let Message { id, kind, body, .. } = message;
        let sink = &self.key;
        // The document itself: nobody else will ever see it.
        tracing::error!(sink, id, kind, why, body, "an alert was not delivered and is given up");
        let mut standing = self.lock_standing();
        standing.given_up += 1;
        standing.last_error = Some(why.to_owned());
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_standing(&self) -> MutexGuard<'_, SinkStanding> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Courier {
    fn run(mut self) {
        loop {
            self.waiting.extend(self.desk.take_new());
            while self.waiting.len() > self.desk.limits.queue {
                self.give_up(0, "newer ones took its room");
            }
            if self.desk.is_closing.load(Relaxed) {
                return self.keep_rest();
            }
            let Some((due, i)) = self.next() else {
                self.sleep(None);
                continue;
            };
            match due.checked_duration_since(Instant::now()).filter(|wait| !wait.is_zero()) {
                Some(wait) => self.sleep(Some(wait)),
                None => self.attempt(i),
            }
        }
    }

    /// When which is tried next: of the oldest of each alert one that is due; who failed least, then the oldest.
    fn next(&self) -> Option<(Instant, usize)> {
        let now = Instant::now();
        let mut alerts = HashSet::new();
        let first = self.waiting.iter().enumerate().filter(|(_, one)| alerts.insert(&one.alert));
        let times = first.map(|(i, one)| (one.due.max(self.due).max(now), one.n_failed, i));
        times.min().map(|(due, _, i)| (due, i))
    }

    /// Until there is something new, the time is over, or the server ends.
    fn sleep(&self, wait: Option<Duration>) {
        let desk = &self.desk;
        let idle = |inbox: &mut Inbox| {
            inbox.new.is_empty() && inbox.kept.is_empty() && !desk.is_closing.load(Relaxed)
        };
        let inbox = desk.inbox();
        match wait {
            None => drop(desk.woken.wait_while(inbox, idle)),
            Some(wait) => drop(desk.woken.wait_timeout_while(inbox, wait, idle)),
        }
    }

    fn attempt(&mut self, i: usize) {
        let desk = Arc::clone(&self.desk);
        let Some(Waiting { message, .. }) = self.waiting.get(i) else { return };
        let limits = desk.limits;
        let age_ms = now_ms().saturating_sub(message.made_ms);
        if u128::try_from(age_ms).is_ok_and(|age_ms| age_ms > limits.give_up.as_millis()) {
            let last = desk.lock_standing().last_error.clone();
            let last = last.unwrap_or_else(|| "no server ran to deliver it".to_owned());
            return self.give_up(i, &format!("its time is over; the last time {last}"));
        }
        let is_over = || desk.is_closing.load(Relaxed);
        match self.target.deliver(message, limits.timeout, &is_over) {
            Delivery::Taken => self.delivered(i),
            Delivery::Refused { why } => {
                self.n_in_row = 0;
                self.give_up(i, &why);
            }
            Delivery::Later(later) => self.failed(i, later),
        }
    }

    fn delivered(&mut self, i: usize) {
        let Some(Waiting { message, .. }) = self.waiting.remove(i) else { return };
        self.desk.spool.remove(&message);
        self.n_taken += 1;
        // The receiver is back: who waited for it waits no more, but for those that it has something against.
        if std::mem::take(&mut self.n_in_row) > 1 {
            let waited = self.waiting.iter_mut().filter(|one| one.n_alone == 0);
            waited.for_each(|one| one.due = Instant::now());
        }
        self.due = Instant::now();
        let mut standing = self.desk.lock_standing();
        standing.delivered += 1;
        standing.waiting = standing.waiting.saturating_sub(1);
        let was_failing = standing.failing_since_ms.take().is_some();
        drop(standing);
        let (sink, id) = (&self.desk.key, &message.id);
        tracing::info!(sink, id, was_failing, "an alert was delivered");
    }

    /// The message waits, and the whole sink only where others fail as well, or the receiver asks for it.
    fn failed(&mut self, i: usize, later: Later) {
        let limits = self.desk.limits;
        let Later { why, after, is_for_all } = later;
        let Some(one) = self.waiting.get_mut(i) else { return };
        one.failed(self.n_taken);
        let longest = limits.longest_backoff;
        let wait = backoff(&limits, one.n_failed, &one.message.id);
        let wait = wait.max(after.unwrap_or_default()).min(longest);
        one.due = Instant::now() + wait;
        let of_sink = match self.n_in_row {
            _ if is_for_all => wait,
            0 => Duration::ZERO,
            n_before => backoff(&limits, n_before, &one.message.id),
        };
        self.due = Instant::now() + of_sink;
        self.n_in_row = self.n_in_row.saturating_add(1);
        if !one.is_kept {
            one.is_kept = self.desk.told(self.desk.spool.put(&one.message));
        }
        let (n_failed, n_alone) = (one.n_failed, one.n_alone);
        self.tell_failing(&why);
        if n_alone >= limits.attempts {
            let why = format!("it failed {n_failed} times while others were taken: {why}");
            self.give_up(i, &why);
        }
    }

    /// One line for each outage.
    fn tell_failing(&self, why: &str) {
        let mut standing = self.desk.lock_standing();
        if standing.failing_since_ms.is_none() {
            let sink = &self.desk.key;
            tracing::warn!(sink, why, "an alert does not reach its sink: it is tried again");
            standing.failing_since_ms = Some(now_ms());
        }
        standing.last_error = Some(why.to_owned());
    }

    fn give_up(&mut self, i: usize, why: &str) {
        let Some(Waiting { message, .. }) = self.waiting.remove(i) else { return };
        self.desk.gave_up(&message, why);
        self.desk.spool.remove(&message);
        let mut standing = self.desk.lock_standing();
        standing.waiting = standing.waiting.saturating_sub(1);
    }

    /// What the disk had no room for may find some now.
    fn keep_rest(self) {
        for one in self.waiting.iter().filter(|one| !one.is_kept) {
            self.desk.told(self.desk.spool.put(&one.message));
        }
    }
}

/// The wait after so many failures: twice as long each time, and somewhere in its second half, so that servers whose receiver
/// comes back do not ask all at once.
fn backoff(limits: &SinkLimits, n_failed: u32, id: &str) -> Duration {
    let doubled = 2_u32.saturating_pow(n_failed.saturating_sub(1).min(20));
    let most = limits.backoff.saturating_mul(doubled).min(limits.longest_backoff);
    let mut hasher = DefaultHasher::new();
    (id, n_failed).hash(&mut hasher);
    most.mul_f64(0.5 + 0.5 * (hasher.finish() as f64 / u64::MAX as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit_and_differ_by_message() {
        let limits = SinkLimits::default();
        let wait = |n: u32, id: &str| backoff(&limits, n, id).as_secs_f64();
        for (n, most) in [(1, 1.0), (2, 2.0), (5, 16.0), (11, 600.0), (1000, 600.0)] {
            let found = wait(n, "msg_a");
            assert!((most / 2.0..=most).contains(&found), "{n}: {found}");
        }
        let all: Vec<u64> = (0..16).map(|i| (wait(5, &format!("msg_{i}")) * 1e6) as u64).collect();
        let mut distinct = all.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), all.len(), "{all:?}");
    }
}
