//! Banned phrases: nothing of them reaches a reader, wherever tokens and characters are cut.

use lm_tokenizer::EncodeOptions;
use lm_types::{Ban, OnHit, OutputRules, Steering, TokenLogprobs};

use super::*;

/// What a reader got.
#[derive(Debug, Default)]
struct Got {
    text: String,
    tokens: Vec<TokenId>,
    logprobs: Vec<TokenLogprobs>,
    end: Option<FinishReason>,
}

impl Got {
    /// The bytes of the tokens that came.
    fn spelled(&self) -> String {
        let tokenizer = Tokenizer::placeholder();
        let visible = self.tokens.iter().filter(|&&token| !tokenizer.is_control(token));
        let bytes: Vec<u8> =
            visible.flat_map(|&token| tokenizer.token_bytes(token).to_vec()).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn mean_logprob(&self) -> Option<f64> {
        let sum: f64 = self.logprobs.iter().map(|one| f64::from(one.logprob)).sum();
        (!self.logprobs.is_empty()).then(|| sum / self.logprobs.len() as f64)
    }
}

fn rules(phrases: &[&str], then: &OnHit) -> Option<Arc<OutputRules>> {
    let ban = |phrase: &&str| Ban {
        rule: "r".into(),
        phrase: (*phrase).to_owned(),
        ignore_case: false,
        then: then.clone(),
    };
    Some(Arc::new(OutputRules::new(phrases.iter().map(ban).collect())))
}

fn read(reader: &OutputReader) -> Got {
    let mut got = Got::default();
    while let Some(event) = reader.next_blocking() {
        match event {
            GenerateEvent::Prompt { .. } => {}
            GenerateEvent::Delta { text, tokens, logprobs } => {
                got.text.push_str(&text);
                got.tokens.extend(tokens);
                got.logprobs.extend(logprobs);
            }
            GenerateEvent::Finished(finish) => got.end = Some(finish.reason),
            GenerateEvent::Failed(error) => panic!("{error}"),
        }
    }
    got
}

/// Echoes `text`, whose tokens are given, under rules.
fn echo(tokens: &[TokenId], phrases: &[&str], then: &OnHit) -> (Got, RequestEvent) {
    let mut rig = Rig::new("mode=echo");
    let prompt = [&[placeholder::BOS], tokens, &[placeholder::SEP]].concat();
    let reader = rig.add(prompt, |request| {
        request.stop.ignore_eos = false;
        request.sampling.logprobs = Some(3);
        request.steering = Steering { rules: rules(phrases, then), ..Steering::default() };
    });
    rig.run();
    let got = read(&reader);
    let event = rig.observer.0.lock().unwrap().pop().unwrap();
    (got, event)
}

fn bytes_of(text: &str) -> Vec<TokenId> {
    text.bytes().map(|byte| placeholder::FIRST_BYTE + u32::from(byte)).collect()
}

fn words_of(text: &str) -> Vec<TokenId> {
    Tokenizer::placeholder().encode(text, EncodeOptions::default()).unwrap()
}

#[track_caller]
fn check(text: &str, phrase: &str, then: &OnHit, expect: &str) {
    // Each byte a token, whole words as tokens, and a mixture that begins with each.
    let (bytes, words) = (bytes_of(text), words_of(text));
    let half = text.floor_char_boundary(text.len() / 2);
    let mixed = [words_of(&text[..half]), bytes_of(&text[half..])].concat();
    for tokens in [bytes, words, mixed] {
        let (got, event) = echo(&tokens, &[phrase], then);
        assert_eq!(got.text, expect, "{tokens:?}");
        assert!(!got.spelled().contains(phrase), "tokens spell it: {got:?}");
        assert!(got.text.starts_with(got.spelled().trim_end_matches('\u{fffd}')), "{got:?}");
        assert_eq!(got.logprobs.len(), got.tokens.len(), "{got:?}");
        assert_eq!(got.end, Some(FinishReason::Filtered));
        assert_eq!((event.output_text.as_str(), event.hits.len()), (expect, 1));
        assert_eq!(event.output_tokens, got.tokens);
        assert_eq!(event.usage.completion_tokens as usize, got.tokens.len());
        assert_eq!(event.mean_logprob, got.mean_logprob(), "what is learned from is what was told");
    }
}

#[test]
fn a_banned_phrase_never_leaves_however_it_is_cut_into_tokens() {
    check("tell me the wörld 😀 plan now", "wörld 😀 plan", &OnHit::Stop, "tell me the ");
    check("the secret", "secret", &OnHit::Stop, "the ");
    check("secret the", "secret", &OnHit::Stop, "");
    check("a secsecret", "secret", &OnHit::Stop, "a sec");
    let replaced = OnHit::Replace("[gone]".to_owned());
    check("ask for the world now", "the world", &replaced, "ask for [gone]");
    // A replacement that would complete a phrase stays away.
    let (got, _) = echo(&bytes_of("xa bad"), &["bad", "aword"], &OnHit::Replace("word".to_owned()));
    assert_eq!(got.text, "xa word");
    let (got, _) = echo(&bytes_of("xabad"), &["bad", "aword"], &OnHit::Replace("word".to_owned()));
    assert_eq!(got.text, "xa");
}

#[test]
fn a_phrase_that_begins_in_what_an_answer_goes_on_with_is_never_completed() {
    let (told, phrase) = ("of the s\u{e9}cret", "s\u{e9}cret");
    let starts = phrase.char_indices().map(|(at, _)| at + told.len() - phrase.len()).skip(1);
    for start in starts {
        let (before, rest) = told.split_at(start);
        for (tokens, then, expect) in [
            (bytes_of(rest), OnHit::Stop, ""),
            (words_of(rest), OnHit::Stop, ""),
            (bytes_of(rest), OnHit::Replace("[gone]".to_owned()), "[gone]"),
            // A replacement that would complete it stays away, too.
            (bytes_of(rest), OnHit::Replace(rest.to_owned()), ""),
        ] {
            let mut rig = Rig::new("mode=echo");
            let prompt = [&[placeholder::BOS], &tokens[..], &[placeholder::SEP]].concat();
            let reader = rig.add(prompt, |request| {
                request.stop.ignore_eos = false;
                request.steering = Steering {
                    rules: rules(&[phrase], &then),
                    before: before.to_owned(),
                    ..Steering::default()
                };
            });
            rig.run();
            let got = read(&reader);
            assert_eq!((got.text.as_str(), got.end), (expect, Some(FinishReason::Filtered)));
        }
    }
    // What stands whole in what it goes on with is not the answer's.
    let mut rig = Rig::new("mode=echo");
    let prompt = [&[placeholder::BOS], &bytes_of("ond")[..], &[placeholder::SEP]].concat();
    let reader = rig.add(prompt, |request| {
        request.stop.ignore_eos = false;
        request.steering = Steering {
            rules: rules(&["secret", "sec"], &OnHit::Stop),
            before: "secret sec".to_owned(),
            ..Steering::default()
        };
    });
    rig.run();
    let got = read(&reader);
    assert_eq!((got.text.as_str(), got.end), ("ond", Some(FinishReason::Stop)));
}

#[test]
fn a_phrase_behind_half_a_character_ends_the_answer_and_not_the_engine() {
    // The first byte is out as U+FFFD before the phrase is known, and no answer goes on from within a character.
    let mut tokens = bytes_of("tell \u{e9}bad");
    tokens.remove(6);
    let (got, event) = echo(&tokens, &["bad"], &OnHit::Resubmit);
    assert_eq!((got.text.as_str(), got.end), ("tell \u{fffd}", Some(FinishReason::Filtered)));
    assert_eq!(event.hits.len(), 1);
}

#[test]
fn what_only_begins_as_a_phrase_comes_whole() {
    for text in ["the secre", "the secrex t", "path\\", "a\\u00e"] {
        let (got, event) = echo(&bytes_of(text), &["secret", "é"], &OnHit::Stop);
        assert_eq!((got.text.as_str(), got.end), (text, Some(FinishReason::Stop)));
        assert_eq!(got.spelled(), text);
        assert!(event.hits.is_empty());
    }
}

#[test]
fn alternatives_do_not_spell_a_phrase() {
    let word = Tokenizer::placeholder().token_text(placeholder::FIRST_WORD + 20).into_owned();
    let phrase = word.trim().to_owned();
    let mut rig = Rig::new("");
    let readers: Vec<_> = (0..8)
        .map(|i| {
            rig.add(prompt(i), |request| {
                request.sampling.logprobs = Some(20);
                request.steering.rules = rules(&[&phrase], &OnHit::Stop);
            })
        })
        .collect();
    rig.run();
    for got in readers.iter().map(read) {
        assert!(!got.text.contains(&phrase));
        for entry in &got.logprobs {
            let held = entry
                .top
                .iter()
                .any(|(token, _)| Tokenizer::placeholder().token_text(*token).contains(&phrase));
            assert!(!held, "{entry:?}");
        }
    }
}

#[test]
fn an_answer_that_turns_back_goes_on_without_the_phrase() {
    let plain = |i| {
        let mut rig = Rig::new("seed=4");
        let reader = rig.add(prompt(i), |_| ());
        rig.run();
        read(&reader)
    };
    for i in 0..6 {
        let before = plain(i);
        // Two words that come in the middle of the answer, with a part of each neighbour.
        let words: Vec<&str> = before.text.split(' ').collect();
        let phrase = format!("{} {}", words[20], words[21]);
        let at = before.text.find(&phrase).unwrap();
        let guarded = |rules: Option<Arc<OutputRules>>, logprobs| {
            let mut rig = Rig::new("seed=4");
            let reader = rig.add(prompt(i), |request| {
                request.sampling.logprobs = logprobs;
                request.steering.rules = rules;
            });
            rig.run();
            let event = rig.observer.0.lock().unwrap().pop().unwrap();
            (read(&reader), event)
        };
        let (got, event) = guarded(rules(&[&phrase], &OnHit::Resubmit), Some(2));
        assert!(!got.text.contains(&phrase), "{} is in {}", phrase, got.text);
        assert_eq!(got.text[..at], before.text[..at], "what came before stays");
        assert_eq!(got.end, Some(FinishReason::Length));
        assert_eq!((got.tokens.len(), got.logprobs.len()), (300, 300));
        assert_eq!(got.spelled(), got.text);
        assert_eq!(event.usage.completion_tokens, 300);
        assert_eq!(event.usage.prompt_tokens, 20 + i);
        assert_eq!(event.hits.len(), 1);
        assert_eq!(event.mean_logprob, got.mean_logprob(), "what it turned back from counts");
        // Deterministic: the same again.
        assert_eq!(guarded(rules(&[&phrase], &OnHit::Resubmit), Some(2)).0.text, got.text);
        // A phrase that cuts into a token: the beginning of the token stays.
        let inner = before.text[at + 1..at + phrase.len()].to_owned();
        let (got, _) = guarded(rules(&[&inner], &OnHit::Resubmit), None);
        assert!(!got.text.contains(&inner));
        let first = before.text.find(&inner).unwrap();
        assert_eq!(got.text[..first], before.text[..first]);
    }
}

#[test]
fn rules_that_no_answer_meets_change_nothing() {
    let run = |rules: Option<Arc<OutputRules>>| {
        let mut rig = Rig::new("");
        let reader = rig.add(prompt(3), |request| {
            request.sampling.logprobs = Some(2);
            request.steering.rules = rules;
        });
        rig.run();
        let got = read(&reader);
        let event = rig.observer.0.lock().unwrap().pop().unwrap();
        assert_eq!(event.mean_logprob, got.mean_logprob());
        (got.text, got.tokens, got.logprobs)
    };
    assert_eq!(run(None), run(rules(&["never said"], &OnHit::Resubmit)));
}

#[test]
fn an_opening_comes_first_and_is_looked_at_too() {
    let open = |opening: &str| {
        let mut rig = Rig::new("");
        let text = opening.to_owned();
        let prompt = [prompt(3), words_of(opening)].concat();
        let reader = rig.add(prompt, |request| {
            request.steering.opening = text;
            request.steering.rules = rules(&["forbidden"], &OnHit::Resubmit);
        });
        rig.run();
        read(&reader)
    };
    assert!(open("Dear reader,").text.starts_with("Dear reader, "));
    let cut = open("it is forbidden");
    assert_eq!((cut.text.as_str(), cut.end), ("it is ", Some(FinishReason::Filtered)));
}

#[test]
fn what_was_handed_out_and_what_comes_after_a_turn_make_no_phrase() {
    // Of two words in a row the first is let out because another phrase follows; then that one is turned away from.
    let run = |rules: Option<Arc<OutputRules>>, seed: u64| {
        let mut rig = Rig::new("seed=4");
        let reader = rig.add(prompt(2), |request| {
            request.sampling =
                SamplingParams { temperature: 1.5, seed, ..SamplingParams::default() };
            request.steering.rules = rules;
        });
        rig.run();
        read(&reader)
    };
    let mut n_turned = 0;
    for seed in 0..8 {
        let before = run(None, seed);
        let words: Vec<&str> = before.text.split(' ').filter(|word| word.len() > 1).collect();
        let first = format!(" {}", words[30]);
        let after = format!(" {}", words[31]);
        // Whatever else follows the first word is forbidden together with it, letter by letter.
        let followers = "abcdefghijklmnopqrstuvwxyz.(\n";
        let mut phrases: Vec<String> = followers.chars().map(|c| format!("{first} {c}")).collect();
        phrases.retain(|phrase| !format!("{first}{after}").starts_with(phrase.as_str()));
        phrases.push(after);
        let phrases: Vec<&str> = phrases.iter().map(String::as_str).collect();
        let got = run(rules(&phrases, &OnHit::Resubmit), seed);
        for phrase in &phrases {
            assert!(!got.text.contains(phrase), "{phrase:?} is in {:?}", got.text);
            assert!(!got.spelled().contains(phrase), "{phrase:?} is spelled");
        }
        n_turned += usize::from(got.text != before.text);
    }
    assert!(n_turned > 0);
}
