//! The datasets of a home, as a server shows them: versions, what differs between two, quarantine and coverage.
//!
//! It must never change a dataset, nor read one of any size while somebody waits: what is too large is for the terminal. All
//! of it blocks, and belongs on a thread of its own.
//!
//! Start reading at [`Datasets::page`].

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

use lm_api::{ApiError, OpsRefusal};
use lm_data::{DataError, DataHome, Manifest, Report};

use crate::Cut;
use crate::dataset_views::{
    BadRow, CoverageView, DatasetPage, DatasetView, DiffView, QuarantinePage, SHOWN_CHARS,
    VersionView,
};

/// The datasets of one home. Clones share them.
#[derive(Clone)]
pub struct Datasets(Arc<Inner>);

struct Inner {
    home: DataHome,
    /// Held by what reads the rows of whole versions: one at a time.
    reading: Mutex<()>,
}

/// Which quarantine, and which of its rows.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// The version, by its id or how it begins; without, the newest.
    pub version: Option<String>,
    /// That of the last ingest that published nothing, instead.
    pub unpublished: bool,
    /// Only rows that broke this rule.
    pub rule: Option<String>,
    /// Rows before this one are passed over.
    pub from: u64,
    /// At most so many.
    pub limit: usize,
}

/// Rows that are read while somebody waits.
const MAX_ROWS: u64 = 2_000_000;
/// Quarantined rows that one page looks through.
const MAX_LOOKED_AT: u64 = 100_000;
const MAX_STRATA: usize = 50;
/// Rows of a difference that are shown.
const DIFF_ROWS: usize = 5;

impl Datasets {
    /// Those below a folder, which need not exist yet.
    #[must_use]
    pub fn new(folder: PathBuf) -> Datasets {
        Datasets(Arc::new(Inner { home: DataHome(folder), reading: Mutex::new(()) }))
    }

    /// Up to `limit` datasets by name, those behind `after` only.
    ///
    /// # Errors
    /// `Internal` when the folder cannot be read.
    pub fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<DatasetView>, ApiError> {
        let found = lm_data::datasets(&self.0.home, after, limit).map_err(refusal)?;
        let view = |dataset: lm_data::Dataset| {
            if let Err(error) = &dataset.newest {
                tracing::error!(%error, dataset = %dataset.name, "a dataset cannot be read");
            }
            let is_damaged = dataset.newest.is_err();
            let newest = dataset.newest.ok().flatten().as_ref().map(VersionView::of);
            let (name, n_versions) = (dataset.name, dataset.n_versions);
            DatasetView { name, n_versions, newest, is_damaged }
        };
        Ok(found.into_iter().map(view).collect())
    }

    /// Up to `limit` versions, newest first, those before the sequence `before` only.
    ///
    /// # Errors
    /// `Ops` when there is no such dataset, `Invalid`, `Internal`.
    pub fn page(
        &self,
        name: &str,
        before: Option<u64>,
        limit: usize,
    ) -> Result<DatasetPage, ApiError> {
        let home = &self.0.home;
        let mut versions =
            lm_data::versions(home, name, before, limit.saturating_add(1)).map_err(refusal)?;
        let is_more = versions.len() > limit;
        versions.truncate(limit);
        let unpublished = lm_data::unpublished(home, name).map_err(refusal)?;
        Ok(DatasetPage {
            name: name.to_owned(),
            next: versions.last().filter(|_| is_more).map(|last| last.sequence),
            versions: versions.iter().map(VersionView::of).collect(),
            unpublished: unpublished.as_ref().map(VersionView::of),
        })
    }

    /// How two versions differ. Without `from` the parent of `to`, without `to` the newest version.
    ///
    /// # Errors
    /// `Ops` when there is no such version or another one is compared, `Invalid` when they are too large, `Internal`.
    pub fn diff(
        &self,
        name: &str,
        from: Option<&str>,
        to: Option<&str>,
    ) -> Result<DiffView, ApiError> {
        let home = &self.0.home;
        let show = |version: Option<&str>| {
            lm_data::show(home, name, version).map(|version| version.manifest).map_err(refusal)
        };
        let newer = show(to)?;
        let from = from.or(newer.parent.as_deref());
        let older = from.map(|from| show(Some(from))).transpose()?;
        // What both have is not read.
        let n_rows = unshared(&newer, older.as_ref());
        small_enough("the versions", n_rows, || format!("`lastmile data diff {name}`"))?;
        let _turn = self.turn()?;
        let diff = lm_data::diff(home, name, from, Some(newer.version.as_str()), DIFF_ROWS);
        let diff = diff.map_err(refusal)?;
        let cut = |rows: &[String]| rows.iter().map(|row| Cut::new(row, SHOWN_CHARS)).collect();
        Ok(DiffView {
            added: cut(&diff.added),
            removed: cut(&diff.removed),
            from: diff.from,
            to: diff.to,
            rows_added: diff.rows_added,
            rows_removed: diff.rows_removed,
            rows_same: diff.rows_same,
        })
    }

