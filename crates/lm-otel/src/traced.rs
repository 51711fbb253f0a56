//! An observer that also tells the exporter.

use std::sync::Arc;

use lm_types::{AnswerBegun, Observer, RequestEvent, StepEvent};

use crate::Exporter;

/// Makes a tree of spans of each answer, after `inner` heard of it.
#[must_use]
pub fn traced(inner: Arc<dyn Observer>, exporter: Exporter) -> Arc<dyn Observer> {
    Arc::new(Traced { inner, exporter })
}

struct Traced {
    inner: Arc<dyn Observer>,
    exporter: Exporter,
}

impl Observer for Traced {
    fn record(&self, event: &RequestEvent) {
        self.inner.record(event);
        self.exporter.offer(event);
    }

    fn wants_steps(&self) -> bool {
        self.inner.wants_steps()
    }

    fn began(&self, begun: &AnswerBegun<'_>) {
        self.inner.began(begun);
    }

    fn stepped(&self, step: &StepEvent<'_>) {
        self.inner.stepped(step);
    }
}
