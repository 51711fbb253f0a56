//! From a stage to a version: rows become Parquet on several cores, and one rename shows them.
//!
//! It must never publish what was not audited.
//!
//! Start reading at [`publish`].

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use crossbeam_channel::bounded;

use crate::check::{Contract, Violation};
use crate::cross::Crossed;
use crate::error::io_error;
use crate::home::{DatasetFolder, remove_folder, sync_folder, write_whole};
use crate::ingest::now_ms;
use crate::pipeline::n_workers;
use crate::quarantine::QuarantinedRow;
use crate::read::framer::Record;
use crate::stage::ledger::{INBOX, SourceFile, Tally};
use crate::stage::{Stage, read_chunk, read_lines};
use crate::version::join;
use crate::version::merkle::{self, Growing};
use crate::version::rows::VersionRows;
use crate::version::segment::{self, Layout, Segment, StoredRow};
use crate::{DataError, Manifest, manifest};

/// Reports of ingests that published nothing; older ones are removed, for their sources are known.
const MAX_REPORTS: usize = 16;

/// A chunk to write, and what became of it.
struct Task {
    number: u64,
    /// Files of rows that are written anew before those of the chunk.
    before: Vec<PathBuf>,
    rows: PathBuf,
    bad: Vec<(usize, Violation)>,
}

struct Written {
    segment: Option<Segment>,
    leaves: Vec<blake3::Hash>,
    bad: Vec<QuarantinedRow>,
    /// Its rows of each source that was sent.
    sent: BTreeMap<String, u64>,
}

/// What became of the rows of each source that was sent.
pub(crate) type Tallies = BTreeMap<String, Tally>;

/// Writes the objects of a version; what they are is in the manifest. Interrupted it can be done again. Returns what
/// became of the rows that were sent.
pub(crate) fn write_objects(
    stage: &Stage,
    contract: &Contract,
    mut crossed: Crossed,
    manifest: &mut Manifest,
) -> Result<Tallies, DataError> {
    let damaged = || DataError::Damaged {
        path: stage.dataset.versions.clone(),
        detail: "the newest manifest's tree has no hashes".to_owned(),
    };
    let mut rows = Growing::from_tree(&manifest.rows).ok_or_else(damaged)?;
    let mut bad_rows = Growing::from_tree(&manifest.bad_rows).ok_or_else(damaged)?;
    let layout = Layout::new(&contract.terms);
    let quarantine = stage.folder().join("quarantine.jsonl");
    let mut file =
        BufWriter::new(File::create(&quarantine).map_err(io_error("create", &quarantine))?);
    let mut n_bad = 0;
    let mut tallies = Tallies::new();
    let mut keep = |row: &QuarantinedRow, bad_rows: &mut Growing, tallies: &mut Tallies| {
        if row.source.starts_with(INBOX) {
            tallies.entry(row.source.clone()).or_default().quarantine(&row.rule, 1);
        }
        bad_rows.push(row.leaf());
        n_bad += 1;
        serde_json::to_writer(&mut file, row)
            .map_err(std::io::Error::from)
            .and_then(|()| file.write_all(b"\n"))
            .map_err(io_error("write to", &quarantine))
    };
    let before = join::small_before(stage, &manifest.segments);
    manifest.segments.truncate(manifest.segments.len() - before.len());
    in_order(stage, &layout, &mut crossed, before, |number, written| {
        let path = stage.path(number, "bad");
        each_bad(&path, |row| keep(&row, &mut bad_rows, &mut tallies))?;
        written.leaves.into_iter().for_each(|leaf| rows.push(leaf));
        written.bad.iter().try_for_each(|row| keep(row, &mut bad_rows, &mut tallies))?;
        for (source, n_rows) in written.sent {
            tallies.entry(source).or_default().publish(n_rows);
        }
        manifest.segments.extend(written.segment);
        Ok(())
    })?;
    let file = file.into_inner().map_err(std::io::IntoInnerError::into_error);
    file.and_then(|file| file.sync_all()).map_err(io_error("write to", &quarantine))?;
    if n_bad > 0 {
        let segments = &mut manifest.quarantine;
        join::add_quarantine(&stage.dataset.objects, segments, &quarantine, n_bad)?;
    }
    manifest.version = id(&contract.hash, &rows, &bad_rows);
    manifest.rows = rows.tree();
    manifest.bad_rows = bad_rows.tree();
    Ok(tallies)
}

/// A version's id.
pub(crate) fn id(contract: &blake3::Hash, rows: &Growing, bad_rows: &Growing) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"lastmile dataset version 2\n").update(contract.as_bytes());
    hasher.update(rows.root().as_bytes()).update(bad_rows.root().as_bytes());
    hasher.finalize().to_hex().to_string()
}

