//! Ranked, reviewed, fixed, proved, guarded: a turn of the loop.

use lm_store::sql::params;
use lm_types::{FinishReason, Role};

use super::{DAY_0, Ended, Home, MINUTE, backend_error};
use crate::{
    Decision, FeedbackError, Filter, Fix, FixStatus, Pending, Rating, Rows, Scorer, Stage, Tally,
    next, rank,
};

fn fix(cluster: &str, created_at_ms: i64) -> Fix {
    Fix {
        id: String::new(),
        cluster: cluster.to_owned(),
        note: "answer in one sentence".to_owned(),
        system: Some("Answer in one sentence.".to_owned()),
        template: Some("Q: {question}".to_owned()),
        expect: None,
        release_hash: None,
        created_at_ms,
        verified_at_ms: None,
        gate: None,
    }
}

#[test]
pub(super) fn what_is_surely_frequent_bad_and_cheap_comes_first() {
    let tally = |cluster: &str, n_failures, severity, effort_days| Tally {
        cluster: cluster.to_owned(),
        fingerprint: "disliked".to_owned(),
        n_failures,
        n_recent: 0,
        severity,
        effort_days,
    };
    let order = |tallies: &[Tally], n| -> Vec<String> {
        rank(tallies.to_vec(), n).into_iter().map(|ranked| ranked.cluster).collect()
    };
    let often = [tally("rare", 30, 1.0, 1.0), tally("often", 90, 1.0, 1.0)];
    assert_eq!(order(&often, 1000), ["often", "rare"]);
    let mild = [tally("mild", 90, 0.3, 1.0), tally("bad", 40, 1.0, 1.0)];
    assert_eq!(order(&mild, 1000), ["bad", "mild"]);
    let dear = [tally("dear", 90, 1.0, 10.0), tally("cheap", 30, 1.0, 0.5)];
    assert_eq!(order(&dear, 1000), ["cheap", "dear"]);
    // One failure of one answer is a rate of 1 that nobody can rely on.
    assert!(rank(vec![tally("one", 1, 1.0, 1.0)], 1)[0].rate_low < 0.3);
}

#[test]
pub(super) fn reviewers_get_what_is_uncertain_and_one_in_five_at_random() {
    let pending = |probability, n_reviewed_of_cluster, hash| Pending {
        probability,
        n_reviewed_of_cluster,
        hash,
    };
    let all = [pending(0.9, 0, 1), pending(0.5, 4, 9), pending(0.52, 0, 5), pending(0.5, 2, 7)];
    for n_leases in 0..20 {
        let expect = if n_leases % 5 == 4 { (0, true) } else { (3, false) };
        assert_eq!(next(&all, n_leases), Some(expect));
    }
    assert_eq!(next(&[], 0), None);
}

#[test]
pub(super) fn an_answer_is_one_reviewers_until_it_is_reviewed_or_the_lease_ends() {
    let mut home = Home::new();
    for i in 0..3 {
        home.answer(DAY_0 + i, &[(Role::User, "hello there")], "", backend_error());
    }
    let now = DAY_0 + MINUTE;
    home.collect(now);
    let ann = home.book.lease("ann", now).unwrap().unwrap();
    let bob = home.book.lease("bob", now).unwrap().unwrap();
    assert_ne!(ann.answer, bob.answer);
    assert_eq!(home.book.lease("ann", now).unwrap().unwrap().answer, ann.answer);
    let taken = home.book.review(&ann.answer, &Decision::Accept, "bob", now).unwrap_err();
    assert!(matches!(&taken, FeedbackError::Leased { holder, .. } if holder == "ann"), "{taken}");
    home.book.review(&ann.answer, &Decision::Tag("crash".to_owned()), "ann", now).unwrap();
    home.book.review(&ann.answer, &Decision::Correct("Hi.".to_owned()), "ann", now).unwrap();
    assert_eq!(home.book.tags(&ann.failure.request_id, 0).unwrap(), ["crash"]);
    // Bob went home: after a quarter of an hour Ann gets his, or the third.
    let later = now + 16 * MINUTE;
    let mut left = Vec::new();
    while let Some(item) = home.book.lease("ann", later).unwrap() {
        home.book.review(&item.answer, &Decision::Reject, "ann", later).unwrap();
        left.push(item.answer);
    }
    assert_eq!(left.len(), 2);
    assert!(left.contains(&bob.answer));
    let ranked = home.book.ranked(home.store.reader(), 0, later).unwrap();
    assert_eq!(ranked[0].n_failures, 1, "what was rejected does not count");
    let unknown = home.book.review("zzz", &Decision::Accept, "ann", now).unwrap_err();
    assert!(matches!(unknown, FeedbackError::Unknown { n_matches: 0, .. }), "{unknown}");
}

