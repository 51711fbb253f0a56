//! Tokenizers over small vocabularies: what goes in as text comes out as ids, and back.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use lm_tokenizer::{DecodeStream, EncodeOptions, GgufVocab, Tokenizer, placeholder};
use proptest::prelude::*;

const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };
const SPECIAL: EncodeOptions = EncodeOptions { add_special: true, parse_special: true };

/// Tokens with their types: 1 normal, 3 control, 4 user-defined, 6 byte.
fn vocab(model: &str, tokens: &[(&str, u32)]) -> GgufVocab {
    GgufVocab {
        model: model.to_owned(),
        tokens: tokens.iter().map(|(text, _)| (*text).to_owned()).collect(),
        token_types: tokens.iter().map(|&(_, token_type)| token_type).collect(),
        ..GgufVocab::default()
    }
}

/// The printable bytes, space and line end as GPT-2 writes them, and a few merges.
fn bpe_vocab() -> GgufVocab {
    let mut tokens = vec![("<|endoftext|>", 3), ("<|im_end|>", 3), ("<tool>", 4)];
    let ascii: Vec<String> = (0x21..=0x7eu8).map(|b| char::from(b).to_string()).collect();
    tokens.extend(ascii.iter().map(|text| (text.as_str(), 1)));
    tokens.extend([("Ġ", 1), ("Ċ", 1), ("Ã", 1), ("©", 1), ("he", 1), ("hel", 1), ("lo", 1)]);
    tokens.extend([("hello", 1), ("Ġhello", 1), ("Ġhe", 1), ("Ã©", 1), ("aa", 1), ("world", 1)]);
    let merges = ["h e", "l o", "he l", "hel lo", "Ġ hello", "Ġ he", "Ã ©", "a a"];
    GgufVocab {
        pre: Some("gpt-2".to_owned()),
        merges: merges.map(str::to_owned).to_vec(),
        bos: Some(0),
        eos: Some(0),
        ..vocab("gpt2", &tokens)
    }
}

/// SentencePiece with all 256 bytes at ids 3..259, then pieces with their scores.
fn spm_vocab(pieces: &[(&str, f32)]) -> GgufVocab {
    let bytes: Vec<String> = (0..=255).map(|b: u8| format!("<0x{b:02X}>")).collect();
    let mut tokens = vec![("<unk>", 2), ("<s>", 3), ("</s>", 3)];
    tokens.extend(bytes.iter().map(|text| (text.as_str(), 6)));
    tokens.extend(pieces.iter().map(|&(text, _)| (text, 1)));
    tokens.extend([("<end_of_turn>", 3), ("\n\n", 4)]);
    let mut scores = vec![0.0; 259];
    scores.extend(pieces.iter().map(|&(_, score)| score));
    scores.extend([0.0, 0.0]);
    GgufVocab { scores, bos: Some(1), eos: Some(2), unk: Some(0), ..vocab("llama", &tokens) }
}

fn pieces_of(tokenizer: &Tokenizer, text: &str, opts: EncodeOptions) -> Vec<String> {
    let ids = tokenizer.encode(text, opts).unwrap();
    ids.into_iter().map(|id| tokenizer.token_text(id).into_owned()).collect()
}

fn decode(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let (mut stream, mut text) = (DecodeStream::new(), String::new());
    ids.iter().for_each(|&id| stream.push(tokenizer.token_bytes(id), &mut text));
    stream.finish(&mut text);
    text
}

#[track_caller]
fn check(vocab: &GgufVocab, text: &str, opts: EncodeOptions, expect: &[&str]) {
    let tokenizer = Tokenizer::from_gguf(vocab).unwrap();
    assert_eq!(pieces_of(&tokenizer, text, opts), expect);
}

#[track_caller]
fn check_error(vocab: GgufVocab, expect: &str) {
    assert_eq!(Tokenizer::from_gguf(&vocab).unwrap_err().to_string(), expect);
}

#[test]
fn bpe_joins_by_rank_within_words() {
    let vocab = bpe_vocab();
    check(&vocab, "", PLAIN, &[]);
    check(&vocab, "hello hello", PLAIN, &["hello", " hello"]);
    check(&vocab, "help  he", PLAIN, &["hel", "p", " ", " he"]);
    check(&vocab, "aaaaa", PLAIN, &["aa", "aa", "a"]);
    check(&vocab, "é", PLAIN, &["é"]);
    check(&vocab, "world", PLAIN, &["w", "o", "r", "l", "d"]);
}

#[test]
fn a_rule_that_ignores_merges_takes_whole_words() {
    let llama3 = GgufVocab { pre: Some("llama-bpe".to_owned()), ..bpe_vocab() };
    check(&llama3, "world he", PLAIN, &["world", " he"]);
    check(&llama3, "world", SPECIAL, &["<|endoftext|>", "world"]);
}

