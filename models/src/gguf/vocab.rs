//! The vocabulary in a GGUF file's metadata.
//!
//! It must never know how text is encoded.
//!
//! Start reading at [`read_vocab`].

use lm_tokenizer::GgufVocab;

use super::metadata::Metadata;
use crate::ModelError;

/// Tokens that end a generation in chat models whose files do not say so.
/// Source: the list of `llama_vocab::impl::load` in llama.cpp.
const END_OF_GENERATION: [&str; 9] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "_<EOT>",
];
const CONTROL: u32 = 3;
const USER_DEFINED: u32 = 4;

/// Reads `tokenizer.ggml.*` and takes the token texts and merges out of `metadata`, so that they
/// are held once. `vocab_size` is the number of rows of the embedding.
///
/// # Errors
/// The key that is missing, of another length than the tokens, or names a token that is not there.
pub(crate) fn read_vocab(
    metadata: &mut Metadata,
    vocab_size: usize,
) -> Result<GgufVocab, ModelError> {
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let take = |metadata: &mut Metadata, name: &str| metadata.take_strings(&key(name));
    let tokens = take(metadata, "tokens")?;
    let merges = take(metadata, "merges")?.unwrap_or_default();
    let metadata = &*metadata;
    let text = |name: &str| Ok::<_, ModelError>(metadata.str(&key(name))?.map(str::to_owned));
    let missing = |name: &str| ModelError::MissingKey { key: key(name) };
    let model = text("model")?.ok_or_else(|| missing("model"))?;
    let tokens = tokens.ok_or_else(|| missing("tokens"))?;
    if tokens.is_empty() || tokens.len() > vocab_size {
        let wanted = format!("between 1 and {vocab_size}, the rows of the embedding");
        return Err(ModelError::invalid("the number of tokens", tokens.len(), wanted));
    }
    let scores = metadata.f32s(&key("scores"))?.unwrap_or_default().to_vec();
    let token_types = metadata.u32s(&key("token_type"))?.unwrap_or_default();
    for (name, len) in [("scores", scores.len()), ("token_type", token_types.len())] {
        if len != 0 && len != tokens.len() {
            let wanted = format!("{}, as many as tokens", tokens.len());
            return Err(ModelError::invalid(format!("the length of {}", key(name)), len, wanted));
        }
    }
    let id = |name: &str| {
        let name = key(&format!("{name}_token_id"));
        match metadata.u32(&name)? {
            // Some converters write -1, as u32, for a token that the model does not have.
            None | Some(u32::MAX) => Ok(None),
            Some(id) if (id as usize) < tokens.len() => Ok(Some(id)),
            Some(id) => {
                let wanted = format!("below {}, the number of tokens", tokens.len());
                Err(ModelError::invalid(name, id, wanted))
            }
        }
    };
    // BERT's vocabularies call what stands around a text otherwise, and one name is misspelt everywhere.
    let around = |name: &str, of_bert: &str| match id(name)? {
        None if model == "bert" => id(of_bert),
        found => Ok(found),
    };
    // Older files have another name for it.
    let fim = |name: &str, older: &str| match id(name)? {
        None => id(older),
        found => Ok(found),
    };
    let fim_ends = [id("fim_pad")?, id("fim_rep")?, id("fim_sep")?];
    Ok(GgufVocab {
        pre: text("pre")?,
        merges,
        bos: around("bos", "cls")?,
        eos: around("eos", "seperator")?,
        eot: id("eot")?,
        unk: id("unknown")?,
        pad: id("padding")?,
        eog: end_of_generation(&tokens, &token_types, id("eom")?),
        fim_pre: fim("fim_pre", "prefix")?,
        fim_suf: fim("fim_suf", "suffix")?,
        fim_mid: fim("fim_mid", "middle")?,
        fim_ends: fim_ends.into_iter().flatten().collect(),
        add_bos: metadata.bool(&key("add_bos_token"))?,
        add_eos: metadata.bool(&key("add_eos_token"))?,
        add_space_prefix: metadata.bool(&key("add_space_prefix"))?,
        model,
        tokens,
        scores,
        token_types,
    })
}

fn end_of_generation(tokens: &[String], token_types: &[u32], eom: Option<u32>) -> Vec<u32> {
    let special = token_types.iter().zip(0_u32..).zip(tokens).filter(|((kind, _), text)| {
        matches!(**kind, CONTROL | USER_DEFINED) && END_OF_GENERATION.contains(&text.as_str())
    });
    let mut ids: Vec<u32> = special.map(|((_, id), _)| id).chain(eom).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}
