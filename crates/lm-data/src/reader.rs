//! The sources one after the other as batches of records: which part of each is new, and its records.
//!
//! It must never check a record, and never wait for anything but room in the queue.
//!
//! Start reading at [`read_all`].

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crossbeam_channel::Sender;

use crate::DataError;
use crate::caught::caught;
use crate::check::row::Rules;
use crate::error::io_error;
use crate::read::convert::{CsvHeader, CsvKind};
use crate::read::framer::{Framer, KEPT_OF_TOO_LONG, Record};
use crate::read::input::{Input, is_damage};
use crate::read::{Format, parquet_rows};
use crate::stage::ledger::{Ledger, Plan, SourceFile, Stamp};
use crate::version::segment::digest;

const BATCH_BYTES: usize = 256 << 10;
const BATCH_ROWS: usize = 1024;
/// So much of what comes after a line says whether it had ended.
const HEAD_BYTES: usize = 4096;

/// A file to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SourcePath {
    /// As the ledger knows it.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) format: Format,
    /// It is there, so that nothing else is taken for it, but is not read.
    pub(crate) left_out: bool,
}

/// Rows of one source that are read and not yet checked.
pub(crate) struct Batch {
    pub(crate) format: Format,
    pub(crate) header: Option<Arc<CsvHeader>>,
    pub(crate) records: Vec<Record>,
    /// How far the source is read with this batch.
    pub(crate) mark: SourceFile,
}

/// Hands batches on; ends quietly when nobody takes them.
struct Out<'a> {
    to_workers: &'a Sender<(u64, Batch)>,
    number: u64,
    /// Of the source that is being read.
    header: Option<Arc<CsvHeader>>,
    /// Of the next batch, as far as it is read.
    records: Vec<Record>,
}

impl Out<'_> {
    /// Hands on the records, with which the source is read as far as `mark` says. Whether somebody still listens. Waits
    /// while the queue is full.
    fn send(&mut self, mark: &SourceFile) -> bool {
        let (header, records) = (self.header.clone(), std::mem::take(&mut self.records));
        let batch = Batch { format: mark.format, header, records, mark: mark.clone() };
        self.number += 1;
        self.to_workers.send((self.number - 1, batch)).is_ok()
    }
}

/// Reads what the ledger does not know of the sources, and hands it on.
pub(crate) fn read_all(
    mut ledger: Ledger,
    sources: &[SourcePath],
    rules: &Rules<'_>,
    to_workers: &Sender<(u64, Batch)>,
) -> Result<(), DataError> {
    let mut out = Out { to_workers, number: 0, header: None, records: Vec::new() };
    let names: HashMap<&str, &Path> =
        sources.iter().map(|source| (source.name.as_str(), source.path.as_path())).collect();
    let exists = |name: &str| names.contains_key(name);
    for source in sources {
        let SourcePath { name, path, format, left_out } = source;
        if *left_out {
            continue;
        }
        let stamp = Stamp::of(path)?;
        if ledger.is_settled(name, stamp) {
            continue;
        }
        // A pipe can be read once only, so that it cannot be looked at first.
        let plan =
            if path.is_file() { ledger.plan(name, path, *format, &exists)? } else { Plan::Fresh };
        let mut mark = begun(source, stamp, plan);
        out.header = None;
        if !mark.finished {
            // A source that somebody's reader panics on must not be in the way of others.
            let read = caught(|| match format {
                Format::Parquet => read_parquet(path, &mut mark, rules, &mut out),
                _ => read_frames(path, &mut mark, rules, &mut out),
            });
            let read = read.unwrap_or_else(|panic| {
                let (path, detail) = (path.clone(), format!("reading it panicked: {panic}"));
                Err(DataError::DamagedSource { path, detail })
            });
            let is_heard = match read {
                Err(DataError::DamagedSource { detail, .. }) => {
                    unreadable(path, &mut mark, detail, &mut out)?
                }
                read => read?,
            };
            if !is_heard {
                return Ok(());
            }
        } else if !out.send(&mark) {
            return Ok(());
        }
        ledger.add(mark);
    }
    Ok(())
}

