//! The queue of one sink and the thread that delivers it, in order.
//!
//! Start reading at [`Desk::offer`], then [`Courier::run`].

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::now_ms;
use crate::sinks::settings::Target;
use crate::sinks::spool::{Spool, write_private};
use crate::sinks::{Delivery, Message, SinkError, SinkLimits, SinkStanding};

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
    waiting: VecDeque<Message>,
    /// Failed attempts since the last message that was taken.
    n_failed: u32,
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
        let waiting: VecDeque<Message> = spool.all().into();
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
        let courier = Courier { desk: Arc::clone(&desk), target, waiting, n_failed: 0, due };
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
        self.take_new();
        let waiting = self.lock_standing().waiting;
        if waiting > 0 {
            tracing::warn!(sink = self.key, waiting, "alerts wait for the next server to deliver");
        }
    }

    /// What came since the last time, after it is kept.
    fn take_new(&self) -> VecDeque<Message> {
        let Inbox { new, kept } = std::mem::take(&mut *self.inbox());
        let put = new.iter().try_for_each(|message| self.spool.put(message));
        let kept = kept.iter().try_for_each(|(path, text)| write_private(path, text.as_bytes()));
        if let Err(error) = put.and(kept) {
            tracing::warn!(sink = self.key, %error, "alerts cannot be kept: a restart loses them");
        }
        new
    }

    fn gave_up(&self, message: &Message, why: &str) {
        let (sink, id) = (&self.key, &message.id);
        tracing::error!(sink, id, why, "an alert was not delivered and is given up");
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
                self.give_up("newer ones took its room");
            }
            if self.desk.is_closing.load(Relaxed) {
                return;
            }
            if self.waiting.is_empty() {
                self.sleep(None);
                continue;
            }
            match self.due.checked_duration_since(Instant::now()).filter(|wait| !wait.is_zero()) {
                Some(wait) => self.sleep(Some(wait)),
                None => self.attempt(),
            }
        }
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

    /// Tries the oldest.
    fn attempt(&mut self) {
        let desk = Arc::clone(&self.desk);
        let Some(message) = self.waiting.front() else { return };
        let limits = desk.limits;
        let age_ms = now_ms().saturating_sub(message.made_ms);
        if u128::try_from(age_ms).is_ok_and(|age_ms| age_ms > limits.give_up.as_millis()) {
            let last = desk.lock_standing().last_error.clone();
            let last = last.unwrap_or_else(|| "no server ran to deliver it".to_owned());
            return self.give_up(&format!("its time is over; the last time {last}"));
        }
        let is_over = || desk.is_closing.load(Relaxed);
        match self.target.deliver(message, limits.timeout, &is_over) {
            Delivery::Taken => self.delivered(),
            Delivery::Refused { why } => self.give_up(&why),
            Delivery::Later { why, after } => self.failed(why, after),
        }
    }

    fn delivered(&mut self) {
        let Some(message) = self.waiting.pop_front() else { return };
        self.desk.spool.remove(&message);
        (self.n_failed, self.due) = (0, Instant::now());
        let mut standing = self.desk.lock_standing();
        standing.delivered += 1;
        standing.waiting = standing.waiting.saturating_sub(1);
        let was_failing = standing.failing_since_ms.take().is_some();
        drop(standing);
        let (sink, id) = (&self.desk.key, &message.id);
        tracing::info!(sink, id, was_failing, "an alert was delivered");
    }

    fn failed(&mut self, why: String, after: Option<Duration>) {
        let Some(message) = self.waiting.front() else { return };
        self.n_failed = self.n_failed.saturating_add(1);
        let wait = backoff(&self.desk.limits, self.n_failed, &message.id);
        let wait = wait.max(after.unwrap_or_default()).min(self.desk.limits.longest_backoff);
        self.due = Instant::now() + wait;
        let mut standing = self.desk.lock_standing();
        // One line for each outage.
        if standing.failing_since_ms.is_none() {
            let sink = &self.desk.key;
            tracing::warn!(sink, why, "an alert does not reach its sink: it is tried again");
            standing.failing_since_ms = Some(now_ms());
        }
        standing.last_error = Some(why);
    }

    fn give_up(&mut self, why: &str) {
        let Some(message) = self.waiting.pop_front() else { return };
        self.desk.gave_up(&message, why);
        self.desk.spool.remove(&message);
        let mut standing = self.desk.lock_standing();
        standing.waiting = standing.waiting.saturating_sub(1);
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
