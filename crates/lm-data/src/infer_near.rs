//! Whether rows that were seen are near-duplicates of each other, before a contract is proposed that refuses such.
//!
//! It must never take rows for far from each other that an ingest would compare and refuse.
//!
//! Start reading at [`NearRows::see`].

use std::collections::HashMap;

use serde_json::Value;

use crate::check::contract::Terms;
use crate::check::minhash::{N_BINS, similarity};
use crate::check::row;

/// So many rows are compared, in about 100 MB; of more nobody knows.
const MAX_ROWS: usize = 200_000;

/// The rows that were seen, as the rule of near-duplicates knows them.
pub(crate) struct NearRows<'a> {
    terms: &'a Terms,
    least: f64,
    signatures: Vec<[u8; N_BINS]>,
    /// By its key the first row of a band and the last, with which the next one is compared.
    bands: HashMap<u64, (usize, usize)>,
    may_be_found: bool,
}

impl<'a> NearRows<'a> {
    pub(crate) fn new(terms: &'a Terms) -> NearRows<'a> {
        let least = terms.near_duplicates.as_ref().map_or(1.0, |near| near.similarity);
        let (signatures, bands) = (Vec::new(), HashMap::new());
        NearRows { terms, least, signatures, bands, may_be_found: false }
    }

    pub(crate) fn see(&mut self, row: &Value) {
        self.may_be_found |= self.signatures.len() >= MAX_ROWS;
        if self.may_be_found {
            return;
        }
        let Some((keys, signature)) = row::keys(row, self.terms).bands else { return };
        let own = self.signatures.len();
        for key in keys {
            let (first, last) = *self.bands.entry(key).or_insert((own, own));
            if last != own {
                let is_near =
                    |other: usize| similarity(&self.signatures[other], &signature) >= self.least;
                self.may_be_found |= is_near(first) || is_near(last);
                self.bands.insert(key, (first, own));
            }
        }
        self.signatures.push(*signature);
    }

    /// Whether some row is refused, or may be.
    pub(crate) fn may_be_found(&self) -> bool {
        self.may_be_found
    }
}
