//! Sequences without a slot, in the order in which they get one.
//!
//! Start reading at [`WaitingQueue::next`].

use std::collections::BTreeMap;

use lm_types::{Priority, SeqId, TenantId};

use crate::fairness::Tenants;

/// First come, first served for each class and tenant; between tenants the least served is next, and
/// between classes the higher.
#[derive(Debug, Default)]
pub(crate) struct WaitingQueue {
    /// By arrival. No queue is empty.
    queues: BTreeMap<(Priority, TenantId), BTreeMap<u64, SeqId>>,
    n_waiting: usize,
}

/// Whose turn it is: class, then what the tenant was served, then its running sequences, then arrival.
/// Smaller is earlier.
pub(crate) type Turn = (Priority, u64, usize, u64);

impl WaitingQueue {
    pub(crate) fn len(&self) -> usize {
        self.n_waiting
    }

    pub(crate) fn push(&mut self, class: Priority, tenant: TenantId, arrival: u64, id: SeqId) {
        let before = self.queues.entry((class, tenant)).or_default().insert(arrival, id);
        assert!(before.is_none(), "a sequence waits once");
        self.n_waiting += 1;
    }

    /// Says whether it was there.
    pub(crate) fn remove(&mut self, class: Priority, tenant: TenantId, arrival: u64) -> bool {
        let Some(queue) = self.queues.get_mut(&(class, tenant)) else { return false };
        let was_there = queue.remove(&arrival).is_some();
        if queue.is_empty() {
            self.queues.remove(&(class, tenant));
        }
        self.n_waiting -= usize::from(was_there);
        was_there
    }

    pub(crate) fn contains(&self, class: Priority, tenant: TenantId, arrival: u64) -> bool {
        self.queues.get(&(class, tenant)).is_some_and(|queue| queue.contains_key(&arrival))
    }

    /// Whose turn it is.
    pub(crate) fn next(&self, tenants: &Tenants) -> Option<(Turn, SeqId)> {
        let best_class = self.best_class()?;
        let in_class =
            self.queues.range((best_class, TenantId(0))..=(best_class, TenantId(u64::MAX)));
        let heads = in_class.filter_map(|((class, tenant), queue)| {
            let (&arrival, &id) = queue.first_key_value()?;
            let tenant = tenants.get(*tenant);
            Some(((*class, tenant.served, tenant.n_slots, arrival), id))
        });
        heads.min_by_key(|(turn, _)| *turn)
    }

    /// The highest class that waits.
    pub(crate) fn best_class(&self) -> Option<Priority> {
        self.queues.keys().next().map(|(class, _)| *class)
    }

    /// The first of each tenant's sequences in a class.
    pub(crate) fn heads(&self, class: Priority) -> impl Iterator<Item = SeqId> {
        let of_class = move |(key, _): &(&(Priority, TenantId), _)| key.0 == class;
        let first = |(_, queue): (_, &BTreeMap<u64, SeqId>)| queue.values().next().copied();
        self.queues.iter().filter(of_class).filter_map(first)
    }
}
