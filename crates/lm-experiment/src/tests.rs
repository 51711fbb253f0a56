//! Experiments, as their owners meet them: what is taken, who gets what, and what evidence moves.

use std::collections::BTreeSet;

use lm_types::{Arm, ArmTag, ChatMessage, Prompt, Role};

use crate::book::json_of;
use crate::{
    Advice, Book, ExperimentError, Forced, Metric, Report, Spec, Stage, Status, Tally, Unit,
};

const SPEC: &str = r#"
name = "polite"
owner = "ana@example.com"
reason = "shorter answers"
model = "small"
from = "1"
min_answers = 50
[candidate]
system = "polite"
[candidate.params]
temperature = 0.2
[goal]
metric = "not_failure"
[[guardrails]]
metric = "not_failure"
max_loss = 0.05
[[guardrails]]
metric = "ttft_ms"
quantile = 0.9
max = 500
"#;

fn book() -> (tempfile::TempDir, Book) {
    let folder = tempfile::tempdir().expect("a folder");
    let book = Book::open(&folder.path().join("experiments.db")).expect("a file");
    (folder, book)
}

fn started() -> (tempfile::TempDir, Book) {
    let (folder, mut book) = book();
    book.add_prompt("polite", "Be polite. {system}", "ana", 1).expect("a prompt");
    book.start(&Spec::parse(SPEC).expect("a spec"), "ana", 2).expect("an experiment");
    (folder, book)
}

fn put(book: &mut Book, tally: &Tally) {
    let sql = "UPDATE evidence SET tally = ?1";
    book.connection.execute(sql, [json_of(tally)]).expect("a tally");
}

#[track_caller]
fn check_refused(change: (&str, &str), field: &str) {
    let text = SPEC.replace(change.0, change.1);
    assert_ne!(text, SPEC);
    let error = Spec::parse(&text).expect_err("a bad spec").to_string();
    assert!(error.contains(field), "{error} does not name {field}");
}

#[test]
fn bad_fields_are_refused_by_name() {
    check_refused(("owner =", "ower ="), "ower");
    check_refused(("\"polite\"\nowner", "\"po lite\"\nowner"), "name");
    check_refused(("system = \"polite\"", "adapter = \"\""), "candidate.adapter");
    check_refused(("temperature = 0.2", "temperature = 3.0"), "candidate.params.temperature");
    check_refused(("temperature = 0.2", "temprature = 1.0"), "temprature");
    check_refused(("max_loss = 0.05", "max = 3"), "guardrails.metric");
    check_refused(("max = 500", "max = 500\nmax_ratio = 2.0"), "guardrails.metric");
    check_refused(
        ("[goal]\nmetric = \"not_failure\"", "[goal]\nmetric = \"ttft_ms\""),
        "goal.metric",
    );
    check_refused(("from = \"1\"", "from = \"100\""), "from");
    check_refused(("from = \"1\"", "unit = \"moon\""), "unit");
    check_refused(("from = \"1\"", "holdback = 21"), "holdback is 21, but must be from 0 to 20");
    check_refused(("from = \"1\"", "routes = [\"/v1/completions\"]"), "routes");
}

fn unit(user: &str) -> Unit<'_> {
    Unit { request: "r", tenant: None, user: Some(user), header: None, first_message: None }
}

#[test]
fn units_keep_to_their_arm_and_stages_keep_their_units() {
    let (_folder, book) = started();
    let mut live = book.live().expect("what runs").remove(0);
    let users: Vec<String> = (0..4000).map(|i| format!("user {i}")).collect();
    let mut before = BTreeSet::new();
    for stage in Stage::ALL {
        live.stage = stage;
        let is_candidate = |user: &&String| live.assign(unit(user)).arm == Arm::Candidate;
        let now: BTreeSet<&String> = users.iter().filter(is_candidate).collect();
        assert!(now.is_superset(&before), "{stage}");
        let expect = users.len() * usize::from(stage.percent()) / 100;
        assert!(now.len().abs_diff(expect) < 100, "{} at {stage}", now.len());
        assert_eq!(live.assign(unit("ana")), live.assign(unit("ana")));
        before = now;
    }
    let nobody = Unit { user: None, ..unit("") };
    let other = Unit { request: "s", ..nobody };
    assert_ne!(live.assign(nobody).unit, live.assign(other).unit);
}

