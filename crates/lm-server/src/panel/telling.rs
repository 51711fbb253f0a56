//! Alerts of the server for the log and for sinks; monitors tell of drifts themselves.
//!
//! It must never decide what an alert is, nor when one is told: `lm-panel` does.
//!
//! Start reading at [`Telling::tell`].

use lm_ops::{Monitors, SERVER_ALERTS, Sinks};
use lm_panel::{AlertNews, Course, Level, NewsKind, Now};
use serde_json::{Value, json};

use crate::app::App;

/// What was told so far.
pub(super) struct Telling {
    sinks: Option<Sinks>,
    news: AlertNews,
    server: String,
}

impl Telling {
    /// With what earlier servers told of, where there are sinks.
    pub(super) fn begin(app: &App) -> Self {
        let monitors = app.ops.monitors();
        let sinks = monitors.and_then(Monitors::alert_sinks).cloned();
        let kept = sinks.as_ref().map_or_else(Vec::new, |sinks| sinks.kept(SERVER_ALERTS));
        let told = kept.iter().flat_map(|kept| {
            serde_json::from_str::<Vec<Course>>(kept).unwrap_or_else(|error| {
                tracing::error!(%error, "which alerts were told of cannot be read");
                Vec::new()
            })
        });
        let news = AlertNews::new(monitors.map_or(0, Monitors::renotify_ms), told.collect());
        if let (true, Some(sinks)) = (kept.len() > 1, &sinks) {
            let told: Vec<&Course> = news.kept().collect();
            if let Err(error) = sinks.fold(SERVER_ALERTS, &json!(told).to_string()) {
                tracing::error!(%error, "which alerts several servers told of cannot be kept as one");
            }
        }
        Telling { sinks, news, server: app.config.address.to_string() }
    }

    /// Tells what is new.
    pub(super) fn tell(&mut self, now: &Now) {
        let news = self.news.observe(now.at_ms, &now.alerts);
        for (kind, course) in &news {
            log(*kind, course);
            if let Some(sinks) = &self.sinks {
                sinks.announce(kind.as_str(), &self.document(*kind, course), now.at_ms);
            }
        }
        if let (false, Some(sinks)) = (news.is_empty(), &self.sinks) {
            let kept: Vec<&Course> = self.news.kept().collect();
            sinks.keep(SERVER_ALERTS, json!(kept).to_string());
        }
    }

    fn document(&self, kind: NewsKind, course: &Course) -> Value {
        let Course { alert, since_ms, .. } = course;
        let state = if kind == NewsKind::Resolved { "ok" } else { "alert" };
        json!({
            "alert": alert.key,
            "what": alert.what,
            "next": alert.next,
            "level": alert.level,
            "state": state,
            "since_ms": since_ms,
            "examples": alert.requests,
            "server": self.server,
        })
    }
}

fn log(kind: NewsKind, course: &Course) {
    let (alert, what) = (course.alert.key.as_str(), course.alert.what.as_str());
    match (kind, course.alert.level) {
        (NewsKind::Opened, Level::Critical) => tracing::error!(alert, what, "ALERT"),
        (NewsKind::Opened, Level::Warning) => tracing::warn!(alert, what, "ALERT"),
        (NewsKind::Renotified | NewsKind::Resolved, _) => {
            tracing::warn!(alert, what, "{}", kind.as_str());
        }
    }
}
