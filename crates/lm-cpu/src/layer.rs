//! The weights of one layer.

use lm_backend::StepArbiter;
use lm_kernels::{Pool, dequantize_row};
use lm_models::{LayerTensor, Model, QkNorm, TensorRole};

use crate::LoadError;
use crate::matrix::{Matrix, Stacked, stored_type};

/// Norms are `[n]` f32, with the family's offset already added; biases `[n]` f32.
#[derive(Debug)]
pub(crate) struct Layer {
    /// Before attention and before the MLP.
    pub(crate) norms: Option<(Vec<f32>, Vec<f32>)>,
    /// Q, k and v.
    pub(crate) attn_qkv: Stacked,
    /// Of q, k and v, one after another.
    pub(crate) qkv_bias: Option<Vec<f32>>,
    /// Of each head of q and k, or of all their heads as one.
    pub(crate) qk_norms: Option<(Vec<f32>, Vec<f32>)>,
    pub(crate) attn_output: Stacked,
    pub(crate) ffn_gate: Matrix,
    pub(crate) ffn_up: Matrix,
    pub(crate) ffn_down: Stacked,
    /// After attention and after the MLP.
    pub(crate) post_norms: Option<(Vec<f32>, Vec<f32>)>,
}

/// Reads tensors of one model.
pub(crate) struct Loader<'a> {
    pub(crate) model: &'a Model,
    pub(crate) pool: &'a mut Pool,
    /// Each matrix is a turn, so that engines that run go on meanwhile.
    pub(crate) arbiter: &'a StepArbiter,
}

impl Loader<'_> {
    pub(crate) fn matrix(&mut self, role: TensorRole) -> Result<Matrix, LoadError> {
        let _turn = self.arbiter.turn(|| ());
        Matrix::pack(&self.model.tensor(role)?, role, self.pool)
    }

    pub(crate) fn stacked(&mut self, roles: &[TensorRole]) -> Result<Stacked, LoadError> {
        let matrices = roles.iter().map(|role| self.matrix(*role)).collect::<Result<_, _>>()?;
        Ok(Stacked::new(matrices, self.pool.n_threads()))
    }

    /// A vector as f32. `[n]`
    fn vector(&self, role: TensorRole) -> Result<Vec<f32>, LoadError> {
        let view = self.model.tensor(role)?;
        let unsupported = LoadError::UnsupportedType { role, dtype: view.dtype.as_str() };
        let stored = stored_type(view.dtype).ok_or(unsupported)?;
        let mut values = vec![0.0; view.n_elements()];
        dequantize_row(stored, &view.data, &mut values);
        Ok(values)
    }

    pub(crate) fn norm(&self, role: TensorRole) -> Result<Vec<f32>, LoadError> {
        let offset = self.model.spec.norm.weight_offset;
        let mut weights = self.vector(role)?;
        weights.iter_mut().for_each(|weight| *weight += offset);
        Ok(weights)
    }

    pub(crate) fn layer(&mut self, i: usize) -> Result<Layer, LoadError> {
        use LayerTensor as T;
        let spec = &self.model.spec;
        let role = |tensor| TensorRole::Layer(i, tensor);
        let pair = |loader: &Self, a, b| -> Result<_, LoadError> {
            Ok(Some((loader.norm(role(a))?, loader.norm(role(b))?)))
        };
        let biases = || -> Result<Vec<f32>, LoadError> {
            let tensors = [T::AttnQBias, T::AttnKBias, T::AttnVBias];
            let all: Result<Vec<_>, _> =
                tensors.map(|t| self.vector(role(t))).into_iter().collect();
            Ok(all?.concat())
        };
        Ok(Layer {
            qkv_bias: spec.qkv_bias.then(biases).transpose()?,
            norms: match spec.norm_placement.is_before() {
                true => pair(self, T::AttnNorm, T::FfnNorm)?,
                false => None,
            },
            qk_norms: match spec.qk_norm {
                QkNorm::None => None,
                QkNorm::PerHead | QkNorm::Whole => pair(self, T::AttnQNorm, T::AttnKNorm)?,
            },
            post_norms: match spec.norm_placement.is_behind() {
                true => pair(self, T::PostAttnNorm, T::PostFfnNorm)?,
                false => None,
            },
            attn_qkv: self.stacked(&[T::AttnQ, T::AttnK, T::AttnV].map(role))?,
            attn_output: self.stacked(&[role(T::AttnOutput)])?,
            ffn_gate: self.matrix(role(T::FfnGate))?,
            ffn_up: self.matrix(role(T::FfnUp))?,
            ffn_down: self.stacked(&[role(T::FfnDown)])?,
        })
    }
}

impl Layer {
    pub(crate) fn size_bytes(&self) -> usize {
        let stacked = [&self.attn_qkv, &self.attn_output, &self.ffn_down];
        let mlp = [&self.ffn_gate, &self.ffn_up];
        let bytes = stacked.iter().map(|matrices| matrices.size_bytes());
        bytes.chain(mlp.iter().map(|matrix| matrix.size_bytes())).sum()
    }
}
