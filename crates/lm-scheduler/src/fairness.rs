//! How much each tenant was served, and so whose turn it is.
//!
//! A virtual token counter for each tenant, as in Sheng et al. 2024, "Fairness in Serving Large Language
//! Models": prompt tokens that were computed and, twice, tokens that were generated. The least served
//! tenant is next. A tenant that comes with nothing waiting starts no lower than the last one that was
//! admitted, so that nobody saves up credit, and nobody pays for what they used while nobody else
//! wanted it.
//!
//! Start reading at [`Tenants`].

use std::collections::BTreeMap;

use lm_types::TenantId;

/// What a generated token counts, in prompt tokens.
const OUTPUT_WEIGHT: u64 = 2;
/// Tenants without a sequence that are remembered; of more, the least served are forgotten.
const MAX_IDLE: usize = 4096;

/// The tenants that have sequences, and those that had.
#[derive(Debug, Default)]
pub(crate) struct Tenants {
    by_id: BTreeMap<TenantId, Tenant>,
    /// What the last admitted tenant had been served. Never falls.
    level: u64,
    n_idle: usize,
}

/// One tenant.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tenant {
    /// Tokens, weighted.
    pub(crate) served: u64,
    /// Sequences in the scheduler.
    pub(crate) n_sequences: usize,
    /// Sequences that wait.
    pub(crate) n_waiting: usize,
    /// Sequences that run.
    pub(crate) n_slots: usize,
}

impl Tenants {
    pub(crate) fn get(&self, id: TenantId) -> Tenant {
        self.by_id.get(&id).copied().unwrap_or_default()
    }

    /// What the last admitted tenant had been served: where a newcomer starts.
    pub(crate) fn level(&self) -> u64 {
        self.level
    }

    /// Tenants that have sequences.
    pub(crate) fn active(&self) -> impl Iterator<Item = (TenantId, Tenant)> {
        self.by_id.iter().filter(|(_, t)| t.n_sequences > 0).map(|(id, t)| (*id, *t))
    }

    /// A sequence of this tenant begins to wait, for the first time or not.
    pub(crate) fn joins(&mut self, id: TenantId) {
        let (level, is_known) = (self.level, self.by_id.contains_key(&id));
        let tenant = self.by_id.entry(id).or_default();
        if is_known && tenant.n_sequences == 0 {
            self.n_idle -= 1;
        }
        tenant.n_sequences += 1;
        if tenant.n_waiting == 0 {
            tenant.served = tenant.served.max(level);
        }
        tenant.n_waiting += 1;
    }

    /// A sequence leaves the scheduler.
    pub(crate) fn leaves(&mut self, id: TenantId, was_waiting: bool) {
        let tenant = self.of(id);
        tenant.n_sequences -= 1;
        if was_waiting {
            tenant.n_waiting -= 1;
        } else {
            tenant.n_slots -= 1;
        }
        if tenant.n_sequences > 0 {
            return;
        }
        let served = tenant.served;
        self.n_idle += 1;
        if self.n_idle == self.by_id.len() {
            // Nobody is left to be fair to, so whoever comes next starts level with everybody.
            let most = self.by_id.values().map(|tenant| tenant.served).max();
            self.level = self.level.max(most.unwrap_or(0));
            self.by_id.clear();
            self.n_idle = 0;
        } else if served <= self.level {
            self.forget(id);
        } else if self.n_idle > MAX_IDLE {
            let idle = self.by_id.iter().filter(|(_, tenant)| tenant.n_sequences == 0);
            let least = idle.min_by_key(|(id, tenant)| (tenant.served, **id)).map(|(id, _)| *id);
            least.into_iter().for_each(|id| self.forget(id));
        }
    }

    /// A waiting sequence gets a slot.
    pub(crate) fn admitted(&mut self, id: TenantId) {
        let tenant = self.of(id);
        tenant.n_waiting -= 1;
        tenant.n_slots += 1;
        let served = tenant.served;
        self.level = self.level.max(served);
    }

    /// A running sequence loses its slot.
    pub(crate) fn suspended(&mut self, id: TenantId) {
        let tenant = self.of(id);
        tenant.n_slots -= 1;
        tenant.n_waiting += 1;
    }

    pub(crate) fn charge(&mut self, id: TenantId, n_prompt: usize, n_generated: usize) {
        self.of(id).served += n_prompt as u64 + OUTPUT_WEIGHT * n_generated as u64;
    }

    fn of(&mut self, id: TenantId) -> &mut Tenant {
        self.by_id.get_mut(&id).expect("a tenant with sequences is known: this is a bug")
    }

    fn forget(&mut self, id: TenantId) {
        self.by_id.remove(&id);
        self.n_idle -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: TenantId = TenantId(1);
    const B: TenantId = TenantId(2);

    fn serve(tenants: &mut Tenants, id: TenantId, tokens: usize) {
        tenants.joins(id);
        tenants.admitted(id);
        tenants.charge(id, tokens, 0);
    }

    #[test]
    fn who_comes_late_has_neither_credit_nor_debt() {
        let mut tenants = Tenants::default();
        serve(&mut tenants, A, 1000);
        serve(&mut tenants, A, 500);
        tenants.joins(B);
        // A's second sequence was admitted when A had been served 1000.
        assert_eq!((tenants.get(A).served, tenants.get(B).served), (1500, 1000));
        tenants.admitted(B);
        tenants.charge(B, 0, 400);
        assert_eq!(tenants.get(B).served, 1800);
        tenants.leaves(B, false);
        // B was served more than its turn and comes back with that.
        tenants.joins(B);
        assert_eq!(tenants.get(B).served, 1800);
    }

    #[test]
    fn what_was_used_alone_is_not_held_against_anybody() {
        let mut tenants = Tenants::default();
        serve(&mut tenants, A, 1_000_000);
        tenants.leaves(A, false);
        tenants.joins(B);
        tenants.joins(A);
        assert_eq!(tenants.get(A).served, tenants.get(B).served);
    }

    #[test]
    fn memory_of_the_idle_is_bounded() {
        let mut tenants = Tenants::default();
        tenants.joins(A);
        for i in 0..2 * MAX_IDLE as u64 {
            serve(&mut tenants, TenantId(10 + i), 10 + i as usize);
        }
        for i in 0..2 * MAX_IDLE as u64 {
            tenants.leaves(TenantId(10 + i), false);
        }
        assert!(tenants.by_id.len() <= MAX_IDLE + 1);
        tenants.leaves(A, true);
        assert!(tenants.by_id.len() <= MAX_IDLE + 1);
    }
}
