//! What must not be called an improvement.

use lm_store::sql::{Value, params};
use lm_types::{FinishReason, ReleaseHash, Role};

use super::{DAY_0, Ended, Home, MINUTE, backend_error};
use crate::book::add_sample;
use crate::scan::INTO;
use crate::{Fix, Shape, batch};

/// So long that what it makes of a question is like nothing that was asked before.
const TEMPLATE: &str = "Act as the archivist of a small museum of trams who answers letters of visitors in plain words, \
    never guesses, names the shelf and the year of each document that he relies on, leaves out what nobody asked for, keeps \
    to three sentences at most, greets nobody, and closes with the hours at which the reading room opens on weekdays. The \
    letter of today came by pigeon from the lighthouse and says: {question}";

fn fix(cluster: &str, created_at_ms: i64) -> Fix {
    Fix {
        id: String::new(),
        cluster: cluster.to_owned(),
        note: "ask otherwise".to_owned(),
        system: None,
        template: Some(TEMPLATE.to_owned()),
        expect: None,
        release_hash: None,
        created_at_ms,
        verified_at_ms: None,
        gate: None,
    }
}

/// Two of five answers are no JSON before and after; since the template came they are like none before, and another problem
/// began. Returns the cluster of before.
fn moved(home: &mut Home, fixed_at: i64, release: ReleaseHash) -> String {
    let system = (Role::System, "Respond with valid JSON.");
    for i in 0..300_i64 {
        let is_after = i >= 200;
        let question = format!("Summarise the invoice number {i} of our supplier in Hamburg.");
        let question = if is_after { TEMPLATE.replace("{question}", &question) } else { question };
        let asked = [system.clone(), (Role::User, question.as_str())];
        let stopped = Ended::Finished(FinishReason::Stop);
        let (output, ended) = match i % 5 {
            0 | 1 => (if is_after { "The shelf is empty." } else { "It costs a lot." }, stopped),
            2 if is_after => ("", backend_error()),
            _ => ("[1]", stopped),
        };
        home.answer_with(fixed_at + (i - 200) * 1000, &asked, output, ended, |event| {
            if is_after {
                event.release = release;
            }
        });
    }
    home.collect(fixed_at + 101_000);
    let rows = home.book.failures(None, 1000).unwrap();
    let last = rows.iter().rfind(|row| row.kind == "not_json").unwrap();
    let n_own = rows.iter().filter(|row| row.cluster == last.cluster).count();
    assert_eq!(n_own, 80, "the test is of failures that moved");
    last.cluster.clone()
}

#[test]
pub(super) fn what_fails_as_another_problem_of_the_kind_is_not_improved() {
    let mut home = Home::new();
    let fixed_at = DAY_0 + 200_000;
    let cluster = moved(&mut home, fixed_at, ReleaseHash([7; 16]));
    let fix = home.book.add_fix(fix(&cluster, fixed_at)).unwrap();
    let now = fixed_at + 101_000;
    let found = home.book.verify(&fix, home.store.reader(), now).unwrap();
    let counts = (found.before_failed, found.before_n, found.after_failed, found.after_n);
    assert_eq!((counts, found.after_moved), ((80, 200, 40, 100), 40));
    assert_eq!(found.verdict, "undecided");
    // If none of it is the same problem, it is far better; if all is, nothing changed.
    assert!(found.change_low < -0.3 && found.change_high > 0.0, "{found:?}");
    assert_eq!(home.book.evidence(&fix.id, 1).unwrap(), [found]);
    assert_eq!(home.book.fix(&fix.id).unwrap().verified_at_ms, None);
}

/// The release ran before its fix was noted.
#[test]
pub(super) fn what_moved_in_a_release_is_not_improved_either() {
    let mut home = Home::new();
    let (came_at, release) = (DAY_0 + 200_000, ReleaseHash([8; 16]));
    let cluster = moved(&mut home, came_at, release);
    let now = came_at + 5 * MINUTE;
    let of_release = Fix { release_hash: Some(release.to_string()), ..fix(&cluster, now) };
    let fix = home.book.add_fix(of_release).unwrap();
    let found = home.book.verify(&fix, home.store.reader(), now).unwrap();
    let counts = (found.before_failed, found.before_n, found.after_failed, found.after_n);
    assert_eq!((counts, found.after_moved), ((80, 200, 40, 100), 40));
    assert_eq!(found.verdict, "undecided");
}

const DAY: i64 = 24 * 60 * MINUTE;
const N_BEFORE: i64 = 600;
const BEFORE: i64 = 14 * DAY;
const N_AFTER: i64 = 900;
const AFTER: i64 = 15 * DAY;
const N_LIVES: u64 = 40;
/// Days after the fix on which one looks.
const LOOKS: [i64; 9] = [1, 2, 3, 4, 6, 8, 10, 13, 18];

/// Marsaglia's xorshift64*, seeded.
struct Dice(u64);