/// 40 % of the answers are cut; after the fix none is; an unrelated problem goes on as before.
#[test]
pub(super) fn a_fix_is_proved_by_traffic_and_guarded() {
    let mut home = Home::new();
    let cut = || Ended::Finished(FinishReason::Length);
    let ask =
        |i: i64| format!("Describe the history of the harbour, part {i}, for ann@example.org.");
    for i in 0..200 {
        let at_ms = DAY_0 + i * 1000;
        match i % 5 {
            0 | 1 => {
                home.answer(at_ms, &[(Role::User, &ask(i))], "It began when", cut());
            }
            2 => {
                home.answer(at_ms, &[(Role::User, "hello")], "", backend_error());
            }
            _ => {
                home.good(at_ms, &format!("{i} plus one"));
            }
        }
    }
    let fixed_at = DAY_0 + 200_000;
    home.collect(fixed_at);
    let ranked = home.book.ranked(home.store.reader(), 0, fixed_at).unwrap();
    let cluster = ranked.iter().find(|ranked| ranked.fingerprint == "truncated").unwrap();
    assert_eq!((cluster.n_failures, cluster.n_answers), (80, 200));
    let fix = home.book.add_fix(fix(&cluster.cluster[..6], fixed_at)).unwrap();
    assert_eq!(fix.cluster, cluster.cluster);

    let evidence = home.book.verify(&fix, home.store.reader(), fixed_at).unwrap();
    assert_eq!(evidence.verdict, "undecided", "nothing came since");
    for i in 0..100 {
        let at_ms = fixed_at + i * 1000;
        if i % 5 == 2 {
            home.answer(at_ms, &[(Role::User, "hello")], "", backend_error());
        } else {
            home.good(at_ms, &ask(i));
        }
    }
    let now = fixed_at + 101_000;
    home.collect(now);
    let evidence = home.book.verify(&fix, home.store.reader(), now).unwrap();
    let counts =
        (evidence.before_failed, evidence.before_n, evidence.after_failed, evidence.after_n);
    assert_eq!(counts, (80, 200, 0, 100));
    assert_eq!(evidence.verdict, "improved");
    assert!(evidence.change_low < -0.4 && evidence.change_high < -0.2, "{evidence:?}");
    let fix = home.book.fix(&fix.id).unwrap();
    assert_eq!((fix.status(), fix.verified_at_ms), (FixStatus::Verified, Some(now)));

    let rows = Rows::of_fix(&home.book, home.store.reader(), &fix).unwrap();
    assert_eq!(rows.len(), 50);
    for row in &rows {
        assert_eq!(row["scorer"], "not:truncated");
        assert_eq!(row["messages"][0]["content"], "Answer in one sentence.");
        let asked = row["messages"][1]["content"].as_str().unwrap();
        assert!(asked.starts_with("Q: Describe"), "{asked}");
        assert!(asked.ends_with("for [an e-mail address]."), "{asked}");
    }

    let learning = home.book.learning(0).unwrap();
    assert_eq!((learning.n_failures, learning.verified.n), (140, 80));
    assert_eq!(learning.verified.median_s, Some(101.0));
    assert!(learning.whole.p90_s.unwrap() > learning.whole.median_s.unwrap());
    assert_eq!(Stage::of(vec![]), Stage { n: 0, median_s: None, p90_s: None });
}

