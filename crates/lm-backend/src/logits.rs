//! The rows of logits that a step leaves behind.

/// Row-major logits, `[n_sample_rows, vocab_size]` f32, or only the greatest of each row, when that is all
/// that any of them wanted. Reused from step to step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogitsBuf {
    data: Vec<f32>,
    vocab_size: usize,
    /// Empty when `data` holds the rows.
    greatest: Vec<Greatest>,
}

/// The greatest logit of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Greatest {
    /// The first token that has it.
    pub token: u32,
    /// Its logit; NaN when any logit of the row is.
    pub logit: f32,
}

impl Greatest {
    /// That of no logits.
    pub const NONE: Greatest = Greatest { token: 0, logit: f32::NEG_INFINITY };

    /// Takes the greatest of later tokens into account.
    pub fn raise(&mut self, later: Greatest) {
        if later.logit > self.logit || later.logit.is_nan() {
            *self = later;
        }
    }
}

impl LogitsBuf {
    /// A buffer with room for `n_rows` rows.
    #[must_use]
    pub fn with_capacity(n_rows: usize, vocab_size: usize) -> Self {
        LogitsBuf {
            data: Vec::with_capacity(n_rows * vocab_size),
            vocab_size,
            greatest: Vec::with_capacity(n_rows),
        }
    }

    /// Makes room for `n_rows` rows of `vocab_size` entries. What they hold is undefined.
    pub fn reset(&mut self, n_rows: usize, vocab_size: usize) {
        self.vocab_size = vocab_size;
        self.data.resize(n_rows * vocab_size, 0.0);
        self.greatest.clear();
    }

    /// Makes room for the greatest logit of `n_rows` rows, and nothing else.
    pub fn reset_greatest(&mut self, n_rows: usize, vocab_size: usize) -> &mut [Greatest] {
        self.reset(0, vocab_size);
        self.greatest.resize(n_rows, Greatest::NONE);
        &mut self.greatest
    }

    /// The greatest logit of row `row`, when the backend left only that.
    #[must_use]
    pub fn greatest(&self, row: usize) -> Option<Greatest> {
        self.greatest.get(row).copied()
    }

    /// Rows in the buffer.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        let n_whole = self.data.len().checked_div(self.vocab_size).unwrap_or(0);
        n_whole.max(self.greatest.len())
    }

    /// Row `row`. `[vocab_size]`
    ///
    /// # Panics
    /// When there is no such row, or only its greatest logit is there.
    #[must_use]
    pub fn row(&self, row: usize) -> &[f32] {
        &self.data[row * self.vocab_size..(row + 1) * self.vocab_size]
    }

    /// All rows, to be filled in place. `[n_rows * vocab_size]`
    pub fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// Row `row`, to be filled or changed in place. `[vocab_size]`
    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.data[row * self.vocab_size..(row + 1) * self.vocab_size]
    }
}
