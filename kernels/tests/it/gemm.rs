//! Matrix products: packing, oracles, and the same bits at any M.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use lm_kernels::{
    ActBlock, Acts, Columns, Isa, PANEL_ROWS, Panels, Put, QuantizedActs, SplitBlock, StoredType,
    Sub, WeightType, dequantize_panel_row, dequantize_row, dot_row, pack_panel, panel_bytes,
    quantize_activations, sub, unpack_sub,
};
use proptest::prelude::*;

use crate::weights::{CORPORA, Codes, Rng, panel, row};

fn quantized() -> impl Iterator<Item = WeightType> {
    WeightType::ALL.into_iter().filter(|weight| weight.is_quantized())
}

fn acts<B: QuantizedActs>(isa: Isa, x: &[f32]) -> Vec<B> {
    let mut out = vec![B::default(); x.len() / 32];
    quantize_activations(isa, x, &mut out);
    out
}

/// Activations in each form that `weight` takes.
fn with_forms(weight: WeightType, x: &[f32], mut run: impl FnMut(Acts<'_>)) {
    if !weight.is_quantized() {
        return run(Acts::F32(x));
    }
    run(Acts::Quantized(&acts(Isa::SCALAR, x)));
    run(Acts::Split(&acts(Isa::SCALAR, x)));
}

/// `[m][16]` by one call over all rows; the same of each form of the activations.
fn gemm(isa: Isa, weight: WeightType, packed: &[u8], k: usize, x: &[f32], m: usize) -> Vec<f32> {
    let mut first: Option<Vec<f32>> = None;
    with_forms(weight, x, |acts| {
        let mut out = vec![f32::NAN; m * PANEL_ROWS];
        let columns = Columns::new(&mut out, PANEL_ROWS);
        lm_kernels::gemm(isa, Panels::new(weight, k, packed), acts, 0..m, Put::Store, columns);
        match &first {
            Some(first) => check_bits(&format!("{weight:?} split {}", isa.name()), &out, first),
            None => first = Some(out),
        }
    });
    first.unwrap()
}

#[track_caller]
fn check_bits(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let same = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
        assert!(same, "{what}: value {i} is {got:e}, wanted {want:e}");
    }
}