/// A fix that halves a rate leaves failures: they were not fixed at once, but not yet.
#[test]
pub(super) fn what_fails_after_a_proof_was_not_fixed_fast() {
    let mut home = Home::new();
    let fail = |home: &mut Home, at_ms: i64| {
        home.answer(at_ms, &[(Role::User, "hello there")], "", backend_error())
    };
    for i in 0..3 {
        fail(&mut home, DAY_0 + i);
    }
    let proved_at = DAY_0 + 10 * MINUTE;
    home.collect(DAY_0 + MINUTE);
    let cluster = home.book.failures(None, 1).unwrap()[0].cluster.clone();
    let first = home.book.add_fix(fix(&cluster, DAY_0 + 5 * MINUTE)).unwrap();
    let sql = "UPDATE fix SET verified_at_ms = ?2 WHERE id = ?1";
    home.book.write(sql, params![first.id, proved_at]).unwrap();
    for i in 1..=7 {
        fail(&mut home, proved_at + i * MINUTE);
    }
    home.collect(proved_at + 30 * MINUTE);
    let learned = home.book.learning(0).unwrap();
    assert_eq!((learned.n_failures, learned.fixed.n, learned.verified.n), (10, 3, 3));
    assert!(learned.whole.median_s.is_some_and(|s| (599.0..=600.0).contains(&s)), "{learned:?}");
    // Another fix is what they waited for.
    home.book.add_fix(fix(&cluster, proved_at + 40 * MINUTE)).unwrap();
    let learned = home.book.learning(0).unwrap();
    assert_eq!((learned.fixed.n, learned.verified.n), (10, 3));
    assert!(learned.fixed.median_s >= Some(600.0), "{learned:?}");
}

#[test]
pub(super) fn a_problem_that_no_text_shows_needs_an_expectation() {
    let mut home = Home::new();
    let now = DAY_0 + MINUTE;
    let id = home.answer(
        DAY_0,
        &[(Role::User, "hello hello hello")],
        "Half",
        Ended::Finished(FinishReason::Abort),
    );
    home.collect(now);
    let cluster = home.book.failures(None, 1).unwrap()[0].cluster.clone();
    let plain = home.book.add_fix(fix(&cluster, now)).unwrap();
    let error = Rows::of_fix(&home.book, home.store.reader(), &plain).unwrap_err().to_string();
    assert!(error.contains("abandoned") && error.contains("--expect"), "{error}");
    let expect = Some("contains:hello".to_owned());
    let fix = home.book.add_fix(Fix { expect, ..fix(&cluster, now) }).unwrap();
    let rows = Rows::of_fix(&home.book, home.store.reader(), &fix).unwrap();
    assert_eq!(rows[0]["scorer"], "contains:hello");
    assert_eq!(rows[0]["lineage"]["request_id"], id.as_str());
    assert!(Scorer::parse(rows[0]["scorer"].as_str().unwrap()).is_ok());
    let wrong = Fix { expect: Some("similarity:2".to_owned()), ..fix };
    let error = home.book.add_fix(wrong).unwrap_err().to_string();
    assert!(error.contains("similarity:COSINE") && error.contains("-1 to 1"), "{error}");
    let wrong =
        Fix { template: Some("Say it.".to_owned()), ..home.book.fixes().unwrap().remove(0) };
    let error = home.book.add_fix(wrong).unwrap_err().to_string();
    assert!(error.contains("template is Say it.") && error.contains("{question}"), "{error}");
}

#[test]
pub(super) fn traffic_becomes_rows_once_each_masked_and_with_its_source() {
    let mut home = Home::new();
    let ids: Vec<String> = (0..3)
        .map(|i| {
            let output = if i == 2 { "Call 415-555-2671." } else { "Same." };
            let stopped = Ended::Finished(FinishReason::Stop);
            home.answer(DAY_0 + i, &[(Role::User, "Whom do I call?")], output, stopped)
        })
        .collect();
    let later = home.good(DAY_0 + MINUTE, "Another question");
    home.rate(&later, true);
    home.store.flush().unwrap();
    let take = |home: &Home, filter: Filter| {
        let mut taken = Vec::new();
        let rows = Rows::of_traffic(&home.book, home.store.reader(), &filter, i64::MAX, |row| {
            taken.push(row.clone());
            Ok::<(), FeedbackError>(())
        });
        (rows.unwrap(), taken)
    };
    let until = Filter { until_ms: Some(DAY_0 + MINUTE), ..Filter::default() };
    let (rows, taken) = take(&home, until);
    let counts = (rows.n_answers, rows.n_rows, rows.n_duplicates, rows.n_masked);
    assert_eq!(counts, (3, 2, 1, 1));
    assert_eq!(taken[0]["lineage"]["request_id"], ids[0].as_str());
    assert_eq!(taken[1]["messages"][1]["content"], "Call [a phone number].");
    let liked = Filter { rating: Some(Rating::Liked), ..Filter::default() };
    let (rows, taken) = take(&home, liked);
    assert_eq!(rows.n_rows, 1);
    assert_eq!(taken[0]["lineage"]["request_id"], later.as_str());
    let other = Filter { model: Some("other".to_owned()), ..Filter::default() };
    assert_eq!(take(&home, other).0.n_rows, 0);
}

