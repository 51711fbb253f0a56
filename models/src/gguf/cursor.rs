//! Reads little-endian numbers and strings off the front of a byte slice, never past its end.
//!
//! It must never allocate before it knows that the bytes are there.
//!
//! Start reading at [`Cursor::take`].

use crate::ModelError;

/// A position in untrusted bytes.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// Stands at the first byte.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Cursor { bytes, at: 0 }
    }

    /// Bytes already read.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// Bytes not yet read.
    pub(super) fn remaining(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    /// The next `len` bytes; `what` names them in the error.
    ///
    /// # Errors
    /// `Truncated` when there are fewer.
    pub(super) fn take(&mut self, len: u64, what: &str) -> Result<&'a [u8], ModelError> {
        if len > self.remaining() {
            return Err(ModelError::Truncated {
                what: what.to_owned(),
                end: (self.at as u64).saturating_add(len),
                size_bytes: self.bytes.len() as u64,
            });
        }
        let begin = self.at;
        // `len` is at most `remaining`, which came from a usize.
        self.at += len as usize;
        Ok(&self.bytes[begin..self.at])
    }

    /// The next `N` bytes as an array.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], ModelError> {
        let bytes = self.take(N as u64, what)?;
        Ok(bytes.try_into().expect("take gives as many bytes as asked for: this is a bug"))
    }

    /// The next number.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub(super) fn u32(&mut self, what: &str) -> Result<u32, ModelError> {
        self.array(what).map(u32::from_le_bytes)
    }

    /// The next number.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub(super) fn u64(&mut self, what: &str) -> Result<u64, ModelError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// The next count, whose items take at least `min_item_bytes` each.
    ///
    /// # Errors
    /// `TooLarge` when the rest of the file could not hold as many, or over `limit`.
    pub(super) fn count(
        &mut self,
        min_item_bytes: u64,
        limit: u64,
        what: &str,
    ) -> Result<u64, ModelError> {
        let value = self.u64(what)?;
        let limit = limit.min(self.remaining() / min_item_bytes);
        if value > limit {
            return Err(ModelError::TooLarge { what: what.to_owned(), value, limit });
        }
        Ok(value)
    }

    /// The next string: a length and as many bytes of UTF-8.
    ///
    /// # Errors
    /// `TooLarge` over `limit_bytes` or the rest of the file, `Invalid` when it is not UTF-8.
    pub(super) fn string(&mut self, limit_bytes: u64, what: &str) -> Result<&'a str, ModelError> {
        let len = self.count(1, limit_bytes, what)?;
        let bytes = self.take(len, what)?;
        std::str::from_utf8(bytes)
            .map_err(|_| ModelError::invalid(what, format!("{len} other bytes"), "UTF-8"))
    }
}
