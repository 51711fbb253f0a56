//! Which instruction set the kernels run on, found out at run time.
//! Must never know what a kernel computes.
//! Start at [`Isa::detect`].

use std::fmt;

/// An instruction set that this machine has. It can only be had by detection, so holding one is the
/// proof that its kernels may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Isa(pub(crate) Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    #[cfg(target_arch = "x86_64")]
    Amx,
}

/// A cap that names no instruction set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownIsa {
    /// The text that was given, shortened to 40 characters.
    pub value: String,
}

impl fmt::Display for UnknownIsa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LASTMILE_ISA is {:?}, but must be scalar, avx2, avx512vnni or amx", self.value)
    }
}

impl std::error::Error for UnknownIsa {}

impl Isa {
    /// Plain Rust: runs everywhere, slowly; the oracle of the others.
    pub const SCALAR: Isa = Isa(Kind::Scalar);

    /// The best one that this machine has. Asks the processor each time: call it once and keep the
    /// answer.
    #[must_use]
    pub fn detect() -> Isa {
        best_of(Isa::available())
    }

    /// The best one without a matrix unit: where nothing but vectors is worked on, and the system need not be asked for
    /// more.
    #[must_use]
    pub fn detect_vectors() -> Isa {
        best_of(available_up_to(VECTORS))
    }

    /// The best one that this machine has and that `cap` allows; `cap` is the value of
    /// `LASTMILE_ISA`. What is beyond it is not touched.
    ///
    /// # Errors
    /// When `cap` is neither absent, empty nor one of `scalar`, `avx2`, `avx512vnni`, `amx`.
    pub fn detect_capped(cap: Option<&str>) -> Result<Isa, UnknownIsa> {
        let rank = match cap {
            None | Some("") => return Ok(Isa::detect()),
            Some("scalar") => 0,
            Some("avx2") => 1,
            Some("avx512vnni") => VECTORS,
            Some("amx") => 3,
            Some(other) => return Err(UnknownIsa { value: other.chars().take(40).collect() }),
        };
        Ok(best_of(available_up_to(rank)))
    }

    /// Every one that this machine has, slowest first.
    #[must_use]
    pub fn available() -> Vec<Isa> {
        available_up_to(u32::MAX)
    }

    /// Its name, as in `LASTMILE_ISA`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Vnni => "avx512vnni",
            #[cfg(target_arch = "x86_64")]
            Kind::Amx => "amx",
        }
    }

    /// Whether products with `m` rows of activations are fastest when those are [`SplitBlock`]s: it has a matrix
    /// unit, and there are enough of them for it.
    ///
    /// [`SplitBlock`]: crate::SplitBlock
    #[must_use]
    #[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables, reason = "no unit elsewhere"))]
    pub fn splits(self, m: usize) -> bool {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Amx => m >= crate::x86::amx::MIN_ROWS,
            _ => false,
        }
    }
}

/// The rank of the best instruction set that has vectors alone.
const VECTORS: u32 = 2;

fn best_of(found: Vec<Isa>) -> Isa {
    found.last().copied().expect("scalar is always there: this is a bug")
}

/// What this machine has of the ranks 0 (scalar) to `rank`, slowest first.
#[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables, reason = "x86 has several"))]
fn available_up_to(rank: u32) -> Vec<Isa> {
    #[cfg_attr(not(target_arch = "x86_64"), expect(unused_mut, reason = "x86 adds its own"))]
    let mut found = vec![Isa::SCALAR];
    #[cfg(target_arch = "x86_64")]
    {
        let avx2 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vnni");
        if avx2 && rank >= 1 {
            found.push(Isa(Kind::Avx2));
        }
        if avx2 && avx512 && rank >= VECTORS {
            found.push(Isa(Kind::Avx512Vnni));
            if rank > VECTORS && crate::x86::matrix_unit::is_usable() {
                found.push(Isa(Kind::Amx));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn a_cap_never_raises_and_unknown_caps_are_named() {
        let best = Isa::detect();
        assert_eq!(Isa::detect_capped(None).unwrap(), best);
        assert_eq!(Isa::detect_capped(Some("")).unwrap(), best);
        assert_eq!(Isa::detect_capped(Some("amx")).unwrap(), best);
        assert!(Isa::detect_capped(Some("avx512vnni")).unwrap() <= best);
        assert_eq!(Isa::detect_capped(Some("scalar")).unwrap(), Isa::SCALAR);
        assert!(Isa::detect_capped(Some("avx2")).unwrap() <= best);
        assert_eq!(Isa::detect_vectors(), Isa::detect_capped(Some("avx512vnni")).unwrap());
        let error = Isa::detect_capped(Some("sse9")).unwrap_err();
        assert!(error.to_string().contains("sse9"), "{error}");
    }

    #[test]
    fn only_a_matrix_unit_takes_split_activations_and_enough_of_them() {
        for isa in Isa::available() {
            let has_unit = isa.name() == "amx";
            assert_eq!(
                [0, 1, 7, 8, 64].map(|m| isa.splits(m)),
                [false, false, false, has_unit, has_unit]
            );
        }
    }
}
