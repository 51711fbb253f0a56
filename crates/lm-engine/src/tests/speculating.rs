//! Guessed tokens: no answer differs by them. And prompts that are told back.

use lm_types::PromptLogprob;

use super::*;

/// What a reader gets, and what is recorded of it.
#[derive(Debug, PartialEq)]
pub(super) struct Got {
    pub(super) text: String,
    pub(super) tokens: Vec<TokenId>,
    logprobs: Vec<lm_types::TokenLogprobs>,
    pub(super) end: Result<(FinishReason, lm_types::Usage), GenerateError>,
}

pub(super) fn rig(options: &str, speculate: bool, n_blocks: usize) -> Rig {
    let change = |config: &mut SchedulerConfig| {
        (config.speculate, config.n_blocks) = (speculate, n_blocks);
        // Tokens of the placeholder take next to nothing, a stall of the machine a lot.
        (config.max_token_gap, config.max_model_len) = (Duration::ZERO, 1024.min(8 * n_blocks));
    };
    let max_model_len = 1024.min(8 * n_blocks);
    let options = format!("n_blocks={n_blocks},max_model_len={max_model_len},{options}");
    Rig::with_parts(&options, None, None, |backend| Box::new(backend), change)
}

pub(super) fn read(reader: &OutputReader) -> Got {
    let (mut text, mut tokens, mut logprobs) = (String::new(), vec![], vec![]);
    loop {
        match reader.next_blocking().unwrap() {
            GenerateEvent::Prompt { .. } => {}
            GenerateEvent::Delta { text: more, tokens: drawn, logprobs: said } => {
                text.push_str(&more);
                tokens.extend(drawn);
                logprobs.extend(said);
            }
            GenerateEvent::Finished(finish) => {
                let end = Ok((finish.reason, finish.usage));
                return Got { text, tokens, logprobs, end };
            }
            GenerateEvent::Failed(error) => return Got { text, tokens, logprobs, end: Err(error) },
        }
    }
}

/// A prompt that an echo repeats word by word, and that repeats itself.
pub(super) fn to_echo(i: u32) -> Vec<TokenId> {
    let words = (0..40 + i).map(|p| placeholder::FIRST_WORD + (7 * i + p % 23) % 200);
    let text: Vec<TokenId> = words.collect();
    [&[placeholder::BOS], &text[..], &[placeholder::SEP]].concat()
}

/// Requests that draw in every way there is.
fn change(i: u32, request: &mut GenerateRequest) {
    request.stop.max_tokens = Some(60);
    request.stop.ignore_eos = i.is_multiple_of(2);
    let sampling = &mut request.sampling;
    sampling.seed = u64::from(i);
    match i % 8 {
        0 => {}
        1 => sampling.logprobs = Some(2),
        2 => (sampling.temperature, sampling.top_p) = (1.0, 0.9),
        3 => (sampling.repetition_penalty, sampling.frequency_penalty) = (1.05, 0.1),
        4 => request.stop.min_tokens = 50,
        5 => request.stop.stop_token_ids = vec![placeholder::FIRST_WORD + (7 * i + 15) % 200],
        6 => (sampling.temperature, sampling.top_k) = (0.8, 20),
        _ => request.stop.stop_strings = vec!["e".to_owned()],
    }
}

#[track_caller]
fn check(options: &str, n_blocks: usize, expects_drafts: bool) {
    let run = |speculate: bool| {
        let mut rig = rig(options, speculate, n_blocks);
        // One alone and then several together.
        let mut all = Vec::new();
        for i in 0..8 {
            all.push(rig.add(to_echo(i), |request| change(i, request)));
            rig.run();
        }
        all.extend((0..8).map(|i| rig.add(to_echo(i), |request| change(i + 8, request))));
        rig.run();
        rig.engine.scheduler.check_integrity().unwrap();
        let got: Vec<Got> = all.iter().map(read).collect();
        let seen = rig.observer.0.lock().unwrap();
        let recorded: Vec<_> = seen.iter().map(|event| event.output_tokens.clone()).collect();
        let stats = rig.stats.snapshot();
        (got, recorded, (stats.draft_tokens, stats.accepted_tokens), stats.generation_tokens)
    };
    let (with, recorded, (drafted, accepted), n_with) = run(true);
    let (without, recorded_without, none, n_without) = run(false);
    assert_eq!(none, (0, 0));
    assert_eq!(n_with, n_without);
    for (i, (with, without)) in with.iter().zip(&without).enumerate() {
        assert_eq!(with, without, "request {i}");
    }
    let sorted = |mut all: Vec<Vec<TokenId>>| {
        all.sort();
        all
    };
    assert_eq!(sorted(recorded), sorted(recorded_without));
    assert!(!expects_drafts || accepted > 100, "{accepted} of {drafted} guesses were right");
    assert!(accepted <= drafted);
}

#[test]
fn answers_are_the_same_with_and_without_guesses() {
    check("mode=echo", 512, true);
    check("", 512, false);
}

#[test]
fn they_are_the_same_where_blocks_are_few_and_where_a_row_is_no_number() {
    check("mode=echo", 24, true);
    check("mode=echo,nan_at=70", 512, true);
}

#[test]
fn a_copy_takes_fewer_steps() {
    let steps = |speculate: bool| {
        let mut rig = rig("mode=echo", speculate, 512);
        let words = (0..200).map(|p| placeholder::FIRST_WORD + p);
        let text: Vec<TokenId> = words.collect();
        let prompt = [&[placeholder::BOS], &text[..], &[placeholder::SEP]].concat();
        let reader = rig.add(prompt, |request| request.stop.ignore_eos = false);
        rig.run();
        assert_eq!(read(&reader).tokens[..200], text);
        rig.stats.snapshot().steps
    };
    let (with, without) = (steps(true), steps(false));
    assert!(3 * with < without, "{with} steps with guesses, {without} without");
}

