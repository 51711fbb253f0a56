//! Rows of a quarantine that are published after all: repaired, or as they are because somebody says so.
//!
//! It must never publish a repair that breaks a rule, and never forget where a row came from.
//!
//! Start reading at [`release`].

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{BufWriter, Write};

use serde::{Deserialize, Serialize};

use crate::check::row::{self, Good, Rules};
use crate::check::{Contract, contract::Terms};
use crate::cross;
use crate::error::io_error;
use crate::home::DatasetFolder;
use crate::ingest::now_ms;
use crate::quarantine::{QuarantinedRow, rows_of};
use crate::read::framer::Record;
use crate::read::{Format, convert};
use crate::stage::{Stage, ledger::SourceFile, read_lines};
use crate::version::merkle::{self, Growing};
use crate::version::rows::VersionRows;
use crate::version::{publish, segment};
use crate::{CountTokens, DataError, DataHome, Manifest, Version, manifest};

/// Which rows of a quarantine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Select {
    /// Those whose ids begin so; each must be one.
    Ids(Vec<String>),
    /// Those that broke this rule.
    Rule(String),
    /// All.
    All,
}

/// How rows of a quarantine are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Release {
    /// By their proposed repair, which must break no rule.
    Repaired,
    /// As they are, whatever rule they broke; they must be rows at all.
    AsIs,
}

/// A row that was published out of a quarantine: a line of the version's `lineage.jsonl`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// The row's id in the quarantine.
    pub id: String,
    /// How.
    pub release: Release,
    /// What the repair did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair: Option<String>,
    /// The rule that it had broken.
    pub rule: String,
    /// Where it came from.
    pub source: String,
    /// Where in it.
    pub offset_bytes: u64,
    /// BLAKE3 of the row's bytes in the source.
    pub raw_hash: String,
    /// BLAKE3 of the row that was published.
    pub row_hash: String,
    /// Unix milliseconds.
    pub at_ms: u64,
}

/// What a release did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Released {
    /// The new version.
    pub version: Version,
    /// The rows that it publishes.
    pub rows: Vec<Lineage>,
    /// Rows that were chosen and stay in quarantine: id and why.
    pub kept: Vec<(String, String)>,
}

/// Rows that are released at once are held in memory.
const MAX_RELEASED: usize = 100_000;

/// Publishes rows of the newest version's quarantine as a new version, with their lineage.
///
/// # Errors
/// [`DataError::NothingReleased`], [`DataError::UnknownRow`], [`DataError::Locked`], [`DataError::NoReport`].
pub fn release(
    home: &DataHome,
    name: &str,
    select: &Select,
    how: Release,
    count_tokens: Option<CountTokens>,
) -> Result<Released, DataError> {
    let dataset = home.dataset(name)?;
    dataset.must_exist()?;
    let lock = dataset.lock()?;
    let newest = manifest::newest(&dataset)?;
    if newest.is_first_format() {
        let (name, version) = (dataset.name, newest.version);
        return Err(DataError::FirstFormat { name, version });
    }
    let contract = contract_of(&dataset, &newest)?;
    let rules = Rules {
        contract: &contract,
        max_row_bytes: crate::MAX_ROW_BYTES_LIMIT,
        count_tokens: count_tokens.as_ref(),
    };
    let (mut ready, mut kept) = choose(&dataset, &newest, select, how, &rules)?;
    let terms = &contract.terms;
    let shape = (terms.unique.len() + terms.depends.len(), terms.near_duplicates.is_some());
    let mut stage = Stage::begin(&dataset, lock, "release", shape)?.start_over()?;
    if how == Release::Repaired && terms.crosses_rows() {
        fill(&mut stage, &ready)?;
        refuse_crossing(&dataset, &newest, &stage, terms, &mut ready, &mut kept)?;
        stage = stage.start_over()?;
    }
    if ready.is_empty() {
        let detail = match kept.first() {
            Some((id, why)) => format!("row {id}: {why}"),
            None => "no row fits".to_owned(),
        };
        stage.discard()?;
        return Err(DataError::NothingReleased { name: dataset.name, detail });
    }
    fill(&mut stage, &ready)?;
    publish_released(&dataset, stage, &contract, newest, &ready, how)
        .map(|(version, rows)| Released { version, rows, kept })
}

/// A row that is published, and what it was.
struct Ready {
    bad: QuarantinedRow,
    good: Good,
}

type Kept = Vec<(String, String)>;

fn contract_of(dataset: &DatasetFolder, manifest: &Manifest) -> Result<Contract, DataError> {
    let folder = dataset.versions.join(manifest.folder_name());
    let toml = folder.join("contract.toml");
    Contract::of_version(&if toml.exists() { toml } else { folder.join("contract.json") })
}

