//! The house rules that no compiler checks. Each breach is one line: file, line, rule, fact.

mod docs;
mod duplicates;
mod floors;
mod masked;
mod sizes;
mod source;
mod unsafety;
mod words;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use cargo_metadata::MetadataCommand;

use source::Source;

/// A breach of a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    /// Relative to the root.
    path: String,
    /// From 1; 0 for the file as a whole.
    line: usize,
    rule: &'static str,
    fact: String,
}

impl Finding {
    fn new(path: &str, line: usize, rule: &'static str, fact: impl Into<String>) -> Self {
        Finding { path: path.to_owned(), line, rule, fact: fact.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.path, self.line.max(1), self.rule, self.fact)
    }
}

/// Checks the workspace at `root` and prints what is found. True when nothing is.
pub(crate) fn run(root: &Path) -> anyhow::Result<bool> {
    let metadata = MetadataCommand::new()
        .current_dir(root)
        .no_deps()
        .other_options(vec!["--locked".to_owned()])
        .exec()
        .context("cargo metadata")?;
    let mut paths = Vec::new();
    for package in metadata.workspace_packages() {
        let folder = package.manifest_path.parent().context("a manifest lies in a folder")?;
        rust_files(folder.as_std_path(), &mut paths)?;
    }
    paths.sort();
    let mut findings = Vec::new();
    for path in &paths {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let relative = path.strip_prefix(root).unwrap_or(path).to_string_lossy();
        let source = Source::new(&relative, &text);
        findings.extend(sizes::check(&source));
        findings.extend(words::check(&source));
        findings.extend(unsafety::check(&source));
        findings.extend(docs::check_lib(&source));
    }
    let members = floors::members(&metadata);
    findings.extend(floors::check(&members));
    findings.extend(docs::check_root(root, &members));
    findings.extend(duplicates::run(root)?);
    findings.sort();
    for finding in &findings {
        println!("{finding}");
    }
    let (n_files, n_members) = (paths.len(), members.len());
    println!("tidy: {} findings in {n_files} files of {n_members} packages", findings.len());
    Ok(findings.is_empty())
}

fn rust_files(folder: &Path, paths: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let entries = std::fs::read_dir(folder);
    for entry in entries.with_context(|| format!("cannot list {}", folder.display()))? {
        let entry = entry?;
        let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        if entry.file_type()?.is_dir() {
            if !name.starts_with('.') && name != "target" {
                rust_files(&path, paths)?;
            }
        } else if name.ends_with(".rs") {
            paths.push(path);
        }
    }
    Ok(())
}
