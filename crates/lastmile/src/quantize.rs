//! A model as a GGUF file of another storage type, written piece by piece.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use lm_models::gguf::write::{GgufStream, TensorEntry};
use lm_models::{
    DecoderSpec, Export, ExportTensor, ModelError, Progress, Recipe, TensorType, TensorTypeCount,
    TokenizerSource, WeightsFrom,
};

/// Numbers that are in memory as f32 at once.
const PIECE_NUMBERS: usize = 1 << 20;

/// What is to be quantised.
#[derive(Clone, Debug)]
pub enum QuantizeSource {
    /// A GGUF file or a folder of safetensors.
    Path {
        /// The model.
        path: PathBuf,
        /// A GGUF file whose tokenizer replaces that of safetensors.
        tokenizer_from: Option<PathBuf>,
    },
    /// A decoder with random weights.
    Random {
        /// What the file calls itself.
        name: String,
        /// The decoder; its vocabulary becomes the tokenizer's.
        spec: Box<DecoderSpec>,
        /// Equal seeds draw equal weights.
        seed: u64,
        /// A GGUF file.
        tokenizer_from: PathBuf,
    },
}

/// How it is to be stored.
#[derive(Clone, Copy, Debug)]
pub struct QuantizeOptions {
    /// The types.
    pub recipe: &'static Recipe,
    /// The type of the head, or of the embedding where it is the head too; by default the recipe's.
    pub output_type: Option<TensorType>,
    /// Whether a file that exists is replaced.
    pub overwrite: bool,
}

/// What was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantized {
    /// Numbers in all tensors.
    pub n_params: u64,
    /// The source.
    pub before: StoredAs,
    /// The file.
    pub after: StoredAs,
    /// Tensors that were quantised already and were quantised anew: errors add up there.
    pub n_requantized: usize,
    /// Tensors whose rows do not fit the type that was meant, and that got another one.
    pub n_fallbacks: usize,
}

/// How a model is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredAs {
    /// Bytes of the files.
    pub size_bytes: u64,
    /// Bytes of the tensors alone.
    pub tensor_bytes: u64,
    /// By type, in ggml's order.
    pub tensor_types: Vec<TensorTypeCount>,
}

impl StoredAs {
    /// Bits that one number takes on average.
    #[must_use]
    pub fn bits_per_weight(&self) -> f64 {
        let n_params: u64 = self.tensor_types.iter().map(|count| count.n_params).sum();
        self.tensor_bytes as f64 * 8.0 / n_params as f64
    }
}

/// Why a model was not quantised. Nothing is left of the file then.
#[derive(Debug, thiserror::Error)]
pub enum QuantizeError {
    /// The source.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The numbers of one tensor.
    #[error("tensor {name}: {source}")]
    Tensor {
        /// The tensor.
        name: String,
        /// Why.
        source: lm_candle::QuantizeError,
    },
    /// The file is there, and overwriting was not asked for.
    #[error("{} exists", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file is one that is read from.
    #[error("{} is the model itself, but the output must be another file", path.display())]
    OutputIsSource {
        /// The file.
        path: PathBuf,
    },
    /// A GGUF file keeps its tokenizer.
    #[error("the tokenizer can come from {} only for safetensors and random weights", path.display())]
    TokenizerNotReplaced {
        /// Where it was to come from.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Its answer.
        source: std::io::Error,
    },
}

/// Writes `source` to the GGUF file `out`. One piece of one tensor is in memory at a time (of random
/// weights, one tensor); the file appears under its name when it is whole and was opened once.
///
/// # Errors
/// What is wrong with the source, or why the file cannot be written.
pub fn quantize(
    source: &QuantizeSource,
    options: &QuantizeOptions,
    out: &Path,
    progress: &dyn Progress,
) -> Result<Quantized, QuantizeError> {
    if out.exists() && !options.overwrite {
        return Err(QuantizeError::Exists { path: out.to_owned() });
    }
    let export = export(source)?;
    let out_file = out.canonicalize().ok();
    if out_file.is_some()
        && export.source_files().iter().any(|path| path.canonicalize().ok() == out_file)
    {
        return Err(QuantizeError::OutputIsSource { path: out.to_owned() });
    }
    let (entries, n_fallbacks) = entries(&export, options);
    let partial = Partial::beside(out);
    let total: usize = entries.iter().map(TensorEntry::size_bytes).sum();
    progress.begin(&format!("writing {}", out.display()), Some(total as u64));
    let written = write(&export, options.recipe, &entries, &partial.path, progress);
    progress.end();
    written?;
    export.check_written(&partial.path)?;
    let size_bytes = std::fs::metadata(&partial.path)
        .map_err(|source| io("read the size of", &partial.path, source))?
        .len();
    std::fs::rename(&partial.path, out).map_err(|source| io("install", out, source))?;
    let pairs = || export.tensors().iter().zip(&entries);
    let is_quantised = |dtype: TensorType| dtype.block_len() > 1;
    let tensor_count = |tensor: &ExportTensor, dtype| (dtype, tensor.shape.iter().product());
    let before = stored_as(export.source_bytes(), pairs().map(|(t, _)| tensor_count(t, t.dtype)));
    let after = stored_as(size_bytes, pairs().map(|(t, entry)| tensor_count(t, entry.dtype)));
    Ok(Quantized {
        n_params: after.tensor_types.iter().map(|count| count.n_params).sum(),
        n_requantized: pairs()
            .filter(|(from, to)| is_quantised(from.dtype) && from.dtype != to.dtype)
            .count(),
        n_fallbacks,
        before,
        after,
    })
}

