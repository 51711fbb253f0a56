//! Identifiers as newtypes, so that one kind of id never stands where another belongs.

use std::fmt;
use std::str::FromStr;

/// An entry of a model's vocabulary.
pub type TokenId = u32;

/// One request as its client knows it. Written as a UUID; version 7 when the server mints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u128);

/// One sequence inside one engine: a request has `n` of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeqId(pub u64);

/// One block of the paged KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockIdx(pub u32);

/// On whose behalf a request is served: the unit of fairness, and prefixes are shared within one only.
/// Decided by the server from the caller's key, never by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(pub u64);

/// What produced an answer: engine build, kernel path, weights, tokenizer, template, sampler, in one digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReleaseHash(pub [u8; 16]);

impl TenantId {
    /// Who came without a key.
    pub const ANONYMOUS: TenantId = TenantId(0);
}

impl BlockIdx {
    /// Where the block's data starts in the pool, in blocks.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A text that is not an id of the wanted kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not {wanted}")]
pub struct ParseIdError {
    /// The text that was given.
    pub value: String,
    /// What it should have been.
    pub wanted: &'static str,
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v = self.0;
        write!(
            f,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            v >> 96,
            (v >> 80) & 0xffff,
            (v >> 64) & 0xffff,
            (v >> 48) & 0xffff,
            v & 0xffff_ffff_ffff
        )
    }
}

impl FromStr for RequestId {
    type Err = ParseIdError;

    /// Reads a UUID, with or without hyphens.
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let error = || ParseIdError { value: text.chars().take(80).collect(), wanted: "a UUID" };
        let is_hyphen_place = |i| text.len() == 36 && matches!(i, 8 | 13 | 18 | 23);
        if text.len() != 32 && text.len() != 36 {
            return Err(error());
        }
        let mut value: u128 = 0;
        for (i, c) in text.char_indices() {
            if is_hyphen_place(i) {
                if c != '-' {
                    return Err(error());
                }
                continue;
            }
            let digit = c.to_digit(16).ok_or_else(error)?;
            value = value << 4 | u128::from(digit);
        }
        Ok(RequestId(value))
    }
}

impl fmt::Display for ReleaseHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for SeqId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seq {}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_id_reads_what_it_writes() {
        let id = RequestId(0x0190_a1b2_c3d4_7e5f_8a9b_0c1d_2e3f_4a5b);
        assert_eq!(id.to_string(), "0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("0190a1b2c3d47e5f8a9b0c1d2e3f4a5b".parse(), Ok(id));
    }

    #[test]
    fn request_id_refuses_other_text() {
        for text in [
            "",
            "abc",
            "0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5",
            "é190a1b2c3d47e5f8a9b0c1d2e3f4a5b",
            "--------------------------------",
            "0190a1b2c3d47e5f8a9b0c1d2e3f4a5b4a5b",
        ] {
            assert!(text.parse::<RequestId>().is_err(), "{text:?} was taken for an id");
        }
    }
}
