//! Documents that must exist, and what each crate must say about itself.

use std::path::Path;

use super::Finding;
use super::floors::Member;
use super::source::Source;

const ROOT_FILES: [&str; 7] = [
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE-MIT",
    "LICENSE-APACHE",
    "deny.toml",
];

/// A `lib.rs` says what the crate is, what it must never know, and where to start reading.
pub(super) fn check_lib(source: &Source) -> Vec<Finding> {
    if !source.path.ends_with("lib.rs") {
        return Vec::new();
    }
    let docs: Vec<&str> =
        source.text.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim).collect();
    let has = |part: &str| docs.iter().any(|line| line.contains(part));
    let parts = [
        ("what the crate is", docs.first().is_some_and(|line| !line.is_empty())),
        ("what it \"must never\" know", has("must never")),
        ("where to \"Start reading\"", has("Start reading")),
    ];
    let missing = parts.iter().filter(|(_, said)| !said);
    let finding = |(part, _): &(&str, bool)| {
        Finding::new(&source.path, 1, "module-docs", format!("the docs do not say {part}"))
    };
    missing.map(finding).collect()
}

/// The root has its documents, and ARCHITECTURE.md names every crate.
pub(super) fn check_root(root: &Path, members: &[Member]) -> Vec<Finding> {
    let missing = ROOT_FILES.iter().filter(|name| !root.join(name).is_file());
    let mut findings: Vec<_> =
        missing.map(|name| Finding::new(name, 0, "root-file", "this file must exist")).collect();
    if let Ok(text) = std::fs::read_to_string(root.join("ARCHITECTURE.md")) {
        findings.extend(check_tree(&text, members));
    }
    findings
}

fn check_tree(architecture: &str, members: &[Member]) -> Vec<Finding> {
    let is_word = |char: char| char.is_alphanumeric() || char == '-' || char == '_';
    let words: Vec<&str> = architecture.split(|char| !is_word(char)).collect();
    let folder = |member: &Member| {
        let folder = member.manifest.strip_suffix("/Cargo.toml").unwrap_or(&member.manifest);
        folder.rsplit('/').next().unwrap_or_default().to_owned()
    };
    let folders = members.iter().map(folder);
    let unnamed = folders.filter(|folder| !words.contains(&folder.as_str()));
    let finding = |folder: String| {
        Finding::new("ARCHITECTURE.md", 0, "tree", format!("the tree does not name {folder}"))
    };
    unnamed.map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, text: &str, expect: &[&str]) {
        let found = check_lib(&Source::new(path, text));
        let found: Vec<_> = found.iter().map(|finding| finding.fact.as_str()).collect();
        assert_eq!(found, expect);
    }

    #[test]
    fn a_crate_says_its_three_parts() {
        let whole =
            "//! Blocks.\n//!\n//! It must never block.\n//!\n//! Start reading at [`A`].\n";
        check("crates/a/src/lib.rs", whole, &[]);
        check("crates/a/src/a.rs", "", &[]);
        let part = ["the docs do not say where to \"Start reading\""];
        check("lib.rs", "//! Blocks.\n//! It must never block.\nfn a() {}", &part);
        check(
            "lib.rs",
            "#![no_std]\n",
            &[
                "the docs do not say what the crate is",
                "the docs do not say what it \"must never\" know",
                "the docs do not say where to \"Start reading\"",
            ],
        );
    }

    #[test]
    fn the_tree_names_every_folder() {
        let member = |manifest: &str| Member { manifest: manifest.to_owned(), ..Member::default() };
        let members = [member("crates/lm-a/Cargo.toml"), member("models/Cargo.toml")];
        assert_eq!(check_tree("```\n  lm-a  F0\nmodels/  F2\n```", &members), []);
        let found = check_tree("lm-ab, models", &members);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].fact, "the tree does not name lm-a");
    }
}
