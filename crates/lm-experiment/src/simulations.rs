//! What an experiment promises, by simulation: arms by the real lot, the tally that is stored, and what production concludes from
//! it, looked at after every answer.

use std::collections::HashSet;
use std::convert::Infallible;

use lm_types::{Arm, ArmTag};

use crate::book::json_of;
use crate::report::{alpha_of, is_broken};
use crate::{Advice, Book, Experiment, Live, Report, Spec, Stage, Tally, Unit};

/// Limits that leave no room: whatever differs at all breaks one.
const STRICT: &str = r#"
name = "same"
owner = "ana@example.com"
reason = "nothing differs"
model = "small"
from = "1"
min_answers = 1
[candidate.params]
top_k = 7
[goal]
metric = "feedback"
min_gain = 0.0
[[guardrails]]
metric = "not_failure"
max_loss = 0.0
[[guardrails]]
metric = "ttft_ms"
quantile = 0.9
max_ratio = 1.0
"#;

/// A costlier candidate takes the primary's place when it is known to be better.
const GAIN: &str = r#"
name = "better"
owner = "ana@example.com"
reason = "five points"
model = "small"
from = "50"
min_answers = 1
[candidate]
tier = "large"
[goal]
metric = "feedback"
min_gain = 0.0
"#;

/// Steps between two looks at the whole report, which must say what the single tests say.
const REPORT_EVERY: usize = 50;

/// `SplitMix64`. Source: Steele et al. 2014.
struct Dice(u64);

impl Dice {
    /// In `[0, 1)`.
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn hit(&mut self, rate: f64) -> f64 {
        f64::from(u8::from(self.uniform() < rate))
    }

    /// Of mean 0 and variance 1: nearly normal.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
}

/// Somebody who comes again and again, and whose answers resemble each other.
struct User {
    name: String,
    /// How often the primary pleases.
    good: f64,
    /// How long answers take.
    ms: f64,
}

/// An experiment with its traffic.
struct World {
    experiment: Experiment,
    live: Live,
    tally: Tally,
    dice: Dice,
    n: usize,
    /// Users and what was counted of them.
    counted: HashSet<(String, String)>,
}

/// What was begun, as the file gives it.
fn begun(spec: &str) -> Experiment {
    let folder = tempfile::tempdir().expect("a folder");
    let mut book = Book::open(&folder.path().join("experiments.db")).expect("a file");
    book.start(&Spec::parse(spec).expect("a spec"), "ana", 2).expect("an experiment")
}

impl World {
    fn new(begun: &Experiment, seed: u64) -> World {
        let experiment = Experiment { salt: format!("salt {seed}"), ..begun.clone() };
        World {
            live: experiment.live().expect("it runs"),
            tally: Tally::new(&experiment.spec),
            experiment,
            dice: Dice(seed),
            n: 0,
            counted: HashSet::new(),
        }
    }

    fn tag(&self, user: &str) -> ArmTag {
        self.live.assign(Unit {
            request: "r",
            tenant: None,
            user: Some(user),
            header: None,
            first_message: None,
        })
    }

    /// One answer of a user who came for the first time. `rates` of the goal are the primary's and the candidate's.
    fn see(&mut self, rates: [f64; 2]) {
        self.n += 1;
        let tag = self.tag(&format!("user {}", self.n));
        let (arm, percent) = (tag.arm, tag.percent);
        let rate = rates[usize::from(arm == Arm::Candidate)];
        // Pareto with index 1: no mean at all.
        let heavy = 1.0 / (1.0 - self.dice.uniform());
        self.tally.see_unit(arm, percent);
        self.tally.see(&tag, true);
        self.tally.see_cost(arm, 1e-3 * heavy);
        self.tally.see_goal(arm, percent, self.dice.hit(rate));
        self.tally.see_rate(0, arm, percent, self.dice.hit(0.9));
        self.tally.see_quantile(1, arm, 100.0 * heavy);
    }

    /// Users whose answers take very different times.
    fn users(&mut self, n: usize) -> Vec<User> {
        let user = |i: usize| User {
            name: format!("user {i}"),
            good: 0.95 - 0.3 * self.dice.uniform(),
            ms: 100.0 * (0.7 * self.dice.normal()).exp(),
        };
        (0..n).map(user).collect()
    }

