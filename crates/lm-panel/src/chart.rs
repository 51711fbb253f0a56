//! What has been, as lines over time.
//!
//! It must never scale an axis so that a small change looks large: each begins at zero.
//!
//! Start reading at [`draw`].

use plotters::prelude::{
    ChartBuilder, Color, IntoDrawingArea, LineSeries, SVGBackend, TRANSPARENT,
};
use plotters::style::{IntoFont, TextStyle};

use crate::paint::{self, FONT, short};
use crate::{Picture, Point, Swatch, Width};

const HEIGHT: u32 = 190;
/// A gap in the points that is longer than this interrupts the lines.
const LONGEST_GAP_MS: i64 = 10_000;
/// Rows of the table beside a chart.
const N_ROWS: usize = 30;

/// One chart that can be asked for.
struct Chart {
    name: &'static str,
    title: &'static str,
    /// Of the values; empty for plain numbers.
    unit: &'static str,
    /// The top of the axis, where there is one.
    max: Option<f64>,
    series: &'static [(&'static str, fn(&Point) -> Option<f32>)],
}

const CHARTS: [Chart; 6] = [
    Chart {
        name: "throughput",
        title: "Tokens per second",
        unit: "",
        max: None,
        series: &[
            ("generated", |point| Some(point.generation_tokens_per_s)),
            ("prompt", |point| Some(point.prompt_tokens_per_s)),
        ],
    },
    Chart {
        name: "ttft",
        title: "Time to first token",
        unit: "ms",
        max: None,
        series: &[("p50", |point| point.ttft_p50_ms), ("p99", |point| point.ttft_p99_ms)],
    },
    Chart {
        name: "gap",
        title: "Gap between tokens",
        unit: "ms",
        max: None,
        series: &[("p50", |point| point.gap_p50_ms), ("p99", |point| point.gap_p99_ms)],
    },
    Chart {
        name: "queue",
        title: "Answers running and waiting",
        unit: "",
        max: None,
        series: &[
            ("running", |point| Some(point.running)),
            ("waiting", |point| Some(point.waiting)),
        ],
    },
    Chart {
        name: "kv",
        title: "KV cache in use",
        unit: "%",
        max: Some(100.0),
        series: &[("held", |point| Some(point.kv_usage * 100.0))],
    },
    Chart {
        name: "errors",
        title: "Answers per second",
        unit: "",
        max: None,
        series: &[
            ("finished", |point| Some(point.finished_per_s)),
            ("refused or failed", |point| Some(point.errors_per_s)),
        ],
    },
];

/// The charts' names.
pub fn names() -> impl Iterator<Item = &'static str> {
    CHARTS.iter().map(|chart| chart.name)
}

/// Draws the chart of this name over the last `minutes` until `now_ms`, in Unix milliseconds, or less
/// where there is less; `None` when there is no such chart.
#[must_use]
pub fn draw(
    name: &str,
    points: &[Point],
    now_ms: i64,
    minutes: u32,
    width: Width,
) -> Option<Picture> {
    let chart = CHARTS.iter().find(|chart| chart.name == name)?;
    // A server that is younger than what was asked for fills its charts nevertheless.
    let oldest_ms = points.first().map_or(now_ms, |point| point.at_ms);
    let age = now_ms.saturating_sub(oldest_ms).cast_unsigned().div_ceil(60_000);
    let minutes = minutes.min(u32::try_from(age).unwrap_or(u32::MAX)).max(1);
    let title = match chart.unit {
        "" => chart.title.to_owned(),
        unit => format!("{} ({unit})", chart.title),
    };
    let svg = lines(chart, points, now_ms, minutes, width);
    let description = described(chart, points, minutes);
    let swatch = |(series, (name, _)): (usize, &(&str, _))| Swatch { series, name: (*name).into() };
    Some(Picture {
        svg: paint::finish(&svg, &title, &description),
        title,
        legend: chart.series.iter().enumerate().map(swatch).collect(),
        columns: std::iter::once("ago")
            .chain(chart.series.iter().map(|(name, _)| *name))
            .map(str::to_owned)
            .collect(),
        rows: table(chart, points, now_ms),
    })
}

fn lines(chart: &Chart, points: &[Point], now_ms: i64, minutes: u32, width: Width) -> String {
    let values = chart.series.iter().flat_map(|(_, value)| points.iter().filter_map(value));
    let highest = values.fold(0.0_f32, f32::max);
    // Some room above, and an axis even when nothing happened.
    let top = chart.max.unwrap_or(if highest > 0.0 { f64::from(highest) * 1.1 } else { 1.0 });
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (width.pixels(), HEIGHT)).into_drawing_area();
        let drawn = (|| {
            let mut area = ChartBuilder::on(&root)
                .margin_top(10)
                .margin_right(22)
                .x_label_area_size(26)
                .y_label_area_size(46)
                .build_cartesian_2d(-f64::from(minutes)..0.0, 0.0..top)?;
            area.configure_mesh()
                .disable_x_mesh()
                .x_labels(5)
                .y_labels(5)
                .x_label_formatter(&|x: &f64| ago(*x))
                .y_label_formatter(&|y: &f64| short(*y))
                .label_style(TextStyle::from(FONT.into_font()).color(&paint::label()))
                .axis_style(paint::axis())
                .bold_line_style(paint::grid())
                .light_line_style(TRANSPARENT)
                .draw()?;
            for (i, (_, value)) in chart.series.iter().enumerate() {
                for run in runs(points, *value, now_ms) {
                    area.draw_series(LineSeries::new(run, paint::series(i).stroke_width(2)))?;
                }
            }
            root.present()
        })();
        drawn.expect("text takes all that is drawn: this is a bug");
    }
    svg
}

