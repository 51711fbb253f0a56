//! Rows of bars and names above one axis: what several pictures are made of.
//!
//! It must never know what a row means.
//!
//! Start reading at [`Rows::svg`].

use std::ops::Range;

use plotters::prelude::{
    ChartBuilder, Color, IntoDrawingArea, LineSeries, Rectangle, SVGBackend, TRANSPARENT, Text,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{IntoFont, TextStyle};

use crate::Width;
use crate::paint::{self, FONT};

const AXIS_HEIGHT: u32 = 30;
const TOP: u32 = 4;
/// Of one character, at most, in pixels.
pub(crate) const CHAR_WIDTH: u32 = 8;
/// What a number below the axis takes at least, in pixels, with the gap beside it.
const TICK_WIDTH: u32 = 64;

/// What is drawn above an axis, in the order from back to front. Heights are pixels below the top of the first row.
pub(crate) struct Rows<'a> {
    pub(crate) width: Width,
    /// Beside the axis, in pixels.
    pub(crate) left: u32,
    /// Beside the axis, in pixels.
    pub(crate) right: u32,
    /// Of all rows together, in pixels.
    pub(crate) height: u32,
    /// The ends of the axis.
    pub(crate) span: Range<f64>,
    /// A number below the axis.
    pub(crate) tick: &'a dyn Fn(f64) -> String,
    pub(crate) bars: Vec<Bar>,
    pub(crate) words: Vec<Word>,
    /// Upright through all rows: where on the axis, and in which colour.
    pub(crate) rule: Option<(f64, usize)>,
}

/// A rectangle.
pub(crate) struct Bar {
    /// On the axis.
    pub(crate) from: f64,
    /// On the axis.
    pub(crate) to: f64,
    pub(crate) top: f64,
    pub(crate) bottom: f64,
    /// Its colour.
    pub(crate) series: usize,
}

/// A text in one line.
pub(crate) struct Word {
    pub(crate) text: String,
    pub(crate) edge: Edge,
    /// Of the middle of its line.
    pub(crate) middle: u32,
}

/// Where a text begins, or ends.
pub(crate) enum Edge {
    /// So many pixels from the left edge of the picture.
    Left(u32),
    /// At the right end of the axis.
    Right,
}

/// How long an axis is, in pixels.
pub(crate) fn length(width: Width, left: u32, right: u32) -> u32 {
    width.pixels() - left - right
}

impl Rows<'_> {
    pub(crate) fn svg(&self) -> String {
        let (width, height) = (self.width.pixels(), f64::from(self.height));
        let n_ticks = (length(self.width, self.left, self.right) / TICK_WIDTH).clamp(2, 5);
        let mut svg = String::new();
        {
            let size = (width, self.height + TOP + AXIS_HEIGHT + 2);
            let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
            let drawn = (|| {
                // Upwards in pixels, so that bars lie where names are.
                let mut area = ChartBuilder::on(&root)
                    .margin_top(TOP)
                    .margin_left(self.left)
                    .margin_right(self.right)
                    .x_label_area_size(AXIS_HEIGHT)
                    .build_cartesian_2d(self.span.clone(), 0.0..height)?;
                let color = paint::label();
                let style = TextStyle::from(FONT.into_font()).color(&color);
                area.configure_mesh()
                    .disable_y_mesh()
                    .disable_y_axis()
                    .x_labels(n_ticks as usize)
                    .x_label_formatter(&|x: &f64| (self.tick)(*x))
                    .label_style(style.clone())
                    .axis_style(paint::axis())
                    .bold_line_style(paint::grid())
                    .light_line_style(TRANSPARENT)
                    .draw()?;
                area.draw_series(self.bars.iter().map(|bar| {
                    let corners = [(bar.from, height - bar.top), (bar.to, height - bar.bottom)];
                    Rectangle::new(corners, paint::series(bar.series).filled())
                }))?;
                for word in &self.words {
                    let (at, side) = match word.edge {
                        Edge::Left(at) => (at, HPos::Left),
                        Edge::Right => (width - self.right, HPos::Right),
                    };
                    let place = (at as i32, (TOP + word.middle) as i32);
                    let style = style.clone().pos(Pos::new(side, VPos::Center));
                    root.draw(&Text::new(word.text.clone(), place, style))?;
                }
                if let Some((at, series)) = self.rule {
                    let line = [(at, 0.0), (at, height)];
                    let style = paint::series(series).stroke_width(1);
                    area.draw_series(LineSeries::new(line, style))?;
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
    use super::Rows;
    use crate::Width;

    #[test]
    fn a_narrow_axis_has_fewer_numbers_and_all_of_each() {
        let n_numbers = |pixels| {
            let rows = Rows {
                width: Width::new(pixels).unwrap(),
                left: 8,
                right: 28,
                height: 20,
                span: 0.0..4.0,
                tick: &|_| "12.5 min".to_owned(),
                bars: Vec::new(),
                words: Vec::new(),
                rule: None,
            };
            rows.svg().matches("12.5 min").count()
        };
        assert_eq!((n_numbers(240), n_numbers(800)), (3, 5));
    }
}
