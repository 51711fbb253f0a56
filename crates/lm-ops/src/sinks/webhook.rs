//! One message to one receiver, once, by HTTP.

use std::fmt;
use std::time::Duration;

use ureq::Agent;
use ureq::http::header::{CONTENT_TYPE, RETRY_AFTER};

use crate::now_ms;
use crate::sinks::signature::Secret;
use crate::sinks::{Delivery, Later, Message};

/// A receiver.
pub(crate) struct WebhookSink {
    /// May hold a secret of the receiver's: nobody is told it.
    pub(crate) url: String,
    pub(crate) host: String,
    secret: Option<Secret>,
    agent: Agent,
}

impl WebhookSink {
    pub(crate) fn new(url: String, host: String, secret: Option<Secret>) -> WebhookSink {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .user_agent(concat!("lastmile/", env!("CARGO_PKG_VERSION")))
            .build();
        WebhookSink { url, host, secret, agent: agent.into() }
    }

    pub(crate) fn post(&self, message: &Message, timeout: Duration) -> Delivery {
        let Message { id, body, .. } = message;
        // Of the attempt, not of the message: a receiver refuses what is old.
        let timestamp_s = now_ms().div_euclid(1000);
        let mut request = self.agent.post(&self.url);
        request = request.header(CONTENT_TYPE, "application/json").header("webhook-id", id);
        request = request.header("webhook-timestamp", timestamp_s.to_string());
        if let Some(secret) = &self.secret {
            request = request.header("webhook-signature", secret.sign(id, timestamp_s, body));
        }
        let request = request.config().timeout_global(Some(timeout)).build();
        let answer = match request.send(body.as_bytes()) {
            Ok(answer) => answer,
            Err(error) => {
                let why = error.to_string().replace(&self.url, &self.host);
                return Delivery::Later(Later { why, ..Later::default() });
            }
        };
        let status = answer.status();
        let why = format!("the receiver answered {status}");
        match status.as_u16() {
            200..=299 => Delivery::Taken,
            300..=399 => {
                Delivery::Refused { why: format!("{why}, but redirects are not followed") }
            }
            // Request Timeout, Too Early, Too Many Requests.
            408 | 425 | 429 | 500.. => {
                let header = answer.headers().get(RETRY_AFTER);
                let seconds = header.and_then(|value| value.to_str().ok()?.trim().parse().ok());
                let after = seconds.map(Duration::from_secs);
                Delivery::Later(Later { why, after, is_for_all: status.as_u16() == 429 })
            }
            _ => Delivery::Refused { why },
        }
    }
}

impl fmt::Debug for WebhookSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WebhookSink({})", self.host)
    }
}
