//! Types of files that have no kernels of their own: their values, and their panels.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use lm_kernels::{
    PANEL_ROWS, StoredType, WeightType, dequantize_panel_row, dequantize_row, pack_panel,
    panel_bytes,
};

/// By line: a type, blocks of 256 values, and those values as f32, all in hex. `repacked.py` wrote it.
const GOLDEN: &str = include_str!("../data/repacked.txt");
const K: usize = 256;

fn bytes(hex: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(byte).collect()
}

/// The blocks of a type, and what they stand for.
fn golden(stored: StoredType) -> (Vec<u8>, Vec<f32>) {
    let name = format!("{stored:?} ");
    let line = GOLDEN.lines().find_map(|line| line.strip_prefix(&name)).unwrap();
    let (blocks, values) = line.split_once(' ').unwrap();
    let values = bytes(values);
    let values = values.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect();
    (bytes(blocks), values)
}

fn row(stored: StoredType, blocks: &[u8]) -> Vec<f32> {
    let mut out = vec![0.0; blocks.len() / stored.block_bytes() * stored.block_len()];
    dequantize_row(stored, blocks, &mut out);
    out
}

#[test]
fn values_are_those_of_the_file_as_far_as_their_panels_can_tell() {
    for stored in StoredType::REPACKED {
        let (blocks, expect) = golden(stored);
        assert_eq!(expect.len(), K);
        for (idx, (found, expect)) in
            row(stored, &blocks).chunks(32).zip(expect.chunks(32)).enumerate()
        {
            let greatest = expect.iter().fold(0.0_f32, |greatest, value| greatest.max(value.abs()));
            for (found, expect) in found.iter().zip(expect) {
                let limit = match stored {
                    StoredType::Q2K => greatest / 253.0,
                    StoredType::IQ4XS => expect.abs() / 2048.0,
                    _ => 0.0,
                };
                let off = (found - expect).abs();
                assert!(off <= limit, "{stored:?}, 32 values {idx}: {found}, expected {expect}");
            }
        }
    }
}

#[test]
fn panels_have_the_values_of_the_rows_and_missing_rows_are_zeros() {
    for stored in StoredType::REPACKED {
        let (blocks, _) = golden(stored);
        // Every row is another one.
        let rows: Vec<Vec<u8>> = (0..5_usize)
            .map(|i| {
                let mut blocks = blocks.clone();
                let middle = stored.block_bytes() / 2;
                blocks[middle..middle + 4].rotate_left(i % 4);
                blocks
            })
            .collect();
        let slices: Vec<&[u8]> = rows.iter().map(Vec::as_slice).collect();
        let mut panel = vec![7; panel_bytes(stored.packed(), K).unwrap()];
        pack_panel(stored, &slices, K, &mut panel);
        for i in 0..PANEL_ROWS {
            let mut found = vec![1.0; K];
            dequantize_panel_row(stored.packed(), &panel, i, &mut found);
            let expect = rows.get(i).map_or_else(|| vec![0.0; K], |blocks| row(stored, blocks));
            assert!(found == expect, "{stored:?}, row {i}");
        }
    }
}

#[test]
fn numbers_of_types_lead_to_their_blocks() {
    let known = |id| StoredType::from_ggml_id(id).unwrap();
    let sizes = |stored: StoredType| (stored.block_len(), stored.block_bytes(), stored.packed());
    assert_eq!(sizes(known(10)), (256, 84, WeightType::Q8_0));
    assert_eq!(sizes(known(11)), (256, 110, WeightType::Q6K));
    assert_eq!(sizes(known(20)), (32, 18, WeightType::Q8_0));
    assert_eq!(sizes(known(23)), (256, 136, WeightType::Q8_0));
    assert_eq!(known(8), WeightType::Q8_0.into());
    for unknown in [4, 9, 16, 19, 39, u32::MAX] {
        assert_eq!(StoredType::from_ggml_id(unknown), None, "{unknown}");
    }
    assert_eq!((known(11).row_bytes(512), known(11).row_bytes(288)), (Some(220), None));
}

#[test]
fn nothing_but_zeros_stays_so_and_what_is_tiny_or_huge_is_not_lost() {
    let two_bits = |d: half::f16, dmin: half::f16| {
        let mut block = vec![0xff_u8; 80];
        block.extend([d.to_le_bytes(), dmin.to_le_bytes()].concat());
        block
    };
    let f16 = half::f16::from_f32;
    assert_eq!(row(StoredType::Q2K, &two_bits(f16(0.0), f16(0.0))), [0.0; K]);
    for broken in [half::f16::NAN, half::f16::INFINITY] {
        assert!(row(StoredType::Q2K, &two_bits(broken, f16(0.5))).iter().all(|x| x.is_nan()));
    }
    // 15 * 3 * d - 15 * dmin
    for (d, dmin) in [(1e-6, 0.0), (1e-4, 5e-4), (100.0, 3.0), (65504.0, 0.0)] {
        let (d, dmin) = (f16(d), f16(dmin));
        let expect = 45.0 * d.to_f32() - 15.0 * dmin.to_f32();
        for found in row(StoredType::Q2K, &two_bits(d, dmin)) {
            assert!((found / expect - 1.0).abs() < 0.01, "{found}, expected {expect}");
        }
    }
}
