//! Encoders of the BERT family as data: a folder of safetensors with a config.json, and what sentence-transformers
//! writes beside it.
//!
//! It must never know how an encoder is run.
//!
//! Start reading at [`open_encoder`].

use std::path::Path;
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

use crate::encoder_config::{read_head, read_limits, read_pooling};
use crate::encoder_spec::{
    EncoderActivation, EncoderFamily, EncoderModelSpec, EncoderPart, EncoderTensor,
};
use crate::hf_config::HfConfig;
use crate::model::combine_digests;
use crate::open::stem;
use crate::safetensors::{CONFIG, JSON_LIMIT_BYTES, SafeTensorsFolder};
use crate::{ModelError, TensorType, TensorView, TokenizerSource, fetch};

const MAX_SIZE: usize = 1 << 20;
const MAX_LAYERS: usize = 1024;

/// An encoder whose tensors were all found and have the shapes that its config asks for.
#[derive(Debug)]
pub struct EncoderModel {
    /// The folder's name.
    pub name: String,
    /// What it computes.
    pub spec: EncoderModelSpec,
    /// Where the tokenizer comes from.
    pub tokenizer: TokenizerSource,
    files: SafeTensorsFolder,
    prefix: &'static str,
    digest: OnceLock<[u8; 32]>,
}

/// Opens a folder of safetensors when it holds an encoder; `None` when it holds something else.
///
/// # Errors
/// What is wrong with which file.
pub fn open_encoder(folder: &Path) -> Result<Option<EncoderModel>, ModelError> {
    let config_path = folder.join(CONFIG);
    if !folder.is_dir() || !config_path.exists() {
        return Ok(None);
    }
    let config = HfConfig::read(&config_path, JSON_LIMIT_BYTES)?;
    let Some(family) = EncoderFamily::of(&config)? else { return Ok(None) };
    let spec = read_spec(folder, &config, family).map_err(|error| error.in_file(&config_path))?;
    let files = SafeTensorsFolder::open(folder)?;
    let prefix = family.prefixes().into_iter().find(|prefix| {
        let words = format!("{prefix}embeddings.word_embeddings.weight");
        files.names().any(|name| name == words)
    });
    let tokenizer_json = folder.join("tokenizer.json");
    if !tokenizer_json.exists() {
        return Err(ModelError::MissingKey { key: "tokenizer.json".to_owned() }.in_file(folder));
    }
    let tokenizer_config = Some(folder.join("tokenizer_config.json")).filter(|path| path.exists());
    let model = EncoderModel {
        name: stem(folder),
        spec,
        tokenizer: TokenizerSource::HuggingFace { tokenizer_json, tokenizer_config },
        files,
        prefix: prefix.unwrap_or_default(),
        digest: OnceLock::new(),
    };
    for (tensor, wanted) in model.spec.tensor_shapes() {
        let name = model.tensor_name(tensor);
        match model.files.info(&name).map_err(|error| error.in_file(folder))? {
            None => return Err(ModelError::MissingTensor { name }.in_file(folder)),
            Some((found, _)) if found != wanted => {
                let found = found.to_vec();
                return Err(ModelError::TensorShape { name, found, wanted }.in_file(folder));
            }
            Some(_) => {}
        }
    }
    Ok(Some(model))
}

impl EncoderFamily {
    /// The family that `model_type` names; `None` for what is no encoder, or a decoder of this family.
    fn of(config: &HfConfig) -> Result<Option<EncoderFamily>, ModelError> {
        if config.bool("is_decoder")?.unwrap_or(false) {
            return Ok(None);
        }
        Ok(match config.str("model_type")? {
            Some("bert") => Some(EncoderFamily::Bert),
            Some("roberta" | "xlm-roberta") => Some(EncoderFamily::Roberta),
            Some("distilbert") => Some(EncoderFamily::DistilBert),
            _ => None,
        })
    }

    /// Its stable word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            EncoderFamily::Bert => "bert",
            EncoderFamily::Roberta => "roberta",
            EncoderFamily::DistilBert => "distilbert",
        }
    }

    /// What may stand before the names of its tensors.
    fn prefixes(self) -> [&'static str; 2] {
        match self {
            EncoderFamily::Bert => ["", "bert."],
            EncoderFamily::Roberta => ["", "roberta."],
            EncoderFamily::DistilBert => ["", "distilbert."],
        }
    }

    /// What a part is called, before `.weight` and `.bias`. Names of a head never have the prefix.
    fn part_name(self, part: EncoderPart) -> String {
        use EncoderPart as P;
        let distil = self == EncoderFamily::DistilBert;
        let (layer, bert, short) = match part {
            P::EmbeddingNorm => return "embeddings.LayerNorm".to_owned(),
            P::HeadDense => return self.head_dense().to_owned(),
            P::HeadOutput if self == EncoderFamily::Roberta => {
                return "classifier.out_proj".to_owned();
            }
            P::HeadOutput => return "classifier".to_owned(),
            P::Query(layer) => (layer, "attention.self.query", "attention.q_lin"),
            P::Key(layer) => (layer, "attention.self.key", "attention.k_lin"),
            P::Value(layer) => (layer, "attention.self.value", "attention.v_lin"),
            P::AttentionOutput(layer) => (layer, "attention.output.dense", "attention.out_lin"),
            P::AttentionNorm(layer) => (layer, "attention.output.LayerNorm", "sa_layer_norm"),
            P::Up(layer) => (layer, "intermediate.dense", "ffn.lin1"),
            P::Down(layer) => (layer, "output.dense", "ffn.lin2"),
            P::OutputNorm(layer) => (layer, "output.LayerNorm", "output_layer_norm"),
        };
        match distil {
            true => format!("transformer.layer.{layer}.{short}"),
            false => format!("encoder.layer.{layer}.{bert}"),
        }
    }

    fn head_dense(self) -> &'static str {
        match self {
            // BERT's pooler belongs to the encoder, and has its prefix.
            EncoderFamily::Bert => "pooler.dense",
            EncoderFamily::Roberta => "classifier.dense",
            EncoderFamily::DistilBert => "pre_classifier",
        }
    }
}

