//! The beginning of a text that may be long.
//!
//! It must never cut in silence.
//!
//! Start reading at [`Cut`].

use serde::Serialize;

/// A text, as far as it is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cut {
    /// The text, or its beginning.
    pub text: String,
    /// Whether it goes on.
    pub is_cut: bool,
}

impl Cut {
    /// The first `most_chars` of a text.
    pub(crate) fn new(text: &str, most_chars: usize) -> Cut {
        match text.char_indices().nth(most_chars) {
            Some((end, _)) => Cut { text: text[..end].to_owned(), is_cut: true },
            None => Cut { text: text.to_owned(), is_cut: false },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Cut;

    #[test]
    fn a_text_is_cut_between_characters_and_says_so() {
        let cut = Cut::new("größer", 3);
        assert_eq!((cut.text.as_str(), cut.is_cut), ("grö", true));
        let whole = Cut::new("größer", 6);
        assert_eq!((whole.text.as_str(), whole.is_cut), ("größer", false));
    }
}
