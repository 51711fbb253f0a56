//! Write, audit, publish: the folder in which a version grows, and the one rename that shows it.
//!
//! It must never touch a published version.
//!
//! Start reading at [`Stage::begin`], then [`Stage::publish`].

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::contract::Contract;
use crate::error::io_error;
use crate::home::{DatasetFolder, DatasetLock, sync_folder};
use crate::row::Row;
use crate::rules::Violation;
use crate::{DataError, Manifest, QuarantinedRow, manifest};

/// Reports of ingests that published nothing; older ones are removed, for their source is known.
const MAX_REPORTS: usize = 16;

/// A version that grows. Dropped before it is published it leaves a folder that nobody sees and
/// that the next ingest removes.
pub(crate) struct Stage<'a> {
    dataset: &'a DatasetFolder,
    rows: BufWriter<File>,
    quarantine: BufWriter<File>,
    version: blake3::Hasher,
    _lock: DatasetLock,
}

impl<'a> Stage<'a> {
    pub(crate) fn begin(
        dataset: &'a DatasetFolder,
        contract: &Contract,
    ) -> Result<Stage<'a>, DataError> {
        let lock = dataset.lock()?;
        let folder = &dataset.staging;
        remove_folder(folder)?;
        fs::create_dir_all(folder).map_err(io_error("create the folder", folder))?;
        let create = |name: &str| {
            let path = folder.join(name);
            File::create(&path).map(BufWriter::new).map_err(io_error("create", &path))
        };
        let (rows, quarantine) = (create("rows.jsonl")?, create("quarantine.jsonl")?);
        write_whole(&folder.join("contract.json"), &contract.bytes)?;
        let mut version = blake3::Hasher::new();
        version.update(b"lastmile dataset version 1\n");
        version.update(contract.hash.as_bytes());
        Ok(Stage { dataset, rows, quarantine, version, _lock: lock })
    }

    pub(crate) fn accept(&mut self, row: &[u8]) -> Result<(), DataError> {
        self.version.update(blake3::hash(row).as_bytes());
        self.rows
            .write_all(row)
            .and_then(|()| self.rows.write_all(b"\n"))
            .map_err(io_error("write rows to", &self.dataset.staging))
    }

    pub(crate) fn refuse(&mut self, row: &Row<'_>, violation: &Violation) -> Result<(), DataError> {
        serde_json::to_writer(&mut self.quarantine, &QuarantinedRow::new(row, violation))
            .map_err(std::io::Error::from)
            .and_then(|()| self.quarantine.write_all(b"\n"))
            .map_err(io_error("write the quarantine to", &self.dataset.staging))
    }

    /// The id of the rows accepted so far.
    pub(crate) fn version(&self) -> String {
        self.version.finalize().to_hex().to_string()
    }

    /// Keeps the quarantine and gives up the rows, which the source has. Returns the folder.
    pub(crate) fn keep_report(self, manifest: &Manifest) -> Result<PathBuf, DataError> {
        let reports = &self.dataset.reports;
        let hash = &manifest.source.hash[..16];
        let target = reports.join(format!("{:015}-{hash}", manifest.created_at_ms));
        let rows = self.dataset.staging.join("rows.jsonl");
        fs::remove_file(&rows).map_err(io_error("remove", &rows))?;
        remove_folder(&target)?;
        self.finish(manifest, &target)?;
        let mut kept = manifest::entries(reports)?;
        kept.sort_unstable();
        let n_surplus = kept.len().saturating_sub(MAX_REPORTS);
        for old in &kept[..n_surplus] {
            remove_folder(&reports.join(old))?;
        }
        Ok(target)
    }

    /// Shows the version by one rename; returns its folder.
    pub(crate) fn publish(self, manifest: &Manifest) -> Result<PathBuf, DataError> {
        let target = self.dataset.versions.join(&manifest.version);
        self.finish(manifest, &target)?;
        Ok(target)
    }

    /// Leaves nothing behind.
    pub(crate) fn discard(self) -> Result<(), DataError> {
        remove_folder(&self.dataset.staging)
    }

    /// Everything reaches the disk before the rename does.
    fn finish(self, manifest: &Manifest, target: &Path) -> Result<(), DataError> {
        let staging = &self.dataset.staging;
        for file in [self.rows, self.quarantine] {
            file.into_inner()
                .map_err(std::io::IntoInnerError::into_error)
                .and_then(|file| file.sync_all())
                .map_err(io_error("write to", staging))?;
        }
        let text = serde_json::to_vec_pretty(manifest)
            .expect("a manifest of numbers and strings is JSON: this is a bug");
        write_whole(&staging.join("manifest.json"), &text)?;
        sync_folder(staging)?;
        fs::rename(staging, target).map_err(io_error("publish as", target))?;
        sync_folder(target.parent().expect("a version lies in a folder: this is a bug"))
    }
}

fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), DataError> {
    File::create(path)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .map_err(io_error("write", path))
}

fn remove_folder(folder: &Path) -> Result<(), DataError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(io_error("remove", folder)(error))
        }
        _ => Ok(()),
    }
}
