//! Element-wise kernels in plain Rust, written in 16 lanes so that the compiler makes vectors of
//! them under whatever instruction set they are inlined into.
//! Must never name an instruction set, and must leave no float operation's order to the compiler.
//! Start at [`exp`]; `vector` compiles these once per instruction set.

const LANES: usize = 16;

/// Sums the lanes in a fixed tree.
#[inline(always)]
pub(crate) fn sum_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// e to the x, within 1e-7 of the value; 0 under -87.3, the value at 88.3 above. NaN stays NaN.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to a whole number and leaves it in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let capped = if x > 88.3 { 88.3 } else { x };
    let floored = if capped < -87.3 { -87.3 } else { capped };
    let shifted = floored.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    // ln 2 in two parts, the first with so few bits that n times it is exact.
    let r = n.mul_add(-0.693_359_4, floored);
    let r = n.mul_add(2.121_944_4e-4, r);
    let p = 1.987_569_1e-4f32;
    let p = p.mul_add(r, 1.398_2e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 1.666_666_5e-1);
    let p = p.mul_add(r, 5e-1);
    let p = p.mul_add(r * r, r) + 1.0;
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    if x < -87.3 { 0.0 } else { p * scale }
}

/// The hyperbolic tangent, within 2e-7 of the value.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let square = x * x;
    let p = 2.186_948_8e-2f32.mul_add(square, -5.396_825_4e-2);
    let p = p.mul_add(square, 1.333_333_4e-1);
    let p = p.mul_add(square, -3.333_333_4e-1);
    let near = (p * square).mul_add(x, x);
    let far = 1.0 - 2.0 / (exp(2.0 * x) + 1.0);
    if square < 0.0625 { near } else { far }
}

/// The largest value; -inf of nothing, NaN is passed over.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (body, rest) = x.as_chunks::<LANES>();
    for x in body {
        for (lane, x) in lanes.iter_mut().zip(x) {
            *lane = if *x > *lane { *x } else { *lane };
        }
    }
    rest.iter().chain(&lanes).fold(f32::NEG_INFINITY, |m, x| if *x > m { *x } else { m })
}

/// Replaces each x by e to the (x - shift) and returns the sum.
#[inline(always)]
pub(crate) fn exp_in_place(x: &mut [f32], shift: f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (body, rest) = x.as_chunks_mut::<LANES>();
    for x in body {
        for (lane, x) in lanes.iter_mut().zip(x) {
            *x = exp(*x - shift);
            *lane += *x;
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *x = exp(*x - shift);
        *lane += *x;
    }
    sum_lanes(lanes)
}

#[inline(always)]
pub(crate) fn softmax(x: &mut [f32]) {
    let shift = max(x);
    let inverse = 1.0 / exp_in_place(x, shift);
    for x in x {
        *x *= inverse;
    }
}

/// One over the root of the mean square.
#[inline(always)]
fn rms_scale(x: &[f32], eps: f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (body, rest) = x.as_chunks::<LANES>();
    for x in body {
        for (lane, x) in lanes.iter_mut().zip(x) {
            *lane = x.mul_add(*x, *lane);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane = x.mul_add(*x, *lane);
    }
    1.0 / (sum_lanes(lanes) / x.len() as f32 + eps).sqrt()
}

#[inline(always)]
pub(crate) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let scale = rms_scale(x, eps);
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * weight;
    }
}

#[inline(always)]
pub(crate) fn rms_norm_in_place(x: &mut [f32], weight: &[f32], eps: f32) {
    let scale = rms_scale(x, eps);
    for (x, weight) in x.iter_mut().zip(weight) {
        *x = *x * scale * weight;
    }
}

#[inline(always)]
pub(crate) fn add_assign(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

#[inline(always)]
pub(crate) fn silu_mul(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
        *out = gate / (exp(-gate) + 1.0) * up;
    }
}

