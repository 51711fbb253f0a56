//! Conclusions that are carried to another place, that grew with the schema, and that are erased.

use std::path::{Path, PathBuf};

use lm_store::{Erase, Migrated, Missing, Reader};
use lm_types::Role;

use super::{DAY_0, Home, MINUTE, backend_error};
use crate::{Book, Carrying, Decision, FeedbackError, Fix};

fn note(cluster: &str, note: &str, created_at_ms: i64) -> Fix {
    Fix {
        id: String::new(),
        cluster: cluster.to_owned(),
        note: note.to_owned(),
        system: None,
        template: None,
        expect: None,
        release_hash: None,
        created_at_ms,
        verified_at_ms: None,
        gate: None,
    }
}

/// Failures of two problems, one of them judged, with a tag and a fix that was looked at twice.
fn worked_on() -> Home {
    let mut home = Home::new();
    for i in 0..520 {
        home.answer(DAY_0 + i, &[(Role::User, "hello there")], "", backend_error());
    }
    let cut = super::Ended::Finished(lm_types::FinishReason::Length);
    let asked = "Describe the history of the harbour for the newspaper.";
    home.answer(DAY_0 + 520, &[(Role::User, asked)], "It began when", cut);
    let now = DAY_0 + MINUTE;
    home.collect(now);
    let rows = home.book.failures(None, 10).unwrap();
    let failure = rows.into_iter().find(|row| row.kind == "error").unwrap();
    let answer = failure.answer();
    home.book.review(&answer, &Decision::Correct("Hi.".to_owned()), "ann", now).unwrap();
    for tag in ["odd", "old", "even"] {
        home.book.review(&answer, &Decision::Tag(tag.to_owned()), "ann", now).unwrap();
    }
    let fix = home.book.add_fix(note(&failure.cluster, "a new cable", now)).unwrap();
    for _ in 0..2 {
        home.book.verify(&fix, home.store.reader(), now).unwrap();
    }
    home
}

fn carry(from: &Path, to: &Path, missing: Missing) -> Result<Vec<Migrated>, FeedbackError> {
    Carrying::begin(from, to, missing)?.expect("there is something to carry").run()
}

/// Rows, and how many were copied and erased.
#[track_caller]
fn check(tables: &[Migrated], name: &str, expect: [u64; 3]) {
    let table = tables.iter().find(|table| table.table == name).unwrap();
    assert_eq!([table.rows, table.copied, table.erased], expect, "{name}");
}

/// All that a page shows of it.
fn shown(place: &Path) -> String {
    let book = Book::open(place).unwrap();
    let rows = book.failures(None, 10_000).unwrap();
    let judged = rows.iter().find(|row| row.verdict.is_some()).map(|row| row.request_id.clone());
    let tags = judged.map(|id| book.tags(&id, 0).unwrap());
    let fixes = book.fixes().unwrap();
    let evidence: Vec<_> = fixes.iter().map(|fix| book.evidence(&fix.id, 10).unwrap()).collect();
    let clusters = crate::book::clusters(&book.connection).unwrap();
    format!("{rows:?} {tags:?} {fixes:?} {evidence:?} {clusters:?} {:?}", book.collected_ms())
}

#[test]
pub(super) fn fixes_and_evidence_keep_the_order_in_which_they_were_written() {
    let mut home = worked_on();
    let now = DAY_0 + 2 * MINUTE;
    let cluster = home.book.failures(None, 1).unwrap()[0].cluster.clone();
    let ids: Vec<String> = (0..5)
        .map(|i| home.book.add_fix(note(&cluster, &format!("try {i}"), now)).unwrap().id)
        .collect();
    let newest: Vec<String> = home.book.fixes().unwrap().into_iter().map(|fix| fix.id).collect();
    let expect: Vec<&String> = ids.iter().rev().collect();
    assert_eq!(newest[..5].iter().collect::<Vec<_>>(), expect);
    let fix = home.book.fix(&ids[0]).unwrap();
    for at_ms in [now, now, now + 1] {
        home.book.verify(&fix, home.store.reader(), at_ms).unwrap();
    }
    let seen = home.book.evidence(&fix.id, 2).unwrap();
    assert_eq!(seen.iter().map(|one| one.at_ms).collect::<Vec<_>>(), [now + 1, now]);
}