#[test]
fn the_system_prompt_is_the_arms_own_and_keeps_the_requests() {
    let (_folder, book) = started();
    let live = book.live().expect("what runs").remove(0);
    let message = |role, text: &str| ChatMessage { role, content: text.to_owned() };
    let check = |arm, own: Option<&str>, expect: &[&str]| {
        let own = own.map(|text| message(Role::System, text));
        let messages = own.into_iter().chain([message(Role::User, "Hi")]).collect();
        let mut prompt = Prompt::Chat(messages);
        live.instruct(arm, &mut prompt);
        let Prompt::Chat(messages) = prompt else { panic!("no chat") };
        let texts: Vec<&str> = messages.iter().map(|one| one.content.as_str()).collect();
        assert_eq!(texts, expect);
    };
    check(Arm::Primary, None, &["Hi"]);
    check(Arm::Candidate, None, &["Be polite.", "Hi"]);
    check(Arm::Shadow, Some("Be brief."), &["Be polite. Be brief.", "Hi"]);
}

#[test]
fn prompts_are_versions_and_experiments_keep_theirs() {
    let (_folder, mut book) = started();
    assert_eq!(
        book.add_prompt("polite", "Be polite. {system}", "bo", 3).expect("a prompt").version,
        1
    );
    assert_eq!(book.add_prompt("polite", "Be kind.", "bo", 3).expect("a prompt").version, 2);
    assert_eq!(book.prompt("polite").expect("the newest").text, "Be kind.");
    assert_eq!(book.prompt("polite@1").expect("the first").text, "Be polite. {system}");
    let found = book.experiment("polite").expect("an experiment");
    assert_eq!(found.spec.candidate.system.as_deref(), Some("polite@1"));
    assert!(matches!(book.prompt("polite@7"), Err(ExperimentError::Unknown { .. })));
    let again = book.start(&Spec::parse(SPEC).expect("a spec"), "bo", 4);
    assert!(matches!(again, Err(ExperimentError::WrongState { .. })), "{again:?}");
    let other = SPEC.replace("name = \"polite\"", "name = \"other\"");
    let other = book.start(&Spec::parse(&other).expect("a spec"), "bo", 4);
    assert!(matches!(other, Err(ExperimentError::WrongState { .. })), "{other:?}");
}

/// Answers by turns at 50 %, every `bad`-th of the candidate and every tenth of the primary a failure.
fn tally(book: &Book, n: u64, bad: u64, ttft_ms: f64) -> Tally {
    let spec = book.experiment("polite").expect("an experiment").spec;
    let mut tally = Tally::new(&spec);
    let tag = book.live().expect("what runs").remove(0).assign(unit("ana"));
    for i in 0..n {
        for arm in [Arm::Primary, Arm::Candidate] {
            let every = if arm == Arm::Candidate { bad } else { 10 };
            let value = f64::from(u8::from(i % every != 0));
            tally.see_unit(arm, 50);
            let tag = ArmTag { arm, ..tag.clone() };
            tally.see(&tag, true);
            tally.see_cost(arm, if arm == Arm::Candidate { 0.3 } else { 0.1 });
            tally.see_goal(arm, 50, value);
            tally.see_rate(0, arm, 50, value);
            tally.see_quantile(1, arm, if arm == Arm::Candidate { ttft_ms } else { 100.0 });
        }
    }
    tally
}

fn advice(book: &Book, tally: &Tally) -> Advice {
    Report::of(&book.experiment("polite").expect("an experiment"), tally).advice
}

#[test]
fn guardrails_roll_back_when_their_interval_excludes_the_limit() {
    let (_folder, book) = started();
    let found = advice(&book, &tally(&book, 400, 10, 100.0));
    assert!(matches!(found, Advice::Promote { .. }), "{found:?}");
    let found = advice(&book, &tally(&book, 10, 10, 100.0));
    assert!(matches!(&found, Advice::Hold { why } if why.contains("10 of 50")), "{found:?}");
    let found = advice(&book, &tally(&book, 400, 2, 100.0));
    assert!(matches!(&found, Advice::Rollback { why } if why.contains("not_failure")), "{found:?}");
    let found = advice(&book, &tally(&book, 400, 10, 700.0));
    assert!(matches!(&found, Advice::Rollback { why } if why.contains("ttft_ms p90")), "{found:?}");
}

