//! Scorers by what they let pass.

use serde_json::{Value, json};

use crate::{Case, Outcome, Summary, judge_prompt, judge_says};

#[track_caller]
fn check(row: Value, good: &[&str], bad: &[&str]) {
    let case = Case::of(&row, None).unwrap();
    let score = |text: &&str| {
        case.score(&Outcome {
            text: (*text).to_owned(),
            finish_reason: Some("stop".to_owned()),
            ..Outcome::default()
        })
    };
    good.iter().for_each(|text| assert!(score(text).pass, "{text:?}: {:?}", score(text)));
    for text in bad {
        let score = score(text);
        assert!(!score.pass && !score.why.is_empty(), "{text:?}: {score:?}");
    }
}

#[test]
fn scorers_tell_good_from_bad() {
    check(json!({ "prompt": "2+2", "expected": "4" }), &["4", " 4\n"], &["5", "44", ""]);
    let talk = json!({ "messages": [
        { "role": "user", "content": "2+2" }, { "role": "assistant", "content": "4" },
    ] });
    check(talk, &["4"], &["It is 4"]);
    let contains = json!({ "prompt": "x", "scorer": "contains", "expected": "Berlin" });
    check(contains, &["It is BERLIN."], &["Paris"]);
    check(json!({ "prompt": "x", "scorer": "contains:a:b" }), &["see a:b"], &["a b"]);
    check(json!({ "prompt": "x", "scorer": "regex:^[0-9]+$" }), &["42"], &["42a"]);
    check(json!({ "prompt": "x", "scorer": "json" }), &["{}", "```json\n[1]\n```"], &["{", ""]);
    let schema = json!({ "type": "object", "required": ["a"] });
    let row = json!({ "prompt": "x", "scorer": "json_schema", "expected": schema });
    check(row, &["{\"a\": 1}"], &["{}", "a"]);
    check(
        json!({ "prompt": "x", "scorer": "not:refusal" }),
        &["Yes."],
        &["I cannot help you.", ""],
    );
    check(json!({ "prompt": "x", "scorer": "answered" }), &["Yes."], &["", "  "]);
}

#[test]
fn an_error_or_a_cut_is_not_passed() {
    let case = Case::of(&json!({ "prompt": "x", "scorer": "answered" }), None).unwrap();
    let failed = Outcome { error: Some("500".to_owned()), ..Outcome::default() };
    assert_eq!(case.score(&failed).why, "no answer: 500");
    let case = Case::of(&json!({ "prompt": "x", "scorer": "not:truncated" }), None).unwrap();
    let outcome = |finish: &str| Outcome {
        text: "It".to_owned(),
        finish_reason: Some(finish.to_owned()),
        ..Outcome::default()
    };
    assert!(!case.score(&outcome("length")).pass && case.score(&outcome("stop")).pass);
}

#[test]
fn a_judge_is_asked_and_understood() {
    let row = json!({ "prompt": "2+2", "scorer": "judge", "expected": "4" });
    let case = Case::of(&row, None).unwrap();
    let asked = judge_prompt(&case, "four");
    assert!(asked.contains("2+2") && asked.contains("four") && asked.contains("<reference>\n4"));
    assert_eq!(judge_says("FAIL: it is not"), Some(false));
    assert_eq!(judge_says("I say PASS."), Some(true));
    assert_eq!(judge_says("PASSABLE, perhaps"), None);
    let judged = |judged| case.score(&Outcome { judged, ..Outcome::default() }).pass;
    assert!(judged(Some(true)) && !judged(Some(false)) && !judged(None));
}

#[test]
fn rows_that_cannot_be_asked_are_refused() {
    let refused = |row: Value, scorer: Option<&str>, part: &str| {
        let error = Case::of(&row, scorer).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    refused(json!({ "text": "x" }), None, "messages");
    refused(json!({ "messages": [] }), None, "messages");
    refused(json!({ "prompt": "x" }), None, "expected");
    refused(json!({ "prompt": "x", "expected": "(" }), Some("regex"), "regular expression");
    refused(json!({ "prompt": "x" }), Some("similarity"), "expected is absent");
    refused(json!({ "prompt": "x", "expected": "y" }), Some("similarity:2"), "from -1 to 1");
    refused(json!({ "prompt": "x" }), Some("not:disliked"), "not:refusal");
    let summary = Summary::of([].iter());
    assert_eq!((summary.n, summary.rate_low), (0, 0.0));
}

#[test]
fn similar_answers_pass_from_a_cosine_on() {
    let case = |scorer: &str| Case::of(&json!({ "prompt": "q", "expected": "a" }), Some(scorer));
    let passes = |scorer: &str, similarity| {
        let outcome = Outcome { similarity, ..Outcome::default() };
        case(scorer).unwrap().score(&outcome)
    };
    assert!(passes("similarity", Some(0.8)).pass && !passes("similarity", Some(0.79)).pass);
    assert!(passes("similarity:0.5", Some(0.5)).pass && !passes("similarity:0.5", None).pass);
    assert!(passes("similarity", Some(0.25)).why.contains("0.250, below 0.8"));
    for wrong in ["similarity:2", "similarity:x"] {
        assert!(case(wrong).unwrap_err().to_string().contains("from -1 to 1"));
    }
    assert!(Case::of(&json!({ "prompt": "q" }), Some("similarity")).is_err());
}

#[test]
fn expected_answers_pass_from_a_log_probability_on() {
    let case = |scorer: &str| Case::of(&json!({ "prompt": "q", "expected": "a" }), Some(scorer));
    let passes = |scorer: &str, mean_logprob| {
        let outcome = Outcome { mean_logprob, ..Outcome::default() };
        case(scorer).unwrap().score(&outcome)
    };
    assert!(passes("logprob", Some(-1.0)).pass && !passes("logprob", Some(-1.01)).pass);
    assert!(passes("logprob:-3.5", Some(-3.5)).pass && !passes("logprob:-3.5", None).pass);
    assert!(passes("logprob:-2", Some(-2.25)).why.contains("-2.250, below -2"));
    for wrong in ["logprob:0.5", "logprob:x", "logprob:NaN", "logprob:-inf"] {
        assert!(case(wrong).unwrap_err().to_string().contains("0 or less"), "{wrong}");
    }
    let none = Case::of(&json!({ "prompt": "q" }), Some("logprob")).unwrap_err().to_string();
    assert!(none.contains("expected is absent"), "{none}");
}
