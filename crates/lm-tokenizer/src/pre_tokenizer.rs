//! Cuts text into words before byte-level BPE, by the rule that the model was trained with.
//!
//! It must never know tokens. The expressions are those of the models' own `tokenizer.json`, and
//! the names those of GGUF's `tokenizer.ggml.pre`.
//!
//! Start reading at [`RULES`], then [`PreTokenizer::split`].

use std::ops::Range;

use regex::Regex;

use crate::TokenizerError;

/// What one name of `tokenizer.ggml.pre` stands for.
#[derive(Debug)]
pub(crate) struct Rule {
    names: &'static [&'static str],
    /// Applied one after the other: each cuts the pieces that the one before left.
    patterns: &'static [&'static str],
    /// A word that is a token is taken as it is, without asking the merges.
    pub(crate) ignore_merges: bool,
    /// Whether a text begins with `bos` when the metadata does not say.
    pub(crate) add_bos: bool,
}

/// `\s+(?!\S)|\s+`, with which the models' expressions end, is written `\s+` here, and
/// [`Stage::kept_len`] does what the look-ahead would: so the expressions stay regular, and
/// matching takes linear time on any text.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+";
const LLAMA3: &str = concat!(
    r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|",
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
);
const QWEN2: &str = concat!(
    r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|",
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
);
const QWEN35: &str = concat!(
    r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|",
    r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
);
const GPT4O: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|\p{N}{1,3}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+",
);
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+",
);
const DEEPSEEK3: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|"##,
    r##"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+"##,
);

/// Every known rule.
pub(crate) static RULES: &[Rule] = &[
    rule(&["gpt-2", "phi-2", "olmo", "mpt", "jais", "exaone4", "mellum", "trillion"], &[GPT2]),
    rule(
        &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
        &[r"\p{N}", GPT2],
    ),
    rule(&["default"], &[r"[\p{P}$+<=>^~|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]),
    Rule {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "lfm2"],
        patterns: &[LLAMA3],
        ignore_merges: true,
        add_bos: true,
    },
    rule(&["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"], &[LLAMA3]),
    rule(&["qwen2", "deepseek-r1-qwen", "megrez", "stablelm2", "hunyuan"], &[QWEN2]),
    rule(&["qwen35"], &[QWEN35]),
    rule(&["gpt-4o", "llama4", "kanana2", "minimax-m2"], &[GPT4O]),
    Rule { names: &["tekken"], patterns: &[TEKKEN], ignore_merges: true, add_bos: true },
    rule(
        &["deepseek-coder"],
        &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\u{d7ff}]+", r"\p{N}"],
    ),
    rule(&["deepseek-v3"], &[r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3]),
];

/// What `tokenizer.ggml.pre` may be, one name for each rule.
pub fn pre_tokenizer_names() -> impl Iterator<Item = &'static str> {
    RULES.iter().map(|rule| rule.names[0])
}

/// Cuts text into words.
#[derive(Debug)]
pub(crate) struct PreTokenizer {
    stages: Vec<Stage>,
}

#[derive(Debug)]
struct Stage {
    regex: Regex,
    /// White space that ends in a line's end is a word of its own.
    line_ends_apart: bool,
}

impl Rule {
    /// The rule of this name; no name is `default`.
    pub(crate) fn named(name: Option<&str>) -> Result<&'static Rule, TokenizerError> {
        let name = name.unwrap_or("default");
        RULES.iter().find(|rule| rule.names.contains(&name)).ok_or_else(|| {
            let known: Vec<&str> = RULES.iter().flat_map(|rule| rule.names).copied().collect();
            TokenizerError::UnknownPre { pre: name.to_owned(), known: known.join(", ") }
        })
    }

    /// Compiles the rule.
    pub(crate) fn compile(&self) -> Result<PreTokenizer, TokenizerError> {
        let compile = |pattern: &&str| {
            let regex = Regex::new(pattern)
                .map_err(|e| TokenizerError::Matcher { what: "words", message: e.to_string() })?;
            Ok(Stage { regex, line_ends_apart: pattern.contains(r"\s*[\r\n]+") })
        };
        Ok(PreTokenizer { stages: self.patterns.iter().map(compile).collect::<Result<_, _>>()? })
    }
}

