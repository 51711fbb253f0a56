//! The output head: a row of logits for each row that samples, or, when all that is asked for is which logit
//! is the greatest, only that: then no logit leaves the cache.

use lm_backend::{Batch, Greatest, LogitsBuf, Want};
use lm_kernels::{Columns, Pool, Put, argmax_panel, soft_cap};

use crate::executor::RowNorms;
use crate::matrix::{RowActs, Stacked};
use crate::scratch::Scratch;

/// Logits of one row that are looked through at once.
const COLUMNS: usize = 128;
/// Rows that are worked on together.
const ROWS: usize = 32;

/// The last norm and the head.
#[derive(Clone, Copy)]
pub(crate) struct Head<'a> {
    pub(crate) matrices: &'a Stacked,
    pub(crate) norms: RowNorms<'a>,
}

impl Head<'_> {
    /// Leaves in `logits` what the rows of `batch` that sample want to know.
    pub(crate) fn logits(
        &self,
        pool: &mut Pool,
        batch: &Batch,
        scratch: &mut Scratch,
        logits: &mut LogitsBuf,
    ) {
        let (rows, vocab_size) = (&batch.sample_rows, self.norms.spec.vocab_size);
        if rows.is_empty() {
            return logits.reset(0, vocab_size);
        }
        let Scratch { x, added, acts, greatest, sampled, .. } = scratch;
        self.norms.add(pool, x, added);
        let (isa, n, x) = (self.norms.isa, self.norms.spec.hidden_size, &*x);
        acts.fill(pool, isa, (rows.len(), n), self.matrices.is_quantised(), |row, out| {
            self.norms.norm(&x[sampled[row] as usize * n..][..n], out);
        });
        if rows.iter().all(|row| row.want == Want::Argmax) {
            self.greatest(pool, acts, greatest, logits.reset_greatest(rows.len(), vocab_size));
        } else {
            logits.reset(rows.len(), vocab_size);
            self.all(pool, acts, logits.data_mut());
        }
    }

    /// All logits, `[n_rows, vocab_size]`.
    fn all(&self, pool: &mut Pool, acts: &RowActs, out: &mut [f32]) {
        let (isa, cap) = (self.norms.isa, self.norms.spec.logit_softcap);
        let out = Columns::new(out, self.norms.spec.vocab_size);
        pool.for_column_pieces(out, self.matrices.bounds(), |item, mut out| {
            let (n_rows, width) = (out.n_rows(), out.width());
            let part = out.part(0..n_rows, 0..width);
            self.matrices.multiply_item(isa, item, acts, 0..n_rows, Put::Store, part);
            if let Some(cap) = cap {
                (0..n_rows).for_each(|row| soft_cap(isa, out.row(row), cap));
            }
        });
    }

    /// The greatest logit of each row: `of_items` is room for those of each work item.
    fn greatest(
        &self,
        pool: &mut Pool,
        acts: &RowActs,
        of_items: &mut Vec<Greatest>,
        out: &mut [Greatest],
    ) {
        let bounds = self.matrices.bounds();
        let (n_rows, n_items) = (out.len(), bounds.len() - 1);
        of_items.resize(n_items * n_rows, Greatest::NONE);
        pool.for_chunks(of_items, n_rows, |item, out| {
            out.fill(Greatest::NONE);
            match n_rows {
                1 => self.greatest_of::<1>(acts, item, out),
                _ => self.greatest_of::<ROWS>(acts, item, out),
            }
        });
        for (row, out) in out.iter_mut().enumerate() {
            *out = Greatest::NONE;
            of_items.iter().skip(row).step_by(n_rows).for_each(|other| out.raise(*other));
        }
    }

    /// The greatest logits of one work item, of each row, `N` rows at a time.
    fn greatest_of<const N: usize>(&self, acts: &RowActs, item: usize, out: &mut [Greatest]) {
        let (isa, bounds, n_rows) = (self.norms.isa, self.matrices.bounds(), out.len());
        let mut logits = [[0.0; COLUMNS]; N];
        for first in (bounds[item]..bounds[item + 1]).step_by(COLUMNS) {
            let width = COLUMNS.min(bounds[item + 1] - first);
            for row in (0..n_rows).step_by(N) {
                let rows = row..n_rows.min(row + N);
                let mut part = Columns::new(logits.as_flattened_mut(), COLUMNS);
                let part = part.part(0..rows.len(), 0..width);
                self.matrices.multiply_columns(isa, item, first, acts, rows.clone(), part);
                for (logits, out) in logits.iter_mut().zip(&mut out[rows]) {
                    let logits = &mut logits[..width];
                    if let Some(cap) = self.norms.spec.logit_softcap {
                        soft_cap(isa, logits, cap);
                    }
                    let best = argmax_panel(isa, logits);
                    out.raise(Greatest { token: (first + best.idx) as u32, logit: best.value });
                }
            }
        }
    }
}
