//! What a release's token probabilities are worth: the part of its judged answers that was good, as a function of how
//! likely the model found them. One file for each release.
//!
//! It must never speak for another release, and never from a few answers.
//!
//! Start reading at [`Calibration::fit`], then [`Calibrations`] (the files).

use std::io::{Error, ErrorKind};
use std::path::PathBuf;

use lastmile::ReleaseHash;
use lm_api::Learned;
use lm_evidence::{Isotonic, Scored, calibration_error, held_out, skill};
use serde::{Deserialize, Serialize};

use crate::Ops;

/// What was learned of one release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// The release, in hexadecimal.
    pub release: String,
    /// Its model's name as served.
    pub model: String,
    /// When it was fitted, in Unix milliseconds.
    pub fitted_at_ms: i64,
    /// Answers that were judged.
    pub n_judged: u64,
    /// Good ones among them.
    pub n_good: u64,
    /// Expected calibration error on answers that were held out of the fit, in 10 bins.
    pub calibration_error: f64,
    /// Which part of the squared error of saying the same of every answer is gone: 0 when the probabilities tell nothing.
    pub skill: f64,
    /// From the mean log-probability of an answer's tokens to the part of such answers that was good.
    pub steps: Isotonic,
}

/// A release of which too little is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{n_judged} answers are judged, {n_good} of them good, but at least {} must be, of which {least} good and {least} bad",
    Calibration::MIN_JUDGED,
    least = Calibration::MIN_OF_EACH
)]
pub struct TooFewJudged {
    /// Answers that were judged.
    pub n_judged: u64,
    /// Good ones among them.
    pub n_good: u64,
}

/// The files of a home.
#[derive(Clone, Debug)]
pub struct Calibrations {
    folder: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Written {
    lastmile_confidence: u32,
    #[serde(flatten)]
    calibration: Calibration,
}

const VERSION: u32 = 1;
const MAX_BYTES: u64 = 1 << 20;
/// Answers that a step needs: the part of fewer would hardly be known.
const MIN_STEP: u64 = 20;
const FOLDS: usize = 5;
const BINS: usize = 10;

impl Calibration {
    /// Judged answers that a release needs.
    pub const MIN_JUDGED: u64 = 100;
    /// Good ones among them, and bad ones.
    pub const MIN_OF_EACH: u64 = 10;

    /// Fits one release. Scores are mean log-probabilities.
    ///
    /// # Errors
    /// [`TooFewJudged`].
    pub fn fit(
        release: &str,
        model: &str,
        judged: &[Scored],
        now_ms: i64,
    ) -> Result<Calibration, TooFewJudged> {
        let n_judged = judged.len() as u64;
        let n_good = judged.iter().filter(|one| one.is_good).count() as u64;
        let n_rarer = n_good.min(n_judged - n_good);
        if n_judged < Self::MIN_JUDGED || n_rarer < Self::MIN_OF_EACH {
            return Err(TooFewJudged { n_judged, n_good });
        }
        let held_out = held_out(judged, FOLDS, MIN_STEP);
        Ok(Calibration {
            release: release.to_owned(),
            model: model.to_owned(),
            fitted_at_ms: now_ms,
            n_judged,
            n_good,
            calibration_error: calibration_error(&held_out, BINS),
            skill: skill(&held_out),
            steps: Isotonic::fit(judged, MIN_STEP),
        })
    }

    /// What is known of answers with this mean log-probability.
    #[must_use]
    pub fn learned(&self, mean_logprob: f64) -> Learned {
        let step = self.steps.at(mean_logprob);
        Learned {
            probability: step.rate,
            n_alike: step.n,
            n_judged: self.n_judged,
            calibration_error: self.calibration_error,
        }
    }
}

impl Calibrations {
    /// Those in a folder, which need not be there.
    #[must_use]
    pub fn new(folder: PathBuf) -> Calibrations {
        Calibrations { folder }
    }

    /// What was learned of a release; `None` when nothing was.
    ///
    /// # Errors
    /// Why its file cannot be read, or that it is not as it was written.
    pub fn read(&self, release: &str) -> std::io::Result<Option<Calibration>> {
        let path = self.path(release)?;
        let text = match std::fs::metadata(&path) {
            Ok(found) if found.len() > MAX_BYTES => return Err(Error::other("it is too large")),
            Ok(_) => std::fs::read(&path)?,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let written: Written = serde_json::from_slice(&text)?;
        let calibration = written.calibration;
        if written.lastmile_confidence != VERSION || calibration.release != release {
            return Err(Error::other("it is of another version or release"));
        }
        Ok(Some(calibration))
    }

    /// Those of all releases, the newest first.
    ///
    /// # Errors
    /// As for [`Self::read`].
    pub fn all(&self) -> std::io::Result<Vec<Calibration>> {
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut all = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let release = name.to_str().and_then(|name| name.strip_suffix(".json"));
            let Some(release) = release else { continue };
            let read = self.read(release);
            all.extend(
                read.map_err(|error| Error::new(error.kind(), format!("{release}: {error}")))?,
            );
        }
        all.sort_by(|a, b| (b.fitted_at_ms, &a.release).cmp(&(a.fitted_at_ms, &b.release)));
        Ok(all)
    }

