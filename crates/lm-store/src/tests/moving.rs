//! Copies of a store that are made more than once.

use super::*;
use crate::{Erase, Migrated, Missing, Reader, migrate};

fn moved(tables: &[Migrated], name: &str) -> [u64; 3] {
    let table = tables.iter().find(|table| table.table == name).unwrap();
    [table.rows, table.copied, table.erased]
}

#[test]
pub(super) fn what_was_erased_since_an_earlier_copy_is_not_kept() {
    let (from, to) = (Home::new(), Home::new());
    let store = from.open();
    record_all(&store, 0..700);
    store.feedback(thumb_up(3)).unwrap();
    let copy = |missing| migrate(&from.path(), &to.path(), missing);
    assert_eq!(moved(&copy(Missing::Refuse).unwrap(), "request"), [700, 700, 0]);
    for id in [3, 650] {
        store.erase(Erase::Request(RequestId(id))).unwrap();
    }
    record_all(&store, 700..703);
    store.flush().unwrap();
    let there = || Reader::open(&to.path()).unwrap();
    // Nobody can tell whether they were erased here or written there.
    let refused = copy(Missing::Refuse).unwrap_err();
    let is_named = matches!(&refused, StoreError::OnlyThere { n: 2, first, .. }
        if *first == RequestId(3).to_string());
    assert!(is_named, "{refused}");
    assert_eq!(there().counts().unwrap().requests, 700, "nothing was copied");
    let kept = copy(Missing::Keep).unwrap();
    assert_eq!(moved(&kept, "request"), [701, 3, 0]);
    assert!(there().request(RequestId(3)).unwrap().is_some());
    let erased = copy(Missing::Erase).unwrap();
    assert_eq!(moved(&erased, "request"), [701, 0, 2]);
    assert_eq!(moved(&erased, "feedback"), [0, 0, 1]);
    assert!(there().request(RequestId(3)).unwrap().is_none());
    assert!(there().feedback_for(RequestId(3)).unwrap().is_empty());
    assert_eq!(there().counts().unwrap(), Reader::open(&from.path()).unwrap().counts().unwrap());
    assert_eq!(moved(&copy(Missing::Refuse).unwrap(), "request"), [701, 0, 0]);
}
