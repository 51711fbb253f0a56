//! Reading and checking on several cores, with bounded queues, in the order of the sources.
//!
//! It must never publish, and never hold more than a few batches of rows.
//!
//! Start reading at [`run`].

use std::collections::BTreeMap;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::DataError;
use crate::caught::caught;
use crate::check::row::{self, Good, Rules};
use crate::check::{Violation, rule};
use crate::ingest::IngestProgress;
use crate::known::KnownRows;
use crate::quarantine::QuarantinedRow;
use crate::read::Format;
use crate::read::framer::Record;
use crate::reader::{Batch, SourcePath, read_all};
use crate::stage::Stage;
use crate::stage::ledger::{Ledger, SourceFile, Stamp};

/// The same rows after the check.
struct Checked {
    rows: Vec<CheckedRow>,
    blank_lines: u64,
    mark: SourceFile,
}

struct CheckedRow {
    record: Record,
    verdict: Result<Good, Violation>,
    /// The columns with a share of nulls that are missing or null in it.
    nulls: Vec<usize>,
}

/// Each holds a few copies of a chunk of rows, which is 16 MiB, while it is checked and written.
const MAX_WORKERS: usize = 4;

/// How many threads check and write rows.
pub(crate) fn n_workers() -> usize {
    n_workers_of(std::thread::available_parallelism().ok().map(std::num::NonZero::get))
}

fn n_workers_of(n_cores: Option<usize>) -> usize {
    n_cores.map_or(1, |n_cores| n_cores.min(MAX_WORKERS))
}

/// Reads all sources that the ledger does not know into the stage.
pub(crate) fn run(
    stage: &mut Stage,
    ledger: Ledger,
    sources: &[SourcePath],
    rules: Rules<'_>,
    known_rows: &dyn Fn(&str) -> Result<KnownRows, DataError>,
    progress: &mut dyn FnMut(IngestProgress),
) -> Result<(), DataError> {
    let n_workers = n_workers();
    let (to_workers, from_reader) = bounded::<(u64, Batch)>(2 * n_workers);
    let (to_writer, from_workers) = bounded::<(u64, Checked)>(2 * n_workers);
    let size_bytes = sources.iter().map(|s| Stamp::of(&s.path).map_or(0, |s| s.size_bytes)).sum();
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || read_all(ledger, sources, &rules, &to_workers));
        for _ in 0..n_workers {
            let (from_reader, to_writer) = (from_reader.clone(), to_writer.clone());
            scope.spawn(move || check_all(&rules, &from_reader, &to_writer));
        }
        drop((from_reader, to_writer));
        let written = write_all(stage, from_workers, size_bytes, known_rows, progress);
        let read = reader.join().expect("the reader does not panic: this is a bug");
        // When writing fails the reader finds nobody to read for; that is no error of its own.
        written.and(read)
    })
}

fn check_all(rules: &Rules<'_>, batches: &Receiver<(u64, Batch)>, done: &Sender<(u64, Checked)>) {
    for (number, batch) in batches {
        let Batch { format, header, records, mark } = batch;
        let mut blank_lines = 0;
        let mut rows = Vec::with_capacity(records.len());
        for record in records {
            if record.is_blank() && format != Format::Mail {
                blank_lines += 1;
                continue;
            }
            let header = header.as_deref();
            let mut nulls = Vec::new();
            let null = |column: usize| nulls.push(column);
            let checked = caught(|| row::check(&record, format, header, rules, null));
            let verdict = checked.unwrap_or_else(|panic| {
                let detail = format!("checking the row panicked: {panic}");
                Err(Violation::new(rule::UNREADABLE, detail))
            });
            rows.push(CheckedRow { record, verdict, nulls });
        }
        if done.send((number, Checked { rows, blank_lines, mark })).is_err() {
            return;
        }
    }
}

fn write_all(
    stage: &mut Stage,
    checked: Receiver<(u64, Checked)>,
    size_bytes: u64,
    known_rows: &dyn Fn(&str) -> Result<KnownRows, DataError>,
    progress: &mut dyn FnMut(IngestProgress),
) -> Result<(), DataError> {
    // Workers finish out of order; no more wait here than are under way.
    let mut early = BTreeMap::new();
    let mut next = 0;
    let mut known: Option<(String, KnownRows)> = None;
    let (mut bytes_done, mut current) = (0_u64, (String::new(), 0_u64));
    for (number, batch) in checked {
        early.insert(number, batch);
        while let Some(batch) = early.remove(&next) {
            next += 1;
            if batch.mark.rewritten
                && known.as_ref().is_none_or(|(name, _)| *name != batch.mark.name)
            {
                known = Some((batch.mark.name.clone(), known_rows(&batch.mark.name)?));
            }
            let seen = known.as_mut().filter(|_| batch.mark.rewritten).map(|(_, rows)| rows);
            let (name, bytes) = (batch.mark.name.clone(), batch.mark.size_bytes);
            write(stage, batch, seen)?;
            if stage.is_full() {
                stage.checkpoint()?;
            }
            if current.0 != name {
                bytes_done += current.1;
                current.0 = name;
            }
            current.1 = bytes;
            progress(progress_of(stage, bytes_done + current.1, size_bytes));
        }
    }
    progress(progress_of(stage, bytes_done + current.1, size_bytes));
    stage.checkpoint()
}

fn progress_of(stage: &mut Stage, bytes_read: u64, size_bytes: u64) -> IngestProgress {
    let counts = stage.counts();
    let rows_quarantined = counts.rows_in - counts.rows_good;
    IngestProgress { bytes_read, size_bytes, rows_in: counts.rows_in, rows_quarantined }
}

fn write(
    stage: &mut Stage,
    batch: Checked,
    mut known: Option<&mut KnownRows>,
) -> Result<(), DataError> {
    for CheckedRow { record, verdict, nulls } in batch.rows {
        let bytes = verdict.as_ref().map_or(record.bytes.as_slice(), |good| good.text.as_bytes());
        if let Some(known) = &mut known
            && known.take(bytes, &record.bytes)?
        {
            stage.counts().rows_repeated += 1;
            continue;
        }
        let counts = stage.counts();
        counts.rows_in += 1;
        for column in nulls {
            if counts.nulls.len() <= column {
                counts.nulls.resize(column + 1, 0);
            }
            counts.nulls[column] += 1;
        }
        match verdict {
            Ok(good) => {
                stage.accept(&good, &batch.mark.name, (record.offset_bytes, record.line))?
            }
            Err(violation) => {
                let SourceFile { name, format, .. } = &batch.mark;
                stage.refuse(&QuarantinedRow::new(&record, name, Some(*format), violation));
            }
        }
    }
    let counts = stage.counts();
    counts.blank_lines += batch.blank_lines;
    counts.sources_repeated += u64::from(batch.mark.same_as.is_some());
    stage.mark(batch.mark);
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn memory_does_not_grow_with_cores() {
        assert_eq!([Some(64), Some(2), None].map(super::n_workers_of), [4, 2, 1]);
    }
}
