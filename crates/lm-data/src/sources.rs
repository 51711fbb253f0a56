//! Which files an ingest reads.
//!
//! It must never open one but to tell its format.
//!
//! Start reading at [`list`].

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::io_error;
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
            sources.push(source(
                name_of(path.file_name().unwrap_or_default()),
                path.clone(),
                options.format,
            )?);
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
    Ok(SourcePath { name, path, format, left_out: false })
}

/// The files under a folder in the order of their names, which are paths under it with `/`; and why others are left
/// out.
pub(crate) fn in_folder(
    folder: &Path,
    options: &IngestOptions,
) -> Result<(Vec<SourcePath>, Vec<DataError>), DataError> {
    let mut files = Vec::new();
    let mut unknown = Vec::new();
    walk(folder, "", &mut files, &mut unknown)?;
    files.retain(|(name, _)| {
        options.include.is_empty() || options.include.iter().any(|glob| fits(glob, name))
    });
    files.sort();
    let mut sources = Vec::new();
    for (name, path) in files {
        match source(name, path, options.format) {
            Ok(source) => sources.push(source),
            // Gone since the folder was listed.
            Err(DataError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
            Err(error) => unknown.push(error),
        }
    }
    Ok((sources, unknown))
}

/// Lists a folder. What of it cannot be looked at goes to `unknown`; only the folder itself must be there.
fn walk(
    folder: &Path,
    prefix: &str,
    files: &mut Vec<(String, PathBuf)>,
    unknown: &mut Vec<DataError>,
) -> Result<(), DataError> {
    for entry in fs::read_dir(folder).map_err(io_error("list", folder))? {
        let entry = entry.map_err(io_error("list", folder))?;
        let name = name_of(&entry.file_name());
        let is_unfinished = UNFINISHED.iter().any(|ending| name.ends_with(ending));
        if name.starts_with('.') || is_unfinished {
            continue;
        }
        let path = entry.path();
        let name = format!("{prefix}{name}");
        let looked = match entry.file_type().map_err(io_error("look at", &path)) {
            Ok(kind) if kind.is_dir() => walk(&path, &format!("{name}/"), files, unknown),
            Ok(_) => {
                if path.is_file() {
                    files.push((name, path));
                }
                Ok(())
            }
            Err(error) => Err(error),
        };
        match looked {
            // Gone since the folder was listed.
            Err(DataError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
            Err(error) => unknown.push(error),
            Ok(()) => {}
        }
    }
    Ok(())
}

/// A file's name as text, of which no two files of a folder have the same: bytes that are not UTF-8 become `\xNN`,
/// and a backslash two.
fn name_of(name: &OsStr) -> String {
    let mut text = String::new();
    for chunk in name.as_encoded_bytes().utf8_chunks() {
        text.push_str(&chunk.valid().replace('\\', "\\\\"));
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
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
