//! What the loop's pages do while somebody else writes.

use lm_api::{ApiError, OpsRefusal};
use lm_store::{Store, StoreOptions};

use crate::FeedbackLoop;

/// Others may write for half a minute; who looks at a page is told to come again, and nobody waits behind.
#[test]
fn who_judges_while_another_one_writes_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store.db"), StoreOptions::default()).unwrap();
    let path = folder.path().join("feedback.db");
    let the_loop = FeedbackLoop::new(path.clone(), &store);
    assert_eq!(the_loop.give_back("ann").unwrap(), 0);

    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = the_loop.give_back("ann").unwrap_err();
    assert!(matches!(refused, ApiError::Ops(OpsRefusal::Busy { .. })), "{refused}");
    assert!(the_loop.learning(0).is_ok(), "what is only looked at is there");
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(the_loop.give_back("ann").unwrap(), 0);
}
