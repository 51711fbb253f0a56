//! What is forgotten when, what is not computed again any more, and for whom idle work makes way.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use lastmile::{GenerateError, GenerateRequest, ReleaseHash};

use super::{Rig, land, request};
use crate::response_cache::recheck::ENOUGH_IDENTICAL;
use crate::response_cache::table::{Entry, Evicted, Table};
use crate::response_cache::turn;

#[test]
fn a_sweep_ages_out_from_the_oldest_on_and_forgets_releases_that_serve_no_longer() {
    let rig = Rig::new("mode=random");
    let mut table = Table::new(1 << 20, Duration::from_secs(60));
    let (start, serves) = (Instant::now(), [ReleaseHash([0; 16])]);
    let at = |seconds| start + Duration::from_secs(seconds);
    for id in 0..10 {
        land(&rig, &mut table, id, 10, at(u64::try_from(id).unwrap()));
    }
    table.sweep(&serves, at(60));
    assert_eq!(table.n_entries(), 10, "none is older than the limit");
    table.sweep(&serves, at(64));
    assert_eq!(table.n_entries(), 6);
    let gone = table.clear(Evicted::Erase);
    assert_eq!((gone.n_entries(), table.n_entries(), table.n_bytes()), (6, 0, 0));
    let n_evicted = |table: &Table, why: Evicted| table.n_evicted()[why as usize].1;
    assert_eq!((n_evicted(&table, Evicted::Age), n_evicted(&table, Evicted::Erase)), (4, 6));
    // What was forgotten is in no order any more.
    land(&rig, &mut table, 20, 10, at(65));
    table.sweep(&serves, at(66));
    assert_eq!(table.n_entries(), 1);
    table.sweep(&[], at(66));
    assert_eq!((table.n_entries(), table.n_bytes()), (0, 0));
    assert_eq!(n_evicted(&table, Evicted::Release), 1);
}

#[test]
fn what_was_forgotten_meanwhile_is_not_computed_again() {
    let rig = Rig::new("mode=random");
    let asked = request("erased", 8);
    let (_, answer) = rig.start(&asked);
    rig.read(answer);
    rig.start(&asked);
    let check = rig.cache().waiting().pop_front().unwrap();
    // It made way, and the answer is erased before it waits again.
    drop(rig.cache().empty(Evicted::Erase));
    rig.cache().let_wait(check);
    assert!(!turn(&rig.app), "nothing waits");
    assert_eq!(rig.count(|c| &c.unchecked), 1);
}

#[test]
fn a_mismatch_is_told_of_until_many_hits_were_the_same_again() {
    let rig = Rig::new("mode=random");
    let asked = request("mismatch", 8);
    let (_, answer) = rig.start(&asked);
    rig.read(answer);
    rig.cache().table().corrupt(|entry: &mut Entry| entry.said.tokens[3] ^= 1);
    rig.start(&asked);
    assert!(turn(&rig.app));
    assert!(rig.cache().mismatches().is_some());
    rig.cache().counts.identical.fetch_add(ENOUGH_IDENTICAL - 1, Relaxed);
    assert!(rig.cache().mismatches().is_some());
    rig.cache().counts.identical.fetch_add(1, Relaxed);
    assert_eq!(rig.cache().mismatches(), None);
}

#[test]
fn idle_work_makes_way_for_what_is_computed_and_not_for_what_is_told() {
    let rig = Rig::new("mode=random");
    let made_way = |asked: &GenerateRequest| {
        let begin = || {
            let (_, answer) = rig.start(asked);
            rig.read(answer);
            Ok::<_, GenerateError>(Vec::new())
        };
        rig.app.idle.run(begin, |_| ()).unwrap().is_none()
    };
    assert!(made_way(&request("way", 4)), "it is computed");
    assert!(!made_way(&request("way", 4)), "it is told");
}

#[test]
fn idle_work_makes_way_for_a_load_and_not_for_a_model_that_is_there() {
    let rig = Rig::new("mode=random");
    let made_way = || {
        let begin = || {
            drop(rig.tokio.block_on(rig.app.models.resolve(None)).unwrap());
            Ok::<_, GenerateError>(Vec::new())
        };
        rig.app.idle.run(begin, |_| ()).unwrap().is_none()
    };
    assert!(!made_way(), "it is there");
    assert!(rig.app.models.unload("placeholder").unwrap());
    assert!(made_way(), "it is loaded");
    assert!(!rig.app.models.is_loading(), "the load has ended");
}