fn each_bad(
    path: &Path,
    mut see: impl FnMut(QuarantinedRow) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let mut outcome = Ok(());
    read_lines(path, |row| {
        if outcome.is_ok() {
            outcome = see(row);
        }
    })?;
    outcome
}

/// Writes the chunks on several cores, and hands each on in its order. The first one has the rows of `before`, too.
fn in_order(
    stage: &Stage,
    layout: &Layout,
    crossed: &mut Crossed,
    mut before: Vec<PathBuf>,
    mut see: impl FnMut(u64, Written) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let n_workers = n_workers();
    let (to_workers, tasks) = bounded::<Task>(n_workers);
    let (done, written) = bounded(n_workers);
    std::thread::scope(|scope| {
        // Whichever way this ends, the workers find nobody to work for and end, too.
        let (to_workers, written) = (to_workers, written);
        for _ in 0..n_workers {
            let (tasks, done) = (tasks.clone(), done.clone());
            scope.spawn(move || {
                for task in tasks {
                    let number = task.number;
                    if done.send((number, write_chunk(stage, layout, task))).is_err() {
                        return;
                    }
                }
            });
        }
        drop((tasks, done));
        let mut early = BTreeMap::new();
        let (mut next, mut sent, mut begin) = (0, 0, 0);
        while next < stage.n_chunks() {
            // At most so many are under way or wait here.
            while sent < stage.n_chunks() && sent < next + 2 * n_workers as u64 {
                let n_rows = stage.chunk_rows(sent);
                let bad = crossed.take(begin, n_rows)?;
                begin += n_rows;
                let before = std::mem::take(&mut before);
                let task = Task { number: sent, before, rows: stage.path(sent, "rows"), bad };
                sent += 1;
                to_workers.send(task).expect("a worker ends after its tasks do: this is a bug");
            }
            let (number, outcome) =
                written.recv().expect("each task has an outcome: this is a bug");
            early.insert(number, outcome?);
            while let Some(written) = early.remove(&next) {
                see(next, written)?;
                next += 1;
            }
        }
        Ok(())
    })
}

fn write_chunk(stage: &Stage, layout: &Layout, task: Task) -> Result<Written, DataError> {
    let mut rows = read_chunk(&task.rows)?;
    let mut bad = Vec::with_capacity(task.bad.len());
    for (at, violation) in task.bad {
        let row = std::mem::take(&mut rows[at]);
        bad.push(quarantined(row, violation));
    }
    rows.retain(|row| !row.text.is_empty());
    let leaves = rows.iter().map(|row| merkle::leaf(row.text.as_bytes())).collect();
    let sent = sent(&rows);
    if !task.before.is_empty() {
        let before = VersionRows::of(task.before).chain(rows.into_iter().map(Ok));
        rows = before.collect::<Result<_, _>>()?;
    }
    let scratch = stage.folder().join(format!("segment-{:06}", task.number));
    let segment = (!rows.is_empty())
        .then(|| segment::write(&stage.dataset.objects, &scratch, layout, &rows))
        .transpose()?;
    Ok(Written { segment, leaves, bad, sent })
}

/// The rows of each source that was sent.
fn sent(rows: &[StoredRow]) -> BTreeMap<String, u64> {
    let mut sent: BTreeMap<String, u64> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.source.starts_with(INBOX)) {
        match sent.get_mut(row.source.as_str()) {
            Some(n_rows) => *n_rows += 1,
            None => _ = sent.insert(row.source.clone(), 1),
        }
    }
    sent
}

/// A row that was good by itself.
fn quarantined(row: StoredRow, violation: Violation) -> QuarantinedRow {
    let StoredRow { text, source, offset_bytes, line } = row;
    let size_bytes = text.len() as u64;
    let bytes = text.into_bytes();
    let record = Record { offset_bytes, line, bytes, size_bytes, ..Record::default() };
    QuarantinedRow::new(&record, &source, None, violation)
}

