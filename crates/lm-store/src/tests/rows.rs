//! What goes in comes back.

use lm_types::GenerateError;
use serde_json::json;

use super::*;
use crate::{Reader, Release, Retention, RowCounts, RunInfo, RunState};

#[test]
pub(super) fn a_request_reads_back_with_all_its_answers() {
    let home = Home::new();
    let store = home.open();
    store.record(&event(1));
    store.record(&RequestEvent { choice: 1, output_text: "four".to_owned(), ..event(1) });
    store.flush().unwrap();

    let request = store.reader().request(RequestId(1)).unwrap().unwrap();
    assert_eq!(request.release_hash, RELEASE.to_string());
    assert_eq!((request.n, request.priority.as_str()), (2, "interactive"));
    let messages = json!([{ "role": "user", "content": "what is 2 + 2?" }]);
    assert_eq!(request.prompt, Some(json!({ "messages": messages, "stop": ["END"] })));
    assert_eq!(request.params["temperature"], json!(1.0));
    let [first, second] = request.attempts.as_slice() else { panic!("{request:?}") };
    assert_eq!(first.output_text.as_deref(), Some("4"));
    assert_eq!(first.finish_reason.as_deref(), Some("stop"));
    assert_eq!((first.ttft_ms, first.e2e_ms, first.cpu_seconds), (Some(20.0), 50.0, 0.25));
    assert_eq!((first.prompt_tokens, first.completion_tokens, first.cached_tokens), (10, 2, 3));
    assert_eq!(second.output_text.as_deref(), Some("four"));
    assert_eq!(serde_json::to_value(&request).unwrap()["id"], json!(RequestId(1).to_string()));
    assert_eq!(store.reader().request(RequestId(2)).unwrap(), None);
}

#[track_caller]
fn check_prompt(prompt: Prompt, expect: serde_json::Value) {
    let home = Home::new();
    let store = home.open();
    let mut event = event(1);
    event.request.prompt = prompt;
    event.request.stop.stop_strings.clear();
    store.record(&event);
    store.flush().unwrap();
    assert_eq!(store.reader().request(RequestId(1)).unwrap().unwrap().prompt, Some(expect));
}

#[test]
pub(super) fn every_kind_of_prompt_reads_back() {
    check_prompt(Prompt::Text("a\0\"é".to_owned()), json!({ "text": "a\0\"é" }));
    check_prompt(
        Prompt::Tokens(vec![1, 4_294_967_295]),
        json!({ "tokens": [1, 4_294_967_295u32] }),
    );
    check_prompt(Prompt::Chat(Vec::new()), json!({ "messages": [] }));
}

#[test]
pub(super) fn the_first_of_two_answers_for_one_choice_is_kept_and_the_second_counted() {
    let home = Home::new();
    let store = home.open();
    store.record(&event(1));
    store.record(&RequestEvent { output_text: "5".to_owned(), ..event(1) });
    store.flush().unwrap();
    let request = store.reader().request(RequestId(1)).unwrap().unwrap();
    assert_eq!(request.attempts[0].output_text.as_deref(), Some("4"));
    let counters = store.counters();
    assert_eq!((counters.recorded, counters.duplicates, counters.write_errors), (1, 1, 0));
}

#[test]
pub(super) fn a_thousand_answers_are_all_there_after_a_flush() {
    let home = Home::new();
    let store = home.open();
    record_all(&store, 0..1000);
    store.flush().unwrap();
    assert_eq!(store.counters().recorded, 1000);
    let counts = store.reader().counts().unwrap();
    assert_eq!(counts, RowCounts { requests: 1000, attempts: 1000, ..RowCounts::default() });
}

#[test]
pub(super) fn dropping_the_last_handle_writes_everything_out() {
    let home = Home::new();
    let store = home.open();
    let clone = store.clone();
    record_all(&clone, 0..300);
    drop(store);
    drop(clone);
    assert_eq!(Reader::open(&home.path()).unwrap().counts().unwrap().requests, 300);
}

#[test]
pub(super) fn feedback_sees_the_answer_queued_before_it_and_survives_a_reopen() {
    let home = Home::new();
    let store = home.open();
    store.record(&event(1));
    let id = store.feedback(thumb_up(1)).unwrap();
    let correction = Some("four".to_owned());
    let rating = Some(Rating::Score(0.5));
    let second = Feedback { choice: 1, rating, comment: None, correction, ..thumb_up(1) };
    store.feedback(second).unwrap();

    // The first handle still has the file open, as after a kill.
    let found = home.open().reader().feedback_for(RequestId(1)).unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!((found[0].id, found[0].rating), (id, Some(Rating::Boolean(true))));
    assert_eq!(found[0].comment.as_deref(), Some("good"));
    assert_eq!(found[0].release_hash, RELEASE.to_string());
    assert_eq!((found[1].choice, found[1].rating), (1, Some(Rating::Score(0.5))));
    assert_eq!(found[1].correction.as_deref(), Some("four"));
    assert_eq!(store.counters().feedback, 2);
}

