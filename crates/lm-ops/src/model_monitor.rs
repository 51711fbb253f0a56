//! The monitors of one model: what is usual, what is not, and which alerts follow.
//!
//! It must never read a clock: answers bring their times.
//!
//! Start reading at [`Model::see`].

use std::collections::BTreeMap;
use std::path::Path;

use lastmile::RequestId;
use lm_feedback::is_refusal;
use lm_monitor::{Alarm, N_SIGNALS, Promise, Reading, Signal, Standing, Watcher};
use serde::Serialize;

use crate::alert_board::{AlertState, Board, ToldAlarm};
use crate::baseline_file::BaselineFile;
use crate::monitors::{MonitorEntry, Recent};
use crate::seen::Seen;
use crate::sinks::Message;

const WEEK_MS: i64 = 7 * 24 * 60 * 60 * 1000;
/// False alarms in a week, over all signals of a model.
const FALSE_ALARMS_PER_WEEK: f64 = 0.5;
/// Windows are closed so often; together they may err this often in a day.
const WINDOW_MS: i64 = 5 * 60 * 1000;
const WINDOW_ALPHA_A_DAY: f64 = 0.05;
/// Answers learned from that a restart may lose.
const KEPT_EVERY: u64 = 100;
/// As `KEPT_EVERY`, of what few answers have.
const KEPT_RARE_EVERY: u64 = 20;
/// Limits are set anew with so many answers, or with a sixteenth more than there were.
const RECALIBRATIONS: u64 = 16;
/// Before anything is usual, a release that gives so many answers in a row has taken the place of the one before.
const REPLACED: u64 = 100;

/// What holds for all models.
#[derive(Clone, Copy)]
pub(crate) struct Rules {
    /// Answers without which nothing is usual.
    pub(crate) n_baseline: u64,
    pub(crate) renotify_ms: i64,
}

pub(crate) struct Model {
    pub(crate) usual: BaselineFile,
    watcher: Option<Watcher>,
    /// Answers that were learned from when limits were set.
    calibrated_at: u64,
    /// Answers in a row that are of another release than what is learned.
    n_others: u64,
    n_seen: u64,
    release: String,
    window_at_ms: i64,
    pub(crate) board: Board,
    counts: [u64; N_SIGNALS],
    pub(crate) recent: Recent,
    rules: Rules,
    /// Who paused it, where somebody did.
    paused: Option<MonitorEntry>,
}

/// What follows from an answer.
pub(crate) struct Follows {
    /// Whether what is usual is to be kept.
    pub(crate) is_to_keep: bool,
    /// Whether an alert opened, or goes on.
    pub(crate) is_noticed: bool,
    pub(crate) messages: Vec<Message>,
}

impl Follows {
    fn nothing_but(is_to_keep: bool) -> Follows {
        Follows { is_to_keep, is_noticed: false, messages: Vec::new() }
    }
}

/// How a model stands.
#[derive(Clone, Debug, Serialize)]
pub struct ModelStanding {
    /// The model's name as served.
    pub model: String,
    /// `learning`, `watching` or `paused`.
    pub state: &'static str,
    /// Who paused it, when and why; `None` when nobody did.
    pub paused: Option<MonitorEntry>,
    /// Answers that what is usual was learned from.
    pub baseline_answers: u64,
    /// Answers that are needed.
    pub baseline_needs: u64,
    /// The release that they are of.
    pub usual_of: String,
    /// Whether they span less than two weeks, or are of fewer than ten days.
    pub is_provisional: bool,
    /// Answers seen since the start.
    pub seen: u64,
    /// `unknown`, `ok`, `warning`, `alert`, `no_data` or `paused`, by signal.
    pub signals: BTreeMap<&'static str, &'static str>,
    /// Alarms since the start, by signal.
    pub alarm_counts: BTreeMap<&'static str, u64>,
    /// The newest first.
    pub alarms: Vec<ToldAlarm>,
}

impl Model {
    /// With the alerts that were open when an earlier server ended.
    pub(crate) fn open(folder: &Path, name: &str, rules: Rules, open: Vec<ToldAlarm>) -> Model {
        let usual = BaselineFile::read(folder, name).unwrap_or_else(|error| {
            tracing::error!(%error, model = name, "what is usual is learned anew");
            BaselineFile::default()
        });
        Model::new(usual, rules, open)
    }

