//! What the dashboard and `lastmile top` show: the state of now, an hour of history, charts as SVG,
//! and the files of the pages.
//!
//! It must never know HTTP, the store or the engine's inside: it is fed counters and hands out plain
//! data, text and pictures. What people wrote goes through it as text only.
//!
//! Start reading at [`Now`] (what is shown), then [`History`] (where it comes from), then [`chart`].

mod alert;
mod alert_log;
mod alert_news;
mod axis;
mod bars;
mod changes;
pub mod chart;
mod evidence;
mod files;
mod history;
mod lanes;
mod ledger;
mod now;
mod paint;
mod spark;
mod unattended;

pub use alert::{Alert, Level, alerts};
pub use alert_log::{AlertLog, Episode};
pub use alert_news::{AlertNews, Course, NewsKind};
pub use bars::{BarGroup, Bars};
pub use changes::{Change, changes};
pub use evidence::{Bounds, evidence};
pub use files::{File, file};
pub use history::{History, Point, TICK};
pub use lanes::{Lane, Lanes, Span};
pub use ledger::{AttemptTimes, attempts, memory};
pub use now::{
    CacheMismatchNow, ClockJump, DriftNow, Latency, ModelNow, Now, OverdueNow, ProbeNow,
    RecentError, RolledBackNow, ServerNow, SinkNow, StoreNow, ThreadNow, TroubledNow,
};
pub use paint::{Picture, Swatch, Width, WidthError};
pub use spark::sparkline;
