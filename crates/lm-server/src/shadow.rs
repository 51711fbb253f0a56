//! Copies of requests that a candidate answers when nothing else runs. No client ever sees them.
//!
//! Start reading at [`Shadow::offer`], then [`turn`].

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use lastmile::{GenerateRequest, GenerateStream, Runtime};

use crate::app::{App, mint_id};
use crate::steer;

/// Copies that wait; more are dropped and counted.
const MAX_WAITING: usize = 64;
/// How often a copy makes way before it is dropped.
const MAX_TRIES: u32 = 8;

/// How long a copy waits for an idle slot before it is dropped.
const MAX_AGE: Duration = Duration::from_mins(10);

/// A copy of a request.
pub(crate) struct Copy {
    /// A copy must not keep a model in memory that is to be unloaded.
    runtime: Weak<Runtime>,
    request: GenerateRequest,
    offered: Instant,
}

impl Copy {
    pub(crate) fn new(runtime: &Arc<Runtime>, request: GenerateRequest) -> Copy {
        Copy { runtime: Arc::downgrade(runtime), request, offered: Instant::now() }
    }

    /// Whether it is tried: somebody wants to know, and it is not too old.
    fn is_wanted(&self, app: &App) -> bool {
        self.offered.elapsed() < MAX_AGE && self.is_asked_for(app)
    }

    /// Whether somebody still wants to know: its experiment is in its first stage, and its route is not switched off.
    fn is_asked_for(&self, app: &App) -> bool {
        let Some(arm) = &self.request.steering.arm else { return false };
        let live = app.ops.experiments().map(lm_ops::Experiments::live);
        let is_shadow = |one: &lm_ops::Live| {
            one.spec.name == arm.experiment && one.stage == lm_ops::Stage::Shadow
        };
        live.is_some_and(|all| all.iter().any(is_shadow))
            && steer::not_killed(app, self.request.steering.route).is_ok()
    }
}

/// Copies that wait.
#[derive(Default)]
pub(crate) struct Shadow {
    waiting: Mutex<VecDeque<(Copy, u32)>>,
    n_done: AtomicU64,
    n_made_way: AtomicU64,
    n_dropped: AtomicU64,
    n_unavailable: AtomicU64,
}

/// How a try ended.
enum Ended {
    Done,
    MadeWay,
    Dropped,
}

/// What became of copies since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct ShadowCounts {
    /// They wait for an idle slot.
    waiting: u64,
    /// They were answered.
    done: u64,
    /// They were ended for a client, to be tried again.
    made_way: u64,
    /// The queue was full, they made way too often, waited too long, or nobody wants to know any more.
    dropped: u64,
    /// The candidate's model was not loaded yet.
    unavailable: u64,
}

impl Shadow {
    /// Lets a copy wait for its turn; drops it when too many do.
    pub(crate) fn offer(&self, copy: Copy) {
        let mut waiting = self.waiting();
        if waiting.len() >= MAX_WAITING {
            self.n_dropped.fetch_add(1, Relaxed);
            return;
        }
        waiting.push_back((copy, 0));
    }

    pub(crate) fn count_unavailable(&self) {
        self.n_unavailable.fetch_add(1, Relaxed);
    }

    pub(crate) fn counts(&self) -> ShadowCounts {
        ShadowCounts {
            waiting: self.waiting().len() as u64,
            done: self.n_done.load(Relaxed),
            made_way: self.n_made_way.load(Relaxed),
            dropped: self.n_dropped.load(Relaxed),
            unavailable: self.n_unavailable.load(Relaxed),
        }
    }

    /// How long the oldest copy waits of which somebody wants to know; `None` when none does.
    pub(crate) fn overdue(&self, app: &App) -> Option<Duration> {
        self.oldest(|copy| copy.is_asked_for(app))
    }

    fn oldest(&self, counts: impl Fn(&Copy) -> bool) -> Option<Duration> {
        let waiting = self.waiting();
        let counted = waiting.iter().filter(|(copy, _)| counts(copy));
        counted.map(|(copy, _)| copy.offered.elapsed()).max()
    }

    /// Answers a copy.
    fn answer(&self, app: &App, copy: &Copy) -> Ended {
        let mut request = copy.request.clone();
        // Each try is a request of its own in the store.
        request.id = mint_id();
        let Some(runtime) = copy.runtime.upgrade() else {
            self.count_unavailable();
            return Ended::Dropped;
        };
        let all = |streams: Vec<GenerateStream>| streams.into_iter().flatten().for_each(drop);
        match app.idle.run(|| runtime.generate(request), all) {
            Ok(Some(())) => Ended::Done,
            Ok(None) => Ended::MadeWay,
            // One that cannot be answered is not tried again.
            Err(_) => Ended::Dropped,
        }
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<(Copy, u32)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a copy waits to be answered.
pub(crate) fn waits(app: &App) -> bool {
    !app.shadow.waiting().is_empty()
}

/// Answers the next copy in an idle slot; false when none waits.
pub(crate) fn turn(app: &App) -> bool {
    let shadow = &app.shadow;
    let Some((copy, n_tries)) = shadow.waiting().pop_front() else { return false };
    if !copy.is_wanted(app) {
        shadow.n_dropped.fetch_add(1, Relaxed);
        return true;
    }
    match shadow.answer(app, &copy) {
        Ended::Done => shadow.n_done.fetch_add(1, Relaxed),
        Ended::Dropped => shadow.n_dropped.fetch_add(1, Relaxed),
        Ended::MadeWay if n_tries + 1 >= MAX_TRIES => {
            shadow.n_made_way.fetch_add(1, Relaxed);
            shadow.n_dropped.fetch_add(1, Relaxed)
        }
        Ended::MadeWay => {
            shadow.waiting().push_front((copy, n_tries + 1));
            shadow.n_made_way.fetch_add(1, Relaxed)
        }
    };
    true
}

#[cfg(test)]
mod tests {
    use lastmile::{Prompt, RequestId};

    use super::*;

    #[test]
    fn the_oldest_copy_that_is_wanted_says_how_long_it_waits() {
        let shadow = Shadow::default();
        assert_eq!(shadow.oldest(|_| true), None);
        let now = Instant::now();
        for (id, age_s) in [(1, 30), (2, 90), (3, 60)] {
            let request = GenerateRequest::new(RequestId(id), Prompt::Tokens(vec![1]));
            let offered = now.checked_sub(Duration::from_secs(age_s)).unwrap_or(now);
            shadow.offer(Copy { runtime: Weak::new(), request, offered });
        }
        let at_least = |seconds| move |age: Duration| age >= Duration::from_secs(seconds);
        assert!(shadow.oldest(|_| true).is_some_and(at_least(90)));
        let of_others = shadow.oldest(|copy| copy.request.id != RequestId(2));
        assert!(of_others.is_some_and(|age| at_least(60)(age) && !at_least(90)(age)));
        assert_eq!(shadow.oldest(|_| false), None);
    }
}
