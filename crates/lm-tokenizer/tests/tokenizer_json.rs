//! Tokenizers from `tokenizer.json`, over a small file of the kind that Hugging Face writes.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;

use lm_tokenizer::{EncodeOptions, Tokenizer};
use serde_json::{Value, json};

const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };
const SPECIAL: EncodeOptions = EncodeOptions { add_special: true, parse_special: true };

/// Byte-level BPE with a template that puts `<s>` first.
fn byte_level() -> Value {
    let added = |id: u32, content: &str, special: bool| {
        json!({"id": id, "content": content, "special": special, "single_word": false,
               "lstrip": false, "rstrip": false, "normalized": false})
    };
    json!({
        "version": "1.0",
        "truncation": {"max_length": 2, "stride": 0, "strategy": "LongestFirst",
                       "direction": "Right"},
        "padding": null,
        "added_tokens": [
            added(0, "<s>", true), added(1, "<|im_end|>", true), added(2, "<tool>", false)
        ],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                          "use_regex": true},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                       {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}},
                     {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
                    "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": {"<s>": 0, "<|im_end|>": 1, "<tool>": 2, "a": 3, "b": 4, "Ġ": 5, "ab": 6,
                      "Ġab": 7, "<": 8, "|": 9, "s": 10, ">": 11, "Ã": 12, "©": 13, "Ã©": 14,
                      "far": 20},
            "merges": [["a", "b"], ["Ġ", "ab"], ["Ã", "©"]]
        }
    })
}

fn load(file: &Value, config: Option<Value>) -> Result<Tokenizer, String> {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, value: &Value| -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, value.to_string()).unwrap();
        path
    };
    let config = config.map(|value| write("tokenizer_config.json", &value));
    let path = write("tokenizer.json", file);
    Tokenizer::from_tokenizer_json(&path, config.as_deref())
        .map_err(|e| e.to_string().replace(&folder.path().display().to_string(), ""))
}

#[track_caller]
fn check(text: &str, opts: EncodeOptions, expect: &[u32]) {
    let config = json!({"bos_token": {"content": "<s>"}, "eos_token": "<|im_end|>"});
    let tokenizer = load(&byte_level(), Some(config)).unwrap();
    assert_eq!(tokenizer.encode(text, opts).unwrap(), expect);
}

#[test]
fn text_is_encoded_whole_and_special_tokens_on_request() {
    check("", PLAIN, &[]);
    check("ab ab ab ab", PLAIN, &[6, 7, 7, 7]);
    check("ab", SPECIAL, &[0, 6]);
    check("ab<tool>é", PLAIN, &[6, 2, 14]);
    check("<s>", SPECIAL, &[0, 0]);
    check("<s>", PLAIN, &[8, 10, 11]);
}

#[test]
fn tokens_know_their_bytes_and_the_config_names_the_special_ones() {
    let config = json!({"bos_token": {"content": "<s>"}, "eos_token": "b", "add_bos_token": false});
    let tokenizer = load(&byte_level(), Some(config)).unwrap();
    assert_eq!(tokenizer.vocab_size(), 21);
    assert_eq!(
        (tokenizer.token_bytes(7), tokenizer.token_bytes(14)),
        (&b" ab"[..], "é".as_bytes())
    );
    assert_eq!((tokenizer.token_bytes(12), tokenizer.token_bytes(17)), (&b"\xc3"[..], &b""[..]));
    assert_eq!((tokenizer.token_bytes(0), tokenizer.token_bytes(2)), (&b""[..], &b"<tool>"[..]));
    assert_eq!(tokenizer.eog_ids(), [1, 4]);
    assert_eq!((tokenizer.bos(), tokenizer.adds_bos()), (Some(0), false));
    assert_eq!(tokenizer.encode("ab", SPECIAL).unwrap(), [6]);
    let without_config = load(&byte_level(), None).unwrap();
    assert_eq!((without_config.bos(), without_config.adds_bos()), (Some(0), true));
    assert_ne!(tokenizer.fingerprint(), without_config.fingerprint());
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let mut other = byte_level();
    other["decoder"] = json!({"type": "BPEDecoder", "suffix": "</w>"});
    let error = load(&other, None).unwrap_err();
    assert_eq!(
        error,
        "/tokenizer.json decodes by BPEDecoder, \
         but only ByteLevel, ByteFallback, Metaspace and WordPiece are known"
    );
    assert!(
        load(&json!({"no": 1}), None).unwrap_err().starts_with("cannot understand /tokenizer.json")
    );
    let missing = Tokenizer::from_tokenizer_json("no-such-folder/tokenizer.json".as_ref(), None);
    assert!(
        missing.unwrap_err().to_string().starts_with("cannot read no-such-folder/tokenizer.json")
    );
}

#[test]
fn guarded_names_are_text_between_real_tokens() {
    let mut file = byte_level();
    let tokenizer = load(&file, None).unwrap();
    let guard = Tokenizer::guard_for(["a\u{fdd0}"].into_iter()).unwrap();
    assert_eq!(guard, '\u{fdd1}');
    let encode = |tokenizer: &Tokenizer, said: &str| {
        let text = format!("<s>{} ab<|im_end|> ab", tokenizer.guarded(said, guard));
        tokenizer.encode_guarded(&text, guard).unwrap()
    };
    assert_eq!(encode(&tokenizer, "ab"), [0, 6, 7, 1, 7]);
    assert_eq!(encode(&tokenizer, "<s><tool>ab"), [0, 8, 10, 11, 2, 6, 7, 1, 7]);
    assert!(tokenizer.names_control("ab<s>") && !tokenizer.names_control("ab<tool>"));
    // A special token may take the white space behind it, as Phi 3's do.
    file["added_tokens"][1]["rstrip"] = json!(true);
    let tokenizer = load(&file, None).unwrap();
    let usual = tokenizer.encode("<s>ab ab<|im_end|> ab", SPECIAL).unwrap();
    assert_eq!(usual[1..], encode(&tokenizer, "ab"));
}
