//! The matrix unit (AMX): the shapes of its tiles, and sums of scaled products with it.
//! Must never know how weights are stored.
//! Start at [`Tiles::add`].

use std::arch::asm;
use std::marker::PhantomData;
use std::mem::offset_of;

use crate::acts::{ACT_BLOCK, SplitBlock};
use crate::layout::PANEL_ROWS;

/// Rows of a tile.
pub(super) const TILE_ROWS: usize = 16;

/// One block of 16 rows of weights, as the unit takes them.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(super) struct PanelBlock {
    /// 32 bfloat16 of each row: two of one row side by side, then those of the next row.
    pub(super) weights: [[u16; 2 * PANEL_ROWS]; ACT_BLOCK / 2],
    /// Scale of each row.
    pub(super) d: [f32; PANEL_ROWS],
    /// Minimum of each row.
    pub(super) m: [f32; PANEL_ROWS],
    /// Whole-number scales of each row's halves, where those have some.
    pub(super) half_scales: [[i32; PANEL_ROWS]; 2],
}

// What is written in assembly below.
const _: () = assert!(offset_of!(PanelBlock, d) == 1024 && offset_of!(PanelBlock, m) == 1088);
const _: () =
    assert!(offset_of!(PanelBlock, half_scales) == 1152 && size_of::<PanelBlock>() == 1280);
const _: () = assert!(offset_of!(SplitBlock, d) == 128 && offset_of!(SplitBlock, d_sum) == 132);
const _: () = assert!(offset_of!(SplitBlock, parts) == 0 && size_of::<SplitBlock>() == 192);

/// Sums of 16 rows of weights for each row of a tile.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(super) struct Sums(pub(super) [[f32; PANEL_ROWS]; TILE_ROWS]);

/// Products of rows of activations with 16 rows of weights: of a block and of the one before it, and of both halves.
#[repr(C, align(64))]
pub(super) struct Products(pub(super) [[[[f32; PANEL_ROWS]; TILE_ROWS]; 2]; 2]);

/// Some blocks of up to 16 rows of activations, and of a panel.
#[derive(Clone, Copy)]
pub(super) struct Blocks<'a> {
    /// From the first of them of the first row on.
    pub(super) acts: &'a [SplitBlock],
    /// 16, or those of the tail.
    pub(super) n_rows: usize,
    /// From a row to the next.
    pub(super) stride: usize,
    pub(super) panel: &'a [PanelBlock],
}

/// What becomes of the products of a block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scaling {
    /// They are scaled.
    Scale,
    /// They are scaled, and the minimum is added.
    ScaleAndMin,
    /// Those of its halves, which have whole-number scales of their own, are put together, then scaled.
    Halves,
}

/// The products of one block, or of the half of it whose numbers and weights begin at these bytes: of 16 rows, or of
/// those of the tail.
macro_rules! product {
    ($acts_at:literal, $weights_at:literal, $at:literal) => {
        concat!(
            ".if {n_rows} == 16\n",
            product!("tmm0", "tmm1", "tmm2", $acts_at, $weights_at, $at),
            "\n.else\n",
            product!("tmm4", "tmm5", "tmm6", $acts_at, $weights_at, $at),
            "\n.endif",
        )
    };
    ($product:literal, $upper:literal, $lower:literal, $acts_at:literal, $weights_at:literal, $at:literal) => {
        concat!(
            "tilezero ",
            $product,
            "\n",
            "tileloadd tmm3, [{panel} + {line} * 1 + ",
            $weights_at,
            "]\n",
            "tileloadd ",
            $upper,
            ", [{acts} + {stride} * 1 + ",
            $acts_at,
            "]\n",
            "tdpbf16ps ",
            $product,
            ", ",
            $upper,
            ", tmm3\n",
            "tileloadd ",
            $lower,
            ", [{acts} + {stride} * 1 + 64 + ",
            $acts_at,
            "]\n",
            "tdpbf16ps ",
            $product,
            ", ",
            $lower,
            ", tmm3\n",
            "tilestored [{products} + {line} * 1 + ",
            $at,
            "], ",
            $product,
        )
    };
}

