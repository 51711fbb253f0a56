//! Everything that passes, and what it becomes.

use lastmile::{AnswerForm, ChatMessage, Constraint, Prompt, RequestId, Role, SamplerStep};

use super::{chat, chat_with, completion};
use crate::{FeedbackRating, Parsed, parse_feedback};

#[track_caller]
fn check(body: &str, expect: &[(Role, &str)]) {
    let message = |(role, text): &(Role, &str)| ChatMessage {
        role: role.clone(),
        content: (*text).to_owned(),
    };
    let parsed = chat(body).unwrap();
    assert_eq!(parsed.prompts, [Prompt::Chat(expect.iter().map(message).collect())]);
    assert_eq!(parsed.warnings, Vec::<String>::new());
}

#[test]
fn conversations_of_all_roles_and_kinds_of_content() {
    check(
        r#"{"messages":[{"role":"system","content":"be brief"},{"role":"user","content":"hi"},
            {"role":"assistant","content":null},{"role":"assistant","refusal":null},
            {"role":"tool","content":"7"},{"role":"developer","content":""}]}"#,
        &[
            (Role::System, "be brief"),
            (Role::User, "hi"),
            (Role::Assistant, ""),
            (Role::Assistant, ""),
            (Role::Tool, "7"),
            (Role::Developer, ""),
        ],
    );
    check(
        r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a"},
            {"type":"text","text":"b"}]}]}"#,
        &[(Role::User, "a\nb")],
    );
}

