//! How unlikely a statistic is when nothing changed.
//!
//! It must never round a tail to 0 before the float does.
//!
//! Start reading at [`chi_square_tail`].

use libm::lgamma;

/// Terms of a series; the ones here need far fewer.
const MAX_TERMS: usize = 10_000;
const TINY: f64 = 1e-300;

/// The probability that a chi-square variable with `n_free` degrees of freedom exceeds `x`: the regularised upper
/// incomplete gamma function. Source: Abramowitz and Stegun 6.5.29 and 6.5.31.
///
/// # Panics
/// When `n_free` is 0.
#[must_use]
pub fn chi_square_tail(x: f64, n_free: u32) -> f64 {
    assert!(n_free > 0, "a chi-square needs a degree of freedom");
    let (a, x) = (f64::from(n_free) / 2.0, x / 2.0);
    if x <= 0.0 {
        return 1.0;
    }
    let factor = (a * x.ln() - x - lgamma(a)).exp();
    if x < a + 1.0 {
        let (mut term, mut sum) = (1.0 / a, 1.0 / a);
        for i in 1..MAX_TERMS {
            term *= x / (a + i as f64);
            sum += term;
            if term < sum * f64::EPSILON {
                break;
            }
        }
        return 1.0 - factor * sum;
    }
    // The continued fraction, by Lentz's method.
    let mut b = x + 1.0 - a;
    let mut c = 1.0 / TINY;
    let mut d = 1.0 / b;
    let mut value = d;
    for i in 1..MAX_TERMS {
        let i = i as f64;
        let numerator = -i * (i - a);
        b += 2.0;
        d = 1.0 / non_zero(numerator * d + b);
        c = non_zero(b + numerator / c);
        value *= c * d;
        if (c * d - 1.0).abs() < f64::EPSILON {
            break;
        }
    }
    factor * value
}

/// What a chi-square variable exceeds with probability `alpha`.
///
/// # Panics
/// When `alpha` is not strictly between 0 and 1, or `n_free` is 0.
#[must_use]
pub fn chi_square_limit(alpha: f64, n_free: u32) -> f64 {
    assert!(alpha > 0.0 && alpha < 1.0, "alpha is {alpha}, but must be between 0 and 1");
    let (mut low, mut high) = (0.0, 1.0);
    while chi_square_tail(high, n_free) > alpha {
        high *= 2.0;
    }
    for _ in 0..100 {
        let middle = 0.5 * (low + high);
        if chi_square_tail(middle, n_free) > alpha { low = middle } else { high = middle }
    }
    high
}

/// The probability that Kolmogorov's limit exceeds `x`. Source: Kolmogorov 1933; for small `x` Jacobi's theta identity.
#[must_use]
pub fn kolmogorov_tail(x: f64) -> f64 {
    use std::f64::consts::PI;
    if x <= 0.0 {
        return 1.0;
    }
    if x < 1.18 {
        let scale = (2.0 * PI).sqrt() / x;
        let term = |i: f64| (-(2.0 * i - 1.0).powi(2) * PI * PI / (8.0 * x * x)).exp();
        return 1.0 - scale * (1..=5).map(|i| term(f64::from(i))).sum::<f64>();
    }
    let term = |i: i32| {
        let sign = if i % 2 == 1 { 1.0 } else { -1.0 };
        sign * (-2.0 * f64::from(i * i) * x * x).exp()
    };
    2.0 * (1..=10).map(term).sum::<f64>()
}

fn non_zero(x: f64) -> f64 {
    if x.abs() < TINY { TINY } else { x }
}
