//! Requests are found by what somebody remembers of them.

use lm_types::Observer;
use lm_types::{GenerateError, Outcome, Prompt, RequestId, TenantId, TraceId};

use super::{Home, event};
use crate::{Reader, Search};

const TRACE_PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

fn stored() -> (Home, Reader) {
    let home = Home::new();
    let store = home.open();
    for id in 1..=3 {
        let mut event = event(id);
        event.arrived_at += std::time::Duration::from_secs(id as u64);
        store.record(&event);
    }
    let mut failed = event(4);
    failed.arrived_at += std::time::Duration::from_secs(4);
    failed.request.tenant = TenantId(0xab);
    failed.request.prompt = Prompt::Text("50% of \"it\"\nüber".to_owned());
    failed.output_text = "An_Answer".to_owned();
    failed.model = "other".to_owned();
    failed.request.steering.trace = lm_types::TraceParent::parse(TRACE_PARENT);
    failed.outcome = Outcome::Failed(GenerateError::ShuttingDown);
    store.record(&failed);
    store.close().unwrap();
    let reader = Reader::open(&home.path()).unwrap();
    (home, reader)
}

#[track_caller]
fn check(reader: &Reader, search: Search, expect: &[u128]) {
    let search = Search { limit: if search.limit == 0 { 50 } else { search.limit }, ..search };
    let found = reader.search(&search).unwrap();
    let ids: Vec<String> = found.into_iter().map(|row| row.id).collect();
    let expect: Vec<String> = expect.iter().map(|id| RequestId(*id).to_string()).collect();
    assert_eq!(ids, expect, "{search:?}");
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
pub(super) fn requests_are_found_by_each_fact_newest_first() {
    let (_home, reader) = stored();
    let all = Search::default;
    check(&reader, all(), &[4, 3, 2, 1]);
    check(&reader, Search { limit: 2, ..all() }, &[4, 3]);
    check(&reader, Search { tenant: Some(TenantId(0xab)), ..all() }, &[4]);
    check(&reader, Search { tenant: Some(TenantId::ANONYMOUS), ..all() }, &[3, 2, 1]);
    check(&reader, Search { status: some("error"), ..all() }, &[4]);
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    check(&reader, Search { trace: TraceId::parse(trace), ..all() }, &[4]);
    // Who sent no trace has one of the request's own id.
    check(&reader, Search { trace: Some(TraceId(3)), ..all() }, &[3]);
    check(&reader, Search { trace: Some(TraceId(5)), ..all() }, &[]);
    assert_eq!(reader.request(RequestId(4)).unwrap().unwrap().trace_id, some(trace));
    assert_eq!(reader.request(RequestId(3)).unwrap().unwrap().trace_id, None);
    check(&reader, Search { status: some("stop"), ..all() }, &[3, 2, 1]);
    check(&reader, Search { status: some("shutting_down"), ..all() }, &[4]);
    check(&reader, Search { model: some("other"), ..all() }, &[4]);
    let id = RequestId(2).to_string();
    check(&reader, Search { id_prefix: some(&id), ..all() }, &[2]);
    check(&reader, Search { id_prefix: some(&id[..8]), ..all() }, &[4, 3, 2, 1]);
    check(&reader, Search { id_prefix: some("%"), ..all() }, &[]);
    let newest = reader.search(&Search { limit: 1, ..all() }).unwrap();
    let at = newest[0].arrived_at_ms;
    check(&reader, Search { since_ms: Some(at), ..all() }, &[4]);
    check(&reader, Search { before_ms: Some(at), ..all() }, &[3, 2, 1]);
    assert!(newest[0].is_error && newest[0].preview.as_ref().unwrap().contains("über"));
}

#[test]
pub(super) fn texts_are_found_as_they_were_written() {
    let (_home, reader) = stored();
    let check_text = |text, expect: &[u128]| {
        check(&reader, Search { text: some(text), ..Search::default() }, expect);
    };
    check_text("2 + 2", &[3, 2, 1]);
    check_text("WHAT IS", &[3, 2, 1]);
    check_text("of \"it\"\nüb", &[4]);
    check_text("50% of", &[4]);
    check_text("5%of", &[]);
    check_text("an_answer", &[4]);
    check_text("anXanswer", &[]);
    check_text("' OR 1=1 --", &[]);
}