#[test]
fn unpacking_gives_what_was_packed() {
    for weight in quantized() {
        for codes in CORPORA {
            for n in [1, 7, 16] {
                let k = 3 * weight.block_len();
                let (rows, packed) = panel(weight, codes, n, k, &mut Rng(n as u64));
                for r in 0..PANEL_ROWS {
                    for idx in 0..k / 32 {
                        let want = rows.get(r).map_or(Sub::default(), |row| sub(weight, row, idx));
                        let got = unpack_sub(weight, &packed, r, idx);
                        assert_eq!(got, want, "{weight:?} {codes:?} row {r} block {idx}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_panel_s_row_is_the_row_that_was_packed() {
    for weight in WeightType::ALL {
        for codes in CORPORA {
            for k in [0, 1, 3, 33].map(|n| n * weight.block_len()) {
                let (rows, packed) = panel(weight, codes, 5, k, &mut Rng(1));
                for (r, row) in rows.iter().enumerate() {
                    let [mut got, mut want] = [vec![7.0; k], vec![0.0; k]];
                    dequantize_panel_row(weight, &packed, r, &mut got);
                    dequantize_row(weight, row, &mut want);
                    check_bits(&format!("{weight:?} {codes:?} k {k} row {r}"), &got, &want);
                }
            }
        }
    }
}

#[test]
fn rows_that_are_not_whole_blocks_are_refused() {
    assert_eq!(WeightType::Q4K.row_bytes(640), None);
    assert_eq!(panel_bytes(WeightType::Q4K, 640), None);
    assert_eq!(WeightType::Q5_0.row_bytes(640), Some(440));
    assert_eq!(panel_bytes(WeightType::Q8_0, usize::MAX / 32 * 32), None);
}

/// Each type against the oracle straight from GGUF blocks, bit for bit, on every instruction set.
#[track_caller]
fn check_gemm(weight: WeightType, codes: Codes, n: usize, k: usize, m: usize, seed: u64) {
    let mut rng = Rng(seed);
    let (rows, packed) = panel(weight, codes, n, k, &mut rng);
    let mut x: Vec<f32> = rng.units(m * k);
    if matches!(codes, Codes::Highest | Codes::Lowest | Codes::Alternating) {
        // Activations at their largest: all one sign in even rows, alternating in odd ones.
        for (i, x) in x.iter_mut().enumerate() {
            let is_negative = i / k.max(1) % 2 == 1 && i % 2 == 1;
            *x = if is_negative { -1.0 } else { 1.0 };
        }
    }
    let blocks: Vec<ActBlock> =
        if weight.is_quantized() { acts(Isa::SCALAR, &x) } else { Vec::new() };
    for isa in Isa::available() {
        let what = format!("{weight:?} {codes:?} n {n} k {k} m {m} {}", isa.name());
        let got = gemm(isa, weight, &packed, k, &x, m);
        let scalar = gemm(Isa::SCALAR, weight, &packed, k, &x, m);
        check_bits(&what, &got, &scalar);
        for (c, got) in got.chunks_exact(PANEL_ROWS).enumerate() {
            assert!(got[n..].iter().all(|v| *v == 0.0), "{what}: a missing row is not zero");
            for (r, row) in rows.iter().enumerate() {
                if weight.is_quantized() {
                    let x = &blocks[c * k / 32..][..k / 32];
                    check_bits(&what, &got[r..=r], &[dot_row(weight, row, x)]);
                    check_f64(&what, weight, row, &dequantized(x), got[r]);
                } else {
                    check_f64(&what, weight, row, &x[c * k..][..k], got[r]);
                }
            }
        }
    }
}

fn dequantized(x: &[ActBlock]) -> Vec<f32> {
    x.iter().flat_map(|b| b.codes().map(|q| f32::from(q) * b.scale())).collect()
}

#[track_caller]
fn check_f64(what: &str, weight: WeightType, row: &[u8], x: &[f32], got: f32) {
    let mut w = vec![0.0; x.len()];
    dequantize_row(weight, row, &mut w);
    let (mut sum, mut size) = (0.0f64, 0.0f64);
    for (w, x) in w.iter().zip(x) {
        sum += f64::from(*w) * f64::from(*x);
        size += (f64::from(*w) * f64::from(*x)).abs();
    }
    let error = (f64::from(got) - sum).abs();
    // The minimum and the codes cancel in types with a minimum: their parts count, not only the
    // values.
    let parts = x.iter().map(|x| f64::from(x.abs())).sum::<f64>();
    let scale = w.iter().fold(0.0f64, |m, w| m.max(f64::from(w.abs())));
    assert!(error <= 4e-6 * (size + parts * scale) + 1e-30, "{what}: {got:e}, f64 {sum:e}");
}

#[test]
fn every_type_matches_its_oracle() {
    for weight in WeightType::ALL {
        for codes in CORPORA {
            for (n, blocks, m) in [
                (16, 0, 9),
                (16, 1, 1),
                (16, 3, 9),
                (3, 5, 2),
                (16, 20, 8),
                (1, 9, 7),
                (16, 11, 33),
            ] {
                check_gemm(weight, codes, n, blocks * weight.block_len(), m, 7);
            }
        }
    }
}

#[test]
fn awkward_lengths_of_float_weights() {
    for weight in [WeightType::F16, WeightType::BF16, WeightType::F32] {
        for k in [0, 1, 2, 31, 32, 33, 255, 257] {
            check_gemm(weight, Codes::Random, 16, k, 4, 11);
        }
    }
}

/// So long that few of them stay in a core's cache, and are multiplied at once.
#[test]
fn long_rows_match_their_oracle() {
    for weight in WeightType::ALL {
        check_gemm(weight, Codes::Random, 16, 8192, 21, 7);
    }
}

#[test]
fn a_rows_bits_do_not_depend_on_the_batch() {
    const ROWS: usize = 68;
    for weight in WeightType::ALL {
        let k = if weight.block_len() == 256 { 512 } else { 640 };
        let mut rng = Rng(3);
        let (_, packed) = panel(weight, Codes::Random, 16, k, &mut rng);
        let x = rng.units(ROWS * k);
        for isa in Isa::available() {
            let alone: Vec<Vec<f32>> =
                x.chunks_exact(k).map(|x| gemm(isa, weight, &packed, k, x, 1)).collect();
            for m in 1..=ROWS {
                let together = gemm(isa, weight, &packed, k, &x[..m * k], m);
                let what = format!("{weight:?} m {m} {}", isa.name());
                check_bits(&what, &together, &alone[..m].concat());
            }
        }
    }
}

/// Several panels, the last of them not full, some of the rows, and columns in a wider matrix.
#[test]
fn a_part_of_a_matrix_gives_the_same_bits() {
    const N: usize = 2 * PANEL_ROWS + 5;
    // Miri is some thousand times slower.
    let (m, k_of_float, weights) = match cfg!(miri) {
        true => (6, 3, &[WeightType::F32][..]),
        false => (21, 64, &WeightType::ALL[..]),
    };
    for &weight in weights {
        let k = if weight.is_quantized() { 2 * weight.block_len() } else { k_of_float };
        let mut rng = Rng(5);
        let (panels, x) = (3, rng.units(m * k));
        let packed: Vec<Vec<u8>> =
            (0..panels).map(|_| panel(weight, Codes::Random, 16, k, &mut rng).1).collect();
        let one_by_one = |p: usize| gemm(Isa::SCALAR, weight, &packed[p], k, &x, m);
        let want: Vec<Vec<f32>> = (0..panels).map(one_by_one).collect();
        let bytes = packed.concat();
        let check = |isa: Isa, acts: Acts<'_>| {
            let mut out = vec![-1.0; (m - 4) * (N + 3)];
            for put in [Put::Store, Put::Add] {
                let mut all = Columns::new(&mut out, N + 3);
                let part = all.part(0..m - 4, 2..2 + N);
                lm_kernels::gemm(isa, Panels::new(weight, k, &bytes), acts, 4..m, put, part);
            }
            for (i, out) in out.chunks_exact(N + 3).enumerate() {
                let what = format!("{weight:?} row {i} {}", isa.name());
                let want: Vec<f32> = (0..N)
                    .map(|r| want[r / PANEL_ROWS][(4 + i) * PANEL_ROWS + r % PANEL_ROWS])
                    .map(|v| v + v)
                    .collect();
                check_bits(&what, &out[2..2 + N], &want);
                assert!([out[0], out[1], out[N + 2]] == [-1.0; 3], "{what}: wrote beyond");
            }
            let none = Columns::new(&mut [], N);
            lm_kernels::gemm(isa, Panels::new(weight, k, &bytes), acts, 3..3, Put::Store, none);
        };
        for isa in Isa::available() {
            with_forms(weight, &x, |acts| check(isa, acts));
        }
    }
}

#[test]
fn activations_quantise_alike_everywhere() {
    let mut rng = Rng(9);
    let mut x = rng.units(40 * 640);
    for (i, x) in x.iter_mut().enumerate().skip(640) {
        *x *= 10f32.powi((i / 640) as i32 - 20);
    }
    x[32..64].fill(0.0);
    x[64..96].fill(1e-38);
    x[96..128].copy_from_slice(&[-3.0; 32]);
    x[128..160].fill(3e38);
    // Halves of a step round to even: 0.5 to 0, 1.5 to 2.
    x[160..164].copy_from_slice(&[4064.0, 0.5, 1.5, -2.5]);
    let want: Vec<ActBlock> = acts(Isa::SCALAR, &x);
    let split: Vec<SplitBlock> = acts(Isa::SCALAR, &x);
    for isa in Isa::available() {
        assert_eq!(acts::<ActBlock>(isa, &x), want, "{}", isa.name());
        assert_eq!(acts::<SplitBlock>(isa, &x), split, "split, {}", isa.name());
    }
    for (split, want) in split.iter().zip(&want) {
        assert_eq!(split.codes(), want.codes());
        assert_eq!((split.scale(), split.scaled_sum()), (want.scale(), want.scaled_sum()));
    }
    assert_eq!(want[1], ActBlock::default());
    assert_eq!(want[2], ActBlock::default());
    assert_eq!(want[3].codes(), [-4064; 32]);
    assert_eq!(want[4].codes(), [4064; 32]);
    assert_eq!(want[5].codes()[..4], [4064, 0, 2, -2]);
    for (x, block) in x.chunks_exact(32).zip(&want) {
        for (x, q) in x.iter().zip(block.codes()) {
            let error = (x - f32::from(q) * block.scale()).abs();
            assert!(error <= block.scale() * 0.500_1 + 1e-30, "{x} became {q}");
        }
    }
}

/// Blocks whose scale or scaled sum overflows, blocks near zero, and sums so small that they are flushed, in a tail and in
/// whole tiles; denormals as the executor has them, too.
#[test]
fn extreme_activations_give_the_same_bits() {
    let check = |what: &str| {
        for weight in quantized() {
            let (k, m) = (512, 19);
            let (_, packed) = panel(weight, Codes::Random, 16, k, &mut Rng(8));
            let mut x = Rng(6).units(m * k);
            for (i, block) in x.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                match i % 13 {
                    2 if i / (k / 32) == 1 => block.fill(3e38),
                    3 if i / (k / 32) == 17 => block.fill(-3e38),
                    5 => block.fill(0.0),
                    7 => block.iter_mut().for_each(|x| *x *= 1e-29),
                    11 => block.iter_mut().for_each(|x| *x *= 1e-36),
                    _ => {}
                }
            }
            // Of all rows but these, every value is tiny: what is left of their sums is near the least number.
            x[3 * k..17 * k].iter_mut().for_each(|x| *x = *x % 1.0 * 1.7e-29);
            x[18 * k + 5] = f32::NAN;
            let wanted = gemm(Isa::SCALAR, weight, &packed, k, &x, m);
            for isa in Isa::available() {
                let got = gemm(isa, weight, &packed, k, &x, m);
                check_bits(&format!("{weight:?} {} {what}", isa.name()), &got, &wanted);
            }
        }
    };
    check("with denormals");
    lm_kernels::flush_denormals();
    check("flushed");
}

/// Codes of 8 bits have no minimum: what it would be multiplied with overflows here, and the sum of a block is about to.
#[test]
fn a_minimum_that_is_not_there_adds_nothing() {
    const ROWS: usize = 17;
    let block = [&0x1400u16.to_le_bytes()[..], &[1; 32]].concat();
    let mut packed = vec![0; panel_bytes(WeightType::Q8_0, 32).unwrap()];
    pack_panel(WeightType::Q8_0, &[block.as_slice(); PANEL_ROWS], 32, &mut packed);
    let x = [3e38; ROWS * 32];
    for isa in Isa::available() {
        let got = gemm(isa, WeightType::Q8_0, &packed, 32, &x, ROWS);
        assert!(got.iter().all(|v| (9.3e36..9.5e36).contains(v)), "{}: {got:?}", isa.name());
    }
}

#[test]
#[should_panic(expected = "take f32 activations")]
fn float_weights_refuse_split_activations() {
    let (_, packed) = panel(WeightType::F16, Codes::Random, 16, 32, &mut Rng(1));
    let acts = [SplitBlock::default(); 1];
    let mut out = [0.0; 16];
    let (panels, out) = (Panels::new(WeightType::F16, 32, &packed), Columns::new(&mut out, 16));
    lm_kernels::gemm(Isa::SCALAR, panels, Acts::Split(&acts), 0..1, Put::Store, out);
}

#[test]
fn a_nan_or_infinite_activation_shows() {
    for weight in quantized() {
        let k = 256;
        let (_, packed) = panel(weight, Codes::Random, 16, k, &mut Rng(2));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = Rng(4).units(2 * k);
            x[k + 100] = bad;
            for isa in Isa::available() {
                let out = gemm(isa, weight, &packed, k, &x, 2);
                assert!(out[..16].iter().all(|v| v.is_finite()), "a neighbour was hurt");
                assert!(out[16..].iter().all(|v| !v.is_finite()), "{weight:?} {bad} vanished");
            }
        }
    }
}

#[test]
#[should_panic(expected = "17 rows were given for a panel of 16")]
fn a_panel_holds_16_rows() {
    let row = row(WeightType::Q8_0, Codes::Random, 32, &mut Rng(1));
    pack_panel(WeightType::Q8_0, &[row.as_slice(); 17], 32, &mut vec![0; 544]);
}

#[test]
#[should_panic(expected = "4 activation blocks were given where 6 are needed")]
fn too_few_activations_are_refused() {
    let (_, packed) = panel(WeightType::Q8_0, Codes::Random, 16, 64, &mut Rng(1));
    let acts = vec![ActBlock::default(); 4];
    let panels = Panels::new(WeightType::Q8_0, 64, &packed);
    let mut out = [0.0; 48];
    let out = Columns::new(&mut out, 16);
    lm_kernels::gemm(Isa::detect(), panels, Acts::Quantized(&acts), 0..3, Put::Store, out);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn any_shape_matches(
        which in 0usize..WeightType::ALL.len(),
        codes in 0usize..CORPORA.len(),
        n in 1usize..=16,
        blocks in 1usize..7,
        m in 1usize..40,
        seed in any::<u64>(),
    ) {
        let weight = WeightType::ALL[which];
        check_gemm(weight, CORPORA[codes], n, blocks * weight.block_len(), m, seed);
    }
}

#[test]
fn known_blocks_dequantise_as_in_ggml() {
    // d = 1, m = 0.5; codes 0..16 in the low nibbles, reversed in the high ones.
    let (one, half) = (0x3c00u16.to_le_bytes(), 0x3800u16.to_le_bytes());
    let nibbles: Vec<u8> = (0..16u8).map(|i| i | (15 - i) << 4).collect();
    let check = |weight: WeightType, row: Vec<u8>, want: &dyn Fn(usize) -> f32| {
        let mut out = vec![0.0; weight.block_len()];
        dequantize_row(weight, &row, &mut out);
        let want: Vec<f32> = (0..out.len()).map(want).collect();
        assert_eq!(out, want, "{weight:?}");
    };
    let code = |i: usize| if i < 16 { i as f32 } else { 31.0 - i as f32 };
    check(WeightType::Q4_0, [&one[..], &nibbles].concat(), &|i| code(i) - 8.0);
    check(WeightType::Q4_1, [&one[..], &half, &nibbles].concat(), &|i| code(i) + 0.5);
    let high = 0xffff_0001u32.to_le_bytes();
    let five = |i: usize| code(i) + if i == 0 || i > 15 { 16.0 } else { 0.0 };
    check(WeightType::Q5_0, [&one[..], &high, &nibbles].concat(), &|i| five(i) - 16.0);
    check(WeightType::Q5_1, [&one[..], &half, &high, &nibbles].concat(), &|i| five(i) + 0.5);
    let signed: Vec<u8> = (0..32u8).map(|i| i.wrapping_sub(16)).collect();
    check(WeightType::Q8_0, [&one[..], &signed].concat(), &|i| i as f32 - 16.0);
    // Scales 1..=8 and minima 8..=15; the last four have upper bits of zero in the first bytes.
    let scales: Vec<u8> =
        vec![1, 2, 3, 4, 8, 9, 10, 11, 5 | 12 << 4, 6 | 13 << 4, 7 | 14 << 4, 8 | 15 << 4];
    let qs = vec![0x21u8; 128];
    let want_k = |high: f32| {
        move |i: usize| {
            let j = i / 32;
            let q = if j.is_multiple_of(2) { 1.0 } else { 2.0 } + if j == 3 { high } else { 0.0 };
            (j + 1) as f32 * q - 0.5 * (j + 8) as f32
        }
    };
    check(WeightType::Q4K, [&one[..], &half, &scales, &qs].concat(), &want_k(0.0));
    let high = vec![8u8; 32];
    check(WeightType::Q5K, [&one[..], &half, &scales, &high, &qs].concat(), &want_k(16.0));
    // Lower bits 1 in the low nibbles, 2 in the high ones; upper bits 0, 1, 2, 3 by quarters.
    let (ql, qh) = (vec![0x21u8; 128], vec![0b11_10_01_00u8; 64]);
    let scales: Vec<u8> = (0..16i8).map(|i| (i - 8).cast_unsigned()).collect();
    check(WeightType::Q6K, [&ql[..], &qh, &scales, &one].concat(), &|i| {
        let quarter = i % 128 / 32;
        let q = if quarter < 2 { 1.0 } else { 2.0 } + 16.0 * quarter as f32 - 32.0;
        (i / 16) as f32 * q - 8.0 * q
    });
    let mut out = [0.0; 2];
    dequantize_row(WeightType::BF16, &[0x80, 0x3f, 0x00, 0xc0], &mut out);
    assert_eq!(out, [1.0, -2.0]);
    assert_eq!(StoredType::from_ggml_id(12), Some(WeightType::Q4K.into()));
}
