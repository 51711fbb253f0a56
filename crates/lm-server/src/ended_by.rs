//! Which stop string ended an answer: seen from its tokens, as the text was cut before it.
//!
//! It must never decide that an answer ends; the engine did.
//!
//! Start reading at [`StopTail::take`] and [`StopTail::ended`].

use lastmile::{FinishReason, TokenId};

use crate::running::Running;

/// The end of an answer's tokens as text, as far as a stop string may reach.
#[derive(Clone, Default)]
pub(crate) struct StopTail {
    tail: Vec<u8>,
    /// Bytes of the last token.
    n_last: usize,
    /// The last token is one that ends answers.
    ends_by_model: bool,
}

impl StopTail {
    /// More tokens of an answer.
    pub(crate) fn take(&mut self, running: &Running, tokens: &[TokenId]) {
        if running.stops.is_empty() {
            return;
        }
        for &token in tokens {
            self.push(&running.stops, running.runtime.token_bytes(token));
            self.ends_by_model = running.runtime.ends_answer(token);
        }
    }

    /// The stop string that ended the answer, if one did.
    pub(crate) fn ended<'a>(&self, running: &'a Running, reason: FinishReason) -> Option<&'a str> {
        let is_stopped = reason == FinishReason::Stop && !self.ends_by_model;
        self.found(&running.stops).filter(|_| is_stopped)
    }

    fn push(&mut self, stops: &[String], bytes: &[u8]) {
        let longest = stops.iter().map(String::len).max().unwrap_or(0);
        self.tail.drain(..self.tail.len().saturating_sub(longest));
        self.tail.extend_from_slice(bytes);
        self.n_last = bytes.len();
    }

    /// The stop string that the last token completed: the one that is complete first, as the engine sees it.
    fn found<'a>(&self, stops: &'a [String]) -> Option<&'a str> {
        let before = self.tail.len() - self.n_last;
        let end = |stop: &str| {
            // What ended before the last token would have ended the answer then.
            let from = (before + 1).saturating_sub(stop.len());
            let mut places = self.tail.get(from..)?.windows(stop.len().max(1));
            let at = places.position(|place| place == stop.as_bytes())?;
            Some(from + at + stop.len())
        };
        let found = stops.iter().filter_map(|stop| Some((end(stop)?, stop.as_str())));
        found.min_by_key(|(end, stop)| (*end, *end - stop.len())).map(|(_, stop)| stop)
    }
}

#[cfg(test)]
mod tests {
    use super::StopTail;

    #[track_caller]
    fn check(stops: &[&str], tokens: &[&str], expect: Option<&str>) {
        let stops: Vec<String> = stops.iter().map(|&stop| stop.to_owned()).collect();
        let mut tail = StopTail::default();
        tokens.iter().for_each(|token| tail.push(&stops, token.as_bytes()));
        assert_eq!(tail.found(&stops), expect, "{stops:?} {tokens:?}");
    }

    #[test]
    fn the_last_token_completes_it() {
        check(&["a", "b"], &["x", "yb"], Some("b"));
        check(&["end", "nd."], &["x e", "n", "d."], Some("end"));
        check(&["nd.", "end."], &["x e", "n", "d."], Some("end."));
        check(&["long stop", "x"], &["lo", "ng ", "st", "op and more"], Some("long stop"));
        check(&["a", "b"], &["a", "c"], None);
        check(&["a"], &[], None);
        check(&[], &["a"], None);
    }

    #[test]
    fn only_as_much_as_a_stop_string_reaches_is_kept() {
        let (stops, mut tail) = (["stop".to_owned()], StopTail::default());
        (0..1000).for_each(|_| tail.push(&stops, b"0123456789"));
        assert!(tail.tail.len() <= 14, "{}", tail.tail.len());
    }
}
