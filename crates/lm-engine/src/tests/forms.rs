//! Answers of a given form: none differs by what their grammars guess.

use lm_grammar::GrammarCompiler;
use lm_types::{AnswerForm, Ban, Constraint, OnHit, OutputRules, Steering};

use super::speculating::{Got, read, rig, to_echo};
use super::*;

const SCHEMA: &str = r#"{
    "type": "object",
    "properties": {
        "name": { "type": "string", "maxLength": 8 },
        "place": { "enum": ["house", "school"] },
        "is_open": { "type": "boolean" },
        "count": { "type": "integer", "minimum": 0, "maximum": 99 }
    },
    "required": ["name", "place", "is_open", "count"],
    "additionalProperties": false
}"#;

/// Forms that decide all of the text, much of it, and little.
fn forms() -> Vec<AnswerForm> {
    vec![
        AnswerForm::Regex("(0123456789){8}".into()),
        AnswerForm::Regex("( hello world,){6} thank you".into()),
        AnswerForm::JsonSchema(SCHEMA.into()),
        AnswerForm::Choice(
            [" other people", " other answer", " old house"].map(str::to_owned).into(),
        ),
        AnswerForm::Regex("[0-9a-f]{4}(-[0-9a-f]{4}){6}".into()),
        AnswerForm::JsonObject,
    ]
}

/// Requests that draw in every way there is.
fn change(i: usize, request: &mut GenerateRequest) {
    request.stop.max_tokens = Some(90);
    request.stop.ignore_eos = false;
    let sampling = &mut request.sampling;
    sampling.seed = i as u64;
    match i % 9 {
        0 => {}
        1 => sampling.temperature = 1.0,
        2 => (sampling.temperature, sampling.logprobs) = (1.0, Some(2)),
        3 => (sampling.temperature, sampling.top_p) = (1.0, 0.9),
        4 => (sampling.repetition_penalty, sampling.frequency_penalty) = (1.05, 0.1),
        5 => (sampling.temperature, sampling.top_k, sampling.min_p) = (0.8, 20, 0.05),
        6 => request.stop.stop_strings = vec!["789012".into(), "orld, hel".into(), "e\": ".into()],
        7 => request.stop.min_tokens = 5,
        _ => request.stop.max_tokens = Some(7),
    }
}

/// All forms with all ways to draw, one after the other and then together. What readers got, and guesses that grammars
/// made and that were right.
fn run(options: &str, speculate: bool, n_blocks: usize) -> (Vec<Got>, u64, u64) {
    let tokenizer = Tokenizer::placeholder();
    let compiler = GrammarCompiler::new(&tokenizer, placeholder::VOCAB_SIZE).unwrap();
    let forms = forms();
    let mut rig = rig(options, speculate, n_blocks);
    let add = |rig: &mut Rig, i: usize| {
        let grammar = compiler.compile(&forms[i % forms.len()]).unwrap().start();
        rig.add_formed(to_echo(i as u32), Some(grammar), |request| change(i / forms.len(), request))
    };
    let n = 9 * forms.len();
    let mut all = Vec::new();
    for i in 0..n {
        all.push(add(&mut rig, i));
        rig.run();
    }
    for first in (0..n).step_by(8) {
        all.extend((first..n.min(first + 8)).map(|i| add(&mut rig, i)));
        rig.run();
    }
    rig.engine.scheduler.check_integrity().unwrap();
    let stats = rig.stats.snapshot();
    assert_eq!(stats.n_free_blocks, n_blocks as u64);
    let all: Vec<Got> = all.iter().map(read_formed).collect();
    let (alone, together) = all.split_at(n);
    assert_eq!(alone, together, "eight at once are drawn by more than one thread");
    (all, stats.form_draft_tokens, stats.form_accepted_tokens)
}

/// What a reader got. What came from the prefix cache depends on what was computed when.
fn read_formed(reader: &OutputReader) -> Got {
    let mut got = read(reader);
    if let Ok((_, usage)) = &mut got.end {
        usage.cached_tokens = 0;
    }
    got
}

#[track_caller]
fn check(options: &str, n_blocks: usize) {
    let (with, drafted, accepted) = run(options, true, n_blocks);
    let (without, none, _) = run(options, false, n_blocks);
    assert_eq!(none, 0);
    // The first steps that could have guesses have them whatever they take.
    assert!((20..=drafted).contains(&accepted), "{accepted} of {drafted} guesses were right");
    for (i, (with, without)) in with.iter().zip(&without).enumerate() {
        assert_eq!(with, without, "answer {i}");
    }
}

#[test]
fn answers_of_a_form_are_the_same_with_and_without_guesses() {
    check("", 512);
    check("mode=echo", 512);
}

