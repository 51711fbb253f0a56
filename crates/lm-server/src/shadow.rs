//! Copies of requests that a candidate answers when nothing else runs. No client ever sees them.
//!
//! It must never run beside a request of a client: who comes ends what runs, which is tried again later.
//!
//! Start reading at [`Shadow::make_way`], then [`run`].

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use lastmile::{Aborter, FinishReason, GenerateEvent, GenerateRequest, Runtime};

use crate::app::{App, mint_id};
use crate::steer;

/// Copies that wait; more are dropped and counted.
const MAX_WAITING: usize = 64;
/// How long nothing may have come before a copy begins.
const QUIET: Duration = Duration::from_millis(100);
const POLL: Duration = Duration::from_millis(10);
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

    /// Whether somebody still wants to know: its experiment is in its first stage, and its route is not switched off.
    fn is_wanted(&self, app: &App) -> bool {
        let Some(arm) = &self.request.steering.arm else { return false };
        let live = app.ops.experiments().map(lm_ops::Experiments::live);
        let is_shadow = |one: &lm_ops::Live| {
            one.spec.name == arm.experiment && one.stage == lm_ops::Stage::Shadow
        };
        self.offered.elapsed() < MAX_AGE
            && live.is_some_and(|all| all.iter().any(is_shadow))
            && steer::not_killed(app, self.request.steering.route).is_ok()
    }
}

/// Copies that wait, and the one that runs.
pub(crate) struct Shadow {
    waiting: Mutex<VecDeque<(Copy, u32)>>,
    bell: Condvar,
    running: Mutex<Running>,
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

struct Running {
    aborters: Vec<Aborter>,
    last_came: Instant,
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

impl Default for Shadow {
    fn default() -> Self {
        Shadow {
            waiting: Mutex::default(),
            bell: Condvar::new(),
            running: Mutex::new(Running { aborters: Vec::new(), last_came: Instant::now() }),
            n_done: AtomicU64::new(0),
            n_made_way: AtomicU64::new(0),
            n_dropped: AtomicU64::new(0),
            n_unavailable: AtomicU64::new(0),
        }
    }
}

impl Shadow {
    /// A client's request comes: what runs ends before the engine's next step.
    pub(crate) fn make_way(&self) {
        let mut running = self.running();
        running.last_came = Instant::now();
        running.aborters.drain(..).for_each(|aborter| aborter.abort());
    }

    /// Lets a copy wait for its turn; drops it when too many do.
    pub(crate) fn offer(&self, copy: Copy) {
        let mut waiting = self.waiting();
        if waiting.len() >= MAX_WAITING {
            self.n_dropped.fetch_add(1, Relaxed);
            return;
        }
        waiting.push_back((copy, 0));
        self.bell.notify_one();
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

    /// The next copy, or nothing within a moment.
    fn next(&self) -> Option<(Copy, u32)> {
        let waiting = self.waiting();
        let patience = Duration::from_millis(200);
        let waited = self.bell.wait_timeout_while(waiting, patience, |all| all.is_empty());
        waited.unwrap_or_else(PoisonError::into_inner).0.pop_front()
    }

    /// Answers a copy.
    fn answer(&self, copy: &Copy) -> Ended {
        let mut request = copy.request.clone();
        // Each try is a request of its own in the store.
        request.id = mint_id();
        let Some(runtime) = copy.runtime.upgrade() else {
            self.count_unavailable();
            return Ended::Dropped;
        };
        let began = Instant::now();
        // One that cannot be answered is not tried again.
        let Ok(streams) = runtime.generate(request) else { return Ended::Dropped };
        {
            let mut running = self.running();
            running.aborters = streams.iter().map(lastmile::GenerateStream::aborter).collect();
            // Clients do not wait for this lock while a copy is made into tokens, so somebody may have come since.
            if running.last_came >= began {
                running.aborters.drain(..).for_each(|aborter| aborter.abort());
            }
        }
        let was_ended = |event: GenerateEvent| match event {
            GenerateEvent::Finished(finish) => finish.reason == FinishReason::Abort,
            GenerateEvent::Delta { .. }
            | GenerateEvent::Prompt { .. }
            | GenerateEvent::Failed(_) => false,
        };
        let was_ended = streams.into_iter().flatten().any(was_ended);
        self.running().aborters.clear();
        if was_ended { Ended::MadeWay } else { Ended::Done }
    }

    fn is_quiet(&self) -> bool {
        self.running().last_came.elapsed() >= QUIET
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<(Copy, u32)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers copies one by one, on a thread of its own. Ends with the server.
pub(crate) fn run(app: &Weak<App>) {
    loop {
        let Some(now) = app.upgrade() else { return };
        if now.is_draining() {
            return;
        }
        let Some((copy, n_tries)) = now.shadow.next() else { continue };
        if !copy.is_wanted(&now) {
            now.shadow.n_dropped.fetch_add(1, Relaxed);
            continue;
        }
        if !is_idle(&now) {
            now.shadow.waiting().push_front((copy, n_tries));
            drop(now);
            std::thread::sleep(POLL);
            continue;
        }
        match now.shadow.answer(&copy) {
            Ended::Done => now.shadow.n_done.fetch_add(1, Relaxed),
            Ended::Dropped => now.shadow.n_dropped.fetch_add(1, Relaxed),
            Ended::MadeWay if n_tries + 1 >= MAX_TRIES => {
                now.shadow.n_made_way.fetch_add(1, Relaxed);
                now.shadow.n_dropped.fetch_add(1, Relaxed)
            }
            Ended::MadeWay => {
                now.shadow.waiting().push_front((copy, n_tries + 1));
                now.shadow.n_made_way.fetch_add(1, Relaxed)
            }
        };
    }
}

fn is_idle(app: &App) -> bool {
    let is_free = |runtime: &Arc<Runtime>| {
        let stats = runtime.stats();
        stats.n_running == 0 && stats.n_waiting == 0
    };
    app.shadow.is_quiet() && app.models.engines().iter().all(is_free)
}
