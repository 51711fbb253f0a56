//! Allowances: what an answer took is counted while it runs, and it ends when nothing is left.

use lm_grammar::GrammarCompiler;
use lm_types::{Allowance, AnswerForm, SharedAllowance, Usage};

use super::speculating::{read, rig, to_echo};
use super::*;

/// So many tokens are left, the prompt's included.
#[derive(Debug, Default)]
struct Purse {
    limit: u32,
    seen: Mutex<Vec<(Usage, f64)>>,
}

impl Allowance for Purse {
    fn spend(&self, choice: u32, usage: Usage, cpu_seconds: f64) -> bool {
        assert_eq!(choice, 0);
        self.seen.lock().unwrap().push((usage, cpu_seconds));
        usage.prompt_tokens + usage.completion_tokens < self.limit
    }
}

fn spending(rig: &mut Rig, prompt: Vec<TokenId>, limit: u32) -> (Arc<Purse>, OutputReader) {
    let purse = Arc::new(Purse { limit, ..Purse::default() });
    let allowance: Arc<dyn Allowance> = purse.clone();
    let reader = rig.add(prompt, |request| request.allowance = Some(SharedAllowance(allowance)));
    (purse, reader)
}

#[test]
fn an_answer_ends_at_the_token_that_takes_the_last_of_it() {
    let mut rig = Rig::new("mode=random");
    let free = rig.add(prompt(0), |_| {});
    // A prompt of 20 and 13 tokens of an answer.
    let (purse, reader) = spending(&mut rig, prompt(0), 33);
    rig.run();
    let (text, end) = answer(&reader);
    assert_eq!(end, Ok(FinishReason::Budget));
    let (whole, end) = answer(&free);
    assert_eq!(end, Ok(FinishReason::Length));
    assert!(whole.starts_with(&text) && !text.is_empty() && text.len() < whole.len(), "{text:?}");
    let events = rig.observer.0.lock().unwrap();
    let [event] = events.iter().filter(|e| e.request.allowance.is_some()).collect::<Vec<_>>()[..]
    else {
        panic!("it is recorded once")
    };
    assert_eq!((event.usage.prompt_tokens, event.usage.completion_tokens), (20, 13));
    let seen = purse.seen.lock().unwrap();
    let (usage, cpu_seconds) = *seen.last().unwrap();
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (20, 13));
    assert_eq!(cpu_seconds, event.timings.cpu_seconds, "all of it was counted while it ran");
    assert!(seen.is_sorted_by(|a, b| a.1 <= b.1 && a.0.completion_tokens <= b.0.completion_tokens));
}

#[test]
fn a_prompt_that_cannot_be_paid_is_not_computed_to_its_end() {
    let mut rig = Rig::new("mode=random");
    let long: Vec<TokenId> = (0..600).map(|i| placeholder::FIRST_WORD + i % 200).collect();
    let (purse, reader) = spending(&mut rig, long, 1);
    rig.run();
    assert_eq!(answer(&reader), (String::new(), Ok(FinishReason::Budget)));
    assert_eq!(purse.seen.lock().unwrap().len(), 1, "after its first chunk");
    let stats = rig.stats.snapshot();
    assert_eq!(stats.n_free_blocks, stats.n_blocks);
}

#[test]
fn text_that_was_held_back_is_kept() {
    let mut rig = Rig::new("mode=random");
    let words = rig.add(prompt(0), |request| request.stop.max_tokens = Some(8));
    rig.run();
    let (whole, _) = answer(&words);
    let purse = Arc::new(Purse { limit: 20 + 8, ..Purse::default() });
    let held = rig.add(prompt(0), |request| {
        // The answer's end might begin it.
        request.stop.stop_strings = vec![format!("{}!", &whole[whole.len() - 4..])];
        request.allowance = Some(SharedAllowance(purse));
    });
    rig.run();
    assert_eq!(answer(&held), (whole, Ok(FinishReason::Budget)));
}

#[test]
fn guesses_overdraw_nothing() {
    let tokenizer = Tokenizer::placeholder();
    let compiler = GrammarCompiler::new(&tokenizer, placeholder::VOCAB_SIZE).unwrap();
    let grammar = compiler.compile(&AnswerForm::Regex("(0123456789){20}".into())).unwrap();
    let n_prompt = to_echo(0).len() as u32;
    let run = |speculate: bool, n_tokens: u32| {
        let mut rig = rig("delay_us=300", speculate, 512);
        let purse = Arc::new(Purse { limit: n_prompt + n_tokens, ..Purse::default() });
        let allowance: Arc<dyn Allowance> = purse.clone();
        let reader = rig.add_formed(to_echo(0), Some(grammar.start()), |request| {
            request.stop.ignore_eos = false;
            request.allowance = Some(SharedAllowance(allowance));
        });
        rig.run();
        let (usage, _) = *purse.seen.lock().unwrap().last().unwrap();
        assert_eq!((usage.prompt_tokens, usage.completion_tokens), (n_prompt, n_tokens));
        (read(&reader), rig.stats.snapshot().accepted_tokens)
    };
    // Several tokens come a step, so that most of these ends lie within one.
    for n_tokens in 29..35 {
        let (with, n_right) = run(true, n_tokens);
        assert!(n_right > 20, "only {n_right} guesses were right");
        assert_eq!((with.tokens.len() as u32, run(false, n_tokens).0 == with), (n_tokens, true));
        assert_eq!(with.end.map(|(reason, _)| reason), Ok(FinishReason::Budget));
    }
}
