//! The alerts of one model: which are open, and what sinks are told of them.
//!
//! An alert opens when a signal is noticed to be unusual. It is over when an hour has passed without a sign of it, in which answers
//! came; without answers nobody knows.
//!
//! It must never read a clock.
//!
//! Start reading at [`Board::notice`].

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::sinks::Message;

/// Alerts that are remembered of a model, open or not.
const MAX_ALARMS: usize = 100;
/// An alert that was not noticed for so long is over, or nobody knows.
const TOLD_MS: i64 = 60 * 60 * 1000;
/// Answers without which nobody knows.
const MIN_QUIET: u64 = 50;

/// How an alert stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertState {
    /// Answers are not as usual.
    Alert,
    /// They were not as usual, and none came since.
    NoData,
    /// They are again.
    Ok,
}

/// Something that is not as usual.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToldAlarm {
    /// How it stands.
    pub state: AlertState,
    /// When it was noticed first, in Unix milliseconds.
    pub since_ms: i64,
    /// When it was noticed last, in Unix milliseconds.
    pub at_ms: i64,
    /// Of which model.
    pub model: String,
    /// What is not as usual.
    pub signal: String,
    /// `higher`, `lower` or `otherwise distributed`.
    pub how: String,
    /// How many answers ago it began, as far as can be said.
    pub began_ago: u64,
    /// How often it was noticed again since, each within an hour of the time before.
    pub n_again: u64,
    /// The requests that are most unlike what is usual, at most five.
    pub examples: Vec<String>,
    /// The release that answers.
    pub release: String,
    /// The release that what is usual is of.
    pub usual_of: String,
    /// Whether what is usual spans less than two weeks, or is of fewer than ten days.
    pub is_provisional: bool,
}

impl ToldAlarm {
    pub(crate) fn is_open(&self) -> bool {
        self.state != AlertState::Ok
    }

    fn what(&self, kind: &str, n_quiet: u64) -> String {
        let ToldAlarm { model, signal, how, began_ago, .. } = self;
        match kind {
            "alert.resolved" => {
                format!("{model}: {signal} is as usual again, for {n_quiet} answers")
            }
            "alert.no_data" => {
                format!("{model}: no answers came since {signal} was {how} than usual")
            }
            _ => format!("{model}: {signal} is {how} than usual, for {began_ago} answers"),
        }
    }

    /// What sinks are told of it.
    fn message(&self, kind: &str, n_quiet: u64, now_ms: i64) -> Message {
        let ToldAlarm { model, signal, how, .. } = self;
        let mut data = json!({
            "alert": format!("{model}/{signal}/{how}"),
            "what": self.what(kind, n_quiet),
            "quiet_answers": n_quiet,
        });
        if let (Value::Object(data), Ok(Value::Object(told))) =
            (&mut data, serde_json::to_value(self))
        {
            data.extend(told);
        }
        Message::new(kind, &data, now_ms)
    }
}

/// The alerts of one model.
pub(crate) struct Board {
    /// How often sinks are told again of what goes on; 0 is never.
    renotify_ms: i64,
    /// The newest first.
    alarms: VecDeque<Entry>,
}

struct Entry {
    told: ToldAlarm,
    /// When sinks were told of it last.
    sent_ms: i64,
    /// Answers since it was noticed last.
    n_quiet: u64,
}

impl Board {
    /// With the alerts that were open when an earlier server ended.
    pub(crate) fn new(renotify_ms: i64, open: Vec<ToldAlarm>) -> Board {
        let entry = |told: ToldAlarm| Entry { sent_ms: told.at_ms, n_quiet: 0, told };
        Board { renotify_ms, alarms: open.into_iter().map(entry).collect() }
    }

    /// A signal is unusual, for the first time or again.
    pub(crate) fn notice(&mut self, told: ToldAlarm) -> Option<Message> {
        let now_ms = told.at_ms;
        let is_it = |one: &&mut Entry| {
            one.told.is_open() && one.told.signal == told.signal && one.told.how == told.how
        };
        let Some(known) = self.alarms.iter_mut().find(is_it) else {
            let message = told.message("alert.opened", 0, now_ms);
            self.alarms.push_front(Entry { told, sent_ms: now_ms, n_quiet: 0 });
            self.alarms.truncate(MAX_ALARMS);
            return Some(message);
        };
        // It goes on; what it is of now says more than what it was of.
        let n_again = known.told.n_again + 1;
        // Who heard that nothing is known hears that it goes on.
        let was_unknown = known.told.state == AlertState::NoData;
        known.told = ToldAlarm { n_again, since_ms: known.told.since_ms, ..told };
        known.n_quiet = 0;
        let is_due = self.renotify_ms > 0 && (now_ms - known.sent_ms).abs() >= self.renotify_ms;
        (is_due || was_unknown).then(|| {
            known.sent_ms = now_ms;
            known.told.message("alert.renotified", 0, now_ms)
        })
    }

