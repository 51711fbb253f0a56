//! What is usual of a model, as a file.
//!
//! It must never be half of an old one and half of a new one.
//!
//! Start reading at [`BaselineFile`].

use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

use lm_monitor::{Baseline, Reading, Signal, SignalBaseline, WEEK_HOURS};
use serde::{Deserialize, Serialize};

/// What is usual of a model, and since when.
#[derive(Clone, Debug, Default)]
pub(crate) struct BaselineFile {
    pub(crate) baseline: Baseline,
    pub(crate) n_answers: u64,
    /// The release of the first answer.
    pub(crate) release: String,
    first_ms: i64,
    last_ms: i64,
    /// Days on which there were answers.
    n_days: u32,
}

#[derive(Serialize, Deserialize)]
struct Written {
    lastmile_baseline: u32,
    model: String,
    n_answers: u64,
    release: String,
    first_ms: i64,
    last_ms: i64,
    /// Files of older versions do not say.
    #[serde(default)]
    n_days: u32,
    signals: Vec<WrittenSignal>,
}

#[derive(Serialize, Deserialize)]
struct WrittenSignal {
    signal: String,
    hours: Vec<(u64, f64)>,
    sample: Vec<(u8, f64)>,
    stride: u64,
}

impl WrittenSignal {
    fn is_sound(&self) -> bool {
        let n = self.hours.iter().try_fold(0_u64, |sum, (n, _)| sum.checked_add(*n));
        (self.hours.is_empty() || self.hours.len() == WEEK_HOURS)
            && n.is_some()
            && self.hours.iter().all(|(_, sum)| sum.is_finite())
            && self
                .sample
                .iter()
                .all(|(hour, value)| usize::from(*hour) < WEEK_HOURS && value.is_finite())
            && (self.hours.is_empty() == self.sample.is_empty())
    }
}

const DAY_MS: i64 = 24 * 60 * 60 * 1000;
/// What is usual is known when it spans this, with answers on so many days.
const RIPE_MS: i64 = 14 * DAY_MS;
const RIPE_DAYS: u32 = 10;
const VERSION: u32 = 1;
const MAX_BYTES: u64 = 16 << 20;
/// A file's name may have 255 bytes.
const MAX_NAME_BYTES: usize = 80;

impl BaselineFile {
    pub(crate) fn add(&mut self, reading: &Reading, at_ms: i64, release: &str) {
        if self.n_answers == 0 {
            (self.first_ms, self.release) = (at_ms, release.to_owned());
        }
        let is_next_day = at_ms.div_euclid(DAY_MS) > self.last_ms.div_euclid(DAY_MS);
        if self.n_answers == 0 || is_next_day {
            self.n_days = self.n_days.saturating_add(1);
        }
        self.n_answers += 1;
        self.last_ms = self.last_ms.max(at_ms);
        self.baseline.add(reading);
    }

    pub(crate) fn span_ms(&self) -> i64 {
        self.last_ms.saturating_sub(self.first_ms).max(0)
    }

    /// Whether the hours of a week that have answers were seen, as a rule twice.
    pub(crate) fn is_ripe(&self) -> bool {
        self.span_ms() >= RIPE_MS && self.n_days >= RIPE_DAYS
    }

