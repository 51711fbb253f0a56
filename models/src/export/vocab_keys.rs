//! The tokenizer of a GGUF file: copied from another one, or made of a tokenizer.json.
//!
//! It must never write a tokenizer that encodes otherwise than its source: both encode one text, and
//! must agree.
//!
//! Start reading at [`copy`] and [`read`].

use std::path::Path;

use lm_tokenizer::{EncodeOptions, GgufVocab, Tokenizer, pre_tokenizer_names};
use serde_json::Value as Json;

use super::gguf_files;
use crate::gguf::{Array, Metadata, Value};
use crate::hf_config::HfConfig;
use crate::{Model, ModelError};

/// As much of a tokenizer.json as lm-tokenizer takes.
const LIMIT_BYTES: u64 = 64 << 20;
const NORMAL: u32 = 1;
const CONTROL: u32 = 3;
const USER_DEFINED: u32 = 4;
const UNUSED: u32 = 5;
const SUPPORTED: &str = "byte-level BPE; else the tokenizer must come from a GGUF file";
/// The rules that cut words cut this text differently. In the spirit of `get_vocab_base_pre` of
/// llama.cpp's convert_hf_to_gguf.py.
const PROBE: &str = "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n🚀 (normal) 😶\u{200d}🌫️ (multiple emojis) ✅ 🦙🦙 \
3 33 333 3333 33333 333333 3.3 3..3 3...3 កាន់តែពិសេស 我想在apple工作1314151天～ \
------======= нещо на Български ''''''```````\"\"\"\"......!!!!!!?????? I've been 'told he's there, \
'RE you sure? 'M not sure I'LL make it, 'D you like some tea? We'Ve a'lL camelCase HTTPServer \
e\u{301} _x+y=z ÀÉ a/b//c\r\n\r\n  end  ";

/// Copies every `tokenizer.*` key of a GGUF file; gives the number of tokens.
///
/// # Errors
/// What is wrong with the file; `MissingKey` when it has no tokens.
pub(super) fn copy(path: &Path, metadata: &mut Metadata) -> Result<usize, ModelError> {
    const TOKENS: &str = "tokenizer.ggml.tokens";
    let files = gguf_files(path)?;
    let source = files.metadata();
    let n_tokens = source.strings(TOKENS).map_err(|error| error.in_file(path))?.map(<[_]>::len);
    for (key, value) in source.iter().filter(|(key, _)| key.starts_with("tokenizer.")) {
        metadata.set(key, value.clone());
    }
    let missing = || ModelError::MissingKey { key: TOKENS.to_owned() }.in_file(path);
    n_tokens.filter(|&n_tokens| n_tokens > 0).ok_or_else(missing)
}

/// The vocabulary that a tokenizer.json is as GGUF, with one token for each row of the embedding.
///
/// # Errors
/// `Unsupported` when there is no such vocabulary.
pub(super) fn read(
    model: &Model,
    json: &Path,
    config: Option<&Path>,
) -> Result<GgufVocab, ModelError> {
    let in_json = |error: ModelError| error.in_file(json);
    let hf = Tokenizer::from_tokenizer_json(json, config)
        .map_err(|source| in_json(ModelError::Tokenizer { source }))?;
    let file = HfConfig::read(json, LIMIT_BYTES)?;
    let mut vocab = byte_level_bpe(&file, model.spec.vocab_size).map_err(in_json)?;
    let encode = |tokenizer: &Tokenizer, text: &str, add_special| {
        let options = EncodeOptions { add_special, parse_special: true };
        let ids = tokenizer.encode(text, options);
        ids.map_err(|source| in_json(ModelError::Tokenizer { source }))
    };
    vocab.bos = model.bos.or(hf.bos());
    vocab.eos = model.eos_token.or(model.eos.first().copied());
    vocab.eot = model.eos.iter().copied().find(|&id| Some(id) != vocab.eos);
    vocab.add_bos = Some(hf.adds_bos());
    let n_added = encode(&hf, "a", true)?.len() - encode(&hf, "a", false)?.len();
    vocab.add_eos = Some(n_added > usize::from(hf.adds_bos()));
    let wanted = encode(&hf, PROBE, true)?;
    for pre in pre_tokenizer_names() {
        vocab.pre = Some(pre.to_owned());
        let tokenizer = Tokenizer::from_gguf(&vocab)
            .map_err(|source| in_json(ModelError::Tokenizer { source }))?;
        if encode(&tokenizer, PROBE, true)? == wanted {
            return Ok(vocab);
        }
    }
    let rules: Vec<&str> = pre_tokenizer_names().collect();
    let what = "the rule that cuts words";
    let found = file.get("pre_tokenizer").map_or_else(|| "none".to_owned(), Json::to_string);
    let supported = format!("what encodes as one of {}", rules.join(", "));
    Err(in_json(ModelError::unsupported(what, found, supported)))
}

