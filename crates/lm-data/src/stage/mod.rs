//! What an ingest has read and not yet published, safe on disk: a kill costs at most the last chunk.
//!
//! It must never touch a published version.
//!
//! ```text
//! staging/checkpoint.json       what counts; all else in the folder is a leftover
//! staging/chunk-N.rows          rows that are good so far: (offset, line, size of source and text, both)
//! staging/chunk-N.bad           quarantined rows, as JSON lines
//! staging/chunk-N.sources       sources as far as this chunk read them, as JSON lines
//! staging/chunk-N.key-K         sorted keys of the K-th cross-row rule
//! staging/signatures            128 bytes a row, when near-duplicates are looked for
//! ```
//!
//! Start reading at [`Stage::begin`], then [`Stage::checkpoint`].

pub(crate) mod ledger;
pub(crate) mod runs;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::DataError;
use crate::check::minhash::N_BINS;
use crate::check::row::Good;
use crate::error::io_error;
use crate::home::{DatasetFolder, DatasetLock, entries, remove_folder, replace_whole, sync_folder};
use crate::quarantine::QuarantinedRow;
use crate::stage::ledger::SourceFile;
use crate::stage::runs::{Entry, write_run};
use crate::version::segment::StoredRow;

/// A chunk becomes one Parquet file.
pub(crate) const CHUNK_BYTES: usize = 16 << 20;
pub(crate) const CHUNK_ROWS: usize = 1 << 16;

/// What is counted while rows come in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// Rows without blank lines.
    pub(crate) rows_in: u64,
    pub(crate) rows_good: u64,
    pub(crate) blank_lines: u64,
    /// Rows of a rewritten source that had been read before.
    pub(crate) rows_repeated: u64,
    pub(crate) sources_repeated: u64,
    pub(crate) by_rule: BTreeMap<String, u64>,
    /// Column by column of the contract: rows in which it was missing or null.
    pub(crate) nulls: Vec<u64>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Checkpoint {
    /// What this staging is for: another job cannot go on with it.
    job: String,
    /// The good rows of each chunk.
    chunk_rows: Vec<u64>,
    counts: Counts,
}

/// The staging of one ingest.
pub(crate) struct Stage {
    pub(crate) dataset: DatasetFolder,
    checkpoint: Checkpoint,
    n_rules: usize,
    bands: bool,
    chunk: Chunk,
    signatures: Option<BufWriter<File>>,
    lock: DatasetLock,
}

/// The chunk that is filled.
#[derive(Default)]
struct Chunk {
    rows: Vec<u8>,
    bad: Vec<u8>,
    sources: BTreeMap<String, SourceFile>,
    keys: Vec<Vec<Entry>>,
    n_rows: usize,
}

impl Stage {
    /// Goes on with what an ingest of the same job left, or begins anew. `n_rules` exact rules compare rows, and
    /// `bands` tells whether near-duplicates are looked for.
    pub(crate) fn begin(
        dataset: &DatasetFolder,
        lock: DatasetLock,
        job: &str,
        (n_rules, bands): (usize, bool),
    ) -> Result<Stage, DataError> {
        let folder = &dataset.staging;
        let left = fs::read(folder.join("checkpoint.json")).ok();
        let left = left.and_then(|bytes| serde_json::from_slice::<Checkpoint>(&bytes).ok());
        let checkpoint = match left.filter(|left| left.job == job) {
            Some(left) => left,
            None => {
                remove_folder(folder)?;
                fs::create_dir_all(folder).map_err(io_error("create the folder", folder))?;
                Checkpoint { job: job.to_owned(), ..Checkpoint::default() }
            }
        };
        let signatures = bands.then(|| {
            let path = folder.join("signatures");
            let mut options = File::options();
            let file = options.create(true).truncate(false).write(true).open(&path);
            let size = checkpoint.counts.rows_good * N_BINS as u64;
            file.and_then(|mut file| {
                file.set_len(size)?;
                file.seek(SeekFrom::Start(size))?;
                Ok(BufWriter::new(file))
            })
            .map_err(io_error("open", &path))
        });
        let signatures = signatures.transpose()?;
        let mut stage = Stage {
            dataset: dataset.clone(),
            checkpoint,
            n_rules,
            bands,
            chunk: Chunk::default(),
            signatures,
            lock,
        };
        stage.chunk = stage.empty_chunk();
        Ok(stage)
    }

