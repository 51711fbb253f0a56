//! Which versions of a dataset count in a place, and the digests of their files: `catalog.json`.
//!
//! It must never trust a name that it reads.
//!
//! Start reading at [`Catalog`].

use std::collections::{BTreeMap, BTreeSet};

use lm_data::{CarriedFile, Link, MAX_COUNT, Parcel, Pick, VersionSummary, is_carried, joins};
use serde::{Deserialize, Serialize};

/// What this program writes.
pub(crate) const FORMAT: u32 = 1;
pub(crate) const MANIFEST: &str = "manifest.json";

/// The versions, by their number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Catalog {
    format: u32,
    versions: Vec<Listed>,
}

/// A version that counts: all its files lie in the place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Listed {
    /// From 1.
    pub(crate) sequence: u64,
    /// Its id.
    pub(crate) version: String,
    /// The version before it.
    pub(crate) parent: Option<String>,
    /// Rows read.
    pub(crate) rows_in: u64,
    /// Rows published.
    pub(crate) rows_published: u64,
    /// Rows in quarantine.
    pub(crate) rows_quarantined: u64,
    /// Rows in quarantine by rule.
    pub(crate) by_rule: BTreeMap<String, u64>,
    /// When it was made, in Unix milliseconds.
    pub(crate) created_at_ms: u64,
    /// The files of its folder.
    pub(crate) files: Vec<CarriedFile>,
}

/// Why a catalog cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unread {
    /// A newer program wrote it, in this format.
    Newer(u32),
    /// What is wrong with it.
    Damaged(String),
}

/// What catalogs of every format say.
#[derive(Deserialize)]
struct Written {
    format: u32,
}

/// No one version is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotOne {
    pub(crate) n_matches: usize,
}

impl Listed {
    pub(crate) fn of(parcel: &Parcel) -> Listed {
        let manifest = &parcel.manifest;
        Listed {
            sequence: manifest.sequence,
            version: manifest.version.clone(),
            parent: manifest.parent.clone(),
            rows_in: manifest.rows_in,
            rows_published: manifest.rows_published,
            rows_quarantined: manifest.rows_quarantined,
            by_rule: manifest.by_rule.clone(),
            created_at_ms: manifest.created_at_ms,
            files: parcel.files.clone(),
        }
    }

    pub(crate) fn link(&self) -> Link<'_> {
        let Listed { sequence, version, parent, .. } = self;
        Link { sequence: *sequence, version, parent: parent.as_deref() }
    }

    pub(crate) fn file(&self, name: &str) -> Option<&CarriedFile> {
        self.files.iter().find(|file| file.name == name)
    }

    pub(crate) fn contract(&self) -> Option<&CarriedFile> {
        self.contracts().next()
    }

    fn contracts(&self) -> impl Iterator<Item = &CarriedFile> {
        self.files.iter().filter(|file| file.name.starts_with("contract."))
    }

    pub(crate) fn summary(&self) -> VersionSummary {
        VersionSummary {
            version: self.version.clone(),
            parent: self.parent.clone(),
            rows_in: self.rows_in,
            rows_published: self.rows_published,
            rows_quarantined: self.rows_quarantined,
            by_rule: self.by_rule.clone(),
        }
    }

    fn fault(&self) -> Option<String> {
        let is_hash = |text: &str| {
            text.len() == 64 && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
        };
        let sequence = self.sequence;
        if !(1..=MAX_COUNT).contains(&sequence) {
            return Some(format!("a version has the number {sequence}, of 1 to {MAX_COUNT}"));
        }
        if !is_hash(&self.version) {
            return Some(format!("version {sequence} has no digest"));
        }
        let is_fine = |file: &CarriedFile| is_carried(&file.name) && is_hash(&file.hash);
        if let Some(file) = self.files.iter().find(|file| !is_fine(file)) {
            let name: String = file.name.chars().take(80).collect();
            return Some(format!("version {sequence} has a file {name:?} that no version has"));
        }
        let names: BTreeSet<&str> = self.files.iter().map(|file| file.name.as_str()).collect();
        if names.len() < self.files.len() || self.contracts().count() > 1 {
            return Some(format!("version {sequence} has a file or a contract twice"));
        }
        let is_whole = self.file(MANIFEST).is_some() && self.contract().is_some();
        (!is_whole).then(|| format!("version {sequence} has no manifest or no contract"))
    }
}

