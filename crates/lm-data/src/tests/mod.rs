//! The pipeline through its public face, over temporary folders.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod row_rules;
mod soup;
mod versions;

use std::fs;
use std::path::{Path, PathBuf};

use crate::{
    DataError, DataHome, IngestOptions, QuarantinedRow, Report, Thresholds, Version, ingest,
    quarantine,
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
            schema: Some(self.file("schema.json", SCHEMA)),
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
        ingest(&self.home, "tickets", &source, options, &mut |_| {})
    }

    fn quarantined(&self, report: Report<'_>) -> Vec<QuarantinedRow<'static>> {
        quarantine(&self.home, "tickets", report).unwrap().map(Result::unwrap).collect()
    }

    fn dataset(&self) -> PathBuf {
        self.home.0.join("datasets").join("tickets")
    }
}

fn rows_of(version: &Version) -> Vec<u8> {
    fs::read(version.folder.join("rows.jsonl")).unwrap()
}

fn names_in(folder: &Path) -> Vec<String> {
    crate::manifest::entries(folder).unwrap()
}

fn good_rows(n: usize) -> String {
    (0..n).map(|i| format!("{{\"text\":\"row {i}\"}}\n")).collect()
}
