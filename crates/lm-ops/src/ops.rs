//! The store, as a server needs it.
//!
//! It must never be waited for on the way of a token: only feedback waits, on a thread of its own.
//!
//! Start reading at [`Ops::observer`] and [`Ops::feedback`].

use std::sync::Arc;

use lastmile::{AdapterInfo, ModelInfo, Observer, ReleaseHash, RequestId, TenantId};
use lm_api::{ApiError, FeedbackRating, FeedbackRequest, parse_feedback};
use lm_recorder::{Recorder, RecorderCounters};
use lm_store::{
    Feedback, FeedbackId, Rating, Reader, Release, RunInfo, Store, StoreCounters, StoreError,
};

use crate::cost::CostCounters;
use crate::recording::{AgainNow, Recording};
use crate::span_counts::CountSpans;
use crate::{
    AttendantStanding, Calibrations, CutOff, Datasets, Experiments, FeedbackLoop, FeedbackReceipt,
    Ingests, Monitors, Overrides, SpanCounts,
};

/// What runs beside one engine. Clones share one store.
#[derive(Clone)]
pub struct Ops {
    pub(crate) store: Store,
    overrides: Option<Overrides>,
    experiments: Option<Experiments>,
    monitors: Option<Monitors>,
    ingests: Option<Ingests>,
    datasets: Option<Datasets>,
    feedback_loop: Option<FeedbackLoop>,
    recorder: Option<Recorder>,
    pub(crate) costs: Arc<CostCounters>,
    pub(crate) cut_off: Arc<[CutOff]>,
    count_spans: Option<CountSpans>,
    pub(crate) calibrations: Option<Calibrations>,
}

