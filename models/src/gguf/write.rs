//! Writes GGUF version 3 files: metadata, then tensors aligned to 32 bytes.
//!
//! It must never know what the tensors are for, nor convert numbers.
//!
//! Start reading at [`GgufStream`], which holds no tensor; [`GgufWriter`] collects small files.

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
        let entry = |(name, tensor): &(String, TensorView<'_>)| TensorEntry {
            name: name.clone(),
            shape: tensor.shape.clone(),
            dtype: tensor.dtype,
        };
        let entries: Vec<TensorEntry> = self.tensors.iter().map(entry).collect();
        let mut stream = GgufStream::begin(out, &self.metadata, &entries)?;
        for (_, tensor) in &self.tensors {
            stream.write(&tensor.data)?;
        }
        stream.finish().map(|_| ())
    }

    /// The whole file in memory.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write_to(&mut bytes).expect("a Vec takes every byte: this is a bug");
        bytes
    }
}

/// What a file says of a tensor before its bytes are there.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorEntry {
    /// Its name.
    pub name: String,
    /// `[out, in]`, row-major.
    pub shape: Vec<usize>,
    /// How its numbers will be stored.
    pub dtype: TensorType,
}

impl TensorEntry {
    /// Bytes that the tensor takes.
    ///
    /// # Panics
    /// When the numbers are no whole number of blocks.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let size = self.dtype.size_bytes(self.shape.iter().product());
        size.unwrap_or_else(|| panic!("tensor {} must be whole blocks: this is a bug", self.name))
    }
}

/// A GGUF file whose header is written; the tensors' bytes follow in the header's order, in pieces
/// of any length.
#[derive(Debug)]
pub struct GgufStream<W> {
    out: W,
    /// Bytes of each tensor, in order.
    sizes: Vec<usize>,
    tensor_idx: usize,
    /// Bytes of the tensor at `tensor_idx` that are written.
    n_written: usize,
}

impl<W: Write> GgufStream<W> {
    /// Writes the header.
    ///
    /// # Errors
    /// What `out` says.
    ///
    /// # Panics
    /// When a tensor is no whole number of blocks.
    pub fn begin(mut out: W, metadata: &Metadata, tensors: &[TensorEntry]) -> io::Result<Self> {
        let mut header = Vec::from(*b"GGUF");
        header.extend(3_u32.to_le_bytes());
        header.extend((tensors.len() as u64).to_le_bytes());
        header.extend((metadata.iter().count() as u64).to_le_bytes());
        for (key, value) in metadata.iter() {
            write_string(&mut header, key);
            header.extend(value.type_number().to_le_bytes());
            value.write_to(&mut header);
        }
        let sizes: Vec<usize> = tensors.iter().map(TensorEntry::size_bytes).collect();
        let mut offset = 0_usize;
        for (tensor, size_bytes) in tensors.iter().zip(&sizes) {
            write_string(&mut header, &tensor.name);
            header.extend((tensor.shape.len() as u32).to_le_bytes());
            for &dim in tensor.shape.iter().rev() {
                header.extend((dim as u64).to_le_bytes());
            }
            header.extend(tensor.dtype.ggml_number().to_le_bytes());
            header.extend((offset as u64).to_le_bytes());
            offset += size_bytes.next_multiple_of(DEFAULT_ALIGNMENT);
        }
        header.resize(header.len().next_multiple_of(DEFAULT_ALIGNMENT), 0);
        out.write_all(&header)?;
        Ok(GgufStream { out, sizes, tensor_idx: 0, n_written: 0 })
    }

    /// Appends bytes of the next tensor that is not whole; none of the one after it.
    ///
    /// # Errors
    /// What `out` says.
    ///
    /// # Panics
    /// When there are more bytes than the tensor has left, or no tensor is left.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let size_bytes = self.sizes[self.tensor_idx];
        self.n_written += bytes.len();
        assert!(self.n_written <= size_bytes, "a tensor gets its own bytes: this is a bug");
        self.out.write_all(bytes)?;
        if self.n_written == size_bytes {
            let padding = size_bytes.next_multiple_of(DEFAULT_ALIGNMENT) - size_bytes;
            self.out.write_all(&[0; DEFAULT_ALIGNMENT][..padding])?;
            self.tensor_idx += 1;
            self.n_written = 0;
        }
        Ok(())
    }

    /// Flushes, and gives `out` back.
    ///
    /// # Errors
    /// What `out` says.
    ///
    /// # Panics
    /// When a tensor is not whole.
    pub fn finish(mut self) -> io::Result<W> {
        assert_eq!(self.tensor_idx, self.sizes.len(), "every tensor is whole: this is a bug");
        self.out.flush()?;
        Ok(self.out)
    }
}
