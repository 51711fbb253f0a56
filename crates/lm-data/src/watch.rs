//! A folder whose files are added to a dataset as they come, each row once.
//!
//! It must never read a file that is still being written, and never read a row twice.
//!
//! Start reading at [`watch`].

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::check::Contract;
use crate::home::DatasetFolder;
use crate::ingest::{prepare, run_batch};
use crate::reader::SourcePath;
use crate::stage::ledger::{Ledger, Stamp};
use crate::stage::read_lines;
use crate::{
    DataError, DataHome, IngestOptions, IngestProgress, QuarantineRows, Version, inbox, manifest,
    sources,
};

/// How a folder is watched.
#[derive(Clone, Debug)]
pub struct WatchOptions {
    /// As for an ingest; `append` is implied.
    pub ingest: IngestOptions,
    /// End when all that is in the folder is read.
    pub once: bool,
    /// How often to look.
    pub poll: Duration,
    /// A file is read when it did not change for so long.
    pub settle: Duration,
}

/// What happens while a folder is watched.
#[derive(Debug)]
pub enum WatchEvent {
    /// Rows are being read.
    Progress(IngestProgress),
    /// A version was published.
    Published(Box<Version>),
    /// A batch did not pass its audit. The files that broke the rules most are left alone until they change, and the
    /// others are read again without them.
    Refused(DataError),
    /// A file or folder is not read, because its format or compression is not known or the system refuses it. Told
    /// once.
    LeftOut(DataError),
}

impl Default for WatchOptions {
    fn default() -> Self {
        WatchOptions {
            ingest: IngestOptions::default(),
            once: false,
            poll: Duration::from_secs(1),
            settle: Duration::from_secs(2),
        }
    }
}

