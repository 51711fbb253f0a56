//! Names of block contents: equal names mean equal tokens from the sequence's start.

use lm_types::TokenId;

/// The digest of a full block's tokens and of everything before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockHash([u8; 32]);

impl BlockHash {
    /// What the first block of a sequence is chained to. Sequences of different salts never share.
    #[must_use]
    pub fn root(salt: u64) -> Self {
        BlockHash(*blake3::hash(&salt.to_le_bytes()).as_bytes())
    }

    /// The name of the block that holds `tokens` and follows the block named `self`.
    #[must_use]
    pub fn child(self, tokens: &[TokenId]) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        for token in tokens {
            hasher.update(&token.to_le_bytes());
        }
        BlockHash(*hasher.finalize().as_bytes())
    }

    /// The digest, for whoever keeps blocks outside of the pool.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A name that was kept outside of the pool.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        BlockHash(bytes)
    }

    /// Its place in a table of `len` entries.
    pub(crate) fn place(&self, len: usize) -> usize {
        let (head, _) = self.0.split_first_chunk().expect("a digest has 32 bytes: this is a bug");
        (u64::from_le_bytes(*head) % len as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_depends_on_salt_order_and_everything_before() {
        let root = BlockHash::root(0);
        assert_eq!(root.child(&[1, 2]).child(&[3, 4]), root.child(&[1, 2]).child(&[3, 4]));
        assert_ne!(root.child(&[1, 2]), root.child(&[2, 1]));
        assert_ne!(root.child(&[1, 2]).child(&[3, 4]), root.child(&[2, 1]).child(&[3, 4]));
        assert_ne!(root.child(&[1, 2]), BlockHash::root(1).child(&[1, 2]));
    }
}