/// Where reading a source begins.
fn begun(source: &SourcePath, stamp: Stamp, plan: Plan) -> SourceFile {
    let mut mark = match plan {
        Plan::Known(known) => *known,
        Plan::SameAs(same) => SourceFile { same_as: Some(same.name.clone()), ..*same },
        Plan::GoOn(begun) => SourceFile { rewritten: false, finished: false, ..*begun },
        Plan::Fresh | Plan::Rewritten => SourceFile {
            name: String::new(),
            format: source.format,
            size_bytes: 0,
            hash: blake3::Hasher::new().finalize().to_hex().to_string(),
            n_records: 0,
            finished: false,
            open_at: None,
            same_as: None,
            rewritten: plan == Plan::Rewritten,
            stamp,
            tally: None,
        },
    };
    mark.name.clone_from(&source.name);
    mark.stamp = stamp;
    mark
}

/// What an error says of a source when its bytes are to blame for it, and not the system.
fn fault_of(path: &Path) -> impl Fn(std::io::Error) -> DataError {
    move |error| {
        if is_damage(&error) {
            let detail = error.to_string();
            return DataError::DamagedSource { path: path.to_owned(), detail };
        }
        io_error("read", path)(error)
    }
}

/// Stands for the rest of a file that cannot be read, so that it is neither lost nor in the way of others.
fn unreadable(
    path: &Path,
    mark: &mut SourceFile,
    reason: String,
    out: &mut Out<'_>,
) -> Result<bool, DataError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(KEPT_OF_TOO_LONG as u64).read_to_end(&mut bytes))
        .map_err(io_error("read", path))?;
    (mark.hash, mark.size_bytes) = digest(path)?;
    // What was read before it is in the same batch, so that a kill between the two doubles nothing.
    mark.n_records = out.records.last().map_or(mark.n_records, |record| record.line) + 1;
    mark.finished = true;
    mark.open_at = None;
    let (line, size_bytes) = (mark.n_records, mark.size_bytes);
    let unreadable = Some(reason);
    out.records.push(Record { line, bytes, size_bytes, unreadable, ..Record::default() });
    Ok(out.send(mark))
}

/// Reads the rest of a source. Returns whether somebody still listens.
fn read_frames(
    path: &Path,
    mark: &mut SourceFile,
    rules: &Rules<'_>,
    out: &mut Out<'_>,
) -> Result<bool, DataError> {
    let to_data = fault_of(path);
    let (input, _) = Input::open(path)?;
    let mut framer = Framer::new(input, mark.format, rules.max_row_bytes);
    let mut record = Record::default();
    if mark.format == Format::Csv && framer.next_record(&mut record).map_err(&to_data)? {
        let kind = |name: &str| csv_kind(rules, name);
        let read = CsvHeader::new(&record.bytes, kind).map_err(|detail| {
            DataError::DamagedSource { path: path.to_owned(), detail: format!("header: {detail}") }
        })?;
        out.header = Some(Arc::new(read));
    }
    seek(&mut framer, mark, ends_line(path, mark)?).map_err(&to_data)?;
    loop {
        let mut n_bytes = 0;
        let mut at_end = false;
        while n_bytes < BATCH_BYTES && out.records.len() < BATCH_ROWS {
            if !framer.next_record(&mut record).map_err(&to_data)? {
                at_end = true;
                break;
            }
            n_bytes += record.bytes.len();
            out.records.push(std::mem::take(&mut record));
        }
        mark.size_bytes = framer.input.consumed();
        mark.hash = framer.input.hash().to_hex().to_string();
        mark.n_records = framer.count();
        mark.finished = at_end;
        mark.open_at = framer.open_at.filter(|_| at_end);
        if !out.send(mark) {
            return Ok(false);
        }
        if at_end {
            return Ok(true);
        }
    }
}

