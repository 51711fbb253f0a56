//! What is computed when nobody asks: probes, hits of the response cache once more, and copies for experiments.
//!
//! It must never run beside a client's request: who comes ends what runs, which is tried again later. On a server that is
//! never idle nothing of it runs; [`overdue`] says so.
//!
//! Start reading at [`Idle::make_way`], then [`run`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use lastmile::{Aborter, GenerateStream, Runtime};

use crate::app::App;
use crate::{probes, response_cache, shadow};

/// How long nothing may have come before something begins.
const QUIET: Duration = Duration::from_millis(100);
/// How often it is looked whether something that waits may begin, and whether something waits.
const POLL: Duration = Duration::from_millis(10);
const REST: Duration = Duration::from_millis(200);

/// What runs for nobody.
pub(crate) struct Idle(Mutex<Running>);

struct Running {
    aborters: Vec<Aborter>,
    last_came: Instant,
}

impl Default for Idle {
    fn default() -> Self {
        Idle(Mutex::new(Running { aborters: Vec::new(), last_came: Instant::now() }))
    }
}

impl Idle {
    /// A client's request comes: what runs ends, its step included (on `candle`: after its step).
    pub(crate) fn make_way(&self) {
        let mut running = self.running();
        running.last_came = Instant::now();
        running.aborters.drain(..).for_each(|aborter| aborter.abort());
    }

    /// Starts something and reads it to its end. `None` when somebody came meanwhile. One at a time.
    pub(crate) fn run<T, E>(
        &self,
        begin: impl FnOnce() -> Result<Vec<GenerateStream>, E>,
        read: impl FnOnce(Vec<GenerateStream>) -> T,
    ) -> Result<Option<T>, E> {
        let began = Instant::now();
        // Clients do not wait for the lock while a prompt is made into tokens.
        let streams = begin()?;
        {
            let mut running = self.running();
            running.aborters = streams.iter().map(GenerateStream::aborter).collect();
            if running.last_came >= began {
                running.aborters.drain(..).for_each(|aborter| aborter.abort());
            }
        }
        let found = read(streams);
        let mut running = self.running();
        running.aborters.clear();
        Ok((running.last_came < began).then_some(found))
    }

    fn is_quiet(&self) -> bool {
        self.running().last_came.elapsed() >= QUIET
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives idle slots away, on a thread of its own. Ends with the server.
pub(crate) fn run(app: &Weak<App>) {
    let mut is_turn_of_cache = true;
    loop {
        let Some(now) = app.upgrade() else { return };
        if now.is_draining() {
            return;
        }
        probes::look(&now);
        let waits = something_waits(&now);
        let did_something = waits
            && is_idle(&now)
            && (probes::turn(&now) || alternate(&now, &mut is_turn_of_cache));
        if !did_something {
            drop(now);
            std::thread::sleep(if waits { POLL } else { REST });
        }
    }
}

/// How long the oldest probe that is due and the oldest copy wait for an idle slot; zero where none does. Never waits.
pub(crate) fn overdue(app: &App) -> [(&'static str, Duration); 2] {
    let (probe, copy) = (app.probes.overdue(), app.shadow.overdue(app));
    [("probe", probe.unwrap_or_default()), ("copy", copy.unwrap_or_default())]
}

fn something_waits(app: &App) -> bool {
    probes::is_due(app) || shadow::waits(app) || response_cache::waits(app)
}

/// Neither hits nor copies wait for all of the others.
fn alternate(app: &App, is_turn_of_cache: &mut bool) -> bool {
    *is_turn_of_cache = !*is_turn_of_cache;
    match *is_turn_of_cache {
        true => response_cache::turn(app) || shadow::turn(app),
        false => shadow::turn(app) || response_cache::turn(app),
    }
}

fn is_idle(app: &App) -> bool {
    let is_free = |runtime: &Arc<Runtime>| {
        let stats = runtime.stats();
        stats.n_running == 0 && stats.n_waiting == 0
    };
    // A load that waits needs models that nobody holds.
    app.idle.is_quiet() && !app.models.is_loading() && app.models.engines().iter().all(is_free)
}
