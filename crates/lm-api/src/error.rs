//! Every error that a client can see, and its body in OpenAI's shape.
//!
//! It must never hold a whole prompt: values are shortened.
//!
//! Start reading at [`ApiError`]; `status`, `code` and `body` say how a variant looks on the wire.

use std::net::IpAddr;
use std::time::Duration;

use lastmile::{GenerateError, RequestId};
use serde_json::Value;

pub(crate) use crate::shortened::{shorten, shown};
use crate::{Denial, ErrorBody, IngestRefusal, ModelRefusal, OpsRefusal, OverrideRefusal};

/// Why a request is answered with an error.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ApiError {
    /// The body is not JSON, not an object, or repeats a field.
    #[error("the body cannot be read as JSON: {what}")]
    Json {
        /// The top-level field that was being read, or `body`.
        param: String,
        /// What is wrong, with line and column.
        what: String,
    },
    /// A field has the wrong type or lies outside its range.
    #[error("{param} is {found}, but must be {wanted}")]
    Invalid {
        /// The field's path.
        param: String,
        /// Its value, shortened.
        found: String,
        /// What is allowed.
        wanted: String,
    },
    /// A field that must be given is not.
    #[error("{param} is missing, but must be {wanted}")]
    Missing {
        /// The field's path.
        param: String,
        /// What is allowed.
        wanted: &'static str,
    },
    /// No answer of this id is running.
    #[error("no request {id} is running")]
    NotRunning {
        /// The id, shortened.
        id: String,
    },
    /// Two fields contradict each other.
    #[error("{param} is {found}, but {other} is {other_found}: {wanted}")]
    Conflict {
        /// The field.
        param: &'static str,
        /// Its value, shortened.
        found: String,
        /// The other field.
        other: &'static str,
        /// The other field's value, shortened.
        other_found: String,
        /// What is allowed.
        wanted: &'static str,
    },
    /// A field of the API that would change the answer and is not implemented.
    #[error("{param} is {found}, which this server does not support: leave the field out")]
    Unsupported {
        /// The field's path.
        param: String,
        /// Its value, shortened.
        found: String,
    },
    /// In strict mode: a field that nobody knows.
    #[error("unknown field '{param}': the server runs in strict mode and ignores none")]
    UnknownField {
        /// The field's path.
        param: String,
    },
    /// Another model is served.
    #[error("the model '{model}' does not exist here: this server serves '{served}'")]
    ModelNotFound {
        /// What was asked for, shortened.
        model: String,
        /// What there is.
        served: String,
    },
    /// Feedback on a request that is not stored.
    #[error("request_id is {id}: no finished request with this id is stored")]
    RequestNotFound {
        /// What was asked for.
        id: RequestId,
    },
    /// The Host header names no address of this machine: a web page may have led its own name here.
    #[error(
        "the Host header is '{host}', but must name localhost, a loopback address, {bound} or a name \
         given with --allowed-host, with any port, unless the server runs with --insecure"
    )]
    HostNotAllowed {
        /// The header, shortened.
        host: String,
        /// The address that the server listens on.
        bound: IpAddr,
    },
    /// A web page of another machine sent the request.
    #[error(
        "the Origin header is '{origin}', but must be absent, http(s):// with localhost, a loopback \
         address or {bound}, with any port, or given with --cors-origin, unless the server runs \
         with --insecure"
    )]
    OriginNotAllowed {
        /// The header, shortened.
        origin: String,
        /// The address that the server listens on.
        bound: IpAddr,
    },
    /// No key, a key that does not open the route, or one that has used what it may.
    #[error(transparent)]
    Denied(Denial),
    /// The model exists and does not answer now.
    #[error(transparent)]
    Model(ModelRefusal),
    /// An override leaves the request unanswered, or cannot be had.
    #[error(transparent)]
    Overridden(OverrideRefusal),
    /// Rows that were sent are not taken.
    #[error(transparent)]
    Ingest(IngestRefusal),
    /// A dataset, a problem or a review cannot be had.
    #[error(transparent)]
    Ops(OpsRefusal),
    /// No route has this path.
    #[error("there is no route {path}; GET / lists the routes")]
    RouteNotFound {
        /// The path, shortened.
        path: String,
    },
    /// The route does not take this method.
    #[error("{path} does not take {method}; GET / lists the routes")]
    MethodNotAllowed {
        /// The method, shortened.
        method: String,
        /// The path, shortened.
        path: String,
    },
    /// The body is larger than allowed.
    #[error("the body is larger than {limit_bytes} bytes, the server's limit")]
    BodyTooLarge {
        /// The limit.
        limit_bytes: usize,
    },
    /// The body did not arrive in time.
    #[error("the body did not arrive within {limit_ms} ms")]
    BodyTimeout {
        /// The limit.
        limit_ms: u128,
    },
    /// The connection broke within the body.
    #[error("the body could not be read: {what}")]
    BodyBroken {
        /// What the connection says.
        what: String,
    },
    /// More requests are open than may be.
    #[error("{limit} requests are open already, the server's limit")]
    TooManyRequests {
        /// The limit.
        limit: usize,
    },
    /// The bodies of the open requests leave no room for this one.
    #[error("the bodies of open requests take up to {limit_bytes} bytes, and there is no room now")]
    BodiesFull {
        /// The limit.
        limit_bytes: usize,
    },
    /// The runtime refused the request or the answer failed.
    #[error("{error}")]
    Generate {
        /// What the runtime says.
        error: GenerateError,
        /// The field that holds the prompt.
        prompt_param: &'static str,
    },
    /// The answer was ended from outside, and its API has no word for that.
    #[error("the answer was ended after {n_generated} tokens: by /abort, or with its key or model")]
    Aborted {
        /// Tokens that were generated until then.
        n_generated: u32,
    },
    /// The server is at fault.
    #[error("internal error: {what}")]
    Internal {
        /// What happened.
        what: String,
    },
}

