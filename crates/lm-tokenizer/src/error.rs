//! What can go wrong between text and tokens.
//!
//! It must never know who asked.
//!
//! Start reading at [`TokenizerError`].

use std::path::PathBuf;

/// Why a tokenizer could not be built, or a text not be encoded.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A kind of vocabulary that this crate cannot run.
    #[error(
        "tokenizer.ggml.model is {model:?}, but only \"gpt2\", \"llama\" and \"bert\" are supported"
    )]
    UnknownModel {
        /// What the metadata says.
        model: String,
    },
    /// A rule for cutting words that this crate does not know.
    #[error("tokenizer.ggml.pre is {pre:?}, but the known rules are: {known}")]
    UnknownPre {
        /// What the metadata says.
        pre: String,
        /// The known names, separated by commas.
        known: String,
    },
    /// The vocabulary is empty or too large.
    #[error("the vocabulary has {n_tokens} tokens, but must have 1 to {limit}")]
    VocabSize {
        /// Entries of the vocabulary.
        n_tokens: usize,
        /// The most that are taken.
        limit: usize,
    },
    /// The bytes of all tokens together do not fit the table.
    #[error("the tokens have {bytes} bytes in all, but at most {limit} are taken")]
    VocabBytes {
        /// Bytes of all tokens.
        bytes: usize,
        /// The most that are taken.
        limit: usize,
    },
    /// A list that goes with the tokens has another length.
    #[error("{field} has {len} entries, but there are {n_tokens} tokens")]
    LengthMismatch {
        /// The list.
        field: &'static str,
        /// Its length.
        len: usize,
        /// Entries of the vocabulary.
        n_tokens: usize,
    },
    /// A special token outside of the vocabulary.
    #[error("{field} is {id}, but the vocabulary ends at {n_tokens}")]
    IdOutOfRange {
        /// Which special token.
        field: &'static str,
        /// Its id.
        id: u32,
        /// Entries of the vocabulary.
        n_tokens: usize,
    },
    /// A special token is to be added, but the metadata does not name it.
    #[error("{flag} is true, but {token} is not set")]
    MissingSpecial {
        /// The flag.
        flag: &'static str,
        /// The token that it needs.
        token: &'static str,
    },
    /// A merge that does not join two tokens to a third.
    #[error("merge {index} is {merge:?}, but {problem}")]
    BadMerge {
        /// Position in the list of merges.
        index: usize,
        /// The merge.
        merge: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// A byte token whose text is not `<0xNN>`.
    #[error("token {id} is a byte token, but its text {text:?} is not of the form <0xNN>")]
    BadByteToken {
        /// The token.
        id: u32,
        /// Its text.
        text: String,
    },
    /// A SentencePiece vocabulary that cannot spell every text.
    #[error(
        "the vocabulary has no unknown_token_id and only {n_byte_tokens} of 256 byte tokens, \
         so some text could not be encoded"
    )]
    NoFallback {
        /// Byte tokens that it has.
        n_byte_tokens: usize,
    },
    /// A WordPiece vocabulary that cannot spell every text.
    #[error("unknown_token_id is not set, but a WordPiece vocabulary needs it")]
    NoUnknown,
    /// A matcher for words or special tokens could not be built.
    #[error("the matcher for {what} could not be built: {message}")]
    Matcher {
        /// What was to be matched.
        what: &'static str,
        /// What the builder said.
        message: String,
    },
    /// A text that is too long to be encoded.
    #[error("the text has {bytes} bytes, but at most {limit} are encoded at once")]
    TextTooLong {
        /// Bytes of the text.
        bytes: usize,
        /// The most that are taken.
        limit: usize,
    },
    /// Too many stop strings.
    #[error("stop has {n_stops} strings, but at most {limit} are allowed")]
    TooManyStops {
        /// How many were given.
        n_stops: usize,
        /// The most that are allowed.
        limit: usize,
    },
    /// A stop string that is empty or too long.
    #[error("stop[{index}] has {bytes} bytes, but must have 1 to {limit}")]
    StopLength {
        /// Which stop string.
        index: usize,
        /// Its bytes.
        bytes: usize,
        /// The most that are allowed.
        limit: usize,
    },
    /// A file that cannot be read.
    #[error("cannot read {path}: {source}")]
    ReadFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file that is too large.
    #[error("{path} has more than {limit} bytes")]
    FileTooLarge {
        /// The file.
        path: PathBuf,
        /// The most that is read.
        limit: u64,
    },
    /// A file that is not what its name says.
    #[error("cannot understand {path}: {message}")]
    ParseFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A `tokenizer.json` whose tokens cannot be told as bytes.
    #[error(
        "{path} decodes by {decoder}, but only ByteLevel, ByteFallback, Metaspace and WordPiece are known"
    )]
    UnknownDecoder {
        /// The file.
        path: PathBuf,
        /// What the file names.
        decoder: String,
    },
    /// The tokenizer of a `tokenizer.json` failed on this text.
    #[error("the text cannot be encoded: {message}")]
    Encode {
        /// What it said.
        message: String,
    },
}