#[track_caller]
fn check_refused(feedback: Feedback, expect: &str) {
    let home = Home::new();
    let store = home.open();
    store.record(&event(1));
    let error = store.feedback(feedback).unwrap_err().to_string();
    assert!(error.contains(expect), "{error}");
    assert_eq!((store.counters().feedback, store.counters().write_errors), (0, 0));
}

#[test]
pub(super) fn feedback_that_cannot_be_right_is_refused_with_its_field() {
    let ok = || thumb_up(1);
    let unknown = "no finished request 00000000-0000-0000-0000-000000000009";
    check_refused(thumb_up(9), unknown);
    check_refused(Feedback { choice: 2, ..ok() }, "choice is 2");
    check_refused(Feedback { rating: Some(Rating::Score(1.5)), ..ok() }, "rating is 1.5");
    check_refused(Feedback { rating: Some(Rating::Score(f64::NAN)), ..ok() }, "rating is NaN");
    check_refused(Feedback { rating: None, comment: None, ..ok() }, "rating is absent");
    let long = Some("x".repeat(65_537));
    check_refused(Feedback { comment: long, ..ok() }, "comment is 65537 bytes long");
}

#[test]
pub(super) fn with_privacy_off_no_text_reaches_the_file() {
    let home = Home::new();
    let store = home.open_with(|o| o.privacy = Privacy::Off);
    let secret = "xyzzy-secret";
    let mut private = event(1);
    private.request.prompt = Prompt::Text(secret.to_owned());
    private.request.stop.stop_strings = vec![secret.to_owned()];
    private.output_text = secret.to_owned();
    let message = secret.to_owned();
    private.outcome = Outcome::Failed(GenerateError::Template { message });
    store.record(&private);
    store.feedback(Feedback { comment: Some(secret.to_owned()), ..thumb_up(1) }).unwrap();
    let request = store.reader().request(RequestId(1)).unwrap().unwrap();
    assert_eq!((request.prompt, &request.attempts[0].output_text), (None, &None));
    assert_eq!(request.attempts[0].error_code.as_deref(), Some("chat_template_error"));
    assert_eq!(store.reader().feedback_for(RequestId(1)).unwrap()[0].comment, None);
    drop(store);
    for entry in std::fs::read_dir(home.path().parent().unwrap()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(secret.len()).any(|w| w == secret.as_bytes()));
    }
}

#[test]
pub(super) fn totals_count_errors_by_code_and_take_percentiles_of_what_was_measured() {
    let home = Home::new();
    let store = home.open();
    let start = SystemTime::now() - 2 * DAY;
    for i in 1..=100u32 {
        let mut e = event(u128::from(i));
        e.arrived_at = start;
        e.timings.ttft = Duration::from_millis(u64::from(i));
        e.timings.e2e = Duration::from_millis(u64::from(i) * 2);
        store.record(&e);
    }
    let mut refused = event(200);
    refused.arrived_at = start + DAY;
    refused.timings = Timings::default();
    refused.outcome = Outcome::Failed(GenerateError::QueueFull {
        queued: 9,
        limit: 8,
        unit: lm_types::QueueUnit::Requests,
        retry_after: Duration::from_secs(1),
    });
    store.record(&refused);
    store.flush().unwrap();

    let all = store.reader().totals(start).unwrap();
    assert_eq!((all.requests, all.attempts, all.prompt_tokens), (101, 101, 1010));
    assert_eq!(all.errors.get("queue_full"), Some(&1));
    assert_eq!(all.cpu_seconds, 25.0);
    assert_eq!(all.ttft_ms.map(|l| (l.p50, l.p99)), Some((50.0, 99.0)));
    assert_eq!(all.e2e_ms.map(|l| (l.p50, l.p99)), Some((100.0, 198.0)));
    let late = store.reader().totals(start + DAY).unwrap();
    assert_eq!((late.requests, late.ttft_ms, late.e2e_ms), (1, None, None));

    let errors = store.reader().recent_errors(10).unwrap();
    assert_eq!(errors.len(), 1);
    assert_eq!((errors[0].request_id, errors[0].code.as_str()), (RequestId(200), "queue_full"));
    assert!(errors[0].message.as_ref().unwrap().contains("at most 8 may"));
}

