//! Unsafe code: in few files, and with its argument above it.

use super::Finding;
use super::source::{Source, find_words};

/// Files that may hold unsafe code, and why.
const OPEN: [(&str, &str); 1] = [("models/src/mapped.rs", "maps model files")];

/// Lines above an `unsafe` in which its argument stands.
const REACH: usize = 3;

pub(super) fn check(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let is_open = OPEN.iter().any(|(path, _)| *path == source.path);
    let comments: Vec<&str> = source.masked.comments.lines().collect();
    for (line, _) in find_words(&source.masked.code, "unsafe") {
        if !is_open {
            let fact = "this file is not one of those that may hold unsafe code";
            findings.push(Finding::new(&source.path, line + 1, "unsafe-file", fact));
        }
        let above = &comments[line.saturating_sub(REACH)..=line];
        if !above.iter().any(|comment| comment.contains("SAFETY:")) {
            let fact = format!("no `// SAFETY:` within {REACH} lines above");
            findings.push(Finding::new(&source.path, line + 1, "safety-comment", fact));
        }
    }
    for (line, _) in find_words(&source.masked.code, "unsafe_code") {
        if !is_open {
            let fact = "this file is not one of those that may open unsafe_code";
            findings.push(Finding::new(&source.path, line + 1, "unsafe-file", fact));
        }
    }
    findings
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
    fn unsafe_code_is_argued_for_and_only_in_open_files() {
        let open = "models/src/mapped.rs";
        check(open, "// SAFETY: the file is ours.\n// And stays so.\nunsafe { f() }", &[]);
        check(open, "// SAFETY: far.\n\n\n\nunsafe { f() }", &[(5, "safety-comment")]);
        check(open, "unsafe fn f() {}", &[(1, "safety-comment")]);
        check(open, "#![expect(unsafe_code, reason = \"mmap\")]", &[]);
        let both = [(1, "unsafe-file"), (1, "safety-comment")];
        check("crates/a/src/lib.rs", "unsafe impl Send for A {}", &both);
        check("a.rs", "#![expect(unsafe_code, reason = \"r\")]", &[(1, "unsafe-file")]);
        check("a.rs", "// unsafe\nlet a = \"unsafe {}\";", &[]);
    }
}
