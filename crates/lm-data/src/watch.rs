//! A folder whose files are added to a dataset as they come, each row once.
//!
//! It must never read a file that is still being written, and never read a row twice.
//!
//! Start reading at [`watch`].

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::ingest::{prepare, run_batch};
use crate::reader::SourcePath;
use crate::stage::ledger::{Ledger, Stamp};
use crate::stage::read_lines;
use crate::{
    DataError, DataHome, IngestOptions, IngestProgress, Version, inbox, manifest, sources,
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
    /// A batch did not pass its audit. Its files are left alone until one of them changes.
    Refused(DataError),
    /// A file is not read, because its format is not known. Told once.
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

/// Adds the files of a folder, and what came by [`offer`](crate::offer), to the newest version: what is new of them,
/// once, whatever is killed or renamed. Goes on until `wait` returns false; it is called with the time to wait
/// whenever there is nothing to do. With `once` it returns when everything is read. Returns the number of versions
/// that were published and whether some batch was refused.
///
/// # Errors
/// Those of [`ingest`](crate::ingest) but for [`DataError::AuditFailed`], which is an event.
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
    let mut refused: HashMap<String, Stamp> = HashMap::new();
    let mut told = HashSet::new();
    let (mut n_versions, mut any_refused) = (0, false);
    loop {
        let (mut found, unknown) = sources::in_folder(folder, &ingest)?;
        for error in unknown {
            if told.insert(error.to_string()) {
                on_event(WatchEvent::LeftOut(error));
            }
        }
        found.extend(inbox::pending(&dataset)?);
        let n_found = found.len();
        // A file that changes while it is looked at is looked at again.
        found.retain(|source| is_quiet(source, options.settle));
        let all_quiet = found.len() == n_found;
        let is_new = is_new(&dataset, &found, &refused)?;
        if is_new {
            let contract = prepare(&dataset, &ingest)?;
            let mut progress = |at| on_event(WatchEvent::Progress(at));
            match run_batch(&dataset, &contract, &ingest, &found, &mut progress) {
                Ok(version) => {
                    inbox::settle(&dataset, &found)?;
                    // From now on the installed one holds, which may be changed while this goes on.
                    if version.is_some() {
                        ingest.contract = None;
                    }
                    n_versions += u64::from(version.is_some());
                    version.into_iter().for_each(|v| on_event(WatchEvent::Published(v.into())));
                    remember(&found, &mut refused)?;
                }
                Err(error @ DataError::AuditFailed { .. }) => {
                    any_refused = true;
                    remember(&found, &mut refused)?;
                    on_event(WatchEvent::Refused(error));
                }
                // A file that went away while it was looked at: what is left is looked at again.
                Err(DataError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        } else if options.once && all_quiet {
            return Ok((n_versions, any_refused));
        }
        if !is_new && !wait(options.poll.min(options.settle.max(Duration::from_millis(10)))) {
            return Ok((n_versions, any_refused));
        }
    }
}

/// Files that were looked at to the end: there is nothing to do until one changes.
fn remember(found: &[SourcePath], seen: &mut HashMap<String, Stamp>) -> Result<(), DataError> {
    seen.clear();
    for source in found.iter().filter(|source| source.path.exists()) {
        seen.insert(source.name.clone(), Stamp::of(&source.path)?);
    }
    Ok(())
}

fn is_quiet(source: &SourcePath, settle: Duration) -> bool {
    let Ok(stamp) = Stamp::of(&source.path) else { return false };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    now.saturating_sub(stamp.modified_ns) >= settle.as_nanos()
}

/// Whether some file is not as it was when it was read or refused.
fn is_new(
    dataset: &crate::home::DatasetFolder,
    found: &[SourcePath],
    seen: &HashMap<String, Stamp>,
) -> Result<bool, DataError> {
    let stamp = |source: &SourcePath| Stamp::of(&source.path);
    let mut changed = Vec::new();
    for source in found {
        if seen.get(&source.name) != Some(&stamp(source)?) {
            changed.push(source);
        }
    }
    if changed.is_empty() {
        return Ok(false);
    }
    let Some(newest) = manifest::published(dataset)?.into_iter().next() else { return Ok(true) };
    if newest.is_first_format() {
        return Ok(true);
    }
    let mut ledger = Ledger::default();
    let path = dataset.versions.join(newest.folder_name()).join("sources.jsonl");
    read_lines(&path, |source| ledger.add(source))?;
    for source in changed {
        if !ledger.is_settled(&source.name, stamp(source)?) {
            return Ok(true);
        }
    }
    Ok(false)
}
