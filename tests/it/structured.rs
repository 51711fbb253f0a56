//! Answers of a given form: alone, in a crowd, and preempted.

use lastmile::{
    Answer, AnswerForm, Constraint, FinishReason, GenerateError, GenerateRequest, ModelSource,
    Prompt, RequestId, Runtime, RuntimeConfig,
};

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

fn crowd(runtime: &Runtime) -> Vec<Answer> {
    let streams: Vec<_> = (0..N).map(|i| runtime.generate(request(i)).unwrap().remove(0)).collect();
    streams.into_iter().map(|stream| stream.collect_answer().unwrap()).collect()
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
