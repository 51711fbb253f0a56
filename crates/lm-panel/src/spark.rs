//! How something went, as a small line among words.
//!
//! It must never begin elsewhere than at zero.
//!
//! Start reading at [`sparkline`].

use plotters::prelude::{ChartBuilder, Circle, Color, IntoDrawingArea, LineSeries, SVGBackend};

use crate::paint;

const SIZE: (u32, u32) = (112, 28);

/// Counts of equal parts of a time, oldest first, as an SVG.
#[must_use]
pub fn sparkline(title: &str, counts: &[u64]) -> String {
    let top = counts.iter().copied().max().unwrap_or(0).max(1) as f64;
    let last = counts.len().saturating_sub(1).max(1) as f64;
    let points: Vec<(f64, f64)> =
        counts.iter().enumerate().map(|(i, count)| (i as f64, *count as f64)).collect();
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let drawn = (|| {
            let mut area =
                ChartBuilder::on(&root).margin(4).build_cartesian_2d(0.0..last, 0.0..top)?;
            let floor = [(0.0, 0.0), (last, 0.0)];
            area.draw_series(LineSeries::new(floor, paint::axis().stroke_width(1)))?;
            if let Some(&end) = points.last() {
                area.draw_series(LineSeries::new(points, paint::series(0).stroke_width(2)))?;
                area.draw_series([Circle::new(end, 3, paint::series(0).filled())])?;
            }
            root.present()
        })();
        drawn.expect("text takes all that is drawn: this is a bug");
    }
    let told: Vec<String> = counts.iter().map(u64::to_string).collect();
    paint::finish(&svg, title, &format!("Oldest first: {}.", told.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::sparkline;

    #[test]
    fn a_trend_is_a_line_and_a_sentence() {
        let svg = sparkline("Trend of c1", &[0, 3, 12]);
        assert!(svg.contains("<title>Trend of c1</title>"), "{svg}");
        assert!(svg.contains("Oldest first: 0, 3, 12."), "{svg}");
        assert!(svg.contains("<circle") && svg.contains("<polyline"), "{svg}");
        assert!(!svg.contains("#0102"), "a colour is left");
        assert!(sparkline("none", &[]).contains("<title>none</title>"));
    }
}