    /// One answer of a user who may have come before; whether anything of it counts. The candidate pleases by `gain` more
    /// often.
    fn visit(&mut self, user: &User, gain: f64) -> bool {
        let tag = self.tag(&user.name);
        let (arm, percent) = (tag.arm, tag.percent);
        let rate = user.good + if arm == Arm::Candidate { gain } else { 0.0 };
        let (good, whole) = (self.dice.hit(rate), self.dice.hit(0.9));
        let ms = user.ms * (0.9 + 0.2 * self.dice.uniform());
        let (counted, mut is_news) = (&mut self.counted, false);
        let mut is_first = |words: &str| -> Result<bool, Infallible> {
            let is_first = counted.insert((user.name.clone(), words.to_owned()));
            is_news |= is_first;
            Ok(is_first)
        };
        self.tally.see(&tag, true);
        let sizes = self.tally.see_sizes(&self.experiment.spec, &tag, |_| Some(ms), &mut is_first);
        sizes.expect("nothing is written");
        if is_first("a unit").expect("nothing is written") {
            self.tally.see_unit(arm, percent);
            self.tally.see_goal(arm, percent, good);
            self.tally.see_rate(0, arm, percent, whole);
        }
        is_news
    }

    fn report(&self) -> Report {
        Report::of(&self.experiment, &self.tally)
    }

    /// Whether production takes the candidate back, without the words that it says so with.
    fn is_taken_back(&self) -> bool {
        let spec = &self.experiment.spec;
        let guardrails = spec.guardrails.iter().zip(&self.tally.guardrails);
        let mut broken =
            guardrails.map(|(one, evidence)| is_broken(one, evidence, alpha_of(spec, one)));
        broken.any(|is_broken| is_broken)
            || self.tally.goal.is_below(-spec.goal.min_gain, spec.alphas().0)
    }

    /// Whether the candidate is called better.
    fn is_better(&self) -> bool {
        let spec = &self.experiment.spec;
        self.tally.goal.is_above(spec.goal.min_gain, spec.alphas().0)
    }

    fn move_to(&mut self, stage: Stage) {
        self.tally.begin_stage();
        (self.experiment.stage, self.live.stage) = (stage, stage);
    }

    /// As a server that was ended and started again has it.
    fn restart(&mut self) {
        self.tally = serde_json::from_str(&json_of(&self.tally)).expect("what was written");
    }
}

#[test]
fn of_2000_experiments_without_effect_at_most_one_in_twenty_is_ever_called_anything() {
    let begun = begun(STRICT);
    let (mut n_taken_back, mut n_better, mut n_any, mut n_off) = (0, 0, 0, 0);
    for seed in 0..2000 {
        let mut world = World::new(&begun, seed + 31);
        let (mut taken_back, mut better, mut off) = (false, false, false);
        for stage in [Stage::One, Stage::Five, Stage::Quarter, Stage::Half] {
            if stage != Stage::One {
                world.move_to(stage);
            }
            for i in 0..250 {
                world.see([0.8, 0.8]);
                let is_taken_back = world.is_taken_back();
                if i % REPORT_EVERY == 0 || (is_taken_back && !taken_back) {
                    let report = world.report();
                    let is_rollback = matches!(report.advice, Advice::Rollback { .. });
                    assert_eq!(is_rollback, is_taken_back, "seed {seed}: {:?}", report.advice);
                    off |= report.sample_ratio_mismatch;
                }
                taken_back |= is_taken_back;
                better |= world.is_better();
            }
        }
        n_taken_back += u64::from(taken_back);
        n_better += u64::from(better);
        n_any += u64::from(taken_back || better);
        n_off += u64::from(off);
    }
    println!(
        "A/A: of 2000 watched at every answer {n_taken_back} are ever rolled back, {n_better} ever called better, \
         {n_any} either; {n_off} with a wrong sample ratio"
    );
    assert!(n_any <= 100, "{n_any} of 2000");
    assert!(n_off <= 20, "{n_off} of 2000");
}

