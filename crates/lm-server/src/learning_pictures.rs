//! How fast one learns, as pictures.
//!
//! It must never show a time for what did not happen yet.
//!
//! Start reading at [`all`].

use lm_ops::{LearningPage, LearningStage, Utc, Week};
use lm_panel::{BarGroup, Bars, Picture, Width};
use serde_json::{Value, json};

/// By name.
pub(crate) fn all(page: &LearningPage, width: Width) -> Value {
    json!({
        "stages": stages(page, width),
        "proofs": proofs(&page.weeks, width),
        "weeks": weeks(&page.weeks, width),
    })
}

/// A unit in which a time is a number that one can read: its name, and its seconds.
fn unit(longest_s: f64) -> (&'static str, &'static str, f64) {
    match longest_s {
        s if s < 120.0 => ("seconds", " s", 1.0),
        s if s < 7_200.0 => ("minutes", " min", 60.0),
        s if s < 172_800.0 => ("hours", " h", 3_600.0),
        _ => ("days", " d", 86_400.0),
    }
}

fn stages(page: &LearningPage, width: Width) -> Picture {
    let learning = &page.learning;
    let all = [
        ("failed to noticed", learning.noticed),
        ("noticed to clustered", learning.clustered),
        ("clustered to fixed", learning.fixed),
        ("fixed to verified", learning.verified),
        ("failed to verified", learning.whole),
    ];
    let longest_s = all.iter().filter_map(|(_, stage)| stage.p90_s).fold(0.0, f64::max);
    let (name, short, seconds) = unit(longest_s);
    let group = |(name, stage): &(&str, LearningStage)| BarGroup {
        name: format!("{name} ({})", stage.n),
        values: vec![stage.median_s.map(|s| s / seconds), stage.p90_s.map(|s| s / seconds)],
    };
    Bars {
        title: format!("From failure to verified fix ({name})"),
        of: "stage (failures)",
        unit: short,
        series: vec!["half at most", "nine tenths at most"],
        groups: all.iter().map(group).collect(),
    }
    .draw(width)
}

fn proofs(weeks: &[Week], width: Width) -> Picture {
    let longest_s = weeks.iter().filter_map(|week| week.to_verified.median_s).fold(0.0, f64::max);
    let (name, short, seconds) = unit(longest_s);
    let group = |week: &Week| BarGroup {
        name: day(week),
        values: vec![week.to_verified.median_s.map(|s| s / seconds)],
    };
    Bars {
        title: format!("From feedback to verified fix, by week of the proof ({name})"),
        of: "week from",
        unit: short,
        series: vec!["half at most"],
        groups: weeks.iter().rev().map(group).collect(),
    }
    .draw(width)
}

fn weeks(weeks: &[Week], width: Width) -> Picture {
    let group = |week: &Week| BarGroup {
        name: day(week),
        values: [week.n_corrections, week.n_reviews, week.n_verified]
            .map(|n| Some(n as f64))
            .to_vec(),
    };
    Bars {
        title: "Corrections, verdicts and verified fixes per week".to_owned(),
        of: "week from",
        unit: "",
        series: vec!["corrections", "verdicts", "verified fixes"],
        groups: weeks.iter().rev().map(group).collect(),
    }
    .draw(width)
}

/// Such as `2026-11-23`.
fn day(week: &Week) -> String {
    Utc(week.from_ms).to_string().chars().take(10).collect()
}

#[cfg(test)]
mod tests {
    use super::unit;

    #[test]
    fn times_are_told_in_a_unit_that_one_can_read() {
        #[track_caller]
        fn check(seconds: f64, expect: &str) {
            assert_eq!(unit(seconds).0, expect);
        }
        check(0.0, "seconds");
        check(600.0, "minutes");
        check(80_000.0, "hours");
        check(900_000.0, "days");
    }
}