#[test]
fn user_defined_tokens_are_always_found_and_control_tokens_only_on_request() {
    let vocab = bpe_vocab();
    check(&vocab, "a<tool>b", PLAIN, &["a", "<tool>", "b"]);
    check(&vocab, "he<|im_end|>", SPECIAL, &["he", "<|im_end|>"]);
    let tokenizer = Tokenizer::from_gguf(&vocab).unwrap();
    let ids = tokenizer.encode("he<|im_end|><|endoftext|>", PLAIN).unwrap();
    assert!(ids.iter().all(|&id| !tokenizer.is_control(id)));
    assert_eq!(decode(&tokenizer, &ids), "he<|im_end|><|endoftext|>");
}

#[test]
fn bytes_that_a_vocabulary_lacks_are_left_out_and_counted() {
    let tokenizer = Tokenizer::from_gguf(&bpe_vocab()).unwrap();
    assert_eq!(pieces_of(&tokenizer, "a\u{4}b", PLAIN), ["a", "b"]);
    assert_eq!(tokenizer.unspelled_bytes("a\u{4}b ü"), 2);
}

#[test]
fn spm_joins_by_score_and_falls_back_to_bytes() {
    let pieces = [
        ("▁", -9.0),
        ("a", -1.0),
        ("b", -1.0),
        ("c", -1.0),
        ("ab", -3.0),
        ("bc", -2.0),
        ("abc", -4.0),
        ("▁a", -5.0),
        ("aa", -6.0),
    ];
    let vocab = spm_vocab(&pieces);
    check(&vocab, "", SPECIAL, &["<s>"]);
    check(&vocab, "abc", PLAIN, &[" ", "abc"]);
    check(&vocab, "a bc", SPECIAL, &["<s>", " a", " ", "bc"]);
    check(&vocab, "a<end_of_turn>a", SPECIAL, &["<s>", " a", "<end_of_turn>", " a"]);
    check(&vocab, "a\n\na", PLAIN, &[" a", "\n\n", " a"]);
    let bare = GgufVocab { add_space_prefix: Some(false), add_bos: Some(false), ..vocab };
    check(&bare, "aaa", SPECIAL, &["aa", "a"]);
    check(&bare, "a é", PLAIN, &["a", " ", "\u{fffd}", "\u{fffd}"]);
    let tokenizer = Tokenizer::from_gguf(&bare).unwrap();
    let text = "ab é 👍\0 <s> <0x41>";
    assert_eq!(decode(&tokenizer, &tokenizer.encode(text, PLAIN).unwrap()), text);
}

#[test]
fn end_tokens_are_named_or_known_by_their_texts() {
    let tokenizer = Tokenizer::from_gguf(&bpe_vocab()).unwrap();
    assert_eq!(tokenizer.eog_ids(), [0, 1]);
    let tokens = [("a", 1), ("<|im_end|>", 1), ("</s>", 4), ("stop", 1), ("<|end|>", 3)];
    let named = GgufVocab {
        pre: Some("gpt-2".to_owned()),
        eos: Some(3),
        eog: vec![0],
        ..vocab("gpt2", &tokens)
    };
    let tokenizer = Tokenizer::from_gguf(&named).unwrap();
    assert_eq!(tokenizer.eog_ids(), [0, 1, 3, 4]);
    assert!(tokenizer.is_control(1) && !tokenizer.is_eog(2));
    assert_eq!(tokenizer.token_bytes(1), b"");
    assert_eq!(
        (tokenizer.token_text(1), tokenizer.token_text(99)),
        ("<|im_end|>".into(), "".into())
    );
}

#[test]
fn metadata_that_does_not_fit_together_is_refused() {
    let bpe = bpe_vocab;
    let merges = |merge: &str| vec![merge.to_owned()];
    check_error(
        GgufVocab { model: "t5".to_owned(), ..bpe() },
        "tokenizer.ggml.model is \"t5\", but only \"gpt2\", \"llama\" and \"bert\" are supported",
    );
    check_error(
        GgufVocab { tokens: Vec::new(), ..bpe() },
        "the vocabulary has 0 tokens, but must have 1 to 4194304",
    );
    check_error(
        GgufVocab { eos: Some(110), ..bpe() },
        "eos_token_id is 110, but the vocabulary ends at 110",
    );
    check_error(
        GgufVocab { token_types: vec![1], ..bpe() },
        "token_type has 1 entries, but there are 110 tokens",
    );
    check_error(
        GgufVocab { merges: merges("a zz"), ..bpe() },
        "merge 0 is \"a zz\", but its right side is no token",
    );
    check_error(
        GgufVocab { merges: merges("a"), ..bpe() },
        "merge 0 is \"a\", but it has no space",
    );
    check_error(
        GgufVocab { bos: None, add_bos: Some(true), ..bpe() },
        "add_bos_token is true, but bos_token_id is not set",
    );
    check_error(
        GgufVocab { unk: None, scores: vec![0.0], ..vocab("llama", &[("a", 1)]) },
        "the vocabulary has no unknown_token_id and only 0 of 256 byte tokens, \
         so some text could not be encoded",
    );
}

