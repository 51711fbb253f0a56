//! Spans in lanes above a common axis: where the time of a request or the memory of a model went.
//!
//! It must never draw a span so thin that it is not seen.
//!
//! Start reading at [`Lanes::draw`].

use crate::axis::{Bar, Edge, Rows, Word, length};
use crate::paint::{self, short};
use crate::{Picture, Swatch, Width};

const LANE_HEIGHT: u32 = 34;
/// Part of a lane above its spans, and below them.
const LANE_GAP: f64 = 0.15;
const NAME_WIDTH: u32 = 84;
const NAME_LEFT: u32 = 8;
const RIGHT: u32 = 26;
/// Rows of the table beside a picture; more spans are drawn and counted.
const N_ROWS: usize = 200;

/// Spans above one axis that begins at zero.
#[derive(Clone, Debug, PartialEq)]
pub struct Lanes {
    /// What is shown.
    pub title: String,
    /// Of the axis, such as `ms`.
    pub unit: &'static str,
    /// What the series mean, by their number.
    pub series: Vec<&'static str>,
    /// From top to bottom.
    pub lanes: Vec<Lane>,
}

/// One row of spans.
#[derive(Clone, Debug, PartialEq)]
pub struct Lane {
    /// At most 12 characters are shown.
    pub name: String,
    /// In any order.
    pub spans: Vec<Span>,
}

/// From somewhere to somewhere, in the unit of the axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// Where it begins, at zero or later.
    pub from: f64,
    /// Where it ends.
    pub to: f64,
    /// Which of the series.
    pub series: usize,
    /// For the table.
    pub what: String,
}

impl Lanes {
    /// Draws all lanes.
    #[must_use]
    pub fn draw(&self, width: Width) -> Picture {
        let spans = || self.lanes.iter().flat_map(|lane| &lane.spans);
        let end = spans().map(|span| span.to).fold(0.0, f64::max);
        let svg = self.svg(width, if end > 0.0 { end } else { 1.0 });
        let mut sums = vec![0.0; self.series.len()];
        for span in spans() {
            if let Some(sum) = sums.get_mut(span.series) {
                *sum += span.to - span.from;
            }
        }
        let each = self.series.iter().zip(&sums).filter(|(_, sum)| **sum > 0.0);
        let each: Vec<String> =
            each.map(|(name, sum)| format!("{name} {} {}", short(*sum), self.unit)).collect();
        let rows = self.lanes.iter().flat_map(|lane| {
            lane.spans.iter().map(move |span| {
                let number = |value: f64| format!("{} {}", short(value), self.unit);
                let took = number(span.to - span.from);
                vec![lane.name.clone(), span.what.clone(), number(span.from), took]
            })
        });
        let swatches = self.series.iter().enumerate();
        Picture {
            svg: paint::finish(&svg, &self.title, &format!("{}.", each.join("; "))),
            title: self.title.clone(),
            legend: swatches
                .filter(|(series, _)| spans().any(|span| span.series == *series))
                .map(|(series, name)| Swatch { series, name: (*name).to_owned() })
                .collect(),
            columns: ["row", "what", "from", "size"].map(str::to_owned).to_vec(),
            rows: rows.take(N_ROWS).collect(),
        }
    }

    fn svg(&self, width: Width, end: f64) -> String {
        // One and a half pixels.
        let thinnest = 1.5 * end / f64::from(length(width, NAME_WIDTH, RIGHT));
        let lane_height = f64::from(LANE_HEIGHT);
        let (mut bars, mut words) = (Vec::new(), Vec::new());
        for (i, lane) in self.lanes.iter().enumerate() {
            let top = i as u32 * LANE_HEIGHT;
            bars.extend(lane.spans.iter().map(|span| Bar {
                from: span.from,
                to: span.to.max(span.from + thinnest),
                top: f64::from(top) + LANE_GAP * lane_height,
                bottom: f64::from(top) + (1.0 - LANE_GAP) * lane_height,
                series: span.series,
            }));
            let text: String = lane.name.chars().take(12).collect();
            words.push(Word { text, edge: Edge::Left(NAME_LEFT), middle: top + LANE_HEIGHT / 2 });
        }
        let rows = Rows {
            width,
            left: NAME_WIDTH,
            right: RIGHT,
            height: self.lanes.len().max(1) as u32 * LANE_HEIGHT,
            span: 0.0..end,
            tick: &|x| format!("{} {}", short(x), self.unit),
            bars,
            words,
            rule: None,
        };
        rows.svg()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::{Lane, Lanes, Span};
    use crate::Width;

    #[test]
    fn spans_are_seen_counted_and_told() {
        let span = |from, to, series| Span { from, to, series, what: "w".to_owned() };
        let lanes = Lanes {
            title: "Where the time went".to_owned(),
            unit: "ms",
            series: vec!["queue", "prefill", "decode"],
            lanes: vec![
                Lane {
                    name: "<one>".to_owned(),
                    spans: vec![span(0.0, 10.0, 0), span(10.0, 10.0, 1)],
                },
                Lane { name: "two".to_owned(), spans: vec![] },
            ],
        };
        let picture = lanes.draw(Width::new(400).unwrap());
        assert_eq!(picture.svg.matches("class=\"s0\"").count(), 1, "{}", picture.svg);
        assert_eq!(picture.svg.matches("class=\"s1\"").count(), 1);
        assert!(picture.svg.contains("<desc>queue 10 ms.</desc>"));
        assert!(!picture.svg.contains("<one>"), "names are escaped");
        assert_eq!(picture.legend.len(), 2);
        assert_eq!(picture.rows[0], ["<one>", "w", "0 ms", "10 ms"]);
        let empty = Lanes { lanes: vec![], ..lanes };
        assert!(empty.draw(Width::new(400).unwrap()).svg.contains("<svg"));
    }
}
