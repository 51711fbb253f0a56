//! The OpenTelemetry traces of `lastmile serve`. Without the feature `otlp` there are none, and no option.

use std::sync::Arc;

use clap::Args;
use lastmile::Observer;
use lm_ops::Ops;
#[cfg(feature = "otlp")]
use lm_ops::SpanCounts;

#[derive(Clone, Debug, Args)]
pub(crate) struct TraceArgs {
    /// Send traces to this OpenTelemetry collector, such as http://127.0.0.1:4318.
    ///
    /// By OTLP over HTTP with protobuf, to /v1/traces below that address; no text of a prompt or an answer.
    #[cfg(feature = "otlp")]
    #[arg(long, value_name = "URL", env = lm_otel::ENDPOINT_VARIABLE, hide_short_help = true)]
    pub(crate) otlp_endpoint: Option<String>,
}

/// What sends the traces, if anything does.
pub(crate) struct Traces {
    #[cfg(feature = "otlp")]
    exporter: Option<lm_otel::Exporter>,
}

#[cfg(feature = "otlp")]
impl Traces {
    /// The collector is not asked before the first answer.
    pub(crate) fn start(args: &TraceArgs) -> anyhow::Result<Self> {
        use crate::outcome::WrongUse;
        use lm_otel::{Exporter, Settings};

        // By OpenTelemetry's rules an empty variable is none.
        let endpoint = args.otlp_endpoint.as_deref().filter(|endpoint| !endpoint.is_empty());
        let Some(endpoint) = endpoint else { return Ok(Traces { exporter: None }) };
        let settings = Settings::read(endpoint, |name| std::env::var(name).ok());
        let settings = settings.map_err(|error| WrongUse(error.to_string()))?;
        tracing::info!(url = settings.url(), "answers are traced");
        Ok(Traces { exporter: Some(Exporter::start(settings)?) })
    }

    /// Tells the collector what `observer` hears, after it.
    pub(crate) fn of(&self, observer: Arc<dyn Observer>) -> Arc<dyn Observer> {
        match &self.exporter {
            Some(exporter) => lm_otel::traced(observer, exporter.clone()),
            None => observer,
        }
    }

    /// Has `/metrics` say what became of the spans.
    pub(crate) fn counted(&self, ops: Ops) -> Ops {
        let Some(exporter) = self.exporter.clone() else { return ops };
        ops.with_span_counts(move || {
            let lm_otel::Counts { exported, dropped, failed, unsampled } = exporter.counts();
            SpanCounts { exported, dropped, failed, unsampled }
        })
    }

    /// Sends what waits. Takes 2 s at most.
    pub(crate) fn finish(&self) {
        if let Some(exporter) = &self.exporter {
            exporter.shutdown();
            let lm_otel::Counts { exported, dropped, failed, unsampled } = exporter.counts();
            tracing::info!(exported, dropped, failed, unsampled, "spans of traces");
        }
    }
}

#[cfg(not(feature = "otlp"))]
impl Traces {
    pub(crate) fn start(_args: &TraceArgs) -> anyhow::Result<Self> {
        Ok(Traces {})
    }

    pub(crate) fn of(&self, observer: Arc<dyn Observer>) -> Arc<dyn Observer> {
        observer
    }

    pub(crate) fn counted(&self, ops: Ops) -> Ops {
        ops
    }

    pub(crate) fn finish(&self) {}
}
