//! Which tensors a decoder has, what shape each must be, and what GGUF calls it.
//!
//! It must never know a family: the spec alone decides.
//!
//! Start reading at [`tensor_shapes`].

use crate::{DecoderSpec, LayerTensor, NormPlacement, QkNorm, TensorRole};

/// Every tensor that a decoder of this spec has, with its shape `[out, in]`.
#[must_use]
pub fn tensor_shapes(spec: &DecoderSpec) -> Vec<(TensorRole, Vec<usize>)> {
    let ends = [TensorRole::TokenEmbedding, TensorRole::OutputNorm, TensorRole::OutputHead];
    let with_shape = |role| tensor_shape(spec, role).map(|shape| (role, shape));
    let mut shapes: Vec<_> = ends.into_iter().filter_map(with_shape).collect();
    let layer = layer_shapes(spec);
    for layer_idx in 0..spec.n_layers {
        for (tensor, shape) in &layer {
            shapes.push((TensorRole::Layer(layer_idx, *tensor), shape.clone()));
        }
    }
    shapes
}

/// The shape of one tensor; `None` when a decoder of this spec has no such tensor.
pub(crate) fn tensor_shape(spec: &DecoderSpec, role: TensorRole) -> Option<Vec<usize>> {
    match role {
        TensorRole::TokenEmbedding => Some(vec![spec.vocab_size, spec.hidden_size]),
        TensorRole::OutputNorm => Some(vec![spec.hidden_size]),
        TensorRole::OutputHead => {
            (!spec.tied_head).then(|| vec![spec.vocab_size, spec.hidden_size])
        }
        TensorRole::Layer(layer_idx, wanted) if layer_idx < spec.n_layers => {
            layer_shapes(spec).into_iter().find(|(tensor, _)| *tensor == wanted).map(|(_, s)| s)
        }
        TensorRole::Layer(..) => None,
    }
}

/// The tensors of a layer, with their shapes.
pub(crate) fn layer_shapes(spec: &DecoderSpec) -> Vec<(LayerTensor, Vec<usize>)> {
    use LayerTensor as T;
    let (hidden, ffn) = (spec.hidden_size, spec.intermediate_size);
    let q_width = spec.n_heads * spec.head_dim;
    let kv_width = spec.n_kv_heads * spec.head_dim;
    let mut shapes = vec![
        (T::AttnQ, vec![q_width, hidden]),
        (T::AttnK, vec![kv_width, hidden]),
        (T::AttnV, vec![kv_width, hidden]),
        (T::AttnOutput, vec![hidden, q_width]),
        (T::FfnGate, vec![ffn, hidden]),
        (T::FfnUp, vec![ffn, hidden]),
        (T::FfnDown, vec![hidden, ffn]),
    ];
    if spec.qkv_bias {
        shapes.push((T::AttnQBias, vec![q_width]));
        shapes.push((T::AttnKBias, vec![kv_width]));
        shapes.push((T::AttnVBias, vec![kv_width]));
    }
    let qk_norms = match spec.qk_norm {
        QkNorm::None => None,
        QkNorm::PerHead => Some((spec.head_dim, spec.head_dim)),
        QkNorm::Whole => Some((q_width, kv_width)),
    };
    if let Some((of_q, of_k)) = qk_norms {
        shapes.push((T::AttnQNorm, vec![of_q]));
        shapes.push((T::AttnKNorm, vec![of_k]));
    }
    if spec.norm_placement.is_before() {
        shapes.push((T::AttnNorm, vec![hidden]));
        shapes.push((T::FfnNorm, vec![hidden]));
    }
    if spec.norm_placement.is_behind() {
        shapes.push((T::PostAttnNorm, vec![hidden]));
        shapes.push((T::PostFfnNorm, vec![hidden]));
    }
    shapes
}

impl NormPlacement {
    /// Whether what attention and MLP get is normalised.
    #[must_use]
    pub fn is_before(self) -> bool {
        self != NormPlacement::Post
    }

