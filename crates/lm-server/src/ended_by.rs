//! Which stop string ended an answer: seen from its tokens, as the text was cut before it.
//!
//! It must never decide that an answer ends; the engine did.
//!
//! Start reading at [`StopTail::push`] and [`StopTail::found`].

/// The end of an answer's tokens as text, as far as a stop string may reach.
#[derive(Clone, Default)]
pub(crate) struct StopTail {
    stops: Vec<String>,
    longest: usize,
    tail: Vec<u8>,
    /// Bytes of the last token.
    n_last: usize,
}

impl StopTail {
    pub(crate) fn new(stops: Vec<String>) -> Self {
        let longest = stops.iter().map(String::len).max().unwrap_or(0);
        StopTail { stops, longest, tail: Vec::new(), n_last: 0 }
    }

    /// One more token.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if self.stops.is_empty() {
            return;
        }
        let n_old = self.tail.len().saturating_sub(self.longest);
        self.tail.drain(..n_old);
        self.tail.extend_from_slice(bytes);
        self.n_last = bytes.len();
    }

    /// The stop string that the last token completed: the one that is complete first, as the engine sees it.
    pub(crate) fn found(&self) -> Option<&str> {
        let before = self.tail.len() - self.n_last;
        let complete = |stop: &&String| {
            // What ended before the last token would have ended the answer then.
            let from = (before + 1).saturating_sub(stop.len());
            let mut places = self.tail.get(from..)?.windows(stop.len().max(1));
            let at = places.position(|place| place == stop.as_bytes())?;
            Some(from + at + stop.len())
        };
        let found = self.stops.iter().filter_map(|stop| Some((complete(&stop)?, stop)));
        found.min_by_key(|(end, stop)| (*end, end - stop.len())).map(|(_, stop)| stop.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::StopTail;

    #[track_caller]
    fn check(stops: &[&str], tokens: &[&str], expect: Option<&str>) {
        let mut tail = StopTail::new(stops.iter().map(|&stop| stop.to_owned()).collect());
        tokens.iter().for_each(|token| tail.push(token.as_bytes()));
        assert_eq!(tail.found(), expect, "{stops:?} {tokens:?}");
    }

    #[test]
    fn the_last_token_completes_it() {
        check(&["a", "b"], &["x", "yb"], Some("b"));
        check(&["end", "nd."], &["x e", "n", "d."], Some("end"));
        check(&["nd.", "end."], &["x e", "n", "d."], Some("end."));
        check(&["long stop", "x"], &["lo", "ng ", "st", "op and more"], Some("long stop"));
        check(&["é", "x"], &["\u{e9}"], Some("é"));
        check(&["a", "b"], &["a", "c"], None);
        check(&["a"], &[], None);
        check(&[], &["a"], None);
    }

    #[test]
    fn only_as_much_as_a_stop_string_reaches_is_kept() {
        let mut tail = StopTail::new(vec!["stop".to_owned()]);
        (0..1000).for_each(|_| tail.push(b"0123456789"));
        assert!(tail.tail.len() <= 14, "{}", tail.tail.len());
    }
}
