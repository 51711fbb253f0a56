//! The recorder through its public face: what is told, what is left after a crash, what is told again.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lm_types::{
    AnswerBegun, FinishReason, GenerateError, GenerateRequest, Observer, Outcome, Prompt,
    ReleaseHash, RequestEvent, RequestId, StepEvent, StepRow, TokenId,
};

use crate::{Flight, Forgotten, RecordedStep, Recorder, RecorderError, RecorderOptions, forget};

const SMALL: RecorderOptions = RecorderOptions { capacity: 1 << 16, keeps_text: true };

fn begin(recorder: &Recorder, id: u128) -> Arc<GenerateRequest> {
    let request = GenerateRequest::new(RequestId(id), Prompt::Text("what is said".to_owned()));
    let request = Arc::new(request);
    recorder.began(&AnswerBegun {
        request: &request,
        choice: 0,
        prompt: &[1, 2, 3],
        model: "m",
        release: ReleaseHash([7; 16]),
        arrived_at: SystemTime::now(),
    });
    request
}

fn step(recorder: &Recorder, number: u64, rows: &[(u128, TokenId)]) {
    let row = |&(id, token)| StepRow {
        request: RequestId(id),
        choice: 0,
        n_tokens: 1,
        token: Some(token),
        logprob: Some(-0.5),
    };
    let rows: Vec<StepRow> = rows.iter().map(row).collect();
    let took = Duration::from_micros(250);
    recorder.stepped(&StepEvent {
        number,
        took,
        n_free_blocks: 9,
        n_prompt_tokens: 0,
        rows: &rows,
    });
}

fn end(recorder: &Recorder, request: &GenerateRequest) {
    let mut event = RequestEvent::refused(
        request.clone(),
        "m".to_owned(),
        ReleaseHash([7; 16]),
        SystemTime::now(),
        GenerateError::EmptyPrompt,
    );
    event.outcome = Outcome::Finished(FinishReason::Stop);
    recorder.record(&event);
}

/// What a process that was killed leaves: the file as it is, without an end.
fn left_behind(folder: &Path, recorder: &Recorder) -> Flight {
    recorder.close();
    Flight::current(folder).unwrap().unwrap()
}

#[test]
fn who_was_in_flight_is_known_with_its_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let (recorder, crashed) = Recorder::open(folder.path(), SMALL).unwrap();
    assert_eq!(crashed, None);
    let done = begin(&recorder, 1);
    begin(&recorder, 2);
    for i in 0..10 {
        step(&recorder, i, &[(1, 100 + i as u32), (2, 200 + i as u32)]);
    }
    end(&recorder, &done);
    let flight = left_behind(folder.path(), &recorder);
    assert_eq!(flight.pid, Some(std::process::id()));
    assert_eq!(flight.steps.len(), 10);
    let row = &flight.steps[3].rows[1];
    assert_eq!(
        (row.token, row.logprob, row.id.as_deref()),
        (Some(203), Some(-0.5), Some(&*RequestId(2).to_string()))
    );
    let [left] = flight.in_flight.as_slice() else { panic!("{:?}", flight.in_flight) };
    assert_eq!((left.id.as_str(), left.n_tokens), (&*RequestId(2).to_string(), 10));
    assert_eq!(left.tokens, (200..210).collect::<Vec<TokenId>>());
    assert!(left.prompt.is_some() && left.recipe.is_some());
    drop(recorder);
    // The next one keeps it aside and gives it back.
    let (next, crashed) = Recorder::open(folder.path(), SMALL).unwrap();
    assert_eq!(crashed.unwrap().in_flight.len(), 1);
    drop(next);
    let crash = Flight::last_crash(folder.path(), |_| false).unwrap().unwrap();
    assert_eq!(crash.in_flight[0].tokens.len(), 10);
    let (_, crashed) = Recorder::open(folder.path(), SMALL).unwrap();
    assert_eq!(crashed, None, "it is told once");
}

#[test]
fn an_answer_that_goes_on_for_many_rounds_of_the_ring_keeps_its_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let (recorder, _) = Recorder::open(folder.path(), SMALL).unwrap();
    begin(&recorder, 5);
    // Each step takes 96 bytes or so: this is many times the ring.
    for i in 0..5000 {
        step(&recorder, i, &[(5, i as u32)]);
        if i % 500 == 0 {
            // The queue is bounded; nothing may be dropped in this test.
            while recorder.counters().recorded < i {
                std::thread::yield_now();
            }
        }
    }
    let flight = left_behind(folder.path(), &recorder);
    assert_eq!(recorder.counters().dropped, 0);
    assert!(flight.steps.len() < 1000, "the ring is of fixed size: {}", flight.steps.len());
    assert_eq!(flight.in_flight[0].tokens, (0..5000).collect::<Vec<TokenId>>());
    assert!(flight.in_flight[0].recipe.is_some());
    let size = std::fs::metadata(folder.path().join("flight.ring")).unwrap().len();
    assert_eq!(size, SMALL.capacity);
}

