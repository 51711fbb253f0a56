//! Stop strings in a growing text.
//!
//! It must never know tokens or requests: it sees the text that was not yet handed out.
//!
//! Start reading at [`StopMatcher::scan`].

use crate::TokenizerError;

/// Finds the first stop string of a text that arrives in pieces.
///
/// The first is the one that is complete first; of several that are complete at the same byte, the
/// longest. So the answer does not depend on where the pieces were cut.
#[derive(Clone, Debug, Default)]
pub struct StopMatcher {
    stops: Vec<Box<str>>,
}

/// What [`StopMatcher::scan`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopScan {
    /// No stop string is complete. The first so many bytes are part of none and may be handed out;
    /// they end at a character's border.
    Safe(usize),
    /// A stop string begins at byte `at`: hand out the text before it, and end.
    Found {
        /// Where it begins, in bytes.
        at: usize,
        /// Which of the stop strings it is.
        stop: usize,
    },
}

impl StopMatcher {
    /// How many stop strings one request may have.
    pub const MAX_STOPS: usize = 16;
    /// How long a stop string may be.
    pub const MAX_STOP_BYTES: usize = 256;

    /// # Errors
    /// `TooManyStops` above [`Self::MAX_STOPS`]; `StopLength` when one is empty or longer than
    /// [`Self::MAX_STOP_BYTES`].
    pub fn new(stops: &[String]) -> Result<Self, TokenizerError> {
        if stops.len() > Self::MAX_STOPS {
            return Err(TokenizerError::TooManyStops {
                n_stops: stops.len(),
                limit: Self::MAX_STOPS,
            });
        }
        for (index, stop) in stops.iter().enumerate() {
            if !(1..=Self::MAX_STOP_BYTES).contains(&stop.len()) {
                return Err(TokenizerError::StopLength {
                    index,
                    bytes: stop.len(),
                    limit: Self::MAX_STOP_BYTES,
                });
            }
        }
        Ok(StopMatcher { stops: stops.iter().map(|s| s.as_str().into()).collect() })
    }

    /// Whether there is nothing to look for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stops.is_empty()
    }

    /// Looks at `pending`: what earlier scans did not call safe, with the new text appended.
    ///
    /// After `Safe(n)` hand out and remove the first `n` bytes, and scan again when more text has
    /// come; when the answer ends without a stop string, hand out the rest. At most
    /// [`Self::MAX_STOP_BYTES`] - 1 bytes are held back. Allocates nothing.
    #[must_use]
    pub fn scan(&self, pending: &str) -> StopScan {
        let found = self
            .stops
            .iter()
            .enumerate()
            .filter_map(|(stop, text)| pending.find(&**text).map(|at| (at + text.len(), at, stop)))
            .min();
        match found {
            Some((_end, at, stop)) => StopScan::Found { at, stop },
            None => StopScan::Safe(pending.len() - self.held_back(pending.as_bytes())),
        }
    }

    /// The length of the longest end of `pending` that begins a stop string.
    fn held_back(&self, pending: &[u8]) -> usize {
        let longest = |stop: &str| {
            let stop = stop.as_bytes();
            let most = pending.len().min(stop.len() - 1);
            (1..=most).rev().find(|&n| pending.ends_with(&stop[..n])).unwrap_or(0)
        };
        self.stops.iter().map(|stop| longest(stop)).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    fn matcher(stops: &[&str]) -> StopMatcher {
        StopMatcher::new(&stops.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    /// What a stream hands out, and which stop string ended it.
    fn stream<'a>(
        matcher: &StopMatcher,
        pieces: impl IntoIterator<Item = &'a str>,
    ) -> (String, Option<usize>) {
        let (mut pending, mut out) = (String::new(), String::new());
        for piece in pieces {
            pending.push_str(piece);
            match matcher.scan(&pending) {
                StopScan::Safe(n) => out.extend(pending.drain(..n)),
                StopScan::Found { at, stop } => return (out + &pending[..at], Some(stop)),
            }
        }
        (out + &pending, None)
    }

    /// Grows the text character by character until some stop string is complete.
    fn naive(stops: &[&str], text: &str) -> (String, Option<usize>) {
        for end in (0..=text.len()).filter(|&i| text.is_char_boundary(i)) {
            let ends = |(_, s): &(usize, &&str)| text[..end].ends_with(**s);
            let longest = stops
                .iter()
                .enumerate()
                .filter(ends)
                .min_by_key(|(i, s)| (usize::MAX - s.len(), *i));
            if let Some((stop, s)) = longest {
                return (text[..end - s.len()].to_owned(), Some(stop));
            }
        }
        (text.to_owned(), None)
    }

    #[track_caller]
    fn check(stops: &[&str], pieces: &[&str], expect: &str, stop: Option<usize>) {
        let got = stream(&matcher(stops), pieces.iter().copied());
        assert_eq!(got, (expect.to_owned(), stop));
        assert_eq!(naive(stops, &pieces.concat()), (expect.to_owned(), stop), "the oracle");
    }

    #[test]
    fn text_ends_before_the_first_complete_stop_string() {
        check(&[], &["a", "b"], "ab", None);
        check(&["END"], &["the E", "N", "D is near"], "the ", Some(0));
        check(&["END"], &["the EN", "EMY"], "the ENEMY", None);
        check(&["aab"], &["aa", "a", "ab"], "aa", Some(0));
        check(&["\n\n", "\n\nUser:"], &["hi\n", "\nUser:"], "hi", Some(0));
        check(&["bc", "abcd"], &["abcd"], "a", Some(0));
        check(&["c", "abc"], &["ab", "c"], "", Some(1));
        check(&["é"], &["caf", "é", "s"], "caf", Some(0));
    }

    #[test]
    fn no_more_is_held_back_than_could_begin_a_stop_string() {
        let scan = |text| matcher(&["</answer>", "\nUser:"]).scan(text);
        assert_eq!(scan("nothing to see"), StopScan::Safe(14));
        assert_eq!(scan("x </ans"), StopScan::Safe(2));
        assert_eq!(scan("x </ansx"), StopScan::Safe(8));
        assert_eq!(scan("x\nUser"), StopScan::Safe(1));
        assert_eq!(scan(""), StopScan::Safe(0));
    }

    #[test]
    fn limits_name_the_field_the_value_and_the_limit() {
        let error = |stops: &[String]| StopMatcher::new(stops).unwrap_err().to_string();
        let many = vec!["x".to_owned(); 17];
        assert_eq!(error(&many), "stop has 17 strings, but at most 16 are allowed");
        assert_eq!(
            error(&["a".into(), String::new()]),
            "stop[1] has 0 bytes, but must have 1 to 256"
        );
        assert_eq!(error(&["a".repeat(257)]), "stop[0] has 257 bytes, but must have 1 to 256");
    }

    proptest! {
        #[test]
        fn any_cut_stops_where_the_naive_search_does(
            stops in prop::collection::vec("[abé]{1,4}", 0..5),
            pieces in prop::collection::vec("[abcé]{0,5}", 0..8),
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let got = stream(&matcher(&stops), pieces.iter().map(String::as_str));
            prop_assert_eq!(got, naive(&stops, &pieces.concat()));
        }
    }
}
