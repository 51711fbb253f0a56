//! Which alerts there are and were, and since when.
//!
//! It must never grow with time: it forgets the oldest of what is over.
//!
//! Start reading at [`AlertLog::observe`].

use std::collections::VecDeque;

use serde::Serialize;

use crate::Alert;

/// Alerts that are over and still told of.
const MAX_PAST: usize = 200;
/// What comes again so soon was not over: numbers about a limit go over it and back.
const AGAIN_MS: i64 = 60_000;

/// One alert from its beginning to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Episode {
    /// As it was told last.
    #[serde(flatten)]
    pub alert: Alert,
    /// When it was noticed, in Unix milliseconds.
    pub since_ms: i64,
    /// When it was over, in Unix milliseconds; `None` as long as it is not.
    pub ended_at_ms: Option<i64>,
}

/// The alerts of one server since its start.
#[derive(Clone, Debug, Default)]
pub struct AlertLog {
    open: Vec<Episode>,
    /// The newest end first.
    past: VecDeque<Episode>,
}

impl AlertLog {
    /// Takes in what holds at this moment.
    pub fn observe(&mut self, at_ms: i64, alerts: &[Alert]) {
        let is_there = |one: &Episode| alerts.iter().any(|alert| alert.key == one.alert.key);
        let (open, over): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.open).into_iter().partition(is_there);
        self.open = open;
        for mut one in over {
            one.ended_at_ms = Some(at_ms);
            self.past.push_front(one);
        }
        self.past.truncate(MAX_PAST);
        for alert in alerts {
            match self.open.iter_mut().find(|one| one.alert.key == alert.key) {
                Some(one) => one.alert.clone_from(alert),
                None => {
                    let since_ms = self.came_again(&alert.key, at_ms).unwrap_or(at_ms);
                    let alert = alert.clone();
                    self.open.push(Episode { alert, since_ms, ended_at_ms: None });
                }
            }
        }
    }

    /// What is not over: the most urgent first, then the newest.
    #[must_use]
    pub fn open(&self) -> Vec<&Episode> {
        let mut open: Vec<&Episode> = self.open.iter().collect();
        open.sort_by_key(|one| (one.alert.level, -one.since_ms));
        open
    }

    /// What is over, the newest end first. At most 200.
    pub fn past(&self) -> impl Iterator<Item = &Episode> {
        self.past.iter()
    }

    /// When one began that ended a moment ago; it is not over then.
    fn came_again(&mut self, key: &str, at_ms: i64) -> Option<i64> {
        let is_it = |one: &Episode| {
            let ended_at_ms = one.ended_at_ms.unwrap_or(at_ms);
            // The clock may have gone back.
            one.alert.key == key && (at_ms - ended_at_ms).abs() < AGAIN_MS
        };
        let place = self.past.iter().position(is_it)?;
        self.past.remove(place).map(|one| one.since_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::{AGAIN_MS, AlertLog, MAX_PAST};
    use crate::{Alert, Level};

    fn alert(key: &str, level: Level, what: &str) -> Alert {
        let (key, what) = (key.to_owned(), what.to_owned());
        Alert { key, level, what, next: String::new(), requests: Vec::new() }
    }

    fn open(log: &AlertLog) -> Vec<(&str, i64)> {
        log.open().into_iter().map(|one| (one.alert.what.as_str(), one.since_ms)).collect()
    }

    #[test]
    fn an_alert_keeps_its_beginning_while_its_numbers_change_and_then_is_past() {
        let mut log = AlertLog::default();
        log.observe(10, &[alert("errors m", Level::Warning, "5 %")]);
        log.observe(
            20,
            &[alert("errors m", Level::Warning, "9 %"), alert("died", Level::Critical, "died")],
        );
        assert_eq!(open(&log), [("died", 20), ("9 %", 10)]);
        assert_eq!(log.past().count(), 0);
        log.observe(30, &[alert("died", Level::Critical, "died")]);
        let past: Vec<_> = log.past().map(|one| (one.since_ms, one.ended_at_ms)).collect();
        assert_eq!(past, [(10, Some(30))]);
    }

    #[test]
    fn what_comes_again_at_once_goes_on_and_what_comes_again_later_is_another_one() {
        let warned = [alert("errors m", Level::Warning, "5 %")];
        let mut log = AlertLog::default();
        log.observe(0, &warned);
        log.observe(1_000, &[]);
        log.observe(AGAIN_MS, &warned);
        assert_eq!((open(&log), log.past().count()), (vec![("5 %", 0)], 0));
        log.observe(AGAIN_MS + 1_000, &[]);
        log.observe(3 * AGAIN_MS, &warned);
        assert_eq!((open(&log), log.past().count()), (vec![("5 %", 3 * AGAIN_MS)], 1));
    }

    #[test]
    fn the_oldest_ends_are_forgotten() {
        let mut log = AlertLog::default();
        for i in 0..500_i64 {
            log.observe(
                i * 2 * AGAIN_MS,
                &[alert(&format!("probe {i}"), Level::Warning, "differs")],
            );
        }
        assert_eq!(log.past().count(), MAX_PAST);
        assert_eq!(log.past().next().map(|one| one.since_ms), Some(498 * 2 * AGAIN_MS));
    }
}