    fn empty_chunk(&self) -> Chunk {
        Chunk { keys: vec![Vec::new(); self.n_rules + usize::from(self.bands)], ..Chunk::default() }
    }

    /// Gives up what was staged, and begins anew.
    pub(crate) fn start_over(self) -> Result<Stage, DataError> {
        let Stage { dataset, checkpoint, n_rules, bands, lock, .. } = self;
        remove_folder(&dataset.staging)?;
        Stage::begin(&dataset, lock, &checkpoint.job, (n_rules, bands))
    }

    pub(crate) fn counts(&mut self) -> &mut Counts {
        &mut self.checkpoint.counts
    }

    pub(crate) fn n_chunks(&self) -> u64 {
        self.checkpoint.chunk_rows.len() as u64
    }

    /// The good rows of a chunk.
    pub(crate) fn chunk_rows(&self, chunk: u64) -> u64 {
        self.checkpoint.chunk_rows[chunk as usize]
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.dataset.staging
    }

    /// Whether an ingest that was killed left something.
    pub(crate) fn is_resumed(&self) -> bool {
        !self.checkpoint.chunk_rows.is_empty()
    }

    pub(crate) fn accept(
        &mut self,
        good: &Good,
        source: &str,
        (offset_bytes, line): (u64, u64),
    ) -> Result<(), DataError> {
        let row = self.checkpoint.counts.rows_good;
        let size = |text: &str| u32::try_from(text.len()).expect("rows are bounded: this is a bug");
        let chunk = &mut self.chunk;
        chunk.rows.extend_from_slice(&offset_bytes.to_le_bytes());
        chunk.rows.extend_from_slice(&line.to_le_bytes());
        chunk.rows.extend_from_slice(&size(source).to_le_bytes());
        chunk.rows.extend_from_slice(&size(&good.text).to_le_bytes());
        chunk.rows.extend_from_slice(source.as_bytes());
        chunk.rows.extend_from_slice(good.text.as_bytes());
        chunk.n_rows += 1;
        for (keys, key) in chunk.keys.iter_mut().zip(&good.keys.exact) {
            keys.extend(key.map(|(key, aux)| Entry { key, aux, row }));
        }
        if let Some(signatures) = &mut self.signatures {
            let empty = [0; N_BINS];
            let signature = match &good.keys.bands {
                Some((bands, signature)) => {
                    let entry = |&key: &u64| Entry { key, aux: 0, row };
                    chunk.keys[self.n_rules].extend(bands.iter().map(entry));
                    signature
                }
                None => &empty,
            };
            let path = self.dataset.staging.join("signatures");
            signatures.write_all(signature).map_err(io_error("write", &path))?;
        }
        self.checkpoint.counts.rows_good += 1;
        Ok(())
    }

    pub(crate) fn refuse(&mut self, row: &QuarantinedRow) {
        serde_json::to_writer(&mut self.chunk.bad, row)
            .expect("a quarantined row of texts and numbers is JSON: this is a bug");
        self.chunk.bad.push(b'\n');
        *self.checkpoint.counts.by_rule.entry(row.rule.clone()).or_default() += 1;
    }

    /// How far a source was read. Together with its rows it counts from the next checkpoint on.
    pub(crate) fn mark(&mut self, source: SourceFile) {
        self.chunk.sources.insert(source.name.clone(), source);
    }

    pub(crate) fn is_full(&self) -> bool {
        let n_bytes = self.chunk.rows.len() + self.chunk.bad.len();
        n_bytes >= CHUNK_BYTES || self.chunk.n_rows >= CHUNK_ROWS
    }

    /// Makes everything so far survive a kill: rows, keys and how far each source was read, all or nothing.
    pub(crate) fn checkpoint(&mut self) -> Result<(), DataError> {
        let empty = self.empty_chunk();
        let mut chunk = std::mem::replace(&mut self.chunk, empty);
        let n = self.n_chunks();
        let write = |kind: &str, bytes: &[u8]| crate::home::write_whole(&self.path(n, kind), bytes);
        let mut sources = Vec::new();
        for source in chunk.sources.values() {
            serde_json::to_writer(&mut sources, source)
                .expect("a source of texts and numbers is JSON: this is a bug");
            sources.push(b'\n');
        }
        write("rows", &chunk.rows)?;
        write("bad", &chunk.bad)?;
        write("sources", &sources)?;
        for (i, keys) in chunk.keys.iter_mut().enumerate() {
            write_run(&self.path(n, &format!("key-{i}")), keys)?;
        }
        if let Some(signatures) = &mut self.signatures {
            let synced = signatures.flush().and_then(|()| signatures.get_ref().sync_all());
            synced.map_err(io_error("sync the signatures in", &self.dataset.staging))?;
        }
        sync_folder(&self.dataset.staging)?;
        self.checkpoint.chunk_rows.push(chunk.n_rows as u64);
        let text = serde_json::to_vec(&self.checkpoint)
            .expect("a checkpoint of texts and numbers is JSON: this is a bug");
        replace_whole(&self.dataset.staging.join("checkpoint.json"), &text)
    }

