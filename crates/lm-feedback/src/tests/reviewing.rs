//! Several failures for a reviewer at once, verdicts that are taken back, and what weeks and trends say.

use std::collections::BTreeSet;

use lm_store::sql::params;
use lm_types::Role;

use super::{DAY_0, Home, MINUTE, backend_error};
use crate::review::LEASE_MS;
use crate::{Book, Decision, FeedbackError, Fix};

/// Failed answers to one question, a minute apart.
fn failed(n: i64) -> Home {
    let mut home = Home::new();
    for i in 0..n {
        home.answer(DAY_0 + i * MINUTE, &[(Role::User, "hello there")], "", backend_error());
    }
    home.collect(DAY_0 + n * MINUTE);
    home
}

#[test]
pub(super) fn a_reviewer_has_several_and_others_get_the_rest() {
    let mut home = failed(7);
    let now = DAY_0 + 7 * MINUTE;
    let ann = home.book.lease_some("ann", 5, now).unwrap();
    assert_eq!((ann.len(), ann[0].n_waiting), (5, 2));
    assert!(ann.iter().any(|item| item.chosen == "random"), "one in five is drawn");
    let bob = home.book.lease_some("bob", 5, now).unwrap();
    assert_eq!((bob.len(), bob[0].n_waiting), (2, 0));
    assert!(bob.iter().all(|item| ann.iter().all(|other| other.answer != item.answer)));
    assert!(home.book.lease_some("eve", 5, now).unwrap().is_empty());
    assert_eq!(home.book.n_unreviewed().unwrap(), (7, 7));

    // What one has comes again, and its lease begins anew.
    home.book.review(&ann[2].answer, &Decision::Reject, "ann", now).unwrap();
    let again = home.book.lease_some("ann", 5, now + MINUTE).unwrap();
    assert_eq!(again.len(), 4);
    assert!(again.iter().all(|item| item.chosen == "held" && item.answer != ann[2].answer));
    assert_eq!(again[0].leased_until_ms, ann[0].leased_until_ms + MINUTE);

    assert_eq!(home.book.give_back("ann").unwrap(), 4);
    assert_eq!(home.book.lease_some("eve", 9, now).unwrap().len(), 4);
    assert_eq!(home.book.n_unreviewed().unwrap(), (7, 6));
}

/// Several servers, each with a book of its own on the same conclusions.
#[test]
pub(super) fn no_answer_is_leased_twice_however_many_books_are_open() {
    let home = failed(40);
    let now = DAY_0 + 40 * MINUTE;
    let path = home.path();
    let leasing = ["ann", "bob", "eve", "dan"].map(|reviewer| {
        let mut book = Book::open(&path).unwrap();
        std::thread::spawn(move || {
            let mut mine = BTreeSet::new();
            for n in 1..=10 {
                let items = book.lease_some(reviewer, n, now).unwrap();
                assert_eq!(items.len(), n, "there are enough for all");
                mine.extend(items.into_iter().map(|item| item.answer));
            }
            assert_eq!(mine.len(), 10, "what one has comes again");
            mine
        })
    });
    let leased = leasing.map(|thread| thread.join().unwrap());
    let all: BTreeSet<&String> = leased.iter().flatten().collect();
    assert_eq!(all.len(), 40, "somebody else has one of them as well");
    let mut late = Book::open(&path).unwrap();
    assert!(late.lease("joe", now).unwrap().is_none());

    // Nor judged by two: who comes second is told.
    let answer = leased[0].iter().next().unwrap().clone();
    let [mut first, mut second] = [&path, &path].map(|path| Book::open(path).unwrap());
    let later = now + LEASE_MS;
    first.review(&answer, &Decision::Accept, "ann", later).unwrap();
    let refused = second.review(&answer, &Decision::Accept, "bob", later).unwrap_err();
    assert!(matches!(&refused, FeedbackError::Reviewed { by, .. } if by == "ann"), "{refused}");
}

#[test]
pub(super) fn who_gave_a_verdict_may_take_it_back() {
    let mut home = failed(2);
    let now = DAY_0 + 2 * MINUTE;
    let item = home.book.lease("ann", now).unwrap().unwrap();
    home.book.review(&item.answer, &Decision::Correct("Hi.".to_owned()), "ann", now).unwrap();
    home.book.review(&item.answer, &Decision::Tag("odd".to_owned()), "ann", now).unwrap();

    let other = home.book.take_back(&item.answer, "bob", now).unwrap_err();
    assert!(matches!(&other, FeedbackError::NotReviewed { .. }), "{other}");
    let back = home.book.take_back(&item.answer, "ann", now).unwrap();
    assert_eq!((back.failure.verdict, back.failure.correction), (None, None));
    assert_eq!(home.book.tags(&item.failure.request_id, 0).unwrap(), ["odd"]);
    let twice = home.book.take_back(&item.answer, "ann", now).unwrap_err();
    assert!(matches!(twice, FeedbackError::NotReviewed { .. }), "{twice}");

    // It is Ann's again, and nobody else's.
    assert_eq!(home.book.lease("ann", now).unwrap().unwrap().answer, item.answer);
    let leased = home.book.review(&item.answer, &Decision::Accept, "bob", now).unwrap_err();
    assert!(matches!(leased, FeedbackError::Leased { .. }), "{leased}");
}

