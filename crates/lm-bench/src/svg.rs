//! A run as a picture: the distributions of TTFT and ITL, tokens per second, and open requests over time.

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::metrics::per_second;
use crate::{BenchError, Metric, Metrics, Run};

const SIZE: (u32, u32) = (1000, 720);
const TITLE_HEIGHT: u32 = 40;
const COLOUR: RGBColor = RGBColor(0x1f, 0x6f, 0xb4);

/// The lines of one chart.
struct Chart {
    title: String,
    x: &'static str,
    y: &'static str,
    points: Vec<(f64, f64)>,
}

/// A run as an SVG document. Text is left to the viewer's fonts.
///
/// # Errors
/// What the drawing library says.
pub fn svg(title: &str, run: &Run, metrics: &Metrics) -> Result<String, BenchError> {
    let seconds = per_second(&run.outputs);
    let over_time = |value: fn(&(usize, usize)) -> usize| {
        let points = seconds.iter().enumerate();
        points.map(|(second, found)| (second as f64, value(found) as f64)).collect()
    };
    let charts = [
        share_below(metrics, Metric::Ttft),
        share_below(metrics, Metric::Itl),
        Chart {
            title: "Output".to_owned(),
            x: "seconds",
            y: "chunks with text per second",
            points: over_time(|second| second.0),
        },
        Chart {
            title: "Requests".to_owned(),
            x: "seconds",
            y: "open within the second",
            points: over_time(|second| second.1),
        },
    ];
    let mut text = String::new();
    draw(&mut text, title, &charts).map_err(|error| BenchError::Draw(error.to_string()))?;
    Ok(text)
}

/// Which share of all values is at most so large.
fn share_below(metrics: &Metrics, metric: Metric) -> Chart {
    let values = metrics.spread(metric).values_ms();
    // A thousand points are more than a pixel each.
    let step = (values.len() / 1000).max(1);
    let share = |i: usize| (values[i], (i + 1) as f64 / values.len() as f64);
    let mut points: Vec<(f64, f64)> = (0..values.len()).step_by(step).map(share).collect();
    points.extend(values.last().map(|last| (*last, 1.0)));
    Chart { title: metric.title().to_owned(), x: "ms", y: "share of all", points }
}

type DrawResult = Result<(), Box<dyn std::error::Error>>;

fn draw(text: &mut String, title: &str, charts: &[Chart; 4]) -> DrawResult {
    let root = SVGBackend::with_string(text, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (head, body) = root.split_vertically(TITLE_HEIGHT);
    head.draw(&Text::new(title.to_owned(), (16, 12), ("sans-serif", 18)))?;
    for (area, chart) in body.split_evenly((2, 2)).iter().zip(charts) {
        draw_chart(area, chart)?;
    }
    root.present()?;
    Ok(())
}

fn draw_chart(area: &DrawingArea<SVGBackend<'_>, Shift>, chart: &Chart) -> DrawResult {
    let most = |value: fn(&(f64, f64)) -> f64| {
        chart.points.iter().map(value).fold(0.0, f64::max).max(1e-3) * 1.05
    };
    let mut drawn = ChartBuilder::on(area)
        .caption(&chart.title, ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..most(|point| point.0), 0.0..most(|point| point.1))?;
    drawn.configure_mesh().x_desc(chart.x).y_desc(chart.y).light_line_style(WHITE).draw()?;
    drawn.draw_series(LineSeries::new(chart.points.iter().copied(), COLOUR.stroke_width(2)))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::{Goodput, Output};

    #[test]
    fn a_run_is_drawn_and_so_is_one_without_answers() {
        let output =
            Output { ttft_s: Some(0.1), latency_s: 2.5, itls_s: vec![0.4; 6], ..Output::default() };
        for outputs in [vec![output; 3], vec![]] {
            let run = Run { outputs, duration_s: 3.0, client_cpu_s: 0.0, server_cpu_s: None };
            let metrics = Metrics::of(&run, &[], &Goodput::default());
            let text = svg("a <title> & more", &run, &metrics).unwrap();
            assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"));
            for part in ["a &lt;title&gt; &amp; more", "Time to First Token", "Inter-token Latency"]
            {
                assert!(text.contains(part), "{part}");
            }
        }
    }
}