fn prompt_of(reader: &OutputReader) -> (Vec<TokenId>, Vec<PromptLogprob>, Got) {
    match reader.next_blocking().unwrap() {
        GenerateEvent::Prompt { tokens, logprobs } => (tokens, logprobs, read(reader)),
        other => panic!("{other:?} comes before the prompt"),
    }
}

#[test]
fn a_prompt_is_told_with_the_same_likelihoods_however_it_is_computed() {
    let mut rig = rig("", true, 512);
    let ask = |rig: &mut Rig, max_tokens: u32| {
        let reader = rig.add(to_echo(60), |request| {
            request.report = lm_types::PromptReport { tokens: true, logprobs: Some(3) };
            request.stop.max_tokens = Some(max_tokens);
        });
        rig.run();
        prompt_of(&reader)
    };
    let first = ask(&mut rig, 4);
    assert_eq!(first.0, to_echo(60));
    let tokens: Vec<TokenId> = first.1.iter().map(|scored| scored.token).collect();
    assert_eq!(tokens, to_echo(60)[1..]);
    assert!(first.1.iter().all(|scored| scored.top.len() == 3 && scored.rank >= 1));
    for scored in &first.1 {
        let in_top = scored.top.iter().position(|(token, _)| *token == scored.token);
        assert_eq!(in_top.is_some(), scored.rank <= 3, "{scored:?}");
        assert!(scored.top[0].1 >= scored.logprob);
    }
    // It lies in the prefix cache by now, of which its likelihoods cannot come.
    assert_eq!(ask(&mut rig, 4), first);
    // Beside others, in other chunks.
    let others: Vec<_> = (0..12).map(|i| rig.add(prompt(i), |_| ())).collect();
    rig.engine.step();
    assert_eq!(ask(&mut rig, 4), first);
    drop(others);
    let alone = ask(&mut rig, 0);
    assert_eq!((&alone.0, &alone.1), (&first.0, &first.1));
    let (reason, usage) = alone.2.end.clone().unwrap();
    assert_eq!((reason, usage.completion_tokens), (FinishReason::Length, 0));
    assert_eq!((alone.2.text.as_str(), alone.2.tokens.len()), ("", 0));
}

#[test]
fn a_prompt_that_loses_its_blocks_is_told_once() {
    let whole = {
        let mut rig = rig("", true, 512);
        let reader = rig.add(to_echo(60), |request| request.report.logprobs = Some(1));
        rig.run();
        prompt_of(&reader)
    };
    let mut rig = rig("", true, 40);
    let all: Vec<_> = (0..6)
        .map(|i| {
            rig.add(to_echo(if i == 5 { 60 } else { i }), |request| {
                request.stop.max_tokens = Some(if i == 5 { 20 } else { 100 });
                request.report.logprobs = Some(1);
            })
        })
        .collect();
    rig.run();
    let got = prompt_of(&all[5]);
    assert_eq!((got.0, got.1), (whole.0, whole.1));
    assert_eq!(got.2.tokens, whole.2.tokens[..20]);
    for (i, reader) in all[..5].iter().enumerate() {
        let (tokens, logprobs, _) = prompt_of(reader);
        assert_eq!((tokens.len(), logprobs.len() + 1), (to_echo(i as u32).len(), tokens.len()));
    }
}

#[test]
fn the_answers_of_a_request_compute_its_prompt_once() {
    let mut rig = Rig::new("");
    let prompt = to_echo(160);
    let mut request = GenerateRequest::new(RequestId(1), Prompt::Tokens(prompt.clone()));
    (request.n, request.stop.max_tokens) = (6, Some(5));
    let request = Arc::new(request);
    let pairs: Vec<_> = (0..6).map(|_| output_pair(5)).collect();
    let (writers, readers): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
    let submissions: Vec<NewSubmission> = writers
        .into_iter()
        .enumerate()
        .map(|(choice, output)| NewSubmission {
            adapter: None,
            grammar: None,
            thinking: None,
            stop: StopMatcher::new(&[]).unwrap(),
            request: Arc::clone(&request),
            choice: choice as u32,
            prompt: prompt.clone(),
            max_new_tokens: 5,
            arrived_at: SystemTime::now(),
            output,
        })
        .collect();
    let now = rig.stats.now();
    let places = rig.engine.door().admit(&submissions, now).unwrap();
    for (new, place) in submissions.into_iter().zip(places) {
        rig.engine.add(new, place, now);
    }
    rig.engine.step();
    assert_eq!(rig.stats.snapshot().n_waiting, 5);
    // One that is held leaves, too.
    let mut readers: Vec<_> = readers.into_iter().map(Some).collect();
    readers[3] = None;
    rig.run();
    for reader in readers.iter().flatten() {
        let (reason, usage) = read(reader).end.unwrap();
        assert_eq!((reason, usage.completion_tokens), (FinishReason::Length, 5));
    }
    let n_shared = ((prompt.len() - 1) / 8 * 8) as u64;
    let stats = rig.stats.snapshot();
    assert_eq!(stats.prefix_query_tokens, 5 * prompt.len() as u64);
    assert_eq!(stats.prefix_hit_tokens, 4 * n_shared);
    let seen = rig.observer.0.lock().unwrap();
    let aborted =
        seen.iter().filter(|event| event.outcome == Outcome::Finished(FinishReason::Abort));
    assert_eq!((seen.len(), aborted.count()), (6, 1));
}