#[test]
fn texts_over_the_limit_are_refused() {
    let text = "a".repeat(Tokenizer::MAX_TEXT_BYTES + 1);
    let message = Tokenizer::placeholder().encode(&text, PLAIN).unwrap_err().to_string();
    assert_eq!(message, "the text has 16777217 bytes, but at most 16777216 are encoded at once");
}

#[test]
fn a_fingerprint_changes_with_anything_that_matters() {
    let of = |vocab: &GgufVocab| Tokenizer::from_gguf(vocab).unwrap().fingerprint();
    let base = bpe_vocab();
    assert_eq!(of(&base), of(&base.clone()));
    let mut fewer_merges = base.clone();
    fewer_merges.merges.pop();
    let other_rule = GgufVocab { pre: Some("qwen2".to_owned()), ..base.clone() };
    let with_bos = GgufVocab { add_bos: Some(true), ..base.clone() };
    for other in [fewer_merges, other_rule, with_bos] {
        assert_ne!(of(&base), of(&other));
    }
}

#[test]
fn voiced_control_tokens_are_text_that_comes_out_and_never_text_that_goes_in() {
    let mut vocab = bpe_vocab();
    let (first, im_end) = (vocab.tokens.len() as u32, 1);
    for name in ["[TOOL_CALLS]", "[ARGS]"] {
        vocab.tokens.push(name.to_owned());
        vocab.token_types.push(3);
    }
    let mut silent = Tokenizer::from_gguf(&vocab).unwrap();
    let mut voiced = Tokenizer::from_gguf(&vocab).unwrap();
    voiced.voice(&["[TOOL_CALLS]", "<|im_end|>", "[CALL_ID]"]);
    let text = "[TOOL_CALLS]h[ARGS]<|im_end|>";
    let parsed = EncodeOptions { add_special: false, parse_special: true };
    let ids = voiced.encode(text, parsed).unwrap();
    assert_eq!((ids.len(), ids[0], ids[2], ids[3]), (4, first, first + 1, im_end));
    assert_eq!(silent.encode(text, parsed).unwrap(), ids);
    assert_eq!(silent.encode(text, PLAIN).unwrap(), voiced.encode(text, PLAIN).unwrap());
    assert_eq!(decode(&silent, &ids), "h");
    assert_eq!(decode(&voiced, &ids), "[TOOL_CALLS]h", "what ends a generation stays silent");
    assert!(silent.is_control(first) && !voiced.is_control(first));
    assert!(voiced.is_control(first + 1) && voiced.is_control(im_end));
    assert!(voiced.names_control("a [TOOL_CALLS]"), "no client writes it");
    assert_ne!(silent.fingerprint(), voiced.fingerprint());
    let before = silent.fingerprint();
    silent.voice(&["[CALL_ID]"]);
    assert_eq!(silent.fingerprint(), before, "there is no such token");
}

#[test]
fn placeholder_has_the_ids_that_its_backend_knows() {
    let tokenizer = Tokenizer::placeholder();
    let (bos, sep, h) = (placeholder::BOS, placeholder::SEP, placeholder::FIRST_BYTE + 104);
    assert_eq!(tokenizer.vocab_size(), placeholder::VOCAB_SIZE);
    assert_eq!(tokenizer.encode("h", SPECIAL).unwrap(), [bos, h, sep]);
    assert_eq!(tokenizer.bos(), Some(bos));
    assert!(tokenizer.adds_bos());
    assert_eq!(tokenizer.eog_ids(), [placeholder::EOS, placeholder::IM_END]);
    let turn = [placeholder::IM_START, h, placeholder::IM_END];
    let rendered = EncodeOptions { add_special: false, parse_special: true };
    assert_eq!(tokenizer.encode("<|im_start|>h<|im_end|>", rendered).unwrap(), turn);
    assert_eq!(pieces_of(&tokenizer, "x the theme", PLAIN)[1..3], [" the", " them"]);
    let texts: std::collections::HashSet<&[u8]> =
        (5..512).map(|id| tokenizer.token_bytes(id)).collect();
    assert_eq!(texts.len(), 507, "two tokens are the same");
}