fn export(source: &QuantizeSource) -> Result<Export, QuantizeError> {
    match source {
        QuantizeSource::Random { name, spec, seed, tokenizer_from } => {
            Ok(Export::random(name, spec.as_ref().clone(), *seed, tokenizer_from)?)
        }
        QuantizeSource::Path { path, tokenizer_from } => {
            let model = lm_models::open(path, WeightsFrom::File)?;
            match (tokenizer_from, &model.tokenizer) {
                (Some(path), TokenizerSource::Gguf(_)) => {
                    Err(QuantizeError::TokenizerNotReplaced { path: path.clone() })
                }
                (path, _) => Ok(Export::of(model, path.as_deref())?),
            }
        }
    }
}

/// What the file's header says of each tensor, and how many have another type than was meant.
fn entries(export: &Export, options: &QuantizeOptions) -> (Vec<TensorEntry>, usize) {
    let mut n_fallbacks = 0;
    let entry = |tensor: &ExportTensor| {
        let dtype = match tensor.roles.first() {
            None => tensor.dtype,
            Some(role) => {
                let assign =
                    options.recipe.assign(export.spec(), *role, &tensor.shape, options.output_type);
                n_fallbacks += usize::from(assign.is_fallback);
                assign.dtype
            }
        };
        TensorEntry { name: tensor.name.clone(), shape: tensor.shape.clone(), dtype }
    };
    (export.tensors().iter().map(entry).collect(), n_fallbacks)
}

fn write(
    export: &Export,
    recipe: &Recipe,
    entries: &[TensorEntry],
    path: &Path,
    progress: &dyn Progress,
) -> Result<(), QuantizeError> {
    let failed = |source| io("write", path, source);
    let file = BufWriter::new(File::create(path).map_err(failed)?);
    let mut stream = GgufStream::begin(file, &export.metadata(recipe), entries).map_err(failed)?;
    let mut done_bytes = 0;
    for (tensor, entry) in export.tensors().iter().zip(entries) {
        let view = export.tensor(tensor)?;
        for piece in view.pieces(PIECE_NUMBERS) {
            let stored = if tensor.dtype == entry.dtype && tensor.add == 0.0 {
                piece.data
            } else {
                let stored = lm_candle::requantize(&piece, tensor.add, entry.dtype);
                let in_tensor =
                    |source| QuantizeError::Tensor { name: tensor.name.clone(), source };
                stored.map_err(in_tensor)?.into()
            };
            stream.write(&stored).map_err(failed)?;
            done_bytes += stored.len() as u64;
            progress.advance(done_bytes);
        }
    }
    let mut file = stream.finish().map_err(failed)?;
    file.flush().and_then(|()| file.get_ref().sync_all()).map_err(failed)
}

fn stored_as(size_bytes: u64, tensors: impl Iterator<Item = (TensorType, usize)>) -> StoredAs {
    let mut stored = StoredAs { size_bytes, tensor_bytes: 0, tensor_types: Vec::new() };
    for (dtype, n_params) in tensors {
        let size = dtype.size_bytes(n_params).expect("tensors are whole blocks: this is a bug");
        stored.tensor_bytes += size as u64;
        let n_params = n_params as u64;
        match stored.tensor_types.iter_mut().find(|count| count.dtype == dtype) {
            Some(count) => {
                count.n_tensors += 1;
                count.n_params += n_params;
            }
            None => stored.tensor_types.push(TensorTypeCount { dtype, n_tensors: 1, n_params }),
        }
    }
    stored.tensor_types.sort_by_key(|count| count.dtype);
    stored
}

fn io(action: &'static str, path: &Path, source: std::io::Error) -> QuantizeError {
    QuantizeError::Io { action, path: path.to_owned(), source }
}

/// The file while it is not whole: beside its place, so that a rename suffices. Removed when dropped,
/// unless it was renamed; what a killed run leaves is overwritten by the next one.
struct Partial {
    path: PathBuf,
}

impl Partial {
    fn beside(out: &Path) -> Partial {
        let name = out.file_name().unwrap_or_default().to_string_lossy();
        Partial { path: out.with_file_name(format!(".{name}.partial")) }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Gone already when the file is whole.
        let _ = std::fs::remove_file(&self.path);
    }
}
