//! Answers that run, by the ids of their requests, so that another request can end them.
//!
//! It must never keep an answer: what is over is forgotten.
//!
//! Start reading at [`Aborts::abort`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lastmile::{RequestId, TenantId};

use crate::response_cache::Ender;

/// The running answers; as many as there are open requests.
#[derive(Default)]
pub(crate) struct Aborts(Mutex<BTreeMap<RequestId, Answers>>);

/// The running answers of one request.
struct Answers {
    tenant: TenantId,
    route: &'static str,
    enders: Vec<Ender>,
}

/// Forgets its requests when dropped.
pub(crate) struct Listed {
    aborts: Arc<Aborts>,
    ids: Vec<RequestId>,
}

impl Aborts {
    /// Lists the answers of requests of `tenant` that came by `route`.
    pub(crate) fn list(
        self: &Arc<Self>,
        tenant: TenantId,
        route: &'static str,
        running: Vec<(RequestId, Vec<Ender>)>,
    ) -> Listed {
        let ids = running.iter().map(|(id, _)| *id).collect();
        let answers = |enders| Answers { tenant, route, enders };
        self.lock().extend(running.into_iter().map(|(id, enders)| (id, answers(enders))));
        Listed { aborts: Arc::clone(self), ids }
    }

    /// Ends the answers of a request of `tenant`; `false` when none of this id runs.
    pub(crate) fn abort(&self, tenant: TenantId, id: RequestId) -> bool {
        let running = self.lock();
        let Some(answers) = running.get(&id).filter(|answers| answers.tenant == tenant) else {
            return false;
        };
        answers.enders.iter().for_each(Ender::end);
        true
    }

    /// Ends the answers of all requests that came by a route. Says of how many.
    pub(crate) fn abort_route(&self, route: &str) -> usize {
        let running = self.lock();
        let of_route = running.values().filter(|answers| answers.route == route);
        of_route.inspect(|answers| answers.enders.iter().for_each(Ender::end)).count()
    }

    /// Ends the answers of all requests of tenants that `is_out` names. Says of how many requests.
    pub(crate) fn abort_tenants(&self, is_out: impl Fn(TenantId) -> bool) -> usize {
        let running = self.lock();
        let of_tenants = running.values().filter(|answers| is_out(answers.tenant));
        of_tenants.inspect(|answers| answers.enders.iter().for_each(Ender::end)).count()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<RequestId, Answers>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut running = self.aborts.lock();
        for id in &self.ids {
            running.remove(id);
        }
    }
}
