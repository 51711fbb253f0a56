//! Roots and minima of functions of one variable, by halving.
//!
//! It must never know what it solves.
//!
//! Start reading at [`boundary`] and [`least`].

/// Enough to halve an interval of length 1 below the spacing of floating-point numbers near 1.
const N_HALVINGS: usize = 60;
/// 0.618^80 of an interval of length 1 is below 1e-16.
const N_SECTIONS: usize = 80;

/// Where `inside` ends between `inner` (inside) and `outer`: the last point that is known to be outside, or `outer`
/// itself when all is inside. So an interval is never too short.
pub(crate) fn boundary(inner: f64, outer: f64, inside: impl Fn(f64) -> bool) -> f64 {
    if inside(outer) {
        return outer;
    }
    let (mut inner, mut outer) = (inner, outer);
    for _ in 0..N_HALVINGS {
        let middle = 0.5 * (inner + outer);
        if inside(middle) {
            inner = middle;
        } else {
            outer = middle;
        }
    }
    outer
}

/// The least value of a convex function on an interval, by golden sections.
pub(crate) fn least(low: f64, high: f64, value: impl Fn(f64) -> f64) -> f64 {
    const SECTION: f64 = 0.618_033_988_749_894_9;
    let (mut low, mut high) = (low, high);
    let mut a = high - SECTION * (high - low);
    let mut b = low + SECTION * (high - low);
    let (mut at_a, mut at_b) = (value(a), value(b));
    for _ in 0..N_SECTIONS {
        if at_a <= at_b {
            (high, b, at_b) = (b, a, at_a);
            a = high - SECTION * (high - low);
            at_a = value(a);
        } else {
            (low, a, at_a) = (a, b, at_b);
            b = low + SECTION * (high - low);
            at_b = value(b);
        }
    }
    at_a.min(at_b).min(value(low)).min(value(high))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boundaries_and_minima_are_found() {
        assert!((boundary(0.0, 1.0, |x| x < 0.3) - 0.3).abs() < 1e-12);
        assert_eq!(boundary(0.0, 1.0, |_| true), 1.0);
        assert!((least(0.0, 1.0, |x| (x - 0.7) * (x - 0.7) + 2.0) - 2.0).abs() < 1e-12);
        assert_eq!(least(0.0, 1.0, |x| x), 0.0);
    }
}
