//! Prometheus' text format, version 0.0.4.
//!
//! It must never know what is measured.
//!
//! Start reading at [`Exposition`].

use std::fmt::{Display, Write};

use lastmile::HistogramSnapshot;

/// A page of metrics that is being written.
#[derive(Default)]
pub(crate) struct Exposition {
    text: String,
}

/// Name and value of a label.
pub(crate) type Label<'a> = (&'a str, &'a str);

impl Exposition {
    /// Begins a metric. Its samples follow.
    pub(crate) fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    pub(crate) fn sample(&mut self, name: &str, labels: &[Label<'_>], value: impl Display) {
        let labels = braces(labels);
        self.line(format_args!("{name}{labels} {value}"));
    }

    /// A metric of one sample.
    pub(crate) fn single(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        labels: &[Label<'_>],
        value: impl Display,
    ) {
        self.family(name, kind, help);
        self.sample(name, labels, value);
    }

    /// The samples of a histogram, one label set. Its family is begun already.
    pub(crate) fn histogram(
        &mut self,
        name: &str,
        labels: &[Label<'_>],
        histogram: &HistogramSnapshot,
    ) {
        let bucket = format!("{name}_bucket");
        for &(bound, n) in &histogram.cumulative {
            let bound = if bound.is_finite() { bound.to_string() } else { "+Inf".to_owned() };
            let with_bound: Vec<Label<'_>> =
                labels.iter().copied().chain([("le", bound.as_str())]).collect();
            self.sample(&bucket, &with_bound, n);
        }
        self.sample(&format!("{name}_sum"), labels, histogram.sum_seconds);
        self.sample(&format!("{name}_count"), labels, histogram.count());
    }

    pub(crate) fn into_text(self) -> String {
        self.text
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.text, "{line}").expect("a string takes all text: this is a bug");
    }
}

fn braces(labels: &[Label<'_>]) -> String {
    if labels.is_empty() {
        return String::new();
    }
    let labels: Vec<String> =
        labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    format!("{{{}}}", labels.join(","))
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::Exposition;

    #[test]
    fn label_values_are_escaped() {
        let mut page = Exposition::default();
        page.single("m", "gauge", "Help.", &[("l", "a\\b\"c\nd")], 1.5);
        let expect = "# HELP m Help.\n# TYPE m gauge\nm{l=\"a\\\\b\\\"c\\nd\"} 1.5\n";
        assert_eq!(page.into_text(), expect);
    }
}