#[test]
pub(super) fn retention_erases_texts_first_and_rows_later() {
    let home = Home::new();
    let retention = Retention { bodies: 14 * DAY, metadata: 400 * DAY };
    let store = home.open_with(|o| o.retention = retention);
    // More than one chunk.
    record_all(&store, 0..1200);
    store.feedback(thumb_up(1)).unwrap();
    let now = SystemTime::now();
    let prompts = |s: &Store| s.reader().request(RequestId(1)).unwrap().map(|r| r.prompt);

    store.prune(now + 13 * DAY).unwrap();
    assert!(matches!(prompts(&store), Some(Some(_))));
    store.prune(now + 15 * DAY).unwrap();
    assert_eq!(prompts(&store), Some(None));
    assert_eq!(store.reader().counts().unwrap().attempts, 1200);
    store.prune(now + 401 * DAY).unwrap();
    assert_eq!(store.reader().counts().unwrap(), RowCounts::default());
}

#[test]
pub(super) fn a_release_is_stored_once() {
    let home = Home::new();
    let store = home.open();
    let release = Release {
        hash: RELEASE,
        model: "placeholder".to_owned(),
        engine_version: "0.1.0".to_owned(),
        facts: json!({ "kernel_path": "avx2" }),
        how: Some("one".to_owned()),
    };
    store.put_release(&release).unwrap();
    store.put_release(&release).unwrap();
    assert_eq!(store.reader().counts().unwrap().releases, 1);
    let again = Release { how: Some("two".to_owned()), ..release.clone() };
    store.put_release(&again).unwrap();
    store.put_release(&Release { how: None, ..release }).unwrap();
    let hash = RELEASE.to_string();
    let found = store.reader().release(&hash).unwrap().unwrap();
    assert_eq!(found.how.as_deref(), Some("two"), "the newest that is known");
    assert_eq!(store.reader().releases(&hash[..4]).unwrap(), [found]);
    assert!(store.reader().releases("zz").unwrap().is_empty());
}

#[test]
pub(super) fn a_run_is_running_then_stopped() {
    let home = Home::new();
    let store = home.open();
    let info = RunInfo {
        pid: 42,
        version: "0.1.0".to_owned(),
        address: "127.0.0.1:8080".to_owned(),
        model: "placeholder".to_owned(),
        release: RELEASE,
    };
    let id = store.begin_run(info).unwrap();
    // Another process looks on.
    let doctor = Reader::open(&home.path()).unwrap();
    let patience = Duration::from_secs(30);
    let run = doctor.runs(10).unwrap().remove(0);
    assert_eq!((&run.id, run.pid, run.address.as_str()), (&id, 42, "127.0.0.1:8080"));
    assert_eq!(run.state(SystemTime::now(), patience), RunState::Running);
    assert_eq!(run.state(SystemTime::now() + DAY, patience), RunState::Crashed);
    store.close().unwrap();
    let run = doctor.runs(10).unwrap().remove(0);
    assert_eq!(run.state(SystemTime::now() + DAY, patience), RunState::Stopped);
}

#[test]
pub(super) fn what_an_answer_is_computed_again_from_is_kept_and_erased_with_its_text() {
    let home = Home::new();
    let day = Duration::from_secs(86_400);
    let store = home.open_with(|options| options.retention.bodies = day);
    store.record(&event(1));
    store.record(&RequestEvent { choice: 1, output_tokens: vec![], ..event(1) });
    store.flush().unwrap();
    let answers = store.reader().recorded(RequestId(1)).unwrap();
    assert_eq!(answers[0].output_tokens, Some(vec![4, 2]));
    assert_eq!(answers[0].prompt_tokens, Some((0..10).collect()));
    assert_eq!(answers[1].output_tokens, None);
    assert!(answers[0].timeline.is_some());
    let (prompt, recipe) = (answers[0].prompt.clone().unwrap(), answers[0].recipe.clone().unwrap());
    let again = crate::recipe::from_json(RequestId(1), &prompt, &recipe).unwrap();
    assert_eq!(again, event(1).request);
    store.prune(SystemTime::now() + 2 * day).unwrap();
    let answers = store.reader().recorded(RequestId(1)).unwrap();
    assert_eq!((&answers[0].recipe, &answers[0].prompt_tokens), (&None, &None));
    assert_eq!(answers[0].output_tokens, None);
    assert!(answers[0].timeline.is_some(), "it holds no text");
}

#[test]
pub(super) fn with_privacy_off_only_the_timeline_is_kept() {
    let home = Home::new();
    let store = home.open_with(|options| options.privacy = Privacy::Off);
    store.record(&event(1));
    store.flush().unwrap();
    let answer = store.reader().recorded(RequestId(1)).unwrap().remove(0);
    assert_eq!((&answer.prompt, &answer.recipe, &answer.prompt_tokens), (&None, &None, &None));
    assert_eq!(answer.output_tokens, None);
    assert!(answer.timeline.is_some());
}