impl Ops {
    /// Records into `store`.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Ops {
            store,
            overrides: None,
            experiments: None,
            monitors: None,
            ingests: None,
            datasets: None,
            feedback_loop: None,
            recorder: None,
            costs: Arc::default(),
            cut_off: Arc::default(),
            count_spans: None,
            calibrations: None,
        }
    }

    /// With overrides; without, every request is the model's.
    #[must_use]
    pub fn with_overrides(self, overrides: Overrides) -> Self {
        Ops { overrides: Some(overrides), ..self }
    }

    /// With experiments; without, every request has the model that it asks for.
    #[must_use]
    pub fn with_experiments(self, experiments: Experiments) -> Self {
        Ops { experiments: Some(experiments), ..self }
    }

    /// With monitors; without, nothing is compared with what is usual.
    #[must_use]
    pub fn with_monitors(self, monitors: Monitors) -> Self {
        Ops { monitors: Some(monitors), ..self }
    }

    /// With a way in for rows; without, none are taken.
    #[must_use]
    pub fn with_ingests(self, ingests: Ingests) -> Self {
        Ops { ingests: Some(ingests), ..self }
    }

    /// What takes rows, where there is anything.
    #[must_use]
    pub fn ingests(&self) -> Option<&Ingests> {
        self.ingests.as_ref()
    }

    /// With the datasets of a home; without, none are shown.
    #[must_use]
    pub fn with_datasets(self, datasets: Datasets) -> Self {
        Ops { datasets: Some(datasets), ..self }
    }

    /// With the loop from failures to fixes; without, none are shown.
    #[must_use]
    pub fn with_feedback_loop(self, feedback_loop: FeedbackLoop) -> Self {
        Ops { feedback_loop: Some(feedback_loop), ..self }
    }

    /// The datasets, where there are any.
    #[must_use]
    pub fn datasets(&self) -> Option<&Datasets> {
        self.datasets.as_ref()
    }

    /// The loop from failures to fixes, where there is one.
    #[must_use]
    pub fn feedback_loop(&self) -> Option<&FeedbackLoop> {
        self.feedback_loop.as_ref()
    }

    /// The monitors, where there are any.
    #[must_use]
    pub fn monitors(&self) -> Option<&Monitors> {
        self.monitors.as_ref()
    }

    /// The experiments, where there are any.
    #[must_use]
    pub fn experiments(&self) -> Option<&Experiments> {
        self.experiments.as_ref()
    }

    /// The overrides, where there are any.
    #[must_use]
    pub fn overrides(&self) -> Option<&Overrides> {
        self.overrides.as_ref()
    }

    /// How the threads are that work beside the engine: where one stands still, what it attends to goes on unattended.
    #[must_use]
    pub fn attendants(&self) -> Vec<AttendantStanding> {
        let experiments = self.experiments.as_ref().map(Experiments::attendant);
        let overrides = self.overrides.as_ref().map(Overrides::attendant);
        let monitors = self.monitors.as_ref().map(Monitors::attendant);
        let ingests = self.ingests.as_ref().map(Ingests::attendant);
        [experiments, overrides, monitors, ingests].into_iter().flatten().collect()
    }

    /// What is stored.
    #[must_use]
    pub fn reader(&self) -> &Reader {
        self.store.reader()
    }

    /// Also tells a flight recorder of every step.
    #[must_use]
    pub fn with_recorder(self, recorder: Recorder) -> Self {
        Ops { recorder: Some(recorder), ..self }
    }

    /// With answers that servers did not live to end: their keys pay for what they took.
    #[must_use]
    pub fn with_cut_off(self, cut_off: Vec<CutOff>) -> Self {
        Ops { cut_off: cut_off.into(), ..self }
    }

    /// Also says how many spans of traces `count` counts.
    #[must_use]
    pub fn with_span_counts(self, count: impl Fn() -> SpanCounts + Send + Sync + 'static) -> Self {
        Ops { count_spans: Some(Arc::new(count)), ..self }
    }

    /// Spans of traces; `None` where answers are not traced.
    #[must_use]
    pub fn span_counts(&self) -> Option<SpanCounts> {
        self.count_spans.as_ref().map(|count| count())
    }

    /// What a runtime is started with, so that each of its answers is recorded.
    #[must_use]
    pub fn observer(&self) -> Arc<dyn Observer> {
        let recording: Arc<dyn Observer> = Arc::new(Recording {
            store: self.store.clone(),
            counters: Arc::clone(&self.costs),
            recorder: self.recorder.clone(),
            again: AgainNow::default(),
        });
        let recording = match &self.overrides {
            Some(overrides) => overrides.observer(recording),
            None => recording,
        };
        match &self.monitors {
            Some(monitors) => monitors.observer(recording),
            None => recording,
        }
    }

    /// Stores what is loaded, the default model first, and notes that this process serves `models` at
    /// `address`; signs of life
    /// follow by themselves until [`Ops::close`]. Blocks until both are durable.
    ///
    /// # Errors
    /// Why it could not be written.
    pub fn begin_run(
        &self,
        loaded: &[&ModelInfo],
        models: &str,
        address: &str,
    ) -> Result<String, StoreError> {
        loaded.iter().try_for_each(|info| self.note_release(info))?;
        self.store.begin_run(RunInfo {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            address: address.to_owned(),
            model: models.to_owned(),
            release: loaded.first().map_or(ReleaseHash([0; 16]), |info| info.release_hash),
        })
    }

    /// Stores what a model's answers depend on. Blocks until it is durable.
    ///
    /// # Errors
    /// Why it could not be written.
    pub fn note_release(&self, info: &ModelInfo) -> Result<(), StoreError> {
        let facts = info.release.facts.iter();
        let facts = facts.map(|(name, value)| ((*name).to_owned(), value.as_str().into()));
        self.store.put_release(&Release {
            hash: info.release_hash,
            model: info.name.clone(),
            engine_version: env!("CARGO_PKG_VERSION").to_owned(),
            facts: serde_json::Value::Object(facts.collect()),
            how: info.how.clone(),
        })
    }

    /// Stores what the answers with an adapter depend on; how it is started again is how its model is, and where
    /// the adapter lies. Blocks until it is durable.
    ///
    /// # Errors
    /// Why it could not be written.
    pub fn note_adapter(&self, model: &ModelInfo, adapter: &AdapterInfo) -> Result<(), StoreError> {
        let how = model.how.as_deref().and_then(|how| {
            let mut how: serde_json::Value = serde_json::from_str(how).ok()?;
            let source = serde_json::json!({ "name": adapter.name, "path": adapter.path });
            how.as_object_mut()?.insert("adapter".to_owned(), source);
            Some(how.to_string())
        });
        self.note_release(&ModelInfo {
            name: adapter.name.clone(),
            release: adapter.release.clone(),
            release_hash: adapter.release_hash,
            how,
            ..model.clone()
        })
    }

    /// Takes the body of `POST /v1/feedback`. The feedback is durable when this returns. `by` is who
    /// says it, on requests of their own; `None` may say it on any.
    ///
    /// # Errors
    /// A bad body, a request or choice that is not stored, or a store that cannot write.
    pub async fn feedback(
        &self,
        body: &[u8],
        by: Option<TenantId>,
        strict: bool,
    ) -> Result<FeedbackReceipt, ApiError> {
        let request = parse_feedback(body, strict)?;
        let id = self.put(&request, by).await.map_err(|error| self.refusal(error))?.to_string();
        let request_id = request.request_id.to_string();
        let is_negative = request.correction.is_some() || rating(&request).is_some_and(is_bad);
        Ok(FeedbackReceipt { id, request_id, warnings: request.warnings, is_negative })
    }

    /// The request whose computation answered this one, when it was told from the response cache. Blocks.
    ///
    /// # Errors
    /// `Internal` when the store cannot be read.
    pub fn computed_by(&self, id: RequestId) -> Result<Option<RequestId>, ApiError> {
        let answers = self.store.reader().recorded(id).map_err(|error| {
            tracing::error!(%error, "the store could not be read");
            ApiError::Internal { what: "the store could not be read".to_owned() }
        })?;
        let mut told = answers.iter().filter_map(|answer| answer.timeline.as_ref());
        Ok(told.find_map(|timeline| timeline.computed_by.as_ref()?.parse().ok()))
    }

    /// What went through the flight recorder; `None` is without one.
    #[must_use]
    pub fn recorder_counters(&self) -> Option<RecorderCounters> {
        self.recorder.as_ref().map(Recorder::counters)
    }

    /// What went through the store.
    #[must_use]
    pub fn counters(&self) -> StoreCounters {
        self.store.counters()
    }

    /// Writes everything out and notes the run as stopped. Blocks.
    ///
    /// # Errors
    /// Why the last write failed.
    pub fn close(&self) -> Result<(), StoreError> {
        if let Some(recorder) = &self.recorder {
            recorder.close();
        }
        self.store.close()
    }

    async fn put(
        &self,
        request: &FeedbackRequest,
        by: Option<TenantId>,
    ) -> Result<FeedbackId, StoreError> {
        let store = self.store.clone();
        let feedback = Feedback {
            request_id: request.request_id,
            by,
            choice: request.choice,
            rating: rating(request),
            comment: request.comment.clone(),
            correction: request.correction.clone(),
        };
        let monitors = self.monitors.clone();
        let write = move || {
            let (id, rating) = (feedback.request_id, feedback.rating);
            let written = store.feedback(feedback)?;
            if let (Some(monitors), Some(rating)) = (monitors, rating) {
                tell_rating(store.reader(), &monitors, id, rating);
            }
            Ok(written)
        };
        tokio::task::spawn_blocking(write).await.unwrap_or(Err(StoreError::Closed))
    }

    fn refusal(&self, error: StoreError) -> ApiError {
        let counters = self.counters();
        match error {
            // The client did nothing wrong when the store lost what it speaks of.
            StoreError::UnknownRequest { .. } if counters.write_errors + counters.dropped > 0 => {
                let what =
                    "the request is not stored; some were lost, for the store is failing or full";
                ApiError::Internal { what: what.to_owned() }
            }
            other => refusal(other),
        }
    }
}

