//! Whose request is whose, and stores from before requests had an owner.

use lm_types::TenantId;
use rusqlite::Connection;

use super::*;
use crate::{CostBy, CostLine, Reader, schema};

const A: TenantId = TenantId(0xa);
const B: TenantId = TenantId(0xb000_0000_0000_0000);

fn event_of(tenant: TenantId, id: u128) -> RequestEvent {
    let mut event = event(id);
    event.request.tenant = tenant;
    event
}

#[test]
pub(super) fn a_foreign_request_looks_like_one_that_never_was() {
    let home = Home::new();
    let store = home.open();
    for (id, tenant) in [(1, A), (2, B), (3, TenantId::ANONYMOUS)] {
        store.record(&event_of(tenant, id));
    }
    let check = |id: u128, by: Option<TenantId>, expect: bool| {
        let found = store.feedback(Feedback { by, ..thumb_up(id) });
        let is_unknown = matches!(&found, Err(StoreError::UnknownRequest { .. }));
        assert_eq!((found.is_ok(), is_unknown), (expect, !expect), "{id} by {by:?}");
    };
    check(1, Some(A), true);
    check(2, Some(A), false);
    check(3, Some(A), false);
    check(1, Some(B), false);
    check(2, Some(B), true);
    check(3, Some(TenantId::ANONYMOUS), true);
    check(1, Some(TenantId::ANONYMOUS), false);
    (1..=3).for_each(|id| check(id, None, true));
    let tenant = |id| store.reader().request(RequestId(id)).unwrap().unwrap().tenant;
    assert_eq!(tenant(1).as_deref(), Some("000000000000000a"));
    assert_eq!(tenant(3), None);
}

#[test]
pub(super) fn traffic_is_whole_answers_with_their_prompts_oldest_first() {
    let home = Home::new();
    let store = home.open();
    record_all(&store, 1..=3);
    let failed = Outcome::Failed(GenerateError::ShuttingDown);
    store.record(&RequestEvent { outcome: failed, ..event(4) });
    store.record(&RequestEvent { choice: 1, ..event(1) });
    store.flush().unwrap();
    let found = store.reader().traffic(2).unwrap();
    assert_eq!(found.len(), 2);
    assert!(found[0].prompt["messages"][0]["content"].is_string(), "{}", found[0].prompt);
    assert_eq!((found[0].output_text.as_str(), found[0].completion_tokens), ("4", 2));
    assert!(found[0].arrived_at_ms <= found[1].arrived_at_ms);
    assert_eq!(store.reader().traffic(100).unwrap().len(), 3);
}

#[test]
pub(super) fn tokens_are_summed_by_tenant_and_a_prompt_counts_once() {
    let home = Home::new();
    let store = home.open();
    store.record(&event_of(A, 1));
    store.record(&RequestEvent { choice: 1, ..event_of(A, 1) });
    store.record(&event_of(A, 2));
    store.record(&event_of(B, 3));
    store.record(&event_of(TenantId::ANONYMOUS, 4));
    let old = SystemTime::now() - 2 * DAY;
    store.record(&RequestEvent { arrived_at: old, ..event_of(B, 5) });
    store.flush().unwrap();
    let lines = store.reader().costs(CostBy::Key, SystemTime::now() - DAY).unwrap();
    let tokens = |line: CostLine| (line.group, line.prompt_tokens + line.completion_tokens);
    let name = |tenant: TenantId| format!("{:016x}", tenant.0);
    // 10 tokens of a prompt, 2 of an answer.
    let expect = [(String::new(), 10 + 2), (name(A), 10 + 2 + 2 + 10 + 2), (name(B), 10 + 2)];
    assert_eq!(lines.into_iter().map(tokens).collect::<Vec<_>>(), expect);
}

#[test]
pub(super) fn a_store_from_before_tenants_is_upgraded_and_keeps_its_rows() {
    let home = Home::new();
    std::fs::create_dir_all(home.path().parent().unwrap()).unwrap();
    let connection = Connection::open(home.path()).unwrap();
    connection.execute_batch(schema::UPGRADES[0]).unwrap();
    connection.pragma_update(None, "application_id", schema::APPLICATION_ID).unwrap();
    connection.pragma_update(None, "user_version", 1).unwrap();
    let id = RequestId(9).to_string();
    let row = "INSERT INTO request VALUES (?1, 'r', 'm', 0, NULL, '{}', 1, 'batch')";
    connection.execute(row, [&id]).unwrap();
    drop(connection);
    let reader = Reader::open(&home.path());
    let is_older = |error: StoreError| match error {
        StoreError::SchemaOlder { found, wanted, .. } => {
            (found, wanted) == (1, schema::SCHEMA_VERSION)
        }
        _ => false,
    };
    assert!(reader.err().is_some_and(is_older));
    // Nothing is too old for this test.
    let store = home.open_with(|options| options.retention.metadata = Duration::from_secs(1 << 40));
    let request = store.reader().request(RequestId(9)).unwrap().unwrap();
    assert_eq!((request.model.as_str(), request.tenant), ("m", None));
    store.record(&event_of(A, 10));
    store.flush().unwrap();
    assert!(store.reader().request(RequestId(10)).unwrap().unwrap().tenant.is_some());
    drop(store);
    assert_eq!(Reader::open(&home.path()).unwrap().counts().unwrap().requests, 2);
}
