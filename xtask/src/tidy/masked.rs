//! Rust text with its comments and literals told apart, line for line.

/// A text split in two of the same lines: what is not code, or not comment, is blank.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Masked {
    /// Without comments, and without the insides of literals.
    pub(super) code: String,
    /// Comments alone, doc comments included.
    pub(super) comments: String,
}

/// Splits `text`. Unterminated comments and literals go to its end.
pub(super) fn mask(text: &str) -> Masked {
    let mut scan = Scan { chars: text.chars().collect(), at: 0, out: Masked::default() };
    while let Some(char) = scan.peek(0) {
        match (char, scan.peek(1)) {
            ('/', Some('/')) => scan.line_comment(),
            ('/', Some('*')) => scan.block_comment(),
            ('"', _) => scan.string(),
            ('r', _) if scan.raw_string_hashes().is_some() => scan.raw_string(),
            ('\'', _) => scan.quote(),
            _ => scan.code(),
        }
    }
    scan.out
}

struct Scan {
    chars: Vec<char>,
    at: usize,
    out: Masked,
}

impl Scan {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn code(&mut self) {
        let char = self.chars[self.at];
        self.out.code.push(char);
        self.out.comments.push(if char == '\n' { '\n' } else { ' ' });
        self.at += 1;
    }

    fn comment(&mut self) {
        let char = self.chars[self.at];
        self.out.comments.push(char);
        self.out.code.push(if char == '\n' { '\n' } else { ' ' });
        self.at += 1;
    }

    fn blank(&mut self) {
        let char = if self.chars[self.at] == '\n' { '\n' } else { ' ' };
        self.out.code.push(char);
        self.out.comments.push(char);
        self.at += 1;
    }

    fn line_comment(&mut self) {
        while self.peek(0).is_some_and(|char| char != '\n') {
            self.comment();
        }
    }

    fn block_comment(&mut self) {
        let mut depth = 0_usize;
        while let Some(char) = self.peek(0) {
            match (char, self.peek(1)) {
                ('/', Some('*')) => {
                    depth += 1;
                    self.comment();
                }
                ('*', Some('/')) => {
                    depth -= 1;
                    self.comment();
                }
                _ => {}
            }
            self.comment();
            if depth == 0 {
                return;
            }
        }
    }

    fn string(&mut self) {
        self.code();
        while let Some(char) = self.peek(0) {
            match char {
                '"' => return self.code(),
                '\\' if self.peek(1).is_some() => {
                    self.blank();
                    self.blank();
                }
                _ => self.blank(),
            }
        }
    }

    /// The number of `#` of the raw string that begins here, when one does.
    fn raw_string_hashes(&self) -> Option<usize> {
        let is_word = |char: char| char.is_alphanumeric() || char == '_';
        let before = |back: usize| self.at.checked_sub(back).map(|at| self.chars[at]);
        let prefixed = matches!(before(1), Some('b' | 'c')) && !before(2).is_some_and(is_word);
        if before(1).is_some_and(is_word) && !prefixed {
            return None;
        }
        let n_hashes = self.chars[self.at + 1..].iter().take_while(|char| **char == '#').count();
        (self.peek(1 + n_hashes) == Some('"')).then_some(n_hashes)
    }

    fn raw_string(&mut self) {
        let n_hashes = self.raw_string_hashes().unwrap_or_default();
        for _ in 0..n_hashes + 2 {
            self.code();
        }
        while let Some(char) = self.peek(0) {
            let ends = char == '"' && (1..=n_hashes).all(|ahead| self.peek(ahead) == Some('#'));
            if ends {
                (0..=n_hashes).for_each(|_| self.code());
                return;
            }
            self.blank();
        }
    }

    /// A character literal, or the tick of a lifetime.
    fn quote(&mut self) {
        let is_literal = self.peek(1) == Some('\\') || self.peek(2) == Some('\'');
        self.code();
        if !is_literal {
            return;
        }
        if self.peek(0) == Some('\\') {
            self.blank();
        }
        if self.peek(0).is_some() {
            self.blank();
        }
        while self.peek(0).is_some_and(|char| char != '\'') {
            self.blank();
        }
        if self.peek(0).is_some() {
            self.code();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, code: &str, comments: &str) {
        let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let masked = mask(text);
        assert_eq!(squeeze(&masked.code), code);
        assert_eq!(squeeze(&masked.comments), comments);
        assert_eq!(masked.code.lines().count(), text.lines().count());
    }

    #[test]
    fn code_comments_and_literals_are_told_apart() {
        check("a(); // dbg", "a();", "// dbg");
        check("a /* x /* y */ z */ b", "a b", "/* x /* y */ z */");
        check(r#"f("unsafe // \" {", c)"#, r#"f(" ", c)"#, "");
        check("f(r#\"a \" // }\"#, b)", "f(r#\" \"#, b)", "");
        check("br\"\\\" + 1", "br\" \" + 1", "");
        check(r"('{', '\'', '\\', '\u{7d}', b)", r"(' ', ' ', ' ', ' ', b)", "");
        check("fn a<'a>(b: &'a str) {}", "fn a<'a>(b: &'a str) {}", "");
        check("for r in 0..r {}", "for r in 0..r {}", "");
        check("let r#fn = 1;", "let r#fn = 1;", "");
        check("\"open", "\"", "");
        check("a\n// b\n\"c\nd\"", "a \" \"", "// b");
    }
}
