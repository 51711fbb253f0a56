//! Answers of a given form: alone, in a crowd, and preempted.

use std::time::Duration;

use lastmile::{
    Answer, AnswerForm, Constraint, FinishReason, GenerateError, GenerateRequest, GenerateStream,
    ModelSource, Prompt, RequestId, Runtime, RuntimeConfig, ToolFormat,
};

use crate::real_model;

const N: usize = 16;

fn request(i: usize) -> GenerateRequest {
    let mut request = GenerateRequest::new(
        RequestId(i as u128),
        Prompt::Text(format!("request {i} says something before its answer begins")),
    );
    let form = AnswerForm::Regex("([0-9a-f]{4}-){40}end".to_owned());
    request.constraint = Some(Constraint { field: "guided_regex", form });
    request.sampling.seed = i as u64;
    request.stop.max_tokens = Some(300);
    request
}

fn start(n_blocks: usize) -> Runtime {
    let options = format!("seed=3,block_size=8,n_blocks={n_blocks},max_model_len=400");
    let mut config = RuntimeConfig::new(ModelSource::placeholder(&options).unwrap());
    config.engine.prefix_cache = false;
    Runtime::start(config).unwrap()
}

/// All arrive at once, however fast the machine answers.
fn crowd(runtime: &Runtime) -> Vec<Answer> {
    let streams = runtime.generate_all((0..N).map(request).collect()).unwrap();
    streams.into_iter().flatten().map(|stream| stream.collect_answer().unwrap()).collect()
}

#[test]
fn a_form_is_kept_in_a_crowd_and_after_preemption() {
    let runtime = start(1000);
    let alone: Vec<Answer> =
        (0..N).map(|i| runtime.complete(request(i)).unwrap().remove(0)).collect();
    for answer in &alone {
        assert_eq!(answer.finish.reason, FinishReason::Stop);
        let groups: Vec<&str> = answer.text.strip_suffix("end").unwrap().split('-').collect();
        assert_eq!(groups.len(), 41, "{}", answer.text);
        assert!(groups[..40].iter().all(|group| group.len() == 4), "{}", answer.text);
    }
    let together = crowd(&runtime);
    let tight = start(100);
    let preempted = crowd(&tight);
    assert!(tight.stats().preemptions > 0, "the pool was not too small");
    for i in 0..N {
        assert_eq!(together[i].tokens, alone[i].tokens, "in a crowd: {i}");
        assert_eq!(preempted[i].tokens, alone[i].tokens, "after preemption: {i}");
    }
}

#[test]
fn choices_of_one_request_differ_and_all_keep_the_form() {
    let mut request = request(0);
    // Of words: single letters are so unlikely here that every draw of them is the same.
    let form = AnswerForm::Regex("( [a-z]{2,9}){20}-end".to_owned());
    request.constraint = Some(Constraint { field: "guided_regex", form });
    request.n = 4;
    let mut answers: Vec<String> =
        start(1000).complete(request).unwrap().into_iter().map(|answer| answer.text).collect();
    assert!(answers.iter().all(|text| text.ends_with("-end")));
    answers.sort();
    answers.dedup();
    assert_eq!(answers.len(), 4);
}

#[test]
fn what_cannot_be_enforced_is_refused_before_it_is_queued() {
    let mut request = request(0);
    let form = AnswerForm::JsonSchema(r#"{"not": {}}"#.to_owned());
    request.constraint = Some(Constraint { field: "response_format", form });
    match start(100).generate(request) {
        Err(GenerateError::InvalidField { field: "response_format", message }) => {
            assert!(message.contains("not"), "{message}");
        }
        other => panic!("{other:?}"),
    }
}

const PERSON: &str = r#"{
    "type": "object",
    "properties": {
        "first_name": { "type": "string", "maxLength": 12 },
        "occupation": { "enum": ["teacher", "gardener", "carpenter"] },
        "is_retired": { "type": "boolean" },
        "age": { "type": "integer", "minimum": 0, "maximum": 120 }
    },
    "required": ["first_name", "occupation", "is_retired", "age"],
    "additionalProperties": false
}"#;

/// Two answers to request `i`, of a form that decides much of the text.
fn formed(runtime: &Runtime, i: usize) -> Vec<GenerateStream> {
    let text =
        format!("Describe person {i} as JSON, with first_name, occupation, is_retired, age:");
    let mut request = GenerateRequest::new(RequestId(i as u128), Prompt::Text(text));
    let form = match i % 2 {
        0 => AnswerForm::JsonSchema(PERSON.to_owned()),
        _ => AnswerForm::Regex("The answer to question [0-9] is (yes|no), thank you\\.".to_owned()),
    };
    request.constraint = Some(Constraint { field: "response_format", form });
    request.n = 2;
    request.stop.max_tokens = Some(100);
    let sampling = &mut request.sampling;
    (sampling.seed, sampling.temperature) = (i as u64, 0.0);
    match i / 2 {
        0 => {}
        1 => sampling.temperature = 1.0,
        2 => (sampling.temperature, sampling.top_p) = (0.8, 0.9),
        3 => (sampling.temperature, sampling.logprobs) = (1.0, Some(3)),
        _ => request.stop.stop_strings = vec!["retired\": ".to_owned(), "yes, th".to_owned()],
    }
    runtime.generate(request).unwrap()
}

