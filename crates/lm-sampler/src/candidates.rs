//! The tokens that may still be drawn, and the filters that narrow them.

use lm_types::TokenId;

use crate::row::{Best, Blocks};

/// The first guess of how many tokens a nucleus has.
const NUCLEUS: usize = 64;

/// The tokens that may still be drawn, with their logits, most likely first; the lower id among equals, so that
/// no draw depends on the sorting.
#[derive(Clone, Debug, Default)]
pub(crate) struct Candidates {
    entries: Vec<(f32, TokenId)>,
}

impl Candidates {
    pub(crate) fn with_capacity(vocab_size: usize) -> Self {
        Candidates { entries: Vec::with_capacity(vocab_size) }
    }

    /// The `k` most likely of a row.
    pub(crate) fn fill_top_k(&mut self, logits: &[f32], blocks: &mut Blocks, k: usize) {
        let threshold = blocks.reached_by(k);
        self.gather(logits, blocks, threshold);
        self.sort_first(k.min(self.entries.len()));
        self.entries.truncate(k);
    }

    /// The fewest of a row whose probabilities sum to at least `p`, after `factor` was applied.
    pub(crate) fn fill_nucleus(
        &mut self,
        logits: &[f32],
        blocks: &mut Blocks,
        best: Best,
        factor: f32,
        p: f64,
    ) {
        let wanted = p * blocks.weigh(logits, best.logit, factor);
        // Only the nucleus must be sorted, and it is small most of the time.
        let mut n = NUCLEUS;
        loop {
            let threshold = blocks.reached_by(n);
            self.gather(logits, blocks, threshold);
            let n_sorted = n.min(self.entries.len());
            self.sort_first(n_sorted);
            let weight = |entry: &(f32, TokenId)| weight(entry.0 * factor, best.logit * factor);
            if let Some(n) = reaching(&self.entries[..n_sorted], weight, wanted) {
                return self.entries.truncate(n);
            }
            if n >= logits.len() {
                return;
            }
            n *= 8;
        }
    }

    /// Those of a row with at least a logit of `threshold`.
    pub(crate) fn fill_from(&mut self, logits: &[f32], blocks: &Blocks, threshold: f32) {
        self.gather(logits, blocks, threshold);
        self.sort_first(self.entries.len());
    }

    /// Multiplies all logits with a positive factor.
    pub(crate) fn scale(&mut self, factor: f32) {
        self.entries.iter_mut().for_each(|entry| entry.0 *= factor);
    }

    /// Keeps the fewest tokens, most likely first, whose probabilities sum to at least `p`.
    pub(crate) fn top_p(&mut self, p: f64) {
        let wanted = p * self.entries.iter().map(self.weight()).sum::<f64>();
        if let Some(n) = reaching(&self.entries, self.weight(), wanted) {
            self.entries.truncate(n);
        }
    }

    /// Keeps the fewest tokens, those first whose surprise is nearest to the expected one, whose probabilities sum to
    /// at least `p`.
    pub(crate) fn typical_p(&mut self, p: f64) {
        let weight = self.weight();
        let total: f64 = self.entries.iter().map(&weight).sum();
        let surprise =
            |entry: &(f32, TokenId)| -(weight(entry) / total).max(f64::MIN_POSITIVE).ln();
        let expected: f64 =
            self.entries.iter().map(|entry| weight(entry) / total * surprise(entry)).sum();
        let distance = |entry: &(f32, TokenId)| (surprise(entry) - expected).abs();
        self.entries.sort_by(|a, b| distance(a).total_cmp(&distance(b)).then(a.1.cmp(&b.1)));
        if let Some(n) = reaching(&self.entries, &weight, p * total) {
            self.entries.truncate(n);
        }
        self.sort_first(self.entries.len());
    }

    /// Keeps tokens at least `p` times as likely as the most likely one.
    pub(crate) fn min_p(&mut self, p: f32) {
        let threshold = self.max() + p.ln();
        self.entries.retain(|entry| entry.0 >= threshold);
    }

    /// The token at `u` of the way through the cumulated probabilities.
    pub(crate) fn draw(&self, u: f64) -> Option<TokenId> {
        let weight = self.weight();
        let wanted = u * self.entries.iter().map(&weight).sum::<f64>();
        let mut sum = 0.0;
        let drawn = self.entries.iter().find(|entry| {
            sum += weight(entry);
            sum > wanted
        });
        drawn.or(self.entries.first()).map(|entry| entry.1)
    }

    /// What is left, most likely first.
    pub(crate) fn entries(&self) -> &[(f32, TokenId)] {
        &self.entries
    }

    fn max(&self) -> f32 {
        self.entries.first().map_or(f32::NEG_INFINITY, |entry| entry.0)
    }

    fn weight(&self) -> impl Fn(&(f32, TokenId)) -> f64 + use<> {
        let max = self.max();
        move |entry| weight(entry.0, max)
    }

    fn gather(&mut self, logits: &[f32], blocks: &Blocks, threshold: f32) {
        self.entries.clear();
        let entries = &mut self.entries;
        blocks.for_each_from(logits, threshold, |logit, token| entries.push((logit, token)));
    }

    /// Sorts so that the first `n` entries are the `n` most likely ones, in order.
    fn sort_first(&mut self, n: usize) {
        let order =
            |a: &(f32, TokenId), b: &(f32, TokenId)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        if n > 0 && n < self.entries.len() {
            self.entries.select_nth_unstable_by(n - 1, order);
        }
        self.entries[..n].sort_unstable_by(order);
    }
}

/// How likely a token is, beside one of logit `max`.
fn weight(logit: f32, max: f32) -> f64 {
    (f64::from(logit) - f64::from(max)).exp()
}

/// How many entries it takes until their weights sum to `wanted`.
fn reaching(
    entries: &[(f32, TokenId)],
    weight: impl Fn(&(f32, TokenId)) -> f64,
    wanted: f64,
) -> Option<usize> {
    let mut sum = 0.0;
    let last = entries.iter().position(|entry| {
        sum += weight(entry);
        sum >= wanted
    });
    last.map(|last| last + 1)
}
