//! The tokens that may still be drawn, and the filters that narrow them.

use lm_types::TokenId;

/// The tokens that may still be drawn, with their logits.
#[derive(Clone, Debug, Default)]
pub(crate) struct Candidates {
    /// In order of token id until a filter sorts them, most likely first.
    entries: Vec<(f32, TokenId)>,
    /// Tokens of the history, sorted. Reused.
    seen: Vec<TokenId>,
}

impl Candidates {
    pub(crate) fn with_capacity(vocab_size: usize, max_model_len: usize) -> Self {
        Candidates {
            entries: Vec::with_capacity(vocab_size),
            seen: Vec::with_capacity(max_model_len),
        }
    }

    pub(crate) fn fill(&mut self, logits: &[f32]) {
        self.entries.clear();
        let indexed = logits.iter().enumerate();
        self.entries.extend(indexed.map(|(token, &logit)| (logit, token as TokenId)));
    }

    /// Takes tokens out of the draw. Call it before any filter.
    pub(crate) fn ban(&mut self, tokens: &[TokenId]) {
        for &token in tokens {
            if let Some(entry) = self.entries.get_mut(token as usize) {
                entry.0 = f32::NEG_INFINITY;
            }
        }
    }

    /// Calls `change(logit, count)` for each different token of `history`. Call it before any filter.
    pub(crate) fn penalise(
        &mut self,
        history: impl Iterator<Item = TokenId>,
        change: impl Fn(f32, f32) -> f32,
    ) {
        self.seen.clear();
        self.seen.extend(history);
        self.seen.sort_unstable();
        for run in self.seen.chunk_by(|a, b| a == b) {
            if let Some(entry) = self.entries.get_mut(run[0] as usize) {
                entry.0 = change(entry.0, run.len() as f32);
            }
        }
    }

    /// The most likely token; the lowest id among equals.
    pub(crate) fn argmax(&self) -> (f32, TokenId) {
        let first = (f32::NEG_INFINITY, 0);
        self.entries.iter().fold(first, |best, &entry| if entry.0 > best.0 { entry } else { best })
    }

    pub(crate) fn scale(&mut self, factor: f32) {
        self.entries.iter_mut().for_each(|entry| entry.0 *= factor);
    }

    /// Keeps the `k` most likely.
    pub(crate) fn top_k(&mut self, k: usize) {
        self.sort_first(k.min(self.entries.len()));
        self.entries.truncate(k);
    }

    /// Keeps the fewest tokens, most likely first, whose probabilities sum to at least `p`.
    pub(crate) fn top_p(&mut self, p: f64) {
        let max = f64::from(self.argmax().0);
        let weight = |entry: &(f32, TokenId)| (f64::from(entry.0) - max).exp();
        let wanted = p * self.entries.iter().map(weight).sum::<f64>();
        // Only the nucleus must be sorted, and it is small most of the time.
        let mut n_sorted = 64.min(self.entries.len());
        loop {
            self.sort_first(n_sorted);
            let mut sum = 0.0;
            let enough = self.entries[..n_sorted].iter().position(|entry| {
                sum += weight(entry);
                sum >= wanted
            });
            if let Some(last) = enough {
                self.entries.truncate(last + 1);
                return;
            }
            if n_sorted == self.entries.len() {
                return;
            }
            n_sorted = (n_sorted * 8).min(self.entries.len());
        }
    }

    /// Keeps tokens at least `p` times as likely as the most likely one.
    pub(crate) fn min_p(&mut self, p: f32) {
        let threshold = self.argmax().0 + p.ln();
        self.entries.retain(|entry| entry.0 >= threshold);
    }

    /// The token at `u` of the way through the cumulated probabilities.
    pub(crate) fn draw(&self, u: f64) -> TokenId {
        let (max, best) = self.argmax();
        let weight = |entry: &(f32, TokenId)| (f64::from(entry.0) - f64::from(max)).exp();
        let mut left = u * self.entries.iter().map(weight).sum::<f64>();
        for entry in &self.entries {
            left -= weight(entry);
            if left < 0.0 {
                return entry.1;
            }
        }
        best
    }

    /// The `n` most likely entries, most likely first.
    pub(crate) fn most_likely(&mut self, n: usize) -> &[(f32, TokenId)] {
        let n = n.min(self.entries.len());
        self.sort_first(n);
        &self.entries[..n]
    }

    /// Sorts so that the first `n` entries are the `n` most likely ones, in order. Equal logits stand
    /// in order of token id, so that no draw depends on the sorting.
    fn sort_first(&mut self, n: usize) {
        let order =
            |a: &(f32, TokenId), b: &(f32, TokenId)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        if n > 0 && n < self.entries.len() {
            self.entries.select_nth_unstable_by(n - 1, order);
        }
        self.entries[..n].sort_unstable_by(order);
    }
}
