//! What runs beside the engine: recording of every answer, feedback on answers, and the report of
//! what happened.
//!
//! It must never know how requests come in, the engine's inside or SQL, and it can never slow or fail a token.
//!
//! Start reading at [`Ops`] (inside of a server) and [`Doctor`] (from anywhere).

mod again;
mod alert_board;
mod attendant;
mod baseline_file;
mod calibration;
mod cost;
mod cut;
mod cut_off;
mod dataset_views;
mod datasets;
mod doctor;
mod drill;
mod erasures;
mod experiments;
mod failure_views;
mod feedback_loop;
mod feedback_receipt;
mod ingest_keeper;
mod ingests;
mod judged;
mod loop_pages;
mod losses;
mod model_monitor;
mod monitors;
mod ops;
mod overrides;
mod page;
mod recording;
mod refusals;
mod replay;
mod rule_text;
mod search;
mod seen;
mod sinks;
mod span_counts;
mod timeline;
mod verdicts;
mod why;

pub use again::{Again, ProbeError, ProbeFile};
pub use alert_board::{AlertState, ToldAlarm};
pub use attendant::AttendantStanding;
pub use calibration::{Calibration, Calibrations, TooFewJudged};
pub use cost::{CostBy, CostCount, CostCounters, CostLine, CostReport, Spending};
pub use cut::Cut;
pub use cut_off::{CutOff, CutOffError};
pub use dataset_views::{
    BadRow, CoverageView, DatasetPage, DatasetView, DiffView, QuarantinePage, RepairView,
    VersionView,
};
pub use datasets::{Datasets, Wanted};
pub use doctor::{Change, Doctor, RunReport, is_alive};
pub use drill::{Drift, Drill, DrillError, DrillReport, Noticed, SignalReport};
pub use erasures::{last_erasure, note_erasure};
pub use experiments::{Experiments, RolledBack, collect_experiment};
pub use failure_views::{Example, FixView, Message, OpinionView, ProblemView, ReviewView, Told};
pub use feedback_loop::FeedbackLoop;
pub use feedback_receipt::FeedbackReceipt;
pub use ingests::{Accepted, IngestCounts, Ingests, TokenCounter, Upload, row_format};
pub use judged::Judged;
pub use loop_pages::{AsOf, FixPage, LearningPage, ProblemDetail, ProblemPage, ReviewPage};
pub use losses::Troubled;
pub use model_monitor::ModelStanding;
pub use monitors::{
    Group, MonitorAction, MonitorEntry, MonitorOptions, Monitors, SignalShape, Spread,
};
pub use ops::Ops;
pub use overrides::{Overrides, now_ms};
pub use page::Utc;
pub use refusals::{experiment_refusal, override_refusal};
pub use replay::{Bundle, Factor, Recorded, ReplayError, Verdict};
pub use rule_text::parse_rule;
pub use search::{RequestPage, Search};
pub use sinks::{
    SERVER_ALERTS, SinkError, SinkLimits, SinkSettings, SinkStanding, SinkTest, Sinks,
};
pub use span_counts::SpanCounts;
pub use timeline::{AnswerTimeline, ArmView, GapView, LossView, StallView, TimelinePage};
pub use verdicts::Verdicts;

pub use lm_data::{Backlog, DataHome, Format as RowFormat, InboxLimits, Stratum, Tally};
pub use lm_evidence::Scored;
pub use lm_experiment::{
    Advice, AuditEntry as ExperimentEntry, Book as ExperimentBook, Experiment, ExperimentError,
    Forced, GuardReport, Live, Params, Point, PromptVersion, Report, Spec, Stage,
    Status as ExperimentStatus, Unit, UnitBy,
};
pub use lm_feedback::{Decision, Evidence, Learning, Stage as LearningStage, Week};
pub use lm_recorder::{
    Flight, Forgotten, InFlight, RecordedStep, RecordedToken, Recorder, RecorderCounters,
    RecorderError, RecorderOptions, Remembered, forget as forget_recorded,
};
pub use lm_rollout::{
    Asked, Desk, Item, ItemState, NewItem, Policy, RolloutError, Route, Rule, Standing, Via, Way,
    dry_run,
};
pub use lm_store::{
    Erase, Erased, Erasing, FoundRequest, Implied, MAX_FOUND, Migrated, Missing, Privacy, Reader,
    RecordedRelease, Retention, Store, StoreCounters, StoreError, StoreOptions, StoreStats,
    StoredError, StoredRequest, Traffic, backup, migrate, read_as_of, shown_place, stats,
    tenant_text, upgrade,
};

#[cfg(test)]
mod tests;