/// Opinions of the candidate's answers in three of 22 where one in twenty was to be expected, or as expected; every
/// `bad` in 25 of the candidate's is bad, and 5 of the primary's.
fn rated(spec: &Spec, book: &Book, is_lopsided: bool, bad: u64) -> Tally {
    let mut tally = Tally::new(spec);
    let tag = book.live().expect("what runs").remove(0).assign(unit("ana"));
    let mut n = [0_u64; 2];
    for i in 0..4000_u64 {
        let is_candidate = if is_lopsided { i * 3 % 22 < 3 } else { i.is_multiple_of(20) };
        let (arm, bad) = if is_candidate { (Arm::Candidate, bad) } else { (Arm::Primary, 5) };
        let n = &mut n[usize::from(is_candidate)];
        *n += 1;
        let value = f64::from(u8::from(*n * 7 % 25 >= bad));
        tally.see_value(spec, &ArmTag { arm, percent: 5, ..tag.clone() }, Metric::Feedback, value);
    }
    tally
}

#[test]
fn opinions_decide_nothing_where_one_arm_is_judged_more_often() {
    let (_folder, mut book) = book();
    let goal = "[goal]\nmetric = \"feedback\"\nmin_gain = 0.25";
    let text = SPEC.replace("system = \"polite\"", "").replace("from = \"1\"", "from = \"5\"");
    let text = text.replace("[goal]\nmetric = \"not_failure\"", goal);
    let spec = Spec::parse(&text).expect("a spec");
    let begun = book.start(&spec, "ana", 2).expect("an experiment");
    // 20 points are lost, which is within the margin; weighed by the share of units they would be 50.
    let found = Report::of(&begun, &rated(&spec, &book, true, 10));
    assert!(found.ratings_mismatch && !found.sample_ratio_mismatch, "{found:?}");
    let Advice::Hold { why } = &found.advice else { panic!("{:?}", found.advice) };
    assert!(why.contains("of the 4000 units that said something are the candidate's"), "{why}");
    // Those who were drawn are believed.
    let found = Report::of(&begun, &rated(&spec, &book, false, 25));
    assert!(!found.ratings_mismatch, "{found:?}");
    assert!(matches!(found.advice, Advice::Rollback { .. }), "{:?}", found.advice);
}

#[test]
fn a_holdback_keeps_its_units_and_goes_on_to_be_compared() {
    let (_folder, mut book) = book();
    let text = SPEC.replace("system = \"polite\"", "").replace("\"1\"", "\"50\"\nholdback = 5");
    book.start(&Spec::parse(&text).expect("a spec"), "ana", 2).expect("an experiment");
    let forced = Forced { reason: "a test".to_owned() };
    let half = book.live().expect("what runs").remove(0);
    let moved = book.promote("polite", Ok(()), Some(&forced), "ana", 3).expect("the last stage");
    assert_eq!((moved.stage, moved.spec.holdback), (Stage::All, 5));
    let live = book.live().expect("what runs").remove(0);
    let users: Vec<String> = (0..4000).map(|i| format!("user {i}")).collect();
    let held: Vec<&String> =
        users.iter().filter(|user| live.assign(unit(user)).arm == Arm::Primary).collect();
    assert!(held.len().abs_diff(200) < 60, "{}", held.len());
    assert!(held.iter().all(|user| half.assign(unit(user)).arm == Arm::Primary));
    assert_eq!(live.assign(unit("ana")).percent, 95);
    // Nineteen answers of twenty are the candidate's.
    let weighed = |bad: u64| {
        let mut tally = Tally::new(&moved.spec);
        for i in 0..8000_u64 {
            let arm = if i.is_multiple_of(20) { Arm::Primary } else { Arm::Candidate };
            let every = if arm == Arm::Candidate { bad } else { 10 };
            let value = f64::from(u8::from(!(i / 20).is_multiple_of(every)));
            tally.see_unit(arm, 95);
            tally.see_goal(arm, 95, value);
            tally.see_rate(0, arm, 95, value);
        }
        Report::of(&moved, &tally)
    };
    let same = weighed(10);
    assert_eq!((same.percent, same.sample_ratio_mismatch), (95, false));
    let Advice::Hold { why } = &same.advice else { panic!("{:?}", same.advice) };
    assert!(why.contains("everybody but 5 % has the candidate, and is compared"), "{why}");
    let worse = weighed(2).advice;
    assert!(matches!(&worse, Advice::Rollback { why } if why.contains("not_failure")), "{worse:?}");
}