    pub(crate) fn path(&self, chunk: u64, kind: &str) -> PathBuf {
        self.dataset.staging.join(format!("chunk-{chunk:06}.{kind}"))
    }

    /// The sources of all chunks, in the order in which they were read.
    pub(crate) fn sources(&self) -> Result<Vec<SourceFile>, DataError> {
        let mut sources = Vec::new();
        for chunk in 0..self.n_chunks() {
            read_lines(&self.path(chunk, "sources"), |source| sources.push(source))?;
        }
        Ok(sources)
    }

    /// The rows of one chunk.
    pub(crate) fn rows(&self, chunk: u64) -> Result<Vec<StoredRow>, DataError> {
        read_chunk(&self.path(chunk, "rows"))
    }

    /// Leaves nothing behind.
    pub(crate) fn discard(self) -> Result<(), DataError> {
        remove_folder(&self.dataset.staging)
    }
}

/// The files in a staging that its checkpoint does not name: nothing reads them. The lock must be held.
pub(crate) fn leftovers(dataset: &DatasetFolder) -> Result<Vec<PathBuf>, DataError> {
    let folder = &dataset.staging;
    let left = fs::read(folder.join("checkpoint.json")).ok();
    let left = left.and_then(|bytes| serde_json::from_slice::<Checkpoint>(&bytes).ok());
    let n_chunks = left.as_ref().map_or(0, |left| left.chunk_rows.len());
    let is_named = |name: &str| {
        let chunk = name.strip_prefix("chunk-").and_then(|rest| rest.split('.').next());
        let chunk = chunk.and_then(|number| number.parse::<usize>().ok());
        match chunk {
            Some(chunk) => chunk < n_chunks,
            None => left.is_some() && matches!(name, "checkpoint.json" | "signatures"),
        }
    };
    let names = entries(folder)?;
    Ok(names.iter().filter(|name| !is_named(name)).map(|name| folder.join(name)).collect())
}

/// The rows of a chunk's file.
pub(crate) fn read_chunk(path: &Path) -> Result<Vec<StoredRow>, DataError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|mut file| file.read_to_end(&mut bytes))
        .map_err(io_error("read", path))?;
    let damaged = || DataError::Damaged { path: path.to_owned(), detail: "it is cut".to_owned() };
    let mut rest = bytes.as_slice();
    let mut rows = Vec::new();
    while !rest.is_empty() {
        let (head, after) = rest.split_first_chunk::<24>().ok_or_else(damaged)?;
        let number = |at: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&head[at..at + 8]);
            u64::from_le_bytes(number)
        };
        let size = |at: usize| {
            let mut size = [0; 4];
            size.copy_from_slice(&head[at..at + 4]);
            u32::from_le_bytes(size) as usize
        };
        let (n_source, n_text) = (size(16), size(20));
        let (source, after) = after.split_at_checked(n_source).ok_or_else(damaged)?;
        let (text, after) = after.split_at_checked(n_text).ok_or_else(damaged)?;
        let text_of = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| damaged());
        rows.push(StoredRow {
            text: text_of(text)?,
            source: text_of(source)?,
            offset_bytes: number(0),
            line: number(8),
        });
        rest = after;
    }
    Ok(rows)
}

/// Reads a file of JSON lines that the pipeline wrote.
pub(crate) fn read_lines<T: serde::de::DeserializeOwned>(
    path: &Path,
    mut see: impl FnMut(T),
) -> Result<(), DataError> {
    let file = File::open(path).map_err(io_error("open", path))?;
    for (i, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(io_error("read", path))?;
        let value = serde_json::from_str(&line).map_err(|error| DataError::Damaged {
            path: path.to_owned(),
            detail: format!("line {}: {error}", i + 1),
        })?;
        see(value);
    }
    Ok(())
}
