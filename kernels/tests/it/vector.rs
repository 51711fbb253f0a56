//! Element-wise kernels against f64, and the same bits everywhere.

use lm_kernels::{
    Isa, add_assign, allow_panel, argmax_panel, exp_in_place, f16_to_f32, f32_to_f16,
    gelu_tanh_mul, max, rms_norm, rms_norm_in_place, rope_halves, rope_interleaved, silu_mul,
    soft_cap, softmax,
};

use crate::weights::Rng;

const LENGTHS: [usize; 9] = [0, 1, 15, 16, 31, 33, 255, 257, 640];

/// Runs `kernel` on every instruction set: the same bits as scalar, and within `tolerance` of
/// `oracle`, relative to it or to 1 where it is smaller than `floor`.
#[track_caller]
fn check(
    kernel: impl Fn(Isa, &[f32], &[f32]) -> Vec<f32>,
    oracle: impl Fn(&[f64], &[f64]) -> Vec<f64>,
    range: f32,
    tolerance: f64,
) {
    for n in LENGTHS {
        let mut rng = Rng(n as u64);
        let x: Vec<f32> = rng.units(n).iter().map(|x| x * range).collect();
        let y = rng.units(n);
        let wide = |x: &[f32]| x.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>();
        let want = oracle(&wide(&x), &wide(&y));
        let scalar = kernel(Isa::SCALAR, &x, &y);
        for isa in Isa::available() {
            let got = kernel(isa, &x, &y);
            assert_eq!(got, scalar, "{} n {n}", isa.name());
        }
        for (i, (got, want)) in scalar.iter().zip(&want).enumerate() {
            let error = (f64::from(*got) - want).abs();
            assert!(error <= tolerance * want.abs() + 1e-12, "n {n} at {i}: {got} for {want}");
        }
    }
}

fn each(f: impl Fn(f64, f64) -> f64) -> impl Fn(&[f64], &[f64]) -> Vec<f64> {
    move |x, y| x.iter().zip(y).map(|(x, y)| f(*x, *y)).collect()
}

#[test]
fn exp_is_accurate() {
    let kernel = |isa, x: &[f32], _: &[f32]| {
        let mut x = x.to_vec();
        exp_in_place(isa, &mut x, 0.0);
        x
    };
    check(kernel, each(|x, _| x.exp()), 1.0, 1.5e-7);
    check(kernel, each(|x, _| x.exp()), 80.0, 1.5e-7);
}

#[test]
fn exp_at_its_ends() {
    for isa in Isa::available() {
        let mut x = [0.0, -0.0, f32::NEG_INFINITY, -1000.0, -87.4, 1e9, f32::INFINITY];
        let sum = exp_in_place(isa, &mut x, 0.0);
        assert_eq!(x[..5], [1.0, 1.0, 0.0, 0.0, 0.0]);
        assert!(x[5] > 2e38 && x[5].is_finite() && x[6] == x[5] && sum > 2e38);
        let mut x = [1.0, f32::NAN];
        assert!(exp_in_place(isa, &mut x, 0.0).is_nan() && x[1].is_nan() && !x[0].is_nan());
    }
}

#[test]
fn norm_add_and_gates() {
    check(
        |isa, x, y| {
            let mut out = vec![0.0; x.len()];
            rms_norm(isa, x, y, 1e-5, &mut out);
            out
        },
        |x, y| {
            let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
            x.iter().zip(y).map(|(x, y)| x / (mean + 1e-5).sqrt() * y).collect()
        },
        3.0,
        1e-6,
    );
    for isa in Isa::available() {
        let (mut x, weight) = (Rng(1).units(100), Rng(2).units(100));
        let mut want = vec![0.0; 100];
        rms_norm(isa, &x, &weight, 1e-5, &mut want);
        rms_norm_in_place(isa, &mut x, &weight, 1e-5);
        assert_eq!(x, want);
    }
    check(
        |isa, x, y| {
            let mut x = x.to_vec();
            add_assign(isa, &mut x, y);
            x
        },
        each(|x, y| f64::from((x + y) as f32)),
        3.0,
        0.0,
    );
    let gate = |kernel: fn(Isa, &[f32], &[f32], &mut [f32])| {
        move |isa, x: &[f32], y: &[f32]| {
            let mut out = vec![0.0; x.len()];
            kernel(isa, x, y, &mut out);
            out
        }
    };
    check(gate(silu_mul), each(|x, y| x / (1.0 + (-x).exp()) * y), 20.0, 5e-7);
    let gelu = |x: f64, y: f64| {
        let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
        0.5 * x * (1.0 + u.tanh()) * y
    };
    check(gate(gelu_tanh_mul), each(gelu), 3.0, 3e-6);
}

#[test]
fn caps_and_softmax() {
    for range in [0.5, 20.0, 400.0] {
        let kernel = |isa, x: &[f32], _: &[f32]| {
            let mut x = x.to_vec();
            soft_cap(isa, &mut x, 30.0);
            x
        };
        check(kernel, each(|x, _| 30.0 * (x / 30.0).tanh()), range, 1e-6);
    }
    let kernel = |isa, x: &[f32], _: &[f32]| {
        let mut x = x.to_vec();
        softmax(isa, &mut x);
        x
    };
    let oracle = |x: &[f64], _: &[f64]| {
        let sum = x.iter().map(|x| x.exp()).sum::<f64>();
        x.iter().map(|x| x.exp() / sum).collect()
    };
    check(kernel, oracle, 10.0, 2e-6);
}

