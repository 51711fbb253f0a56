//! Many signals at once: which of them to believe.
//!
//! It must never let the number of signals raise the share of false alarms.
//!
//! Start reading at [`benjamini_hochberg`].

/// The adjusted p-values, in the order of the given ones: those below a level are believed, and of these at most that
/// share is wrong on average. Source: Benjamini and Hochberg 1995.
#[must_use]
pub fn benjamini_hochberg(p_values: &[f64]) -> Vec<f64> {
    let n = p_values.len();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|a, b| p_values[*b].total_cmp(&p_values[*a]));
    let mut adjusted = vec![1.0; n];
    let mut least = 1.0_f64;
    for (place, i) in order.into_iter().enumerate() {
        let rank = (n - place) as f64;
        least = least.min(p_values[i] * n as f64 / rank);
        adjusted[i] = least;
    }
    adjusted
}
