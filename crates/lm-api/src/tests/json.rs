//! The exact JSON that clients get.

use std::time::Duration;

use insta::assert_snapshot;
use lastmile::{FinishReason, GenerateError, Usage};

use crate::{
    ApiError, Choice, Head, LogprobEntry, ModelEntry, Style, Sureness, TokenName, model_list,
    sum_usage,
};

fn head(style: Style) -> Head {
    Head {
        style,
        id: "chatcmpl-1".to_owned(),
        created: 1_700_000_000,
        model: "m".to_owned(),
        fingerprint: "f".to_owned(),
        warnings: Vec::new(),
        include_usage: false,
        spent: None,
        prompt_logprobs: None,
    }
}

fn usage() -> Usage {
    Usage { prompt_tokens: 10, completion_tokens: 2, cached_tokens: 3, ..Usage::default() }
}

fn entry() -> LogprobEntry {
    let name = |text: &str, bytes: &[u8]| TokenName { text: text.to_owned(), bytes: bytes.into() };
    LogprobEntry {
        token: name("é", "é".as_bytes()),
        logprob: Some(-0.1),
        top: vec![
            (name("é", "é".as_bytes()), -0.1),
            (name("\u{fffd}", &[0xc3]), f32::NEG_INFINITY),
        ],
        text_offset: 0,
    }
}

fn choice(index: u32) -> Choice {
    Choice {
        index,
        text: "é \"quoted\"\n".to_owned(),
        reasoning: None,
        tool_calls: Vec::new(),
        logprobs: None,
        prompt_logprobs: None,
        confidence: None,
        finish_reason: FinishReason::Stop,
        stop_string: None,
        request_id: None,
    }
}

#[test]
fn whole_chat() {
    let mut head = head(Style::Chat);
    assert_snapshot!(head.whole(&[choice(0)], usage()));
    head.warnings = vec!["unknown field 'x' was ignored".to_owned()];
    let with_logprobs = Choice { logprobs: Some(vec![entry()]), ..choice(0) };
    assert_snapshot!(head.whole(&[with_logprobs], usage()));
}

#[test]
fn whole_completion() {
    let head = head(Style::Text);
    let second = Choice {
        logprobs: Some(vec![entry(), LogprobEntry { text_offset: 1, ..entry() }]),
        finish_reason: FinishReason::Length,
        request_id: Some("r2".to_owned()),
        ..choice(1)
    };
    assert_snapshot!(head.whole(&[choice(0), second], usage()));
}

#[test]
fn chat_chunks() {
    let head = head(Style::Chat);
    assert_snapshot!(head.first_chunk(0).unwrap());
    assert_snapshot!(head.delta_chunk(0, "hi", None));
    assert_snapshot!(head.delta_chunk(1, "é", Some(&[entry()])));
    assert_snapshot!(head.finish_chunk(0, FinishReason::Length, true, None, None, None));
    assert_eq!(head.usage_chunk(usage()), None);
}

#[test]
fn completion_chunks() {
    let head = head(Style::Text);
    assert_eq!(head.first_chunk(0), None);
    let entry = LogprobEntry { text_offset: 4, ..entry() };
    assert_snapshot!(head.delta_chunk(0, "é", Some(&[entry])));
    assert_snapshot!(head.finish_chunk(0, FinishReason::Stop, true, Some("r2"), None, None));
}

#[test]
fn usage_and_warnings_come_with_the_last_chunk() {
    let mut head = head(Style::Chat);
    head.warnings = vec!["w".to_owned()];
    assert_snapshot!(head.finish_chunk(0, FinishReason::Stop, false, None, None, None));
    assert_snapshot!(head.finish_chunk(1, FinishReason::Stop, true, None, None, None));
    head.include_usage = true;
    assert_snapshot!(head.finish_chunk(1, FinishReason::Stop, true, None, None, None));
    assert_snapshot!(head.usage_chunk(usage()).unwrap());
}

#[test]
fn a_stop_string_is_told_where_it_ended_a_choice() {
    for style in [Style::Chat, Style::Text] {
        let head = head(style);
        let told = r#""finish_reason":"stop","stop_reason":"END""#;
        let stopped = Choice { stop_string: Some("END".to_owned()), ..choice(0) };
        assert!(head.whole(&[stopped], usage()).contains(told));
        let last = head.finish_chunk(0, FinishReason::Stop, true, None, None, Some("END"));
        assert!(last.contains(told), "{last}");
        assert!(!head.whole(&[choice(0)], usage()).contains("stop_reason"));
    }
}

