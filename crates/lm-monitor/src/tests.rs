//! The detectors beside river and scipy, whose outputs `tests/data/detector_golden.py` wrote into `golden.json`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod table;

use serde_json::Value;

use super::*;

fn golden(name: &str) -> Value {
    let all: Value = serde_json::from_str(include_str!("golden.json")).unwrap();
    all[name].clone()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

#[track_caller]
fn near(found: f64, expect: f64) {
    assert!((found - expect).abs() <= 1e-6 * expect.abs().max(1e-3), "{found} is not {expect}");
}

/// Marsaglia's xorshift64*, as in the script.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) as f64 / 2_f64.powi(64)
    }

    pub(crate) fn bell(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
}

fn flips(seed: u64, rates: &[f64], n_each: usize) -> Vec<f64> {
    let mut dice = Dice::new(seed);
    let mut flip = |rate| f64::from(u8::from(dice.uniform() < rate));
    rates.iter().flat_map(|rate| vec![*rate; n_each]).map(&mut flip).collect()
}

fn bells(seed: u64, means: &[f64], n_each: usize) -> Vec<f64> {
    let mut dice = Dice::new(seed);
    means.iter().flat_map(|mean| vec![*mean; n_each]).map(|mean| dice.bell() + mean).collect()
}

/// Where a detector says that something changed.
fn alarms(values: &[f64], mut add: impl FnMut(f64) -> bool) -> Vec<f64> {
    let found = values.iter().enumerate().filter(|(_, value)| add(**value));
    found.map(|(i, _)| i as f64).collect()
}

#[test]
fn streams_alarm_where_the_reference_does() {
    let mut page_hinkley = PageHinkley::new(PageHinkleyOptions::default());
    let values = bells(1, &[0.0, 1.5, -1.0], 1000);
    let found = alarms(&values, |value| page_hinkley.add(value) == Level::Drift);
    assert_eq!(found, numbers(&golden("page_hinkley")));
    assert!(found.len() >= 2, "{found:?}");

    let mut ddm = Ddm::new(DdmOptions::default());
    let values = flips(2, &[0.2, 0.5, 0.1, 0.4], 1000);
    let found = alarms(&values, |value| ddm.add(value > 0.5) == Level::Drift);
    assert_eq!(found, numbers(&golden("ddm")));
    assert!(found.len() >= 2, "{found:?}");
}

#[test]
fn adwin_alarms_where_the_reference_does() {
    let first = |values: &[f64]| {
        let mut adwin = Adwin::new(AdwinOptions::default());
        let mut found = alarms(values, |value| adwin.add(value));
        found.truncate(1);
        found
    };
    for i in 0..5 {
        let place = usize::try_from(i).unwrap();
        let expect = numbers(&golden("adwin_flips")[place]);
        assert_eq!(first(&flips(10 + i, &[0.2, 0.5], 1000)), expect, "flips {i}");
        let expect = numbers(&golden("adwin_bells")[place]);
        assert_eq!(first(&bells(20 + i, &[0.0, 1.0], 1000)), expect, "bells {i}");
    }
    assert_eq!(first(&bells(30, &[0.0], 5000)), numbers(&golden("adwin_steady")));
}

/// After a change the window holds what came since; its mean is the new one.
#[test]
fn adwin_forgets_what_was_before() {
    let mut adwin = Adwin::new(AdwinOptions::default());
    bells(40, &[0.0, 3.0], 2000).iter().for_each(|value| {
        adwin.add(*value);
    });
    assert!((2.9..3.1).contains(&adwin.mean()), "{}", adwin.mean());
    assert!((1900..2100).contains(&adwin.width()), "{}", adwin.width());
}

