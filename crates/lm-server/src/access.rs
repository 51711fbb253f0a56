//! What may change while the server runs: its keys and its certificate.
//!
//! It must never open up when something cannot be read: then what was there before stays.
//!
//! Start reading at [`Access`], then [`keep_current`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lastmile::TenantId;
use lm_keys::{Amounts, DAY_S, KeyError, KeyFile, KeyRecord, KeyRing, Stamp};
use lm_ops::{CostLine, Ops, StoreError};
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::MissedTickBehavior;

use crate::app::App;
use crate::auth::now;
use crate::{ServiceManager, Tls};

/// How often the key file is looked at. A key that was revoked works at most so much longer, and so do its answers.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How often it is said again that the key file cannot be read.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// What was seen of the key file.
#[derive(Clone, Copy, Default)]
struct Seen {
    stamp: Option<Stamp>,
    /// When it was said last that it cannot be read; `None` when it can.
    failed: Option<Instant>,
}

/// Who gets in, and how. The default is a server that anybody may use, without TLS.
#[derive(Clone, Default)]
pub struct Access {
    /// The keys.
    pub keys: Arc<KeyRing>,
    /// Where they are read from again.
    pub key_file: Option<KeyFile>,
    /// The certificate; `None` is plain HTTP.
    pub tls: Option<Arc<Tls>>,
    /// Reads keys and certificate again each time it is notified, as at SIGHUP.
    pub reload: Arc<Notify>,
    /// Who is told that the server is ready, stops, and lives.
    pub service_manager: Arc<ServiceManager>,
}

impl Access {
    /// Reads the keys; what each that is new has used today is asked of the store, and where that cannot be read, who
    /// has a daily budget is refused until it can. Blocks.
    ///
    /// # Errors
    /// A key file that cannot be read, or is gone although keys came from it. The keys that were known before stay.
    pub fn load_keys(&self, ops: &Ops) -> Result<(), KeyError> {
        let Some(file) = &self.key_file else { return Ok(()) };
        let records = file.read()?;
        if records.is_none() && self.keys.n_filed() > 0 {
            return Err(KeyError::Gone { path: file.path().to_owned() });
        }
        let mut all = records.iter().flatten();
        // A store that is slow to refuse must not hold up that a key is revoked.
        let is_known = all.all(|record| self.keys.knows_day(record.id, now()));
        let spent = if is_known { Some(BTreeMap::new()) } else { told_spent_today(ops) };
        let spent_by = |tenant: TenantId| {
            spent.as_ref().map(|spent| spent.get(&tenant).copied().unwrap_or_default())
        };
        let has_cost = |record: &KeyRecord| record.limits.daily_cost.is_some();
        if !ops.prices().are_set() && records.iter().flatten().any(has_cost) {
            tracing::warn!("a key has daily_cost, but no prices are set: nothing costs anything");
        }
        self.keys.replace(records, spent_by, now());
        Ok(())
    }

    /// Asks the store again what could not be read. Blocks.
    fn learn_days(&self, ops: &Ops) {
        if !self.keys.has_unread(now()) {
            return;
        }
        match spent_today(ops) {
            Ok(spent) => {
                let spent_by = |tenant: TenantId| spent.get(&tenant).copied().unwrap_or_default();
                self.keys.learn_days(spent_by, now());
                tracing::info!("what keys used today is read: daily budgets are open again");
            }
            // It was said when it failed first, and each refused request says it.
            Err(error) => tracing::debug!(%error, "what keys used today is still not read"),
        }
    }
}

fn told_spent_today(ops: &Ops) -> Option<BTreeMap<TenantId, Amounts>> {
    let spent = spent_today(ops).inspect_err(|error| {
        let what =
            "what keys used today cannot be read: who has a daily budget is refused until it can";
        tracing::error!(%error, "{what}");
    });
    spent.ok()
}

fn spent_today(ops: &Ops) -> Result<BTreeMap<TenantId, Amounts>, StoreError> {
    let midnight_s = now().unix_s / DAY_S * DAY_S;
    let midnight: SystemTime = UNIX_EPOCH + Duration::from_secs(midnight_s);
    let spent = ops.spent_by_key(midnight)?;
    let amounts = |(tenant, line): (TenantId, CostLine)| {
        let tokens = line.prompt_tokens + line.completion_tokens;
        let cost = line.cost.get(&ops.prices().currency).copied().unwrap_or(0.0);
        (tenant, Amounts { tokens, cpu_seconds: line.cpu_seconds, cost })
    };
    Ok(spent.into_iter().map(amounts).collect())
}

/// Reads the key file again when it was replaced, and everything when told so. Never ends.
pub(crate) async fn keep_current(app: Arc<App>) {
    let access = &app.access;
    // The file may have been replaced since it was read, so the first look reads it.
    let mut seen = Seen::default();
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let was_told = tokio::select! {
            _ = ticks.tick() => false,
            () = access.reload.notified() => true,
        };
        let (task_app, before) = (Arc::clone(&app), seen);
        let looked = spawn_blocking(move || look(&task_app, before, was_told)).await;
        seen = looked.unwrap_or(seen);
        // Each time, as a request may have been let in just before its key was read as revoked.
        let n_ended = app.aborts.abort_tenants(|tenant| access.keys.is_revoked(tenant));
        if n_ended > 0 {
            tracing::warn!(n_ended, "answers for revoked keys ended");
        }
    }
}

/// Blocks. A key file that could not be read is tried again each time.
fn look(app: &App, before: Seen, was_told: bool) -> Seen {
    let access = &app.access;
    // Taken first: a file that is replaced meanwhile is read again.
    let stamp = access.key_file.as_ref().and_then(KeyFile::stamp);
    if was_told {
        access.service_manager.say_reloading();
    }
    let is_new = was_told || stamp != before.stamp;
    let mut failed = before.failed;
    if is_new || failed.is_some() {
        match access.load_keys(&app.ops) {
            Ok(()) => {
                failed = None;
                let n_valid = access.keys.n_valid(now());
                tracing::info!(n_valid, required = access.keys.is_required(), "keys read again");
            }
            Err(error) => {
                if is_new || failed.is_none_or(|said| said.elapsed() >= SAY_EVERY) {
                    tracing::error!(%error, "the keys that were known before stay");
                    failed = Some(Instant::now());
                }
            }
        }
    }
    access.learn_days(&app.ops);
    if let Some(tls) = access.tls.as_ref().filter(|_| was_told) {
        match tls.reload() {
            Ok(()) => tracing::info!("certificate read again"),
            Err(error) => tracing::error!(%error, "the certificate that was in use stays"),
        }
    }
    if was_told {
        access.service_manager.say_ready();
    }
    Seen { stamp, failed }
}
