//! What produced an answer, as a list of facts and as one digest.

use lm_types::ReleaseHash;

/// Everything that an answer depends on besides the request: name and value, in a fixed order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseFacts {
    /// Name and value.
    pub facts: Vec<(&'static str, String)>,
}

impl ReleaseFacts {
    /// The same facts, but for one of them.
    pub(crate) fn with(&self, name: &str, value: String) -> Self {
        let mut facts = self.facts.clone();
        let fact = facts.iter_mut().find(|(known, _)| *known == name);
        fact.expect("a fact of every release: this is a bug").1 = value;
        ReleaseFacts { facts }
    }

    /// The digest of all facts.
    #[must_use]
    pub fn hash(&self) -> ReleaseHash {
        let mut hasher = blake3::Hasher::new();
        for (name, value) in &self.facts {
            // Lengths keep neighbouring texts apart.
            for text in [name.as_bytes(), value.as_bytes()] {
                hasher.update(&(text.len() as u64).to_le_bytes()).update(text);
            }
        }
        let mut hash = [0; 16];
        hash.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        ReleaseHash(hash)
    }
}

/// Bytes as hexadecimal text.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fact_counts_and_texts_do_not_run_together() {
        let hash = |facts: &[(&'static str, &str)]| {
            let facts = facts.iter().map(|&(name, value)| (name, value.to_owned())).collect();
            ReleaseFacts { facts }.hash()
        };
        assert_eq!(hash(&[("a", "b")]), hash(&[("a", "b")]));
        assert_ne!(hash(&[("a", "b")]), hash(&[("a", "c")]));
        assert_ne!(hash(&[("a", "bc")]), hash(&[("ab", "c")]));
    }
}