#[test]
pub(super) fn what_is_erased_is_gone_from_conclusions_and_not_before() {
    let mut home = worked_on();
    let judged = home.book.failures(None, 10_000).unwrap();
    let judged = judged.into_iter().find(|row| row.verdict.is_some()).unwrap().request_id;
    let erased = home.store.erase(Erase::Request(judged.parse().unwrap())).unwrap();
    assert_eq!((erased.request_ids.len(), erased.rows), (1, 1));
    assert_eq!(home.book.n_unreviewed().unwrap(), (521, 520), "the store has tables of its own");
    // The failure and three tags.
    assert_eq!(home.book.forget(&erased.request_ids).unwrap(), 4);
    assert_eq!(home.book.n_unreviewed().unwrap(), (520, 520));
    assert!(home.book.tags(&judged, 0).unwrap().is_empty());
    // Whoever reads the store now does not find it again.
    assert_eq!(home.collect(DAY_0 + 2 * MINUTE).n_failures, 520);
}

#[test]
pub(super) fn conclusions_move_and_what_people_wrote_is_never_lost_in_silence() {
    there_and_back(&Home::new().path());
}

/// From a home to `there`, back, and what stands in the way.
pub(super) fn there_and_back(there: &Path) {
    let mut home = worked_on();
    let here = home.path();
    let moved = carry(&here, there, Missing::Refuse).unwrap();
    check(&moved, "failure", [521, 521, 0]);
    check(&moved, "tag", [3, 3, 0]);
    check(&moved, "cluster", [2, 2, 0]);
    check(&moved, "evidence", [2, 2, 0]);
    assert_eq!(shown(there), shown(&here));
    // Once more changes nothing.
    let again = carry(&here, there, Missing::Refuse).unwrap();
    assert!(again.iter().all(|table| table.copied + table.erased == 0), "{again:?}");
    // And back, into a file that is not there yet.
    let back = home.folder.path().join("back.db");
    check(&carry(there, &back, Missing::Refuse).unwrap(), "failure", [521, 521, 0]);
    assert_eq!(shown(&back), shown(&here));

    // Work goes on in the old place: verdicts that came since are carried.
    let now = DAY_0 + 3 * MINUTE;
    let item = home.book.lease("bob", now).unwrap().unwrap();
    home.book.review(&item.answer, &Decision::Reject, "bob", now).unwrap();
    check(&carry(&here, there, Missing::Refuse).unwrap(), "failure", [521, 1, 0]);
    assert_eq!(shown(there), shown(&here));

    // Somebody worked in the new one: that is not written over unless one says so.
    let mut other = Book::open(there).unwrap();
    let item = other.lease("eve", now).unwrap().unwrap();
    other.review(&item.answer, &Decision::Accept, "eve", now).unwrap();
    other.review(&item.answer, &Decision::Tag("new".to_owned()), "eve", now).unwrap();
    let before = shown(there);
    let refused = carry(&here, there, Missing::Refuse).unwrap_err();
    let is_told = matches!(&refused, FeedbackError::OnlyThere { n: 2, first, .. }
        if *first == format!("the verdict on {}", item.answer));
    assert!(is_told, "{refused}");
    assert_eq!(shown(there), before, "nothing was copied");
    let erased = carry(&here, there, Missing::Erase).unwrap();
    check(&erased, "failure", [521, 1, 0]);
    check(&erased, "tag", [3, 0, 1]);
    assert_eq!(shown(there), shown(&here));
    assert!(Carrying::begin(there, there, Missing::Refuse).unwrap().is_none());
}