#[test]
pub(super) fn traffic_keeps_calls_of_tools_and_names() {
    let mut home = Home::new();
    let asked =
        [(Role::User, "What is the weather in Kiel?"), (Role::Assistant, ""), (Role::Tool, "rain")];
    let stopped = Ended::Finished(FinishReason::Stop);
    home.answer_with(DAY_0, &asked, "It rains.", stopped, |event| {
        let call = "{\"id\":\"c1\",\"type\":\"function\",\"function\":{\"name\":\"weather\",\"arguments\":{\"city\":\"Kiel\",\"for\":\"ann@example.org\"}}}";
        event.request.dialog.message_fields = vec![
            (0, "{\"name\":\"ann\"}".to_owned()),
            (1, format!("{{\"tool_calls\":[{call}]}}")),
            (2, "{\"tool_call_id\":\"c1\",\"name\":\"weather\"}".to_owned()),
        ];
    });
    home.store.flush().unwrap();
    let mut taken = Vec::new();
    let (reader, all) = (home.store.reader(), Filter::default());
    let rows = Rows::of_traffic(&home.book, reader, &all, i64::MAX, |row| {
        taken.push(row["messages"].clone());
        Ok::<(), FeedbackError>(())
    });
    assert_eq!(rows.unwrap().n_masked, 1);
    let messages = &taken[0];
    assert_eq!(messages[0]["name"], "ann");
    let function = &messages[1]["tool_calls"][0]["function"];
    assert_eq!(function["name"], "weather");
    assert_eq!(function["arguments"], "{\"city\":\"Kiel\",\"for\":\"[an e-mail address]\"}");
    assert_eq!(messages[2]["tool_call_id"], "c1");
    assert_eq!(messages[2]["role"], "tool");
    assert_eq!(messages[3]["content"], "It rains.");
}

#[test]
pub(super) fn traffic_is_chosen_by_route_time_and_how_sure_the_model_was() {
    let mut home = Home::new();
    let routes = ["/v1/chat/completions", "/v1/completions"];
    let sure = [Some(-0.2), Some(-2.5), None];
    let mut ids = Vec::new();
    for (i, (route, mean)) in routes.iter().flat_map(|route| sure.map(|m| (*route, m))).enumerate()
    {
        let question = format!("What is {i} and {i}?");
        let stopped = Ended::Finished(FinishReason::Stop);
        let asked = [(Role::User, question.as_str())];
        ids.push(home.answer_with(DAY_0 + i as i64, &asked, "Some.", stopped, |event| {
            event.request.steering.route = route;
            event.mean_logprob = mean;
        }));
    }
    home.store.flush().unwrap();
    let check = |filter: Filter, expect: &[usize], n_without_logprob: u64| {
        let mut taken = Vec::new();
        let rows = Rows::of_traffic(&home.book, home.store.reader(), &filter, i64::MAX, |row| {
            taken.push(row["lineage"]["request_id"].as_str().unwrap().to_owned());
            Ok::<(), FeedbackError>(())
        });
        let expect: Vec<&String> = expect.iter().map(|i| &ids[*i]).collect();
        assert_eq!(taken.iter().collect::<Vec<_>>(), expect, "{filter:?}");
        assert_eq!(rows.unwrap().n_without_logprob, n_without_logprob, "{filter:?}");
    };
    let route = Some(routes[1].to_owned());
    check(Filter { route: route.clone(), ..Filter::default() }, &[3, 4, 5], 0);
    check(Filter { max_mean_logprob: Some(-1.0), ..Filter::default() }, &[1, 4], 2);
    check(Filter { max_mean_logprob: Some(-1.0), route, ..Filter::default() }, &[4], 1);
    let window = (Some(DAY_0 + 1), Some(DAY_0 + 4));
    check(Filter { since_ms: window.0, until_ms: window.1, ..Filter::default() }, &[1, 2, 3], 0);
    check(Filter { route: Some("/v1/edits".to_owned()), ..Filter::default() }, &[], 0);
}
