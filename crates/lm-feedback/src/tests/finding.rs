//! Which answers failed, and which failures are one problem.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use lm_store::sql::Connection;
use lm_store::{Feedback, Implied, Place};
use lm_types::{AnswerForm, Constraint, FinishReason, Role};
use serde_json::json;

use super::{DAY_0, Ended, Home, MINUTE, backend_error};
use crate::book::version;
use crate::scan::{Looked, Scan};
use crate::{Answer, Kind, Opinion, Regenerations, signals};

fn answer(output: &str) -> Answer {
    Answer {
        request_id: "r".to_owned(),
        messages: vec![json!({ "role": "user", "content": "Tell me about lighthouses." })],
        finish_reason: Some("stop".to_owned()),
        output: Some(output.to_owned()),
        ..Answer::default()
    }
}

#[track_caller]
fn check(answer: &Answer, expect: &[Kind]) {
    let found: Vec<Kind> = signals(answer, None).iter().map(|signal| signal.kind).collect();
    assert_eq!(found, expect, "{answer:?}");
}

#[test]
pub(super) fn answers_show_their_signs_causes_first() {
    check(&answer("Lighthouses warn ships of rocks."), &[]);
    check(&answer("I\u{2019}m sorry, but I can't help with that."), &[Kind::Refusal]);
    check(&answer("The keeper said that he cannot help it. Nobody was rescued."), &[]);
    let turns = format!("A list: {}", "the tower and ".repeat(8));
    check(&answer(&turns), &[Kind::Repetition]);
    check(&answer("one two three, one two three, off we go"), &[]);
    // A table that repeats its rule is no loop, for it goes on.
    check(&answer(&format!("{}\n the end", "-".repeat(80))), &[]);

    let cut = Answer { finish_reason: Some("length".to_owned()), ..answer(&turns) };
    check(&cut, &[Kind::Repetition, Kind::Truncated]);
    let left = Answer { finish_reason: Some("abort".to_owned()), ..answer("Light") };
    check(&left, &[Kind::Abandoned]);
    let failed = |code: &str| Answer {
        error_code: Some(code.to_owned()),
        finish_reason: None,
        ..answer("")
    };
    check(&failed("backend_error"), &[Kind::Error]);
    check(&failed("deadline_exceeded"), &[Kind::Timeout]);
}

#[test]
pub(super) fn json_is_checked_where_it_was_asked_for() {
    let asked = |output: &str| {
        let messages = vec![
            json!({ "role": "system", "content": "Respond with valid JSON." }),
            json!({ "role": "user", "content": "Two numbers" }),
        ];
        Answer { messages, ..answer(output) }
    };
    check(&asked("Sure! 1 and 2"), &[Kind::NotJson]);
    check(&asked("[1, 2]"), &[]);
    check(&asked("```json\n[1, 2]\n```"), &[]);
    check(&answer("JSON is a format"), &[]);
}

