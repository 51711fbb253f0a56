//! Files and functions that outgrew the page they are read on.

use super::Finding;
use super::source::{Source, body_or_end, closing_brace, find_words, line_of};

const MAX_FILE_LINES: usize = 600;
const MAX_CODE_LINES: usize = 400;
const MAX_FUNCTION_LINES: usize = 70;

/// Files that are one table, and may be as long as it is.
const TABLES: [&str; 0] = [];

pub(super) fn check(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let is_table = TABLES.contains(&source.path.as_str());
    let n_lines = source.text.lines().count();
    if n_lines > MAX_FILE_LINES && !is_table {
        let fact = format!("{n_lines} lines, at most {MAX_FILE_LINES} may be");
        findings.push(Finding::new(&source.path, 0, "file-size", fact));
    } else if !source.is_test_file() && !is_table {
        let n_code = (0..n_lines).filter(|line| !source.is_test(*line)).count();
        if n_code > MAX_CODE_LINES {
            let fact = format!("{n_code} lines without tests, at most {MAX_CODE_LINES} may be");
            findings.push(Finding::new(&source.path, 0, "file-size", fact));
        }
    }
    findings.extend(functions(source));
    findings
}

fn functions(source: &Source) -> Vec<Finding> {
    let code = &source.masked.code;
    let mut findings = Vec::new();
    for (line, at) in find_words(code, "fn") {
        let name = code[at + 2..].trim_start();
        // `fn(u8) -> u8` is a type.
        if !name.starts_with(|char: char| char.is_alphabetic() || char == '_') {
            continue;
        }
        let Some(body) = body_or_end(code, at) else { continue };
        if code.as_bytes()[body] != b'{' {
            continue;
        }
        let Some(end) = closing_brace(code, body) else { continue };
        let n_lines = line_of(code, end) - line + 1;
        if n_lines > MAX_FUNCTION_LINES {
            let end = name.find(|char: char| !char.is_alphanumeric() && char != '_');
            let name = &name[..end.unwrap_or(name.len())];
            let fact = format!("{name} has {n_lines} lines, at most {MAX_FUNCTION_LINES} may be");
            findings.push(Finding::new(&source.path, line + 1, "function-size", fact));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, text: &str, expect: &[&str]) {
        let found = super::check(&Source::new(path, text));
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, expect);
    }

    #[test]
    fn long_files_are_found_and_their_tests_may_be_longer() {
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "a\n".repeat(190));
        check("crates/a/src/a.rs", &("a\n".repeat(400) + &tests), &[]);
        let fact = "file-size: 401 lines without tests, at most 400 may be";
        let long = format!("crates/a/src/a.rs:1: {fact}");
        check("crates/a/src/a.rs", &("a\n".repeat(401) + &tests), &[&long]);
        check("crates/a/tests/a.rs", &"a\n".repeat(600), &[]);
        let stop = "crates/a/tests/a.rs:1: file-size: 601 lines, at most 600 may be";
        check("crates/a/tests/a.rs", &"a\n".repeat(601), &[stop]);
    }

    #[test]
    fn long_functions_are_found_wherever_their_braces_are() {
        let with_body =
            |n_lines| format!("// a\npub fn long(a: [u8; 3]) {{\n{}}}\n", "x\n".repeat(n_lines));
        check("a.rs", &with_body(68), &[]);
        let fact = "a.rs:2: function-size: long has 71 lines, at most 70 may be";
        check("a.rs", &with_body(69), &[fact]);
        let types = "trait T { fn a(&self, f: fn(u8) -> [u8; 2]); }\n".to_owned();
        check("a.rs", &(types + &"x\n".repeat(80)), &[]);
        check("a.rs", &format!("fn a() {{ \"{{\"; }}\n{}", "x\n".repeat(80)), &[]);
    }
}
