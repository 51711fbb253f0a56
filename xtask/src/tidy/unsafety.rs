//! Unsafe code: in few files, and with its argument above it.

use super::Finding;
use super::source::{Source, find_words};

/// Files that may hold unsafe code, and why.
const OPEN: [(&str, &str); 5] = [
    ("models/src/mapped.rs", "maps model files"),
    ("kernels/src/", "vector instructions, and the pool of workers"),
    ("kernels/examples/rates.rs", "a plain FMA loop as the yardstick"),
    ("crates/lm-cli/src/allocator.rs", "an option of the allocator"),
    ("crates/lm-cpu/src/arena.rs", "memory on huge pages"),
];

/// Lines above an `unsafe` in which its argument stands, or at least ends.
const REACH: usize = 3;

pub(super) fn check(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    // A path that ends in a slash is a folder.
    let is_in =
        |path: &str| source.path == path || path.ends_with('/') && source.path.starts_with(path);
    let is_open = OPEN.iter().any(|(path, _)| is_in(path));
    let comments: Vec<&str> = source.masked.comments.lines().collect();
    for (line, _) in find_words(&source.masked.code, "unsafe") {
        if !is_open {
            let fact = "this file is not one of those that may hold unsafe code";
            findings.push(Finding::new(&source.path, line + 1, "unsafe-file", fact));
        }
        if !is_argued(&comments[..=line]) {
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

/// Whether the last of these lines has an argument near it.
fn is_argued(comments: &[&str]) -> bool {
    let is_argument = |comment: &&str| comment.contains("SAFETY:") || comment.contains("# Safety");
    let is_comment = |comment: &&str| !comment.trim().is_empty();
    let mut upwards = comments.iter().rev().copied();
    if upwards.by_ref().take(REACH + 1).any(|comment| is_argument(&comment)) {
        return true;
    }
    let nearest = comments.len().checked_sub(REACH + 1).map(|at| comments[at]);
    nearest.is_some_and(|comment| is_comment(&comment))
        && upwards.take_while(is_comment).any(|comment| is_argument(&comment))
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
        check(open, "// SAFETY: long,\n// a\n// b\n// c\n// d\nunsafe { f() }", &[]);
        check(open, "// SAFETY: far.\n\n\n\nunsafe { f() }", &[(5, "safety-comment")]);
        check(open, "unsafe fn f() {}", &[(1, "safety-comment")]);
        check(open, "#![expect(unsafe_code, reason = \"mmap\")]", &[]);
        let both = [(1, "unsafe-file"), (1, "safety-comment")];
        check("crates/a/src/lib.rs", "unsafe impl Send for A {}", &both);
        check("a.rs", "#![expect(unsafe_code, reason = \"r\")]", &[(1, "unsafe-file")]);
        check("a.rs", "// unsafe\nlet a = \"unsafe {}\";", &[]);
    }
}
