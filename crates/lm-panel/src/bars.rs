//! Groups of bars beside names, above a common axis: counts and shares that are compared.
//!
//! It must never begin an axis elsewhere than at zero, nor draw a bar so thin that it is not seen.
//!
//! Start reading at [`Bars::draw`].

use crate::axis::{Bar, CHAR_WIDTH, Edge, Rows, Word, length};
use crate::paint::{self, plain, short};
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
    /// The picture shows its letters, digits and plain punctuation, as many as there is room for in a line; the table all
    /// of it.
    pub name: String,
    /// One for each of the series; `None` where nothing is known.
    pub values: Vec<Option<f64>>,
}

/// A name with its numbers, or one of the two.
const LINE_HEIGHT: u32 = 20;
const BAR_HEIGHT: u32 = 12;
const GROUP_GAP: u32 = 8;
const LEFT: u32 = 8;
const RIGHT: u32 = 28;
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

    /// Numbers stand behind the names, or below them where there is too little room for both.
    fn svg(&self, width: Width) -> String {
        let values = self.groups.iter().flat_map(|group| group.values.iter().flatten());
        let end = values.copied().filter(|value| value.is_finite()).fold(0.0, f64::max);
        let end = if end > 0.0 { end } else { 1.0 };
        let length = length(width, LEFT, RIGHT);
        // One and a half pixels.
        let thinnest = 1.5 * end / f64::from(length);
        let room = (length / CHAR_WIDTH) as usize;
        let has_room = |group: &BarGroup| {
            group.name.chars().count() + self.numbers(group).chars().count() + 2 <= room
        };
        let n_lines = if self.groups.iter().all(has_room) { 1 } else { 2 };
        let head_height = n_lines * LINE_HEIGHT;
        let group_height = head_height + self.series.len() as u32 * BAR_HEIGHT + GROUP_GAP;
        let (mut bars, mut words) = (Vec::new(), Vec::new());
        for (i, group) in self.groups.iter().enumerate() {
            let top = i as u32 * group_height;
            let values = group.values.iter().take(self.series.len()).enumerate();
            bars.extend(values.filter_map(|(series, value)| {
                let value = value.filter(|value| value.is_finite() && *value > 0.0)?;
                let top = f64::from(top + head_height + series as u32 * BAR_HEIGHT);
                let bottom = top + f64::from(BAR_HEIGHT) - 3.0;
                Some(Bar { from: 0.0, to: value.max(thinnest), top, bottom, series })
            }));
            let middle = top + LINE_HEIGHT / 2;
            let text = plain(&group.name, room);
            words.push(Word { text, edge: Edge::Left(LEFT), middle });
            let middle = middle + (n_lines - 1) * LINE_HEIGHT;
            words.push(Word { text: self.numbers(group), edge: Edge::Right, middle });
        }
        let rows = Rows {
            width,
            left: LEFT,
            right: RIGHT,
            height: self.groups.len().max(1) as u32 * group_height,
            span: 0.0..end,
            tick: &|x| format!("{}{}", short(x), self.unit),
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
    fn names_are_whole_beside_their_numbers_and_below_where_there_is_no_room() {
        let all = bars(&[("failed to noticed (123)", [Some(47.3), Some(1234.6)])]);
        let height = |width| {
            let picture = all.draw(Width::new(width).unwrap());
            let svg = picture.svg;
            assert!(svg.contains("\nfailed to noticed (123)\n"), "{svg}");
            assert!(svg.contains("\n47.3 % / 1235 %\n"), "{svg}");
            assert!(!svg.contains('\u{2026}'), "{svg}");
            let (_, rest) = svg.split_once("height=\"").unwrap();
            rest.split('"').next().unwrap().parse::<u32>().unwrap()
        };
        assert_eq!(height(240), height(800) + 20);
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