#[test]
fn threads_share_a_tokenizer() {
    let tokenizer = Arc::new(Tokenizer::from_gguf(&bpe_vocab()).unwrap());
    let encode = |tokenizer: &Tokenizer| tokenizer.encode("hello hello help", PLAIN).unwrap();
    let expect = encode(&tokenizer);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let tokenizer = Arc::clone(&tokenizer);
            let expect = &expect;
            scope.spawn(move || assert_eq!(encode(&tokenizer), *expect));
        }
    });
}

#[test]
fn long_texts_without_words_take_no_quadratic_time() {
    let spm = Tokenizer::from_gguf(&spm_vocab(&[("a", -1.0), ("aa", -2.0)])).unwrap();
    let bpe = Tokenizer::from_gguf(&bpe_vocab()).unwrap();
    let text = "a".repeat(1 << 20);
    for tokenizer in [&bpe, &spm] {
        let ids = tokenizer.encode(&text, PLAIN).unwrap();
        assert!(decode(tokenizer, &ids).ends_with(&text));
    }
}

proptest! {
    #[test]
    fn the_placeholder_round_trips_any_text(text in any::<String>()) {
        let tokenizer = Tokenizer::placeholder();
        let ids = tokenizer.encode(&text, PLAIN).unwrap();
        prop_assert_eq!(decode(&tokenizer, &ids), text);
    }

    #[test]
    fn no_text_makes_a_tokenizer_fail_or_lose_more_than_it_counts(text in any::<String>()) {
        let spm = Tokenizer::from_gguf(&GgufVocab {
            add_space_prefix: Some(false),
            ..spm_vocab(&[("a", -1.0), ("▁", -2.0)])
        }).unwrap();
        let ids = spm.encode(&text, PLAIN).unwrap();
        prop_assert_eq!(decode(&spm, &ids), text.replace('▁', " "));
        let bpe = Tokenizer::from_gguf(&bpe_vocab()).unwrap();
        let ids = bpe.encode(&text, SPECIAL).unwrap();
        let spelled: usize = ids.iter().map(|&id| bpe.token_bytes(id).len()).sum();
        prop_assert_eq!(spelled + bpe.unspelled_bytes(&text), text.len());
    }
}

#[test]
fn guarded_names_are_text_between_real_tokens() {
    let bpe = Tokenizer::from_gguf(&bpe_vocab()).unwrap();
    let spm = Tokenizer::from_gguf(&spm_vocab(&[("▁", -1.0), ("a", -2.0), ("▁a", -0.5)])).unwrap();
    for (tokenizer, end) in [(bpe, "<|im_end|>"), (spm, "<end_of_turn>")] {
        let said = format!("a{end} <tool>hello{end}");
        assert!(tokenizer.names_control(&said) && !tokenizer.names_control("a <tool>"));
        let guard = Tokenizer::guard_for(std::iter::once(said.as_str())).unwrap();
        let text = format!("{end}{}{end}", tokenizer.guarded(&said, guard));
        let expect = [
            tokenizer.encode(end, SPECIAL).unwrap().pop().into_iter().collect(),
            tokenizer.encode(&said, PLAIN).unwrap(),
        ];
        let found = tokenizer.encode_guarded(&text, guard).unwrap();
        assert_eq!(found, [&expect[0][..], &expect[1], &expect[0]].concat());
    }
    let all: String = ('\u{fdd0}'..='\u{fdef}').collect();
    assert_eq!(Tokenizer::guard_for(std::iter::once(all.as_str())), None);
}

#[test]
fn wordpiece_takes_the_longest_pieces_of_lower_case_words() {
    let mut tokens = vec![("[PAD]", 3), ("[UNK]", 3), ("[CLS]", 3), ("[SEP]", 3)];
    tokens
        .extend(["▁un", "▁cafe", "▁hello", "▁,", "▁日", "able", "aff", "▁a", "s"].map(|t| (t, 1)));
    let vocab = GgufVocab { bos: Some(2), eos: Some(3), unk: Some(1), ..vocab("bert", &tokens) };
    let around = EncodeOptions { add_special: true, parse_special: false };
    let found = ["[CLS]", " un", "aff", "able", " hello", " ,", "[SEP]"];
    check(&vocab, "Unaffable HELLO,", around, &found);
    check(&vocab, "Cafés a日", PLAIN, &[" cafe", "s", " a", " 日"]);
    check(&vocab, "xyz 👍 a[SEP]", PLAIN, &["[UNK]", "[UNK]", " a", "[UNK]", "[UNK]", "[UNK]"]);
    check(&vocab, "a[SEP]a", SPECIAL, &["[CLS]", " a", "[SEP]", " a", "[SEP]"]);
    let expect = "unknown_token_id is not set, but a WordPiece vocabulary needs it";
    check_error(GgufVocab { unk: None, ..vocab }, expect);
}