#[test]
pub(super) fn two_places_become_one_and_the_later_verdict_holds() {
    let (mut home, empty) = (worked_on(), Home::new());
    let (here, there) = (home.path(), empty.path());
    carry(&here, &there, Missing::Refuse).unwrap();
    let now = DAY_0 + 3 * MINUTE;
    let mut other = Book::open(&there).unwrap();
    let answers: Vec<String> = home
        .book
        .failures(None, 10_000)
        .unwrap()
        .into_iter()
        .filter(|row| row.verdict.is_none())
        .map(|row| row.answer())
        .take(3)
        .collect();
    let [both, own, others] = [0, 1, 2].map(|i| answers[i].as_str());
    other.review(both, &Decision::Reject, "eve", now).unwrap();
    home.book.review(both, &Decision::Accept, "bob", now + 1).unwrap();
    home.book.review(own, &Decision::Accept, "bob", now).unwrap();
    other.review(others, &Decision::Reject, "eve", now).unwrap();
    let cluster = home.book.failures(None, 1).unwrap()[0].cluster.clone();
    let fix = home.book.add_fix(note(&cluster, "here", now)).unwrap();
    let fix_there = other.add_fix(note(&cluster, "there", now)).unwrap();
    home.book.verify(&fix, home.store.reader(), now).unwrap();

    let kept = carry(&here, &there, Missing::Keep).unwrap();
    check(&kept, "fix", [2, 1, 0]);
    check(&kept, "evidence", [3, 1, 0]);
    check(&kept, "failure", [521, 2, 0]);
    check(&kept, "sample", [2, 0, 0]);
    let verdict = |answer: &str| {
        let rows = other.failures(None, 10_000).unwrap();
        rows.into_iter().find(|row| row.answer() == answer).unwrap().verdict.unwrap()
    };
    let verdicts = [both, own, others].map(verdict);
    assert_eq!(verdicts, ["accepted", "accepted", "rejected"]);
    let ids: Vec<String> = other.fixes().unwrap().into_iter().map(|fix| fix.id).collect();
    assert!(ids.contains(&fix.id) && ids.contains(&fix_there.id), "{ids:?}");
    assert_eq!(other.evidence(&fix.id, 10).unwrap().len(), 1);
    // Answers of both places are read again, and none counts twice.
    assert_eq!(other.collected_ms().unwrap(), None);
    assert_eq!(other.collect(home.store.reader(), now).unwrap().n_failures, 521);
    let again = carry(&here, &there, Missing::Keep).unwrap();
    assert!(again.iter().all(|table| table.table == "state" || table.copied == 0), "{again:?}");
}

/// Refused where it would take away what was just written in the new place; taken away where one says so.
#[track_caller]
fn check_refused(here: &Path, there: &Path, what: &str) {
    let before = shown(there);
    let error = carry(here, there, Missing::Refuse).unwrap_err();
    assert!(matches!(&error, FeedbackError::OnlyThere { n: 1, .. }), "{error}");
    assert!(error.to_string().contains(what), "{error}");
    assert_eq!(shown(there), before, "nothing was copied");
    carry(here, there, Missing::Erase).unwrap();
    assert!(carry(here, there, Missing::Refuse).is_ok());
}

fn judged(book: &Book) -> Option<String> {
    let rows = book.failures(None, 10_000).unwrap();
    rows.into_iter().find(|row| row.verdict.is_some()).map(|row| row.request_id)
}

fn effort(book: &Book, cluster: &str) -> f64 {
    let sql = "SELECT effort_days FROM cluster WHERE id = ?1";
    let days: Vec<f64> = book.query(sql, [cluster], |row| row.get(0)).unwrap();
    days[0]
}