/// How long clients are told to wait while the server shuts down, in the hope of its successor.
const RETRY_SHUTTING_DOWN: Duration = Duration::from_secs(5);
/// How long clients are told to wait when there is no room.
const RETRY_FULL: Duration = Duration::from_secs(1);

impl ApiError {
    /// Another model than `served` was asked for.
    #[must_use]
    pub fn model_not_found(model: &str, served: &str) -> Self {
        ApiError::ModelNotFound { model: shorten(model), served: served.to_owned() }
    }

    /// The Host header names no address of this machine; the server listens on `bound`.
    #[must_use]
    pub fn host_not_allowed(host: &str, bound: IpAddr) -> Self {
        ApiError::HostNotAllowed { host: shorten(host), bound }
    }

    /// The Origin header names no address of this machine; the server listens on `bound`.
    #[must_use]
    pub fn origin_not_allowed(origin: &str, bound: IpAddr) -> Self {
        ApiError::OriginNotAllowed { origin: shorten(origin), bound }
    }

    /// No route has this path.
    #[must_use]
    pub fn route_not_found(path: &str) -> Self {
        ApiError::RouteNotFound { path: shorten(path) }
    }

    /// The route does not take this method.
    #[must_use]
    pub fn method_not_allowed(method: &str, path: &str) -> Self {
        ApiError::MethodNotAllowed { method: shorten(method), path: shorten(path) }
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            ApiError::ModelNotFound { .. }
            | ApiError::RequestNotFound { .. }
            | ApiError::NotRunning { .. }
            | ApiError::RouteNotFound { .. } => 404,
            ApiError::HostNotAllowed { .. } | ApiError::OriginNotAllowed { .. } => 403,
            ApiError::Denied(denial) => denial.status(),
            ApiError::Model(refusal) => refusal.status(),
            ApiError::Overridden(refusal) => refusal.status(),
            ApiError::Ingest(refusal) => refusal.status(),
            ApiError::Ops(refusal) => refusal.status(),
            ApiError::MethodNotAllowed { .. } => 405,
            ApiError::BodyTimeout { .. } => 408,
            // Clients try what says 409 or 5xx again, and this would be ended for nothing then.
            ApiError::Aborted { .. } => 410,
            ApiError::BodyTooLarge { .. } => 413,
            ApiError::TooManyRequests { .. } | ApiError::BodiesFull { .. } => 429,
            ApiError::Internal { .. } => 500,
            ApiError::Generate { error, .. } => match error {
                GenerateError::QueueFull { .. } | GenerateError::DeadlineUnreachable { .. } => 429,
                GenerateError::DeadlineExceeded { .. } => 408,
                GenerateError::ShuttingDown => 503,
                GenerateError::Backend { .. }
                | GenerateError::Sequence { .. }
                | GenerateError::EngineDied => 500,
                _ => 400,
            },
            _ => 400,
        }
    }

    /// The stable word for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            ApiError::Json { .. } => "invalid_json",
            ApiError::Invalid { .. } | ApiError::Conflict { .. } => "invalid_value",
            ApiError::Missing { .. } => "missing_field",
            ApiError::Unsupported { .. } => "unsupported_field",
            ApiError::UnknownField { .. } => "unknown_field",
            ApiError::ModelNotFound { .. } => "model_not_found",
            ApiError::RequestNotFound { .. } | ApiError::NotRunning { .. } => "request_not_found",
            ApiError::HostNotAllowed { .. } => "host_not_allowed",
            ApiError::OriginNotAllowed { .. } => "origin_not_allowed",
            ApiError::Denied(denial) => denial.code(),
            ApiError::Model(refusal) => refusal.code(),
            ApiError::Overridden(refusal) => refusal.code(),
            ApiError::Ingest(refusal) => refusal.code(),
            ApiError::Ops(refusal) => refusal.code(),
            ApiError::RouteNotFound { .. } => "route_not_found",
            ApiError::MethodNotAllowed { .. } => "method_not_allowed",
            ApiError::BodyTooLarge { .. } => "body_too_large",
            ApiError::BodyTimeout { .. } => "body_timeout",
            ApiError::BodyBroken { .. } => "body_broken",
            ApiError::TooManyRequests { .. } => "too_many_requests",
            ApiError::BodiesFull { .. } => "too_many_body_bytes",
            ApiError::Generate { error, .. } => error.code(),
            ApiError::Aborted { .. } => "aborted",
            ApiError::Internal { .. } => "internal_error",
        }
    }

    /// How long to wait before trying again, where that may help.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            ApiError::Denied(denial) => return denial.retry_after(),
            ApiError::Generate { error, .. } if error.rejected_because().is_some() => {
                return error.retry_after();
            }
            _ => {}
        }
        match self.status() {
            429 => Some(RETRY_FULL),
            503 => Some(RETRY_SHUTTING_DOWN),
            _ => None,
        }
    }

    /// OpenAI's error object.
    #[must_use]
    pub fn body(&self) -> ErrorBody {
        let kind = match self.status() {
            404 => "not_found_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        ErrorBody { message: self.to_string(), kind, param: self.param(), code: self.code() }
    }

    /// The whole body: `{"error": {…}}`.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::json!({ "error": self.body() }).to_string()
    }

    /// The whole body as Anthropic's API has it.
    #[must_use]
    pub fn to_messages_json(&self) -> String {
        let kind = match self.status() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            503 => "overloaded_error",
            410 | 500.. => "api_error",
            _ => "invalid_request_error",
        };
        let body = self.body();
        let error = serde_json::json!({ "type": kind, "message": body.message, "param": body.param, "code": body.code });
        serde_json::json!({ "type": "error", "error": error }).to_string()
    }

    /// The whole body as Ollama's API has it.
    #[must_use]
    pub fn to_ollama_json(&self) -> String {
        serde_json::json!({ "error": self.to_string(), "code": self.code() }).to_string()
    }

    fn param(&self) -> Option<String> {
        match self {
            ApiError::Json { param, .. }
            | ApiError::Invalid { param, .. }
            | ApiError::Missing { param, .. }
            | ApiError::Unsupported { param, .. }
            | ApiError::UnknownField { param } => Some(param.clone()),
            ApiError::Conflict { param, .. } => Some((*param).to_owned()),
            ApiError::ModelNotFound { .. } | ApiError::Model(_) => Some("model".to_owned()),
            ApiError::RequestNotFound { .. } => Some("request_id".to_owned()),
            ApiError::Generate { error, prompt_param } => match error {
                GenerateError::InvalidField { field, .. }
                | GenerateError::DeadlineUnreachable { field, .. }
                | GenerateError::DeadlineExceeded { field, .. } => Some((*field).to_owned()),
                GenerateError::MaxTokensTooLarge { .. } => Some("max_tokens".to_owned()),
                GenerateError::ContextTooLong { .. }
                | GenerateError::EmptyPrompt
                | GenerateError::UnknownToken { .. }
                | GenerateError::Template { .. }
                | GenerateError::NeverFits { .. } => Some((*prompt_param).to_owned()),
                _ => None,
            },
            _ => None,
        }
    }

    pub(crate) fn invalid(
        param: impl Into<String>,
        found: &Value,
        wanted: impl Into<String>,
    ) -> Self {
        ApiError::Invalid { param: param.into(), found: shown(found), wanted: wanted.into() }
    }
}