fn choose(
    dataset: &DatasetFolder,
    newest: &Manifest,
    select: &Select,
    how: Release,
    rules: &Rules<'_>,
) -> Result<(Vec<Ready>, Kept), DataError> {
    let mut n_matches = vec![0; if let Select::Ids(ids) = select { ids.len() } else { 0 }];
    let (mut ready, mut kept) = (Vec::new(), Kept::new());
    let formats = formats_of(dataset, newest)?;
    for bad in rows_of(dataset, newest) {
        let mut bad = bad?;
        let is_chosen = match select {
            Select::Ids(ids) => {
                let at = ids.iter().position(|id| bad.id.starts_with(id.as_str()));
                at.map(|at| n_matches[at] += 1).is_some()
            }
            Select::Rule(rule) => bad.rule == *rule,
            Select::All => true,
        };
        if !is_chosen {
            continue;
        }
        // Those that break a rule with others are rows already.
        if !cross::is_rule(&bad.rule) {
            bad.format = bad.format.or_else(|| formats.get(&bad.source).copied());
        }
        match good(&bad, how, rules) {
            Ok(good) => ready.push(Ready { bad, good }),
            Err(why) => kept.push((bad.id, why)),
        }
        if ready.len() > MAX_RELEASED {
            return Err(DataError::InvalidOption {
                field: "rows to release",
                value: format!("over {MAX_RELEASED}"),
                limit: "at most 100000 at once; choose them by --rule or by id",
            });
        }
    }
    if let Select::Ids(ids) = select
        && let Some(at) = n_matches.iter().position(|n| *n != 1)
    {
        let (name, id) = (dataset.name.clone(), ids[at].chars().take(80).collect());
        return Err(DataError::UnknownRow { name, id, n_matches: n_matches[at] });
    }
    Ok((ready, kept))
}

/// The row to publish, or why it stays.
fn good(bad: &QuarantinedRow, how: Release, rules: &Rules<'_>) -> Result<Good, String> {
    let text = match (how, &bad.repair) {
        (Release::Repaired, Some(repair)) => repair.row.clone(),
        (Release::Repaired, None) => return Err("no repair is proposed".to_owned()),
        (Release::AsIs, _) => as_it_is(bad)?,
    };
    let value =
        convert::parse(&text, None).map_err(|broken| format!("it is no row: {}", broken.detail))?;
    let text = if text.contains('\n') { value.to_string() } else { text };
    if how == Release::Repaired {
        row::judge(&value, bad.format.unwrap_or(Format::Jsonl), rules, |_| ())
            .map_err(|broken| format!("repaired it breaks {}: {}", broken.rule, broken.detail))?;
    }
    Ok(Good { text, keys: row::keys(&value, &rules.contract.terms) })
}

/// The text that would have been published but for the rule.
fn as_it_is(bad: &QuarantinedRow) -> Result<String, String> {
    if let Some(row) = &bad.row {
        return Ok(row.clone());
    }
    if bad.size_bytes > bad.raw.len() as u64 {
        return Err("only its beginning was kept".to_owned());
    }
    let QuarantinedRow { offset_bytes, line, size_bytes, .. } = *bad;
    let no_row = |detail: &str| format!("it is no row: {detail}");
    match bad.format.unwrap_or(Format::Jsonl) {
        // Without its header it is none.
        Format::Csv => Err(no_row(&bad.detail)),
        format => {
            let bytes = bad.raw_bytes().unwrap_or_default();
            let record = Record { offset_bytes, line, bytes, size_bytes, ..Record::default() };
            let made = convert::convert(format, None, &record);
            made.map(|(text, _)| text).map_err(|broken| no_row(&broken.detail))
        }
    }
}

/// How the sources of a version are written, by their names.
fn formats_of(
    dataset: &DatasetFolder,
    manifest: &Manifest,
) -> Result<HashMap<String, Format>, DataError> {
    let mut formats = HashMap::new();
    let path = dataset.versions.join(manifest.folder_name()).join("sources.jsonl");
    read_lines(&path, |source: SourceFile| {
        formats.insert(source.name, source.format);
    })?;
    Ok(formats)
}

fn fill(stage: &mut Stage, ready: &[Ready]) -> Result<(), DataError> {
    for Ready { bad, good } in ready {
        stage.accept(good, &bad.source, (bad.offset_bytes, bad.line))?;
        if stage.is_full() {
            stage.checkpoint()?;
        }
    }
    stage.checkpoint()
}

