//! The rows of logits that a step leaves behind.

/// Row-major logits, `[n_sample_rows, vocab_size]` f32. Reused from step to step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogitsBuf {
    data: Vec<f32>,
    vocab_size: usize,
}

impl LogitsBuf {
    /// A buffer with room for `n_rows` rows.
    #[must_use]
    pub fn with_capacity(n_rows: usize, vocab_size: usize) -> Self {
        LogitsBuf { data: Vec::with_capacity(n_rows * vocab_size), vocab_size }
    }

    /// Makes room for `n_rows` rows of `vocab_size` entries. What they hold is undefined.
    pub fn reset(&mut self, n_rows: usize, vocab_size: usize) {
        self.vocab_size = vocab_size;
        self.data.resize(n_rows * vocab_size, 0.0);
    }

    /// Rows in the buffer.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.data.len().checked_div(self.vocab_size).unwrap_or(0)
    }

    /// Row `row`. `[vocab_size]`
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