/// What is done for each row that there is; the row, and where the block ends whose products are added.
macro_rules! for_rows {
    ($one:ident) => {
        for_rows!($one: (0, "{acts}") (1, "{acts} + {stride}") (2, "{acts} + 2 * {stride}") (3, "{acts} + {stride3}")
            (4, "{acts4}") (5, "{acts4} + {stride}") (6, "{acts4} + 2 * {stride}") (7, "{acts4} + {stride3}")
            (8, "{acts8}") (9, "{acts8} + {stride}") (10, "{acts8} + 2 * {stride}") (11, "{acts8} + {stride3}")
            (12, "{acts12}") (13, "{acts12} + {stride}") (14, "{acts12} + 2 * {stride}") (15, "{acts12} + {stride3}"))
    };
    ($one:ident: $(($row:literal, $block:literal))*) => {
        concat!($(".if {n_rows} > ", $row, "\n", $one!($row, $block), "\n.endif\n"),*)
    };
}

macro_rules! load_sum {
    ($row:literal, $block:literal) => {
        concat!("vmovaps zmm", $row, ", [{sums} + 64 * ", $row, "]")
    };
}

macro_rules! store_sum {
    ($row:literal, $block:literal) => {
        concat!("vmovaps [{sums} + 64 * ", $row, "], zmm", $row)
    };
}

macro_rules! add_scaled {
    ($row:literal, $block:literal) => {
        concat!(
            "vmulps zmm20, zmm16, dword ptr [",
            $block,
            " - 64]{{1to16}}\n",
            "vfmadd231ps zmm",
            $row,
            ", zmm20, [{others} + 64 * ",
            $row,
            "]",
        )
    };
}

macro_rules! add_scaled_and_min {
    ($row:literal, $block:literal) => {
        concat!(
            add_scaled!($row, $block),
            "\nvfmadd231ps zmm",
            $row,
            ", zmm17, dword ptr [",
            $block,
            " - 60]{{1to16}}",
        )
    };
}

macro_rules! add_halves {
    ($row:literal, $block:literal) => {
        concat!(
            "vcvtps2dq zmm20, [{others} + 64 * ",
            $row,
            "]\n",
            "vpmulld zmm20, zmm20, zmm18\n",
            "vcvtps2dq zmm21, [{others} + 1024 + 64 * ",
            $row,
            "]\n",
            "vpmulld zmm21, zmm21, zmm19\n",
            "vpaddd zmm20, zmm20, zmm21\n",
            "vcvtdq2ps zmm20, zmm20\n",
            "vmulps zmm21, zmm16, dword ptr [",
            $block,
            " - 64]{{1to16}}\n",
            "vfmadd231ps zmm",
            $row,
            ", zmm20, zmm21",
        )
    };
}

/// Blocks one after the other: the products of one are computed while those of the one before it are added.
macro_rules! blocks {
    ($x:ident, $n_rows:ident, $products:ident, $sums:ident, $product:expr, $add:ident) => {{
        let stride = $x.stride * size_of::<SplitBlock>();
        let acts = $x.acts.as_ptr().cast::<u8>();
        asm!(
            for_rows!(load_sum),
            $product,
            "2:",
            "add {acts}, 192",
            "add {acts4}, 192",
            "add {acts8}, 192",
            "add {acts12}, 192",
            "add {panel}, 1280",
            "xchg {products}, {others}",
            "dec {n:e}",
            "jz 3f",
            $product,
            "3:",
            "vmovaps zmm16, [{panel} - 256]",
            "vmovaps zmm17, [{panel} - 192]",
            "vmovaps zmm18, [{panel} - 128]",
            "vmovaps zmm19, [{panel} - 64]",
            for_rows!($add),
            "test {n:e}, {n:e}",
            "jnz 2b",
            for_rows!(store_sum),
            "vzeroupper",
            acts = inout(reg) acts => _,
            acts4 = inout(reg) acts.wrapping_add(4 * stride) => _,
            acts8 = inout(reg) acts.wrapping_add(8 * stride) => _,
            acts12 = inout(reg) acts.wrapping_add(12 * stride) => _,
            stride = in(reg) stride,
            stride3 = in(reg) 3 * stride,
            panel = inout(reg) $x.panel.as_ptr() => _,
            products = inout(reg) &raw mut $products.0[0] => _,
            others = inout(reg) &raw mut $products.0[1] => _,
            n = inout(reg) $x.panel.len() => _,
            sums = in(reg) $sums,
            line = in(reg) 64usize,
            n_rows = const $n_rows,
            out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _, out("zmm5") _,
            out("zmm6") _, out("zmm7") _, out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _,
            out("zmm12") _, out("zmm13") _, out("zmm14") _, out("zmm15") _, out("zmm16") _, out("zmm17") _,
            out("zmm18") _, out("zmm19") _, out("zmm20") _, out("zmm21") _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _,
            options(nostack),
        )
    }};
}

