//! What an experiment promises, by simulation: arms by the real lot, the tally that is stored, and what production concludes from
//! it, looked at after every answer.

use lm_types::Arm;

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
}

/// An experiment with its traffic.
struct World {
    experiment: Experiment,
    live: Live,
    tally: Tally,
    dice: Dice,
    n: usize,
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
        }
    }

    /// One answer of a user who came for the first time. `rates` of the goal are the primary's and the candidate's.
    fn see(&mut self, rates: [f64; 2]) {
        self.n += 1;
        let user = format!("user {}", self.n);
        let unit = Unit {
            request: "r",
            tenant: None,
            user: Some(&user),
            header: None,
            first_message: None,
        };
        let tag = self.live.assign(unit);
        let (arm, percent) = (tag.arm, tag.percent);
        let rate = rates[usize::from(arm == Arm::Candidate)];
        // Pareto with index 1: no mean at all.
        let heavy = 1.0 / (1.0 - self.dice.uniform());
        self.tally.see_unit(arm, percent);
        self.tally.see(&tag, true, Some(1e-3 * heavy));
        self.tally.see_goal(arm, percent, self.dice.hit(rate));
        self.tally.see_rate(0, arm, percent, self.dice.hit(0.9));
        self.tally.see_quantile(1, arm, 100.0 * heavy);
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

/// Two means of 902 each find 80 % against 85 % four times in five, at a fixed look.
const FIXED: usize = 2 * 902;

#[test]
fn a_gain_of_five_points_is_found_within_twice_the_fixed_sample() {
    let begun = begun(GAIN);
    let (mut found_at, mut n_worse) = (Vec::new(), 0);
    for seed in 0..1000 {
        let mut world = World::new(&begun, seed + 411);
        let found = (1..=2 * FIXED).find(|_| {
            world.see([0.8, 0.85]);
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
        "5 points at 80 %: {n_found} of 1000 within {} answers, median after {}; a fixed sample has {FIXED}",
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
