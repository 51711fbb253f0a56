//! Numbers of one storage type as another, by candle's quantisers.
//!
//! It must never know files, roles or recipes.
//!
//! Start reading at [`requantize`].

use candle_core::Device;
use candle_core::quantized::QTensor;
use lm_models::{TensorType, TensorView};

use crate::weights::{ggml_type, to_f32};

/// Largest number of f16.
const F16_MAX: f32 = 65_504.0;

/// Why numbers cannot be stored in another way.
#[derive(Debug, thiserror::Error)]
pub enum QuantizeError {
    /// A storage type that there is no code for.
    #[error("the type {dtype} can only be copied here: it cannot be made, or not be read")]
    UnsupportedType {
        /// The type.
        dtype: TensorType,
    },
    /// A number without a place in any type, or too large for this one.
    #[error("a number is {value}, but must be within ±{limit:e}, the largest of {dtype}")]
    NotStorable {
        /// The number.
        value: f32,
        /// The largest that can be stored.
        limit: f32,
        /// The type.
        dtype: TensorType,
    },
    /// candle.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// The numbers of `view`, each plus `add`, as blocks of `dtype`: little-endian, row-major. Rows are
/// quantised apart, so that any number of whole rows gives the same bytes as all of them at once.
///
/// # Errors
/// `UnsupportedType`; `NotStorable` for NaN, infinity, and what is over f16 when the type's scales or
/// numbers are f16.
pub fn requantize(
    view: &TensorView<'_>,
    add: f32,
    dtype: TensorType,
) -> Result<Vec<u8>, QuantizeError> {
    let unsupported = |dtype| QuantizeError::UnsupportedType { dtype };
    let target = ggml_type(dtype).ok_or(unsupported(dtype))?;
    let numbers = to_f32(view, &Device::Cpu)?.ok_or(unsupported(view.dtype))?;
    let numbers = if add == 0.0 { numbers } else { (numbers + f64::from(add))? };
    let limit = match dtype {
        TensorType::F32 | TensorType::BF16 => f32::MAX,
        _ => F16_MAX,
    };
    let outside = |value: &f32| !(-limit..=limit).contains(value);
    if let Some(value) = numbers.flatten_all()?.to_vec1::<f32>()?.into_iter().find(outside) {
        return Err(QuantizeError::NotStorable { value, limit, dtype });
    }
    Ok(QTensor::quantize(&numbers, target)?.data()?.into_owned())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    /// `[4, 256]`: smooth, of both signs, and of another size in each row.
    fn numbers() -> Vec<f32> {
        (0..1024_u16).map(|i| (f32::from(i) * 0.37).sin() * (1.0 + f32::from(i / 256))).collect()
    }

    fn view(values: &[f32]) -> TensorView<'static> {
        let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        TensorView { shape: vec![4, 256], dtype: TensorType::F32, data: data.into() }
    }

    fn read(data: Vec<u8>, dtype: TensorType) -> Vec<f32> {
        let view = TensorView { shape: vec![4, 256], dtype, data: data.into() };
        let numbers = to_f32(&view, &Device::Cpu).unwrap().unwrap();
        numbers.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Each number comes back within `limit` of its row's largest.
    #[track_caller]
    fn check(dtype: TensorType, limit: f32) {
        let before = numbers();
        let data = requantize(&view(&before), 0.0, dtype).unwrap();
        assert_eq!(Some(data.len()), dtype.size_bytes(before.len()));
        let after = read(data, dtype);
        let mut worst = 0.0_f32;
        for (i, (before, after)) in before.iter().zip(&after).enumerate() {
            let largest = 1.0 + (i / 256) as f32;
            worst = worst.max((before - after).abs() / largest);
        }
        assert!(worst <= limit, "{dtype}: off by {worst} of the largest, at most {limit} may be");
    }

    /// A step of n bits is 2 / 2^n of the largest for both signs, and at most half of it is lost;
    /// except that the scales of `_0` types have 2^(n-1) steps on one side and one fewer on the other,
    /// where a whole step is lost. Scales are f16, which costs up to 1/2048, and with a minimum of both
    /// signs up to three times that; those of K types are quantised again: up to half a step more.
    #[test]
    fn what_comes_back_is_within_the_types_error() {
        const SCALE: f32 = 1.0 / 2048.0;
        check(TensorType::F32, 0.0);
        check(TensorType::F16, 1.0 / 2048.0);
        check(TensorType::BF16, 1.0 / 256.0);
        check(TensorType::Q8_0, 0.5 / 127.0 + SCALE);
        check(TensorType::Q5_0, 1.0 / 16.0 + SCALE);
        check(TensorType::Q5_1, 1.0 / 31.0 + 3.0 * SCALE);
        check(TensorType::Q4_0, 1.0 / 8.0 + SCALE);
        check(TensorType::Q4_1, 1.0 / 15.0 + 3.0 * SCALE);
        check(TensorType::Q6_K, 1.5 / 32.0);
        check(TensorType::Q5_K, 1.5 / 31.0);
        check(TensorType::Q4_K, 1.5 / 15.0);
        check(TensorType::Q3_K, 1.5 / 4.0);
        check(TensorType::Q2_K, 1.5 / 3.0);
    }

    #[test]
    fn what_candle_does_not_know_is_read_and_not_written() {
        // A scale of 2, and the first two of its values.
        let mut block = vec![0x00, 0x40];
        block.extend([0x10; 16]);
        let stored =
            TensorView { shape: vec![1, 32], dtype: TensorType::IQ4_NL, data: block.into() };
        let numbers = requantize(&stored, 0.0, TensorType::F32).unwrap();
        let numbers = numbers.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        let expect = [[-254.0; 16], [-208.0; 16]].concat();
        assert_eq!(numbers.collect::<Vec<f32>>(), expect);
        let refused = requantize(&stored, 0.0, TensorType::IQ4_XS).unwrap_err();
        assert!(matches!(refused, QuantizeError::UnsupportedType { dtype: TensorType::IQ4_XS }));
    }

    #[test]
    fn pieces_give_the_same_bytes_as_the_whole() {
        let whole = view(&numbers());
        for dtype in [TensorType::Q4_0, TensorType::Q4_K, TensorType::F16] {
            let at_once = requantize(&whole, 0.25, dtype).unwrap();
            let pieces = whole.pieces(300).flat_map(|row| requantize(&row, 0.25, dtype).unwrap());
            assert_eq!(pieces.collect::<Vec<u8>>(), at_once, "{dtype}");
        }
    }

    #[test]
    fn numbers_are_added_to_before_they_are_stored() {
        let before = numbers();
        let after =
            read(requantize(&view(&before), 1.0, TensorType::F32).unwrap(), TensorType::F32);
        assert!(before.iter().zip(after).all(|(before, after)| before + 1.0 == after));
    }

    #[test]
    fn what_no_type_can_hold_is_refused() {
        let mut bad = numbers();
        bad[700] = f32::NAN;
        let message = requantize(&view(&bad), 0.0, TensorType::Q8_0).unwrap_err().to_string();
        assert!(message.contains("NaN") && message.contains("Q8_0"), "{message}");
        bad[700] = 1e6;
        let message = requantize(&view(&bad), 0.0, TensorType::F16).unwrap_err().to_string();
        assert!(message.contains("1000000") && message.contains("6.5504e4"), "{message}");
        assert!(requantize(&view(&bad), 0.0, TensorType::BF16).is_ok());
        let message = requantize(&view(&bad), 0.0, TensorType::IQ4_NL).unwrap_err().to_string();
        assert!(message.contains("IQ4_NL"), "{message}");
    }
}
