//! Pictures as SVG text whose colours a style sheet decides.
//!
//! It must never put text of a request into a picture, nor need a font.
//!
//! Start reading at [`Picture`].

use plotters::style::RGBColor;
use serde::Serialize;

/// A picture, what it shows in words, and the same as a table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Picture {
    /// What it shows.
    pub title: String,
    /// Scalable Vector Graphics. Lines and areas have classes `s0`, `s1`, ...
    pub svg: String,
    /// What the colours mean.
    pub legend: Vec<Swatch>,
    /// Heads of the table's columns.
    pub columns: Vec<String>,
    /// Rows of the table.
    pub rows: Vec<Vec<String>>,
}

/// One colour's meaning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Swatch {
    /// Which of the colours, from 0.
    pub series: usize,
    /// What it stands for.
    pub name: String,
}

/// How wide a picture is, in CSS pixels: text keeps its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Width(u32);

/// A width that no picture has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("width is {found}, but must be from 240 to 1600 pixels")]
pub struct WidthError {
    /// What was asked for.
    pub found: u32,
}

impl Width {
    /// # Errors
    /// Below 240 or above 1600 pixels.
    pub fn new(pixels: u32) -> Result<Self, WidthError> {
        if (240..=1600).contains(&pixels) {
            Ok(Width(pixels))
        } else {
            Err(WidthError { found: pixels })
        }
    }

    pub(crate) fn pixels(self) -> u32 {
        self.0
    }
}

/// Pixels of a font of 12: plotters divides by this.
pub(crate) const FONT: (&str, f64) = ("sans-serif", 12.0 * 1.24);

/// Colours that stand for classes; each is replaced by a class and a colour of its own.
const LABEL: RGBColor = RGBColor(1, 2, 1);
const GRID: RGBColor = RGBColor(1, 2, 2);
const AXIS: RGBColor = RGBColor(1, 2, 3);
const FIRST_SERIES: u8 = 16;
/// For who looks at a picture without the style sheet.
const SERIES: [&str; 6] = ["#2563EB", "#B45309", "#0F766E", "#7C3AED", "#BE123C", "#64748B"];

pub(crate) fn label() -> RGBColor {
    LABEL
}

pub(crate) fn grid() -> RGBColor {
    GRID
}

pub(crate) fn axis() -> RGBColor {
    AXIS
}

/// There are six, and then they begin again.
pub(crate) fn series(i: usize) -> RGBColor {
    RGBColor(1, 2, FIRST_SERIES + (i % SERIES.len()) as u8)
}

/// Replaces colours by classes, and says what the picture shows for whom does not see it.
pub(crate) fn finish(svg: &str, title: &str, description: &str) -> String {
    let mut svg = svg.to_owned();
    let plain = [(LABEL, "label", "#475569"), (GRID, "grid", "#CBD5E1"), (AXIS, "axis", "#64748B")];
    let named = plain.map(|(color, class, shown)| (color, class.to_owned(), shown));
    let series = (0..SERIES.len()).map(|i| (series(i), format!("s{i}"), SERIES[i]));
    for (RGBColor(r, g, b), class, shown) in named.into_iter().chain(series) {
        for property in ["stroke", "fill"] {
            let from = format!("{property}=\"#{r:02X}{g:02X}{b:02X}\"");
            svg = svg.replace(&from, &format!("class=\"{class}\" {property}=\"{shown}\""));
        }
    }
    let (title, description) = (escaped(title), escaped(description));
    let Some((head, rest)) = svg.split_once('>') else { return svg };
    format!("{head} role=\"img\"><title>{title}</title><desc>{description}</desc>{rest}")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A name that somebody gave, in at most so many characters: letters, digits and plain punctuation, a dot for all else.
pub(crate) fn plain(name: &str, most_chars: usize) -> String {
    let is_plain = |c: &char| c.is_alphanumeric() || " -_.,:/()+%".contains(*c);
    let all = name.chars().map(|c| if is_plain(&c) { c } else { '\u{b7}' });
    if name.chars().nth(most_chars).is_none() {
        return all.collect();
    }
    all.take(most_chars.saturating_sub(1)).chain(['\u{2026}']).take(most_chars).collect()
}

/// A number in four characters or so: `1234567.0` is `1.2M`.
pub(crate) fn short(value: f64) -> String {
    let (scaled, unit) = match value.abs() {
        v if v >= 999.5e6 => (value / 1e9, "G"),
        v if v >= 999.5e3 => (value / 1e6, "M"),
        v if v >= 9_999.5 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let digits = match scaled.abs() {
        v if v >= 100.0 || v == v.round() => 0,
        v if v >= 10.0 => 1,
        v if v >= 0.1 => 2,
        _ => 3,
    };
    let text = format!("{scaled:.digits$}");
    let text = if digits > 0 { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

#[cfg(test)]
mod tests {
    use super::{finish, plain, short};

    #[test]
    fn names_are_plain_and_fit() {
        assert_eq!(plain("de, 0-49 (caf\u{e9})", 99), "de, 0-49 (caf\u{e9})");
        assert_eq!(plain("<img>\u{202e}\n", 99), "\u{b7}img\u{b7}\u{b7}\u{b7}");
        assert_eq!(plain("abcdef", 6), "abcdef");
        assert_eq!(plain("abcdef", 4), "abc\u{2026}");
        assert_eq!(plain("abcdef", 0), "");
    }

    #[test]
    fn numbers_are_short() {
        #[track_caller]
        fn check(value: f64, expect: &str) {
            assert_eq!(short(value), expect);
        }
        check(0.0, "0");
        check(0.012, "0.012");
        check(0.5, "0.5");
        check(12.34, "12.3");
        check(1234.6, "1235");
        check(10_500.0, "10.5k");
        check(1_234_567.0, "1.23M");
        check(2e9, "2G");
    }

    #[test]
    fn words_of_a_picture_stay_words() {
        let svg = finish("<svg a=\"b\"><line stroke=\"#010210\"/></svg>", "a < b & c", "<img>");
        assert_eq!(
            svg,
            "<svg a=\"b\" role=\"img\"><title>a &lt; b &amp; c</title><desc>&lt;img&gt;</desc>\
             <line class=\"s0\" stroke=\"#2563EB\"/></svg>"
        );
    }
}
