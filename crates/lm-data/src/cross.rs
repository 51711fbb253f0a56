//! The rules that compare rows: uniqueness, columns that decide others, near-duplicates. All by sorted runs on disk.
//!
//! It must never hold more keys than fit its buffers, however many rows there are.
//!
//! Start reading at [`compare`].

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::DataError;
use crate::check::contract::Terms;
use crate::check::minhash::{N_BINS, similarity};
use crate::check::{Violation, row, rule};
use crate::error::io_error;
use crate::stage::Stage;
use crate::stage::runs::{Entry, Merge, RunReader, RunWriter, Sorter};
use crate::version::segment::StoredRow;

/// The rows of a stage that break a rule together with others, in their order.
pub(crate) struct Crossed {
    /// `key` is the row, `aux` the rule, `row` the other row.
    run: Option<RunReader>,
    next: Option<Entry>,
    /// How many rows break each rule first.
    pub(crate) by_rule: BTreeMap<String, u64>,
    names: Vec<String>,
    n_parent: u64,
}

/// Whether a row breaks this rule only together with others.
pub(crate) fn is_rule(name: &str) -> bool {
    name == rule::NEAR_DUPLICATE || name.starts_with("unique:") || name.starts_with("depends:")
}

/// Compares the rows of the stage with each other and with those of the parent version. Rows of the parent are never
/// refused; of rows that are equal the first stays. Each rule sees all rows, also those that another one refuses.
pub(crate) fn compare(
    stage: &Stage,
    terms: &Terms,
    parent: impl Iterator<Item = Result<StoredRow, DataError>>,
) -> Result<Crossed, DataError> {
    let names = names(terms);
    let mut crossed =
        Crossed { run: None, next: None, by_rule: BTreeMap::new(), names, n_parent: 0 };
    if !terms.crosses_rows() {
        return Ok(crossed);
    }
    let parent = Parent::read(stage, terms, parent)?;
    crossed.n_parent = parent.n_rows;
    let mut bad = Sorter::new(stage.folder().join("crossed"));
    let n_unique = terms.unique.len();
    for i in 0..crossed.names.len() {
        let merge = || merge_of(stage, &parent, i);
        match i {
            _ if i < n_unique => unique(merge()?, i, parent.n_rows, &mut bad)?,
            _ if i < n_unique + terms.depends.len() => {
                let winners = stage.folder().join(format!("winners-{i}"));
                let n_winners = find_winners(merge()?, &winners, parent.n_rows)?;
                if n_winners > 0 {
                    refuse_losers(merge()?, &winners, i, parent.n_rows, &mut bad)?;
                }
            }
            _ => {
                let least = terms.near_duplicates.as_ref().map_or(1.0, |near| near.similarity);
                let mut signatures = Signatures::open(stage, &parent)?;
                near_duplicates(merge()?, i, least, &mut signatures, parent.n_rows, &mut bad)?;
            }
        }
    }
    crossed.finish(stage, bad)?;
    Ok(crossed)
}

/// The names of the cross-row rules, in the order of their keys.
fn names(terms: &Terms) -> Vec<String> {
    let unique = terms.unique.iter().map(|columns| format!("unique:{}", columns.join("+")));
    let depends = terms.depends.iter().map(|depends| format!("depends:{}", depends.column));
    let near = terms.near_duplicates.iter().map(|_| rule::NEAR_DUPLICATE.to_owned());
    unique.chain(depends).chain(near).collect()
}

/// The keys of the rows that are published. They come before those of the stage.
struct Parent {
    n_rows: u64,
    runs: Vec<Vec<PathBuf>>,
    signatures: PathBuf,
}

impl Parent {
    fn read(
        stage: &Stage,
        terms: &Terms,
        rows: impl Iterator<Item = Result<StoredRow, DataError>>,
    ) -> Result<Parent, DataError> {
        let n_exact = terms.unique.len() + terms.depends.len();
        let bands = terms.near_duplicates.is_some();
        let stem = |i: usize| stage.folder().join(format!("parent-{i}"));
        let mut sorters: Vec<Sorter> =
            (0..n_exact + usize::from(bands)).map(|i| Sorter::new(stem(i))).collect();
        let signatures = stage.folder().join("parent-signatures");
        let file = File::create(&signatures).map_err(io_error("create", &signatures))?;
        let mut file = BufWriter::new(file);
        let mut n_rows = 0;
        for stored in rows {
            let value = serde_json::from_str(&stored?.text).unwrap_or_default();
            let keys = row::keys(&value, terms);
            for (sorter, key) in sorters.iter_mut().zip(&keys.exact) {
                if let Some((key, aux)) = *key {
                    sorter.push(Entry { key, aux, row: n_rows })?;
                }
            }
            if bands {
                let (keys, signature) = keys.bands.unwrap_or_else(|| (vec![], [0; N_BINS].into()));
                for key in keys {
                    sorters[n_exact].push(Entry { key, aux: 0, row: n_rows })?;
                }
                file.write_all(&*signature).map_err(io_error("write to", &signatures))?;
            }
            n_rows += 1;
        }
        file.flush().map_err(io_error("write to", &signatures))?;
        let runs = sorters.into_iter().map(Sorter::into_runs).collect::<Result<_, _>>()?;
        Ok(Parent { n_rows, runs, signatures })
    }
}

