//! Whether as many came to an arm as were sent there.
//!
//! It must never be told of what came of them.
//!
//! Start reading at [`SampleRatio::log_evidence`].

use serde::{Deserialize, Serialize};

use crate::proportion::log_limit;
use crate::{Counts, Proportion};

/// Units by arm, for each share that was agreed on. Source of the test: Lindon and Malek 2022.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SampleRatio {
    /// Share of the candidate, units, and those of the candidate.
    strata: Vec<(f64, u64, u64)>,
}

/// How many trials the prior weighs.
const PRIOR_WEIGHT: f64 = 40.0;

impl SampleRatio {
    /// One more unit, which was to be the candidate's with probability `share`.
    pub fn add(&mut self, share: f64, is_candidate: bool) {
        let hit = u64::from(is_candidate);
        match self.strata.iter_mut().find(|stratum| stratum.0 == share) {
            Some((_, n, hits)) => (*n, *hits) = (*n + 1, *hits + hit),
            None => self.strata.push((share, 1, hit)),
        }
    }

    /// Units of the primary and of the candidate.
    #[must_use]
    pub fn n(&self) -> (u64, u64) {
        let (n, hits) = self.strata.iter().fold((0, 0), |sum, one| (sum.0 + one.1, sum.1 + one.2));
        (n - hits, hits)
    }

    /// How many of the candidate's were to be expected.
    #[must_use]
    pub fn expected(&self) -> f64 {
        self.strata.iter().map(|(share, n, _)| share * *n as f64).sum()
    }

    /// The logarithm of the evidence that units were lost on one side: of a martingale when none were.
    #[must_use]
    pub fn log_evidence(&self) -> f64 {
        let one = |&(share, n, hits): &(f64, u64, u64)| {
            Proportion::around(share, PRIOR_WEIGHT).log_evidence(Counts { n, hits }, share)
        };
        self.strata.iter().map(one).sum()
    }

    /// Whether that is enough. At most `alpha` of sound experiments ever say so.
    ///
    /// # Panics
    /// When `alpha` is not strictly between 0 and 1.
    #[must_use]
    pub fn is_off(&self, alpha: f64) -> bool {
        self.log_evidence() >= log_limit(alpha)
    }
}