impl Catalog {
    pub(crate) fn empty() -> Catalog {
        Catalog { format: FORMAT, versions: Vec::new() }
    }

    /// Reads a catalog.
    pub(crate) fn read(bytes: &[u8]) -> Result<Catalog, Unread> {
        let damaged = |error: serde_json::Error| Unread::Damaged(error.to_string());
        let Written { format } = serde_json::from_slice(bytes).map_err(damaged)?;
        if format > FORMAT {
            return Err(Unread::Newer(format));
        }
        let catalog: Catalog = serde_json::from_slice(bytes).map_err(damaged)?;
        catalog.fault().map_or(Ok(catalog), |fault| Err(Unread::Damaged(fault)))
    }

    /// What is wrong with it: with one version, or with two beside each other.
    pub(crate) fn fault(&self) -> Option<String> {
        if self.format != FORMAT {
            return Some(format!("its format is {}", self.format));
        }
        let beside = |pair: &[Listed]| {
            let (before, after) = (pair[0].link(), pair[1].link());
            if before.sequence >= after.sequence {
                let (before, after) = (before.sequence, after.sequence);
                return Some(format!("version {after} is listed after version {before}"));
            }
            joins([before], after).err().map(|before| {
                let (before, after) = (before.sequence, after.sequence);
                format!("version {after} does not follow version {before}")
            })
        };
        let alone = self.versions.iter().find_map(Listed::fault);
        alone.or_else(|| self.versions.windows(2).find_map(beside))
    }