/// The entries of a rule in order: of equal keys the parent's rows come first, then the stage's in their order.
struct Keys {
    parent: Merge,
    stage: Merge,
    heads: (Option<Entry>, Option<Entry>),
    n_parent: u64,
}

fn merge_of(stage: &Stage, parent: &Parent, i: usize) -> Result<Keys, DataError> {
    let paths = (0..stage.n_chunks()).map(|n| stage.path(n, &format!("key-{i}"))).collect();
    let scratch = |name: &str| stage.folder().join(format!("{name}-{i}"));
    let mut of_stage = Merge::open(paths, &scratch("scratch"))?;
    let mut of_parent = Merge::open(parent.runs[i].clone(), &scratch("parent-scratch"))?;
    let heads = (of_parent.next()?, of_stage.next()?);
    Ok(Keys { parent: of_parent, stage: of_stage, heads, n_parent: parent.n_rows })
}

impl Keys {
    fn next(&mut self) -> Result<Option<Entry>, DataError> {
        let shift = self.n_parent;
        let moved = self.heads.1.map(|entry| Entry { row: entry.row + shift, ..entry });
        match (self.heads.0, moved) {
            (Some(old), new) if new.is_none_or(|new| old <= new) => {
                self.heads.0 = self.parent.next()?;
                Ok(Some(old))
            }
            (_, Some(new)) => {
                self.heads.1 = self.stage.next()?;
                Ok(Some(new))
            }
            _ => Ok(None),
        }
    }
}

fn unique(mut keys: Keys, i: usize, n_parent: u64, bad: &mut Sorter) -> Result<(), DataError> {
    let mut first = Entry { row: u64::MAX, ..Entry::default() };
    while let Some(entry) = keys.next()? {
        let is_first = first.row == u64::MAX || (first.key, first.aux) != (entry.key, entry.aux);
        if is_first {
            first = entry;
        } else if entry.row >= n_parent {
            bad.push(Entry { key: entry.row, aux: i as u64, row: first.row })?;
        }
    }
    Ok(())
}

/// Of each key that comes with several values: the value that most rows have, the earliest of equals. A value of
/// the parent wins always. Returns how many there are.
fn find_winners(mut keys: Keys, path: &Path, n_parent: u64) -> Result<u64, DataError> {
    let mut winners = RunWriter::create(path)?;
    let mut n_winners = 0;
    // (published, rows, minus the first row) of the best value and of the one that is counted.
    let mut best: Option<(Rank, Entry)> = None;
    let mut counted: Option<(Rank, Entry)> = None;
    let mut n_values = 0;
    loop {
        let entry = keys.next()?;
        let same = |a: &Entry, b: &Entry| (a.key, a.aux) == (b.key, b.aux);
        if let (Some(entry), Some((rank, value))) = (&entry, &mut counted)
            && same(entry, value)
        {
            rank.1 += 1;
            continue;
        }
        if let Some(done) = counted.take()
            && best.is_none_or(|best| done.0 > best.0)
        {
            best = Some(done);
        }
        let is_new_key = |(_, best): (Rank, Entry)| entry.is_none_or(|entry| entry.key != best.key);
        if best.is_some_and(is_new_key) {
            if let Some((_, winner)) = best.take().filter(|_| n_values > 1) {
                winners.push(winner)?;
                n_winners += 1;
            }
            n_values = 0;
        }
        let Some(entry) = entry else { break };
        let is_published = entry.row < n_parent;
        counted = Some(((is_published, 1, std::cmp::Reverse(entry.row)), entry));
        n_values += 1;
    }
    winners.finish()?;
    Ok(n_winners)
}

type Rank = (bool, u64, std::cmp::Reverse<u64>);