impl Dice {
    fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// A row of the book.
fn complaint(id: &str, cluster: &str, at_ms: i64, noticed_ms: i64) -> Vec<Value> {
    let (word, severity) = ("disliked", 1.0_f64);
    params![
        id, 0_i64, cluster, word, word, severity, "", "", at_ms, noticed_ms, noticed_ms, noticed_ms
    ]
}

/// What the traffic said until then.
fn collected(home: &mut Home, complaints: Vec<Vec<Value>>, now_ms: i64) {
    let transaction = home.book.begin().unwrap();
    batch::insert(&transaction, INTO, "DO NOTHING", complaints).unwrap();
    let sql = "INSERT INTO state(name, value) VALUES ('collected_ms', ?1) \
               ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    transaction.execute(sql, [now_ms]).unwrap();
    transaction.commit().unwrap();
}

/// The complaints until then, each with the time at which it comes, are there.
fn come(home: &mut Home, complaints: &mut Vec<(i64, Vec<Value>)>, now_ms: i64) {
    let (new, later): (Vec<_>, Vec<_>) =
        complaints.drain(..).partition(|(noticed_ms, _)| *noticed_ms < now_ms);
    *complaints = later;
    collected(home, new.into_iter().map(|(_, row)| row).collect(), now_ms);
}

/// Answers of a month with a fix in its middle, of which the readers of some will complain.
struct Month {
    home: Home,
    /// With the time of their arrival.
    answers: Vec<(String, i64)>,
}

impl Month {
    fn new() -> Month {
        let mut home = Home::new();
        let mut answers = Vec::new();
        for i in -N_BEFORE..N_AFTER {
            let every = if i < 0 { BEFORE / N_BEFORE } else { AFTER / N_AFTER };
            let at_ms = DAY_0 + i * every;
            answers.push((home.good(at_ms, &format!("Where is number {i}?")), at_ms));
            if i % 200 == 0 {
                home.store.flush().unwrap();
            }
        }
        home.store.flush().unwrap();
        for (id, first_seen_ms) in [("c-old", DAY_0 - BEFORE), ("c-new", DAY_0)] {
            let shape = Shape { fingerprint: "disliked".to_owned(), ..Shape::default() };
            add_sample(&home.book.connection, id, &shape, first_seen_ms).unwrap();
        }
        Month { home, answers }
    }

    /// A fifth of the answers is bad, and since the fix `rate_after`; readers say so two days later in the mean. Whether the fix was
    /// ever called improved, and whether worse.
    fn life(&mut self, seed: u64, rate_after: f64, cluster_after: &str) -> (bool, bool) {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut complaints = Vec::new();
        for (id, at_ms) in &self.answers {
            let (rate, cluster) =
                if *at_ms < DAY_0 { (0.2, "c-old") } else { (rate_after, cluster_after) };
            let late_ms = (-(1.0 - dice.uniform()).ln() * 2.0 * DAY as f64) as i64;
            if dice.uniform() < rate {
                complaints.push((at_ms + late_ms, complaint(id, cluster, *at_ms, at_ms + late_ms)));
            }
        }
        let home = &mut self.home;
        home.book.connection.execute_batch("DELETE FROM failure; DELETE FROM fix").unwrap();
        come(home, &mut complaints, DAY_0);
        let fix = home.book.add_fix(fix("c-old", DAY_0)).unwrap();
        let mut called = (false, false);
        for day in LOOKS {
            let now = DAY_0 + day * DAY;
            come(home, &mut complaints, now);
            let found = home.book.weigh(&fix, home.store.reader(), now).unwrap();
            called.0 |= found.verdict == "improved";
            called.1 |= found.verdict == "worse";
        }
        called
    }

    fn n_called(&mut self, rate_after: f64, cluster_after: &str) -> (usize, usize) {
        let lives: Vec<(bool, bool)> =
            (1..=N_LIVES).map(|seed| self.life(seed, rate_after, cluster_after)).collect();
        (lives.iter().filter(|one| one.0).count(), lives.iter().filter(|one| one.1).count())
    }
}

#[test]
fn complaints_that_are_still_to_come_are_no_improvement() {
    let mut month = Month::new();
    let (improved, worse) = month.n_called(0.2, "c-old");
    assert!(improved + worse <= 2, "{improved} and {worse} of {N_LIVES} that change nothing");
    let (improved, worse) = month.n_called(0.2, "c-new");
    assert!(improved + worse <= 2, "{improved} and {worse} of {N_LIVES} that move all");
    let (improved, worse) = month.n_called(0.08, "c-old");
    assert!(improved >= 32 && worse == 0, "{improved} and {worse} of {N_LIVES} that help");
}

/// Nine of ten said so within the hour: nobody waits for the tenth, whose answer does not count before the fix either.
#[test]
pub(super) fn the_wait_for_complaints_is_learned_from_those_before() {
    let mut home = Home::new();
    let fixed_at = DAY_0 + 10 * DAY;
    let shape = Shape { fingerprint: "disliked".to_owned(), ..Shape::default() };
    add_sample(&home.book.connection, "c-old", &shape, DAY_0).unwrap();
    let mut rows = Vec::new();
    for i in 0..20 {
        let at_ms = DAY_0 + i * MINUTE;
        let id = home.good(at_ms, &format!("Where is number {i}?"));
        let late_ms = if i < 18 { 50 * MINUTE } else { 5 * DAY };
        rows.push(complaint(&id, "c-old", at_ms, at_ms + late_ms));
    }
    collected(&mut home, rows, fixed_at);
    let fix = home.book.add_fix(fix("c-old", fixed_at)).unwrap();
    for minutes in [1, 40] {
        home.good(fixed_at + minutes * MINUTE, "And now?");
    }
    home.store.flush().unwrap();
    collected(&mut home, Vec::new(), fixed_at + 90 * MINUTE);
    let found = home.book.verify(&fix, home.store.reader(), fixed_at + 90 * MINUTE).unwrap();
    assert_eq!(found.horizon_ms, 60 * MINUTE.cast_unsigned());
    let counts = (found.before_failed, found.before_n, found.after_failed, found.after_n);
    assert_eq!(counts, (18, 20, 0, 1), "the second one may still be complained about");
    assert_eq!(home.book.evidence(&fix.id, 1).unwrap(), [found]);
}