/// Montgomery's table: with k 0.5 and h 5, 465 values to a false alarm, 38.0 to a shift of half a standard deviation, and
/// 10.4 to one of a whole.
#[test]
fn cusum_runs_as_long_as_the_textbook_says() {
    let run_length = |shift: f64| {
        let mut dice = Dice::new(7);
        let runs = 2000;
        let lengths = (0..runs).map(|_| {
            let options = CusumOptions { mean: 10.0, sd: 2.0, k: 0.5, h: 5.0 };
            let mut cusum = Cusum::new(options);
            (1..).find(|_| cusum.add(10.0 + 2.0 * (dice.bell() + shift)) == Level::Drift).unwrap()
        });
        f64::from(lengths.sum::<i32>()) / f64::from(runs)
    };
    // The sum of twelve uniform numbers has lighter tails than the normal distribution.
    let found = [0.0, 0.5, -1.0].map(run_length);
    assert!((420.0..580.0).contains(&found[0]), "{found:?}");
    assert!((36.0..40.5).contains(&found[1]), "{found:?}");
    assert!((9.9..10.9).contains(&found[2]), "{found:?}");
}

#[test]
fn windows_differ_as_the_reference_says() {
    let expect = golden("windows");
    let (a, b) = (bells(5, &[0.0], 300), bells(6, &[0.0], 400));
    let b: Vec<f64> = b.iter().map(|x| 1.2 * x + 0.3).collect();
    let (distance, p_value) = kolmogorov_smirnov(&a, &b).unwrap();
    near(distance, expect["ks"][0].as_f64().unwrap());
    near(p_value, expect["ks"][1].as_f64().unwrap());
    near(wasserstein(&a, &b).unwrap(), expect["wasserstein"].as_f64().unwrap());
    let counts = |i: usize| -> Vec<u64> {
        numbers(&expect["counts"][i]).into_iter().map(|n| n as u64).collect()
    };
    let (n, m) = (counts(0), counts(1));
    near(jensen_shannon(&n, &m), expect["jensen_shannon"].as_f64().unwrap());
    near(hellinger(&n, &m), expect["hellinger"].as_f64().unwrap());
    near(psi(&n, &m), expect["psi"].as_f64().unwrap());
    let (statistic, p_value) = chi_square(&n, &m).unwrap();
    near(statistic, expect["chi_square"][0].as_f64().unwrap());
    near(p_value, expect["chi_square"][1].as_f64().unwrap());
}

#[test]
fn tails_and_adjusted_values_are_the_references() {
    for row in golden("chi_square_tail").as_array().unwrap() {
        let row = numbers(row);
        near(chi_square_tail(row[0], row[1] as u32) / row[2], 1.0);
    }
    for row in golden("chi_square_limit").as_array().unwrap() {
        let row = numbers(row);
        near(chi_square_limit(row[0], row[1] as u32), row[2]);
    }
    for row in golden("kolmogorov_tail").as_array().unwrap() {
        let row = numbers(row);
        near(kolmogorov_tail(row[0]), row[1]);
    }
    let expect = golden("benjamini_hochberg");
    let found = benjamini_hochberg(&numbers(&expect[0]));
    found.iter().zip(numbers(&expect[1])).for_each(|(found, expect)| near(*found, expect));
    assert_eq!(benjamini_hochberg(&[]), [0.0; 0]);
}

#[test]
fn windows_at_the_edge_say_what_can_be_said() {
    assert_eq!(kolmogorov_smirnov(&[], &[1.0]), None);
    assert_eq!(wasserstein(&[1.0], &[]), None);
    assert_eq!(wasserstein(&[1.0, 1.0], &[3.0]), Some(2.0));
    assert_eq!(chi_square(&[3, 0], &[5, 0]), None);
    assert_eq!((hellinger(&[4, 0], &[0, 9]), hellinger(&[2, 2], &[5, 5])), (1.0, 0.0));
    assert!(psi(&[10, 0], &[0, 10]).is_finite());
    // Ten equal values have one edge: all but what is above it are one bin.
    let deciles = Deciles::of(&[5.0; 10]).unwrap();
    assert_eq!(deciles.count(&[4.0, 5.0, 6.0]), [2, 1]);
    assert_eq!(Deciles::of(&[]), None);
    let values: Vec<f64> = (0..1000).map(f64::from).collect();
    let counts = Deciles::of(&values).unwrap().count(&values);
    assert!(counts.iter().all(|n| (98..=102).contains(n)), "{counts:?}");
    // Small windows may differ by chance; of large ones only what matters counts.
    assert!(psi_limit(200, 200, 10, 0.05) > 0.16);
    assert!((psi_limit(100_000, 100_000, 10, 0.05) - 0.1).abs() < 1e-12);
}
