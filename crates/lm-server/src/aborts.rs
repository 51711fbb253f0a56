//! Answers that run, by the ids of their requests, so that another request can end them.
//!
//! It must never keep an answer: what is over is forgotten.
//!
//! Start reading at [`Aborts::abort`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lastmile::{Aborter, RequestId, TenantId};

/// The running answers; as many as there are open requests.
#[derive(Default)]
pub(crate) struct Aborts(Mutex<BTreeMap<RequestId, (TenantId, Vec<Aborter>)>>);

/// Forgets its requests when dropped.
pub(crate) struct Listed {
    aborts: Arc<Aborts>,
    ids: Vec<RequestId>,
}

impl Aborts {
    /// Lists the answers of requests of `tenant`.
    pub(crate) fn list(
        self: &Arc<Self>,
        tenant: TenantId,
        running: Vec<(RequestId, Vec<Aborter>)>,
    ) -> Listed {
        let ids = running.iter().map(|(id, _)| *id).collect();
        self.lock().extend(running.into_iter().map(|(id, aborters)| (id, (tenant, aborters))));
        Listed { aborts: Arc::clone(self), ids }
    }

    /// Ends the answers of a request of `tenant`; `false` when none of this id runs.
    pub(crate) fn abort(&self, tenant: TenantId, id: RequestId) -> bool {
        let running = self.lock();
        let Some((_, aborters)) = running.get(&id).filter(|(owner, _)| *owner == tenant) else {
            return false;
        };
        aborters.iter().for_each(Aborter::abort);
        true
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<RequestId, (TenantId, Vec<Aborter>)>> {
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
