//! Gates hold automatic promotion back wherever they are noted; candidates that cannot answer are given up.

use std::time::{Duration, Instant};

use lm_feedback::{Book, Fix};

use crate::experiments::has_gates;
use crate::{Experiments, Spec, Store, StoreOptions, now_ms};

#[test]
fn a_gate_in_any_of_the_books_counts() {
    let folder = tempfile::tempdir().unwrap();
    let books = ["now.db", "before.db", "none.db"].map(|name| folder.path().join(name));
    drop(Book::open(&books[0]).unwrap());
    let mut before = Book::open(&books[1]).unwrap();
    // A fix needs a problem, and a problem a failure: a book that has neither is written by hand.
    let tables = rusqlite::Connection::open(&books[1]).unwrap();
    let cluster = "INSERT INTO cluster(id, fingerprint, first_seen_ms, effort_days, seq) \
                   VALUES ('c1', 'error', 5, 1.0, 1)";
    tables.execute(cluster, []).unwrap();
    let fix = Fix {
        id: String::new(),
        cluster: "c1".to_owned(),
        note: "a new cable".to_owned(),
        system: None,
        template: None,
        expect: None,
        release_hash: None,
        created_at_ms: 7,
        verified_at_ms: None,
        gate: None,
    };
    let fix = before.add_fix(fix).unwrap();
    assert!(!has_gates(&books));
    before.set_gate(&fix.id, "gate-1").unwrap();
    assert!(has_gates(&books));
    assert!(!has_gates(&books[..1]));
    assert!(!books[2].exists(), "nothing is made by looking");
    std::fs::write(&books[2], "no database ".repeat(1000)).unwrap();
    assert!(has_gates(&books[2..]), "what cannot be read may hold one");
}

const SPEC: &str = r#"
name = "gone"
owner = "ana@example.com"
reason = "its file is not there"
model = "small"
from = "50"
[candidate]
model = "large"
[goal]
metric = "not_failure"
"#;

#[test]
fn a_candidate_that_cannot_answer_is_told_of_and_then_rolled_back() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store.db"), StoreOptions::default()).unwrap();
    let file = folder.path().join("experiments.db");
    let experiments = Experiments::open(&file, &[], &store).unwrap();
    let spec = Spec::parse(SPEC).unwrap();
    experiments.act(|book| book.start(&spec, "ana", now_ms())).unwrap();
    let lose = |n: u32, ago_ms: i64| {
        (0..n).for_each(|_| experiments.lost("gone", "no such file", now_ms() - ago_ms));
    };
    lose(9, 300_000);
    assert!(experiments.troubled().is_empty());
    // One that is answered in between: it can.
    experiments.answers("gone");
    lose(9, 130_000);
    assert!(experiments.troubled().is_empty());
    lose(1, 125_000);
    let troubled = experiments.troubled();
    assert_eq!(troubled.len(), 1);
    let expect = "the candidate could not answer 10 requests in a row";
    assert!(troubled[0].why.starts_with(expect), "{troubled:?}");
    // A model may be loading for so long.
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(experiments.live().len(), 1);
    lose(1, 0);
    let began = Instant::now();
    while experiments.rolled_back().is_empty() {
        assert!(began.elapsed() < Duration::from_secs(30), "it is not rolled back");
        std::thread::sleep(Duration::from_millis(20));
    }
    let found = experiments.rolled_back();
    assert!(
        found[0].why.contains("11 requests in a row") && found[0].why.ends_with("no such file")
    );
    assert!(experiments.troubled().is_empty());
}