    pub(crate) fn new(usual: BaselineFile, rules: Rules, open: Vec<ToldAlarm>) -> Model {
        let watcher = (usual.n_answers >= rules.n_baseline)
            .then(|| Watcher::new(&usual.baseline, promise(&usual)));
        let calibrated_at = if watcher.is_some() { usual.n_answers } else { 0 };
        Model {
            usual,
            watcher,
            calibrated_at,
            n_others: 0,
            n_seen: 0,
            release: String::new(),
            window_at_ms: 0,
            board: Board::new(rules.renotify_ms, open),
            counts: [0; N_SIGNALS],
            recent: Recent::default(),
            rules,
            paused: None,
        }
    }

    pub(crate) fn see(&mut self, mut seen: Seen) -> Follows {
        if let Some(opening) = &seen.opening {
            let refuses = f64::from(u8::from(is_refusal(opening)));
            seen.reading.values[Signal::Refusal as usize] = Some(refuses);
        }
        self.recent.add(seen.at_ms, &seen.reading);
        if seen.is_answer {
            self.n_seen += 1;
            self.release.clone_from(&seen.release);
        }
        if self.is_paused() {
            return Follows::nothing_but(false);
        }
        if seen.is_answer {
            self.board.saw();
        }
        let Some(watcher) = &mut self.watcher else {
            return Follows::nothing_but(self.learn(&seen));
        };
        let mut found = watcher.add(&seen.reading);
        // The clock may have gone back.
        if (seen.at_ms - self.window_at_ms).abs() >= WINDOW_MS {
            self.window_at_ms = seen.at_ms;
            let windows_a_day = (24 * 60 * 60 * 1000 / WINDOW_MS) as f64;
            found.extend(watcher.close_window(WINDOW_ALPHA_A_DAY / windows_a_day));
        }
        let messages = found.iter().filter_map(|alarm| self.tell(alarm, &seen)).collect();
        // What is near its limit is learned, too: what is usual without its tails would make limits too low.
        let is_to_keep = self.usual.release == seen.release
            && match self.usual.is_ripe() {
                true => self.learn_rare(&seen),
                false => self.learn(&seen),
            };
        Follows { is_to_keep, is_noticed: !found.is_empty(), messages }
    }

    /// Answers of a model that is paused are neither watched nor learned from, and its alerts stay as they are; `None` resumes
    /// it. Says how it stands then.
    pub(crate) fn pause(&mut self, paused: Option<MonitorEntry>) -> &'static str {
        if self.is_paused() && paused.is_none() && self.watcher.is_some() {
            // What was summed up before is of another time.
            self.watcher = Some(Watcher::new(&self.usual.baseline, promise(&self.usual)));
        }
        self.paused = paused;
        self.state()
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    /// How far a signal is on its way to an alarm, from 0 to 1; `None` as long as nobody knows what is usual of it.
    pub(crate) fn progress(&self, signal: Signal) -> Option<f64> {
        self.watcher.as_ref()?.progress(signal)
    }

    /// What of its alerts is over, or unknown, by now.
    pub(crate) fn tick(&mut self, now_ms: i64) -> Vec<Message> {
        if self.is_paused() { Vec::new() } else { self.board.tick(now_ms) }
    }

