//! Gates hold automatic promotion back wherever they are noted.

use lm_feedback::{Book, Fix};

use crate::experiments::has_gates;

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
