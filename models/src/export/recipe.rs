//! Which type each tensor of a quantised file gets, as llama.cpp chooses it.
//!
//! It must never look at a tensor's numbers: role and shape decide.
//!
//! Start reading at [`Recipe::assign`].

use crate::{DecoderSpec, LayerTensor, TensorRole, TensorType};

/// Layers of the one Llama whose values llama.cpp gives another type: 70B.
const N_LAYERS_70B: usize = 80;

/// A named way to store a whole model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// What people write: `q4_0`, `q4_k_m`, …
    pub name: &'static str,
    /// The type of most matrices.
    pub dtype: TensorType,
    /// `general.file_type`. Source: `enum llama_ftype` of llama.cpp.
    pub file_type: u32,
    /// Whether some layers get more bits.
    is_mix: bool,
}

/// Every recipe.
pub const RECIPES: &[Recipe] = &[
    plain("q2_k", TensorType::Q2_K, 10),
    plain("q3_k", TensorType::Q3_K, 11),
    plain("q4_0", TensorType::Q4_0, 2),
    plain("q4_1", TensorType::Q4_1, 3),
    plain("q5_0", TensorType::Q5_0, 8),
    plain("q5_1", TensorType::Q5_1, 9),
    plain("q8_0", TensorType::Q8_0, 7),
    plain("q4_k", TensorType::Q4_K, 14),
    Recipe { name: "q4_k_m", dtype: TensorType::Q4_K, file_type: 15, is_mix: true },
    plain("q5_k", TensorType::Q5_K, 16),
    plain("q6_k", TensorType::Q6_K, 18),
    plain("f16", TensorType::F16, 1),
    plain("bf16", TensorType::BF16, 32),
    plain("f32", TensorType::F32, 0),
];

/// The type of one tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// How it is to be stored.
    pub dtype: TensorType,
    /// Whether the rows are no whole number of blocks of the type that was meant.
    pub is_fallback: bool,
}

const fn plain(name: &'static str, dtype: TensorType, file_type: u32) -> Recipe {
    Recipe { name, dtype, file_type, is_mix: false }
}

impl Recipe {
    /// The recipe of a name in either case.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Recipe> {
        RECIPES.iter().find(|recipe| recipe.name.eq_ignore_ascii_case(name))
    }

    /// The one type that the recipe stands for; `None` for a mix.
    #[must_use]
    pub fn single_type(&self) -> Option<TensorType> {
        (!self.is_mix).then_some(self.dtype)
    }

    /// The type of the tensor of a role. Norms and biases are F32. The head, or the embedding where it
    /// is the head too, is `output`, by default Q6_K when the recipe has fewer bits, as llama.cpp
    /// stores it. Rows that are no whole number of blocks fall back to the type that llama.cpp takes.
    #[must_use]
    pub fn assign(
        &self,
        spec: &DecoderSpec,
        role: TensorRole,
        shape: &[usize],
        output: Option<TensorType>,
    ) -> Assigned {
        let &[_, row_len] = shape else {
            return Assigned { dtype: TensorType::F32, is_fallback: false };
        };
        let is_output = match role {
            TensorRole::OutputHead => true,
            TensorRole::TokenEmbedding => spec.tied_head,
            _ => false,
        };
        let meant = match role {
            _ if is_output => output.unwrap_or(self.output_type()),
            TensorRole::Layer(layer_idx, tensor) if self.is_mix => {
                mixed_type(self.dtype, spec, layer_idx, tensor)
            }
            _ => self.dtype,
        };
        let dtype = fitting(meant, row_len);
        Assigned { dtype, is_fallback: dtype != meant }
    }

    fn output_type(&self) -> TensorType {
        match self.dtype {
            same @ (TensorType::F32 | TensorType::F16 | TensorType::BF16 | TensorType::Q8_0) => {
                same
            }
            _ => TensorType::Q6_K,
        }
    }
}

/// Source: `llama_tensor_get_type` of llama.cpp, for `Q4_K_M`.
fn mixed_type(
    main: TensorType,
    spec: &DecoderSpec,
    layer_idx: usize,
    tensor: LayerTensor,
) -> TensorType {
    match tensor {
        LayerTensor::AttnV | LayerTensor::FfnDown if has_more_bits(layer_idx, spec.n_layers) => {
            TensorType::Q6_K
        }
        // There with q and k in one tensor.
        LayerTensor::AttnQ if spec.family == "phi3" => TensorType::Q5_K,
        // Eight heads share a value there: it is small, and worth more bits.
        LayerTensor::AttnV
            if spec.family == "llama"
                && spec.n_layers == N_LAYERS_70B
                && spec.n_heads != spec.n_kv_heads =>
        {
            TensorType::Q5_K
        }
        _ => main,
    }
}

/// The first and the last eighth of the layers, and every third between them.
/// Source: `use_more_bits` of llama.cpp.
fn has_more_bits(layer_idx: usize, n_layers: usize) -> bool {
    let eighth = n_layers / 8;
    layer_idx < eighth || layer_idx >= 7 * n_layers / 8 || (layer_idx - eighth) % 3 == 2
}

/// The type itself, or what stands in for it where a row is no whole number of its blocks.
fn fitting(meant: TensorType, row_len: usize) -> TensorType {
    let fits = |dtype: TensorType| row_len.is_multiple_of(dtype.block_len());
    let second = match meant {
        // llama.cpp takes IQ4_NL, which is as large and can be read, but not written here.
        TensorType::Q2_K | TensorType::Q3_K => TensorType::Q4_0,
        TensorType::Q4_K => TensorType::Q5_0,
        TensorType::Q5_K => TensorType::Q5_1,
        TensorType::Q6_K => TensorType::Q8_0,
        _ => TensorType::F16,
    };
    [meant, second].into_iter().find(|&dtype| fits(dtype)).unwrap_or(TensorType::F16)
}
