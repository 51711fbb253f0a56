//! Which files an ingest reads.
//!
//! It must never open one but to tell its format.
//!
//! Start reading at [`list`].

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::io_error;
use crate::ingest::file_name;
use crate::read::Format;
use crate::reader::SourcePath;
use crate::{DataError, IngestOptions};

/// Endings of files that somebody is still writing.
const UNFINISHED: [&str; 5] = [".tmp", ".part", ".partial", ".crdownload", "~"];

/// The files of `paths`, folders by the names in them. Hidden files and those that are being written are left out.
pub(crate) fn list(
    paths: &[PathBuf],
    options: &IngestOptions,
) -> Result<Vec<SourcePath>, DataError> {
    let mut sources = Vec::new();
    for path in paths {
        if path.is_dir() {
            let (found, unknown) = in_folder(path, options)?;
            if let Some(error) = unknown.into_iter().next() {
                return Err(error);
            }
            sources.extend(found);
        } else {
            sources.push(source(file_name(path), path.clone(), options.format)?);
        }
    }
    let mut names = BTreeSet::new();
    if let Some(twice) = sources.iter().find(|source| !names.insert(&source.name)) {
        return Err(DataError::SameName { source_name: twice.name.clone() });
    }
    Ok(sources)
}

fn source(name: String, path: PathBuf, format: Option<Format>) -> Result<SourcePath, DataError> {
    let format = format.map_or_else(|| Format::of(&path), Ok)?;
    Ok(SourcePath { name, path, format })
}

/// The files under a folder in the order of their names, which are paths under it with `/`; and why others are left
/// out.
pub(crate) fn in_folder(
    folder: &Path,
    options: &IngestOptions,
) -> Result<(Vec<SourcePath>, Vec<DataError>), DataError> {
    let mut files = Vec::new();
    walk(folder, "", &mut files)?;
    files.retain(|(name, _)| {
        options.include.is_empty() || options.include.iter().any(|glob| fits(glob, name))
    });
    files.sort();
    let (mut sources, mut unknown) = (Vec::new(), Vec::new());
    for (name, path) in files {
        match source(name, path, options.format) {
            Ok(source) => sources.push(source),
            Err(error @ (DataError::UnknownFormat { .. } | DataError::Compressed { .. })) => {
                unknown.push(error);
            }
            // Gone since the folder was listed.
            Err(DataError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok((sources, unknown))
}

fn walk(folder: &Path, prefix: &str, files: &mut Vec<(String, PathBuf)>) -> Result<(), DataError> {
    for entry in fs::read_dir(folder).map_err(io_error("list", folder))? {
        let entry = entry.map_err(io_error("list", folder))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_unfinished = UNFINISHED.iter().any(|ending| name.ends_with(ending));
        if name.starts_with('.') || is_unfinished {
            continue;
        }
        let path = entry.path();
        let name = format!("{prefix}{name}");
        let kind = entry.file_type().map_err(io_error("look at", &path))?;
        if kind.is_dir() {
            walk(&path, &format!("{name}/"), files)?;
        } else if path.is_file() {
            files.push((name, path));
        }
    }
    Ok(())
}

/// Whether a name fits a pattern in which `*` stands for any characters. A pattern without `/` is about the last
/// part of the name.
fn fits(pattern: &str, name: &str) -> bool {
    let name = if pattern.contains('/') { name } else { name.rsplit('/').next().unwrap_or(name) };
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else {
        return false;
    };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, yes: &[&str], no: &[&str]) {
        yes.iter().for_each(|name| assert!(fits(pattern, name), "{pattern} does not fit {name}"));
        no.iter().for_each(|name| assert!(!fits(pattern, name), "{pattern} fits {name}"));
    }

    #[test]
    fn patterns_fit_names() {
        check("*.txt", &["a.txt", "b/c.txt", ".txt"], &["a.json", "a.txt.gz"]);
        check("spam/*", &["spam/a", "spam/b/c"], &["ham/a", "a/spam/b"]);
        check("a*b*c", &["abc", "axxbyyc"], &["ab", "acb"]);
        check("x", &["x", "y/x"], &["xy"]);
        check("a*a", &["aa", "aba"], &["a"]);
    }
}
