//! Adds what was sent to a dataset, as one batch: validated, published or refused, each body once.
//!
//! It must never publish without an audit, and never lose a body that it does not add.
//!
//! Start reading at [`drain`].

use std::fs;
use std::io::ErrorKind;

use crate::error::io_error;
use crate::home::DatasetFolder;
use crate::ingest::{prepare, run_batch};
use crate::shares::failures_text;
use crate::stage::ledger::{Stamp, Tally};
use crate::watch::culprits;
use crate::{DataError, DataHome, IngestOptions, IngestProgress, inbox};

/// What [`drain`] did.
#[derive(Debug)]
pub enum Drained {
    /// Nothing waits but what was refused under this contract.
    Nothing,
    /// Bodies were added.
    Added {
        /// How many.
        n_bodies: u64,
        /// What became of their rows.
        rows: Tally,
    },
    /// The batch did not pass its audit: the bodies that broke the rules most wait for another contract, and the others
    /// for the next call.
    Refused {
        /// The names of their sources, in order.
        bodies: Vec<String>,
        /// Which rules they break.
        error: DataError,
    },
}

/// Adds the bodies that wait for a dataset to its newest version. A kill at any moment loses and doubles nothing: call it
/// again until it says [`Drained::Nothing`]. `options` are those of an ingest; `append` is implied. `progress` is called
/// as by an ingest.
///
/// # Errors
/// [`DataError::NoContract`], [`DataError::Locked`] and the others of [`ingest`](crate::ingest) but for
/// [`DataError::AuditFailed`].
pub fn drain(
    home: &DataHome,
    name: &str,
    options: &IngestOptions,
    progress: &mut dyn FnMut(IngestProgress),
) -> Result<Drained, DataError> {
    let dataset = home.dataset(name)?;
    match drain_all(&dataset, options, progress) {
        // Somebody else was faster.
        Err(DataError::Io { path, source, .. })
            if source.kind() == ErrorKind::NotFound && inbox::is_body(&dataset, &path) =>
        {
            Ok(Drained::Nothing)
        }
        other => other,
    }
}

/// A digest of what waits for a dataset and of its contract. Where [`drain`] said [`Drained::Nothing`] it says so again
/// while this stays.
///
/// # Errors
/// [`DataError::InvalidName`], [`DataError::Io`].
pub fn waiting_digest(home: &DataHome, name: &str) -> Result<String, DataError> {
    let dataset = home.dataset(name)?;
    let mut hasher = blake3::Hasher::new();
    if let Some(path) = dataset.installed_contract() {
        hasher.update(&fs::read(&path).map_err(io_error("read", &path))?);
    }
    for source in inbox::pending(&dataset)? {
        let Stamp { size_bytes, modified_ns } = Stamp::of(&source.path).unwrap_or_default();
        hasher.update(format!("\0{}\0{size_bytes}\0{modified_ns}", source.name).as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}

fn drain_all(
    dataset: &DatasetFolder,
    options: &IngestOptions,
    progress: &mut dyn FnMut(IngestProgress),
) -> Result<Drained, DataError> {
    let mut found = inbox::pending(dataset)?;
    if found.is_empty() {
        return Ok(Drained::Nothing);
    }
    let options = IngestOptions { append: true, ..options.clone() };
    let contract = prepare(dataset, &options)?;
    let hash = contract.hash.to_hex();
    inbox::leave_out_refused(dataset, &mut found, &hash)?;
    let n_bodies = found.iter().filter(|source| !source.left_out).count() as u64;
    if n_bodies == 0 {
        return Ok(Drained::Nothing);
    }
    let mut run = || run_batch(dataset, &contract, &options, &found, &mut *progress);
    let ran = match run() {
        // A batch that fails may have had rows of a watch that was killed; the next one has not.
        Err(DataError::AuditFailed { .. }) => run(),
        other => other,
    };
    match ran {
        // Bodies without a row are added, too.
        Ok(_) | Err(DataError::NoRows { .. }) => {
            let rows = inbox::settle(dataset, &found, &hash)?;
            Ok(Drained::Added { n_bodies, rows })
        }
        Err(error) => {
            let DataError::AuditFailed { failures, .. } = &error else { return Err(error) };
            let why = failures_text(failures);
            let mut bodies = culprits(&found, &error)?;
            bodies.sort_unstable();
            inbox::refuse(dataset, &bodies, &hash, &why)?;
            Ok(Drained::Refused { bodies, error })
        }
    }
}
