//! HTTP/1.1 to an object store, over TLS whose certificates are verified: the client that `object_store` is given in
//! the place of its own.
//!
//! It must never accept a certificate that it cannot trace to a root, and never wait without an end.
//!
//! Start reading at [`Wire`].

use std::error::Error as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use hyper::Method;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector as Tcp;
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
    HttpResponse, HttpResponseBody, HttpService,
};
use object_store::{ClientConfigKey, ClientOptions};
use rustls::ClientConfig;
use tokio::time::{Instant, Sleep, sleep, timeout};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For an answer's head to a request without a body.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// A body is given the time that it takes at this speed.
const SLOWEST_BYTES_PER_SEC: u64 = 128 << 10;
/// Between two pieces of an answer.
const PIECE_TIMEOUT: Duration = Duration::from_secs(60);
/// Shorter than servers keep theirs, so that none is used that is just being closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// Makes clients.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) tls: ClientConfig,
    /// How long an answer's head may take, besides what is sent for it.
    pub(crate) patience: Duration,
}

impl HttpConnector for Wire {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let mut tcp = Tcp::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let tls = HttpsConnectorBuilder::new().with_tls_config(self.tls.clone());
        let plain = options.get_config_value(&ClientConfigKey::AllowHttp);
        let is_plain_allowed = plain.as_deref().is_some_and(is_true);
        let tls = if is_plain_allowed { tls.https_or_http() } else { tls.https_only() };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build(tls.enable_http1().wrap_connector(tcp));
        Ok(HttpClient::new(Service { client, patience: self.patience }))
    }
}

/// From the first byte sent to the answer's head.
pub(crate) fn answer_timeout(patience: Duration, body_bytes: u64) -> Duration {
    patience + Duration::from_secs(body_bytes / SLOWEST_BYTES_PER_SEC)
}

/// As the library reads it from the environment.
pub(crate) fn is_true(value: &str) -> bool {
    ["1", "true", "on", "yes", "y"].iter().any(|yes| value.eq_ignore_ascii_case(yes))
}

#[derive(Debug)]
struct Service {
    client: Client<HttpsConnector<Tcp>, HttpRequestBody>,
    patience: Duration,
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let is_listing = request.uri().query().is_some_and(|query| query.contains("list-type="));
        let may_be_large = request.method() == Method::GET && !is_listing;
        let patience = answer_timeout(self.patience, request.body().content_length() as u64);
        let answer = match timeout(patience, self.client.request(request)).await {
            Ok(answer) => answer.map_err(|error| failed(&error))?,
            Err(_) => return Err(again(&format!("no answer within {} s", patience.as_secs()))),
        };
        let (head, body) = answer.into_parts();
        let body = Timed { body, deadline: Box::pin(sleep(PIECE_TIMEOUT)) };
        let mut body = HttpResponseBody::new(body);
        if !(may_be_large && head.status.is_success()) {
            // The library goes on where an object was cut off; what else is cut off, it only asks for again when
            // that is known before it has an answer.
            let whole = body.bytes().await;
            body = whole.map_err(|error| again(&error.to_string()))?.into();
        }
        Ok(HttpResponse::from_parts(head, body))
    }
}

/// What went wrong, with all its causes.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Failure(String);

/// Whatever was sent may be sent again: the same bytes under the same name, or a put on a condition that an earlier one
/// of the same bytes broke, which its caller tells apart by reading.
fn again(text: &str) -> HttpError {
    let text = text.trim_start_matches("HTTP error: ").to_owned();
    HttpError::new(HttpErrorKind::Request, Failure(text))
}

fn failed(error: &ClientError) -> HttpError {
    let text = causes(error);
    if !error.is_connect() {
        return again(&text);
    }
    // Another try would see the same certificate.
    let is_final = text.contains("certificate");
    let kind = if is_final { HttpErrorKind::Unknown } else { HttpErrorKind::Connect };
    HttpError::new(kind, Failure(format!("cannot connect: {text}")))
}

/// The causes of an error without the client's own name for it.
fn causes(error: &ClientError) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut cause = error.source();
    while let Some(known) = cause {
        let text = known.to_string();
        if texts.last().is_none_or(|last| !last.contains(&text)) {
            texts.push(text);
        }
        cause = known.source();
    }
    if texts.is_empty() { error.to_string() } else { texts.join(": ") }
}

/// An answer's body, whose pieces come in time or not at all.
struct Timed {
    body: Incoming,
    deadline: Pin<Box<Sleep>>,
}

impl Body for Timed {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) {
            this.deadline.as_mut().reset(Instant::now() + PIECE_TIMEOUT);
            let broken = |error: hyper::Error| {
                HttpError::new(HttpErrorKind::Interrupted, Failure(format!("cut off: {error}")))
            };
            return Poll::Ready(frame.map(|frame| frame.map_err(broken)));
        }
        ready!(this.deadline.as_mut().poll(context));
        let text = format!("nothing came for {} s", PIECE_TIMEOUT.as_secs());
        Poll::Ready(Some(Err(HttpError::new(HttpErrorKind::Timeout, Failure(text)))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::net::TcpListener;

    use object_store::PutPayload;
    use rustls::RootCertStore;
    use tokio::runtime::Builder;

    use super::*;

    #[test]
    fn a_larger_body_is_given_more_time() {
        assert_eq!(answer_timeout(PATIENCE, 0), PATIENCE);
        assert_eq!(answer_timeout(PATIENCE, 8 << 20), PATIENCE + Duration::from_secs(64));
    }

    #[test]
    fn what_has_no_answer_is_sent_again_whatever_it_is() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/bucket/key", silent.local_addr().unwrap());
        let tls = ClientConfig::builder()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let wire = Wire { tls, patience: Duration::from_millis(20) };
        let client = wire.connect(&ClientOptions::new().with_allow_http(true)).unwrap();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        for method in [Method::GET, Method::PUT] {
            let mut request = HttpRequest::new(PutPayload::from_static(b"catalog").into());
            *request.method_mut() = method;
            *request.uri_mut() = url.parse().unwrap();
            let error = runtime.block_on(client.execute(request)).unwrap_err();
            assert_eq!(error.kind(), HttpErrorKind::Request, "{error}");
            assert!(error.to_string().contains("no answer within"), "{error}");
        }
    }
}