#[test]
fn they_are_the_same_where_blocks_are_few_and_where_a_row_is_no_number() {
    check("", 32);
    check("nan_at=70", 512);
}

#[test]
fn a_decided_text_takes_fewer_steps() {
    let tokenizer = Tokenizer::placeholder();
    let compiler = GrammarCompiler::new(&tokenizer, placeholder::VOCAB_SIZE).unwrap();
    let steps = |speculate: bool| {
        let mut rig = rig("delay_us=300", speculate, 512);
        let form = AnswerForm::Regex("(0123456789){20}".into());
        let grammar = compiler.compile(&form).unwrap().start();
        let reader = rig.add_formed(to_echo(0), Some(grammar), |request| {
            (request.sampling.temperature, request.stop.ignore_eos) = (1.0, false);
        });
        rig.run();
        let got = read(&reader);
        assert_eq!((got.text, got.tokens.len()), ("0123456789".repeat(20), 200));
        assert_eq!(got.end.unwrap().0, FinishReason::Stop);
        rig.stats.snapshot().steps
    };
    let (with, without) = (steps(true), steps(false));
    assert!(2 * with < without, "{with} steps with guesses, {without} without");
}

#[test]
fn an_answer_that_turns_back_takes_back_what_its_grammar_took() {
    let tokenizer = Tokenizer::placeholder();
    let compiler = GrammarCompiler::new(&tokenizer, placeholder::VOCAB_SIZE).unwrap();
    let form = AnswerForm::Regex("(( hello world| hello there| thank you),){12} please".into());
    let run = |speculate: bool| {
        let mut rig = rig("", speculate, 512);
        let phrases = ["world, thank", "there, hello w", "you, thank you"];
        let ban = |phrase: &str| Ban {
            rule: "r".into(),
            phrase: phrase.to_owned(),
            ignore_case: false,
            then: OnHit::Resubmit,
        };
        let rules = Some(Arc::new(OutputRules::new(phrases.into_iter().map(ban).collect())));
        let all: Vec<OutputReader> = (0..12)
            .map(|i| {
                let grammar = compiler.compile(&form).unwrap().start();
                rig.add_formed(to_echo(i), Some(grammar), |request| {
                    (request.sampling.temperature, request.sampling.seed) = (1.0, u64::from(i));
                    request.stop.ignore_eos = false;
                    request.steering = Steering { rules: rules.clone(), ..Steering::default() };
                })
            })
            .collect();
        rig.run();
        let got: Vec<Got> = all.iter().map(read_formed).collect();
        for answer in &got {
            assert!(phrases.iter().all(|phrase| !answer.text.contains(phrase)), "{}", answer.text);
            let is_stopped = matches!(answer.end, Ok((FinishReason::Stop, _)));
            assert!(!is_stopped || answer.text.ends_with(" please"), "{}", answer.text);
        }
        got
    };
    let (with, without) = (run(true), run(false));
    assert_eq!(with, without);
    assert!(with.iter().any(|answer| answer.end.is_ok()));
}

#[test]
fn a_request_that_forbids_every_token_is_told_so() {
    let compiler =
        GrammarCompiler::new(&Tokenizer::placeholder(), placeholder::VOCAB_SIZE).unwrap();
    let check = |form: Option<AnswerForm>, allowed: &[TokenId], fields: &str, n: usize| {
        let mut rig = Rig::new("");
        let grammar = form.as_ref().map(|form| compiler.compile(form).unwrap().start());
        let is_formed = form.is_some();
        let reader = rig.add_formed(prompt(1), grammar, |request| {
            request.constraint = form.map(|form| Constraint { field: "guided_choice", form });
            request.sampling.allowed_token_ids = Some(allowed.to_vec());
            request.stop.ignore_eos = false;
            request.stop.min_tokens = if is_formed { 0 } else { 2 };
        });
        rig.run();
        let first = fields.split(',').next().unwrap();
        match answer(&reader).1 {
            Err(GenerateError::NothingAllowed { field, fields: found, n_generated }) => {
                assert_eq!((field, found.as_str(), n_generated), (first, fields, n));
            }
            other => panic!("{other:?}"),
        }
        // Nothing of it is left.
        assert_eq!(rig.stats.snapshot().n_free_blocks, 512);
    };
    let yes = || Some(AnswerForm::Choice(vec!["yes".to_owned()]));
    check(yes(), &[placeholder::FIRST_WORD], "guided_choice, allowed_token_ids", 0);
    let [y, e] = [b'y', b'e'].map(|byte| placeholder::FIRST_BYTE + u32::from(byte));
    check(yes(), &[e, y], "guided_choice, allowed_token_ids", 2);
    check(None, &[placeholder::EOS], "allowed_token_ids, min_tokens", 0);
}
