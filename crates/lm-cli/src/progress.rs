//! Long work as a bar on a terminal, and as a line every few seconds elsewhere.

use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use lm_models::Progress;

use crate::outcome::human_bytes;

const LINE_EVERY: Duration = Duration::from_secs(3);

/// Draws progress on standard error.
pub(crate) struct Drawn {
    is_terminal: bool,
    part: Mutex<Option<Part>>,
}

struct Part {
    what: String,
    total: Option<u64>,
    bar: Option<ProgressBar>,
    last_line: Instant,
}

impl Drawn {
    pub(crate) fn new() -> Self {
        Drawn { is_terminal: std::io::stderr().is_terminal(), part: Mutex::new(None) }
    }

    fn with_part(&self, change: impl FnOnce(&mut Option<Part>)) {
        change(&mut self.part.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Progress for Drawn {
    fn begin(&self, what: &str, total_bytes: Option<u64>) {
        let bar = self.is_terminal.then(|| bar(what, total_bytes));
        if bar.is_none() {
            eprintln!("{what}");
        }
        let (what, total, last_line) = (what.to_owned(), total_bytes, Instant::now());
        self.with_part(|part| *part = Some(Part { what, total, bar, last_line }));
    }

    fn advance(&self, done_bytes: u64) {
        self.with_part(|part| {
            let Some(part) = part else { return };
            if let Some(bar) = &part.bar {
                bar.set_position(done_bytes);
            } else if part.last_line.elapsed() >= LINE_EVERY {
                part.last_line = Instant::now();
                let of = part.total.map_or(String::new(), |n| format!(" of {}", human_bytes(n)));
                eprintln!("{}: {}{of}", part.what, human_bytes(done_bytes));
            }
        });
    }

    fn note(&self, line: &str) {
        self.with_part(|part| match part.as_ref().and_then(|part| part.bar.as_ref()) {
            Some(bar) => bar.println(line),
            None => eprintln!("{line}"),
        });
    }

    fn end(&self) {
        self.with_part(|part| {
            if let Some(bar) = part.take().and_then(|part| part.bar) {
                bar.finish_and_clear();
            }
        });
    }
}

fn bar(what: &str, total: Option<u64>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => (ProgressBar::new(total), "{msg} {wide_bar} {bytes}/{total_bytes} {eta}"),
        None => (ProgressBar::new_spinner(), "{spinner} {msg} {elapsed}"),
    };
    let style = ProgressStyle::with_template(template);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