    /// Empty when there is none.
    pub(crate) fn read(folder: &Path, model: &str) -> std::io::Result<BaselineFile> {
        let path = path(folder, model);
        let text = match std::fs::metadata(&path) {
            Ok(found) if found.len() > MAX_BYTES => return Err(Error::other("it is too large")),
            Ok(_) => std::fs::read(&path)?,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error),
        };
        let written: Written = serde_json::from_slice(&text)?;
        if written.lastmile_baseline != VERSION || written.model != model {
            return Err(Error::other("it is of another version or model"));
        }
        let mut baseline = Baseline::default();
        for one in written.signals {
            let known = Signal::ALL.into_iter().find(|signal| signal.as_str() == one.signal);
            if !one.is_sound() {
                return Err(Error::other(format!("its {} is not as it was written", one.signal)));
            }
            if let Some(signal) = known {
                baseline.signals[signal as usize] =
                    SignalBaseline::of_parts(one.hours, one.sample, one.stride);
            }
        }
        let Written { n_answers, release, first_ms, last_ms, n_days, .. } = written;
        Ok(BaselineFile { baseline, n_answers, release, first_ms, last_ms, n_days })
    }

    pub(crate) fn write(&self, folder: &Path, model: &str) -> std::io::Result<()> {
        let signals = Signal::ALL.into_iter().zip(&self.baseline.signals);
        let written = Written {
            lastmile_baseline: VERSION,
            model: model.to_owned(),
            n_answers: self.n_answers,
            release: self.release.clone(),
            first_ms: self.first_ms,
            last_ms: self.last_ms,
            n_days: self.n_days,
            signals: signals
                .map(|(signal, usual)| WrittenSignal {
                    signal: signal.as_str().to_owned(),
                    hours: usual.hours.clone(),
                    sample: usual.sample.clone(),
                    stride: usual.stride,
                })
                .collect(),
        };
        std::fs::create_dir_all(folder)?;
        let path = path(folder, model);
        let next = path.with_extension("next");
        std::fs::write(&next, serde_json::to_vec(&written)?)?;
        std::fs::rename(next, path)
    }

    pub(crate) fn is_there(folder: &Path, model: &str) -> bool {
        path(folder, model).exists()
    }

    /// Whether there was one.
    pub(crate) fn remove(folder: &Path, model: &str) -> std::io::Result<bool> {
        match std::fs::remove_file(path(folder, model)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Names of models may hold what names of files may not: those characters are written as in an address.
fn path(folder: &Path, model: &str) -> PathBuf {
    let mut name = String::new();
    for byte in model.bytes().take(MAX_NAME_BYTES) {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
                name.push(char::from(byte))
            }
            other => name.push_str(&format!("%{other:02x}")),
        }
    }
    folder.join(format!("{name}.json"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn two_weeks_with_answers_on_ten_days_are_ripe() {
        let with = |days: &[i64]| {
            let mut usual = BaselineFile::default();
            // A clock that goes back makes no day.
            for at_ms in days.iter().flat_map(|day| [1, 5, 3].map(|ms| day * DAY_MS + ms)) {
                usual.add(&Reading::default(), at_ms, "abc");
            }
            usual
        };
        assert!(!with(&[0, 40]).is_ripe(), "a server that stood still has seen little");
        assert!(!with(&(0..14).collect::<Vec<i64>>()).is_ripe());
        assert!(with(&(0..15).collect::<Vec<i64>>()).is_ripe());
        let weekdays = [0, 1, 2, 3, 4, 7, 8, 9, 10, 11, 14];
        assert!(with(&weekdays).is_ripe() && !with(&weekdays[..10]).is_ripe());
        let folder = tempfile::tempdir().unwrap();
        with(&weekdays).write(folder.path(), "m").unwrap();
        assert!(BaselineFile::read(folder.path(), "m").unwrap().is_ripe());
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let mut usual = BaselineFile::default();
        for i in 0..600_u32 {
            let mut reading = Reading { hour: (i % 168) as u8, ..Reading::default() };
            reading.values[Signal::OutputTokens as usize] = Some(f64::from(i));
            usual.add(&reading, i64::from(i) * 1000, "abc");
        }
        usual.write(folder.path(), "a/b").unwrap();
        let read = BaselineFile::read(folder.path(), "a/b").unwrap();
        let of = |file: &BaselineFile| file.baseline.of(Signal::OutputTokens).cloned().unwrap();
        assert_eq!(of(&read), of(&usual));
        assert_eq!((read.n_answers, read.span_ms()), (600, 599_000));
        assert_eq!(read.release, "abc");
        assert_eq!(BaselineFile::read(folder.path(), "a_b").unwrap().n_answers, 0);
        // A file that somebody touched is an error, and no reason to stop.
        let path = path(folder.path(), "a/b");
        let text = std::fs::read_to_string(&path).unwrap().replacen(
            "\"hours\":[[",
            "\"hours\":[[1,1.0],[",
            1,
        );
        std::fs::write(&path, text).unwrap();
        assert!(BaselineFile::read(folder.path(), "a/b").is_err());
        assert!(BaselineFile::remove(folder.path(), "a/b").unwrap());
        assert!(!BaselineFile::remove(folder.path(), "a/b").unwrap());
    }
}