fn rating(request: &FeedbackRequest) -> Option<Rating> {
    request.rating.map(|rating| match rating {
        FeedbackRating::Boolean(good) => Rating::Boolean(good),
        FeedbackRating::Score(score) => Rating::Score(score),
    })
}

fn is_bad(rating: Rating) -> bool {
    match rating {
        Rating::Boolean(is_good) => !is_good,
        Rating::Score(score) => score < 0.5,
    }
}

/// Monitors are told of a rating which model it is of.
fn tell_rating(reader: &Reader, monitors: &Monitors, id: RequestId, rating: Rating) {
    match reader.request(id) {
        Ok(Some(request)) => {
            monitors.rated(request.model, request.release_hash, id, is_bad(rating));
        }
        Ok(None) => {}
        Err(error) => tracing::warn!(%error, "monitors do not hear of a rating"),
    }
}

fn refusal(error: StoreError) -> ApiError {
    match error {
        StoreError::UnknownRequest { id } => ApiError::RequestNotFound { id },
        StoreError::UnknownChoice { choice, n, .. } => ApiError::Invalid {
            param: "choice".to_owned(),
            found: choice.to_string(),
            wanted: format!("below {n}, the number of answers that the request asked for"),
        },
        StoreError::InvalidFeedback { field, value, limit } => {
            ApiError::Invalid { param: field.to_owned(), found: value, wanted: limit.to_owned() }
        }
        // Paths and details of the store are for the operator, not for clients.
        other => {
            tracing::error!(error = %other, "feedback could not be stored");
            ApiError::Internal { what: "the feedback could not be stored".to_owned() }
        }
    }
}
