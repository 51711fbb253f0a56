//! How the numbers of a tensor are stored, and one tensor as it lies in its file.
//!
//! It must never know what a tensor is for, nor turn blocks into numbers.
//!
//! Start reading at [`TensorView`].

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

/// A tensor as stored.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorView<'a> {
    /// `[out, in]`, row-major: the dims of GGUF reversed. `[n]` for norms and biases.
    pub shape: Vec<usize>,
    /// How `data` holds the numbers.
    pub dtype: TensorType,
    /// Little-endian; exactly `dtype.size_bytes(n_elements)` long.
    pub data: Cow<'a, [u8]>,
}

impl<'a> TensorView<'a> {
    /// Some of its rows, as a tensor.
    ///
    /// # Panics
    /// When there are no such rows.
    pub(crate) fn into_rows(mut self, rows: Range<usize>) -> TensorView<'a> {
        let row_bytes = self.data.len() / self.shape[0];
        let bytes = rows.start * row_bytes..rows.end * row_bytes;
        self.shape[0] = rows.len();
        self.data = match self.data {
            Cow::Borrowed(data) => Cow::Borrowed(&data[bytes]),
            Cow::Owned(data) => Cow::Owned(data[bytes].to_vec()),
        };
        self
    }

    /// Numbers in the tensor.
    #[must_use]
    pub fn n_elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The tensor in pieces of whole rows, in order, each of about `n_elements` numbers:
    /// `[n_rows, row_len]`.
    ///
    /// # Panics
    /// When the data is not as long as shape and type say.
    pub fn pieces(&self, n_elements: usize) -> impl Iterator<Item = TensorView<'_>> {
        let row_len = self.shape.last().copied().unwrap_or_default();
        let row_bytes = self.dtype.size_bytes(row_len);
        let row_bytes = row_bytes.expect("a row is whole blocks: this is a bug");
        let n_rows = (n_elements / row_len.max(1)).max(1);
        self.data.chunks((n_rows * row_bytes).max(1)).map(move |piece| TensorView {
            shape: vec![piece.len() / row_bytes, row_len],
            dtype: self.dtype,
            data: Cow::Borrowed(piece),
        })
    }
}

macro_rules! tensor_types {
    ($($name:ident = $ggml:literal, $text:literal, $block_len:literal, $block_bytes:literal;)*) => {
        /// The element types of ggml; safetensors knows the first few too. Executors may support
        /// fewer.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[expect(missing_docs, reason = "the names are ggml's own")]
        #[expect(non_camel_case_types, reason = "the names are ggml's own")]
        pub enum TensorType { $($name,)* }

        impl TensorType {
            /// Every type, by its number in GGUF.
            pub const ALL: &[TensorType] = &[$(TensorType::$name,)*];

            /// The type of a GGUF type number. Source: `enum ggml_type` of ggml.
            #[must_use]
            pub fn from_ggml(number: u32) -> Option<TensorType> {
                match number { $($ggml => Some(TensorType::$name),)* _ => None }
            }

            /// The number in GGUF.
            #[must_use]
            pub fn ggml_number(self) -> u32 {
                match self { $(TensorType::$name => $ggml,)* }
            }

            /// ggml's name.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(TensorType::$name => $text,)* }
            }

            /// Numbers in one block; 1 for plain types. A row is a whole number of blocks.
            #[must_use]
            pub fn block_len(self) -> usize {
                match self { $(TensorType::$name => $block_len,)* }
            }

            /// Bytes of one block.
            #[must_use]
            pub fn block_bytes(self) -> usize {
                match self { $(TensorType::$name => $block_bytes,)* }
            }
        }
    };
}

tensor_types! {
    F32 = 0, "F32", 1, 4;
    F16 = 1, "F16", 1, 2;
    Q4_0 = 2, "Q4_0", 32, 18;
    Q4_1 = 3, "Q4_1", 32, 20;
    Q5_0 = 6, "Q5_0", 32, 22;
    Q5_1 = 7, "Q5_1", 32, 24;
    Q8_0 = 8, "Q8_0", 32, 34;
    Q8_1 = 9, "Q8_1", 32, 36;
    Q2_K = 10, "Q2_K", 256, 84;
    Q3_K = 11, "Q3_K", 256, 110;
    Q4_K = 12, "Q4_K", 256, 144;
    Q5_K = 13, "Q5_K", 256, 176;
    Q6_K = 14, "Q6_K", 256, 210;
    Q8_K = 15, "Q8_K", 256, 292;
    IQ2_XXS = 16, "IQ2_XXS", 256, 66;
    IQ2_XS = 17, "IQ2_XS", 256, 74;
    IQ3_XXS = 18, "IQ3_XXS", 256, 98;
    IQ1_S = 19, "IQ1_S", 256, 50;
    IQ4_NL = 20, "IQ4_NL", 32, 18;
    IQ3_S = 21, "IQ3_S", 256, 110;
    IQ2_S = 22, "IQ2_S", 256, 82;
    IQ4_XS = 23, "IQ4_XS", 256, 136;
    I8 = 24, "I8", 1, 1;
    I16 = 25, "I16", 1, 2;
    I32 = 26, "I32", 1, 4;
    I64 = 27, "I64", 1, 8;
    F64 = 28, "F64", 1, 8;
    IQ1_M = 29, "IQ1_M", 256, 56;
    BF16 = 30, "BF16", 1, 2;
    TQ1_0 = 34, "TQ1_0", 256, 54;
    TQ2_0 = 35, "TQ2_0", 256, 66;
    MXFP4 = 39, "MXFP4", 32, 17;
}

impl TensorType {
    /// Bytes of `n_elements` numbers; `None` when that is no whole number of blocks or overflows.
    #[must_use]
    pub fn size_bytes(self, n_elements: usize) -> Option<usize> {
        if !n_elements.is_multiple_of(self.block_len()) {
            return None;
        }
        (n_elements / self.block_len()).checked_mul(self.block_bytes())
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lead_back_to_their_types() {
        for &dtype in TensorType::ALL {
            assert_eq!(TensorType::from_ggml(dtype.ggml_number()), Some(dtype));
        }
        for retired in [4, 5, 31, 36, 40, u32::MAX] {
            assert_eq!(TensorType::from_ggml(retired), None, "type number {retired}");
        }
    }

    #[test]
    fn sizes_count_whole_blocks() {
        assert_eq!(TensorType::Q4_1.size_bytes(64), Some(40));
        assert_eq!(TensorType::Q4_1.size_bytes(33), None);
        assert_eq!(TensorType::Q6_K.size_bytes(256), Some(210));
        assert_eq!(TensorType::BF16.size_bytes(3), Some(6));
        assert_eq!(TensorType::F64.size_bytes(usize::MAX), None);
    }
}
