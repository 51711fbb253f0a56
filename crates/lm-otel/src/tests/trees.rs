//! What a collector is told of an answer.

use std::sync::Arc;
use std::time::Duration;

use lm_types::{
    Arm, ArmTag, GenerateError, Outcome, QueueUnit, RequestEvent, RequestId, RuleHit, Task,
    Timings, TraceParent,
};

use super::collector::{Collector, Received};
use super::{SECRET, event, quick, start};
use crate::Counts;
use crate::wire::{KeyValue, Span, SpanKind, StatusCode, Value};

const ID: u128 = 0x0190_a1b2_c3d4_7e5f_8a9b_0c1d_2e3f_4a5b;

/// Sends events, and tells what came of it.
fn sent(events: &[RequestEvent], n_spans: usize) -> Vec<Received> {
    let collector = Collector::start([]);
    let (exporter, observer, kept) = start(&collector.address, quick());
    events.iter().for_each(|event| observer.record(event));
    let received = collector.until(n_spans);
    exporter.shutdown();
    assert_eq!(exporter.counts(), Counts { exported: n_spans as u64, ..Counts::default() });
    assert_eq!(*kept.0.lock().unwrap(), events, "what the inner observer heard");
    received
}

fn spans_of(event: &RequestEvent, n_spans: usize) -> Vec<Span> {
    sent(std::slice::from_ref(event), n_spans).iter().flat_map(Received::spans).collect()
}

/// An attribute as text.
fn get(attributes: &[KeyValue], key: &str) -> Option<String> {
    fn text(value: &Value) -> String {
        match value {
            Value::Text(text) => text.clone(),
            Value::Bool(flag) => flag.to_string(),
            Value::Int(int) => int.to_string(),
            Value::Double(double) => format!("{double:?}"),
            Value::Array(array) => {
                let values = array.values.iter().filter_map(|value| value.value.as_ref());
                format!("[{}]", values.map(text).collect::<Vec<_>>().join(","))
            }
        }
    }
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    found.value.as_ref()?.value.as_ref().map(text)
}

/// One root; its children lie side by side within it, from its start to its end, and share its trace.
#[track_caller]
fn check_tree(spans: &[Span], names: &[&str]) {
    let found: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(found, names);
    let root = &spans[0];
    assert!(root.parent_span_id.is_empty());
    assert_eq!((root.trace_id.len(), root.span_id.len()), (16, 8));
    let mut at = root.start_time_unix_nano;
    for child in &spans[1..] {
        assert_eq!(child.parent_span_id, root.span_id, "{}", child.name);
        assert_eq!(child.trace_id, root.trace_id, "{}", child.name);
        assert_eq!(child.start_time_unix_nano, at, "{}", child.name);
        assert!(child.end_time_unix_nano >= at, "{}", child.name);
        at = child.end_time_unix_nano;
        for event in &child.events {
            let within = child.start_time_unix_nano..=child.end_time_unix_nano;
            assert!(within.contains(&event.time_unix_nano), "{}", event.name);
        }
    }
    assert!(spans.len() == 1 || at == root.end_time_unix_nano);
    let mut ids: Vec<_> = spans.iter().map(|span| &span.span_id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), spans.len());
}