#[test]
fn users_who_come_again_and_unequally_often_mislead_no_more() {
    let begun = begun(STRICT);
    let (mut n_taken_back, mut n_any) = (0, 0);
    for seed in 0..2000 {
        let mut world = World::new(&begun, seed + 7001);
        let users = world.users([10, 40, 200, 1000][seed as usize % 4]);
        let (mut taken_back, mut better) = (false, false);
        for stage in [Stage::Quarter, Stage::Half] {
            world.move_to(stage);
            for _ in 0..400 {
                // A tenth of them asks three times in ten.
                let at = users.len() as f64 * world.dice.uniform().powi(2);
                if world.visit(&users[at as usize], 0.0) {
                    taken_back |= world.is_taken_back();
                    better |= world.is_better();
                }
            }
        }
        n_taken_back += u64::from(taken_back);
        n_any += u64::from(taken_back || better);
    }
    println!(
        "A/A of 10 to 1000 users with many answers: of 2000 {n_taken_back} are ever rolled back, {n_any} ever called \
         anything"
    );
    assert!(n_any <= 100, "{n_any} of 2000");
}

/// What makes every answer of a user slower is found by their first ones.
#[test]
fn a_candidate_that_is_twice_as_slow_is_taken_back_by_its_users() {
    let begun = begun(STRICT);
    let mut n_found = 0;
    for seed in 0..200 {
        let mut world = World::new(&begun, seed + 53);
        let mut users = world.users(1500);
        world.move_to(Stage::Half);
        for user in &mut users {
            let is_candidate = world.tag(&user.name).arm == Arm::Candidate;
            user.ms *= if is_candidate { 2.0 } else { 1.0 };
        }
        n_found += u64::from(users.iter().any(|user| {
            world.visit(user, 0.0);
            world.is_taken_back()
        }));
    }
    println!("twice as slow: {n_found} of 200 are rolled back within 1500 users");
    assert!(n_found >= 160, "{n_found} of 200");
}

/// Two means of 902 each find 80 % against 85 % four times in five, at a fixed look.
const FIXED: usize = 2 * 902;

#[test]
fn a_gain_of_five_points_is_found_within_twice_the_fixed_sample() {
    let begun = begun(GAIN);
    let (mut found_at, mut n_worse) = (Vec::new(), 0);
    for seed in 0..1000 {
        let mut world = World::new(&begun, seed + 411);
        // At 80 % on the whole; some come again, which counts for nothing.
        let users = world.users(2 * FIXED);
        let found = (1..=2 * FIXED).find(|n| {
            if n.is_multiple_of(4) {
                let again = (*n as f64 * world.dice.uniform()) as usize;
                world.visit(&users[again.min(n - 2)], 0.05);
            }
            world.visit(&users[n - 1], 0.05);
            n_worse += u64::from(world.is_taken_back());
            world.is_better()
        });
        if found.is_some() {
            let report = world.report();
            // One in a hundred is held back for its sample ratio.
            let is_promoted = matches!(report.advice, Advice::Promote { .. });
            assert!(is_promoted || report.sample_ratio_mismatch, "seed {seed}: {report:?}");
        }
        found_at.push(found.unwrap_or(usize::MAX));
    }
    found_at.sort_unstable();
    let n_found = found_at.iter().filter(|at| **at < usize::MAX).count();
    println!(
        "5 points at 80 %: {n_found} of 1000 within {} users, median after {}; a fixed sample has {FIXED}",
        2 * FIXED,
        found_at[500]
    );
    assert!(n_found >= 800, "{n_found} of 1000");
    assert_eq!(n_worse, 0);
}

#[test]
fn a_restart_in_the_middle_changes_no_conclusion() {
    let begun = begun(STRICT);
    let (mut whole, mut restarted) = (World::new(&begun, 8), World::new(&begun, 8));
    for stage in [Stage::Quarter, Stage::Half] {
        whole.move_to(stage);
        restarted.move_to(stage);
        for i in 0..1000 {
            whole.see([0.8, 0.85]);
            restarted.see([0.8, 0.85]);
            if i % 250 == 125 {
                restarted.restart();
            }
            assert_eq!(restarted.is_taken_back(), whole.is_taken_back());
            assert_eq!(restarted.is_better(), whole.is_better());
        }
        assert_eq!(restarted.tally, whole.tally);
        assert_eq!(restarted.report(), whole.report());
    }
}