/// Whether the line that had no end has it now: then it was whole. True when there is no such line.
fn ends_line(path: &Path, mark: &SourceFile) -> Result<bool, DataError> {
    if mark.open_at.is_none() {
        return Ok(true);
    }
    let (mut input, _) = Input::open(path)?;
    input.skip_to(mark.size_bytes).map_err(fault_of(path))?;
    let next = input.head(HEAD_BYTES).map_err(fault_of(path))?;
    // A mail ends where the next one begins; an empty line may come between them.
    Ok(match mark.format {
        Format::Mbox => next.trim_ascii_start().starts_with(b"From "),
        _ => matches!(next.as_slice(), [] | [b'\n', ..] | [b'\r', b'\n', ..]),
    })
}

/// Goes to where the source was left: after its last record, or to that record when it goes on.
fn seek(framer: &mut Framer, mark: &SourceFile, ends_line: bool) -> std::io::Result<()> {
    if mark.n_records <= framer.count() {
        return Ok(());
    }
    if !mark.format.grows() {
        // The framer must see the file's syntax from its beginning.
        let mut record = Record::default();
        while framer.count() < mark.n_records && framer.next_record(&mut record)? {}
        return Ok(());
    }
    match mark.open_at {
        None => framer.input.skip_to(mark.size_bytes)?,
        Some(open_at) if !ends_line => {
            framer.input.skip_to(open_at)?;
            framer.set_count(mark.n_records - 1);
            return Ok(());
        }
        Some(_) => {
            framer.input.skip_to(mark.size_bytes)?;
            // What is shown may end between the two.
            for end in [b'\r', b'\n'] {
                let is_next = framer.input.peek()?.first() == Some(&end);
                framer.input.consume(usize::from(is_next))?;
            }
        }
    }
    framer.set_count(mark.n_records);
    Ok(())
}

fn csv_kind(rules: &Rules<'_>, name: &str) -> CsvKind {
    let schema = rules.contract.terms.schema.as_ref();
    let kind = schema.and_then(|schema| schema.pointer("/properties")?.get(name)?.get("type"));
    let is = |wanted: &str| match kind {
        Some(serde_json::Value::Array(kinds)) => kinds.iter().any(|kind| kind == wanted),
        Some(kind) => kind == wanted,
        None => false,
    };
    let kinds = [
        ("string", CsvKind::Text),
        ("integer", CsvKind::Integer),
        ("number", CsvKind::Number),
        ("boolean", CsvKind::Boolean),
    ];
    kinds.iter().find(|(name, _)| is(name)).map_or(CsvKind::Text, |(_, kind)| *kind)
}

fn read_parquet(
    path: &Path,
    mark: &mut SourceFile,
    rules: &Rules<'_>,
    out: &mut Out<'_>,
) -> Result<bool, DataError> {
    // The whole file is its identity, for Parquet is read from its end.
    let (mut input, _) = Input::open(path)?;
    input.skip_to(u64::MAX).map_err(io_error("read", path))?;
    mark.size_bytes = input.consumed();
    mark.hash = input.hash().to_hex().to_string();
    let mut rows = parquet_rows::rows(path, mark.n_records)?;
    loop {
        let mut n_bytes = 0;
        let mut at_end = false;
        while n_bytes < BATCH_BYTES && out.records.len() < BATCH_ROWS {
            let Some(row) = rows.next() else {
                at_end = true;
                break;
            };
            mark.n_records += 1;
            let (bytes, fault) = match row? {
                Ok(text) => (text.into_bytes(), None),
                Err(fault) => (Vec::new(), Some(fault)),
            };
            n_bytes += bytes.len();
            let (size_bytes, line) = (bytes.len() as u64, mark.n_records);
            // Rows of Parquet have no offset of their own; their number is `line`.
            let offset_bytes = line - 1;
            let too_long = bytes.len() > rules.max_row_bytes;
            let unreadable = None;
            out.records.push(Record {
                offset_bytes,
                line,
                bytes,
                size_bytes,
                too_long,
                fault,
                unreadable,
            });
        }
        mark.finished = at_end;
        if !out.send(mark) {
            return Ok(false);
        }
        if at_end {
            return Ok(true);
        }
    }
}
