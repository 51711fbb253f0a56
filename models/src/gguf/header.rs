//! The header of one GGUF file: metadata, and where each tensor's bytes lie.
//!
//! It must never read a tensor's bytes.
//!
//! Start reading at [`Header::parse`].

use std::collections::HashMap;
use std::ops::Range;

use super::cursor::Cursor;
use super::metadata::Metadata;
use crate::{ModelError, TensorType};

const MAGIC: &[u8; 4] = b"GGUF";
const ALIGNMENT_KEY: &str = "general.alignment";
pub(super) const DEFAULT_ALIGNMENT: usize = 32;
const MAX_ALIGNMENT: u64 = 1 << 16;
const MAX_VALUES: u64 = 1 << 16;
const MAX_TENSORS: u64 = 1 << 16;
const MAX_DIMS: u32 = 4;
const NAME_LIMIT_BYTES: u64 = 1_024;
/// Length, type number and at least one byte of value.
const MIN_VALUE_BYTES: u64 = 8 + 4 + 1;
/// Name's length, number of dims, type number and offset.
const MIN_TENSOR_BYTES: u64 = 8 + 4 + 4 + 8;

/// What a GGUF file says before its tensor bytes begin.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// All keys and values.
    pub metadata: Metadata,
    /// Tensors in the file's order; names differ, byte ranges are inside the file and disjoint.
    pub tensors: Vec<TensorInfo>,
}

/// Where one tensor lies and what it holds.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// `[out, in]`, row-major: the file's dims reversed.
    pub shape: Vec<usize>,
    /// How the numbers are stored.
    pub dtype: TensorType,
    /// Its bytes, counted from the file's begin.
    pub bytes: Range<usize>,
}

impl Header {
    /// Reads the header of a whole file's bytes. Nothing is allocated that the file could not hold.
    ///
    /// # Errors
    /// What is wrong, with the field's name, its value and its limit.
    pub fn parse(bytes: &[u8]) -> Result<Header, ModelError> {
        let mut cursor = Cursor::new(bytes);
        let magic = cursor.array::<4>("the magic")?;
        if &magic != MAGIC {
            let found = format!("{:?}", magic.escape_ascii().to_string());
            return Err(ModelError::invalid("the magic", found, "\"GGUF\""));
        }
        let version = cursor.u32("the version")?;
        if version.swap_bytes() <= 3 && version != 0 {
            return Err(ModelError::unsupported("the byte order", "big-endian", "little-endian"));
        }
        if !(2..=3).contains(&version) {
            return Err(ModelError::unsupported("GGUF version", version, "2 and 3"));
        }
        let n_tensors = cursor.count(MIN_TENSOR_BYTES, MAX_TENSORS, "the number of tensors")?;
        let n_values =
            cursor.count(MIN_VALUE_BYTES, MAX_VALUES, "the number of metadata values")?;
        let metadata = Metadata::read(&mut cursor, n_values)?;
        let alignment = read_alignment(&metadata)?;
        let mut stored = Vec::new();
        for _ in 0..n_tensors {
            stored.push(Stored::read(&mut cursor)?);
        }
        let data_begin = cursor.position().next_multiple_of(alignment);
        let mut tensors = Vec::with_capacity(stored.len());
        for tensor in stored {
            tensors.push(tensor.place(data_begin, alignment, bytes.len())?);
        }
        check_distinct(&tensors)?;
        Ok(Header { version, metadata, tensors })
    }
}

fn read_alignment(metadata: &Metadata) -> Result<usize, ModelError> {
    let alignment = metadata.u64(ALIGNMENT_KEY)?.unwrap_or(DEFAULT_ALIGNMENT as u64);
    if !alignment.is_power_of_two() || !(8..=MAX_ALIGNMENT).contains(&alignment) {
        let wanted = format!("a power of two between 8 and {MAX_ALIGNMENT}");
        return Err(ModelError::invalid(ALIGNMENT_KEY, alignment, wanted));
    }
    Ok(alignment as usize)
}