impl PreTokenizer {
    /// The words of `text`: half-open ranges of bytes that cover all of it, in order.
    pub(crate) fn split(&self, text: &str) -> Vec<Range<usize>> {
        let mut pieces = Vec::from_iter(std::iter::once(0..text.len()));
        for stage in &self.stages {
            let mut finer = Vec::with_capacity(pieces.len());
            for piece in pieces {
                split_piece(stage, &text[piece.clone()], piece.start, &mut finer);
            }
            pieces = finer;
        }
        pieces
    }
}

const fn rule(names: &'static [&'static str], patterns: &'static [&'static str]) -> Rule {
    Rule { names, patterns, ignore_merges: false, add_bos: false }
}

/// Cuts one piece into matches and what lies between them. `offset` is where the piece begins.
fn split_piece(stage: &Stage, piece: &str, offset: usize, out: &mut Vec<Range<usize>>) {
    let mut done = 0;
    while let Some(found) = stage.regex.find_at(piece, done) {
        let end = found.start() + stage.kept_len(found.as_str(), &piece[found.end()..]);
        if done < found.start() {
            out.push(offset + done..offset + found.start());
        }
        out.push(offset + found.start()..offset + end);
        done = end;
    }
    if done < piece.len() {
        out.push(offset + done..offset + piece.len());
    }
}

impl Stage {
    /// How much of `found` the look-ahead of `\s+(?!\S)` would keep: white space that a word
    /// follows leaves its last character to the word.
    fn kept_len(&self, found: &str, after: &str) -> usize {
        let followed = after.chars().next().is_some_and(|c| !c.is_whitespace());
        let by_another_alternative = self.line_ends_apart && found.ends_with(['\r', '\n']);
        match found.char_indices().next_back() {
            Some((last, _))
                if last > 0
                    && followed
                    && !by_another_alternative
                    && found.chars().all(char::is_whitespace) =>
            {
                last
            }
            _ => found.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[track_caller]
    fn check(pre: &str, text: &str, expect: &[&str]) {
        let words = Rule::named(Some(pre)).unwrap().compile().unwrap().split(text);
        let words: Vec<&str> = words.into_iter().map(|range| &text[range]).collect();
        assert_eq!(words, expect);
    }

    #[test]
    fn gpt2_words() {
        check("gpt-2", "", &[]);
        check("gpt-2", "I'm here, 123!", &["I", "'m", " here", ",", " 123", "!"]);
        check("gpt-2", "a   b", &["a", "  ", " b"]);
        check("gpt-2", "a  \n b  ", &["a", "  \n", " b", "  "]);
        check("gpt-2", "a\n\nb", &["a", "\n", "\n", "b"]);
        check("gpt-2", "a\t\u{a0}b", &["a", "\t", "\u{a0}", "b"]);
        check("gpt-2", "日本語。 é👍", &["日本語", "。", " é", "👍"]);
    }

    #[test]
    fn smollm_takes_digits_one_by_one() {
        check("smollm", "x  12 3", &["x", "  ", "1", "2", " ", "3"]);
    }

    #[test]
    fn llama3_words() {
        check("llama-bpe", "1234 I'LL", &["123", "4", " I", "'LL"]);
        check("llama3", "a\n\n  b", &["a", "\n\n", " ", " b"]);
        check("llama3", "a \n \n  b!\n\nc", &["a", " \n \n", " ", " b", "!\n\n", "c"]);
        check("llama3", "(foo) ...\n", &["(foo", ")", " ...\n"]);
        check("qwen2", "12ab", &["1", "2", "ab"]);
    }

    #[test]
    fn other_words() {
        check("gpt-4o", "camelCase HTTPServer don't", &["camel", "Case", " HTTPServer", " don't"]);
        check("deepseek-v3", "你好 12345 _x", &["你好", " ", "123", "45", " _", "x"]);
        check("default", "a==b 1234", &["a", "==", "b", " ", "123", "4"]);
    }

    #[test]
    fn every_rule_compiles_and_covers_the_text() {
        let text =
            "The  quick\r\n\t fox's 1,234.5 $ ÀÉ 中文 한국어 👍🏽 e\u{301} \u{fffd}\0 \n\n  x ";
        for rule in RULES {
            let words = rule.compile().unwrap().split(text);
            let joined: String = words.iter().map(|range| &text[range.clone()]).collect();
            assert_eq!(joined, text, "{:?}", rule.names);
        }
    }

    #[test]
    fn an_unknown_rule_is_named_with_the_known_ones() {
        let message = Rule::named(Some("klingon")).unwrap_err().to_string();
        assert!(message.contains("\"klingon\"") && message.contains("llama-bpe"), "{message}");
    }
}
