//! One batch to the collector, once.

use std::time::Duration;

use prost::Message;
use ureq::Agent;
use ureq::http::header::{CONTENT_TYPE, RETRY_AFTER};

use crate::Settings;
use crate::attributes::Attributes;
use crate::wire::{
    ExportRequest, ExportResponse, InstrumentationScope, Resource, ResourceSpans, ScopeSpans, Span,
};

/// Longest answer of a collector that is read.
const MAX_ANSWER_BYTES: u64 = 64 << 10;

/// What became of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Posted {
    /// It was taken, but for so many spans.
    Taken {
        /// Spans that the collector does not want.
        n_rejected: u64,
    },
    /// Trying again may help.
    Later {
        /// What happened.
        why: String,
        /// What the collector asks for.
        after: Option<Duration>,
    },
    /// Trying again does not help.
    Refused {
        /// What happened.
        why: String,
    },
}

/// Sends batches to one collector.
pub(crate) struct Poster {
    agent: Agent,
    settings: Settings,
}

impl Poster {
    pub(crate) fn new(settings: Settings) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .user_agent(concat!("lastmile/", env!("CARGO_PKG_VERSION")))
            .build();
        Poster { agent: agent.into(), settings }
    }

    /// A batch as it is sent.
    pub(crate) fn encode(&self, spans: Vec<Span>) -> Vec<u8> {
        let mut attributes = Attributes::default();
        for (key, value) in &self.settings.resource {
            attributes.text(key, value);
        }
        let scope = InstrumentationScope {
            name: "lastmile".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let scoped = ScopeSpans { scope: Some(scope), spans };
        let resource = Resource { attributes: attributes.0 };
        let spans = ResourceSpans { resource: Some(resource), scope_spans: vec![scoped] };
        ExportRequest { resource_spans: vec![spans] }.encode_to_vec()
    }

    pub(crate) fn post(&self, body: &[u8], timeout: Duration) -> Posted {
        let mut request = self.agent.post(&self.settings.url);
        for (name, value) in &self.settings.headers {
            request = request.header(name, value);
        }
        let request = request.header(CONTENT_TYPE, "application/x-protobuf");
        let request = request.config().timeout_global(Some(timeout)).build();
        let mut answer = match request.send(body) {
            Ok(answer) => answer,
            Err(error) => return Posted::Later { why: error.to_string(), after: None },
        };
        let status = answer.status();
        let why = format!("the collector answered {status}");
        if status.is_success() {
            let read = answer.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_to_vec();
            return Posted::Taken { n_rejected: n_rejected(&read.unwrap_or_default()) };
        }
        match status.as_u16() {
            429 | 502..=504 => {
                let header = answer.headers().get(RETRY_AFTER);
                let seconds = header.and_then(|value| value.to_str().ok()?.trim().parse().ok());
                Posted::Later { why, after: seconds.map(Duration::from_secs) }
            }
            _ => Posted::Refused { why },
        }
    }
}

/// Spans that a collector took the batch without. One that answers in its own words took all.
fn n_rejected(answer: &[u8]) -> u64 {
    let partial = ExportResponse::decode(answer).ok().and_then(|all| all.partial_success);
    partial.and_then(|partial| u64::try_from(partial.rejected_spans).ok()).unwrap_or(0)
}