/// A repaired row may be one that the version has already.
fn refuse_crossing(
    dataset: &DatasetFolder,
    newest: &Manifest,
    stage: &Stage,
    terms: &Terms,
    ready: &mut Vec<Ready>,
    kept: &mut Kept,
) -> Result<(), DataError> {
    let parent = VersionRows::open(dataset, newest)?;
    let mut crossed = cross::compare(stage, terms, parent)?;
    for (at, broken) in crossed.take(0, ready.len() as u64)?.into_iter().rev() {
        let id = ready.remove(at).bad.id;
        kept.push((id, format!("repaired it breaks {}: {}", broken.rule, broken.detail)));
    }
    Ok(())
}

fn publish_released(
    dataset: &DatasetFolder,
    stage: Stage,
    contract: &Contract,
    newest: Manifest,
    ready: &[Ready],
    how: Release,
) -> Result<(Version, Vec<Lineage>), DataError> {
    let rows: Vec<Lineage> = ready.iter().map(|ready| lineage(ready, how)).collect();
    let mut manifest = Manifest {
        parent: Some(newest.version.clone()),
        sequence: newest.sequence + 1,
        created_at_ms: now_ms(),
        batch_rows_in: 0,
        ..newest.clone()
    };
    let n_rows = rows.len() as u64;
    manifest.rows_published += n_rows;
    manifest.rows_quarantined -= n_rows;
    manifest.rows_released += n_rows;
    for row in &rows {
        if let Some(count) = manifest.by_rule.get_mut(&row.rule) {
            *count = count.saturating_sub(1);
        }
    }
    manifest.by_rule.retain(|_, count| *count > 0);
    keep_others(dataset, &stage, &newest, &rows, &mut manifest)?;
    let nothing = cross::compare(&stage, &Terms::default(), std::iter::empty())?;
    publish::write_objects(&stage, contract, nothing, &mut manifest)?;
    let old = dataset.versions.join(newest.folder_name());
    let mut sources: Vec<SourceFile> = Vec::new();
    read_lines(&old.join("sources.jsonl"), |source| sources.push(source))?;
    let path = old.join("lineage.jsonl");
    let mut text =
        if path.exists() { fs::read(&path).map_err(io_error("read", &path))? } else { Vec::new() };
    for row in &rows {
        serde_json::to_writer(&mut text, row)
            .expect("a lineage of texts and numbers is JSON: this is a bug");
        text.push(b'\n');
    }
    let folder = publish::publish(dataset, contract, &manifest, sources.iter(), &text)?;
    stage.discard()?;
    let warnings = Vec::new();
    Ok((Version { manifest, already_published: false, warnings, folder }, rows))
}

fn lineage(Ready { bad, good }: &Ready, how: Release) -> Lineage {
    let raw = bad.raw_bytes().unwrap_or_default();
    let repair = bad.repair.as_ref().filter(|_| how == Release::Repaired);
    Lineage {
        id: bad.id.clone(),
        release: how,
        repair: repair.map(|repair| repair.kind.to_string()),
        rule: bad.rule.clone(),
        source: bad.source.clone(),
        offset_bytes: bad.offset_bytes,
        raw_hash: blake3::hash(&raw).to_hex().to_string(),
        row_hash: merkle::leaf(good.text.as_bytes()).to_hex().to_string(),
        at_ms: now_ms(),
    }
}

/// Writes the quarantine anew, without the rows that are published.
fn keep_others(
    dataset: &DatasetFolder,
    stage: &Stage,
    newest: &Manifest,
    released: &[Lineage],
    manifest: &mut Manifest,
) -> Result<(), DataError> {
    let ids: BTreeSet<&str> = released.iter().map(|row| row.id.as_str()).collect();
    let path = stage.folder().join("others.jsonl");
    let mut file = BufWriter::new(File::create(&path).map_err(io_error("create", &path))?);
    let mut tree = Growing::default();
    let mut n_rows = 0;
    for row in rows_of(dataset, newest) {
        let row = row?;
        if ids.contains(row.id.as_str()) {
            continue;
        }
        tree.push(row.leaf());
        n_rows += 1;
        serde_json::to_writer(&mut file, &row)
            .map_err(std::io::Error::from)
            .and_then(|()| file.write_all(b"\n"))
            .map_err(io_error("write to", &path))?;
    }
    let file = file.into_inner().map_err(std::io::IntoInnerError::into_error);
    file.and_then(|file| file.sync_all()).map_err(io_error("write to", &path))?;
    manifest.quarantine.clear();
    if n_rows > 0 {
        manifest.quarantine.push(segment::adopt(&dataset.objects, &path, "jsonl", n_rows)?);
    }
    manifest.bad_rows = tree.tree();
    Ok(())
}
