//! One Rust file, and which of its lines are tests.

use std::ops::Range;

use super::masked::{Masked, mask};

/// One Rust file.
#[derive(Debug)]
pub(super) struct Source {
    /// Relative to the root.
    pub(super) path: String,
    /// As it is.
    pub(super) text: String,
    /// Split by kind, line for line.
    pub(super) masked: Masked,
    /// Lines, from 0, of items under `#[cfg(test)]`.
    test_lines: Vec<Range<usize>>,
}

impl Source {
    pub(super) fn new(path: &str, text: &str) -> Self {
        let masked = mask(text);
        let test_lines = test_lines(&masked.code);
        Source { path: path.replace('\\', "/"), text: text.to_owned(), masked, test_lines }
    }

    /// Whether the whole file is a test.
    pub(super) fn is_test_file(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.split('/').any(|part| part == "tests")
    }

    /// Whether a line, from 0, is part of a test.
    pub(super) fn is_test(&self, line: usize) -> bool {
        self.is_test_file() || self.test_lines.iter().any(|range| range.contains(&line))
    }
}

/// Where each word of `code` stands: its line, from 0, and the bytes around it.
pub(super) fn find_words<'a>(
    code: &'a str,
    word: &'a str,
) -> impl Iterator<Item = (usize, usize)> + 'a {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let bytes = code.as_bytes();
    code.match_indices(word).filter_map(move |(at, _)| {
        let starts = at == 0 || !is_word(bytes[at - 1]) || !is_word(word.as_bytes()[0]);
        let end = at + word.len();
        let ends = end == bytes.len() || !is_word(bytes[end]) || !is_word(bytes[end - 1]);
        (starts && ends).then(|| (line_of(code, at), at))
    })
}

/// The line, from 0, of a byte.
pub(super) fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count()
}

/// The byte of the brace that closes the one at `open`.
pub(super) fn closing_brace(code: &str, open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

/// The first `{` or `;` from `start` on that is not inside of parentheses or brackets.
pub(super) fn body_or_end(code: &str, start: usize) -> Option<usize> {
    let mut depth = 0_i32;
    for (at, byte) in code.bytes().enumerate().skip(start) {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b'{' | b';' if depth == 0 => return Some(at),
            _ => {}
        }
    }
    None
}

fn test_lines(code: &str) -> Vec<Range<usize>> {
    let attributes = ["#[cfg(test)]", "#[cfg(all(test,", "#[cfg(any(test,"];
    let starts = attributes.iter().flat_map(|attribute| code.match_indices(attribute));
    let region = |(start, _): (usize, &str)| {
        let body = body_or_end(code, start)?;
        let is_block = code.as_bytes()[body] == b'{';
        let end = if is_block { closing_brace(code, body)? } else { body };
        Some(line_of(code, start)..line_of(code, end) + 1)
    };
    starts.filter_map(region).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, text: &str, test_lines: &[usize]) {
        let source = Source::new(path, text);
        let found: Vec<_> =
            (0..text.lines().count()).filter(|line| source.is_test(*line)).collect();
        assert_eq!(found, test_lines);
    }

    #[test]
    fn tests_are_known_by_path_and_by_attribute() {
        check("crates/a/src/lib.rs", "fn a() {\n}\n", &[]);
        check("crates/a/src/lib.rs", "a\n#[cfg(test)]\nmod tests {\n  b {}\n}\nc", &[1, 2, 3, 4]);
        check("crates/a/src/lib.rs", "a\n#[cfg(test)]\nmod tests;\nb", &[1, 2]);
        check("crates/a/src/lib.rs", "\"\n#[cfg(test)]\nmod tests {\n}\n\"", &[]);
        check("crates/a/tests/x.rs", "a\nb", &[0, 1]);
        check("crates/a/src/gguf/tests.rs", "a", &[0]);
        check("crates/latests/src/lib.rs", "a", &[]);
    }
}