    fn state(&self) -> &'static str {
        match (self.is_paused(), &self.watcher) {
            (true, _) => "paused",
            (false, Some(_)) => "watching",
            (false, None) => "learning",
        }
    }

    /// Whether what is usual is to be kept.
    fn learn(&mut self, seen: &Seen) -> bool {
        if self.watcher.is_none() && self.is_of_another(seen) {
            return false;
        }
        let reading = self.to_learn(seen);
        if !seen.is_answer {
            // An answer was counted when it came.
            self.usual.baseline.add(&reading);
            return false;
        }
        self.usual.add(&reading, seen.at_ms, &seen.release);
        let (n, n_baseline) = (self.usual.n_answers, self.rules.n_baseline);
        let n_more = n.saturating_sub(self.calibrated_at);
        let is_due = self.usual.is_ripe() || n_more >= n_baseline.max(n / RECALIBRATIONS);
        if n < n_baseline || !is_due {
            return n.is_multiple_of(KEPT_EVERY);
        }
        self.calibrate(&seen.model);
        true
    }

    /// What few answers have, such as ratings, is learned until it is known, too.
    fn learn_rare(&mut self, seen: &Seen) -> bool {
        let mut rare = seen.reading;
        for signal in Signal::ALL {
            if self.usual.baseline.of(signal).is_some() {
                rare.values[signal as usize] = None;
            }
        }
        let had: Vec<Signal> =
            Signal::ALL.into_iter().filter(|one| rare.values[*one as usize].is_some()).collect();
        self.usual.baseline.add(&rare);
        let n_of = |signal: &Signal| self.usual.baseline.signals[*signal as usize].n_values();
        let is_to_keep = had.iter().any(|signal| n_of(signal).is_multiple_of(KEPT_RARE_EVERY));
        let is_known = had.iter().any(|signal| self.usual.baseline.of(*signal).is_some());
        if is_known {
            self.calibrate(&seen.model);
        }
        is_to_keep || is_known
    }

    fn calibrate(&mut self, model: &str) {
        let n = self.usual.n_answers;
        self.calibrated_at = n;
        let (usual, promise) = (&self.usual.baseline, promise(&self.usual));
        match &mut self.watcher {
            Some(watcher) => watcher.recalibrate(usual, promise),
            None => {
                tracing::info!(model, n, "what is usual is known: answers are watched");
                self.watcher = Some(Watcher::new(usual, promise));
            }
        }
    }

    /// What is usual is of one release. One that takes its place before anything is usual is learned from its own answers.
    fn is_of_another(&mut self, seen: &Seen) -> bool {
        if self.usual.n_answers == 0 || self.usual.release == seen.release {
            self.n_others = 0;
            return false;
        }
        self.n_others += u64::from(seen.is_answer);
        if self.n_others < REPLACED {
            return true;
        }
        self.n_others = 0;
        self.usual = BaselineFile::default();
        false
    }

    /// An alert stays until things are as they were, or an operator forgets how they were: as long as it is open, what it is
    /// about is not learned. An hour that is not known is, as it may be another one by itself.
    fn to_learn(&self, seen: &Seen) -> Reading {
        let mut reading = seen.reading;
        let Some(watcher) = &self.watcher else { return reading };
        for told in self.board.open() {
            let of_it = Signal::ALL.into_iter().find(|signal| signal.as_str() == told.signal);
            if let Some(signal) = of_it
                && watcher.is_known(signal, reading.hour)
            {
                reading.values[signal as usize] = None;
            }
        }
        reading
    }

    fn tell(&mut self, alarm: &Alarm, seen: &Seen) -> Option<Message> {
        let how = match alarm.is_up {
            Some(true) => "higher",
            Some(false) => "lower",
            None => "otherwise distributed",
        };
        self.counts[alarm.signal as usize] += 1;
        self.board.notice(ToldAlarm {
            state: AlertState::Alert,
            since_ms: seen.ended_ms,
            at_ms: seen.ended_ms,
            model: seen.model.clone(),
            signal: alarm.signal.as_str().to_owned(),
            how: how.to_owned(),
            began_ago: alarm.began_ago,
            n_again: 0,
            examples: alarm.examples.iter().map(|id| RequestId(*id).to_string()).collect(),
            release: seen.release.clone(),
            usual_of: self.usual.release.clone(),
            is_provisional: !self.usual.is_ripe(),
        })
    }

    pub(crate) fn standing(&self, name: &str) -> ModelStanding {
        let state = |signal: Signal| {
            let of_signal = self.board.open().filter(|told| told.signal == signal.as_str());
            of_signal.map(|told| told.state).next()
        };
        let standing = |signal: Signal| match self.watcher.as_ref().map(|w| w.standing(signal)) {
            None | Some(Standing::Unknown) => "unknown",
            Some(Standing::Ok) => "ok",
            Some(Standing::Warning) => "warning",
        };
        let word = |signal: Signal| match state(signal) {
            _ if self.is_paused() => "paused",
            Some(AlertState::Alert) => "alert",
            Some(AlertState::NoData) => "no_data",
            Some(AlertState::Ok) | None => standing(signal),
        };
        let signals = Signal::ALL.into_iter();
        let counts = signals.clone().map(|one| (one.as_str(), self.counts[one as usize]));
        ModelStanding {
            model: name.to_owned(),
            state: self.state(),
            paused: self.paused.clone(),
            baseline_answers: self.usual.n_answers,
            baseline_needs: self.rules.n_baseline,
            usual_of: self.usual.release.clone(),
            is_provisional: !self.usual.is_ripe(),
            seen: self.n_seen,
            signals: signals.map(|one| (one.as_str(), word(one))).collect(),
            alarm_counts: counts.collect(),
            alarms: self.board.all().cloned().collect(),
        }
    }
}

fn promise(usual: &BaselineFile) -> Promise {
    let span_ms = usual.span_ms().max(1) as f64;
    // A burst says little of a week; more answers make the limits higher, so the guess is on the safe side.
    let answers_per_week = (usual.n_answers as f64 * WEEK_MS as f64 / span_ms).clamp(1e3, 1e8);
    Promise { false_alarms_per_week: FALSE_ALARMS_PER_WEEK, answers_per_week }
}

#[cfg(test)]
mod tests;
