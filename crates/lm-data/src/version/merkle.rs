//! A Merkle tree over rows in their order, which grows by appending: the same rows have the same root, however they
//! came in batches and segments.
//!
//! It must never know what a row is.
//!
//! Start reading at [`Tree`].

use serde::{Deserialize, Serialize};

/// The roots of the perfect trees that the rows make up, the largest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tree {
    /// Leaves.
    pub n_rows: u64,
    /// In hexadecimal.
    pub peaks: Vec<String>,
}

/// A tree that grows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Growing {
    n_rows: u64,
    peaks: Vec<blake3::Hash>,
}

impl Growing {
    /// Goes on where `tree` ended; `None` when its hashes are damaged, or not as many as its rows make up.
    pub(crate) fn from_tree(tree: &Tree) -> Option<Growing> {
        if tree.peaks.len() != tree.n_rows.count_ones() as usize {
            return None;
        }
        let peaks: Result<_, _> = tree.peaks.iter().map(blake3::Hash::from_hex).collect();
        Some(Growing { n_rows: tree.n_rows, peaks: peaks.ok()? })
    }

    pub(crate) fn push(&mut self, leaf: blake3::Hash) {
        self.peaks.push(leaf);
        self.n_rows += 1;
        // As many pairs close as the count has trailing zeros.
        for _ in 0..self.n_rows.trailing_zeros() {
            let right = self.peaks.pop().expect("a pair has two: this is a bug");
            let left = self.peaks.pop().expect("a pair has two: this is a bug");
            let mut hasher = blake3::Hasher::new();
            hasher.update(&[1]).update(left.as_bytes()).update(right.as_bytes());
            self.peaks.push(hasher.finalize());
        }
    }

    pub(crate) fn tree(&self) -> Tree {
        let peaks = self.peaks.iter().map(|peak| peak.to_hex().to_string()).collect();
        Tree { n_rows: self.n_rows, peaks }
    }

    pub(crate) fn root(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[2]).update(&self.n_rows.to_le_bytes());
        for peak in &self.peaks {
            hasher.update(peak.as_bytes());
        }
        hasher.finalize()
    }
}

/// The hash of a row.
pub(crate) fn leaf(row: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[0]).update(row);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn a_root_says_which_rows_in_which_order_and_not_in_which_batches() {
        let roots = |batches: &[&[&str]]| {
            let mut growing = Growing::default();
            for batch in batches {
                growing = Growing::from_tree(&growing.tree()).unwrap();
                batch.iter().for_each(|row| growing.push(leaf(row.as_bytes())));
            }
            growing.root()
        };
        let whole = roots(&[&["a", "b", "c", "d", "e"]]);
        assert_eq!(whole, roots(&[&["a"], &["b", "c"], &[], &["d", "e"]]));
        assert_ne!(whole, roots(&[&["b", "a", "c", "d", "e"]]));
        assert_ne!(whole, roots(&[&["a", "b", "c", "d"]]));
        assert_ne!(roots(&[]), roots(&[&[""]]));
    }

    #[test]
    fn a_tree_whose_peaks_are_not_those_of_its_rows_is_damaged() {
        let peaks = |n| vec![leaf(b"a").to_hex().to_string(); n];
        for n_rows in [0, 1, 2, 3, 7, u64::MAX] {
            let n_peaks = n_rows.count_ones() as usize;
            let grows = |n| Growing::from_tree(&Tree { n_rows, peaks: peaks(n) }).is_some();
            assert!(grows(n_peaks) && !grows(n_peaks + 1), "{n_rows}");
            assert!(n_peaks == 0 || !grows(n_peaks - 1), "{n_rows}");
        }
        assert!(Growing::from_tree(&Tree { n_rows: 1, peaks: vec!["x".repeat(64)] }).is_none());
    }
}
