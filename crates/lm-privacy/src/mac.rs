//! Keyed hashes: equal texts have equal ones, and who lacks the key learns nothing from them.
//!
//! It must never show its key.

use std::fmt;

const PREFIX: &str = "mac:";
const N_HEX: usize = 32;

/// A secret of 256 random bits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct MacKey([u8; 32]);

impl MacKey {
    /// The key of these random bits.
    #[must_use]
    pub fn new(bits: [u8; 32]) -> Self {
        MacKey(bits)
    }

    /// The keyed hash of a text of a kind, as `mac:` and 32 hexadecimal digits. The same text as another kind has
    /// another one.
    #[must_use]
    pub fn mac(&self, kind: &'static str, text: &str) -> String {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        // No kind holds a zero, so kind and text cannot run into each other.
        hasher.update(kind.as_bytes()).update(&[0]).update(text.as_bytes());
        format!("{PREFIX}{}", &hasher.finalize().to_hex()[..N_HEX])
    }
}

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MacKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::MacKey;

    #[test]
    fn equal_texts_of_a_kind_are_known_again_with_the_same_key_only() {
        let (key, other) = (MacKey::new([1; 32]), MacKey::new([2; 32]));
        let mac = key.mac("prompt", "hello");
        assert!(mac.starts_with("mac:") && mac.len() == 36, "{mac}");
        assert_eq!(key.mac("prompt", "hello"), mac);
        for different in
            [key.mac("prompt", "hello "), key.mac("answer", "hello"), other.mac("prompt", "hello")]
        {
            assert_ne!(different, mac);
        }
        assert_eq!(format!("{key:?}"), "MacKey(…)");
    }
}