#[test]
fn a_choice_says_at_its_end_how_sure_the_model_was_where_that_is_asked_for() {
    let mut sureness = Sureness::default();
    sureness.push(0.0);
    let confidence = sureness.confidence(None);
    let told = r#""confidence":{"calibrated":false,"token_probability":1.0,"least_sure":{"first_token":0,"n_tokens":1,"token_probability":1.0}}"#;
    for style in [Style::Chat, Style::Text] {
        let head = head(style);
        let whole = head.whole(&[Choice { confidence: Some(confidence), ..choice(0) }], usage());
        assert!(whole.contains(told), "{whole}");
        assert!(!head.whole(&[choice(0)], usage()).contains("confidence"));
        let last = head.finish_chunk(0, FinishReason::Stop, true, None, Some(&confidence), None);
        assert!(last.contains(told), "{last}");
    }
    let head = head(Style::Chat);
    let last = head.finish_calls_chunk(0, FinishReason::Stop, true, Some(&confidence));
    assert!(last.contains(told) && last.contains("tool_calls"), "{last}");
}

#[test]
fn each_prompt_counts_once_in_the_usage() {
    let usages = [usage(); 4];
    let expect =
        Usage { prompt_tokens: 20, completion_tokens: 8, cached_tokens: 6, ..Usage::default() };
    assert_eq!(sum_usage(&usages, 2), expect);
}

#[test]
fn models() {
    let loaded = ModelEntry {
        id: "m".to_owned(),
        object: "model",
        created: 1,
        owned_by: "lastmile",
        max_model_len: Some(8192),
        state: "loaded",
        aliases: vec!["fast".to_owned()],
        parent: None,
        root: None,
        release: Some("f".to_owned()),
    };
    assert_snapshot!(model_list(&[loaded]));
}

#[test]
fn errors_of_the_runtime_have_their_status() {
    #[track_caller]
    fn check(error: GenerateError, status: u16, kind: &str, param: Option<&str>) {
        let error = ApiError::Generate { error, prompt_param: "messages" };
        let body = error.body();
        assert_eq!((error.status(), body.kind, body.param.as_deref()), (status, kind, param));
    }
    let bad = "invalid_request_error";
    let too_long = GenerateError::ContextTooLong { prompt_tokens: 9, max_model_len: 8, own_len: 8 };
    check(too_long, 400, bad, Some("messages"));
    let field = GenerateError::InvalidField { field: "stop", message: String::new() };
    check(field, 400, bad, Some("stop"));
    check(queue_full(1), 429, "rate_limit_error", None);
    let unreachable = GenerateError::DeadlineUnreachable {
        field: "deadline_ms",
        limit_ms: 5,
        predicted_ms: 70,
        retry_after: None,
    };
    check(unreachable, 429, "rate_limit_error", Some("deadline_ms"));
    let late =
        GenerateError::DeadlineExceeded { field: "max_queue_ms", limit_ms: 5, n_generated: 0 };
    check(late, 408, bad, Some("max_queue_ms"));
    check(GenerateError::ShuttingDown, 503, "server_error", None);
    check(GenerateError::Sequence { message: String::new() }, 500, "server_error", None);
}

#[test]
fn error_bodies() {
    let error = ApiError::model_not_found("x", "m");
    assert_snapshot!(error.to_json());
    let full = ApiError::Generate { error: queue_full(8), prompt_param: "prompt" };
    assert_eq!(full.retry_after(), Some(Duration::from_millis(2500)));
    assert_snapshot!(full.to_json());
}

fn queue_full(limit: usize) -> GenerateError {
    GenerateError::QueueFull {
        queued: limit,
        limit,
        unit: lastmile::QueueUnit::Requests,
        retry_after: Duration::from_millis(2500),
    }
}

#[test]
fn a_limit_that_can_never_be_met_asks_for_no_retry() {
    let refused = |retry_after| {
        let error = GenerateError::DeadlineUnreachable {
            field: "deadline_ms",
            limit_ms: 5,
            predicted_ms: 70,
            retry_after,
        };
        ApiError::Generate { error, prompt_param: "prompt" }
    };
    assert_eq!(refused(None).retry_after(), None);
    let wait = Some(Duration::from_millis(70));
    assert_eq!(refused(wait).retry_after(), wait);
    let message = refused(None).to_string();
    assert_eq!(message, "deadline_ms is 5, but the first token is predicted after 70 ms");
}
