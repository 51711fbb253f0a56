//! Prompts that ask for what fills a gap: which tokens stand around, and in which order.
#![expect(clippy::unwrap_used, reason = "tests")]

use lm_tokenizer::{EncodeOptions, FimTokens, GgufVocab, Tokenizer};
use serde_json::{Value, json};

const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };

/// Byte-level BPE of four letters, then these tokens with their types: 1 normal, 3 control, 4 user-defined.
fn bpe(more: &[(&str, u32)]) -> GgufVocab {
    let letters = [("a", 1), ("b", 1), ("c", 1), ("Ġ", 1), ("<s>", 3)];
    let tokens: Vec<(&str, u32)> = letters.into_iter().chain(more.iter().copied()).collect();
    GgufVocab {
        model: "gpt2".to_owned(),
        pre: Some("gpt-2".to_owned()),
        tokens: tokens.iter().map(|(text, _)| (*text).to_owned()).collect(),
        token_types: tokens.iter().map(|&(_, kind)| kind).collect(),
        bos: Some(4),
        ..GgufVocab::default()
    }
}

fn fim(vocab: &GgufVocab) -> Option<FimTokens> {
    Tokenizer::from_gguf(vocab).unwrap().fim()
}

#[test]
fn known_spellings_are_found_and_only_whole_ones() {
    for [prefix, suffix, middle] in [
        ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"],
        ["<fim-prefix>", "<fim-suffix>", "<fim-middle>"],
        ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"],
        ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"],
        ["▁<PRE>", "▁<SUF>", "▁<MID>"],
        ["<PRE>", "<SUF>", "<MID>"],
    ] {
        // Middle first, as in some vocabularies.
        let vocab = bpe(&[(middle, 3), (prefix, 3), (suffix, 3)]);
        let expect = FimTokens { prefix: 6, suffix: 7, middle: 5 };
        assert_eq!(fim(&vocab), Some(expect), "{prefix}");
    }
    assert_eq!(fim(&bpe(&[])), None);
    // A tag of HTML is no such token.
    assert_eq!(fim(&bpe(&[("<PRE>", 4), ("<fim_suffix>", 3), ("<MID>", 4)])), None);
}

#[test]
fn the_metadata_goes_first_and_names_what_ends_a_middle() {
    let known = [("<fim_prefix>", 3), ("<fim_suffix>", 3), ("<fim_middle>", 3)];
    let more = [("<file_sep>", 4), ("<own>", 3), ("<|fim_pad|>", 4)];
    let vocab = bpe(&[known, more].concat());
    let check = |vocab: &GgufVocab, middle: u32, ends: &[u32]| {
        let tokenizer = Tokenizer::from_gguf(vocab).unwrap();
        assert_eq!(tokenizer.fim(), Some(FimTokens { prefix: 5, suffix: 6, middle }));
        assert_eq!(tokenizer.eog_ids(), ends);
    };
    check(&vocab, 7, &[8, 10]);
    let named = GgufVocab { fim_mid: Some(9), fim_ends: vec![4, 8], ..vocab.clone() };
    check(&named, 9, &[4, 8, 10]);
    // Where no gaps are filled, nothing ends that.
    let others = Tokenizer::from_gguf(&bpe(&more)).unwrap();
    assert_eq!((others.fim(), others.eog_ids()), (None, &[][..]));
    let of = |vocab: &GgufVocab| Tokenizer::from_gguf(vocab).unwrap().fingerprint();
    assert_ne!(of(&vocab), of(&named));
    let outside = GgufVocab { fim_suf: Some(11), ..vocab };
    let error = Tokenizer::from_gguf(&outside).unwrap_err().to_string();
    assert_eq!(error, "fim_suf_token_id is 11, but the vocabulary ends at 11");
}

#[test]
fn a_gap_is_asked_for_in_the_order_that_models_learn() {
    let vocab = bpe(&[("<fim_prefix>", 3), ("<fim_suffix>", 3), ("<fim_middle>", 3)]);
    let vocab = GgufVocab { add_bos: Some(true), add_eos: Some(true), eos: Some(4), ..vocab };
    let tokenizer = Tokenizer::from_gguf(&vocab).unwrap();
    let ask = |before: &str, after: &str, opts| {
        tokenizer.encode_infill(before, after, opts).unwrap().unwrap()
    };
    assert_eq!(ask("ab", " c", PLAIN), [5, 0, 1, 6, 3, 2, 7]);
    assert_eq!(ask("", "", PLAIN), [5, 6, 7]);
    // It begins as a text does, and does not end as one.
    let special = EncodeOptions { add_special: true, parse_special: true };
    assert_eq!(ask("a<s>", "b", special), [4, 5, 0, 4, 6, 1, 7]);
    // Names of control tokens are text unless asked for; this vocabulary cannot spell them.
    assert_eq!(ask("a<fim_middle>", "<fim_middle>b", PLAIN), [5, 0, 6, 1, 7]);
    let without = Tokenizer::from_gguf(&bpe(&[])).unwrap();
    assert_eq!(without.encode_infill("a", "b", PLAIN).unwrap(), None);
    assert_eq!(Tokenizer::placeholder().fim(), None);
}

#[test]
fn sentencepiece_puts_a_space_before_the_first_text_only() {
    let bytes: Vec<String> = (0..=255).map(|b: u8| format!("<0x{b:02X}>")).collect();
    let mut tokens = vec!["<unk>".to_owned(), "<s>".to_owned(), "</s>".to_owned()];
    tokens.extend(bytes);
    tokens.extend(["▁", "a", "▁a", "▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"].map(str::to_owned));
    let mut token_types = vec![2, 3, 3];
    token_types.extend([6; 256]);
    token_types.extend([1, 1, 1, 3, 3, 3, 3]);
    let mut scores = vec![0.0; 259];
    scores.extend([-2.0, -1.0, -0.5, 0.0, 0.0, 0.0, 0.0]);
    let vocab = GgufVocab {
        model: "llama".to_owned(),
        tokens,
        token_types,
        scores,
        bos: Some(1),
        eos: Some(2),
        unk: Some(0),
        ..GgufVocab::default()
    };
    let tokenizer = Tokenizer::from_gguf(&vocab).unwrap();
    let found = tokenizer.encode_infill("a", "a", PLAIN).unwrap().unwrap();
    assert_eq!(found, [262, 261, 263, 260, 264]);
    assert_eq!(tokenizer.eog_ids(), [2, 265]);
}

#[test]
fn added_tokens_of_a_tokenizer_json_are_found() {
    let added = |id: u32, content: &str, special: bool| {
        json!({"id": id, "content": content, "special": special, "single_word": false,
               "lstrip": false, "rstrip": false, "normalized": false})
    };
    let file: Value = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        // As in Qwen's files, they are not special there.
        "added_tokens": [added(2, "<|fim_prefix|>", false), added(3, "<|fim_middle|>", false),
                         added(4, "<|fim_suffix|>", false), added(5, "<|fim_pad|>", false)],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                          "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
                    "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": {"a": 0, "b": 1}, "merges": []
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, file.to_string()).unwrap();
    let tokenizer = Tokenizer::from_tokenizer_json(&path, None).unwrap();
    assert_eq!(tokenizer.fim(), Some(FimTokens { prefix: 2, suffix: 4, middle: 3 }));
    assert_eq!(tokenizer.eog_ids(), [5]);
    assert_eq!(tokenizer.encode_infill("a", "b", PLAIN).unwrap(), Some(vec![2, 0, 4, 1, 3]));
}
