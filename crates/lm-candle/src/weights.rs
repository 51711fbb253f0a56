//! Weights as they stand in a file, turned into f32 tensors.

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{DType, Device, Tensor};
use lm_kernels::{StoredType, dequantize_row};
use lm_models::{LayerTensor, Model, TensorRole, TensorType, TensorView};

use crate::LoadError;

/// Reads tensors of one model onto one device.
pub(crate) struct WeightLoader<'a> {
    pub(crate) model: &'a Model,
    pub(crate) device: &'a Device,
}

impl WeightLoader<'_> {
    pub(crate) fn load(&self, role: TensorRole) -> Result<Tensor, LoadError> {
        let view = self.model.tensor(role)?;
        let unsupported = LoadError::UnsupportedType { role, dtype: view.dtype.as_str() };
        to_f32(&view, self.device)?.ok_or(unsupported)
    }

    pub(crate) fn layer(&self, layer: usize, tensor: LayerTensor) -> Result<Tensor, LoadError> {
        self.load(TensorRole::Layer(layer, tensor))
    }

    /// The weight of a norm, with the family's offset already added. `[n]`
    pub(crate) fn norm(&self, role: TensorRole) -> Result<Tensor, LoadError> {
        let offset = f64::from(self.model.spec.norm.weight_offset);
        Ok((self.load(role)? + offset)?)
    }
}

/// Turns a stored tensor into f32; `None` when nobody knows its type. Shapes stay: `[out, in]`.
pub(crate) fn to_f32(
    view: &TensorView<'_>,
    device: &Device,
) -> candle_core::Result<Option<Tensor>> {
    let plain = match view.dtype {
        TensorType::F32 => Some(DType::F32),
        TensorType::F16 => Some(DType::F16),
        TensorType::BF16 => Some(DType::BF16),
        TensorType::F64 => Some(DType::F64),
        _ => None,
    };
    if let Some(dtype) = plain {
        let tensor = Tensor::from_raw_buffer(&view.data, dtype, &view.shape, device)?;
        return tensor.to_dtype(DType::F32).map(Some);
    }
    let Some(quantised) = ggml_type(view.dtype) else { return by_kernels(view, device) };
    // Blocks are read as structs of up to four-byte fields; a file may have laid them anywhere.
    let aligned = if view.data.as_ptr().align_offset(4) == 0 {
        std::borrow::Cow::Borrowed(&*view.data)
    } else {
        std::borrow::Cow::Owned(view.data.to_vec())
    };
    let storage = QStorage::from_data(aligned, device, quantised)?;
    QTensor::new(storage, view.shape.as_slice())?.dequantize(device).map(Some)
}

/// What candle cannot read, as the kernels' definition of its type has it.
fn by_kernels(view: &TensorView<'_>, device: &Device) -> candle_core::Result<Option<Tensor>> {
    let Some(stored) = StoredType::from_ggml_id(view.dtype.ggml_number()) else { return Ok(None) };
    let mut values = vec![0.0; view.n_elements()];
    dequantize_row(stored, &view.data, &mut values);
    Tensor::from_vec(values, view.shape.as_slice(), device).map(Some)
}

/// The types that candle reads and writes.
pub(crate) fn ggml_type(dtype: TensorType) -> Option<GgmlDType> {
    Some(match dtype {
        TensorType::F32 => GgmlDType::F32,
        TensorType::F16 => GgmlDType::F16,
        TensorType::BF16 => GgmlDType::BF16,
        TensorType::Q4_0 => GgmlDType::Q4_0,
        TensorType::Q4_1 => GgmlDType::Q4_1,
        TensorType::Q5_0 => GgmlDType::Q5_0,
        TensorType::Q5_1 => GgmlDType::Q5_1,
        TensorType::Q8_0 => GgmlDType::Q8_0,
        TensorType::Q8_1 => GgmlDType::Q8_1,
        TensorType::Q2_K => GgmlDType::Q2K,
        TensorType::Q3_K => GgmlDType::Q3K,
        TensorType::Q4_K => GgmlDType::Q4K,
        TensorType::Q5_K => GgmlDType::Q5K,
        TensorType::Q6_K => GgmlDType::Q6K,
        TensorType::Q8_K => GgmlDType::Q8K,
        _ => return None,
    })
}