/// Adds the files of a folder, and what came by an [`Offering`](crate::Offering), to the newest version: what is new of
/// them, once, whatever is killed or renamed. Goes on until `wait` returns false; it is called with the time to wait
/// whenever there is nothing to do. With `once` it returns when everything is read. Returns the number of versions
/// that were published and whether some batch was refused.
///
/// # Errors
/// Those of [`ingest`](crate::ingest) but for [`DataError::AuditFailed`] and what is wrong with one file, which are
/// events, [`DataError::NoRows`], and [`DataError::Locked`], for whose end it waits.
pub fn watch(
    home: &DataHome,
    name: &str,
    folder: &Path,
    options: &WatchOptions,
    wait: &mut dyn FnMut(Duration) -> bool,
    on_event: &mut dyn FnMut(WatchEvent),
) -> Result<(u64, bool), DataError> {
    let dataset = home.dataset(name)?;
    let mut ingest = IngestOptions { append: true, ..options.ingest.clone() };
    // The contract of the first batch is that of all; a broken one is told before anything is read.
    prepare(&dataset, &ingest)?;
    let mut seen = Seen::default();
    let mut told = HashSet::new();
    let (mut n_versions, mut any_refused) = (0, false);
    loop {
        let (mut found, unknown) = sources::in_folder(folder, &ingest)?;
        for error in unknown {
            tell(error, &mut told, on_event);
        }
        found.extend(inbox::pending(&dataset)?);
        let n_found = found.len();
        // A file that changes while it is looked at is looked at again.
        seen.keep_quiet(&mut found, options.settle);
        let stamps = seen.look_at(&mut found);
        let all_quiet = found.len() == n_found;
        let is_new = is_new(&dataset, &found, &stamps, &seen.read)?;
        let mut must_wait = !is_new;
        if is_new {
            let contract = prepare(&dataset, &ingest)?;
            match add(&dataset, &contract, &ingest, &found, on_event) {
                Ok(version) => {
                    // From now on the installed one holds, which may be changed while this goes on.
                    if version.is_some() {
                        ingest.contract = None;
                    }
                    n_versions += u64::from(version.is_some());
                    version.into_iter().for_each(|v| on_event(WatchEvent::Published(v.into())));
                    seen.read = stamps;
                }
                Err(error @ DataError::AuditFailed { .. }) => {
                    any_refused = true;
                    for source in culprits(&found, &error)? {
                        seen.leave_out(&source, &stamps, false);
                    }
                    on_event(WatchEvent::Refused(error));
                }
                // A file that went away while it was looked at: what is left is looked at again.
                Err(DataError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
                // Somebody else adds or repairs: this is read after that.
                Err(DataError::Locked { .. }) => must_wait = true,
                Err(error) => {
                    let at = found.iter().find(|source| is_about(&error, &source.path));
                    let Some(source) = at else { return Err(error) };
                    seen.leave_out(&source.name, &stamps, is_denied(&error));
                    tell(error, &mut told, on_event);
                }
            }
        } else if options.once && all_quiet {
            return Ok((n_versions, any_refused));
        }
        if must_wait && !wait(options.poll.min(options.settle.max(Duration::from_millis(10)))) {
            return Ok((n_versions, any_refused));
        }
    }
}

/// Adds what is new of the files and bodies; `None` when nothing is.
fn add(
    dataset: &DatasetFolder,
    contract: &Contract,
    ingest: &IngestOptions,
    found: &[SourcePath],
    on_event: &mut dyn FnMut(WatchEvent),
) -> Result<Option<Version>, DataError> {
    let mut progress = |at| on_event(WatchEvent::Progress(at));
    let version = match run_batch(dataset, contract, ingest, found, &mut progress) {
        // They are read, and nothing was in them.
        Err(DataError::NoRows { .. }) => None,
        other => other?,
    };
    inbox::settle(dataset, found, &contract.hash.to_hex())?;
    Ok(version)
}

/// Says once what is not read, and why.
fn tell(error: DataError, told: &mut HashSet<String>, on_event: &mut dyn FnMut(WatchEvent)) {
    if told.insert(error.to_string()) {
        on_event(WatchEvent::LeftOut(error));
    }
}

type Stamps = HashMap<String, Stamp>;

/// Files that there is nothing to do with until they change, as they were before they were read: what is added to
/// them meanwhile is a change.
#[derive(Default)]
struct Seen {
    /// Read to the end.
    read: Stamps,
    /// Refused, or not to be read; and whether that was for want of permission.
    left_out: HashMap<String, (Stamp, bool)>,
    /// Those whose time lies ahead, and since when they are so.
    ahead: HashMap<String, (Stamp, Instant)>,
}

impl Seen {
    /// Drops the files that somebody may still be writing.
    fn keep_quiet(&mut self, found: &mut Vec<SourcePath>, settle: Duration) {
        self.ahead.retain(|name, _| found.iter().any(|source| source.name == *name));
        found.retain(|source| self.is_quiet(source, settle));
    }

    /// Whether a file did not change for so long: by its time, or, where that lies ahead, by when it was first seen so.
    fn is_quiet(&mut self, source: &SourcePath, settle: Duration) -> bool {
        let Ok(stamp) = Stamp::of(&source.path) else { return false };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        if stamp.modified_ns <= now {
            self.ahead.remove(&source.name);
            return now - stamp.modified_ns >= settle.as_nanos();
        }
        let seen = self.ahead.entry(source.name.clone()).or_insert((stamp, Instant::now()));
        if seen.0 != stamp {
            *seen = (stamp, Instant::now());
        }
        seen.1.elapsed() >= settle
    }

    /// The stamps of the files that are to be read; the others are marked, and those that are gone are dropped.
    fn look_at(&mut self, found: &mut Vec<SourcePath>) -> Stamps {
        let mut stamps = Stamps::new();
        found.retain_mut(|source| {
            let Ok(stamp) = Stamp::of(&source.path) else { return false };
            source.left_out = self.left_out.get(&source.name).is_some_and(|(left, denied)| {
                // A permission that is given does not change the stamp.
                *left == stamp && !(*denied && File::open(&source.path).is_ok())
            });
            if !source.left_out {
                stamps.insert(source.name.clone(), stamp);
            }
            true
        });
        let still = |name: &str| found.iter().any(|source| source.left_out && source.name == name);
        self.left_out.retain(|name, _| still(name));
        stamps
    }

    fn leave_out(&mut self, name: &str, stamps: &Stamps, is_denied: bool) {
        if let Some(stamp) = stamps.get(name) {
            self.left_out.insert(name.to_owned(), (*stamp, is_denied));
        }
    }
}

/// The sources that broke the rules by which a batch failed: those with at least half as many bad rows as the worst.
/// All of them when no row can be blamed, as for shares of nulls.
pub(crate) fn culprits(found: &[SourcePath], error: &DataError) -> Result<Vec<String>, DataError> {
    let DataError::AuditFailed { failures, report, .. } = error else { return Ok(Vec::new()) };
    let read: HashSet<&str> =
        found.iter().filter(|source| !source.left_out).map(|source| source.name.as_str()).collect();
    let mut n_bad: HashMap<String, u64> = HashMap::new();
    for row in QuarantineRows::open(vec![report.join("quarantine.jsonl")]) {
        let row = row?;
        let is_blamed = failures.iter().any(|share| share.rule == row.rule);
        if is_blamed && read.contains(row.source.as_str()) {
            *n_bad.entry(row.source).or_default() += 1;
        }
    }
    let Some(worst) = n_bad.values().copied().max() else {
        return Ok(read.into_iter().map(str::to_owned).collect());
    };
    Ok(n_bad.into_iter().filter(|(_, n)| 2 * n >= worst).map(|(name, _)| name).collect())
}

/// Whether an error is that of reading this file.
fn is_about(error: &DataError, file: &Path) -> bool {
    match error {
        DataError::Io { path, .. }
        | DataError::Compressed { path, .. }
        | DataError::DamagedSource { path, .. }
        | DataError::SourceIsFolder { path }
        | DataError::SourceIsDevice { path } => path == file,
        _ => false,
    }
}

fn is_denied(error: &DataError) -> bool {
    matches!(error, DataError::Io { source, .. } if source.kind() == ErrorKind::PermissionDenied)
}

/// Whether some file is not as it was when it was read.
fn is_new(
    dataset: &DatasetFolder,
    found: &[SourcePath],
    stamps: &Stamps,
    read: &Stamps,
) -> Result<bool, DataError> {
    let mut changed = Vec::new();
    for source in found.iter().filter(|source| !source.left_out) {
        let Some(stamp) = stamps.get(&source.name) else { continue };
        if read.get(&source.name) != Some(stamp) {
            changed.push((source, *stamp));
        }
    }
    if changed.is_empty() {
        return Ok(false);
    }
    let Some(newest) = manifest::last(dataset)? else { return Ok(true) };
    if newest.is_first_format() {
        return Ok(true);
    }
    let mut ledger = Ledger::default();
    let path = dataset.versions.join(newest.folder_name()).join("sources.jsonl");
    read_lines(&path, |source| ledger.add(source))?;
    Ok(changed.iter().any(|(source, stamp)| !ledger.is_settled(&source.name, *stamp)))
}