#[inline(always)]
pub(crate) fn gelu_tanh_mul(gate: &[f32], up: &[f32], out: &mut [f32]) {
    // 0.5 (1 + tanh u) is 1 / (1 + e^-2u): no cancellation where tanh is near -1.
    const TWICE_SQRT_2_BY_PI: f32 = 1.595_769;
    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
        let cube = gate * gate * gate;
        let twice_u = TWICE_SQRT_2_BY_PI * cube.mul_add(0.044_715, *gate);
        *out = gate / (exp(-twice_u) + 1.0) * up;
    }
}

/// The error function within 2e-7 of the value. Source: Abramowitz and Stegun, 7.1.26.
#[inline(always)]
fn erf(x: f32) -> f32 {
    let distance = x.abs();
    let t = 1.0 / distance.mul_add(0.327_591_1, 1.0);
    let p = 1.061_405_4f32.mul_add(t, -1.453_152);
    let p = p.mul_add(t, 1.421_413_7);
    let p = p.mul_add(t, -0.284_496_74);
    let p = p.mul_add(t, 0.254_829_6) * t;
    let tail = p * exp(-distance * distance);
    (1.0 - tail).copysign(x)
}

#[inline(always)]
pub(crate) fn gelu_in_place(x: &mut [f32]) {
    for x in x {
        *x = 0.5 * *x * (1.0 + erf(*x * std::f32::consts::FRAC_1_SQRT_2));
    }
}

#[inline(always)]
pub(crate) fn soft_cap(x: &mut [f32], cap: f32) {
    let inverse = 1.0 / cap;
    for x in x {
        *x = cap * tanh(*x * inverse);
    }
}

#[inline(always)]
pub(crate) fn rope_halves(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (first, rest) = x.split_at_mut(cos.len());
    for (((a, b), cos), sin) in first.iter_mut().zip(rest).zip(cos).zip(sin) {
        let (x, y) = (*a, *b);
        *a = x * cos - y * sin;
        *b = x * sin + y * cos;
    }
}

#[inline(always)]
pub(crate) fn rope_interleaved(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    for ((pair, cos), sin) in x.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
        let [x, y] = *pair;
        *pair = [x * cos - y * sin, x * sin + y * cos];
    }
}

/// The largest value and its first place; a NaN anywhere becomes the value.
#[inline(always)]
pub(crate) fn argmax(x: &[f32]) -> (usize, f32) {
    let best = max(x);
    let mut has_nan = false;
    for x in x {
        has_nan |= x.is_nan();
    }
    if has_nan {
        return (0, f32::NAN);
    }
    (x.iter().position(|x| *x == best).unwrap_or(0), best)
}

/// `x` where bits are set, else -inf; the largest of these and its first place, NaN where any of `x` is NaN or +inf.
#[inline(always)]
pub(crate) fn allow(x: &[f32], allowed: &[u32], out: &mut [f32]) -> (usize, f32) {
    let mut words = allowed.iter().copied().chain(std::iter::repeat(0));
    let ((body, rest), (out_body, out_rest)) = (x.as_chunks::<32>(), out.as_chunks_mut::<32>());
    let mut is_bad = 0;
    for ((x, out), word) in body.iter().zip(out_body).zip(&mut words) {
        is_bad |= allow_word(x, word, out);
    }
    is_bad |= allow_word(rest, words.next().unwrap_or(0), out_rest);
    if is_bad > 0 {
        return (0, f32::NAN);
    }
    let best = max(out);
    (out.iter().position(|x| *x == best).unwrap_or(0), best)
}

/// What one word allows; 0 where all of `x` are numbers under +inf.
#[inline(always)]
fn allow_word(x: &[f32], word: u32, out: &mut [f32]) -> u32 {
    let mut is_bad = 0;
    for ((out, x), bit) in out.iter_mut().zip(x).zip(0..32) {
        *out = if word & 1 << bit != 0 { *x } else { f32::NEG_INFINITY };
        is_bad |= u32::from(x.is_nan()) | u32::from(*x == f32::INFINITY);
    }
    is_bad
}
