//! What one model's monitors learn, and what they leave out.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod months;

use super::*;
use crate::monitors::MonitorAction;

const RULES: Rules = Rules { n_baseline: 500, renotify_ms: 0 };

/// An answer a second; lengths go up and down.
fn answer(i: i64) -> Seen {
    let mut reading = Reading { id: i.unsigned_abs().into(), ..Reading::default() };
    reading.values[Signal::OutputTokens as usize] = Some((20 + i * 7 % 11) as f64);
    Seen {
        model: "m".to_owned(),
        release: "r".to_owned(),
        at_ms: i * 1000,
        ended_ms: i * 1000,
        reading,
        opening: None,
        is_answer: true,
    }
}

fn rating(i: i64, is_bad: bool) -> Seen {
    let id = RequestId(i.unsigned_abs().into());
    Seen::rating("m".to_owned(), "r".to_owned(), id, is_bad, i * 1000)
}

#[test]
fn what_readers_say_is_watched_and_is_no_answer() {
    let mut model = Model::new(BaselineFile::default(), RULES, Vec::new());
    for i in 0..1000 {
        model.see(answer(i));
        model.see(rating(i, i % 20 == 0));
    }
    let standing = model.standing("m");
    assert_eq!((standing.seen, standing.baseline_answers), (1000, 1000));
    assert_eq!(standing.signals["bad_feedback"], "ok");
    let noticed = (1000..1500).find(|i| !model.see(rating(*i, i % 3 == 0)).messages.is_empty());
    let told: Vec<&ToldAlarm> = model.board.open().collect();
    assert_eq!((told.len(), told[0].signal.as_str()), (1, "bad_feedback"));
    assert!(noticed.unwrap() < 1200, "{noticed:?}");
    assert!(told[0].examples.len() <= 5 && !told[0].examples.is_empty());
    assert_eq!(model.standing("m").signals["bad_feedback"], "alert");
}

#[test]
fn a_model_that_is_paused_is_not_watched_and_goes_on_where_it_was() {
    let mut model = Model::new(BaselineFile::default(), RULES, Vec::new());
    (0..600).for_each(|i| drop(model.see(answer(i))));
    let entry = MonitorEntry {
        at_ms: 600_000,
        who: "ana".to_owned(),
        action: MonitorAction::Pause,
        model: "m".to_owned(),
        reason: String::new(),
    };
    assert_eq!(model.pause(Some(entry.clone())), "paused");
    let long = |i: i64| {
        let mut seen = answer(i);
        seen.reading.values[Signal::OutputTokens as usize] = Some(900.0);
        seen
    };
    assert!((600..800).all(|i| model.see(long(i)).messages.is_empty()));
    let standing = model.standing("m");
    assert_eq!((standing.seen, standing.baseline_answers), (800, 600));
    assert_eq!((standing.state, standing.signals["output_tokens"]), ("paused", "paused"));
    assert_eq!(standing.paused, Some(entry));
    assert_eq!(model.pause(None), "watching");
    assert_eq!(model.standing("m").signals["output_tokens"], "ok");
    assert!((800..830).any(|i| !model.see(long(i)).messages.is_empty()));
}

#[test]
fn what_an_alert_is_about_is_not_learned_while_it_is_open() {
    let mut model = Model::new(BaselineFile::default(), RULES, Vec::new());
    (0..600).for_each(|i| drop(model.see(answer(i))));
    let long = |i: i64| {
        let mut seen = answer(i);
        for (signal, value) in [(Signal::OutputTokens, 60.0), (Signal::PromptTokens, 9.0)] {
            seen.reading.values[signal as usize] = Some(value);
        }
        seen
    };
    let noticed = (600..700).find(|i| !model.see(long(*i)).messages.is_empty()).unwrap();
    (noticed + 1..1500).for_each(|i| drop(model.see(long(i))));
    let n_of = |signal: Signal| model.usual.baseline.signals[signal as usize].n_values();
    assert_eq!(n_of(Signal::OutputTokens), noticed.unsigned_abs());
    // Nothing is wrong with the others.
    assert_eq!(n_of(Signal::PromptTokens), 900);
    assert_eq!(model.standing("m").signals["output_tokens"], "alert");
    assert_eq!(model.counts[Signal::PromptTokens as usize], 0);
}

#[test]
fn an_hour_that_was_not_seen_is_learned_though_an_alert_is_open() {
    let mut model = Model::new(BaselineFile::default(), RULES, Vec::new());
    (0..600).for_each(|i| drop(model.see(answer(i))));
    let long = |i: i64, hour: u8| {
        let mut seen = answer(i);
        seen.reading.hour = hour;
        seen.reading.values[Signal::OutputTokens as usize] = Some(400.0);
        seen
    };
    (600..900).for_each(|i| drop(model.see(long(i, 0))));
    let n_learned =
        |model: &Model| model.usual.baseline.signals[Signal::OutputTokens as usize].n_values();
    let before = n_learned(&model);
    assert!(before < 630, "{before}");
    (900..950).for_each(|i| drop(model.see(long(i, 7))));
    assert_eq!(n_learned(&model), before + 50);
}

#[test]
fn what_few_answers_have_is_learned_until_it_is_known() {
    let mut model = Model::new(BaselineFile::default(), RULES, Vec::new());
    // Forty answers a day.
    let slow = |i: i64| Seen { at_ms: i * 36 * 60 * 1000, ..answer(i) };
    (0..600).for_each(|i| drop(model.see(slow(i))));
    let known = model.standing("m");
    assert!(!known.is_provisional && known.baseline_answers < 600, "{known:?}");
    let kept = (0..499).filter(|i| model.see(rating(*i, i % 20 == 0)).is_to_keep).count();
    assert_eq!((kept, model.standing("m").signals["bad_feedback"]), (24, "unknown"));
    assert!(model.see(rating(499, false)).is_to_keep);
    assert_eq!(model.standing("m").signals["bad_feedback"], "ok");
    assert!((500..700).all(|i| !model.see(rating(i, i % 20 == 0)).is_to_keep));
    assert_eq!(model.standing("m").baseline_answers, known.baseline_answers);
    let noticed = (700..1200).any(|i| !model.see(rating(i, i % 3 == 0)).messages.is_empty());
    assert!(noticed && model.standing("m").signals["bad_feedback"] == "alert");
}

#[test]
fn what_is_usual_is_of_one_release() {
    let of = |release: &str, i: i64| Seen { release: release.to_owned(), ..answer(i) };
    let mut model = Model::new(BaselineFile::default(), RULES, Vec::new());
    // Two releases that take turns: the first one is learned.
    for i in 0..300 {
        model.see(of(if i % 2 == 0 { "old" } else { "new" }, i));
    }
    let standing = model.standing("m");
    assert_eq!((standing.baseline_answers, standing.usual_of.as_str()), (150, "old"));
    (300..398).for_each(|i| drop(model.see(of("new", i))));
    assert_eq!(model.standing("m").baseline_answers, 150);
    (398..400).for_each(|i| drop(model.see(of("new", i))));
    let standing = model.standing("m");
    assert_eq!((standing.baseline_answers, standing.usual_of.as_str()), (2, "new"));
    // From then on what is usual stays.
    (400..900).for_each(|i| drop(model.see(of("new", i))));
    (900..1200).for_each(|i| drop(model.see(of("other", i))));
    let standing = model.standing("m");
    assert_eq!((standing.baseline_answers, standing.usual_of.as_str()), (502, "new"));
    assert_eq!(standing.state, "watching");
}
