//! A response's body that is sent as it comes.
//!
//! It must never buffer: more is asked for when the connection has room. A slow reader therefore stalls only itself.
//!
//! Start reading at [`events`].

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use tokio::time::{Instant, Sleep, sleep};

/// A comment is sent when nothing else was for so long, so that proxies keep the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const COMMENT: &[u8] = b":\n\n";
/// Proxies of the nginx family buffer responses unless told not to.
pub(crate) const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Who has something to say, bit by bit. Dropped when the client leaves.
pub(crate) trait Told: Send + Unpin + 'static {
    /// What is to be sent next, which is never empty; `None` after the last of it.
    fn poll_bytes(&mut self, context: &mut Context<'_>) -> Poll<Option<Vec<u8>>>;
}

/// Server-sent events.
pub(crate) fn events(told: impl Told) -> Response {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (X_ACCEL_BUFFERING, HeaderValue::from_static("no")),
    ];
    let quiet = Some(Quiet::new(KEEP_ALIVE));
    (headers, Body::new(ToldBody { told, quiet })).into_response()
}

/// JSON documents, one a line.
pub(crate) fn lines(told: impl Told) -> Response {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson")),
        (X_ACCEL_BUFFERING, HeaderValue::from_static("no")),
    ];
    (headers, Body::new(ToldBody { told, quiet: None })).into_response()
}

/// Appends an event whose data is one line.
pub(crate) fn push_event(bytes: &mut Vec<u8>, name: Option<&str>, data: &str) {
    debug_assert!(!data.contains(['\n', '\r']), "an event of several lines: {data}");
    if let Some(name) = name {
        bytes.extend_from_slice(b"event: ");
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(b'\n');
    }
    push_data(bytes, |bytes| bytes.extend_from_slice(data.as_bytes()));
}

/// Appends an event without a name whose data, one line, is what `write` appends.
pub(crate) fn push_data(bytes: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    bytes.extend_from_slice(b"data: ");
    write(bytes);
    bytes.extend_from_slice(b"\n\n");
}

struct ToldBody<T> {
    told: T,
    /// Where silence is broken by comments.
    quiet: Option<Quiet>,
}

/// How long nothing was sent.
struct Quiet {
    limit: Duration,
    since: Instant,
    /// Set again when it is over rather than with each event.
    timer: Pin<Box<Sleep>>,
}

impl Quiet {
    fn new(limit: Duration) -> Self {
        Quiet { limit, since: Instant::now(), timer: Box::pin(sleep(limit)) }
    }

    /// Ready when it was quiet for too long; then begins anew.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while self.timer.as_mut().poll(context).is_ready() {
            let (now, due) = (Instant::now(), self.since + self.limit);
            if now < due {
                self.timer.as_mut().reset(due);
                continue;
            }
            self.since = now;
            self.timer.as_mut().reset(now + self.limit);
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

impl<T: Told> HttpBody for ToldBody<T> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let ToldBody { told, quiet } = &mut *self;
        if let Poll::Ready(bytes) = told.poll_bytes(context) {
            if let Some(quiet) = quiet {
                quiet.since = Instant::now();
            }
            return Poll::Ready(bytes.map(|bytes| Ok(Frame::data(Bytes::from(bytes)))));
        }
        match quiet.as_mut().map(|quiet| quiet.poll(context)) {
            Some(Poll::Ready(())) => {
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(COMMENT)))))
            }
            _ => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::future::poll_fn;

    use super::*;

    /// Says a word at each of these times after the first poll, and ends.
    struct Timed(Vec<(Duration, Pin<Box<Sleep>>)>);

    impl Told for Timed {
        fn poll_bytes(&mut self, context: &mut Context<'_>) -> Poll<Option<Vec<u8>>> {
            let Some((_, next)) = self.0.first_mut() else { return Poll::Ready(None) };
            match next.as_mut().poll(context) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(()) => {
                    let (at, _) = self.0.remove(0);
                    Poll::Ready(Some(format!("{};", at.as_millis()).into_bytes()))
                }
            }
        }
    }

    async fn sent(mut body: impl HttpBody<Data = Bytes, Error = Infallible> + Unpin) -> String {
        let mut all = Vec::new();
        while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            all.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
        String::from_utf8(all).unwrap()
    }

    fn timed(millis: &[u64]) -> Timed {
        let wait = |at| (at, Box::pin(sleep(at)));
        Timed(millis.iter().map(|at| wait(Duration::from_millis(*at))).collect())
    }

    #[tokio::test]
    async fn a_silence_is_broken_by_comments_and_nothing_else_is() {
        let quiet = Some(Quiet::new(Duration::from_millis(50)));
        let told = sent(ToldBody { told: timed(&[0, 1, 2, 2000]), quiet }).await;
        let silence = told.strip_prefix("0;1;2;").and_then(|rest| rest.strip_suffix("2000;"));
        let n_comments = silence.unwrap().matches(":\n\n").count();
        assert_eq!(silence.unwrap(), ":\n\n".repeat(n_comments));
        assert!((1..=39).contains(&n_comments), "{n_comments} comments in 2 s, one a 50 ms");
        assert_eq!(sent(ToldBody { told: timed(&[0, 200]), quiet: None }).await, "0;200;");
    }

    #[test]
    fn an_event_has_its_name_before_its_data() {
        let mut bytes = Vec::new();
        push_event(&mut bytes, Some("error"), "{}");
        push_event(&mut bytes, None, "[DONE]");
        assert_eq!(bytes, b"event: error\ndata: {}\n\ndata: [DONE]\n\n");
    }
}
