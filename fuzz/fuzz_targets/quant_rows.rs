//! A type and rows of any bytes: what is packed comes back, the numbers are those of the blocks, and every
//! instruction set multiplies them to the same bits.
#![no_main]

use half::{bf16, f16};
use libfuzzer_sys::fuzz_target;
use lm_kernels::{ActBlock, Acts, Columns, dequantize_panel_row, dequantize_row, gemm, Isa, pack_panel, panel_bytes, PANEL_ROWS, Panels, Put, quantize_activations, QuantizedActs, SplitBlock, StoredType, stored_sub, Sub, unpack_sub, WeightType};

const MAX_BLOCKS: usize = 6;
/// More rows of activations than one tile has.
const M: usize = 11;

fuzz_target!(|bytes: &[u8]| {
    let [stored, n_rows, bytes @ ..] = bytes else { return };
    let kept = WeightType::ALL.map(StoredType::Same);
    let all = [&kept[..], &StoredType::REPACKED].concat();
    let stored = all[usize::from(*stored) % all.len()];
    let weight = stored.packed();
    let n_rows = usize::from(*n_rows) % PANEL_ROWS + 1;
    let n_blocks = (bytes.len() / n_rows / stored.block_bytes()).min(MAX_BLOCKS);
    let k = n_blocks * stored.block_len();
    let Some(row_bytes) = stored.row_bytes(k).filter(|len| *len > 0) else { return };
    let rows: Vec<&[u8]> = bytes.chunks_exact(row_bytes).take(n_rows).collect();
    let mut panel = vec![0xaa; panel_bytes(weight, k).expect("k is whole blocks")];
    pack_panel(stored, &rows, k, &mut panel);
    for (r, row) in rows.iter().enumerate() {
        let mut numbers = vec![0.0; k];
        dequantize_row(stored, row, &mut numbers);
        let mut unpacked = vec![0.0; k];
        dequantize_panel_row(weight, &panel, r, &mut unpacked);
        for (found, wanted) in unpacked.iter().zip(&numbers) {
            let same = found.to_bits() == wanted.to_bits() || found.is_nan() && wanted.is_nan();
            assert!(same, "{stored:?} row {r}: {found:e}, in the file {wanted:e}");
        }
        if weight.is_quantized() {
            for (idx, numbers) in numbers.chunks_exact(32).enumerate() {
                let found = unpack_sub(weight, &panel, r, idx);
                assert_eq!(found, stored_sub(stored, row, idx), "{stored:?} row {r} block {idx}");
                (0..32).for_each(|i| same(f64::from(numbers[i]), value(weight, &found, i)));
            }
        } else {
            let size = weight.block_bytes();
            let stored = row.chunks_exact(size).map(|bytes| float(weight, bytes));
            numbers.iter().zip(stored).for_each(|(found, x)| same(f64::from(*found), x));
        }
    }
    multiply(weight, k, &panel, bytes);
});

/// Equal, or as near as f32 comes.
fn same(found: f64, wanted: f64) {
    let near = (found - wanted).abs() <= 1e-6 * wanted.abs() + 1e-30;
    let equal = found == wanted || found.is_nan() && wanted.is_nan();
    // Two infinities of other signs, or one past the greatest f32.
    assert!(near || equal || wanted.is_nan() || !found.is_finite(), "{found:e} for {wanted:e}");
}

/// Value `i` of a sub-block, by the formulas of ggml.
fn value(weight: WeightType, sub: &Sub, i: usize) -> f64 {
    let (d, m) = (f16::from_bits(sub.d).to_f64(), f16::from_bits(sub.m).to_f64());
    let code = f64::from(sub.codes[i]);
    match weight {
        WeightType::Q4_0 => d * (code - 8.0),
        WeightType::Q5_0 => d * (code - 16.0),
        WeightType::Q4_1 | WeightType::Q5_1 => {
            // Of numbers that cancel, the larger one's rounding is left.
            let sum = d * code + m;
            if sum.abs() < 1e-4 * m.abs() { f64::NAN } else { sum }
        }
        WeightType::Q8_0 => d * f64::from(sub.codes[i].cast_signed()),
        WeightType::Q6K => d * f64::from(sub.scales[i / 16]) * (code - 32.0),
        _ => {
            let (x, min) = (d * f64::from(sub.scales[0]) * code, m * f64::from(sub.min));
            if (x - min).abs() < 1e-1 * min.abs() { f64::NAN } else { x - min }
        }
    }
}

fn float(weight: WeightType, bytes: &[u8]) -> f64 {
    match (weight, bytes) {
        (WeightType::F16, [a, b]) => f16::from_le_bytes([*a, *b]).to_f64(),
        (WeightType::BF16, [a, b]) => bf16::from_le_bytes([*a, *b]).to_f64(),
        (WeightType::F32, [a, b, c, d]) => f64::from(f32::from_le_bytes([*a, *b, *c, *d])),
        _ => unreachable!("a float has 2 or 4 bytes"),
    }
}

/// The panel times activations that follow from `bytes`.
fn multiply(weight: WeightType, k: usize, panel: &[u8], bytes: &[u8]) {
    lm_kernels::flush_denormals();
    let activation = |i: usize| f32::from(bytes[i * 7 % bytes.len()].cast_signed()) * 0.031;
    let x: Vec<f32> = (0..M * k).map(activation).collect();
    let product = |isa: Isa, acts: Acts<'_>| {
        let mut out = vec![0.0; M * PANEL_ROWS];
        let columns = Columns::new(&mut out, PANEL_ROWS);
        gemm(isa, Panels::new(weight, k, panel), acts, 0..M, Put::Store, columns);
        out
    };
    let check = |isa: Isa, acts: Acts<'_>, wanted: &[f32]| {
        for (found, wanted) in product(isa, acts).iter().zip(wanted) {
            let same = found.to_bits() == wanted.to_bits() || found.is_nan() && wanted.is_nan();
            assert!(same, "{weight:?} on {}: {found:e}, scalar {wanted:e}", isa.name());
        }
    };
    if !weight.is_quantized() {
        let wanted = product(Isa::SCALAR, Acts::F32(&x));
        return Isa::available().into_iter().for_each(|isa| check(isa, Acts::F32(&x), &wanted));
    }
    let wanted = product(Isa::SCALAR, Acts::Quantized(&quantized::<ActBlock>(Isa::SCALAR, &x)));
    for isa in Isa::available() {
        check(isa, Acts::Quantized(&quantized::<ActBlock>(isa, &x)), &wanted);
        if isa.splits(M) {
            check(isa, Acts::Split(&quantized::<SplitBlock>(isa, &x)), &wanted);
        }
    }
}

fn quantized<B: QuantizedActs>(isa: Isa, x: &[f32]) -> Vec<B> {
    let mut blocks = vec![B::default(); x.len() / 32];
    quantize_activations(isa, x, &mut blocks);
    blocks
}