#[test]
pub(super) fn all_that_people_wrote_in_the_new_place_is_looked_at() {
    let (mut home, empty) = (worked_on(), Home::new());
    let (here, there) = (home.path(), empty.path());
    carry(&here, &there, Missing::Refuse).unwrap();
    let now = DAY_0 + 3 * MINUTE;
    let mut other = Book::open(&there).unwrap();
    let fix = other.fixes().unwrap().remove(0);
    other.set_gate(&fix.id, "gate-1").unwrap();
    check_refused(&here, &there, &format!("the gate of fix {}", fix.id));
    other.set_effort(&fix.cluster, 3.0).unwrap();
    check_refused(&here, &there, &format!("the effort of cluster {}", fix.cluster));
    other.verify(&fix, home.store.reader(), now).unwrap();
    check_refused(&here, &there, &format!("evidence of fix {}", fix.id));
    let answer = judged(&other).unwrap();
    other.take_back(&answer, "ann", now).unwrap();
    check_refused(&here, &there, &format!("that the verdict on {answer} was taken back"));

    // Whoever keeps both gets the facts of both, and no verdict that was taken back since.
    other.take_back(&answer, "ann", now).unwrap();
    home.book.set_gate(&fix.id, "gate-2").unwrap();
    home.book.set_effort(&fix.cluster, 2.0).unwrap();
    carry(&here, &there, Missing::Keep).unwrap();
    assert_eq!(other.fix(&fix.id).unwrap().gate.as_deref(), Some("gate-2"));
    assert_eq!(effort(&other, &fix.cluster).to_bits(), 2.0_f64.to_bits());
    assert_eq!(judged(&other), None);
    // A later verdict is no older one.
    home.book.review(&answer, &Decision::Reject, "ann", now + 1).unwrap();
    carry(&here, &there, Missing::Refuse).unwrap();
    assert_eq!(judged(&other), Some(answer));
}

#[test]
pub(super) fn what_is_written_while_a_copy_runs_is_not_lost() {
    let (home, empty) = (worked_on(), Home::new());
    let (here, there) = (home.path(), empty.path());
    carry(&here, &there, Missing::Refuse).unwrap();
    let carrying = Carrying::begin(&here, &there, Missing::Refuse).unwrap().unwrap();
    // The rows of the store are copied now.
    let now = DAY_0 + 3 * MINUTE;
    let mut other = Book::open(&there).unwrap();
    let item = other.lease("eve", now).unwrap().unwrap();
    other.review(&item.answer, &Decision::Accept, "eve", now).unwrap();
    let before = shown(&there);
    let refused = carrying.run().unwrap_err();
    assert!(matches!(&refused, FeedbackError::OnlyThere { n: 1, .. }), "{refused}");
    assert_eq!(shown(&there), before);
}

#[test]
pub(super) fn what_a_store_does_not_know_of_is_not_carried_to_it() {
    let (home, empty) = (worked_on(), Home::new());
    let (here, there) = (home.path(), empty.path());
    let rows = home.book.failures(None, 10_000).unwrap();
    let cut = rows.into_iter().find(|row| row.kind == "truncated").unwrap().request_id;
    for id in [judged(&home.book).unwrap(), cut] {
        home.store.erase(Erase::Request(id.parse().unwrap())).unwrap();
    }
    let mut other = Book::open(&there).unwrap();
    other.collect(empty.store.reader(), DAY_0).unwrap();
    let run = || {
        let store = home.url.clone().unwrap_or_else(|| home.folder.path().join("lastmile.db"));
        let carrying = Carrying::begin(&here, &there, Missing::Keep).unwrap().unwrap();
        carrying.known_to(Reader::open(&store).unwrap()).run().unwrap()
    };
    let carried = run();
    check(&carried, "failure", [521, 519, 0]);
    check(&carried, "tag", [3, 0, 0]);
    check(&carried, "cluster", [2, 2, 0]);
    check(&carried, "sample", [2, 1, 0]);
    check(&carried, "fix", [1, 1, 0]);
    check(&carried, "evidence", [2, 2, 0]);
    assert_eq!(judged(&other), None, "it is of an erased request");
    assert_eq!(other.collected_ms().unwrap(), Some(DAY_0), "no traffic came with it");
    let again = run();
    assert!(again.iter().all(|table| table.copied + table.erased == 0), "{again:?}");
}

