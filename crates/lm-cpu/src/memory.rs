//! How much memory a model will take here, from its shapes alone.

use lm_backend::{MemoryNeed, StepLimits};
use lm_kernels::{ActBlock, Isa, KV_PAGE, SPAN, SplitBlock};
use lm_models::{DecoderSpec, Model, TensorRole, tensor_shapes};

use crate::kv::KvCache;
use crate::matrix::{ACT_BLOCK, packed_bytes};
use crate::{CpuOptions, LoadError};

const F32: usize = size_of::<f32>();

pub(crate) fn need(
    model: &Model,
    options: &CpuOptions,
    limits: StepLimits,
) -> Result<MemoryNeed, LoadError> {
    let isa = Isa::detect_capped(options.isa_cap.as_deref()).map_err(LoadError::Isa)?;
    Ok(MemoryNeed {
        weights_bytes: weights_bytes(model)?,
        scratch_bytes: scratch_bytes(isa, &model.spec, limits) as u64,
        kv_block_bytes: KvCache::block_bytes(&model.spec, options.kv_type) as u64,
        block_size: KV_PAGE,
    })
}

/// Of the matrices in panels. An embedding that is not the head, too, is read from the file, or kept as it was made up.
fn weights_bytes(model: &Model) -> Result<u64, LoadError> {
    let mut n_bytes = 0;
    for (role, shape) in tensor_shapes(&model.spec) {
        let is_mapped = role == TensorRole::TokenEmbedding && !model.spec.tied_head;
        let &[n_rows, k] = shape.as_slice() else { continue };
        if is_mapped {
            n_bytes += model.made_up_bytes(role)?;
            continue;
        }
        let dtype = model.tensor_type(role)?;
        let unsupported = LoadError::UnsupportedType { role, dtype: dtype.as_str() };
        n_bytes += packed_bytes(dtype, n_rows, k).ok_or(unsupported)?;
    }
    Ok(n_bytes as u64)
}

/// Of the buffers in `scratch`, and of the tables of angles.
fn scratch_bytes(isa: Isa, spec: &DecoderSpec, limits: StepLimits) -> usize {
    let StepLimits { max_batch_tokens, max_model_len, .. } = limits;
    let (hidden, q_width) = (spec.hidden_size, spec.n_heads * spec.head_dim);
    let qkv = q_width + 2 * spec.n_kv_heads * spec.head_dim;
    let block_bytes =
        if isa.splits(max_batch_tokens) { size_of::<SplitBlock>() } else { size_of::<ActBlock>() };
    let acts = |k: usize| k * F32 + k / ACT_BLOCK * block_bytes;
    let added = if spec.norm_placement.is_behind() { hidden } else { 0 };
    // Every span of every row leaves m, l and a sum of values for each head.
    let n_windows = spec.sliding_window.iter().collect::<std::collections::BTreeSet<_>>().len();
    let partials = max_model_len.div_ceil(SPAN) * spec.n_heads * (spec.head_dim + 2);
    let plans = max_model_len.div_ceil(SPAN) * n_windows * 4 * size_of::<usize>();
    let row = (hidden + added + qkv + partials) * F32
        + acts(hidden.max(q_width))
        + acts(spec.intermediate_size)
        + plans;
    let angles = 2 * max_model_len * spec.rope.n_dims * F32;
    max_batch_tokens * row + angles
}