#[test]
fn a_chat_is_a_tree_of_four_spans() {
    let mut asked = event(ID);
    asked.hits = vec![RuleHit { rule: "polite".into(), action: "stop" }];
    asked.request.steering.arm = Some(Arc::new(ArmTag {
        experiment: "shorter".to_owned(),
        arm: Arm::Candidate,
        unit: "u".to_owned(),
        percent: 5,
        variant: "v1".to_owned(),
        shadow_of: None,
    }));
    let spans = spans_of(&asked, 4);
    check_tree(&spans, &["chat small", "queue", "prefill", "decode"]);
    let [root, queue, prefill, decode] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!(root.trace_id, ID.to_be_bytes(), "a trace is found by the request's id");
    assert_eq!(root.kind(), SpanKind::Server);
    assert_eq!(root.start_time_unix_nano, 1_800_000_000_000_000_000);
    let took = |span: &Span| (span.end_time_unix_nano - span.start_time_unix_nano) / 1_000_000;
    assert_eq!([root, queue, prefill, decode].map(took), [250, 10, 40, 200]);
    assert!(spans.iter().all(|span| span.status.is_none()));
    for (key, value) in [
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.provider.name", "lastmile"),
        ("gen_ai.request.model", "small"),
        ("gen_ai.request.temperature", "0.7"),
        ("gen_ai.request.top_p", "1.0"),
        ("gen_ai.request.max_tokens", "64"),
        ("gen_ai.request.seed", "42"),
        ("gen_ai.output.type", "text"),
        ("gen_ai.response.finish_reasons", "[stop]"),
        ("gen_ai.usage.input_tokens", "20"),
        ("gen_ai.usage.output_tokens", "9"),
        ("gen_ai.usage.cache_read.input_tokens", "16"),
        ("gen_ai.response.time_to_first_chunk", "0.05"),
        ("http.route", "/v1/chat/completions"),
        ("lastmile.request_id", "0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"),
        ("lastmile.release", "07070707070707070707070707070707"),
        ("lastmile.key_id", "0000000000000abc"),
        ("lastmile.cached_tokens", "16"),
        ("lastmile.cpu_seconds", "0.125"),
        ("lastmile.preemptions", "1"),
        ("lastmile.arm", "candidate"),
        ("lastmile.experiment", "shorter"),
        ("lastmile.overrides", "[polite]"),
    ] {
        assert_eq!(get(&root.attributes, key).as_deref(), Some(value), "{key}");
    }
    assert_eq!(get(&root.attributes, "gen_ai.request.choice.count"), None);
    assert_eq!(get(&prefill.attributes, "lastmile.prefill.computed_tokens").as_deref(), Some("4"));
    let (stall, loss) = (&prefill.events[0], &decode.events[0]);
    assert_eq!(
        (stall.name.as_str(), loss.name.as_str()),
        ("lastmile.stalled", "lastmile.preempted")
    );
    assert_eq!(get(&stall.attributes, "lastmile.took_seconds").as_deref(), Some("0.025"));
    assert_eq!(get(&loss.attributes, "lastmile.away_seconds").as_deref(), Some("0.03"));
    assert_eq!(spans.iter().map(|span| span.events.len()).sum::<usize>(), 2);
}

#[test]
fn an_error_is_one_by_its_code() {
    let mut failed = event(ID);
    failed.outcome = Outcome::Failed(GenerateError::Backend { message: SECRET.to_owned() });
    let spans = spans_of(&failed, 4);
    let codes: Vec<_> = spans.iter().map(|span| span.status.as_ref().map(|s| s.code())).collect();
    let error = Some(StatusCode::Error);
    assert_eq!(codes, [error, None, None, error], "the root and the part that failed");
    assert_eq!(spans[0].status.as_ref().unwrap().message, "backend_error");
    assert_eq!(get(&spans[0].attributes, "error.type").as_deref(), Some("backend_error"));
    assert_eq!(get(&spans[0].attributes, "gen_ai.response.finish_reasons"), None);
}

#[test]
fn a_refused_request_is_a_root_alone() {
    let asked = event(ID);
    let error = GenerateError::QueueFull {
        queued: 3,
        limit: 3,
        unit: QueueUnit::Requests,
        retry_after: Duration::from_secs(1),
    };
    let RequestEvent { request, model, release, arrived_at, .. } = asked;
    let refused = RequestEvent::refused(request, model, release, arrived_at, error);
    let spans = spans_of(&refused, 1);
    check_tree(&spans, &["chat small"]);
    assert_eq!(spans[0].status.as_ref().unwrap().message, "queue_full");
    assert_eq!(spans[0].start_time_unix_nano, spans[0].end_time_unix_nano);
}

#[test]
fn answers_of_a_request_share_its_trace_and_nothing_else() {
    let [mut first, mut second] = [event(ID), event(ID)];
    (first.request.n, second.request.n, second.choice) = (2, 2, 1);
    // The client used its id again, an hour later.
    let mut again = event(ID);
    again.arrived_at += Duration::from_secs(3600);
    let spans: Vec<Span> =
        sent(&[first, second, again], 12).iter().flat_map(Received::spans).collect();
    let mut ids: Vec<_> = spans.iter().map(|span| span.span_id.clone()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 12);
    for tree in spans.chunks(4) {
        check_tree(tree, &["chat small", "queue", "prefill", "decode"]);
        assert_eq!(tree[0].trace_id, ID.to_be_bytes());
    }
    assert_eq!(get(&spans[4].attributes, "lastmile.choice").as_deref(), Some("1"));
    assert_eq!(get(&spans[4].attributes, "gen_ai.request.choice.count").as_deref(), Some("2"));
}

