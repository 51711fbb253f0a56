//! Datasets as a server shows them.

use std::fs;

use lm_api::{ApiError, OpsRefusal};
use lm_data::{DataHome, IngestOptions, Thresholds, ingest};

use crate::{Datasets, Wanted};

const CONTRACT: &str = "format = 1\n[text]\nmojibake = true\n";

/// A home whose dataset "notes" has versions of these notes, each with one row that was decoded wrongly.
fn home(versions: &[(u32, u32)]) -> (tempfile::TempDir, Datasets) {
    let folder = tempfile::tempdir().unwrap();
    let (file, contract) = (folder.path().join("rows.jsonl"), folder.path().join("notes.toml"));
    fs::write(&contract, CONTRACT).unwrap();
    let data = folder.path().join("data");
    for (from, to) in versions {
        let good = (*from..*to).map(|i| format!("{{\"text\":\"Note {i}\"}}\n"));
        let rows = good.collect::<String>() + "{\"text\":\"caf\u{c3}\u{a9}\"}\n";
        fs::write(&file, rows).unwrap();
        let options = IngestOptions {
            contract: Some(contract.clone()),
            thresholds: Thresholds { warn: 1.0, fail: 1.0 },
            ..IngestOptions::default()
        };
        let home = DataHome(data.clone());
        ingest(&home, "notes", std::slice::from_ref(&file), &options, &mut |_| {}).unwrap();
    }
    (folder, Datasets::new(data))
}

#[test]
fn versions_their_difference_and_their_bad_rows_are_shown() {
    let (_folder, datasets) = home(&[(0, 10), (2, 15)]);
    let list = datasets.list(None, 10).unwrap();
    assert_eq!((list.len(), list[0].n_versions, list[0].is_damaged), (1, 2, false));

    let page = datasets.page("notes", None, 1).unwrap();
    let newest = &page.versions[0];
    assert_eq!((newest.rows_published, newest.rows_quarantined), (13, 1));
    let older = datasets.page("notes", page.next, 1).unwrap();
    assert_eq!((older.versions[0].rows_published, older.next), (10, None));
    assert_eq!(newest.parent.as_ref(), Some(&older.versions[0].version));

    let diff = datasets.diff("notes", None, None).unwrap();
    assert_eq!((diff.rows_added, diff.rows_removed, diff.rows_same), (5, 2, 8));
    assert_eq!(diff.added[0].text, "{\"text\":\"Note 10\"}");
    let first = datasets.diff("notes", None, Some(&older.versions[0].version)).unwrap();
    assert_eq!((first.from.as_str(), first.rows_added), ("", 10));

    let wanted = Wanted { limit: 5, ..Wanted::default() };
    let bad = datasets.quarantine("notes", &wanted).unwrap();
    assert_eq!((bad.data.len(), bad.next, bad.data[0].rule.as_str()), (1, None, "mojibake"));
    let repair = bad.data[0].repair.as_ref().unwrap();
    assert_eq!((repair.kind.as_str(), repair.row.text.contains("café")), ("mojibake_undone", true));
    let other = Wanted { rule: Some("not_json".to_owned()), ..wanted };
    assert!(datasets.quarantine("notes", &other).unwrap().data.is_empty());

    let coverage = datasets.coverage("notes", &["text".to_owned()], None).unwrap();
    assert_eq!((coverage.n_strata, coverage.n_lacking), (13, 0));
}

/// Whoever asks for a page far behind has all rows before it read.
#[test]
fn only_rows_that_are_there_are_passed_over_and_by_one_at_a_time() {
    let (_folder, datasets) = home(&[(0, 3)]);
    let from = |from| Wanted { from, limit: 5, ..Wanted::default() };
    assert_eq!(datasets.quarantine("notes", &from(0)).unwrap().data.len(), 1);
    assert!(datasets.quarantine("notes", &from(1)).unwrap().data.is_empty());
    for far in [2, u64::MAX] {
        let refused = datasets.quarantine("notes", &from(far)).unwrap_err();
        let said = refused.to_string();
        assert!(
            matches!(refused, ApiError::Invalid { .. }) && said.contains("from 0 to 1"),
            "{said}"
        );
    }
    let turn = datasets.turn().unwrap();
    let busy = datasets.quarantine("notes", &from(1)).unwrap_err();
    assert!(matches!(busy, ApiError::Ops(OpsRefusal::Busy { .. })), "{busy}");
    assert_eq!(datasets.quarantine("notes", &from(0)).unwrap().data.len(), 1);
    drop(turn);
    assert!(datasets.quarantine("notes", &from(1)).is_ok());
}

#[test]
fn what_is_not_there_is_named() {
    let (_folder, datasets) = home(&[(0, 3)]);
    let unknown = |result: Result<(), ApiError>, said: &str| {
        let error = result.unwrap_err();
        assert!(matches!(error, ApiError::Ops(OpsRefusal::Unknown { .. })), "{error}");
        assert!(error.to_string().contains(said), "{error}");
    };
    unknown(datasets.page("letters", None, 5).map(drop), "no dataset letters");
    unknown(datasets.diff("notes", Some("zz"), None).map(drop), "begin with \"zz\"");
    let unpublished = Wanted { unpublished: true, limit: 5, ..Wanted::default() };
    unknown(datasets.quarantine("notes", &unpublished).map(drop), "unpublished ingest");
    unknown(datasets.coverage("notes", &[], Some("letters")).map(drop), "no dataset letters");
    let invalid = datasets.page("../etc", None, 5).unwrap_err();
    assert!(matches!(invalid, ApiError::Invalid { .. }), "{invalid}");
}
