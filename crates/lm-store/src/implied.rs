//! What a server says of an answer by itself: that it was edited, or that a rule changed it. It is the comment of a feedback,
//! in a form of its own.
//!
//! It must never hold a word of prompts and answers: it is kept with privacy off, too.
//!
//! Start reading at [`Implied::of`].

use std::fmt::{self, Display};

/// What happened to an answer that says something of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Implied {
    /// Somebody changed its text and had it go on.
    Edited {
        /// Tokens of it that stayed.
        n_kept: usize,
    },
    /// A rule changed something about it.
    Overridden {
        /// The rule's id.
        rule: String,
        /// What it did, in a stable word.
        action: String,
    },
}

const EDITED: &str = "edited after token ";
const OVERRIDE: &str = "override ";
/// Of an id of a rule, and of an action.
const MAX_BYTES: usize = 64;

impl Implied {
    /// From a feedback's comment; `None` for what people wrote.
    #[must_use]
    pub fn of(comment: &str) -> Option<Implied> {
        if let Some(n_kept) = comment.strip_prefix(EDITED) {
            return n_kept.parse().ok().map(|n_kept| Implied::Edited { n_kept });
        }
        let (rule, action) = comment.strip_prefix(OVERRIDE)?.split_once(": ")?;
        let is_id = |c: u8| c.is_ascii_alphanumeric() || b"-_.".contains(&c);
        let is_word = |c: u8| c.is_ascii_lowercase() || c == b'_';
        let fits = |text: &str, allowed: &dyn Fn(u8) -> bool| {
            (1..=MAX_BYTES).contains(&text.len()) && text.bytes().all(allowed)
        };
        (fits(rule, &is_id) && fits(action, &is_word))
            .then(|| Implied::Overridden { rule: rule.to_owned(), action: action.to_owned() })
    }
}

impl Display for Implied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Implied::Edited { n_kept } => write!(f, "{EDITED}{n_kept}"),
            Implied::Overridden { rule, action } => write!(f, "{OVERRIDE}{rule}: {action}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_sentences_are_not() {
        let overridden = |rule: &str| Implied::Overridden {
            rule: rule.to_owned(),
            action: "ban_stop".to_owned(),
        };
        for implied in [Implied::Edited { n_kept: 12 }, overridden("no-prices.2")] {
            assert_eq!(Implied::of(&implied.to_string()), Some(implied));
        }
        let sentences =
            ["edited after token x", "override it: Please do", "override my own: no", ""];
        for comment in sentences {
            assert_eq!(Implied::of(comment), None, "{comment}");
        }
        assert_eq!(Implied::of(&overridden(&"x".repeat(65)).to_string()), None);
    }
}