/// Shows the version by one rename; returns its folder. `lineage` are rows of a quarantine that it publishes.
pub(crate) fn publish<'a>(
    dataset: &DatasetFolder,
    contract: &Contract,
    manifest: &Manifest,
    sources: impl Iterator<Item = &'a SourceFile>,
    lineage: &[u8],
) -> Result<PathBuf, DataError> {
    let folder = dataset.staging.join("version");
    remove_folder(&folder)?;
    fs::create_dir_all(&folder).map_err(io_error("create the folder", &folder))?;
    let path = folder.join("sources.jsonl");
    let file = File::create(&path).map_err(io_error("create", &path))?;
    let mut file = BufWriter::new(file);
    for source in sources {
        serde_json::to_writer(&mut file, source)
            .map_err(std::io::Error::from)
            .and_then(|()| file.write_all(b"\n"))
            .map_err(io_error("write to", &path))?;
    }
    let file = file.into_inner().map_err(std::io::IntoInnerError::into_error);
    file.and_then(|file| file.sync_all()).map_err(io_error("write to", &path))?;
    write_whole(&folder.join(format!("contract.{}", contract.extension)), &contract.bytes)?;
    if !lineage.is_empty() {
        write_whole(&folder.join("lineage.jsonl"), lineage)?;
    }
    write_whole(&folder.join("manifest.json"), &to_json(manifest))?;
    sync_folder(&folder)?;
    let target = dataset.versions.join(manifest.folder_name());
    fs::rename(&folder, &target).map_err(io_error("publish as", &target))?;
    sync_folder(&dataset.versions)?;
    Ok(target)
}

fn to_json(manifest: &Manifest) -> Vec<u8> {
    serde_json::to_vec_pretty(manifest)
        .expect("a manifest of numbers and strings is JSON: this is a bug")
}

/// Keeps the quarantine and gives up the rows, which the sources have. Returns the folder.
pub(crate) fn keep_report(
    stage: Stage,
    mut crossed: Crossed,
    manifest: &Manifest,
) -> Result<PathBuf, DataError> {
    let folder = stage.folder().join("report");
    remove_folder(&folder)?;
    fs::create_dir_all(&folder).map_err(io_error("create the folder", &folder))?;
    let path = folder.join("quarantine.jsonl");
    let mut file = BufWriter::new(File::create(&path).map_err(io_error("create", &path))?);
    let mut begin = 0;
    for chunk in 0..stage.n_chunks() {
        let bad_path = stage.path(chunk, "bad");
        let bad = File::open(&bad_path).map_err(io_error("open", &bad_path))?;
        for line in BufReader::new(bad).split(b'\n') {
            let line = line.map_err(io_error("read", &bad_path))?;
            file.write_all(&line)
                .and_then(|()| file.write_all(b"\n"))
                .map_err(io_error("write to", &path))?;
        }
        let n_rows = stage.chunk_rows(chunk);
        let crossing = crossed.take(begin, n_rows)?;
        begin += n_rows;
        let mut rows = if crossing.is_empty() { Vec::new() } else { stage.rows(chunk)? };
        for (at, violation) in crossing {
            let row = quarantined(std::mem::take(&mut rows[at]), violation);
            serde_json::to_writer(&mut file, &row)
                .map_err(std::io::Error::from)
                .and_then(|()| file.write_all(b"\n"))
                .map_err(io_error("write to", &path))?;
        }
    }
    let file = file.into_inner().map_err(std::io::IntoInnerError::into_error);
    file.and_then(|file| file.sync_all()).map_err(io_error("write to", &path))?;
    write_whole(&folder.join("manifest.json"), &to_json(manifest))?;
    let reports = &stage.dataset.reports;
    let named = |at_ms: u64| reports.join(format!("{at_ms:015}-{:06}", manifest.sequence));
    let mut at_ms = now_ms();
    while named(at_ms).exists() {
        at_ms += 1;
    }
    let target = named(at_ms);
    fs::rename(&folder, &target).map_err(io_error("keep the report as", &target))?;
    sync_folder(reports)?;
    let mut kept = crate::home::entries(reports)?;
    kept.sort_unstable();
    let n_surplus = kept.len().saturating_sub(MAX_REPORTS);
    for old in &kept[..n_surplus] {
        remove_folder(&reports.join(old))?;
    }
    stage.discard()?;
    Ok(target)
}

/// The manifest that a new version begins with: empty, or what its parent has.
pub(crate) fn successor(
    dataset: &DatasetFolder,
    contract: &Contract,
    append: bool,
) -> Result<(Option<Manifest>, Manifest), DataError> {
    let newest = manifest::last(dataset)?;
    let base = match &newest {
        Some(newest) if append => {
            if newest.is_first_format() {
                let (name, version) = (dataset.name.clone(), newest.version.clone());
                return Err(DataError::FirstFormat { name, version });
            }
            newest.clone()
        }
        _ => Manifest::default(),
    };
    let manifest = Manifest {
        format: manifest::FORMAT,
        parent: newest.as_ref().map(|newest| newest.version.clone()),
        sequence: newest.as_ref().map_or(1, |newest| newest.sequence + 1),
        contract_hash: contract.hash.to_hex().to_string(),
        created_at_ms: now_ms(),
        batch_rows_in: 0,
        ..base
    };
    Ok((newest, manifest))
}