    /// Whether what attention and MLP give is normalised.
    #[must_use]
    pub fn is_behind(self) -> bool {
        self != NormPlacement::Pre
    }
}

impl LayerTensor {
    /// Whether it is the weight of a norm.
    fn is_norm(self) -> bool {
        use LayerTensor as T;
        matches!(
            self,
            T::AttnNorm
                | T::AttnQNorm
                | T::AttnKNorm
                | T::PostAttnNorm
                | T::FfnNorm
                | T::PostFfnNorm
        )
    }

    /// What most families call it in safetensors, after `model.layers.N.`.
    pub(crate) fn hf_suffix(self) -> &'static str {
        match self {
            LayerTensor::AttnNorm => "input_layernorm.weight",
            LayerTensor::AttnQ => "self_attn.q_proj.weight",
            LayerTensor::AttnK => "self_attn.k_proj.weight",
            LayerTensor::AttnV => "self_attn.v_proj.weight",
            LayerTensor::AttnQBias => "self_attn.q_proj.bias",
            LayerTensor::AttnKBias => "self_attn.k_proj.bias",
            LayerTensor::AttnVBias => "self_attn.v_proj.bias",
            LayerTensor::AttnQNorm => "self_attn.q_norm.weight",
            LayerTensor::AttnKNorm => "self_attn.k_norm.weight",
            LayerTensor::AttnOutput => "self_attn.o_proj.weight",
            LayerTensor::PostAttnNorm => "post_attention_layernorm.weight",
            LayerTensor::FfnNorm => "pre_feedforward_layernorm.weight",
            LayerTensor::FfnGate => "mlp.gate_proj.weight",
            LayerTensor::FfnUp => "mlp.up_proj.weight",
            LayerTensor::FfnDown => "mlp.down_proj.weight",
            LayerTensor::PostFfnNorm => "post_feedforward_layernorm.weight",
        }
    }

    /// What most families call it in GGUF, after `blk.N.`. Source: `tensor_mapping.py` of gguf-py.
    pub(crate) fn gguf_suffix(self) -> &'static str {
        match self {
            LayerTensor::AttnNorm => "attn_norm.weight",
            LayerTensor::AttnQ => "attn_q.weight",
            LayerTensor::AttnK => "attn_k.weight",
            LayerTensor::AttnV => "attn_v.weight",
            LayerTensor::AttnQBias => "attn_q.bias",
            LayerTensor::AttnKBias => "attn_k.bias",
            LayerTensor::AttnVBias => "attn_v.bias",
            LayerTensor::AttnQNorm => "attn_q_norm.weight",
            LayerTensor::AttnKNorm => "attn_k_norm.weight",
            LayerTensor::AttnOutput => "attn_output.weight",
            LayerTensor::PostAttnNorm => "post_attention_norm.weight",
            LayerTensor::FfnNorm => "ffn_norm.weight",
            LayerTensor::FfnGate => "ffn_gate.weight",
            LayerTensor::FfnUp => "ffn_up.weight",
            LayerTensor::FfnDown => "ffn_down.weight",
            LayerTensor::PostFfnNorm => "post_ffw_norm.weight",
        }
    }
}

impl TensorRole {
    /// Whether it is the weight of a norm.
    pub(crate) fn is_norm(self) -> bool {
        match self {
            TensorRole::OutputNorm => true,
            TensorRole::Layer(_, tensor) => tensor.is_norm(),
            TensorRole::TokenEmbedding | TensorRole::OutputHead => false,
        }
    }

    /// What most families call it in GGUF.
    pub(crate) fn gguf_name(self) -> String {
        match self {
            TensorRole::TokenEmbedding => "token_embd.weight".to_owned(),
            TensorRole::OutputNorm => "output_norm.weight".to_owned(),
            TensorRole::OutputHead => "output.weight".to_owned(),
            TensorRole::Layer(layer_idx, tensor) => {
                format!("blk.{layer_idx}.{}", tensor.gguf_suffix())
            }
        }
    }
}
