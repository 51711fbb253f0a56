//! ADWIN: a window that grows while nothing changes, and forgets what was before a change.
//!
//! It must never keep values: sums over powers of two stand for them.
//!
//! Start reading at [`Adwin::add`].

use std::collections::VecDeque;

/// Parameters of [`Adwin`]; the default is what the reference implementations use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdwinOptions {
    /// The probability of a false alarm at each check.
    pub delta: f64,
    /// Values between two checks. At least 1.
    pub clock: u64,
    /// Buckets of one size; with one more the two oldest become one of the next size. At least 1.
    pub max_buckets: usize,
    /// Values that each part of a cut window needs.
    pub min_part: u64,
    /// Values before anything is said.
    pub grace: u64,
}

/// Adaptive windowing for a change of the mean of bounded values. Source: Bifet and Gavaldà 2007.
#[derive(Clone, Debug)]
pub struct Adwin {
    options: AdwinOptions,
    /// Row `i` has buckets of 2^i values, the oldest first.
    rows: Vec<VecDeque<Bucket>>,
    /// Of the whole window.
    n: f64,
    total: f64,
    /// The sum of squared distances from the mean.
    squares: f64,
    n_seen: u64,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    total: f64,
    squares: f64,
}

impl Default for AdwinOptions {
    fn default() -> Self {
        AdwinOptions { delta: 0.002, clock: 32, max_buckets: 5, min_part: 5, grace: 10 }
    }
}

impl Adwin {
    /// A detector that has seen nothing.
    ///
    /// # Panics
    /// When `clock` or `max_buckets` is 0.
    #[must_use]
    pub fn new(options: AdwinOptions) -> Adwin {
        assert!(options.clock > 0 && options.max_buckets > 0, "{options:?}");
        let rows = vec![VecDeque::new()];
        Adwin { options, rows, n: 0.0, total: 0.0, squares: 0.0, n_seen: 0 }
    }

    /// The mean of the window; 0 when it is empty.
    #[must_use]
    pub fn mean(&self) -> f64 {
        if self.n > 0.0 { self.total / self.n } else { 0.0 }
    }

    /// How many values are in the window.
    #[must_use]
    pub fn width(&self) -> u64 {
        self.n as u64
    }

    /// The next value. Whether the mean changed: then the window holds only what came after.
    pub fn add(&mut self, value: f64) -> bool {
        self.n += 1.0;
        if self.n > 1.0 {
            let distance = value - self.total / (self.n - 1.0);
            self.squares += (self.n - 1.0) * distance * distance / self.n;
        }
        self.total += value;
        self.rows[0].push_back(Bucket { total: value, squares: 0.0 });
        self.merge();
        self.n_seen += 1;
        let is_due = self.n_seen.is_multiple_of(self.options.clock);
        let mut changed = false;
        while is_due && self.n > self.options.grace as f64 && self.is_cut() {
            self.drop_oldest();
            changed = true;
        }
        changed
    }

    /// Makes one bucket of the two oldest of a row that has too many.
    fn merge(&mut self) {
        for row in 0.. {
            if self.rows[row].len() <= self.options.max_buckets {
                return;
            }
            let (Some(a), Some(b)) = (self.rows[row].pop_front(), self.rows[row].pop_front())
            else {
                return;
            };
            let size = size_of_row(row);
            let distance = (a.total - b.total) / size;
            let between = size * distance * distance / 2.0;
            let merged =
                Bucket { total: a.total + b.total, squares: a.squares + b.squares + between };
            if row + 1 == self.rows.len() {
                self.rows.push(VecDeque::new());
            }
            self.rows[row + 1].push_back(merged);
        }
    }

    /// Whether there is a place, from the oldest on, before and after which the means differ too much.
    fn is_cut(&self) -> bool {
        let (mut n_before, mut total_before) = (0.0, 0.0);
        for (row, buckets) in self.rows.iter().enumerate().rev() {
            for bucket in buckets {
                n_before += size_of_row(row);
                total_before += bucket.total;
                let n_after = self.n - n_before;
                let min_part = self.options.min_part as f64;
                if n_before < min_part || n_after < min_part || n_after <= 0.0 {
                    continue;
                }
                let difference = total_before / n_before - (self.total - total_before) / n_after;
                if difference.abs() > self.allowed(n_before, n_after) {
                    return true;
                }
            }
        }
        false
    }

    /// How much the means of two parts may differ by chance.
    fn allowed(&self, n_before: f64, n_after: f64) -> f64 {
        let delta = (2.0 * self.n.ln() / self.options.delta).ln();
        let least = self.options.min_part as f64 - 1.0;
        let inverse = 1.0 / (n_before - least) + 1.0 / (n_after - least);
        let variance = self.squares / self.n;
        (2.0 * inverse * variance * delta).sqrt() + 2.0 / 3.0 * delta * inverse
    }

    fn drop_oldest(&mut self) {
        let row = self.rows.len() - 1;
        let size = size_of_row(row);
        let Some(oldest) = self.rows[row].pop_front() else { return };
        self.n -= size;
        self.total -= oldest.total;
        let distance = oldest.total / size - self.total / self.n;
        let between = size * self.n * distance * distance / (size + self.n);
        self.squares -= oldest.squares + between;
        while self.rows.len() > 1 && self.rows[self.rows.len() - 1].is_empty() {
            self.rows.pop();
        }
    }
}

fn size_of_row(row: usize) -> f64 {
    2_f64.powi(i32::try_from(row).unwrap_or(i32::MAX))
}