/// Ann's lease ends, Bob judges, and Ann comes back from lunch.
#[test]
pub(super) fn a_verdict_is_not_overwritten_by_whose_lease_ended() {
    let mut home = failed(1);
    let now = DAY_0 + MINUTE;
    let item = home.book.lease("ann", now).unwrap().unwrap();
    let later = now + LEASE_MS;
    assert_eq!(home.book.lease("bob", later).unwrap().unwrap().answer, item.answer);
    home.book.review(&item.answer, &Decision::Correct("Hi.".to_owned()), "bob", later).unwrap();

    let late = home.book.review(&item.answer, &Decision::Reject, "ann", later).unwrap_err();
    assert!(matches!(&late, FeedbackError::Reviewed { by, .. } if by == "bob"), "{late}");
    let row = home.book.failures(None, 1).unwrap().remove(0);
    assert_eq!(
        (row.verdict.as_deref(), row.correction.as_deref()),
        (Some("accepted"), Some("Hi."))
    );
    // Words to find it by are everybody's.
    home.book.review(&item.answer, &Decision::Tag("odd".to_owned()), "ann", later).unwrap();

    // Whose verdict it is may change it, and what it should have been goes with the one before.
    home.book.review(&item.answer, &Decision::Reject, "bob", later).unwrap();
    let row = home.book.failures(None, 1).unwrap().remove(0);
    assert_eq!((row.verdict.as_deref(), row.correction), (Some("rejected"), None));
}

#[test]
pub(super) fn an_answer_that_a_request_has_not_is_not_reviewed() {
    let mut home = failed(1);
    let item = home.book.lease("ann", DAY_0 + MINUTE).unwrap().unwrap();
    let name = format!("{}/7", item.answer);
    let unknown = home.book.review(&name, &Decision::Accept, "ann", DAY_0 + MINUTE).unwrap_err();
    assert!(matches!(unknown, FeedbackError::Unknown { n_matches: 0, .. }), "{unknown}");
}

#[test]
pub(super) fn weeks_begin_on_mondays_and_count_what_happened_in_them() {
    let mut home = failed(3);
    let now = DAY_0 + 3 * MINUTE;
    let item = home.book.lease("ann", now).unwrap().unwrap();
    home.book.review(&item.answer, &Decision::Correct("Hi.".to_owned()), "ann", now).unwrap();
    let fix = Fix {
        id: String::new(),
        cluster: item.failure.cluster.clone(),
        note: "a new cable".to_owned(),
        system: None,
        template: None,
        expect: None,
        release_hash: None,
        created_at_ms: now,
        verified_at_ms: None,
        gate: None,
    };
    let fix = home.book.add_fix(fix).unwrap();
    let day = 24 * 60 * MINUTE;
    let proved = now + 7 * day;
    let sql = "UPDATE fix SET verified_at_ms = ?2 WHERE id = ?1";
    home.book.write(sql, params![fix.id, proved]).unwrap();

    let weeks = home.book.weeks(proved, 3).unwrap();
    // 2026-09-14, -21 and -28.
    let begins: Vec<i64> = weeks.iter().map(|week| week.from_ms).collect();
    assert_eq!(begins, [1_789_344_000_000, 1_789_948_800_000, 1_790_553_600_000]);
    assert_eq!((weeks[0].n_failures, weeks[0].n_reviews), (0, 0));
    let that = &weeks[1];
    assert_eq!((that.n_failures, that.n_reviews, that.n_corrections), (3, 1, 1));
    assert_eq!((that.n_fixes, that.n_verified, that.to_verified.n), (1, 0, 0));
    let last = &weeks[2];
    assert_eq!((last.n_failures, last.n_verified, last.to_verified.n), (0, 1, 3));
    let median_s = last.to_verified.median_s.unwrap();
    assert!((7.0 * 86_400.0..7.01 * 86_400.0).contains(&median_s), "{median_s}");
    assert!(home.book.weeks(now, 0).unwrap().is_empty());
}

#[test]
pub(super) fn a_trend_counts_the_failures_of_equal_parts() {
    let home = failed(9);
    let of = |from_ms, to_ms, n| {
        let trends = home.book.trend(from_ms, to_ms, n).unwrap();
        trends.into_values().collect::<Vec<_>>()
    };
    assert_eq!(of(DAY_0, DAY_0 + 9 * MINUTE, 3), [[3, 3, 3]]);
    // What failed at the very end belongs to the last part.
    assert_eq!(of(DAY_0 - MINUTE, DAY_0 + 8 * MINUTE, 2), [[4, 5]]);
    assert!(of(DAY_0 + 60 * MINUTE, DAY_0 + 61 * MINUTE, 4).is_empty());
}

#[test]
pub(super) fn what_is_called_bad_is_told_to_other_books() {
    let mut home = failed(3);
    let now = DAY_0 + 3 * MINUTE;
    let other = Book::open(&home.path()).unwrap();
    let before = other.version().unwrap();
    assert_eq!(other.version().unwrap(), before, "nobody wrote");
    let items = home.book.lease_some("ann", 3, now).unwrap();
    let decisions =
        [Decision::Accept, Decision::Reject, Decision::Correct("Hello to you.".to_owned())];
    for (item, decision) in items.iter().zip(&decisions) {
        home.book.review(&item.answer, decision, "ann", now).unwrap();
    }
    assert_ne!(other.version().unwrap(), before);
    let bad = |item: usize| items[item].failure.request_id.clone();
    let found: BTreeSet<String> = other.called_bad(now).unwrap().into_iter().collect();
    assert_eq!(found, BTreeSet::from([bad(0), bad(2)]));
    assert!(other.called_bad(now + 1).unwrap().is_empty());
    home.book.take_back(&items[0].answer, "ann", now).unwrap();
    assert_eq!(other.called_bad(now).unwrap(), [bad(2)]);
}