/// A form that was cut, an edit, a rule and doubt.
#[test]
pub(super) fn what_is_implied_is_found() {
    let mut home = Home::new();
    let asked = |text: &'static str| [(Role::User, text)];
    let (stop, cut) = (FinishReason::Stop, FinishReason::Length);
    let mut add = |i: i64,
                   text: &'static str,
                   finish,
                   mean_logprob: Option<f64>,
                   constraint: Option<Constraint>| {
        home.answer_with(DAY_0 + i, &asked(text), "So.", Ended::Finished(finish), |event| {
            event.mean_logprob = mean_logprob;
            event.request.constraint = constraint;
        })
    };
    let form = || Some(Constraint { field: "response_format", form: AnswerForm::JsonObject });
    let cut_form = add(0, "A form of the harbour office", cut, None, form());
    add(1, "A whole form of the post office", stop, Some(-0.5), form());
    let unsure = add(2, "Which tram is the oldest one?", stop, Some(-2.5), None);
    let edited = add(3, "Where do the gulls sleep?", stop, None, None);
    let overridden = add(4, "What does the ferry cost?", stop, None, None);
    home.store.flush().unwrap();
    for (id, said) in [
        (&edited, Implied::Edited { n_kept: 3 }),
        (
            &overridden,
            Implied::Overridden { rule: "prices".to_owned(), action: "canned".to_owned() },
        ),
    ] {
        let feedback = Feedback {
            request_id: id.parse().unwrap(),
            by: None,
            choice: 0,
            rating: None,
            comment: Some(said.to_string()),
            correction: None,
        };
        home.store.feedback(feedback).unwrap();
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let now_ms = i64::try_from(now.as_millis()).unwrap().max(DAY_0) + MINUTE;
    // Once more when the answers are old, so that they are read with their late feedback.
    for now_ms in [now_ms, now_ms + 30 * MINUTE] {
        home.collect(now_ms);
        let mut found: Vec<(String, String)> = home
            .book
            .failures(None, 10)
            .unwrap()
            .into_iter()
            .map(|row| (row.request_id, row.kinds))
            .collect();
        found.sort();
        let mut expect = [
            (&cut_form, "schema_invalid,truncated"),
            (&unsure, "low_probability"),
            (&edited, "edited"),
            (&overridden, "overridden"),
        ]
        .map(|(id, kinds)| (id.clone(), kinds.to_owned()));
        expect.sort();
        assert_eq!(found, expect);
    }
}

#[test]
pub(super) fn people_are_heard_and_praise_outweighs_doubt() {
    let said = |rating: f64, correction: Option<&str>, output: &str| Answer {
        opinions: vec![Opinion {
            at_ms: 5,
            rating: Some(rating),
            correction: correction.map(str::to_owned),
        }],
        ..answer(output)
    };
    check(&said(0.0, None, "No."), &[Kind::Disliked]);
    check(&said(0.0, Some("Yes."), "No."), &[Kind::Corrected, Kind::Disliked]);
    check(&said(0.5, None, "No."), &[]);
    check(&said(1.0, None, "I cannot help with that."), &[]);
    let cut = Answer { finish_reason: Some("length".to_owned()), ..said(0.0, None, "Ligh") };
    check(&cut, &[Kind::Truncated, Kind::Disliked]);
}

#[test]
pub(super) fn asking_the_same_again_soon_says_that_the_first_answer_was_no_good() {
    let asked = |id: &str, at_ms: i64, tenant: Option<&str>| Answer {
        request_id: id.to_owned(),
        tenant: tenant.map(str::to_owned),
        arrived_at_ms: at_ms,
        ended_at_ms: at_ms + 1000,
        ..answer("x")
    };
    let mut again = Regenerations::default();
    again.see(&asked("a", 0, None));
    again.see(&asked("b", 500, None)); // before a's answer was there
    again.see(&asked("c", 2000, Some("t"))); // somebody else
    again.see(&asked("d", 2500, None));
    again.see(&asked("e", 2500 + 20 * MINUTE, None)); // another day
    let found = ["a", "b", "c", "d", "e"].map(|id| again.again_ms(id));
    assert_eq!(found, [None, Some(2500), None, None, None]);
}

/// Three problems, of which two are of one kind; what came before or after does not change their ids.
#[test]
pub(super) fn failures_of_one_problem_are_one_cluster_and_keep_their_ids() {
    let mut home = Home::new();
    let cut = || Ended::Finished(FinishReason::Length);
    let invoice = |i: i64| format!("Summarise the invoice number {i} of our supplier in Hamburg.");
    let poem = |i: i64| format!("Write verse {i} of a long poem about the sea in winter.");
    for i in 0..20 {
        let at_ms = DAY_0 + i * MINUTE;
        home.answer(at_ms, &[(Role::User, &invoice(i))], &format!("Item {i} costs"), cut());
        home.answer(at_ms + 1, &[(Role::User, &poem(i))], &format!("Grey {i} waves roll"), cut());
        home.answer(at_ms + 2, &[(Role::User, &format!("{i}?"))], "", backend_error());
        home.good(at_ms + 3, &format!("question {i}"));
    }
    let first = home.collect(DAY_0 + 30 * MINUTE);
    assert_eq!((first.n_answers, first.n_failures, first.n_new_clusters), (80, 60, 3));
    let of = |home: &Home| {
        let rows = home.book.failures(None, 1000).unwrap();
        let mut ids: Vec<(String, String)> =
            rows.into_iter().map(|row| (row.request_id, row.cluster)).collect();
        ids.sort();
        ids
    };
    let before = of(&home);
    // The same is read again, and nothing changes.
    let second = home.collect(DAY_0 + 31 * MINUTE);
    assert_eq!((second.n_answers, second.n_failures, second.n_new_clusters), (80, 60, 0));
    assert_eq!(of(&home), before);
    // With another instruction it is still the same problem.
    let system = (Role::System, "Be brief.");
    let late = DAY_0 + 40 * MINUTE;
    let asked =
        [system, (Role::User, "Summarise the invoice number 77 of our supplier in Hamburg.")];
    let id = home.answer(late, &asked, "Item 77 costs", cut());
    assert_eq!(home.collect(late + MINUTE).n_new_clusters, 0);
    let after = of(&home);
    let cluster_of = |request: &str| &after.iter().find(|(id, _)| id == request).unwrap().1;
    assert_eq!(cluster_of(&id), cluster_of(&before[0].0));
}

/// A dislike that comes days later is found, and praise takes back what was only a guess.
#[test]
pub(super) fn late_feedback_is_found() {
    let mut home = Home::new();
    let bad = home.good(DAY_0, "When was the bridge built?");
    let cut = Ended::Finished(FinishReason::Length);
    let praised = home.answer(DAY_0, &[(Role::User, "Count the stars for me.")], "One, two", cut);
    assert_eq!(home.collect(DAY_0 + MINUTE).n_failures, 1);
    // Feedback is stored under the clock's own time.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let now_ms = i64::try_from(now.as_millis()).unwrap();
    home.rate(&bad, false);
    home.rate(&praised, true);
    home.collect(now_ms.max(DAY_0 + 2 * MINUTE) + 180 * MINUTE);
    let rows = home.book.failures(None, 10).unwrap();
    let found: Vec<(&str, &str)> =
        rows.iter().map(|row| (row.request_id.as_str(), row.kind.as_str())).collect();
    assert_eq!(found, [(bad.as_str(), "disliked")]);
}

/// What was found before an interruption stays, and others could write meanwhile; what is missing comes with the next
/// reading, under the same problems.
#[test]
pub(super) fn a_reading_that_is_interrupted_goes_on_where_it_was() {
    let mut home = Home::new();
    let n = 1200;
    let mut ids = Vec::new();
    for i in 0..n {
        let cut = Ended::Finished(FinishReason::Length);
        let asked = format!("Summarise the invoice number {i} of our supplier in Hamburg.");
        ids.push(home.answer(DAY_0 + i, &[(Role::User, &asked)], &format!("Item {i}"), cut));
        if i % 200 == 0 {
            home.store.flush().unwrap();
        }
    }
    let (stop, go_on) = match &home.book.connection {
        Connection::Sqlite(_) => (
            format!(
                "CREATE TEMP TRIGGER stop BEFORE INSERT ON failure WHEN NEW.request_id = '{}' \
                 BEGIN SELECT RAISE(ABORT, 'stop'); END",
                ids[1100]
            ),
            "DROP TRIGGER stop",
        ),
        Connection::Postgres(_) => (
            format!(
                "ALTER TABLE failure ADD CONSTRAINT stop CHECK (request_id <> '{}')",
                ids[1100]
            ),
            "ALTER TABLE failure DROP CONSTRAINT stop",
        ),
    };
    home.book.connection.execute_batch(&stop).unwrap();
    home.store.flush().unwrap();
    let error = home.book.collect(home.store.reader(), DAY_0 + MINUTE).unwrap_err();
    assert!(error.to_string().contains("stop"), "{error}");
    assert_eq!(home.book.failures(None, 5000).unwrap().len(), 1000, "a page is whole or not there");
    assert_eq!(home.book.collected_ms().unwrap(), None);

    home.book.connection.execute_batch(go_on).unwrap();
    let found = home.collect(DAY_0 + MINUTE);
    assert_eq!((found.n_failures, found.n_new_clusters), (1200, 0));
    let rows = home.book.failures(None, 5000).unwrap();
    assert_eq!(rows.len(), 1200);
    assert!(rows.iter().all(|row| row.cluster == rows[0].cluster));
    assert_eq!(home.book.collected_ms().unwrap(), Some(DAY_0 + MINUTE));
}

/// Clusters that another process made between two pages are joined, not made twice.
#[test]
pub(super) fn two_that_read_the_same_find_the_same_problems() {
    let mut home = Home::new();
    let mut other = crate::Book::open(&home.path()).unwrap();
    for i in 0..5 {
        let cut = Ended::Finished(FinishReason::Length);
        let asked = format!("Summarise the invoice number {i} of our supplier in Hamburg.");
        home.answer(DAY_0 + i, &[(Role::User, &asked)], &format!("Item {i}"), cut);
    }
    let first = home.collect(DAY_0 + MINUTE);
    let second = other.collect(home.store.reader(), DAY_0 + MINUTE).unwrap();
    assert_eq!((first.n_failures, first.n_new_clusters), (5, 1));
    assert_eq!((second.n_failures, second.n_new_clusters), (5, 0));
}

#[test]
pub(super) fn a_page_in_which_nothing_is_new_is_not_written() {
    let mut home = Home::new();
    for i in 0..130 {
        home.answer(DAY_0 + i, &[(Role::User, "hello there")], "", backend_error());
    }
    home.good(DAY_0 + 130, "hello");
    home.collect(DAY_0 + MINUTE);
    let before = version(&home.book.connection).unwrap();
    let again = home.collect(DAY_0 + 2 * MINUTE);
    assert_eq!((again.n_answers, again.n_failures, again.n_new_clusters), (131, 130, 0));
    assert_eq!(version(&home.book.connection).unwrap(), before, "nobody had to wait for it");
    assert_eq!(home.book.collected_ms().unwrap(), Some(DAY_0 + 2 * MINUTE));
    // What is new is written, in one go with what is not.
    home.answer(DAY_0 + 131, &[(Role::User, "hello there")], "", backend_error());
    assert_eq!(home.collect(DAY_0 + 3 * MINUTE).n_failures, 131);
    assert_eq!(version(&home.book.connection).unwrap(), before + 1);
    assert_eq!(home.book.n_unreviewed().unwrap(), (131, 131));
}

#[test]
pub(super) fn a_page_comes_in_however_fast_others_write() {
    let mut home = Home::new();
    let id = home.answer(DAY_0, &[(Role::User, "hello there")], "", backend_error());
    home.store.flush().unwrap();
    let patience = Duration::from_millis(20);
    let other = RefCell::new(crate::Book::open_impatient(&home.path(), patience).unwrap());
    let (n_reads, n_written) = (Cell::new(0), Cell::new(0));
    let (again, now) = (Regenerations::default(), DAY_0 + MINUTE);
    let reader = home.store.reader();
    Scan::of(&mut home.book, now)
        .page(|| {
            n_reads.set(n_reads.get() + 1);
            assert!(n_reads.get() < 100, "it is read for ever");
            let written = other.borrow_mut().give_back("ann");
            n_written.set(n_written.get() + i32::from(written.is_ok()));
            let page = reader.answers(&Place::before(0), now, 10)?;
            Ok((page.iter().map(|row| Looked::at(row, &[], &again)).collect(), ()))
        })
        .unwrap();
    assert!(n_written.get() >= 1 && n_written.get() == n_reads.get() - 1);
    let rows = home.book.failures(None, 10).unwrap();
    assert_eq!(rows.iter().map(|row| row.request_id.as_str()).collect::<Vec<_>>(), [id]);
}

#[test]
pub(super) fn who_waits_is_told_that_another_one_writes() {
    let mut home = Home::new();
    let patience = Duration::from_millis(20);
    let mut other = crate::Book::open_impatient(&home.path(), patience).unwrap();
    let writing = home.book.begin().unwrap();
    let error = other.give_back("ann").unwrap_err();
    assert!(error.is_busy(), "{error}");
    drop(writing);
    assert_eq!(other.give_back("ann").unwrap(), 0);
    let unknown = other.cluster("zz").unwrap_err();
    assert!(!unknown.is_busy(), "{unknown}");
}

#[test]
pub(super) fn a_file_of_another_program_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.db");
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("CREATE TABLE notes(text TEXT)").unwrap();
    let error = crate::Book::open(&path).err().unwrap().to_string();
    assert!(error.contains("other.db") && error.contains("nothing was changed"), "{error}");
    let n: i64 =
        other.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
    assert_eq!(n, 1);
}