#[test]
pub(super) fn many_are_erased_in_parts_and_an_erasure_goes_on() {
    let ids = |home: &Home| -> Vec<String> {
        let rows = home.book.failures(None, 10_000).unwrap();
        rows.into_iter().map(|row| row.request_id).collect()
    };
    // 521 failures, three tags, and what two clusters were shown by.
    let mut home = worked_on();
    let gone = ids(&home);
    assert_eq!(home.book.forget(&gone).unwrap(), 526);
    assert_eq!(home.book.n_unreviewed().unwrap(), (0, 0));
    // One that came as far as the failures.
    let mut home = worked_on();
    let gone = ids(&home);
    home.book.connection.execute("DELETE FROM failure", ()).unwrap();
    assert_eq!(home.book.forget(&gone).unwrap(), 5);
    assert_eq!(home.book.forget(&gone).unwrap(), 0);
}

/// A home whose store went to the server at `there`, while its reviews stayed.
#[cfg(all(unix, feature = "postgres"))]
pub(super) fn left_behind(there: &Path) {
    let mut home = worked_on();
    let file = home.path();
    let is_behind = |place: &Path, file: &Path| Book::stays_behind(place, file).unwrap();
    assert!(!is_behind(&file, &file), "the store is a file");
    assert!(!is_behind(there, &home.folder.path().join("none.db")));
    let mut derived = Home::new();
    derived.answer(DAY_0, &[(Role::User, "hello there")], "", backend_error());
    derived.collect(DAY_0 + MINUTE);
    assert!(!is_behind(there, &derived.path()), "nobody wrote into it");
    assert!(is_behind(there, &file));
    carry(&file, there, Missing::Keep).unwrap();
    assert!(!is_behind(there, &file));
    let taken = home.folder.path().join("taken.db");
    carry(there, &taken, Missing::Refuse).unwrap();
    assert!(!is_behind(there, &taken), "it is from there");
    // Whatever becomes of them there, and what is erased here.
    let mut other = Book::open(there).unwrap();
    let answer = judged(&other).unwrap();
    other.take_back(&answer, "ann", DAY_0 + 2 * MINUTE).unwrap();
    home.book.forget(&[answer]).unwrap();
    assert!(!is_behind(there, &file));
    let item = home.book.lease("bob", DAY_0 + 3 * MINUTE).unwrap().unwrap();
    home.book.review(&item.answer, &Decision::Accept, "bob", DAY_0 + 3 * MINUTE).unwrap();
    assert!(is_behind(there, &file), "it was used on");
}

/// A file of the first schema, whose rows had no numbers of their own.
#[test]
fn an_older_file_keeps_the_order_of_its_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("feedback.db");
    let old = rusqlite::Connection::open(&path).unwrap();
    old.execute_batch(crate::schema::UPGRADES[0]).unwrap();
    old.execute_batch(
        "PRAGMA application_id = 1819108962; PRAGMA user_version = 1; \
         INSERT INTO cluster VALUES ('cb', 'error', 9, 1.0), ('ca', 'error', 5, 2.0); \
         INSERT INTO fix(id, cluster_id, note, created_at_ms) VALUES \
         ('f1', 'cb', 'first', 7), ('f0', 'cb', 'second', 7);",
    )
    .unwrap();
    drop(old);
    let mut book = Book::open(&path).unwrap();
    let notes = |book: &Book| -> Vec<String> {
        book.fixes().unwrap().into_iter().map(|fix| fix.note).collect()
    };
    assert_eq!(notes(&book), ["second", "first"]);
    book.add_fix(note("cb", "third", 7)).unwrap();
    assert_eq!(notes(&book), ["third", "second", "first"]);
    let numbers: Vec<(String, i64)> = book
        .query("SELECT id, seq FROM cluster ORDER BY seq", (), |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap();
    assert_eq!(numbers, [("cb".to_owned(), 1), ("ca".to_owned(), 2)]);
}
