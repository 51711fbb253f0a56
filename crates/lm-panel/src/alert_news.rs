//! What somebody far away is told of a server's alerts: when one opened and went on for long enough, each so often while it goes
//! on, and when it is over.
//!
//! It must never read a clock, nor tell of what is told already: monitors tell of drifts themselves, and that a receiver takes
//! nothing it cannot be told.
//!
//! Start reading at [`AlertNews::observe`].

use serde::{Deserialize, Serialize};

use crate::{Alert, Level};

/// What comes again so soon was not over: numbers about a limit go over it and back.
const AGAIN_MS: i64 = 60_000;
/// Numbers about a limit must be over it for so long, as in `deploy/alerts.yml`.
const HELD_MS: i64 = 5 * 60_000;
/// What is a number about a limit, by the first word of its key; all else is a fact.
const LIMITS: [&str; 7] = ["errors", "ttft", "gap", "kv", "memory", "open requests", "store slow"];
/// What is told elsewhere, or is nobody's business far away.
const UNTOLD: [&str; 3] = ["drift", "sink", "draining"];

/// What is told of an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewsKind {
    /// It is there.
    Opened,
    /// It is still there.
    Renotified,
    /// It is over.
    Resolved,
}

impl NewsKind {
    /// The stable word of a message.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            NewsKind::Opened => "alert.opened",
            NewsKind::Renotified => "alert.renotified",
            NewsKind::Resolved => "alert.resolved",
        }
    }
}

/// An alert on its way through time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Course {
    /// As it was last.
    pub alert: Alert,
    /// Since when, in Unix milliseconds.
    pub since_ms: i64,
    /// When it was there last.
    seen_ms: i64,
    /// When it was told of last; `None` is not yet.
    told_ms: Option<i64>,
}

/// The alerts of one server of the last minute, and which were told of.
#[derive(Clone, Debug)]
pub struct AlertNews {
    renotify_ms: i64,
    all: Vec<Course>,
    has_begun: bool,
}

impl AlertNews {
    /// With what an earlier server told of and did not see the end of, as [`AlertNews::kept`] gave it. `renotify_ms` is how often
    /// something is told of again, 0 never.
    #[must_use]
    pub fn new(renotify_ms: i64, kept: Vec<Course>) -> AlertNews {
        let mut all: Vec<Course> = Vec::new();
        // Several servers may have told of the same: it is told of once, as it was last.
        for course in kept {
            match all.iter_mut().find(|one| one.alert.key == course.alert.key) {
                Some(known) if known.told_ms >= course.told_ms => {}
                Some(known) => *known = course,
                None => all.push(course),
            }
        }
        AlertNews { renotify_ms, all, has_begun: false }
    }

    /// What was told of and is not over, for the next server.
    pub fn kept(&self) -> impl Iterator<Item = &Course> {
        self.all.iter().filter(|one| one.told_ms.is_some())
    }

    /// Takes in what holds at this moment; what is to be told now.
    pub fn observe(&mut self, at_ms: i64, alerts: &[Alert]) -> Vec<(NewsKind, Course)> {
        if !std::mem::replace(&mut self.has_begun, true) {
            // What an earlier server told of has a minute to show itself again.
            self.all.iter_mut().for_each(|one| one.seen_ms = at_ms - 1);
        }
        let is_told = |alert: &&Alert| !UNTOLD.iter().any(|word| is_of(&alert.key, word));
        for alert in alerts.iter().filter(is_told) {
            match self.all.iter_mut().find(|one| one.alert.key == alert.key) {
                Some(one) => {
                    one.alert.clone_from(alert);
                    one.seen_ms = at_ms;
                }
                None => self.all.push(Course {
                    alert: alert.clone(),
                    since_ms: at_ms,
                    seen_ms: at_ms,
                    told_ms: None,
                }),
            }
        }
        let mut news = Vec::new();
        let renotify_ms = self.renotify_ms;
        self.all.retain_mut(|one| {
            let kind = one.to_tell(at_ms, renotify_ms);
            // The clock may have gone back.
            let is_over = (at_ms - one.seen_ms).abs() >= AGAIN_MS;
            if let Some(kind) = kind {
                one.told_ms = Some(at_ms);
                news.push((kind, one.clone()));
            }
            !is_over
        });
        news
    }
}

impl Course {
    /// What is to be told of it now.
    fn to_tell(&self, at_ms: i64, renotify_ms: i64) -> Option<NewsKind> {
        let is_there = self.seen_ms == at_ms;
        let is_over = (at_ms - self.seen_ms).abs() >= AGAIN_MS;
        match self.told_ms {
            None if is_there && (at_ms - self.since_ms).abs() >= held_ms(&self.alert) => {
                Some(NewsKind::Opened)
            }
            Some(told) if is_there && renotify_ms > 0 && (at_ms - told).abs() >= renotify_ms => {
                Some(NewsKind::Renotified)
            }
            Some(_) if is_over => Some(NewsKind::Resolved),
            _ => None,
        }
    }
}