/// Tokens, kinds and merges.
fn byte_level_bpe(file: &HfConfig, vocab_size: usize) -> Result<GgufVocab, ModelError> {
    let unsupported = |what: &str, value: &Json| {
        let value: String = value.to_string().chars().take(200).collect();
        ModelError::unsupported(what, value, SUPPORTED)
    };
    let need = |name: &str| ModelError::MissingKey { key: name.to_owned() };
    let model = file.object("model")?.ok_or_else(|| need("model"))?;
    if model.str("type")? != Some("BPE") || model.bool("byte_fallback")? == Some(true) {
        let kind =
            Json::String(format!("{} with bytes as tokens", model.str("type")?.unwrap_or("?")));
        return Err(unsupported("model.type", &kind));
    }
    let decoder = file.get("decoder").unwrap_or(&Json::Null);
    if !decoder.to_string().contains("\"ByteLevel\"") {
        return Err(unsupported("decoder", decoder));
    }
    if let Some(normalizer) = file.get("normalizer") {
        return Err(unsupported("normalizer", normalizer));
    }
    let mut vocab = GgufVocab { model: "gpt2".to_owned(), ..GgufVocab::default() };
    vocab.tokens = (0..vocab_size).map(|id| format!("[PAD{id}]")).collect();
    vocab.token_types = vec![UNUSED; vocab_size];
    let mut put = |text: &str, id: Option<u64>, kind: u32| {
        let id = id.and_then(|id| usize::try_from(id).ok()).filter(|&id| id < vocab_size);
        let wanted = || format!("an id below {vocab_size}, the rows of the embedding");
        let id =
            id.ok_or_else(|| ModelError::invalid(format!("token {text:?}"), "none", wanted()))?;
        text.clone_into(&mut vocab.tokens[id]);
        vocab.token_types[id] = kind;
        Ok::<(), ModelError>(())
    };
    let listed = model.typed("vocab", "an object", Json::as_object)?;
    for (text, id) in listed.ok_or_else(|| need("model.vocab"))? {
        put(text, id.as_u64(), NORMAL)?;
    }
    let added = file.typed("added_tokens", "a list", Json::as_array)?;
    for token in added.into_iter().flatten() {
        let text = token.get("content").and_then(Json::as_str);
        let text = text.ok_or_else(|| need("added_tokens.content"))?;
        let is_special = token.get("special").and_then(Json::as_bool).unwrap_or(false);
        let kind = if is_special { CONTROL } else { USER_DEFINED };
        put(text, token.get("id").and_then(Json::as_u64), kind)?;
    }
    let merges = model.typed("merges", "a list of pairs", |value| {
        value.as_array()?.iter().map(merge).collect::<Option<Vec<String>>>()
    })?;
    vocab.merges = merges.ok_or_else(|| need("model.merges"))?;
    let id_of = |text: &str| vocab.tokens.iter().position(|token| token == text);
    vocab.unk = model.str("unk_token")?.and_then(id_of).map(|id| id as u32);
    Ok(vocab)
}

/// `"a b"` or `["a", "b"]`.
fn merge(item: &Json) -> Option<String> {
    match item {
        Json::String(pair) => Some(pair.clone()),
        Json::Array(pair) => match pair.as_slice() {
            [left, right] => Some(format!("{} {}", left.as_str()?, right.as_str()?)),
            _ => None,
        },
        _ => None,
    }
}

/// Writes the keys of a vocabulary that has no scores.
pub(super) fn write(vocab: GgufVocab, metadata: &mut Metadata) {
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            metadata.set(&format!("tokenizer.ggml.{name}"), value);
        }
    };
    let types = vocab.token_types.iter().map(|&kind| kind as i32).collect();
    set("model", Some(Value::String(vocab.model)));
    set("pre", vocab.pre.map(Value::String));
    set("tokens", Some(Value::Array(Array::String(vocab.tokens))));
    set("token_type", Some(Value::Array(Array::I32(types))));
    set("merges", Some(Value::Array(Array::String(vocab.merges))));
    set("bos_token_id", vocab.bos.map(Value::U32));
    set("eos_token_id", vocab.eos.map(Value::U32));
    set("eot_token_id", vocab.eot.map(Value::U32));
    set("unknown_token_id", vocab.unk.map(Value::U32));
    set("add_bos_token", vocab.add_bos.map(Value::Bool));
    set("add_eos_token", vocab.add_eos.map(Value::Bool));
}