    /// An answer came.
    pub(crate) fn saw(&mut self) {
        self.alarms.iter_mut().filter(|one| one.told.is_open()).for_each(|one| one.n_quiet += 1);
    }

    /// What is over, or unknown, by now.
    pub(crate) fn tick(&mut self, now_ms: i64) -> Vec<Message> {
        let mut messages = Vec::new();
        for Entry { told, n_quiet, .. } in &mut self.alarms {
            // The clock may have gone back.
            if !told.is_open() || (now_ms - told.at_ms).abs() < TOLD_MS {
                continue;
            }
            let (state, kind) = match *n_quiet {
                MIN_QUIET.. => (AlertState::Ok, "alert.resolved"),
                _ => (AlertState::NoData, "alert.no_data"),
            };
            if std::mem::replace(&mut told.state, state) != state {
                messages.push(told.message(kind, *n_quiet, now_ms));
            }
        }
        messages
    }

    /// All that are remembered, the newest first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &ToldAlarm> {
        self.alarms.iter().map(|one| &one.told)
    }

    /// Those that are not over.
    pub(crate) fn open(&self) -> impl Iterator<Item = &ToldAlarm> {
        self.all().filter(|told| told.is_open())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    const HOUR_MS: i64 = 60 * 60 * 1000;

    fn told(signal: &str, at_ms: i64) -> ToldAlarm {
        ToldAlarm {
            state: AlertState::Alert,
            since_ms: at_ms,
            at_ms,
            model: "m".to_owned(),
            signal: signal.to_owned(),
            how: "higher".to_owned(),
            began_ago: 120,
            n_again: 0,
            examples: vec![format!("request at {at_ms}")],
            release: "new".to_owned(),
            usual_of: "old".to_owned(),
            is_provisional: false,
        }
    }

    #[track_caller]
    fn check(message: Option<&Message>, kind: &str, what: &str) -> Value {
        let body: Value = serde_json::from_str(&message.unwrap().body).unwrap();
        assert_eq!(
            (body["type"].as_str(), body["data"]["what"].as_str()),
            (Some(kind), Some(what))
        );
        body
    }

    #[test]
    fn an_alert_opens_goes_on_and_is_over() {
        let mut board = Board::new(4 * HOUR_MS, Vec::new());
        let opened = board.notice(told("refusal", 0));
        let body = check(
            opened.as_ref(),
            "alert.opened",
            "m: refusal is higher than usual, for 120 answers",
        );
        assert_eq!(body["timestamp"], "1970-01-01T00:00:00Z");
        assert_eq!(body["data"]["alert"], "m/refusal/higher");
        assert_eq!(body["data"]["examples"][0], "request at 0");
        // It is noticed again and again, and told of again after four hours.
        for i in 1..8 {
            assert_eq!(board.notice(told("refusal", i * HOUR_MS / 2)), None, "{i}");
            assert!(board.tick(i * HOUR_MS / 2).is_empty());
        }
        let again = board.notice(told("refusal", 4 * HOUR_MS));
        let body = check(
            again.as_ref(),
            "alert.renotified",
            "m: refusal is higher than usual, for 120 answers",
        );
        assert_eq!((&body["data"]["n_again"], &body["data"]["since_ms"]), (&json!(8), &json!(0)));
        assert_eq!(body["data"]["examples"][0], "request at 14400000");
        (0..MIN_QUIET).for_each(|_| board.saw());
        assert!(board.tick(5 * HOUR_MS - 1).is_empty());
        let over = board.tick(5 * HOUR_MS);
        let body =
            check(over.first(), "alert.resolved", "m: refusal is as usual again, for 50 answers");
        assert_eq!((over.len(), &body["data"]["state"]), (1, &json!("ok")));
        assert!(board.tick(9 * HOUR_MS).is_empty());
        assert_eq!((board.open().count(), board.all().count()), (0, 1));
        assert!(board.notice(told("refusal", 10 * HOUR_MS)).is_some(), "a new one opens");
    }

    #[test]
    fn without_answers_nobody_knows_and_a_restart_forgets_nothing() {
        let mut board = Board::new(0, Vec::new());
        board.notice(told("refusal", 0));
        board.notice(told("output_tokens", 0));
        assert_eq!(board.notice(told("refusal", HOUR_MS / 2)), None, "0 is never");
        let unknown = board.tick(HOUR_MS);
        let what = "m: no answers came since output_tokens was higher than usual";
        assert_eq!(unknown.len(), 1, "the other one was noticed again");
        check(unknown.first(), "alert.no_data", what);
        assert!(board.tick(HOUR_MS + 1).is_empty(), "once");
        let open: Vec<ToldAlarm> = board.open().cloned().collect();
        let mut board = Board::new(0, open);
        assert_eq!(board.open().count(), 2);
        (0..MIN_QUIET).for_each(|_| board.saw());
        let over = board.tick(92 * HOUR_MS);
        assert_eq!(over.len(), 2);
        assert!(over.iter().all(|one| one.body.contains("alert.resolved")));
    }
}