/// Each alone, and then all in a crowd: no answer differs by what its form guesses.
fn with_and_without_guesses(base: &RuntimeConfig) {
    let run = |speculate: bool| {
        let mut config = base.clone();
        config.engine.speculate = speculate;
        // On a slow machine a step with guesses would take longer than tokens may lie apart.
        config.engine.max_token_gap = Duration::ZERO;
        let runtime = Runtime::start(config).unwrap();
        let collect = |streams: Vec<GenerateStream>| -> Vec<Answer> {
            streams.into_iter().map(|stream| stream.collect_answer().unwrap()).collect()
        };
        let mut all: Vec<Answer> = (0..10).flat_map(|i| collect(formed(&runtime, i))).collect();
        let crowd: Vec<_> = (0..10).flat_map(|i| formed(&runtime, i)).collect();
        all.extend(collect(crowd));
        let stats = runtime.stats();
        (all, stats.form_draft_tokens, stats.form_accepted_tokens)
    };
    let ((with, drafted, accepted), (without, none, _)) = (run(true), run(false));
    assert_eq!(none, 0);
    assert!((1..=drafted).contains(&accepted), "{accepted} of {drafted} guesses were right");
    for (i, (with, without)) in with.iter().zip(&without).enumerate() {
        assert_eq!(with.tokens, without.tokens, "answer {i}: {:?}", with.text);
        let parts = |answer: &Answer| (answer.text.clone(), answer.logprobs.clone());
        assert_eq!(parts(with), parts(without), "answer {i}");
        assert_eq!(with.finish.reason, without.finish.reason, "answer {i}");
    }
}

#[test]
fn answers_of_a_form_do_not_depend_on_guesses() {
    let model = ModelSource::placeholder("delay_us=300").unwrap();
    with_and_without_guesses(&RuntimeConfig::new(model));
}

#[test]
fn real_model_answers_of_a_form_do_not_depend_on_guesses() {
    let path = real_model::path("smollm2-135m-instruct");
    let mut config = RuntimeConfig::new(ModelSource::path(path));
    config.max_model_len = Some(256);
    config.kv_bytes = Some(256 << 20);
    with_and_without_guesses(&config);
}

#[test]
fn nothing_is_guessed_where_rounding_depends_on_the_rows_of_a_step() {
    let mut config =
        RuntimeConfig::new(ModelSource::path(real_model::path("smollm2-135m-instruct")));
    config.device = "candle".to_owned();
    (config.max_model_len, config.kv_bytes) = (Some(64), Some(64 << 20));
    assert!(config.engine.speculate);
    let runtime = Runtime::start(config).unwrap();
    let mut request = GenerateRequest::new(RequestId(1), Prompt::Text("So it is:".to_owned()));
    let form = AnswerForm::Regex(" one two three four five".to_owned());
    request.constraint = Some(Constraint { field: "guided_regex", form });
    let answer = runtime.complete(request).unwrap().remove(0);
    assert_eq!(answer.text, " one two three four five");
    let stats = runtime.stats();
    assert_eq!((stats.draft_tokens, stats.form_draft_tokens), (0, 0));
}

#[test]
fn an_answer_that_may_call_once_ends_with_its_call() {
    let call = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n</tool_call>";
    let said = format!("I look.\n{call}\n{call}\nDone.");
    let source = ModelSource::placeholder("mode=echo").unwrap();
    let runtime = Runtime::start(RuntimeConfig::new(source)).unwrap();
    let tools = r#"[{"type":"function","function":{"name":"f"}}]"#;
    let check = |parallel: Option<bool>, expect: &str| {
        let mut request = GenerateRequest::new(RequestId(1), Prompt::Text(said.clone()));
        request.sampling.temperature = 0.0;
        request.stop.max_tokens = Some(400);
        request.constraint = parallel.map(|parallel| {
            let form = ToolFormat::Hermes.may_call(tools, parallel, None).unwrap().unwrap();
            Constraint { field: "tools", form: AnswerForm::MayCall(form) }
        });
        let answer = runtime.complete(request).unwrap().remove(0);
        assert_eq!((answer.text.as_str(), answer.finish.reason), (expect, FinishReason::Stop));
    };
    check(None, &said);
    check(Some(true), &said);
    check(Some(false), &format!("I look.\n{call}"));
}
