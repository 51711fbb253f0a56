//! What fixes changed: the interval of each, beside zero.
//!
//! It must never leave out zero: an interval that holds it says nothing yet.
//!
//! Start reading at [`changes`].

use crate::axis::{Bar, CHAR_WIDTH, Edge, Rows, Word, length};
use crate::paint::{self, plain, short};
use crate::{Picture, Swatch, Width};

/// What one fix changed. Shares are from 0 to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Which fix.
    pub name: String,
    /// The share that failed before; `None` without an answer.
    pub before: Option<f64>,
    /// The share that failed since; `None` without an answer.
    pub after: Option<f64>,
    /// The lower end of what it changed, from -1 to 1.
    pub low: f64,
    /// The upper end: below 0 the fix helps.
    pub high: f64,
    /// `improved`, `worse` or `undecided`.
    pub verdict: &'static str,
}

const VERDICTS: [(&str, usize); 3] = [("improved", 2), ("worse", 4), ("undecided", 5)];
const TITLE: &str = "Change of the failure rate (points)";
const ROW_HEIGHT: u32 = 44;
const NAME_HEIGHT: u32 = 20;
const LEFT: u32 = 22;
const RIGHT: u32 = 28;
/// Names begin left of the axis.
const NAME_LEFT: u32 = 8;

/// Draws the intervals, in points of a hundred.
#[must_use]
pub fn changes(all: &[Change], width: Width) -> Picture {
    let share = |share: Option<f64>| {
        share.map_or_else(|| "-".to_owned(), |share| format!("{} %", short(100.0 * share)))
    };
    let points = |value: f64| format!("{:+.1}", 100.0 * value);
    let row = |one: &Change| {
        let verdict = one.verdict.to_owned();
        let (low, high) = (points(one.low), points(one.high));
        vec![one.name.clone(), share(one.before), share(one.after), low, high, verdict]
    };
    let is_there = |(verdict, _): &&(&str, usize)| all.iter().any(|one| one.verdict == *verdict);
    let told = all.iter().map(|one| {
        let name = plain(&one.name, usize::MAX);
        format!("{name}: {}, {} to {}", one.verdict, points(one.low), points(one.high))
    });
    let told: Vec<String> = told.take(3).collect();
    let description = match told.is_empty() {
        true => "There is nothing to show.".to_owned(),
        false => format!("{}.", told.join("; ")),
    };
    Picture {
        svg: paint::finish(&drawn(all, width), TITLE, &description),
        title: TITLE.to_owned(),
        legend: VERDICTS
            .iter()
            .filter(is_there)
            .map(|(name, series)| Swatch { series: *series, name: (*name).to_owned() })
            .collect(),
        columns: ["fix", "failed before", "failed since", "at least", "at most", "verdict"]
            .map(str::to_owned)
            .into(),
        rows: all.iter().map(row).collect(),
    }
}

fn drawn(all: &[Change], width: Width) -> String {
    let reach = all.iter().map(|one| one.low.abs().max(one.high.abs()) * 100.0);
    let reach = reach.filter(|reach| reach.is_finite()).fold(5.0, f64::max).min(100.0) * 1.05;
    let at = |value: f64| (100.0 * value).clamp(-reach, reach);
    let length = length(width, LEFT, RIGHT);
    // Three pixels.
    let dot = 3.0 * reach / f64::from(length);
    let (mut bars, mut words) = (Vec::new(), Vec::new());
    for (i, one) in all.iter().enumerate() {
        let top = i as u32 * ROW_HEIGHT;
        let middle = f64::from(top + NAME_HEIGHT + 10);
        let found = VERDICTS.iter().find(|(verdict, _)| *verdict == one.verdict);
        let series = found.map_or(5, |(_, series)| *series);
        let bar = |from, to, half: f64| {
            let (top, bottom) = (middle - half, middle + half);
            Bar { from, to, top, bottom, series }
        };
        bars.push(bar(at(one.low), at(one.high), 2.0));
        bars.extend(one.before.zip(one.after).map(|(before, after)| {
            let x = at(after - before);
            bar(x - dot, x + dot, 8.0)
        }));
        let text = plain(&one.name, (length / CHAR_WIDTH) as usize);
        words.push(Word { text, edge: Edge::Left(NAME_LEFT), middle: top + NAME_HEIGHT / 2 });
    }
    let rows = Rows {
        width,
        left: LEFT,
        right: RIGHT,
        height: all.len().max(1) as u32 * ROW_HEIGHT,
        span: -reach..reach,
        tick: &short,
        bars,
        words,
        rule: Some((0.0, 5)),
    };
    rows.svg()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::{Change, changes};
    use crate::Width;

    #[test]
    fn intervals_are_drawn_told_and_listed() {
        let change = |name: &str, low, high, verdict| Change {
            name: name.to_owned(),
            before: Some(0.15),
            after: Some(0.0),
            low,
            high,
            verdict,
        };
        let width = Width::new(360).unwrap();
        let all = [
            change("f1 ask in JSON", -0.22, -0.08, "improved"),
            Change { after: None, ..change("f2 a prayer", -1.0, 1.0, "undecided") },
        ];
        let picture = changes(&all, width);
        let expect = ["f1 ask in JSON", "15 %", "0 %", "-22.0", "-8.0", "improved"];
        assert_eq!(picture.rows[0], expect);
        assert_eq!(picture.rows[1][2], "-");
        assert!(picture.svg.contains("improved, -22.0 to -8.0"), "{}", picture.svg);
        // Two intervals, and the difference of the one that has both shares.
        assert_eq!(picture.svg.matches("<rect").count(), 3, "{}", picture.svg);
        let legend: Vec<_> = picture.legend.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(legend, ["improved", "undecided"]);
        assert!(changes(&[], width).svg.contains("There is nothing to show."));
    }
}