fn read_spec(
    folder: &Path,
    config: &HfConfig,
    family: EncoderFamily,
) -> Result<EncoderModelSpec, ModelError> {
    let distil = family == EncoderFamily::DistilBert;
    let named = |bert: &'static str, short: &'static str| if distil { short } else { bert };
    let hidden_size = config.need_size(named("hidden_size", "dim"), MAX_SIZE)?;
    let n_heads = config.need_size(named("num_attention_heads", "n_heads"), MAX_SIZE)?;
    if n_heads == 0 || hidden_size == 0 || !hidden_size.is_multiple_of(n_heads) {
        let wanted = format!("from 1, and a divisor of the hidden size, {hidden_size}");
        return Err(ModelError::invalid("the number of heads", n_heads, wanted));
    }
    config.refuse_other("position_embedding_type", "absolute")?;
    let n_positions = config.need_size("max_position_embeddings", MAX_SIZE)?;
    let first_position = match family {
        EncoderFamily::Roberta => config.size("pad_token_id", MAX_SIZE)?.unwrap_or(1) + 1,
        _ => 0,
    };
    if n_positions < first_position + 2 {
        let wanted = format!("at least {}", first_position + 2);
        return Err(ModelError::invalid("max_position_embeddings", n_positions, wanted));
    }
    let activation = match config.str(named("hidden_act", "activation"))?.unwrap_or("gelu") {
        "gelu" => EncoderActivation::Gelu,
        "gelu_new" | "gelu_pytorch_tanh" => EncoderActivation::GeluTanh,
        "relu" => EncoderActivation::Relu,
        other => {
            let known = "gelu, gelu_new, gelu_pytorch_tanh and relu";
            return Err(ModelError::unsupported("the activation", other, known));
        }
    };
    let n_token_types = match family {
        EncoderFamily::DistilBert => 0,
        _ => config.size("type_vocab_size", MAX_SIZE)?.unwrap_or(2),
    };
    let head = read_head(config)?;
    let recommended = read_limits(folder)?.unwrap_or(usize::MAX);
    Ok(EncoderModelSpec {
        family,
        n_layers: config.need_size(named("num_hidden_layers", "n_layers"), MAX_LAYERS)?,
        hidden_size,
        n_heads,
        intermediate_size: config.need_size(named("intermediate_size", "hidden_dim"), MAX_SIZE)?,
        vocab_size: config.need_size("vocab_size", 1 << 24)?,
        n_positions,
        first_position,
        n_token_types,
        layer_norm_eps: config.f32("layer_norm_eps")?.unwrap_or(1e-12),
        activation,
        pooling: read_pooling(folder)?,
        max_len: recommended.clamp(2, n_positions - first_position),
        head,
    })
}

impl EncoderModel {
    /// One tensor; its shape is what [`EncoderModelSpec::tensor_shapes`] says.
    ///
    /// # Errors
    /// It is not there, or of a type that is none of F32, F16 and BF16.
    pub fn tensor(&self, tensor: EncoderTensor) -> Result<TensorView<'_>, ModelError> {
        let name = self.tensor_name(tensor);
        self.files.tensor(&name)?.ok_or(ModelError::MissingTensor { name })
    }

    /// Tensors by storage type, and numbers in all.
    ///
    /// # Errors
    /// As [`Self::tensor`].
    pub fn tensor_types(&self) -> Result<(Vec<(TensorType, usize)>, u64), ModelError> {
        let (mut types, mut n_params): (Vec<(TensorType, usize)>, u64) = (Vec::new(), 0);
        for (tensor, shape) in self.spec.tensor_shapes() {
            let dtype = self.tensor(tensor)?.dtype;
            n_params += shape.iter().product::<usize>() as u64;
            match types.iter_mut().find(|(known, _)| *known == dtype) {
                Some((_, n)) => *n += 1,
                None => types.push((dtype, 1)),
            }
        }
        Ok((types, n_params))
    }

    /// Bytes of the weight files.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.files.files().map(|file| file.bytes().len() as u64).sum()
    }

    /// As [`crate::Model::weights_digest`].
    #[must_use]
    pub fn weights_digest(&self) -> [u8; 32] {
        *self.digest.get_or_init(|| {
            let digest = |file: &crate::mapped::MappedFile| {
                let recorded = fetch::recorded_sha256(file.path());
                recorded.unwrap_or_else(|| Sha256::digest(file.bytes()).into())
            };
            combine_digests(&self.files.files().map(digest).collect::<Vec<_>>())
        })
    }

    fn tensor_name(&self, tensor: EncoderTensor) -> String {
        let (part, end) = match tensor {
            EncoderTensor::Words => return self.embedding("word_embeddings"),
            EncoderTensor::Positions => return self.embedding("position_embeddings"),
            EncoderTensor::TokenTypes => return self.embedding("token_type_embeddings"),
            EncoderTensor::Weight(part) => (part, "weight"),
            EncoderTensor::Bias(part) => (part, "bias"),
        };
        let name = self.spec.family.part_name(part);
        let is_head = matches!(part, EncoderPart::HeadDense | EncoderPart::HeadOutput);
        match is_head && !name.starts_with("pooler") {
            true => format!("{name}.{end}"),
            false => format!("{}{name}.{end}", self.prefix),
        }
    }

    fn embedding(&self, table: &str) -> String {
        format!("{}embeddings.{table}.weight", self.prefix)
    }
}