#[test]
fn absent_and_null_fields_take_the_defaults() {
    for body in ["", r#","temperature":null,"stop":null,"n":null,"tools":null,"seed":null"#] {
        let body = format!(r#"{{"messages":[{{"role":"user","content":"hi"}}]{body}}}"#);
        let parsed = chat(&body).unwrap();
        assert!((parsed.sampling.temperature - 0.7).abs() < 1e-6);
        assert_eq!((parsed.sampling.seed, parsed.has_seed), (1000, false));
        assert_eq!((parsed.n, parsed.stream, parsed.stop.max_tokens), (1, false, None));
    }
}

#[test]
fn every_supported_field_arrives() {
    let parsed = chat_with(
        r#""model":"m","max_completion_tokens":5,"temperature":0,"top_p":0.5,"top_k":3,
           "min_p":0.1,"seed":-1,"presence_penalty":1,"frequency_penalty":-1,
           "repetition_penalty":1.5,"stop":["a","b"],"stop_token_ids":[7],"min_tokens":2,
           "ignore_eos":true,"n":2,"stream":true,"stream_options":{"include_usage":true},
           "logprobs":true,"top_logprobs":4,"user":"me","tools":[],"tool_choice":"auto",
           "response_format":{"type":"text"},"logit_bias":{},"parallel_tool_calls":true"#,
    )
    .unwrap();
    assert_eq!(parsed.model.as_deref(), Some("m"));
    let sampling = &parsed.sampling;
    assert_eq!((sampling.top_k, sampling.seed, sampling.logprobs), (3, u64::MAX, Some(4)));
    assert_eq!((sampling.temperature, sampling.top_p), (0.0, 0.5));
    assert_eq!((sampling.presence_penalty, sampling.frequency_penalty), (1.0, -1.0));
    let stop = &parsed.stop;
    assert_eq!((stop.max_tokens, stop.min_tokens, stop.ignore_eos), (Some(5), 2, true));
    assert_eq!((stop.stop_strings.len(), stop.stop_token_ids.as_slice()), (2, &[7][..]));
    assert_eq!((parsed.n, parsed.stream, parsed.include_usage), (2, true, true));
    assert_eq!(parsed.warnings, Vec::<String>::new());
}

#[test]
fn confidence_needs_log_probabilities_and_does_not_tell_them() {
    let asked = |fields: &str| {
        let parsed = chat_with(fields).unwrap();
        (parsed.confidence, parsed.has_logprobs, parsed.sampling.logprobs)
    };
    assert_eq!(asked(r#""max_tokens":9"#), (false, false, None));
    assert_eq!(asked(r#""confidence":false"#), (false, false, None));
    assert_eq!(asked(r#""confidence":true"#), (true, false, Some(0)));
    let both = r#""confidence":true,"logprobs":true,"top_logprobs":2"#;
    assert_eq!(asked(both), (true, true, Some(2)));
    let parsed = completion(r#"{"prompt":"a","confidence":true}"#).unwrap();
    assert_eq!((parsed.confidence, parsed.has_logprobs), (true, false));
}

#[test]
fn samplers_are_named_in_their_order() {
    let asked =
        |names: &str| chat_with(&format!(r#""samplers":{names}"#)).unwrap().sampling.samplers;
    let steps = vec![SamplerStep::MinP, SamplerStep::TypicalP, SamplerStep::Temperature];
    assert_eq!(asked(r#"["min_p","typ_p","temperature"]"#), Some(steps));
    assert_eq!(asked("[]"), Some(Vec::new()));
    assert_eq!(asked("null"), None);
    let usual =
        r#"["dry","penalties","top_n_sigma","temperature","top_k","typical_p","top_p","min_p"]"#;
    assert_eq!(asked(usual), None);
    assert_eq!(asked(r#"["xtc","top_k"]"#), Some(vec![SamplerStep::TopK]));
    let processors = chat_with(r#""logits_processors":["b","a"]"#).unwrap().sampling.processors;
    assert_eq!(processors, ["b", "a"]);
}

#[test]
fn unknown_fields_are_named_in_warnings() {
    let parsed = chat_with(r#""fruit":"apple","metadata":{},"max_tokens":9"#).unwrap();
    assert_eq!(
        parsed.warnings,
        ["unknown field 'fruit' was ignored", "unknown field 'metadata' was ignored"]
    );
}

#[test]
fn completions_take_texts_and_token_ids_one_or_many() {
    let text = |text: &str| Prompt::Text(text.to_owned());
    for (value, expect) in [
        (r#""a""#, vec![text("a")]),
        (r#"["a","b"]"#, vec![text("a"), text("b")]),
        ("[1,2]", vec![Prompt::Tokens(vec![1, 2])]),
        ("[[1],[2,3]]", vec![Prompt::Tokens(vec![1]), Prompt::Tokens(vec![2, 3])]),
    ] {
        let parsed = completion(&format!(r#"{{"prompt":{value}}}"#)).unwrap();
        assert_eq!(parsed.prompts, expect);
        assert_eq!(parsed.stop.max_tokens, Some(16));
    }
}

#[test]
fn a_suffix_makes_a_gap_behind_each_prompt() {
    let gap = |prefix: &str| {
        let (prefix, suffix) = (prefix.to_owned(), "z".to_owned());
        Prompt::Infill { prefix, suffix }
    };
    for (value, expect) in [(r#""a""#, vec![gap("a")]), (r#"["a",""]"#, vec![gap("a"), gap("")])] {
        let parsed = completion(&format!(r#"{{"prompt":{value},"suffix":"z"}}"#)).unwrap();
        assert_eq!(parsed.prompts, expect);
        assert!(parsed.text.add_special && !parsed.text.parse_special);
    }
    let asked = completion(r#"{"prompt":"a","suffix":"z","parse_special":true,"echo":true}"#);
    assert!(asked.unwrap().text.parse_special);
    for nothing in [r#""""#, "null"] {
        let parsed = completion(&format!(r#"{{"prompt":"a","suffix":{nothing}}}"#)).unwrap();
        assert_eq!(parsed.prompts, [Prompt::Text("a".to_owned())]);
        assert!(parsed.text.parse_special);
    }
}

#[test]
fn each_prompt_becomes_a_request_of_its_own_id_and_seed() {
    let seeds = |parsed: &mut Parsed| {
        let mut next = 0;
        let requests = parsed.take_requests(|| {
            next += 1;
            RequestId(next)
        });
        requests.iter().map(|r| (r.id.0, r.sampling.seed)).collect::<Vec<_>>()
    };
    let mut drawn = completion(r#"{"prompt":["a","b"],"n":3}"#).unwrap();
    assert_eq!(seeds(&mut drawn), [(1, 1000), (2, 1003)]);
    let mut given = completion(r#"{"prompt":["a","b"],"n":3,"seed":5}"#).unwrap();
    assert_eq!(seeds(&mut given), [(1, 5), (2, 5)]);
}

#[test]
fn on_whose_behalf_is_asked_is_kept() {
    let subject = |fields: &str| {
        let mut parsed = completion(&format!(r#"{{"prompt":["a","b"]{fields}}}"#)).unwrap();
        let requests = parsed.take_requests(|| RequestId(1));
        assert_eq!(requests[0].subject, requests[1].subject);
        requests[0].subject.clone()
    };
    assert_eq!(subject(""), None);
    assert_eq!(subject(r#","user":"""#), None);
    assert_eq!(subject(r#","user":"ann""#).as_deref(), Some("ann"));
    assert_eq!(subject(r#","safety_identifier":"h""#).as_deref(), Some("h"));
    assert_eq!(subject(r#","safety_identifier":"h","user":"ann""#).as_deref(), Some("ann"));
}

#[test]
fn feedback_takes_prefixed_ids_and_all_kinds_of_ratings() {
    for prefix in ["", "chatcmpl-", "cmpl-"] {
        for (rating, expect) in [
            (r#""rating":true"#, Some(FeedbackRating::Boolean(true))),
            (r#""rating":"down""#, Some(FeedbackRating::Boolean(false))),
            (r#""score":0.25"#, Some(FeedbackRating::Score(0.25))),
            (r#""comment":"nice""#, None),
        ] {
            let id = RequestId(0x0190_a1b2_c3d4_7e5f_8a9b_0c1d_2e3f_4a5b);
            let body = format!(r#"{{"request_id":"{prefix}{id}","choice":1,{rating}}}"#);
            let feedback = parse_feedback(body.as_bytes(), true).unwrap();
            assert_eq!(feedback.request_id, id);
            assert_eq!((feedback.choice, feedback.rating), (1, expect));
        }
    }
}

#[test]
fn what_is_asked_of_calls_is_enforced_where_the_model_decides_to_call() {
    let tools = |strict: bool| {
        let schema = r#"{"type":"object","properties":{"x":{"type":"integer"}}}"#;
        let function = format!(r#"{{"name":"f","strict":{strict},"parameters":{schema}}}"#);
        format!(r#""tools":[{{"type":"function","function":{function}}}]"#)
    };
    let check = |fields: &str, field: &str, follows_schema: bool, is_one: bool, has_form: bool| {
        let parsed = chat_with(fields).unwrap();
        assert_eq!(parsed.warnings, Vec::<String>::new(), "{fields}");
        let Some(Constraint { field: found, form: AnswerForm::MayCall(form) }) = parsed.constraint
        else {
            panic!("{fields} asks for nothing of calls")
        };
        assert_eq!(found, field, "{fields}");
        assert_eq!(form.calls.schema.contains("integer"), follows_schema, "{fields}");
        assert_eq!(form.calls.max_calls == 1, is_one, "{fields}");
        assert_eq!(form.otherwise.is_some(), has_form, "{fields}");
    };
    let (free, strict) = (tools(false), tools(true));
    assert_eq!(chat_with(&free).unwrap().constraint, None);
    check(&strict, "tools", true, false, false);
    let one = r#""parallel_tool_calls":false"#;
    check(&format!("{free},{one}"), "parallel_tool_calls", false, true, false);
    check(&format!("{strict},{one}"), "tools", true, true, false);
    let form = r#""response_format":{"type":"json_object"}"#;
    check(&format!("{free},{form}"), "response_format", false, false, true);
    let parsed = chat_with(&format!(r#"{free},"guided_regex":"a+""#)).unwrap();
    assert!(parsed.warnings[0].contains("guided_regex"), "{:?}", parsed.warnings);
    let form = parsed.constraint.map(|asked| asked.form);
    assert_eq!(form, Some(AnswerForm::Regex("a+".to_owned())));
}
