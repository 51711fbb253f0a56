//! The keys that a server knows, and who holds one.
//!
//! It must never open up by itself: a server that once asked for keys asks for them until it ends,
//! even when the key file is taken away.
//!
//! Start reading at [`KeyRing::authenticate`].

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use lm_types::TenantId;

use crate::{Amounts, KeyError, KeyId, KeyLimits, KeyRecord, KeyState, Meter, Now, Scope, secret};

/// The keys that a server knows.
#[derive(Debug, Default)]
pub struct KeyRing(RwLock<State>);

/// Somebody who showed a key.
#[derive(Debug)]
pub struct Holder {
    /// What is known of the key.
    pub record: KeyRecord,
    /// What it has used.
    pub meter: Arc<Meter>,
    hash: blake3::Hash,
}

/// Why a key opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthError {
    /// No such key.
    Unknown,
    /// The key's time is over.
    Expired {
        /// When it ended, in Unix seconds.
        at: u64,
    },
    /// The key was taken back.
    Revoked {
        /// When, in Unix seconds.
        at: u64,
    },
}

#[derive(Debug, Default)]
struct State {
    is_required: bool,
    by_id: BTreeMap<KeyId, Arc<Holder>>,
    /// Those that are in the file no more, as long as they used something today: one that comes back goes on from there.
    gone: BTreeMap<KeyId, Arc<Holder>>,
    /// The one that was given when the server was started, rather than in the file.
    fixed: Option<Arc<Holder>>,
}

