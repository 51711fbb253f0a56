//! A store as a file: how large it is, its backup, and its upgrade.
//!
//! It must never replace a file.
//!
//! Start reading at [`backup`].

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{ErrorContext, io};
use crate::sql::{server_url, shown};
use crate::{Reader, RowCounts, StoreError, schema};

/// A store as a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoreStats {
    /// Where it lies.
    pub path: PathBuf,
    /// Its schema.
    pub schema: i64,
    /// Bytes of the file.
    pub size_bytes: u64,
    /// Bytes of it that are free for new rows.
    pub free_bytes: u64,
    /// Bytes of the log that is not yet folded into the file.
    pub log_bytes: u64,
    /// Rows.
    pub rows: RowCounts,
    /// Requests whose prompt is kept.
    pub prompts: u64,
    /// When the oldest request arrived, in Unix milliseconds.
    pub oldest_ms: Option<i64>,
    /// When the newest request arrived, in Unix milliseconds.
    pub newest_ms: Option<i64>,
}

/// Looks at a store.
///
/// # Errors
/// Why it could not be read.
pub fn stats(path: &Path) -> Result<StoreStats, StoreError> {
    let reader = Reader::open(path)?;
    let rows = reader.counts()?;
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.len());
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let (prompts, oldest_ms, newest_ms, free_bytes, size_bytes) = reader.read(|connection| {
        let (free_bytes, size_bytes) = connection.space()?;
        connection.query_row(
            "SELECT count(prompt), min(arrived_at_ms), max(arrived_at_ms) FROM request",
            (),
            |row| Ok((row.get::<_, i64>(0)?, row.get(1)?, row.get(2)?, free_bytes, size_bytes)),
        )
    })?;
    Ok(StoreStats {
        path: reader.place().to_owned(),
        schema: schema::SCHEMA_VERSION,
        size_bytes,
        free_bytes,
        log_bytes: size(Path::new(&log)),
        rows,
        prompts: prompts.cast_unsigned(),
        oldest_ms,
        newest_ms,
    })
}

/// Writes a whole and consistent copy of a store to a new file, beside a server that runs; returns its size in bytes.
///
/// # Errors
/// A file that exists, or why it could not be written.
pub fn backup(path: &Path, copy: &Path) -> Result<u64, StoreError> {
    not_a_server(path, "pg_dump writes backups there")?;
    let reader = Reader::open(path)?;
    if copy.exists() {
        let exists = std::io::ErrorKind::AlreadyExists.into();
        return Err(io(copy, "write a backup to", &exists));
    }
    // It holds what people wrote, so nobody else may read it, not even while it grows.
    schema::create_private(copy)?;
    reader.read_outside(|connection| {
        connection.execute("VACUUM INTO ?1", [copy.to_string_lossy().as_ref()]).map(drop)
    })?;
    let written = std::fs::File::open(copy).and_then(|file| {
        file.sync_all()?;
        file.metadata()
    });
    written.map(|found| found.len()).map_err(|error| io(copy, "write a backup to", &error))
}

/// Brings a store to this version's schema; returns what it was and is. Servers do so when they start.
///
/// # Errors
/// There is no store, or it could not be upgraded; then it is as it was.
pub fn upgrade(path: &Path) -> Result<(i64, i64), StoreError> {
    let options = crate::StoreOptions::default();
    let context = ErrorContext::of_upgrade(path, options.max_bytes);
    let before = schema::version(path, &context)?;
    if before == 0 {
        return Err(StoreError::Missing { path: context.path });
    }
    schema::open_writer(path, &options, &context)?;
    Ok((before, schema::SCHEMA_VERSION))
}

fn not_a_server(path: &Path, instead: &'static str) -> Result<(), StoreError> {
    match server_url(path) {
        Some(_) => Err(StoreError::NotAFile { path: shown(path), instead }),
        None => Ok(()),
    }
}