fn refuse_losers(
    mut keys: Keys,
    winners: &Path,
    i: usize,
    n_parent: u64,
    bad: &mut Sorter,
) -> Result<(), DataError> {
    let mut winners = RunReader::open(winners)?;
    let mut winner = winners.next()?;
    while let Some(entry) = keys.next()? {
        while winner.is_some_and(|winner| winner.key < entry.key) {
            winner = winners.next()?;
        }
        if let Some(winner) = winner.filter(|winner| winner.key == entry.key)
            && winner.aux != entry.aux
            && entry.row >= n_parent
        {
            bad.push(Entry { key: entry.row, aux: i as u64, row: winner.row })?;
        }
    }
    Ok(())
}

/// The signatures of all rows, on disk.
struct Signatures {
    parent: File,
    stage: File,
    n_parent: u64,
    folder: PathBuf,
}

impl Signatures {
    fn open(stage: &Stage, parent: &Parent) -> Result<Signatures, DataError> {
        let path = stage.folder().join("signatures");
        let of_stage = File::open(&path).map_err(io_error("open", &path))?;
        let of_parent =
            File::open(&parent.signatures).map_err(io_error("open", &parent.signatures))?;
        let folder = stage.folder().to_owned();
        Ok(Signatures { parent: of_parent, stage: of_stage, n_parent: parent.n_rows, folder })
    }

    fn get(&mut self, row: u64) -> Result<[u8; N_BINS], DataError> {
        let (file, row) = match row.checked_sub(self.n_parent) {
            Some(row) => (&mut self.stage, row),
            None => (&mut self.parent, row),
        };
        let mut signature = [0; N_BINS];
        file.seek(SeekFrom::Start(row * N_BINS as u64))
            .and_then(|_| file.read_exact(&mut signature))
            .map_err(io_error("read the signatures in", &self.folder))?;
        Ok(signature)
    }
}

/// Rows that share a band are compared with the first of it and with the one before.
fn near_duplicates(
    mut keys: Keys,
    i: usize,
    least: f64,
    signatures: &mut Signatures,
    n_parent: u64,
    bad: &mut Sorter,
) -> Result<(), DataError> {
    let mut first: Option<(Entry, Option<[u8; N_BINS]>)> = None;
    let mut before: Option<(Entry, [u8; N_BINS])> = None;
    while let Some(entry) = keys.next()? {
        let Some((head, signature)) = first.as_mut().filter(|(head, _)| head.key == entry.key)
        else {
            first = Some((entry, None));
            before = None;
            continue;
        };
        // Most bands have one row, whose signature is never read.
        let of_head = match signature {
            Some(known) => *known,
            None => *signature.insert(signatures.get(head.row)?),
        };
        let own = signatures.get(entry.row)?;
        let near_head = similarity(&of_head, &own) >= least;
        let near_before = before.filter(|(_, before)| similarity(before, &own) >= least);
        let other =
            if near_head { Some(head.row) } else { near_before.map(|(entry, _)| entry.row) };
        if let Some(other) = other.filter(|_| entry.row >= n_parent) {
            bad.push(Entry { key: entry.row, aux: i as u64, row: other })?;
        }
        before = Some((entry, own));
    }
    Ok(())
}

impl Crossed {
    /// Keeps the first rule that each row breaks, in the order of the rows.
    fn finish(&mut self, stage: &Stage, bad: Sorter) -> Result<(), DataError> {
        let path = stage.folder().join("crossed.run");
        let mut merge = bad.merge()?;
        let mut run = RunWriter::create(&path)?;
        let mut last = None;
        while let Some(entry) = merge.next()? {
            if last != Some(entry.key) {
                last = Some(entry.key);
                run.push(entry)?;
                let name = &self.names[entry.aux as usize];
                *self.by_rule.entry(name.clone()).or_default() += 1;
            }
        }
        run.finish()?;
        let mut run = RunReader::open(&path)?;
        self.next = run.next()?;
        self.run = Some(run);
        Ok(())
    }

    /// The bad ones of the next `n_rows` rows, which begin at `begin`: the row after `begin`, and what is wrong.
    pub(crate) fn take(
        &mut self,
        begin: u64,
        n_rows: u64,
    ) -> Result<Vec<(usize, Violation)>, DataError> {
        let begin = begin + self.n_parent;
        let mut taken = Vec::new();
        while let Some(entry) = self.next.filter(|entry| entry.key < begin + n_rows) {
            let name = self.names[entry.aux as usize].clone();
            let detail = match entry.row.checked_sub(self.n_parent) {
                Some(row) => format!("row {} of the good rows of this ingest came before", row + 1),
                None => format!("row {} of the version before has it", entry.row + 1),
            };
            taken.push(((entry.key - begin) as usize, Violation::new(name, detail)));
            self.next = match &mut self.run {
                Some(run) => run.next()?,
                None => None,
            };
        }
        Ok(taken)
    }
}