/// A tensor's row of the header, before the place of the data is known.
struct Stored {
    name: String,
    shape: Vec<usize>,
    dtype: TensorType,
    offset: u64,
}

impl Stored {
    fn read(cursor: &mut Cursor<'_>) -> Result<Stored, ModelError> {
        let name = cursor.string(NAME_LIMIT_BYTES, "a tensor's name")?.to_owned();
        let what = |field: &str| format!("tensor {name}: {field}");
        let n_dims = cursor.u32(&what("the number of dims"))?;
        if !(1..=MAX_DIMS).contains(&n_dims) {
            let wanted = format!("between 1 and {MAX_DIMS}");
            return Err(ModelError::invalid(what("the number of dims"), n_dims, wanted));
        }
        let mut shape = Vec::with_capacity(n_dims as usize);
        for _ in 0..n_dims {
            let dim = cursor.u64(&what("a dim"))?;
            let fits = usize::try_from(dim).ok().filter(|&dim| dim > 0);
            shape.push(fits.ok_or_else(|| ModelError::invalid(what("a dim"), dim, "at least 1"))?);
        }
        shape.reverse();
        let number = cursor.u32(&what("the type"))?;
        let dtype = TensorType::from_ggml(number).ok_or_else(|| {
            ModelError::unsupported(
                what("the type number"),
                number,
                "ggml's, F32 = 0 to MXFP4 = 39",
            )
        })?;
        let offset = cursor.u64(&what("the offset"))?;
        Ok(Stored { name, shape, dtype, offset })
    }

    fn place(
        self,
        data_begin: usize,
        alignment: usize,
        file_bytes: usize,
    ) -> Result<TensorInfo, ModelError> {
        let Stored { name, shape, dtype, offset } = self;
        let row_len = shape[shape.len() - 1];
        if !row_len.is_multiple_of(dtype.block_len()) {
            let wanted = format!("a multiple of {}, the block of {dtype}", dtype.block_len());
            let what = format!("tensor {name}: the row length");
            return Err(ModelError::invalid(what, row_len, wanted));
        }
        if !offset.is_multiple_of(alignment as u64) {
            let wanted = format!("a multiple of {alignment}");
            return Err(ModelError::invalid(format!("tensor {name}: the offset"), offset, wanted));
        }
        let n_elements = shape.iter().try_fold(1_usize, |product, &dim| product.checked_mul(dim));
        let size_bytes = n_elements.and_then(|n_elements| dtype.size_bytes(n_elements));
        let begin = usize::try_from(offset).ok().and_then(|at| data_begin.checked_add(at));
        let end = begin.zip(size_bytes).and_then(|(begin, size)| begin.checked_add(size));
        match begin.zip(end) {
            Some((begin, end)) if end <= file_bytes => {
                Ok(TensorInfo { name, shape, dtype, bytes: begin..end })
            }
            _ => Err(ModelError::Truncated {
                what: format!("tensor {name}"),
                end: end.map_or(u64::MAX, |end| end as u64),
                size_bytes: file_bytes as u64,
            }),
        }
    }
}

fn check_distinct(tensors: &[TensorInfo]) -> Result<(), ModelError> {
    let mut seen = HashMap::with_capacity(tensors.len());
    for tensor in tensors {
        if seen.insert(tensor.name.as_str(), ()).is_some() {
            return Err(ModelError::Duplicate { what: "tensor", name: tensor.name.clone() });
        }
    }
    let mut by_begin: Vec<&TensorInfo> = tensors.iter().collect();
    by_begin.sort_by_key(|tensor| tensor.bytes.start);
    for pair in by_begin.windows(2) {
        if pair[1].bytes.start < pair[0].bytes.end {
            return Err(ModelError::TensorOverlap {
                first: pair[0].name.clone(),
                second: pair[1].name.clone(),
                begin: pair[1].bytes.start as u64,
                end: pair[0].bytes.end as u64,
            });
        }
    }
    Ok(())
}