    /// Quarantined rows in the order of the sources.
    ///
    /// # Errors
    /// `Ops` when there is no such dataset or version, or when rows are to be passed over while others read, `Invalid` when
    /// there are not so many or too many to pass over, `Internal`.
    pub fn quarantine(&self, name: &str, wanted: &Wanted) -> Result<QuarantinePage, ApiError> {
        let report = match &wanted.version {
            _ if wanted.unpublished => Report::Unpublished,
            Some(version) => Report::Version(version),
            None => Report::Newest,
        };
        let rows = lm_data::quarantine(&self.0.home, name, report).map_err(refusal)?;
        // Rows that are passed over are read as well.
        let _turn = if wanted.from > 0 {
            self.can_pass_over(name, report, wanted.from)?;
            Some(self.turn()?)
        } else {
            None
        };
        let mut page = QuarantinePage { data: Vec::new(), next: None };
        let last = wanted.from.saturating_add(MAX_LOOKED_AT);
        for (at, row) in (0..).zip(rows) {
            if page.data.len() == wanted.limit || at >= last {
                page.next = Some(at);
                break;
            }
            let row = row.map_err(refusal)?;
            let is_wanted = wanted.rule.as_ref().is_none_or(|rule| *rule == row.rule);
            if at >= wanted.from && is_wanted {
                page.data.push(BadRow::of(row));
            }
        }
        Ok(page)
    }

    fn can_pass_over(&self, name: &str, report: Report<'_>, from: u64) -> Result<(), ApiError> {
        let home = &self.0.home;
        let show = |version| lm_data::show(home, name, version).map(|found| Some(found.manifest));
        let manifest = match report {
            Report::Newest => show(None),
            Report::Version(version) => show(Some(version)),
            Report::Unpublished => lm_data::unpublished(home, name),
        };
        let n_rows = manifest.map_err(refusal)?.map_or(0, |manifest| manifest.rows_quarantined);
        if from <= n_rows.min(MAX_ROWS) {
            return Ok(());
        }
        let wanted = if n_rows <= MAX_ROWS {
            format!("from 0 to {n_rows}, the rows in quarantine")
        } else {
            format!("at most {MAX_ROWS}; `lastmile quarantine list {name}` reads more")
        };
        Err(ApiError::Invalid { param: "from".to_owned(), found: from.to_string(), wanted })
    }

    /// What the newest version has of each kind of rows, beside `traffic`, another dataset.
    ///
    /// # Errors
    /// `Ops` when there is no such dataset or another one is counted, `Invalid` when it is too large, `Internal`.
    pub fn coverage(
        &self,
        name: &str,
        columns: &[String],
        traffic: Option<&str>,
    ) -> Result<CoverageView, ApiError> {
        let home = &self.0.home;
        for dataset in std::iter::once(name).chain(traffic) {
            let newest = lm_data::show(home, dataset, None).map_err(refusal)?.manifest;
            small_enough("the dataset", newest.rows_published, || {
                format!("`lastmile data coverage {name}`")
            })?;
        }
        let _turn = self.turn()?;
        let mut strata = lm_data::coverage(home, name, columns, traffic).map_err(refusal)?;
        let n_strata = strata.len();
        let n_lacking = strata.iter().filter(|stratum| stratum.lacking).count();
        strata.truncate(MAX_STRATA);
        Ok(CoverageView { strata, n_strata, n_lacking })
    }

    /// Nobody waits for who reads whole versions.
    pub(crate) fn turn(&self) -> Result<MutexGuard<'_, ()>, ApiError> {
        match self.0.reading.try_lock() {
            Ok(turn) => Ok(turn),
            Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => {
                let message = "another dataset is being read: try again when that is done";
                Err(ApiError::Ops(OpsRefusal::Busy { message: message.to_owned() }))
            }
        }
    }
}

/// Rows in files that only one of the two has.
fn unshared(newer: &Manifest, older: Option<&Manifest>) -> u64 {
    let Some(older) = older else { return newer.rows_published };
    if newer.segments.is_empty() || older.segments.is_empty() {
        return newer.rows_published.saturating_add(older.rows_published);
    }
    let of = |one: &Manifest, other: &Manifest| {
        let own = one.segments.iter().filter(|segment| !other.segments.contains(segment));
        own.map(|segment| segment.n_rows).sum::<u64>()
    };
    of(newer, older).saturating_add(of(older, newer))
}

fn small_enough(what: &str, n_rows: u64, instead: impl FnOnce() -> String) -> Result<(), ApiError> {
    if n_rows <= MAX_ROWS {
        return Ok(());
    }
    Err(ApiError::Invalid {
        param: "name".to_owned(),
        found: format!("{what} of {n_rows} rows"),
        wanted: format!("one of at most {MAX_ROWS}; {} reads larger ones", instead()),
    })
}

/// What a client is told. Paths and details of damage are for the operator.
fn refusal(error: DataError) -> ApiError {
    let message = error.to_string();
    match error {
        DataError::InvalidName { name } => ApiError::Invalid {
            param: "name".to_owned(),
            found: name,
            wanted: "1 to 64 of the characters a-z, 0-9, _ and -".to_owned(),
        },
        DataError::UnknownDataset { .. }
        | DataError::UnknownVersion { .. }
        | DataError::NoReport { .. } => ApiError::Ops(OpsRefusal::Unknown { message }),
        _ => {
            tracing::error!(error = message, "a dataset could not be read");
            ApiError::Internal { what: "the dataset could not be read".to_owned() }
        }
    }
}
