//! How the interval of an experiment's goal came about, as an area over answers.
//!
//! It must never leave out zero: an interval that holds it says nothing yet.
//!
//! Start reading at [`evidence`].

use plotters::prelude::{
    ChartBuilder, Color, IntoDrawingArea, LineSeries, Polygon, SVGBackend, TRANSPARENT,
};
use plotters::style::{IntoFont, TextStyle};

use crate::paint::{self, FONT, short};
use crate::{Picture, Swatch, Width};

const HEIGHT: u32 = 220;
/// Rows of the table beside the picture.
const N_ROWS: usize = 30;

/// The interval after so many answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Bounds {
    /// Answers of both arms.
    pub n: u64,
    /// The stage, as it is called.
    pub stage: String,
    /// The lower end of candidate less primary, from -1 to 1.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// Draws the interval of candidate less primary, in points of a hundred, and what it must be above.
#[must_use]
pub fn evidence(metric: &str, bounds: &[Bounds], wanted: f64, width: Width) -> Picture {
    let title = format!("Gain of {metric} (points)");
    let svg = drawn(bounds, 100.0 * wanted, width);
    let description = bounds.last().map_or("Nothing is known yet.".to_owned(), |last| {
        let (low, high) = (100.0 * last.low, 100.0 * last.high);
        format!(
            "After {} answers between {low:+.1} and {high:+.1} points; {:+.1} are wanted.",
            last.n,
            100.0 * wanted
        )
    });
    let every = bounds.len().div_ceil(N_ROWS).max(1);
    let row = |one: &Bounds| {
        vec![
            one.n.to_string(),
            one.stage.clone(),
            format!("{:+.1}", 100.0 * one.low),
            format!("{:+.1}", 100.0 * one.high),
        ]
    };
    Picture {
        svg: paint::finish(&svg, &title, &description),
        title,
        legend: vec![
            Swatch { series: 0, name: "interval".to_owned() },
            Swatch { series: 1, name: "wanted".to_owned() },
            Swatch { series: 5, name: "no change".to_owned() },
        ],
        columns: ["answers", "stage", "at least", "at most"].map(str::to_owned).into(),
        rows: bounds.iter().rev().step_by(every).map(row).collect(),
    }
}

fn drawn(bounds: &[Bounds], wanted: f64, width: Width) -> String {
    let last = bounds.last().map_or(1.0, |one| one.n as f64).max(1.0);
    // The first intervals hold everything, and would hide the rest.
    let calm = &bounds[bounds.len() / 3..];
    let reach = calm.iter().map(|one| one.low.abs().max(one.high.abs()) * 100.0);
    let reach = reach.fold(wanted.abs().max(5.0), f64::max).min(100.0) * 1.1;
    let clipped = |value: f64| (100.0 * value).clamp(-reach, reach);
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (width.pixels(), HEIGHT)).into_drawing_area();
        let drawn = (|| {
            let mut area = ChartBuilder::on(&root)
                .margin_top(10)
                .margin_right(22)
                .x_label_area_size(26)
                .y_label_area_size(46)
                .build_cartesian_2d(0.0..last, -reach..reach)?;
            area.configure_mesh()
                .disable_x_mesh()
                .x_labels(5)
                .y_labels(5)
                .x_label_formatter(&|x: &f64| short(*x))
                .y_label_formatter(&|y: &f64| short(*y))
                .label_style(TextStyle::from(FONT.into_font()).color(&paint::label()))
                .axis_style(paint::axis())
                .bold_line_style(paint::grid())
                .light_line_style(TRANSPARENT)
                .draw()?;
            let there = bounds.iter().map(|one| (one.n as f64, clipped(one.high)));
            let back = bounds.iter().rev().map(|one| (one.n as f64, clipped(one.low)));
            let outline: Vec<(f64, f64)> = there.clone().chain(back.clone()).collect();
            if outline.len() > 2 {
                let fill = paint::series(0).mix(0.2).filled();
                area.draw_series(std::iter::once(Polygon::new(outline, fill)))?;
            }
            for edge in [there.collect::<Vec<_>>(), back.collect()] {
                area.draw_series(LineSeries::new(edge, paint::series(0).stroke_width(2)))?;
            }
            for (level, series) in [(0.0, 5), (wanted, 1)] {
                let line = [(0.0, level), (last, level)];
                area.draw_series(LineSeries::new(line, paint::series(series).stroke_width(1)))?;
            }
            root.present()
        })();
        drawn.expect("text takes all that is drawn: this is a bug");
    }
    svg
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::{Bounds, evidence};
    use crate::Width;

    #[test]
    fn an_interval_is_drawn_told_and_listed() {
        let at = |n, low, high| Bounds { n, stage: "50".to_owned(), low, high };
        let width = Width::new(360).unwrap();
        let empty = evidence("not_failure", &[], 0.02, width);
        assert!(empty.svg.contains("Nothing is known yet") && empty.rows.is_empty());
        let all = [at(10, -1.0, 1.0), at(500, -0.05, 0.1), at(1000, 0.01, 0.06)];
        let picture = evidence("not_failure", &all, 0.02, width);
        assert!(picture.svg.contains("between +1.0 and +6.0 points"), "{}", picture.svg);
        assert!(!picture.svg.contains("#0102"), "a colour is left");
        assert!(picture.svg.contains("<polygon"), "{}", picture.svg);
        assert_eq!(picture.rows[0], ["1000", "50", "+1.0", "+6.0"]);
    }
}
