//! Some columns of a row-major matrix, which one thread may write while others write theirs.
//! Must never know what the numbers mean.
//! Start at [`Columns`].

use std::marker::PhantomData;
use std::ops::Range;

/// Adjacent columns of a row-major matrix, borrowed alone.
#[derive(Debug)]
pub struct Columns<'a, T> {
    /// The first column of the first row.
    data: *mut T,
    n_rows: usize,
    /// Values from a row to the next.
    stride: usize,
    width: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: it gives access to its own values alone, as `&mut [T]` does.
unsafe impl<T: Send> Send for Columns<'_, T> {}

impl<'a, T> Columns<'a, T> {
    /// All columns of `data`, `[n][width]`.
    ///
    /// # Panics
    /// When `width` is 0 or `data` is not whole rows.
    #[must_use]
    pub fn new(data: &'a mut [T], width: usize) -> Self {
        let n = data.len();
        assert!(width > 0 && n.is_multiple_of(width), "{n} values are not rows of {width}");
        let data = data.as_mut_ptr();
        Columns { data, n_rows: n / width, stride: width, width, borrow: PhantomData }
    }

    /// Rows.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Columns.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// One row. `[width]`
    ///
    /// # Panics
    /// When there is no such row.
    #[inline(always)]
    pub fn row(&mut self, row: usize) -> &mut [T] {
        assert!(row < self.n_rows, "row {row} of {}", self.n_rows);
        // SAFETY: the row is within the matrix, its columns are borrowed by `self` alone, and the result
        // borrows `self`.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(row * self.stride), self.width) }
    }

    /// Columns `columns` of rows `rows`.
    ///
    /// # Panics
    /// When they are not within these.
    #[inline(always)]
    pub fn part(&mut self, rows: Range<usize>, columns: Range<usize>) -> Columns<'_, T> {
        assert!(rows.start <= rows.end && rows.end <= self.n_rows, "rows {rows:?}");
        assert!(columns.start <= columns.end && columns.end <= self.width, "columns {columns:?}");
        // SAFETY: a part of what `self` borrows alone; the result borrows `self`.
        unsafe { self.unchecked_part(rows, columns) }
    }

    /// # Safety
    /// The part is within the matrix, and nobody else has any of it while the result lives.
    pub(crate) unsafe fn unchecked_part<'b>(
        &self,
        rows: Range<usize>,
        columns: Range<usize>,
    ) -> Columns<'b, T> {
        let n_rows = rows.len();
        // No address is made of a part without values: it may lie behind the matrix.
        let at = if n_rows == 0 { 0 } else { rows.start * self.stride + columns.start };
        Columns {
            // SAFETY: within the matrix, as the caller promises.
            data: unsafe { self.data.add(at) },
            n_rows,
            stride: self.stride,
            width: columns.len(),
            borrow: PhantomData,
        }
    }
}

/// Columns that threads take parts of.
pub(crate) struct Shareable<'a, T>(pub(crate) Columns<'a, T>);

// SAFETY: threads only take parts of it that do not overlap.
unsafe impl<T: Send> Sync for Shareable<'_, T> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_where_they_say() {
        let mut data: Vec<u32> = (0..12).collect();
        let mut all = Columns::new(&mut data, 4);
        assert_eq!((all.n_rows(), all.width()), (3, 4));
        let mut part = all.part(1..3, 1..3);
        assert_eq!(
            (part.n_rows(), part.row(0).to_vec(), part.row(1).to_vec()),
            (2, vec![5, 6], vec![9, 10])
        );
        part.row(1)[0] = 77;
        assert_eq!(part.part(1..2, 1..1).row(0), &[] as &[u32]);
        assert_eq!(all.part(3..3, 4..4).n_rows(), 0);
        assert_eq!(data[9], 77);
    }

    #[test]
    #[should_panic(expected = "row 3 of 3")]
    fn rows_beyond_are_refused() {
        Columns::new(&mut [0; 12], 4).row(3);
    }
}