#[test]
fn other_tasks_have_their_own_names() {
    let mut embedding = event(ID);
    embedding.task = Task::Embed;
    embedding.timings = Timings { ttft: Duration::ZERO, ..embedding.timings };
    embedding.request.steering.route = "";
    let spans = spans_of(&embedding, 3);
    check_tree(&spans, &["embeddings small", "queue", "encode"]);
    assert_eq!(spans[0].kind(), SpanKind::Internal, "nobody came by a route");
    assert_eq!(get(&spans[0].attributes, "gen_ai.request.temperature"), None);
    let mut raw = event(ID);
    raw.request.prompt = lm_types::Prompt::Text(SECRET.to_owned());
    raw.request.steering.route = "/v1/completions";
    raw.request.sampling.seed = u64::MAX;
    let spans = spans_of(&raw, 4);
    assert_eq!(spans[0].name, "text_completion small");
    assert_eq!(get(&spans[0].attributes, "lastmile.seed"), Some(u64::MAX.to_string()));
    assert_eq!(get(&spans[0].attributes, "gen_ai.request.seed"), None);
}

#[test]
fn no_text_of_a_client_leaves() {
    let [plain, mut failed] = [1, 2].map(event);
    failed.outcome = Outcome::Failed(GenerateError::Template { message: SECRET.to_owned() });
    let holds = |bytes: &[u8], word: &str| bytes.windows(word.len()).any(|w| w == word.as_bytes());
    for received in sent(&[plain, failed], 8) {
        assert!(holds(&received.body, "gen_ai.operation.name"));
        for word in SECRET.split(' ').filter(|word| word.len() > 3) {
            assert!(!holds(&received.body, word), "{word:?} left");
        }
    }
}

#[test]
fn a_request_says_who_sends_it() {
    let received = &sent(&[event(RequestId(ID).0)], 4)[0];
    assert!(received.head.starts_with("post /v1/traces http/1.1\r\n"), "{}", received.head);
    assert!(received.head.contains("\r\ncontent-type: application/x-protobuf\r\n"));
    assert!(received.head.contains("\r\nx-key: open sesame\r\n"));
    let request = received.request();
    let resource = request.resource_spans[0].resource.as_ref().unwrap();
    assert_eq!(get(&resource.attributes, "service.name").as_deref(), Some("lastmile"));
    assert_eq!(request.resource_spans.len(), 1);
}

#[test]
fn an_answer_is_a_part_of_its_senders_trace_and_recorded_where_that_is() {
    let mut asked = event(ID);
    let parent = TraceParent::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    asked.request.steering.trace = parent;
    let mut spans = spans_of(&asked, 4);
    assert_eq!(spans[0].trace_id, parent.unwrap().trace_id.0.to_be_bytes());
    assert_eq!(spans[0].parent_span_id, parent.unwrap().parent_id.to_be_bytes());
    assert_eq!(spans[0].flags, 0x301, "sampled, and its parent is another process's");
    let id = get(&spans[0].attributes, "lastmile.request_id");
    assert_eq!(id, Some(RequestId(ID).to_string()), "the request is still found by its id");
    spans[0].parent_span_id.clear();
    check_tree(&spans, &["chat small", "queue", "prefill", "decode"]);
    // A sender that does not record its trace gets no part of one.
    let collector = Collector::start([]);
    let (exporter, observer, kept) = start(&collector.address, quick());
    asked.request.steering.trace.as_mut().unwrap().is_sampled = false;
    observer.record(&asked);
    observer.record(&event(ID));
    let received = collector.until(4);
    exporter.shutdown();
    let roots = received.iter().flat_map(Received::spans).filter(|s| s.parent_span_id.is_empty());
    assert_eq!(roots.map(|root| root.trace_id).collect::<Vec<_>>(), [ID.to_be_bytes()]);
    let expect = Counts { exported: 4, unsampled: 4, ..Counts::default() };
    assert_eq!((exporter.counts(), kept.0.lock().unwrap().len()), (expect, 2));
}