    pub(crate) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self)
            .expect("a catalog of numbers and strings is JSON: this is a bug")
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.versions.is_empty()
    }

    /// Whether a version has to be added; otherwise the one that it cannot stand beside.
    pub(crate) fn wants(&self, new: Link<'_>) -> Result<bool, Link<'_>> {
        joins(self.versions.iter().map(Listed::link), new)
    }

    /// The version, when it is in.
    pub(crate) fn entry(&self, link: Link<'_>) -> Option<&Listed> {
        self.versions
            .iter()
            .find(|listed| listed.sequence == link.sequence && listed.version == link.version)
    }

    pub(crate) fn add(&mut self, listed: Listed) {
        self.versions.push(listed);
        self.versions.sort_by_key(|listed| listed.sequence);
    }

    pub(crate) fn newest_first(&self) -> impl Iterator<Item = &Listed> {
        self.versions.iter().rev()
    }

    /// Those that are picked, the oldest first. A content that was published twice is one version, the newer.
    pub(crate) fn pick(&self, pick: Pick<'_>) -> Result<Vec<&Listed>, NotOne> {
        let wanted = match pick {
            Pick::All => return Ok(self.versions.iter().collect()),
            Pick::Newest => return Ok(self.versions.last().into_iter().collect()),
            Pick::Version(wanted) => wanted,
        };
        let mut found: Vec<&Listed> =
            self.newest_first().filter(|listed| listed.version.starts_with(wanted)).collect();
        let mut seen = BTreeSet::new();
        found.retain(|&listed| seen.insert(listed.version.as_str()));
        if found.len() == 1 { Ok(found) } else { Err(NotOne { n_matches: found.len() }) }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn file(name: &str, hash: &str) -> CarriedFile {
        CarriedFile { name: name.to_owned(), hash: hash.repeat(64), size_bytes: 1 }
    }

    fn listed(sequence: u64, version: &str) -> Listed {
        Listed {
            sequence,
            version: version.repeat(64),
            parent: (sequence > 1).then(|| "0".repeat(64)),
            rows_in: 1,
            rows_published: 1,
            rows_quarantined: 0,
            by_rule: BTreeMap::new(),
            created_at_ms: 0,
            files: vec![file("contract.toml", "a"), file(MANIFEST, "b")],
        }
    }

    #[track_caller]
    fn check(change: impl Fn(&mut Listed), expect: &str) {
        let mut catalog = Catalog::empty();
        catalog.add(listed(1, "a"));
        change(&mut catalog.versions[0]);
        let read = Catalog::read(&catalog.to_json()).map(|read| assert_eq!(read, catalog));
        check_read(read, expect);
    }

    #[track_caller]
    fn check_read(read: Result<(), Unread>, expect: &str) {
        match read {
            Ok(()) => assert_eq!(expect, ""),
            Err(Unread::Damaged(fault)) => {
                assert!(!expect.is_empty() && fault.contains(expect), "{fault}");
            }
            Err(Unread::Newer(format)) => panic!("it is of format {format}"),
        }
    }

    #[test]
    fn what_is_read_names_only_what_a_version_has() {
        check(|_| {}, "");
        check(|listed| listed.version = "../x".to_owned(), "no digest");
        check(|listed| listed.version.make_ascii_uppercase(), "no digest");
        check(|listed| listed.files.push(file("../../x", "a")), "\"../../x\"");
        check(|listed| listed.files.push(file("sources.jsonl", "x")), "\"sources.jsonl\"");
        check(|listed| _ = listed.files.pop(), "no manifest");
        check(|listed| _ = listed.files.remove(0), "no contract");
        check(|listed| listed.files.push(file(MANIFEST, "c")), "twice");
        check(|listed| listed.files.push(file("contract.json", "c")), "twice");
        check(|listed| listed.sequence = 0, "the number 0");
        check(|listed| listed.sequence = MAX_COUNT, "");
        check(|listed| listed.sequence = u64::MAX, "the number 18446744073709551615");
        check_read(Catalog::read(b"").map(drop), "EOF");
        check_read(Catalog::read(br#"{"format":0,"versions":[]}"#).map(drop), "its format is 0");
    }

    #[test]
    fn a_newer_catalog_is_known_as_such_whatever_is_in_it() {
        for newer in [r#"{"format":2,"versions":[]}"#, r#"{"line":{},"format":2}"#] {
            assert_eq!(Catalog::read(newer.as_bytes()).unwrap_err(), Unread::Newer(2));
        }
    }

    #[test]
    fn versions_beside_each_other_form_a_line() {
        let line = |versions: &[(u64, &str, &str)]| {
            let mut catalog = Catalog::empty();
            for &(sequence, id, parent) in versions {
                let parent = Some(parent.repeat(64)).filter(|parent| !parent.is_empty());
                catalog.versions.push(Listed { parent, ..listed(sequence, id) });
            }
            Catalog::read(&catalog.to_json()).map(drop)
        };
        check_read(line(&[(1, "a", ""), (2, "b", "a"), (5, "e", "d"), (6, "a", "e")]), "");
        check_read(line(&[(1, "a", ""), (1, "b", "")]), "version 1 is listed after version 1");
        check_read(line(&[(1, "a", ""), (1, "a", "")]), "version 1 is listed after version 1");
        check_read(line(&[(5, "e", "d"), (4, "d", "c")]), "version 4 is listed after version 5");
        check_read(line(&[(1, "a", ""), (2, "b", "c")]), "version 2 does not follow version 1");
        check_read(line(&[(1, "a", ""), (2, "b", "")]), "version 2 does not follow version 1");
    }

    #[test]
    fn a_version_is_picked_by_the_beginning_of_its_id() {
        let mut catalog = Catalog::empty();
        for (sequence, id) in [(3, "a"), (1, "a"), (2, "b")] {
            catalog.add(listed(sequence, id));
        }
        let numbers = |pick| {
            let picked = catalog.pick(pick);
            picked.map(|picked| picked.iter().map(|listed| listed.sequence).collect::<Vec<_>>())
        };
        assert_eq!(numbers(Pick::Newest), Ok(vec![3]));
        assert_eq!(numbers(Pick::All), Ok(vec![1, 2, 3]));
        assert_eq!(numbers(Pick::Version("bb")), Ok(vec![2]));
        assert_eq!(numbers(Pick::Version("a")), Ok(vec![3]));
        assert_eq!(numbers(Pick::Version("")), Err(NotOne { n_matches: 2 }));
        assert_eq!(numbers(Pick::Version("c")), Err(NotOne { n_matches: 0 }));
    }
}