/// How long it must have been there before it is told of.
fn held_ms(alert: &Alert) -> i64 {
    let is_limit = LIMITS.iter().any(|word| is_of(&alert.key, word));
    if is_limit && alert.level != Level::Critical { HELD_MS } else { 0 }
}

fn is_of(key: &str, word: &str) -> bool {
    key.strip_prefix(word).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000;

    fn alert(key: &str) -> Alert {
        Alert {
            key: key.to_owned(),
            level: Level::Warning,
            what: format!("{key} is wrong"),
            next: "Look at it.".to_owned(),
            requests: Vec::new(),
        }
    }

    #[track_caller]
    fn check(news: &mut AlertNews, at_ms: i64, keys: &[&str], expect: &[(&str, &str)]) {
        let alerts: Vec<Alert> = keys.iter().map(|key| alert(key)).collect();
        let found = news.observe(at_ms, &alerts);
        let found: Vec<(&str, &str)> =
            found.iter().map(|(kind, one)| (kind.as_str(), one.alert.key.as_str())).collect();
        assert_eq!(found, expect, "at {at_ms}");
    }

    #[test]
    fn a_fact_is_told_at_once_again_and_when_it_is_over() {
        let mut news = AlertNews::new(240 * MINUTE, Vec::new());
        check(&mut news, 0, &["probe p"], &[("alert.opened", "probe p")]);
        for i in 1..240 {
            check(&mut news, i * MINUTE / 2, &["probe p"], &[]);
            check(&mut news, i * MINUTE / 2 + 1, &[], &[]);
        }
        let mut news = AlertNews::new(240 * MINUTE, Vec::new());
        check(&mut news, 0, &["probe p"], &[("alert.opened", "probe p")]);
        (1..480).for_each(|i| check(&mut news, i * MINUTE / 2, &["probe p"], &[]));
        check(&mut news, 240 * MINUTE, &["probe p"], &[("alert.renotified", "probe p")]);
        check(&mut news, 241 * MINUTE - 1, &[], &[]);
        check(&mut news, 241 * MINUTE, &[], &[("alert.resolved", "probe p")]);
        check(&mut news, 242 * MINUTE, &[], &[]);
        check(&mut news, 243 * MINUTE, &["probe p"], &[("alert.opened", "probe p")]);
    }

    #[test]
    fn a_number_about_a_limit_is_told_when_it_held() {
        let mut news = AlertNews::new(0, Vec::new());
        for i in 0..10 {
            check(
                &mut news,
                i * MINUTE / 2,
                &["ttft m", "ttftless"],
                match i {
                    0 => &[("alert.opened", "ttftless")],
                    _ => &[],
                },
            );
        }
        check(&mut news, 5 * MINUTE, &["ttft m", "ttftless"], &[("alert.opened", "ttft m")]);
        // What did not hold is not told of, nor is its end.
        check(&mut news, 5 * MINUTE + 1, &["gap m"], &[]);
        let over = [("alert.resolved", "ttft m"), ("alert.resolved", "ttftless")];
        check(&mut news, 7 * MINUTE, &[], &over);
        check(&mut news, 12 * MINUTE, &["gap m"], &[]);
    }

    #[test]
    fn what_is_told_elsewhere_is_not_told_here() {
        let mut news = AlertNews::new(0, Vec::new());
        check(&mut news, 0, &["drift m refusal", "sink hooks.example", "draining"], &[]);
    }

    #[test]
    fn the_next_server_tells_of_the_end_and_of_nothing_twice() {
        let mut news = AlertNews::new(0, Vec::new());
        check(
            &mut news,
            0,
            &["probe p", "store dropped", "gap m"],
            &[("alert.opened", "probe p"), ("alert.opened", "store dropped")],
        );
        let mut next = AlertNews::new(0, news.kept().cloned().collect());
        check(&mut next, 9 * MINUTE, &["probe p"], &[]);
        check(&mut next, 9 * MINUTE + MINUTE / 2, &["probe p"], &[]);
        check(&mut next, 10 * MINUTE, &["probe p"], &[("alert.resolved", "store dropped")]);
    }

    #[test]
    fn what_two_servers_told_of_is_told_of_once() {
        let kept = |at_ms, keys: &[&str]| {
            let mut news = AlertNews::new(0, Vec::new());
            let told: Vec<(&str, &str)> = keys.iter().map(|key| ("alert.opened", *key)).collect();
            check(&mut news, at_ms, keys, &told);
            news.kept().cloned().collect::<Vec<Course>>()
        };
        let mut all = kept(0, &["probe p", "store dropped"]);
        all.extend(kept(MINUTE, &["probe p"]));
        let mut next = AlertNews::new(0, all);
        assert_eq!(next.kept().count(), 2);
        check(&mut next, 9 * MINUTE, &["store dropped"], &[]);
        check(&mut next, 10 * MINUTE, &["store dropped"], &[("alert.resolved", "probe p")]);
    }
}
