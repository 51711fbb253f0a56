//! The pipeline through its public face, over temporary folders.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod crossing;
mod damaged;
mod formats;
mod joining;
mod left_out;
mod listing;
mod offers;
mod parquet_bodies;
mod refused;
mod release;
mod rfc8259;
mod row_rules;
mod settling;
mod soup;
mod terms;
mod versions;
mod watching;

use std::fs;
use std::path::{Path, PathBuf};

use crate::{
    DataError, DataHome, Format, InboxLimits, IngestOptions, Offering, QuarantinedRow, Report,
    Taken, Thresholds, Version, backlog, export, ingest, quarantine,
};

const SCHEMA: &str = r#"{
    "type": "object",
    "required": ["text"],
    "properties": {
        "text": { "type": "string", "minLength": 1, "maxLength": 20 },
        "label": { "enum": ["a", "b"] },
        "n": { "type": "integer", "minimum": 0 }
    },
    "additionalProperties": false
}"#;

struct Desk {
    folder: tempfile::TempDir,
    home: DataHome,
}

impl Desk {
    fn new() -> Desk {
        let folder = tempfile::tempdir().unwrap();
        let home = DataHome(folder.path().join("data"));
        Desk { folder, home }
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// Options with the schema above that publish whatever share of rows is good.
    fn lenient(&self) -> IngestOptions {
        IngestOptions {
            contract: Some(self.file("schema.json", SCHEMA)),
            thresholds: Thresholds { warn: 1.0, fail: 1.0 },
            ..IngestOptions::default()
        }
    }

    fn ingest(&self, bytes: impl AsRef<[u8]>) -> Result<Version, DataError> {
        self.ingest_with(bytes, &self.lenient())
    }

    fn ingest_with(
        &self,
        bytes: impl AsRef<[u8]>,
        options: &IngestOptions,
    ) -> Result<Version, DataError> {
        let source = self.file("source.jsonl", bytes);
        ingest(&self.home, "tickets", &[source], options, &mut |_| {})
    }

    fn quarantined(&self, report: Report<'_>) -> Vec<QuarantinedRow> {
        quarantine(&self.home, "tickets", report).unwrap().map(Result::unwrap).collect()
    }

    fn dataset(&self) -> PathBuf {
        self.home.0.join("datasets").join("tickets")
    }
}

/// The rows of the newest version of "tickets", as lines.
fn newest_rows(desk: &Desk) -> Vec<u8> {
    rows_at(desk, None)
}

fn rows_at(desk: &Desk, version: Option<&str>) -> Vec<u8> {
    let mut rows = Vec::new();
    export(&desk.home, "tickets", version, &mut rows).unwrap();
    rows
}

fn rows_of(desk: &Desk, version: &Version) -> Vec<u8> {
    rows_at(desk, Some(&version.manifest.version))
}

/// Tells a process that is to be killed that it may not end before, however late the kill comes.
const STAYS: &str = "LASTMILE_TEST_CHILD_STAYS";

fn stay_if_told() {
    while std::env::var_os(STAYS).is_some_and(|told| !told.is_empty()) {
        std::thread::park();
    }
}

fn names_in(folder: &Path) -> Vec<String> {
    crate::home::entries(folder).unwrap()
}

/// Sends JSON lines as one piece.
fn offer(
    home: &DataHome,
    name: &str,
    key: Option<&str>,
    rows: &[u8],
    limits: &InboxLimits,
) -> Result<Taken, DataError> {
    let mut offering = Offering::begin(home, name, key, None, Format::Jsonl, limits)?;
    offering.write(rows)?;
    offering.finish()
}

fn good_rows(n: usize) -> String {
    (0..n).map(|i| format!("{{\"text\":\"row {i}\"}}\n")).collect()
}
