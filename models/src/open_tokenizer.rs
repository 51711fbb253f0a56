//! The tokenizer of a model's files alone: no weights are needed, nor a family that is known.
//!
//! It must never encode anything.
//!
//! Start reading at [`open_tokenizer`].

use std::path::{Path, PathBuf};

use crate::check::limits;
use crate::gguf::{GgufFiles, read_vocab};
use crate::open::only_gguf;
use crate::{ModelError, TokenizerSource};

/// Opens the vocabulary of a GGUF file, the `tokenizer.json` of a folder or at the path itself, or the one GGUF
/// file of a folder.
///
/// # Errors
/// What is wrong with which file.
pub fn open_tokenizer(path: &Path) -> Result<TokenizerSource, ModelError> {
    let in_folder = path.join("tokenizer.json");
    if in_folder.exists() {
        return Ok(beside(in_folder));
    }
    if path.extension().is_some_and(|extension| extension == "json") {
        return Ok(beside(path.to_owned()));
    }
    let file = if path.is_dir() { only_gguf(path)? } else { path.to_owned() };
    let read = || {
        let mut files = GgufFiles::open(&file)?;
        read_vocab(files.metadata_mut(), limits::VOCAB)
    };
    Ok(TokenizerSource::Gguf(Box::new(read().map_err(|error: ModelError| error.in_file(&file))?)))
}

fn beside(tokenizer_json: PathBuf) -> TokenizerSource {
    let config = tokenizer_json.with_file_name("tokenizer_config.json");
    let tokenizer_config = Some(config).filter(|config| config.exists());
    TokenizerSource::HuggingFace { tokenizer_json, tokenizer_config }
}
