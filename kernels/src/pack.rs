//! GGUF rows to panels, and back for the tests.
//! Must never know an instruction set: the same bytes serve all of them.
//! Start at [`pack_panel`].

use crate::layout::{Layout, PANEL_ROWS, layout, panel_bytes};
use crate::scalar::repack::stored_sub;
use crate::scalar::sub::Sub;
use crate::stored::StoredType;
use crate::types::WeightType;

/// Repacks up to 16 stored rows of `k` values into one panel of `stored.packed()`; rows that are
/// missing at the edge become zeros.
///
/// # Panics
/// When `rows` has over 16 rows, a row is not `k` values of `stored`, or `out` is not
/// `panel_bytes(stored.packed(), k)`.
pub fn pack_panel(stored: impl Into<StoredType>, rows: &[&[u8]], k: usize, out: &mut [u8]) {
    let stored = stored.into();
    let weight = stored.packed();
    let n_rows = rows.len();
    assert!(n_rows <= PANEL_ROWS, "{n_rows} rows were given for a panel of {PANEL_ROWS}");
    let row_bytes = stored.row_bytes(k);
    for row in rows {
        let n = row.len();
        assert_eq!(row_bytes, Some(n), "a row of {k} values of {stored:?} was given as {n} bytes");
    }
    let n = out.len();
    assert_eq!(panel_bytes(weight, k), Some(n), "a panel of {k} {weight:?} was given {n} bytes");
    out.fill(0);
    match layout(weight) {
        Some((layout, bits)) => {
            for (row, bytes) in rows.iter().enumerate() {
                for idx in 0..k / 32 {
                    write_sub(&layout, bits, out, row, idx, &stored_sub(stored, bytes, idx));
                }
            }
        }
        None => {
            let size = weight.block_bytes();
            for (row, bytes) in rows.iter().enumerate() {
                for (idx, value) in bytes.chunks_exact(size).enumerate() {
                    out[(idx * PANEL_ROWS + row) * size..][..size].copy_from_slice(value);
                }
            }
        }
    }
}

/// The bytes of value `i` of a row's sub-block: in the codes, and in the plane of upper bits.
fn places(layout: &Layout, bits: u32, row: usize, i: usize) -> (usize, usize) {
    let (group, lane) = (i / 4, row * 4 + i % 4);
    let code = if bits == 8 { group * 64 + lane } else { group % 4 * 64 + lane };
    let plane = if bits == 6 { group / 4 * 64 + lane } else { lane };
    (code, layout.plane_at() + plane)
}

fn write_sub(layout: &Layout, bits: u32, panel: &mut [u8], row: usize, idx: usize, sub: &Sub) {
    let super_at = idx / layout.subs * layout.bytes();
    let at = super_at + idx % layout.subs * layout.sub_bytes();
    let codes = sub.codes.as_chunks::<4>().0;
    let mut put = |at: usize, quad: [u8; 4]| panel[at + 4 * row..][..4].copy_from_slice(&quad);
    if bits == 8 {
        for (g, quad) in codes.iter().enumerate() {
            put(at + 64 * g, *quad);
        }
    } else {
        let (first, second) = codes.split_at(4);
        for (g, (low, high)) in first.iter().zip(second).enumerate() {
            put(at + 64 * g, std::array::from_fn(|j| low[j] & 15 | high[j] << 4));
        }
    }
    // Upper bits: one a group in a single plane, or two a group in a plane for each half.
    let (groups, shift) = if bits == 5 { (8, 1) } else { (4, 2) };
    if layout.plane > 0 {
        for (half, quads) in codes.chunks_exact(groups).enumerate() {
            let mut plane = [0; 4];
            for (g, quad) in quads.iter().enumerate() {
                for (plane, code) in plane.iter_mut().zip(quad) {
                    *plane |= code >> 4 << (shift * g);
                }
            }
            put(at + layout.plane_at() + 64 * half, plane);
        }
    }
    for half in 0..layout.scales / PANEL_ROWS {
        let scale_at = at + layout.scales_at() + half * PANEL_ROWS + row;
        panel[scale_at] = sub.scales[half].cast_unsigned();
    }
    if layout.mins() > 0 {
        panel[at + layout.mins_at() + row] = sub.min;
    }
    panel[super_at + layout.d_at() + 2 * row..][..2].copy_from_slice(&sub.d.to_le_bytes());
    if layout.bytes() > layout.m_at() {
        panel[super_at + layout.m_at() + 2 * row..][..2].copy_from_slice(&sub.m.to_le_bytes());
    }
}

/// Sub-block `idx` (of 32 values) of one row of a quantised panel: equal to [`stored_sub`] of the row that
/// was packed.
#[must_use]
pub fn unpack_sub(weight: WeightType, panel: &[u8], row: usize, idx: usize) -> Sub {
    let (layout, bits) = layout(weight).expect("float panels have no sub-blocks: this is a bug");
    let super_at = idx / layout.subs * layout.bytes();
    let at = super_at + idx % layout.subs * layout.sub_bytes();
    let codes = std::array::from_fn(|i| {
        let group = i / 4;
        let (code_at, plane_at) = places(&layout, bits, row, i);
        if bits == 8 {
            return panel[at + code_at];
        }
        let low = panel[at + code_at] >> (group / 4 * 4) & 15;
        match bits {
            5 => low | (panel[at + plane_at] >> group & 1) << 4,
            6 => low | (panel[at + plane_at] >> (group % 4 * 2) & 3) << 4,
            _ => low,
        }
    });
    let mut scales = [0; 2];
    for (half, scale) in scales[..layout.scales / PANEL_ROWS].iter_mut().enumerate() {
        *scale = panel[at + layout.scales_at() + half * PANEL_ROWS + row].cast_signed();
    }
    let word = |at: usize| u16::from_le_bytes([panel[at], panel[at + 1]]);
    Sub {
        codes,
        scales,
        min: if layout.mins() > 0 { panel[at + layout.mins_at() + row] } else { 0 },
        d: word(super_at + layout.d_at() + 2 * row),
        m: if layout.bytes() > layout.m_at() {
            word(super_at + layout.m_at() + 2 * row)
        } else {
            0
        },
    }
}
