//! What all handlers share.
//!
//! It must never be locked while a handler waits.
//!
//! Start reading at [`App`].

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use lastmile::{GenerateError, RequestId};
use lm_api::ApiError;
use lm_keys::KeyId;
use lm_ops::Ops;
use tokio::sync::{Semaphore, watch};
use uuid::Uuid;

use crate::aborts::Aborts;
use crate::auth::Caller;
use crate::body::MAX_DISCARDS;
use crate::clock::Clock;
use crate::idle::Idle;
use crate::ingest_routes::MAX_UPLOADS;
use crate::lease::{Lease, Place};
use crate::panel::Panel;
use crate::peers::Peers;
use crate::probes::Probes;
use crate::registry::Models;
use crate::response_cache::ResponseCache;
use crate::shadow::Shadow;
use crate::{Access, ServerConfig};

/// What all handlers share.
pub(crate) struct App {
    pub(crate) models: Models,
    pub(crate) started_at: SystemTime,
    pub(crate) ops: Ops,
    pub(crate) config: ServerConfig,
    pub(crate) access: Access,
    pub(crate) open_requests: Arc<Semaphore>,
    /// Bytes that bodies may still take.
    pub(crate) body_room: Arc<Semaphore>,
    /// Bodies that may still be thrown away at once.
    pub(crate) discards: Arc<Semaphore>,
    /// Bodies of rows that may still be received at once.
    pub(crate) uploads: Arc<Semaphore>,
    pub(crate) peers: Arc<Peers>,
    /// Answers that another request may end.
    pub(crate) aborts: Arc<Aborts>,
    pub(crate) http: HttpCounts,
    pub(crate) denials: DenialCounts,
    pub(crate) limited: LimitedCounts,
    pub(crate) panel: Panel,
    /// What runs when nobody asks: copies for candidates of experiments, and probes.
    pub(crate) idle: Arc<Idle>,
    pub(crate) shadow: Shadow,
    pub(crate) probes: Probes,
    pub(crate) response_cache: Arc<ResponseCache>,
    pub(crate) clock: Clock,
    draining: watch::Sender<bool>,
    n_stalls: AtomicU64,
}

/// Responses by route and status. The routes are those of the router, so there are few.
#[derive(Default)]
pub(crate) struct HttpCounts(Mutex<BTreeMap<(String, u16), u64>>);

/// Requests that were turned away for their key, by code.
#[derive(Default)]
pub(crate) struct DenialCounts(Mutex<BTreeMap<&'static str, u64>>);

/// Requests of known keys that were turned away, by key and code. The keys are those of the file.
#[derive(Default)]
pub(crate) struct LimitedCounts(Mutex<BTreeMap<(String, &'static str), u64>>);

impl LimitedCounts {
    pub(crate) fn count(&self, key: KeyId, code: &'static str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry((key.to_string(), code)).or_insert(0) += 1;
    }

    pub(crate) fn all(&self) -> Vec<((String, &'static str), u64)> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().map(|(key, n)| (key.clone(), *n)).collect()
    }
}

impl DenialCounts {
    pub(crate) fn count(&self, code: &'static str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(code).or_insert(0) += 1;
    }

    pub(crate) fn all(&self) -> Vec<(&'static str, u64)> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().map(|(code, n)| (*code, *n)).collect()
    }
}

impl App {
    pub(crate) fn new(models: Models, ops: Ops, config: ServerConfig, access: Access) -> Self {
        let limit = config.max_open_requests.min(Semaphore::MAX_PERMITS);
        let body_room = config.max_open_body_bytes.min(Semaphore::MAX_PERMITS);
        App {
            body_room: Arc::new(Semaphore::new(body_room)),
            discards: Arc::new(Semaphore::new(MAX_DISCARDS)),
            uploads: Arc::new(Semaphore::new(MAX_UPLOADS)),
            peers: Arc::new(Peers::new(&config)),
            response_cache: Arc::new(ResponseCache::new(
                config.response_cache.clone(),
                Arc::clone(models.idle()),
            )),
            idle: Arc::clone(models.idle()),
            models,
            started_at: SystemTime::now(),
            ops,
            config,
            access,
            open_requests: Arc::new(Semaphore::new(limit)),
            aborts: Arc::default(),
            http: HttpCounts::default(),
            denials: DenialCounts::default(),
            limited: LimitedCounts::default(),
            panel: Panel::default(),
            shadow: Shadow::default(),
            probes: Probes::default(),
            clock: Clock::default(),
            draining: watch::Sender::new(false),
            n_stalls: AtomicU64::new(0),
        }
    }

    /// A place for one more request with a body; it is given back when the response has ended.
    pub(crate) fn admit(&self, caller: &Caller) -> Result<Place, ApiError> {
        if self.is_draining() {
            let error = GenerateError::ShuttingDown;
            return Err(ApiError::Generate { error, prompt_param: "" });
        }
        let limit = self.config.max_open_requests;
        let permit = Arc::clone(&self.open_requests)
            .try_acquire_owned()
            .map_err(|_| ApiError::TooManyRequests { limit })?;
        Ok(Place { _permit: permit, lease: Lease::begin(caller, self.ops.prices())? })
    }

    pub(crate) fn count_stall(&self) {
        self.n_stalls.fetch_add(1, Relaxed);
    }

    pub(crate) fn n_stalls(&self) -> u64 {
        self.n_stalls.load(Relaxed)
    }

    pub(crate) fn begin_drain(&self) {
        self.draining.send_replace(true);
    }

    pub(crate) fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Turns true when the server begins to drain.
    pub(crate) fn drain_began(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }
}

impl HttpCounts {
    pub(crate) fn count(&self, route: &str, status: u16) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry((route.to_owned(), status)).or_insert(0) += 1;
    }

    pub(crate) fn all(&self) -> Vec<((String, u16), u64)> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().map(|(key, n)| (key.clone(), *n)).collect()
    }
}

/// A UUID of version 7.
pub(crate) fn mint_id() -> RequestId {
    RequestId(Uuid::now_v7().as_u128())
}

pub(crate) fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
