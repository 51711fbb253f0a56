//! Writes GGUF version 3 files: metadata, then tensors aligned to 32 bytes.
//!
//! It must never know what the tensors are for, nor convert numbers.
//!
//! Start reading at [`GgufWriter`].

use std::io::{self, Write};

use super::header::DEFAULT_ALIGNMENT;
use super::metadata::{Metadata, Value, write_string};
use crate::{TensorType, TensorView};

/// A GGUF file in the making. Tensors are borrowed until [`GgufWriter::write_to`].
#[derive(Debug, Default)]
pub struct GgufWriter<'a> {
    metadata: Metadata,
    tensors: Vec<(String, TensorView<'a>)>,
}

impl<'a> GgufWriter<'a> {
    /// An empty file.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds or replaces a metadata value.
    pub fn set(&mut self, key: &str, value: Value) -> &mut Self {
        self.metadata.set(key, value);
        self
    }

    /// Appends a tensor.
    ///
    /// # Panics
    /// When the data is not as long as shape and type say.
    pub fn tensor(&mut self, name: &str, tensor: TensorView<'a>) -> &mut Self {
        let wanted = tensor.dtype.size_bytes(tensor.n_elements());
        assert_eq!(Some(tensor.data.len()), wanted, "tensor {name} must fill its shape");
        self.tensors.push((name.to_owned(), tensor));
        self
    }

    /// Appends a tensor of f32.
    ///
    /// # Panics
    /// When there are not as many values as the shape says.
    pub fn tensor_f32(&mut self, name: &str, shape: &[usize], values: &[f32]) -> &mut Self {
        let data = values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let shape = shape.to_vec();
        self.tensor(name, TensorView { shape, dtype: TensorType::F32, data: data.into() })
    }

    /// Writes the whole file.
    ///
    /// # Errors
    /// What `out` says.
    pub fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        let mut header = Vec::from(*b"GGUF");
        header.extend(3_u32.to_le_bytes());
        header.extend((self.tensors.len() as u64).to_le_bytes());
        header.extend((self.metadata.iter().count() as u64).to_le_bytes());
        for (key, value) in self.metadata.iter() {
            write_string(&mut header, key);
            header.extend(value.type_number().to_le_bytes());
            value.write_to(&mut header);
        }
        let mut offset = 0_usize;
        for (name, tensor) in &self.tensors {
            write_string(&mut header, name);
            header.extend((tensor.shape.len() as u32).to_le_bytes());
            for &dim in tensor.shape.iter().rev() {
                header.extend((dim as u64).to_le_bytes());
            }
            header.extend(tensor.dtype.ggml_number().to_le_bytes());
            header.extend((offset as u64).to_le_bytes());
            offset += tensor.data.len().next_multiple_of(DEFAULT_ALIGNMENT);
        }
        header.resize(header.len().next_multiple_of(DEFAULT_ALIGNMENT), 0);
        out.write_all(&header)?;
        for (_, tensor) in &self.tensors {
            let len = tensor.data.len();
            out.write_all(&tensor.data)?;
            let padding = len.next_multiple_of(DEFAULT_ALIGNMENT) - len;
            out.write_all(&[0; DEFAULT_ALIGNMENT][..padding])?;
        }
        Ok(())
    }

    /// The whole file in memory.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write_to(&mut bytes).expect("a Vec takes every byte: this is a bug");
        bytes
    }
}