#[test]
fn a_costlier_candidate_must_gain_and_stay_within_its_budget() {
    let (_folder, mut book) = book();
    let text = SPEC.replace("system = \"polite\"", "tier = \"large\"").replace("\"1\"", "\"50\"");
    let spec = Spec::parse(&text).expect("a spec");
    book.start(&spec, "ana", 2).expect("an experiment");
    let same = tally(&book, 3000, 10, 100.0);
    put(&mut book, &same);
    let error = book.promote("polite", Ok(()), None, "ana", 3).expect_err("no gain").to_string();
    assert!(
        error.contains("must gain 2.0 points") && error.contains("not_failure 90.0 %"),
        "{error}"
    );
    let better = tally(&book, 3000, 1_000_000, 100.0);
    assert!(
        matches!(advice(&book, &better), Advice::Promote { .. }),
        "{:?}",
        advice(&book, &better)
    );
    put(&mut book, &better);
    let broken = book.promote("polite", Err("gate f1 is broken".to_owned()), None, "ana", 3);
    assert!(broken.expect_err("a gate").to_string().contains("gate f1"), "the gate is named");
    let mut dear = spec.clone();
    dear.budget.max_cost_ratio = 2.0;
    let found = crate::Experiment { spec: dear, ..book.experiment("polite").expect("one") };
    let found = Report::of(&found, &better).advice;
    assert!(matches!(&found, Advice::Hold { why } if why.contains("may take 2")), "{found:?}");
    let forced = Forced { reason: "the board".to_owned() };
    put(&mut book, &same);
    let moved = book.promote("polite", Ok(()), Some(&forced), "ana", 4).expect("forced");
    assert_eq!(moved.stage, Stage::All);
    let entry = book.audit(Some("polite"), 1).expect("the log").remove(0);
    assert!(entry.detail.contains("forced: the board"), "{entry:?}");
}

/// Of 400 answers of the candidate `n_dear` take twice the primary's CPU seconds.
#[track_caller]
fn check_cost(n_dear: u64, expect: fn(&Advice) -> bool) {
    let (_folder, mut book) = book();
    let text = SPEC.replace("system = \"polite\"", "").replace("from = \"1\"", "from = \"50\"");
    let goal = "[goal]\nmin_gain = 0.2\nmetric = \"not_failure\"";
    let text = text.replace("[goal]\nmetric = \"not_failure\"", goal);
    book.start(&Spec::parse(&text).expect("a spec"), "ana", 2).expect("an experiment");
    let mut tally = tally(&book, 400, 10, 100.0);
    tally.cost = Default::default();
    for i in 0..400 {
        tally.see_cost(Arm::Primary, 0.1);
        tally.see_cost(Arm::Candidate, if i < n_dear { 0.2 } else { 0.1 });
    }
    let found = advice(&book, &tally);
    assert!(expect(&found), "{found:?}");
}

#[test]
fn what_is_not_known_to_cost_no_more_is_held_back() {
    check_cost(100, |found| matches!(found, Advice::Promote { .. }));
    // The median is the primary's, as chance has it.
    check_cost(199, |found| found.why().starts_with("not known to be no costlier than 1.5 times"));
    check_cost(300, |found| {
        found.why().contains("1.97 to 2.01 times") && found.why().contains("which is costlier")
    });
}

#[test]
fn what_was_rolled_back_answers_nothing_and_is_in_the_log() {
    let (_folder, mut book) = started();
    book.rollback("polite", "ttft", "evidence", 5).expect("running");
    assert_eq!(book.experiment("polite").expect("it").status, Status::RolledBack);
    assert!(book.live().expect("what runs").is_empty());
    assert!(book.rollback("polite", "again", "ana", 6).is_err());
    assert!(book.promote("polite", Ok(()), None, "ana", 6).is_err());
    let log = book.audit(None, 10).expect("the log");
    let actions: Vec<&str> = log.iter().map(|entry| entry.action.as_str()).collect();
    assert_eq!(actions, ["rollback", "start", "prompt"]);
}