/// The line of a series, in pieces without gaps: minutes before now, and the value.
fn runs(points: &[Point], value: fn(&Point) -> Option<f32>, now_ms: i64) -> Vec<Vec<(f64, f64)>> {
    let (mut runs, mut last_ms) = (vec![vec![]], i64::MIN);
    for point in points {
        let Some(found) = value(point) else { continue };
        if point.at_ms.saturating_sub(last_ms) > LONGEST_GAP_MS {
            runs.push(vec![]);
        }
        last_ms = point.at_ms;
        let x = (point.at_ms - now_ms) as f64 / 60_000.0;
        if let Some(run) = runs.last_mut() {
            run.push((x.min(0.0), f64::from(found)));
        }
    }
    runs.retain(|run| !run.is_empty());
    runs
}

fn ago(minutes: f64) -> String {
    match minutes {
        m if m > -0.01 => "now".to_owned(),
        m => format!("-{} min", short(-m)),
    }
}

fn described(chart: &Chart, points: &[Point], minutes: u32) -> String {
    let each = chart.series.iter().map(|(name, value)| {
        let values: Vec<f32> = points.iter().filter_map(value).collect();
        let Some(last) = values.last() else { return format!("{name}: nothing yet") };
        let highest = values.iter().copied().fold(0.0_f32, f32::max);
        let (last, highest) = (short(f64::from(*last)), short(f64::from(highest)));
        format!("{name}: {last} now, {highest} at most")
    });
    let each: Vec<String> = each.collect();
    let s = if minutes == 1 { "" } else { "s" };
    format!("The last {minutes} minute{s}. {}.", each.join("; "))
}

/// Newest first, evenly spread over the points.
fn table(chart: &Chart, points: &[Point], now_ms: i64) -> Vec<Vec<String>> {
    let every = points.len().div_ceil(N_ROWS).max(1);
    let row = |point: &Point| {
        let seconds = (now_ms - point.at_ms).max(0) / 1000;
        let ago = format!("{}:{:02}", seconds / 60, seconds % 60);
        let value =
            |v: Option<f32>| v.map_or_else(|| "\u{2013}".to_owned(), |v| short(f64::from(v)));
        let values = chart.series.iter().map(|(_, of)| value(of(point)));
        std::iter::once(ago).chain(values).collect()
    };
    points.iter().rev().step_by(every).map(row).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::{draw, names};
    use crate::{Picture, Point, Width};

    fn drawn(name: &str, points: &[Point]) -> Picture {
        draw(name, points, 60_000, 15, Width::new(600).unwrap()).unwrap()
    }

    #[test]
    fn every_chart_is_drawn_even_of_nothing() {
        for name in names() {
            let picture = drawn(name, &[]);
            assert!(picture.svg.starts_with("<svg"), "{name}");
            assert!(picture.svg.contains("<title>") && picture.svg.contains("nothing yet"));
            assert!(!picture.svg.contains("#0102"), "{name}: a colour is left");
            assert!(picture.rows.is_empty());
        }
        assert!(draw("no", &[], 0, 15, Width::new(600).unwrap()).is_none());
        assert_eq!(Width::new(10).unwrap_err().to_string().matches("240").count(), 1);
    }

    #[test]
    fn lines_end_where_nothing_was_measured() {
        let at = |at_ms, p50: Option<f32>| Point {
            at_ms,
            ttft_p50_ms: p50,
            ttft_p99_ms: p50.map(|p50| 2.0 * p50),
            ..Point::default()
        };
        let points = [
            at(0, Some(10.0)),
            at(2000, Some(20.0)),
            at(4000, None),
            at(40_000, Some(5.0)),
            at(42_000, Some(5.0)),
        ];
        let picture = drawn("ttft", &points);
        assert_eq!(picture.svg.matches("<polyline").count(), 4, "{}", picture.svg);
        assert!(picture.svg.contains("p50: 5 now, 20 at most"));
        assert_eq!(picture.title, "Time to first token (ms)");
        assert_eq!(picture.columns, ["ago", "p50", "p99"]);
        assert_eq!(picture.rows[0], ["0:18", "5", "10"]);
        assert_eq!(picture.rows[2], ["0:56", "\u{2013}", "\u{2013}"]);
    }
}
