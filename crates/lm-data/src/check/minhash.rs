//! Which texts are nearly the same: one-permutation MinHash over pieces of five characters.
//!
//! It must never hold more than one text.
//!
//! Start reading at [`Sketch::of`].

/// Bins of a sketch; each keeps eight bits of the least hash that fell into it.
pub const N_BINS: usize = 128;
/// Texts that share a whole band are compared.
pub(crate) const N_BANDS: usize = 10;
const BAND_BINS: usize = 6;
/// Less alike pairs are not looked for: of those that are this alike the bands find 95 in 100, of those at 0.6 only 38.
pub(crate) const LEAST_SIMILARITY: f64 = 0.8;
const PIECE_CHARS: usize = 5;
/// Odd, so that no place is lost; of splitmix64's increment.
const BASE: u64 = 0x9e37_79b9_7f4a_7c15;
const BASE_OF_GONE: u64 = BASE.wrapping_pow(PIECE_CHARS as u32);

/// What is kept of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sketch {
    /// One key for each band.
    pub(crate) bands: [u64; N_BANDS],
    /// Eight bits of each bin.
    pub signature: [u8; N_BINS],
}

impl Sketch {
    /// The sketch of some texts together; `None` when they are shorter than one piece. Case, white space and
    /// punctuation do not count. Source: Li, Owen, Zhang 2012; Shrivastava 2017 for the empty bins.
    #[must_use]
    pub fn of<'a>(texts: impl Iterator<Item = &'a str>) -> Option<Sketch> {
        let mut bins = [u64::MAX; N_BINS];
        let mut window = [0_u32; PIECE_CHARS];
        let mut n_chars = 0_usize;
        // The sum of char * BASE^place over the window: one char comes, one goes.
        let mut rolling = 0_u64;
        for text in texts {
            let chars = text.chars().flat_map(char::to_lowercase).filter(|c| c.is_alphanumeric());
            for char in chars {
                let slot = &mut window[n_chars % PIECE_CHARS];
                let gone = u64::from(std::mem::replace(slot, u32::from(char)));
                rolling = rolling
                    .wrapping_mul(BASE)
                    .wrapping_add(u64::from(char))
                    .wrapping_sub(gone.wrapping_mul(BASE_OF_GONE));
                n_chars += 1;
                if n_chars >= PIECE_CHARS {
                    let piece = mix(rolling);
                    let bin = &mut bins[(piece >> 57) as usize];
                    *bin = (*bin).min(piece);
                }
            }
        }
        (n_chars >= PIECE_CHARS).then(|| Sketch::from_bins(&bins))
    }

    fn from_bins(bins: &[u64; N_BINS]) -> Sketch {
        let mut full = *bins;
        for (i, bin) in full.iter_mut().enumerate() {
            // An empty bin borrows from one that a fixed sequence of its own names.
            let mut attempt = i as u64;
            while *bin == u64::MAX {
                attempt = mix(attempt.wrapping_add(0x9e37_79b9));
                *bin = bins[(attempt >> 57) as usize];
            }
        }
        let mut bands = [0; N_BANDS];
        for (i, band) in bands.iter_mut().enumerate() {
            let bins = &full[i * BAND_BINS..(i + 1) * BAND_BINS];
            *band = bins.iter().fold(i as u64 + 1, |hash, &bin| mix(hash ^ bin));
        }
        let mut signature = [0; N_BINS];
        for (bits, bin) in signature.iter_mut().zip(full) {
            // The upper seven bits name the bin and say nothing.
            *bits = mix(bin) as u8;
        }
        Sketch { bands, signature }
    }
}

/// The estimated share of pieces that two texts have in common; its standard error is at most 0.045.
#[must_use]
pub fn similarity(a: &[u8; N_BINS], b: &[u8; N_BINS]) -> f64 {
    let same = a.iter().zip(b).filter(|(a, b)| a == b).count() as f64 / N_BINS as f64;
    // Eight bits agree by chance once in 256.
    ((same - 1.0 / 256.0) / (1.0 - 1.0 / 256.0)).max(0.0)
}

/// The finaliser of splitmix64, by Vigna.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::collections::HashSet;

    use super::*;

    fn words(seed: u64, n: u64) -> String {
        (0..n).map(|i| format!("{:x} ", mix(seed * 1000 + i) % 10_000)).collect()
    }

    #[test]
    fn near_texts_share_a_band_and_others_do_not() {
        let sketch = |text: &str| Sketch::of([text].into_iter()).unwrap();
        let shares_band =
            |a: &Sketch, b: &Sketch| a.bands.iter().zip(&b.bands).any(|(a, b)| a == b);
        let (mut n_near, mut n_far) = (0, 0);
        for seed in 0..200 {
            let text = words(seed, 60);
            let near = format!("{} Extra!", text.to_uppercase());
            let (a, b, c) = (sketch(&text), sketch(&near), sketch(&words(seed + 500, 60)));
            n_near +=
                usize::from(shares_band(&a, &b) && similarity(&a.signature, &b.signature) > 0.85);
            n_far +=
                usize::from(shares_band(&a, &c) || similarity(&a.signature, &c.signature) > 0.5);
        }
        assert_eq!((n_near, n_far), (200, 0));
        assert!(Sketch::of(["abc", "d"].into_iter()).is_none());
    }

    #[test]
    fn texts_as_alike_as_a_contract_may_ask_for_are_found() {
        let pieces = |text: &str| -> HashSet<Vec<char>> {
            let chars: Vec<char> = text.chars().filter(|char| *char != ' ').collect();
            chars.windows(PIECE_CHARS).map(<[char]>::to_vec).collect()
        };
        let (mut n_pairs, mut n_found) = (0, 0);
        for seed in 0..400 {
            let text = words(seed, 100);
            let mut other: Vec<String> = text.split(' ').map(str::to_owned).collect();
            for i in 0..5 {
                other[i * 20 + 10] = words(7000 + seed, 5).split(' ').nth(i).unwrap().to_owned();
            }
            let other = other.join(" ");
            let (a, b) = (pieces(&text), pieces(&other));
            let alike = a.intersection(&b).count() as f64 / a.union(&b).count() as f64;
            if !(LEAST_SIMILARITY..LEAST_SIMILARITY + 0.04).contains(&alike) {
                continue;
            }
            let [a, b] = [text, other].map(|text| Sketch::of([text.as_str()].into_iter()).unwrap());
            n_pairs += 1;
            n_found += usize::from(a.bands.iter().zip(&b.bands).any(|(a, b)| a == b));
        }
        assert!(n_pairs >= 300 && n_found * 100 >= n_pairs * 90, "{n_found} of {n_pairs}");
    }
}
