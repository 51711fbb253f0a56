//! Whether a batch may be published: each rule's share of the rows beside its thresholds.
//!
//! It must never publish a part.
//!
//! Start reading at [`Batch::audit_and_publish`].

use crate::check::Contract;
use crate::cross;
use crate::home::DatasetFolder;
use crate::stage::ledger::{Ledger, SourceFile};
use crate::stage::{Counts, Stage};
use crate::version::publish;
use crate::version::rows::VersionRows;
use crate::{DataError, IngestOptions, Manifest, RuleShare, Thresholds, Version, manifest};

/// Fewer rows say nothing about shares: a batch of them that adds to a version fails by no share but a limit of 0 that
/// the contract or the options set for a rule. Its bad rows go to quarantine all the same.
pub(crate) const MIN_ROWS_TO_FAIL: u64 = 20;

/// What was read, ready to be judged.
pub(crate) struct Batch<'a> {
    pub(crate) dataset: &'a DatasetFolder,
    pub(crate) contract: &'a Contract,
    pub(crate) options: &'a IngestOptions,
    pub(crate) base: Option<Manifest>,
    pub(crate) committed: Ledger,
    pub(crate) counts: Counts,
}

impl Batch<'_> {
    pub(crate) fn audit_and_publish(
        self,
        stage: Stage,
        mut manifest: Manifest,
    ) -> Result<Option<Version>, DataError> {
        let Batch { dataset, contract, options, base, committed, mut counts } = self;
        let parent = base.as_ref().map(|base| VersionRows::open(dataset, base)).transpose()?;
        let crossed = cross::compare(&stage, &contract.terms, parent.into_iter().flatten())?;
        for (rule, n_rows) in &crossed.by_rule {
            *counts.by_rule.entry(rule.clone()).or_default() += n_rows;
        }
        let n_crossed: u64 = crossed.by_rule.values().sum();
        let n_published = counts.rows_good - n_crossed;
        manifest.batch_rows_in = counts.rows_in;
        manifest.rows_in += counts.rows_in;
        manifest.rows_published += n_published;
        manifest.rows_quarantined += counts.rows_in - n_published;
        manifest.blank_lines += counts.blank_lines;
        manifest.sources_repeated += counts.sources_repeated;
        manifest.rows_repeated += counts.rows_repeated;
        for (rule, n_rows) in &counts.by_rule {
            *manifest.by_rule.entry(rule.clone()).or_default() += n_rows;
        }
        let shares = shares(contract, options, &counts);
        let mut failures = over(&shares, |thresholds| thresholds.fail, counts.rows_in);
        failures.retain(|share| !options.allows(&share.rule));
        if base.is_some() && counts.rows_in < MIN_ROWS_TO_FAIL {
            failures.retain(|share| share.limit == 0.0 && !share.rule.starts_with("nulls:"));
        }
        let warnings = over(&shares, |thresholds| thresholds.warn, counts.rows_in);
        if !failures.is_empty() {
            let report = publish::keep_report(stage, crossed, &manifest)?;
            let name = dataset.name.clone();
            return Err(DataError::AuditFailed { name, failures, report });
        }
        let tallies = publish::write_objects(&stage, contract, crossed, &mut manifest)?;
        let mut ledger = committed;
        for mut source in stage.sources()? {
            if let Some(tally) = tallies.get(&source.name) {
                source.tally = Some(tally.clone());
            }
            ledger.add(source);
        }
        manifest.n_sources = ledger.sources().len() as u64;
        // Before the rename: a kill between the two leaves a contract that its user chose, never a
        // version without one.
        contract.install(&dataset.contract)?;
        let same = if options.append { None } else { manifest::of_id(dataset, &manifest.version)? };
        if let Some(old) = same {
            stage.discard()?;
            let folder = dataset.versions.join(old.folder_name());
            return Ok(Some(Version { manifest: old, already_published: true, warnings, folder }));
        }
        let sources: Vec<&SourceFile> = ledger.sources();
        let sources = sources.into_iter();
        let folder = publish::publish(dataset, contract, &manifest, sources, &[])?;
        stage.discard()?;
        Ok(Some(Version { manifest, already_published: false, warnings, folder }))
    }
}

/// Each rule with its count and thresholds; of null shares the thresholds are the contract's limit.
fn shares(
    contract: &Contract,
    options: &IngestOptions,
    counts: &Counts,
) -> Vec<(String, u64, Thresholds)> {
    let by_rule = counts.by_rule.iter().map(|(rule, &n_rows)| {
        (rule.clone(), n_rows, contract.thresholds(rule, options.thresholds))
    });
    let nulls = contract.columns.null_limits().map(|(i, name, limit)| {
        let n_rows = counts.nulls.get(i).copied().unwrap_or(0);
        (format!("nulls:{name}"), n_rows, Thresholds { warn: limit, fail: limit })
    });
    by_rule.chain(nulls).collect()
}

/// The rules that more rows break than `limit` allows, the most frequent first.
fn over(
    shares: &[(String, u64, Thresholds)],
    limit: impl Fn(&Thresholds) -> f64,
    rows_in: u64,
) -> Vec<RuleShare> {
    let mut over: Vec<RuleShare> = shares
        .iter()
        .filter(|(_, rows, thresholds)| *rows as f64 > limit(thresholds) * rows_in as f64)
        .map(|(rule, rows, thresholds)| {
            let limit = limit(thresholds);
            RuleShare { rule: rule.clone(), rows: *rows, rows_in, limit }
        })
        .collect();
    over.sort_by_key(|share| std::cmp::Reverse(share.rows));
    over
}