#[test]
fn ropes_turn_their_pairs() {
    let (cos, sin) = ([0.0f32, 0.6], [1.0f32, 0.8]);
    for isa in Isa::available() {
        let mut x = [1.0, 2.0, 3.0, 4.0, 9.0];
        rope_halves(isa, &mut x, &cos, &sin);
        assert_eq!(x, [-3.0, 2.0 * 0.6 - 4.0 * 0.8, 1.0, 2.0 * 0.8 + 4.0 * 0.6, 9.0]);
        let mut x = [1.0, 2.0, 3.0, 4.0, 9.0];
        rope_interleaved(isa, &mut x, &cos, &sin);
        assert_eq!(x, [-2.0, 1.0, 3.0 * 0.6 - 4.0 * 0.8, 3.0 * 0.8 + 4.0 * 0.6, 9.0]);
    }
    for n in [64, 80, 256] {
        let mut rng = Rng(n as u64);
        let (x, cos, sin) = (rng.units(n), rng.units(n / 2), rng.units(n / 2));
        for rope in [rope_halves, rope_interleaved] {
            let run = |isa| {
                let mut x = x.clone();
                rope(isa, &mut x, &cos, &sin);
                x
            };
            Isa::available().into_iter().for_each(|isa| assert_eq!(run(isa), run(Isa::SCALAR)));
        }
    }
}

#[test]
fn halves_round_to_even_and_come_back() {
    let bits: Vec<u16> = (0..=u16::MAX).collect();
    let mut want = vec![0.0; bits.len()];
    f16_to_f32(Isa::SCALAR, &bits, &mut want);
    let mut rng = Rng(1);
    let x: Vec<f32> = (0..100_001).map(|_| f32::from_bits(rng.next() << 1)).collect();
    let mut x_want = vec![0; x.len()];
    f32_to_f16(Isa::SCALAR, &x, &mut x_want);
    for isa in Isa::available() {
        let (mut wide, mut back) = (vec![0.0; bits.len()], vec![0; bits.len()]);
        f16_to_f32(isa, &bits, &mut wide);
        f32_to_f16(isa, &wide, &mut back);
        for ((bits, back), (got, want)) in bits.iter().zip(&back).zip(wide.iter().zip(&want)) {
            assert!(got.is_nan() && want.is_nan() || got.to_bits() == want.to_bits(), "{bits:x}");
            assert!(got.is_nan() || bits == back, "{bits:x} came back as {back:x}");
        }
        let mut narrow = vec![0; x.len()];
        f32_to_f16(isa, &x, &mut narrow);
        for ((x, got), want) in x.iter().zip(&narrow).zip(&x_want) {
            assert!(x.is_nan() || got == want, "{x:e} became {got:x}, not {want:x}");
        }
    }
}

#[test]
fn the_first_largest_is_found_and_nan_shows() {
    for isa in Isa::available() {
        for n in [1, 15, 16, 17, 100] {
            let mut x = Rng(n as u64).units(n);
            x[n / 2] = 5.0;
            x[n - 1] = 5.0;
            let best = argmax_panel(isa, &x);
            assert_eq!((best.idx, best.value), (n / 2, 5.0));
            assert_eq!(max(isa, &x), 5.0);
            x[0] = f32::NAN;
            assert!(argmax_panel(isa, &x).value.is_nan());
        }
        assert_eq!(max(isa, &[]), f32::NEG_INFINITY);
        assert_eq!(argmax_panel(isa, &[f32::NEG_INFINITY; 20]).idx, 0);
    }
}

#[test]
fn what_is_not_allowed_is_minus_infinity_and_what_is_no_number_shows() {
    for isa in Isa::available() {
        for n in [1, 31, 32, 33, 100, 128] {
            let mut rng = Rng(n as u64);
            let mut x = rng.units(n);
            // The last values have no word.
            let words: Vec<u32> = rng
                .units(n / 32 + 1)
                .iter()
                .map(|x| x.to_bits().wrapping_mul(0x9e37_79b9))
                .collect();
            let words = &words[..n.div_ceil(40)];
            let is_allowed =
                |i: usize| words.get(i / 32).is_some_and(|word| word >> (i % 32) & 1 == 1);
            let want: Vec<f32> =
                (0..n).map(|i| if is_allowed(i) { x[i] } else { f32::NEG_INFINITY }).collect();
            let mut out = vec![7.0; n];
            let best = allow_panel(isa, &x, words, &mut out);
            assert_eq!(out, want);
            assert_eq!(best, argmax_panel(isa, &want));
            for bad in [f32::NAN, f32::INFINITY] {
                for at in [0, n / 2, n - 1] {
                    let good = std::mem::replace(&mut x[at], bad);
                    assert!(allow_panel(isa, &x, words, &mut out).value.is_nan(), "{bad} at {at}");
                    x[at] = good;
                }
            }
        }
        assert_eq!(allow_panel(isa, &[], &[], &mut []).value, f32::NEG_INFINITY);
    }
}
