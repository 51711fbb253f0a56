//! Where a request stands in a trace of its sender's, by W3C's Trace Context.

use std::fmt::{self, Display, Formatter};

/// What the header `traceparent` says: <https://www.w3.org/TR/trace-context/#traceparent-header>.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceParent {
    /// The trace; never 0.
    pub trace_id: TraceId,
    /// The sender's span; never 0.
    pub parent_id: u64,
    /// Whether the sender records the trace, and asks that others do.
    pub is_sampled: bool,
}

/// A trace. Written as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceId(pub u128);

impl Display for TraceId {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl TraceId {
    /// 32 hexadecimal digits in lower case, not all of them 0.
    #[must_use]
    pub fn parse(text: &str) -> Option<TraceId> {
        let id = u128::from_str_radix(hex(text, 32)?, 16).ok()?;
        (id != 0).then_some(TraceId(id))
    }
}

impl TraceParent {
    /// Reads a header. `None` is one that says nothing by the specification, so that it is as if it were not there; of a
    /// later version what this one knows.
    #[must_use]
    pub fn parse(text: &str) -> Option<TraceParent> {
        let mut parts = text.splitn(5, '-');
        let version = hex(parts.next()?, 2)?;
        let trace_id = TraceId::parse(parts.next()?)?;
        let parent_id = u64::from_str_radix(hex(parts.next()?, 16)?, 16).ok()?;
        let flags = u8::from_str_radix(hex(parts.next()?, 2)?, 16).ok()?;
        let has_more = parts.next().is_some();
        let is_known = version != "ff" && !(version == "00" && has_more);
        let is_sampled = flags & 1 == 1;
        (is_known && parent_id != 0).then_some(TraceParent { trace_id, parent_id, is_sampled })
    }
}

/// So many digits in lower case; others are none by the specification.
fn hex(text: &str, n_digits: usize) -> Option<&str> {
    let is_digit = |c: u8| matches!(c, b'0'..=b'9' | b'a'..=b'f');
    (text.len() == n_digits && text.bytes().all(is_digit)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn a_header_is_read_by_the_specification_or_ignored() {
        #[track_caller]
        fn check(text: &str, expect: Option<bool>) {
            let found = TraceParent::parse(text);
            assert_eq!(found.map(|parent| parent.is_sampled), expect, "{text}");
            if let Some(TraceParent { trace_id, parent_id, .. }) = found {
                assert_eq!(
                    (trace_id.to_string().as_str(), parent_id),
                    (TRACE, 0x00f0_67aa_0ba9_02b7)
                );
            }
        }
        let after =
            |version: &str, rest: &str| format!("{version}-{TRACE}-00f067aa0ba902b7-{rest}");
        check(&after("00", "01"), Some(true));
        check(&after("00", "00"), Some(false));
        // Flags that nobody knows yet.
        check(&after("00", "03"), Some(true));
        check(&after("00", "fe"), Some(false));
        // A later version may have more, after a hyphen.
        check(&after("cc", "01"), Some(true));
        check(&after("cc", "01-what-the-future"), Some(true));
        check(&after("cc", "01."), None);
        check(&after("00", "01-more"), None);
        check(&after("00", "01-"), None);
        check(&after("ff", "01"), None);
        check(&after("0", "01"), None);
        check(&after("00", "1"), None);
        check(&after("00", "0x"), None);
        check(&after("00", ""), None);
        check(&after("00", "01").to_uppercase(), None);
        check("", None);
        check("00", None);
        check(&format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)), None);
        check(&format!("00-{TRACE}-{}-01", "0".repeat(16)), None);
        check(&format!("00-+{}-00f067aa0ba902b7-01", &TRACE[1..]), None);
        check(&format!("00-{}-00f067aa0ba902b7-01", &TRACE[1..]), None);
    }
}
