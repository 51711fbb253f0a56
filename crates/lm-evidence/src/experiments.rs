//! What the two statistics of an experiment promise, by simulation: looked at after every answer. What follows from them is
//! simulated where it is decided, in `lm-experiment`.

use crate::simulations::Dice;
use crate::{Difference, SampleRatio, Sketch};

#[test]
fn the_interval_of_a_difference_holds_it_at_every_share() {
    for (share, rates) in [(0.5, (0.8, 0.85)), (0.05, (0.3, 0.2)), (0.01, (0.02, 0.02))] {
        let mut n_missed = 0;
        for seed in 0..400 {
            let mut dice = Dice::new(seed + 1234);
            let mut goal = Difference::default();
            let truth = rates.1 - rates.0;
            let missed = (0..1500).any(|_| {
                let is_candidate = dice.hit(share);
                let rate = if is_candidate { rates.1 } else { rates.0 };
                goal.add(is_candidate, share, f64::from(u8::from(dice.hit(rate))));
                goal.is_above(truth, 0.05) || goal.is_below(truth, 0.05)
            });
            n_missed += u64::from(missed);
        }
        assert!(n_missed <= 20, "{n_missed} of 400 at {share}, {rates:?}");
    }
}

#[test]
fn units_that_are_lost_on_one_side_are_noticed() {
    let mut ratio = SampleRatio::default();
    let mut dice = Dice::new(5);
    let noticed = (0..5000).find(|_| {
        let is_candidate = dice.hit(0.5);
        // A fifth of the candidate's never answers.
        if !is_candidate || dice.hit(0.8) {
            ratio.add(0.5, is_candidate);
        }
        ratio.is_off(0.01)
    });
    assert!(noticed.is_some_and(|n| n < 3000), "{noticed:?}");
}

/// What is stored as JSON, and read again in the middle, goes on with the same bits.
#[test]
fn a_restart_in_the_middle_changes_no_bit() {
    let mut dice = Dice::new(8);
    let (mut whole, mut restarted) = (State::default(), State::default());
    for i in 0..2000 {
        let (is_candidate, value) = (dice.hit(0.25), dice.uniform());
        for (goal, latency, ratio) in [&mut whole, &mut restarted] {
            goal.add(is_candidate, 0.25, value);
            latency.add(1.0 / (1.0 - value));
            ratio.add(0.25, is_candidate);
        }
        if i % 500 == 250 {
            let text = serde_json::to_string(&restarted).expect("plain data serialises");
            restarted = serde_json::from_str(&text).expect("what was written can be read");
        }
    }
    assert_eq!(restarted, whole);
    assert_eq!(restarted.0.interval(0.05), whole.0.interval(0.05));
}

type State = (Difference, Sketch, SampleRatio);
