//! Any bytes as a GGUF file: they are refused, or every tensor and the tokenizer can be used.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use lm_models::gguf::Header;
use lm_models::{Summary, TokenizerSource, WeightsFrom};
use lm_tokenizer::{EncodeOptions, Tokenizer};

static PATH: LazyLock<PathBuf> = LazyLock::new(|| {
    std::env::temp_dir().join(format!("lastmile-fuzz-{}.gguf", std::process::id()))
});
const TEXT: &str = "The quick brown fox, 42 times.\n\n  caf\u{e9} <|im_end|> \u{1f680}";

fuzz_target!(|bytes: &[u8]| {
    let Ok(header) = Header::parse(bytes) else { return };
    let mut end = 0;
    let mut tensors: Vec<_> = header.tensors.iter().collect();
    tensors.sort_by_key(|tensor| tensor.bytes.start);
    for tensor in tensors {
        assert!(tensor.bytes.start >= end && tensor.bytes.end <= bytes.len(), "{tensor:?}");
        let n_elements = tensor.shape.iter().product();
        assert_eq!(tensor.dtype.size_bytes(n_elements), Some(tensor.bytes.len()), "{tensor:?}");
        end = tensor.bytes.end;
    }
    std::fs::write(&*PATH, bytes).expect("there is room for a small file");
    let Ok(model) = lm_models::open(&PATH, WeightsFrom::File) else { return };
    Summary::of(&model).expect("an opened model has a summary");
    for (role, shape) in lm_models::tensor_shapes(&model.spec) {
        let view = model.tensor(role).expect("an opened model has its tensors");
        assert_eq!(view.shape, shape, "{role:?}");
        view.data.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    }
    let TokenizerSource::Gguf(vocab) = &model.tokenizer else { return };
    let Ok(tokenizer) = Tokenizer::from_gguf(vocab) else { return };
    for parse_special in [false, true] {
        let options = EncodeOptions { add_special: true, parse_special };
        let ids = tokenizer.encode(TEXT, options).expect("any text has tokens");
        for id in ids {
            assert!((id as usize) < tokenizer.vocab_size(), "token {id}");
            let _ = tokenizer.token_bytes(id);
        }
    }
    let mut whole = Tokenizer::from_gguf(vocab).expect("it was built before");
    whole.add_eog(&model.eos);
});
