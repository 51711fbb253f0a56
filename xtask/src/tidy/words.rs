//! Words that have no place in the sources.

use super::Finding;
use super::source::{Source, find_words};

/// Where a word must not be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Code,
    CodeWithoutTests,
    Comments,
}

/// The word, its rule, and where it must not be.
const WORDS: [(&str, &str, Place); 9] = [
    ("todo!", "unfinished", Place::Code),
    ("unimplemented!", "unfinished", Place::Code),
    ("dbg!", "debugging", Place::Code),
    ("TODO", "unfinished", Place::Comments),
    ("FIXME", "unfinished", Place::Comments),
    ("#[ignore", "ignored-test", Place::Code),
    ("#[allow(", "allow", Place::Code),
    ("#![allow(", "allow", Place::Code),
    (".unwrap()", "unwrap", Place::CodeWithoutTests),
];

pub(super) fn check(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (word, rule, place) in WORDS {
        let is_comment = place == Place::Comments;
        let text = if is_comment { &source.masked.comments } else { &source.masked.code };
        for (line, _) in find_words(text, word) {
            let allowed = place == Place::CodeWithoutTests && source.is_test(line);
            if !allowed {
                findings.push(Finding::new(&source.path, line + 1, rule, advice(rule, word)));
            }
        }
    }
    findings
}

fn advice(rule: &str, word: &str) -> String {
    match rule {
        "allow" => "write #[expect(lint, reason = \"...\")]".to_owned(),
        "unwrap" => "return an error, or expect(\"...: this is a bug\")".to_owned(),
        "ignored-test" => "a test runs, or is not there".to_owned(),
        _ => format!("{word} is not left in the sources"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, text: &str, expect: &[(usize, &str)]) {
        let found = super::check(&Source::new(path, text));
        let found: Vec<_> = found.iter().map(|finding| (finding.line, finding.rule)).collect();
        assert_eq!(found, expect);
    }

    #[test]
    fn words_are_found_in_their_place_alone() {
        check("a.rs", "fn a() {\n    todo!()\n}", &[(2, "unfinished")]);
        check("a.rs", "// TODO: later\n/// FIXME", &[(1, "unfinished"), (2, "unfinished")]);
        check("a.rs", "let s = \"TODO todo!() .unwrap()\"; // dbg!(x)", &[]);
        check("a.rs", "struct TODOS;\nmy_todo!();", &[]);
        check("a.rs", "#[allow(dead_code)]\n#![allow(unused)]", &[(1, "allow"), (2, "allow")]);
        check("a.rs", "#[expect(dead_code, reason = \"r\")]", &[]);
        check("a.rs", "#[ignore = \"slow\"]\nfn a() {}", &[(1, "ignored-test")]);
        check("a.rs", "a.unwrap();\nb.unwrap_or(1);", &[(1, "unwrap")]);
        check("a.rs", "#[cfg(test)]\nmod t {\n a.unwrap();\n dbg!(a);\n}", &[(4, "debugging")]);
        check("tests/it/a.rs", "a.unwrap();", &[]);
    }
}
