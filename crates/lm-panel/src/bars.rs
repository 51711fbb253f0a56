//! Groups of bars beside names, above a common axis: counts and shares that are compared.
//!
//! It must never begin an axis elsewhere than at zero, nor draw a bar so thin that it is not seen.
//!
//! Start reading at [`Bars::draw`].

use plotters::prelude::{
    ChartBuilder, Color, IntoDrawingArea, Rectangle, SVGBackend, TRANSPARENT, Text,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{IntoFont, TextStyle};

use crate::paint::{self, FONT, plain, short};
use crate::{Picture, Swatch, Width};

/// Bars of several groups.
#[derive(Clone, Debug, PartialEq)]
pub struct Bars {
    /// What is shown.
    pub title: String,
    /// What a group is, as the head of the table's first column.
    pub of: &'static str,
    /// Behind each number, such as ` %`; empty for plain ones.
    pub unit: &'static str,
    /// What the bars of a group mean, from top to bottom.
    pub series: Vec<&'static str>,
    /// From top to bottom.
    pub groups: Vec<BarGroup>,
}

/// The bars of one name.
#[derive(Clone, Debug, PartialEq)]
pub struct BarGroup {
    /// The picture shows its letters, digits and plain punctuation, as many as there is room for; the table all of it.
    pub name: String,
    /// One for each of the series; `None` where nothing is known.
    pub values: Vec<Option<f64>>,
}

const NAME_HEIGHT: u32 = 20;
const BAR_HEIGHT: u32 = 12;
const GROUP_GAP: u32 = 8;
const AXIS_HEIGHT: u32 = 30;
const TOP: u32 = 4;
const LEFT: u32 = 8;
const RIGHT: u32 = 28;
/// Of one character, at most.
const CHAR_WIDTH: u32 = 8;
/// Groups that are told to who does not see the picture; all are in the table.
const N_TOLD: usize = 3;

impl Bars {
    /// Draws all groups.
    #[must_use]
    pub fn draw(&self, width: Width) -> Picture {
        let name = |group: &BarGroup| plain(&group.name, usize::MAX);
        let told = self.groups.iter().take(N_TOLD);
        let told: Vec<String> =
            told.map(|group| format!("{}: {}", name(group), self.numbers(group))).collect();
        let more = self.groups.len().saturating_sub(N_TOLD);
        let more = if more > 0 { format!(" And {more} more.") } else { String::new() };
        let description = match told.is_empty() {
            true => "There is nothing to show.".to_owned(),
            false => format!("{}, of {}.{more}", self.series.join(", "), told.join("; ")),
        };
        let row = |group: &BarGroup| -> Vec<String> {
            let numbers = group.values.iter().map(|value| self.number(*value));
            std::iter::once(group.name.clone()).chain(numbers).collect()
        };
        let swatch = |(series, name): (usize, &&str)| Swatch { series, name: (*name).to_owned() };
        Picture {
            svg: paint::finish(&self.svg(width), &self.title, &description),
            title: self.title.clone(),
            legend: self.series.iter().enumerate().map(swatch).collect(),
            columns: std::iter::once(&self.of)
                .chain(&self.series)
                .map(|c| (*c).to_owned())
                .collect(),
            rows: self.groups.iter().map(row).collect(),
        }
    }

    fn number(&self, value: Option<f64>) -> String {
        value.map_or_else(|| "-".to_owned(), |value| format!("{}{}", short(value), self.unit))
    }

    fn numbers(&self, group: &BarGroup) -> String {
        let numbers: Vec<String> = group.values.iter().map(|value| self.number(*value)).collect();
        numbers.join(" / ")
    }

    fn svg(&self, width: Width) -> String {
        let n = self.groups.len().max(1) as u32;
        let group_height = NAME_HEIGHT + self.series.len() as u32 * BAR_HEIGHT + GROUP_GAP;
        let height = n * group_height;
        let values = self.groups.iter().flat_map(|group| group.values.iter().flatten());
        let end = values.copied().filter(|value| value.is_finite()).fold(0.0, f64::max);
        let end = if end > 0.0 { end } else { 1.0 };
        // One and a half pixels.
        let thinnest = 1.5 * end / f64::from(width.pixels() - LEFT - RIGHT);
        let mut svg = String::new();
        {
            let size = (width.pixels(), height + TOP + AXIS_HEIGHT + 2);
            let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
            let drawn = (|| {
                // Upwards in pixels, so that bars lie where names are.
                let mut area = ChartBuilder::on(&root)
                    .margin_top(TOP)
                    .margin_left(LEFT)
                    .margin_right(RIGHT)
                    .x_label_area_size(AXIS_HEIGHT)
                    .build_cartesian_2d(0.0..end, 0.0..f64::from(height))?;
                let color = paint::label();
                let style = TextStyle::from(FONT.into_font()).color(&color);
                area.configure_mesh()
                    .disable_y_mesh()
                    .disable_y_axis()
                    .x_labels(5)
                    .x_label_formatter(&|x: &f64| format!("{}{}", short(*x), self.unit))
                    .label_style(style.clone())
                    .axis_style(paint::axis())
                    .bold_line_style(paint::grid())
                    .light_line_style(TRANSPARENT)
                    .draw()?;
                for (i, group) in self.groups.iter().enumerate() {
                    let top = i as u32 * group_height;
                    let values = group.values.iter().take(self.series.len()).enumerate();
                    area.draw_series(values.filter_map(|(j, value)| {
                        let value = value.filter(|value| value.is_finite() && *value > 0.0)?;
                        let above = f64::from(height - top - NAME_HEIGHT - j as u32 * BAR_HEIGHT);
                        let below = above - f64::from(BAR_HEIGHT) + 3.0;
                        let corners = [(0.0, above), (value.max(thinnest), below)];
                        Some(Rectangle::new(corners, paint::series(j).filled()))
                    }))?;
                    let numbers = self.numbers(group);
                    let used = numbers.chars().count() as u32 + 2;
                    let room = (width.pixels() - LEFT - RIGHT) / CHAR_WIDTH;
                    let name = plain(&group.name, room.saturating_sub(used) as usize);
                    let middle = (TOP + top + NAME_HEIGHT / 2) as i32;
                    let left = style.clone().pos(Pos::new(HPos::Left, VPos::Center));
                    root.draw(&Text::new(name, (LEFT as i32, middle), left))?;
                    let right = style.clone().pos(Pos::new(HPos::Right, VPos::Center));
                    let edge = (width.pixels() - RIGHT) as i32;
                    root.draw(&Text::new(numbers, (edge, middle), right))?;
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
    use super::{BarGroup, Bars};
    use crate::Width;

    fn bars(groups: &[(&str, [Option<f64>; 2])]) -> Bars {
        let group = |(name, values): &(&str, [Option<f64>; 2])| BarGroup {
            name: (*name).to_owned(),
            values: values.to_vec(),
        };
        Bars {
            title: "Rows".to_owned(),
            of: "version",
            unit: " %",
            series: vec!["published", "quarantined"],
            groups: groups.iter().map(group).collect(),
        }
    }

    #[test]
    fn bars_are_drawn_told_and_listed() {
        let all = bars(&[
            ("first", [Some(90.0), Some(0.001)]),
            ("second <b>", [None, Some(50.0)]),
            ("c", [Some(1.0); 2]),
            ("d", [Some(f64::NAN), Some(0.0)]),
        ]);
        let picture = all.draw(Width::new(360).unwrap());
        assert_eq!(picture.rows[0], ["first", "90 %", "0.001 %"]);
        assert_eq!(picture.rows[1], ["second <b>", "-", "50 %"]);
        assert_eq!(picture.columns, ["version", "published", "quarantined"]);
        assert!(picture.svg.contains("first: 90 % / 0.001 %"), "{}", picture.svg);
        assert!(picture.svg.contains("And 1 more."), "{}", picture.svg);
        // Two of the first, one of the second, two of the third; a thin one is seen.
        let n_bars = picture.svg.matches("<rect").count();
        assert_eq!(n_bars, 5, "{}", picture.svg);
        assert!(!picture.svg.contains("#0102"), "a colour is left");
        assert!(!picture.svg.contains("<b>"), "{}", picture.svg);
    }

    #[test]
    fn nothing_is_a_picture_too() {
        for width in [240, 1600] {
            let picture = bars(&[]).draw(Width::new(width).unwrap());
            assert!(picture.svg.contains("There is nothing to show."), "{}", picture.svg);
            assert!(picture.rows.is_empty());
        }
    }
}
