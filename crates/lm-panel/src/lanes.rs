//! Spans in lanes above a common axis: where the time of a request or the memory of a model went.
//!
//! It must never draw a span so thin that it is not seen.
//!
//! Start reading at [`Lanes::draw`].

use plotters::prelude::{
    ChartBuilder, Color, IntoDrawingArea, Rectangle, SVGBackend, TRANSPARENT, Text,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{IntoFont, TextStyle};

use crate::paint::{self, FONT, short};
use crate::{Picture, Swatch, Width};

const LANE_HEIGHT: u32 = 34;
const AXIS_HEIGHT: u32 = 30;
const NAME_WIDTH: u32 = 84;
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
        let n = self.lanes.len().max(1);
        let height = n as u32 * LANE_HEIGHT + AXIS_HEIGHT + 6;
        // One and a half pixels.
        let thinnest = 1.5 * end / f64::from(width.pixels() - NAME_WIDTH);
        let mut svg = String::new();
        {
            let root =
                SVGBackend::with_string(&mut svg, (width.pixels(), height)).into_drawing_area();
            let drawn = (|| {
                let mut area = ChartBuilder::on(&root)
                    .margin_top(4)
                    .margin_right(26)
                    .margin_left(NAME_WIDTH)
                    .x_label_area_size(AXIS_HEIGHT)
                    .build_cartesian_2d(0.0..end, 0.0..n as f64)?;
                let color = paint::label();
                let style = TextStyle::from(FONT.into_font()).color(&color);
                area.configure_mesh()
                    .disable_y_mesh()
                    .disable_y_axis()
                    .x_labels(5)
                    .x_label_formatter(&|x: &f64| format!("{} {}", short(*x), self.unit))
                    .label_style(style.clone())
                    .axis_style(paint::axis())
                    .bold_line_style(paint::grid())
                    .light_line_style(TRANSPARENT)
                    .draw()?;
                for (i, lane) in self.lanes.iter().enumerate() {
                    let base = (n - 1 - i) as f64;
                    area.draw_series(lane.spans.iter().map(|span| {
                        let to = span.to.max(span.from + thinnest);
                        let corners = [(span.from, base + 0.15), (to, base + 0.85)];
                        Rectangle::new(corners, paint::series(span.series).filled())
                    }))?;
                    let at = (8, 4 + (i as u32 * LANE_HEIGHT + LANE_HEIGHT / 2) as i32);
                    let style = style.clone().pos(Pos::new(HPos::Left, VPos::Center));
                    let name: String = lane.name.chars().take(12).collect();
                    root.draw(&Text::new(name, at, style))?;
                }
                root.present()
            })();
            drawn.expect("text takes all that is drawn: this is a bug");
        }
        svg
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