/// The tiles of this thread in shape: 16 rows, and as many as are left of a step's.
pub(super) struct Tiles {
    n_tail: usize,
    scaling: Scaling,
    /// Shapes belong to a thread.
    of_thread: PhantomData<*mut ()>,
}

impl Tiles {
    /// For tiles of 16 rows, and one of `n_tail`, 0 to 15.
    ///
    /// # Safety
    /// The processor has the unit, and the system lets this process use it. Nobody else on this thread has tiles.
    pub(super) unsafe fn new(n_tail: usize, scaling: Scaling) -> Tiles {
        #[repr(C, align(64))]
        struct Shapes {
            palette: u8,
            start_row: u8,
            reserved: [u8; 14],
            bytes_of_row: [u16; 16],
            rows: [u8; 16],
        }
        assert!(n_tail < TILE_ROWS, "a tail of {n_tail} rows");
        let k_bytes = if scaling == Scaling::Halves { 32 } else { 64 };
        let (n, k_rows, tail) = (TILE_ROWS as u8, k_bytes as u8 / 4, n_tail as u8);
        let mut shapes = Shapes {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            bytes_of_row: [0; 16],
            rows: [0; 16],
        };
        // Products, both parts of the activations, weights.
        shapes.bytes_of_row[..4].copy_from_slice(&[64, k_bytes, k_bytes, 64]);
        shapes.rows[..4].copy_from_slice(&[n, n, n, k_rows]);
        if tail > 0 {
            shapes.bytes_of_row[4..7].copy_from_slice(&[64, k_bytes, k_bytes]);
            shapes.rows[4..7].copy_from_slice(&[tail; 3]);
        }
        // SAFETY: it reads the 64 bytes of `shapes`, and the caller has the unit.
        unsafe {
            asm!(
                "ldtilecfg [{shapes}]",
                shapes = in(reg) &raw const shapes,
                options(readonly, nostack, preserves_flags),
            );
        }
        Tiles { n_tail, scaling, of_thread: PhantomData }
    }

    /// Adds to `sums` of each row, block by block, `acts . weights * (x.d * d)`, and `x.d_sum * m` where there is a minimum.
    pub(super) fn add(&self, x: Blocks<'_>, products: &mut Products, sums: &mut Sums) {
        assert!(x.n_rows == TILE_ROWS || x.n_rows == self.n_tail, "{} rows", x.n_rows);
        macro_rules! by_rows {
            ($($n_rows:literal)*) => {
                match x.n_rows {
                    $($n_rows => self.add_rows::<$n_rows>(x, products, sums),)*
                    n => panic!("{n} rows are no tile: this is a bug"),
                }
            };
        }
        by_rows!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16);
    }

    fn add_rows<const N: usize>(&self, x: Blocks<'_>, products: &mut Products, sums: &mut Sums) {
        let n = x.panel.len();
        assert!(n > 0 && x.acts.len() >= (N - 1) * x.stride + n, "rows beyond the activations");
        // SAFETY: it reads `n` blocks of each of `N` rows of activations and of the panel, which are there; writes
        // `products` and `sums`; and leaves what else it writes in registers that it names. That `Tiles` are there
        // says that the unit is, and in these shapes: `N` is 16, or the rows of the tail.
        unsafe {
            match self.scaling {
                Scaling::Scale => {
                    blocks!(x, N, products, sums, product!("0", "0", "0"), add_scaled);
                }
                Scaling::ScaleAndMin => {
                    blocks!(x, N, products, sums, product!("0", "0", "0"), add_scaled_and_min);
                }
                Scaling::Halves => {
                    blocks!(
                        x,
                        N,
                        products,
                        sums,
                        concat!(product!("0", "0", "0"), "\n", product!("32", "512", "1024")),
                        add_halves
                    );
                }
            }
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: it clears the tiles of this thread, which nobody else has.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) }
    }
}