    /// Puts it in the place of what was known of its release. Servers that run use it from the next request on.
    ///
    /// # Errors
    /// Why it could not be written.
    pub fn write(&self, calibration: &Calibration) -> std::io::Result<()> {
        let path = self.path(&calibration.release)?;
        std::fs::create_dir_all(&self.folder)?;
        let written = Written { lastmile_confidence: VERSION, calibration: calibration.clone() };
        let next = path.with_extension(format!("next-{}", std::process::id()));
        std::fs::write(&next, serde_json::to_vec(&written)?)?;
        std::fs::rename(next, path)
    }

    fn path(&self, release: &str) -> std::io::Result<PathBuf> {
        let is_hash = !release.is_empty() && release.bytes().all(|byte| byte.is_ascii_hexdigit());
        let not_a_release =
            || Error::new(ErrorKind::InvalidInput, "it is not named after a release");
        is_hash.then(|| self.folder.join(format!("{release}.json"))).ok_or_else(not_a_release)
    }
}

impl Ops {
    /// With what was learned of releases; without, no confidence is calibrated.
    #[must_use]
    pub fn with_calibrations(mut self, calibrations: Calibrations) -> Self {
        self.calibrations = Some(calibrations);
        self
    }

    /// What was learned of a release. Blocks for as long as a small file takes.
    #[must_use]
    pub fn calibration(&self, release: ReleaseHash) -> Option<Calibration> {
        let release = release.to_string();
        self.calibrations.as_ref()?.read(&release).unwrap_or_else(|error| {
            tracing::warn!(%error, %release, "confidence is not calibrated: its file cannot be used");
            None
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    /// The likelier, the more often good: a quarter, half and all but a few.
    fn judged(n: u32) -> Vec<Scored> {
        let one = |i: u32| {
            let third = i % 3;
            let is_good = (i / 3) % 12 < [3, 6, 11][third as usize];
            Scored { score: f64::from(third) - 3.0 + f64::from(i) * 1e-4, is_good }
        };
        (0..n).map(one).collect()
    }

    #[test]
    fn a_fit_tells_the_part_that_was_good_and_how_far_off_it_is() {
        let fit = Calibration::fit("ab12", "m", &judged(720), 7).unwrap();
        assert_eq!((fit.n_judged, fit.n_good, fit.fitted_at_ms), (720, 400, 7));
        for (mean, part) in [(-9.0, 0.25), (-2.97, 0.25), (-1.95, 0.5), (-0.95, 0.92), (0.0, 0.92)]
        {
            let learned = fit.learned(mean);
            assert!((learned.probability - part).abs() < 0.15, "{mean}: {learned:?}");
            assert!(learned.n_alike >= 20 && learned.n_judged == 720, "{learned:?}");
        }
        assert!(fit.calibration_error < 0.1, "{fit:?}");
        assert!(fit.skill > 0.15, "{fit:?}");
    }

    #[test]
    fn too_few_are_no_fit() {
        let refused = |judged: &[Scored]| Calibration::fit("ab", "m", judged, 0).unwrap_err();
        let few = refused(&judged(99));
        assert_eq!((few.n_judged, few.to_string().contains("at least 100")), (99, true));
        let mut all_good = judged(500);
        all_good.iter_mut().enumerate().for_each(|(i, one)| one.is_good = i >= 9);
        assert_eq!(refused(&all_good), TooFewJudged { n_judged: 500, n_good: 491 });
        all_good[9].is_good = false;
        assert!(Calibration::fit("ab", "m", &all_good, 0).is_ok());
    }

    #[test]
    fn what_is_written_is_read_and_what_was_touched_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let files = Calibrations::new(folder.path().join("confidence"));
        assert_eq!((files.read("ab12").unwrap(), files.all().unwrap().len()), (None, 0));
        let fit = Calibration::fit("ab12", "m", &judged(300), 7).unwrap();
        files.write(&fit).unwrap();
        let read = files.read("ab12").unwrap().unwrap();
        assert_eq!((read.n_judged, read.steps.steps().len()), (300, fit.steps.steps().len()));
        assert!((read.calibration_error - fit.calibration_error).abs() < 1e-12);
        files.write(&Calibration { release: "cd".to_owned(), fitted_at_ms: 8, ..fit }).unwrap();
        let all: Vec<String> = files.all().unwrap().into_iter().map(|one| one.release).collect();
        assert_eq!(all, ["cd", "ab12"]);
        let path = folder.path().join("confidence/ab12.json");
        let text = std::fs::read_to_string(&path).unwrap();
        for (from, to) in
            [("\"rate\":0.", "\"rate\":7."), ("\"release\":\"ab12\"", "\"release\":\"ab\"")]
        {
            std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
            assert!(files.read("ab12").is_err(), "{from}");
            assert!(files.all().unwrap_err().to_string().contains("ab12"));
        }
        assert!(files.read("../ab12").is_err());
    }
}