#[test]
fn without_text_only_numbers_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let options = RecorderOptions { keeps_text: false, ..SMALL };
    let (recorder, _) = Recorder::open(folder.path(), options).unwrap();
    begin(&recorder, 5);
    step(&recorder, 0, &[(5, 77)]);
    let flight = left_behind(folder.path(), &recorder);
    let left = &flight.in_flight[0];
    assert_eq!((left.n_tokens, left.tokens.len()), (1, 0));
    assert_eq!((&left.prompt, &left.recipe, &left.prompt_tokens), (&None, &None, &None));
    let bytes = std::fs::read(folder.path().join("flight.ring")).unwrap();
    assert!(!String::from_utf8_lossy(&bytes).contains("what is said"));
}

#[test]
fn one_process_records_and_a_file_too_small_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (_recorder, _) = Recorder::open(folder.path(), SMALL).unwrap();
    let second = Recorder::open(folder.path(), SMALL);
    assert!(matches!(second, Err(RecorderError::InUse { .. })));
    let small = RecorderOptions { capacity: 10, ..SMALL };
    let other = tempfile::tempdir().unwrap();
    assert!(matches!(Recorder::open(other.path(), small), Err(RecorderError::TooSmall { .. })));
}

#[test]
fn what_is_erased_leaves_steps_without_its_tokens_and_the_others_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (recorder, _) = Recorder::open(folder.path(), SMALL).unwrap();
    begin(&recorder, 1);
    begin(&recorder, 2);
    for i in 0..10 {
        step(&recorder, i, &[(1, 100 + i as u32), (2, 200 + i as u32)]);
    }
    let before = left_behind(folder.path(), &recorder);
    let one = RequestId(1).to_string();
    let done = |answers| Forgotten { answers, is_in_use: false };
    assert_eq!(forget(folder.path(), |answer| answer.id == one).unwrap(), done(1));
    let nobody = forget(folder.path(), |answer| answer.subject == Some("nobody"));
    assert_eq!(nobody.unwrap(), done(0));
    let after = Flight::current(folder.path()).unwrap().unwrap();
    let [erased, kept] = after.in_flight.as_slice() else { panic!("{:?}", after.in_flight) };
    assert_eq!((&erased.id, erased.n_tokens, erased.tokens.len()), (&one, 10, 0));
    assert!(erased.prompt.is_none() && erased.recipe.is_none() && erased.prompt_tokens.is_none());
    assert_eq!(kept, &before.in_flight[1]);
    assert_eq!(after.steps.len(), 10);
    let tokens = |step: &RecordedStep| step.rows.iter().map(|row| row.token).collect::<Vec<_>>();
    assert_eq!(tokens(&after.steps[3]), [None, Some(203)]);
    let bytes = std::fs::read(folder.path().join("flight.ring")).unwrap();
    assert!(!bytes.windows(4).any(|four| four == 103_u32.to_le_bytes()), "no token is left");
    drop(recorder);
    // The ring of a crash is erased from, too.
    drop(Recorder::open(folder.path(), SMALL).unwrap());
    assert_eq!(forget(folder.path(), |answer| answer.tenant.is_none()).unwrap(), done(2));
    let crash = Flight::last_crash(folder.path(), |_| false).unwrap().unwrap();
    assert!(crash.in_flight.iter().all(|one| one.prompt.is_none() && one.tokens.is_empty()));
}

#[test]
fn erasing_leaves_nothing_of_what_is_half_overwritten_and_no_ring_that_is_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let (recorder, _) = Recorder::open(folder.path(), SMALL).unwrap();
    // More than the ring holds, so that the oldest are overwritten in part.
    for id in 0..400 {
        let n_before = recorder.counters().recorded;
        let request = begin(&recorder, id);
        step(&recorder, id as u64, &[(id, 70_000 + id as u32)]);
        end(&recorder, &request);
        // The queue is bounded, and what is alive at once; nothing may be dropped in this test.
        while recorder.counters().recorded == n_before {
            std::thread::yield_now();
        }
    }
    let in_use = forget(folder.path(), |_| true).unwrap();
    assert_eq!(in_use, Forgotten { answers: 0, is_in_use: true });
    let before = left_behind(folder.path(), &recorder);
    assert!(before.steps.len() < 400, "it was overwritten");
    assert!(!forget(folder.path(), |_| true).unwrap().is_in_use);
    let bytes = std::fs::read(folder.path().join("flight.ring")).unwrap();
    assert!(!bytes.windows(4).any(|four| four == b"said"), "no text is left");
    let after = Flight::current(folder.path()).unwrap().unwrap();
    assert_eq!(after.steps.len(), before.steps.len());
    assert!(after.steps.iter().flat_map(|step| &step.rows).all(|row| row.token.is_none()));
}