impl KeyRing {
    /// Asks for keys from now on, whichever there are.
    pub fn require(&self) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).is_required = true;
    }

    /// Adds a key that is not in any file: all scopes, no limits.
    ///
    /// # Errors
    /// A key that is too short or cannot be sent in a header.
    pub fn set_fixed(&self, key: &str, now: Now) -> Result<(), KeyError> {
        if key.is_empty() {
            return Err(KeyError::EmptyFixedKey);
        }
        let n_chars = key.chars().count();
        if !(16..=256).contains(&n_chars) || !key.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(KeyError::BadFixedKey { n_chars });
        }
        let hash = secret::hash(key);
        // The same key is the same tenant after a restart.
        let id = u64::from_le_bytes(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes"));
        let limits = KeyLimits::default();
        let record = KeyRecord {
            id: KeyId(id.max(1)),
            name: "fixed".to_owned(),
            hash: hash.to_hex().to_string(),
            scopes: vec![Scope::Infer, Scope::Ops, Scope::Metrics],
            created_at: now.unix_s,
            expires_at: None,
            revoked_at: None,
            limits,
        };
        let meter = Arc::new(Meter::new(limits, Amounts::default(), now));
        let mut state = self.0.write().unwrap_or_else(PoisonError::into_inner);
        state.fixed = Some(Arc::new(Holder { record, meter, hash }));
        state.is_required = true;
        Ok(())
    }

    /// Knows these keys from now on, and no others besides the fixed one; `None` is no file. What a
    /// key has used stays, also under other limits, and for the day when it is not in the file for a while; `spent_today`
    /// is asked for keys that were not known before, and its `None` is not known either.
    pub fn replace(
        &self,
        records: Option<Vec<KeyRecord>>,
        spent_today: impl Fn(TenantId) -> Option<Amounts>,
        now: Now,
    ) {
        let (before, mut gone) = {
            let state = self.lock();
            (state.by_id.clone(), state.gone.clone())
        };
        let is_required = records.as_ref().is_some_and(|records| !records.is_empty());
        let holder = |record: KeyRecord| {
            // The file was checked when it was read.
            let hash = blake3::Hash::from_hex(&record.hash).ok()?;
            let known = before.get(&record.id).or_else(|| gone.get(&record.id));
            let spent = || spent_today(record.id.tenant());
            let meter = match known {
                Some(old) => Arc::clone(&old.meter),
                None => Arc::new(match spent() {
                    Some(spent) => Meter::new(record.limits, spent, now),
                    None => Meter::unread(record.limits, now),
                }),
            };
            if !meter.knows_day(now)
                && let Some(spent) = spent()
            {
                meter.learn_day(spent, now);
            }
            if known.is_some_and(|old| old.record.limits != record.limits) {
                meter.change_limits(record.limits, now);
            }
            Some((record.id, Arc::new(Holder { record, meter, hash })))
        };
        let by_id: BTreeMap<_, _> = records.into_iter().flatten().filter_map(holder).collect();
        gone.extend(before);
        gone.retain(|id, holder| !by_id.contains_key(id) && !holder.meter.is_untouched(now));
        let mut state = self.0.write().unwrap_or_else(PoisonError::into_inner);
        (state.by_id, state.gone) = (by_id, gone);
        state.is_required |= is_required;
    }

    /// Whether it is known what a key used on the day of `now`.
    #[must_use]
    pub fn knows_day(&self, id: KeyId, now: Now) -> bool {
        let state = self.lock();
        let holder = state.by_id.get(&id).or_else(|| state.gone.get(&id));
        holder.is_some_and(|holder| holder.meter.knows_day(now))
    }

    /// Whether the daily budget of a key of the file cannot be asked, because [`KeyRing::replace`] was not told what was
    /// used of it.
    #[must_use]
    pub fn has_unread(&self, now: Now) -> bool {
        let state = self.lock();
        let is_unread =
            |holder: &Arc<Holder>| holder.record.limits.has_daily() && !holder.meter.knows_day(now);
        state.by_id.values().any(is_unread)
    }

    /// Tells what was used today to all keys that were not told.
    pub fn learn_days(&self, spent_today: impl Fn(TenantId) -> Amounts, now: Now) {
        let state = self.lock();
        for holder in state.by_id.values().chain(state.gone.values()) {
            if !holder.meter.knows_day(now) {
                holder.meter.learn_day(spent_today(holder.record.id.tenant()), now);
            }
        }
    }

    /// Whether requests must show a key.
    #[must_use]
    pub fn is_required(&self) -> bool {
        self.lock().is_required
    }

    /// Keys of the file, whether or not they open anything.
    #[must_use]
    pub fn n_filed(&self) -> usize {
        self.lock().by_id.len()
    }

    /// Keys that open something.
    #[must_use]
    pub fn n_valid(&self, now: Now) -> usize {
        let state = self.lock();
        let is_valid = |holder: &&Arc<Holder>| holder.record.state(now.unix_s) == KeyState::Valid;
        state.by_id.values().chain(&state.fixed).filter(is_valid).count()
    }

    /// Who holds `key`.
    ///
    /// # Errors
    /// Why it opens nothing. Only who knows the whole key hears that it is expired or revoked.
    pub fn authenticate(&self, key: &str, now: Now) -> Result<Arc<Holder>, AuthError> {
        // Hashed first, so that nothing is learned from how long an unknown id takes.
        let hash = secret::hash(key);
        let state = self.lock();
        let named = secret::claimed_id(key).and_then(|id| state.by_id.get(&id));
        let mut holders = [named, state.fixed.as_ref()].into_iter().flatten();
        // The comparison of hashes takes the same time for all.
        let holder = holders.find(|holder| holder.hash == hash).ok_or(AuthError::Unknown)?;
        match (holder.record.revoked_at, holder.record.expires_at) {
            (Some(at), _) => Err(AuthError::Revoked { at }),
            (None, Some(at)) if at <= now.unix_s => Err(AuthError::Expired { at }),
            _ => Ok(Arc::clone(holder)),
        }
    }

    /// Whether a tenant's key was taken back, or is in no file any more. Who came without a key had none.
    #[must_use]
    pub fn is_revoked(&self, tenant: TenantId) -> bool {
        let state = self.lock();
        let is_fixed = state.fixed.as_ref().is_some_and(|fixed| fixed.record.id.tenant() == tenant);
        let filed = state.by_id.get(&KeyId(tenant.0));
        tenant != TenantId::ANONYMOUS
            && !is_fixed
            && filed.is_none_or(|holder| holder.record.revoked_at.is_some())
    }

    /// The meter of a tenant; who came without a key of the file has none. What a key that was taken out of it still
    /// runs counts, too.
    #[must_use]
    pub fn meter(&self, tenant: TenantId) -> Option<Arc<Meter>> {
        let (state, id) = (self.lock(), KeyId(tenant.0));
        let holder = state.by_id.get(&id).or_else(|| state.gone.get(&id));
        holder.map(|holder| Arc::clone(&holder.meter))
    }

    /// Keys of the file that open something.
    #[must_use]
    pub fn valid(&self, now: Now) -> Vec<Arc<Holder>> {
        let state = self.lock();
        let is_valid = |holder: &&Arc<Holder>| holder.record.state(now.unix_s) == KeyState::Valid;
        state.by_id.values().filter(is_valid).cloned().collect()
    }

    fn lock(&self) -> RwLockReadGuard<'_, State> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Holder {
    /// Whether the key opens this.
    #[must_use]
    pub fn may(&self, scope: Scope) -> bool {
        self.record.scopes.contains(&scope)
    }
}
