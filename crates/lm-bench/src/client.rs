//! One request over HTTP/1.1, from its first byte to the end of its stream.
//!
//! It must never fail a run: whatever happens to a request is said in its [`Output`].
//!
//! Start reading at [`Client::stream`].

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::chunk::{Chunk, Events, Usage, error_text};
use crate::error::invalid;
use crate::{BenchError, Target};

/// Longest body of an error or of a list of models.
const MAX_BODY_BYTES: usize = 4 << 20;
/// How much of a failure is told.
const MAX_REASON_CHARS: usize = 300;

/// What became of one request. Times are in seconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    /// Why it failed; `None` when it is complete.
    pub error: Option<String>,
    /// From the start of the run until it was sent.
    pub start_s: f64,
    /// From then until the first text; `None` when none came.
    pub ttft_s: Option<f64>,
    /// From when it was sent until the last chunk with text, or the end of the answer.
    pub latency_s: f64,
    /// Between chunks with text.
    pub itls_s: Vec<f64>,
    /// The prompt's tokens by the server's count, where it says one.
    pub prompt_tokens: Option<u64>,
    /// The answer's tokens by the server's count, where it says one.
    pub completion_tokens: Option<u64>,
    /// Prompt tokens that the server had cached.
    pub cached_tokens: u64,
    /// Chunks with text.
    pub n_chunks: u64,
    /// The answer.
    pub text: String,
}

type Sender = SendRequest<Full<Bytes>>;

/// Sends requests to one server, on connections that are kept.
pub(crate) struct Client {
    target: Target,
    tls: Option<TlsConnector>,
    authorization: Option<HeaderValue>,
    /// Not more than were in use at once.
    idle: Mutex<Vec<Sender>>,
}

impl Client {
    pub(crate) fn new(target: Target, api_key: Option<&str>) -> Result<Client, BenchError> {
        let bearer = |key: &str| {
            let value = HeaderValue::from_str(&format!("Bearer {key}"));
            value.map_err(|_| invalid("api_key", "(hidden)", "printable ASCII"))
        };
        let tls = target.is_tls.then(|| {
            let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
            let config = ClientConfig::builder().with_root_certificates(roots);
            TlsConnector::from(Arc::new(config.with_no_client_auth()))
        });
        let authorization = api_key.map(bearer).transpose()?;
        Ok(Client { target, tls, authorization, idle: Mutex::default() })
    }

    /// Sends `body` and reads the answer to its end. `origin` is the start of the run.
    pub(crate) async fn stream(&self, endpoint: &str, body: Bytes, origin: Instant) -> Output {
        let started = Instant::now();
        let start_s = (started - origin).as_secs_f64();
        let mut output = Output { start_s, ..Output::default() };
        if let Err(reason) = self.exchange(endpoint, body, started, &mut output).await {
            output.error = Some(reason.chars().take(MAX_REASON_CHARS).collect());
        }
        output
    }

    /// A body of JSON from the server.
    pub(crate) async fn get(&self, endpoint: &str) -> Result<Value, BenchError> {
        let problem =
            |problem: String| BenchError::Server { url: self.target.url(endpoint), problem };
        let (response, _) =
            self.send(Method::GET, endpoint, Bytes::new()).await.map_err(problem)?;
        let status = response.status();
        let body = whole(response).await.map_err(problem)?;
        if status != StatusCode::OK {
            return Err(problem(refusal(status, &body)));
        }
        serde_json::from_slice(&body).map_err(|error| problem(format!("no JSON: {error}")))
    }

    async fn exchange(
        &self,
        endpoint: &str,
        body: Bytes,
        started: Instant,
        output: &mut Output,
    ) -> Result<(), String> {
        let (mut response, sender) = self.send(Method::POST, endpoint, body).await?;
        if response.status() != StatusCode::OK {
            let status = response.status();
            return Err(refusal(status, &whole(response).await?));
        }
        let (mut events, mut state) = (Events::default(), Stream::default());
        while let Some(frame) = response.body_mut().frame().await {
            let frame = frame.map_err(|error| format!("the stream broke: {}", chain(&error)))?;
            let now_s = started.elapsed().as_secs_f64();
            let Some(data) = frame.data_ref() else { continue };
            events.feed(data, |data| state.take(Chunk::parse(data)?, now_s, output))?;
        }
        state.end(output)?;
        self.keep(sender);
        Ok(())
    }

    /// Sends a request on a connection that is open, or on a new one.
    async fn send(
        &self,
        method: Method,
        endpoint: &str,
        body: Bytes,
    ) -> Result<(Response<Incoming>, Sender), String> {
        loop {
            let (mut sender, is_new) = self.connection().await?;
            let sent = sender.send_request(self.request(&method, endpoint, body.clone())?).await;
            match sent {
                Ok(response) => return Ok((response, sender)),
                // The server closed it while nobody looked, and has not seen the request.
                Err(error) if error.is_canceled() && !is_new => {}
                Err(error) => return Err(format!("no answer: {}", chain(&error))),
            }
        }
    }

    fn request(
        &self,
        method: &Method,
        endpoint: &str,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, String> {
        let mut request = Request::builder()
            .method(method)
            .uri(self.target.path(endpoint))
            .header(HOST, &self.target.authority)
            .header(ACCEPT, "*/*")
            .header(CONTENT_TYPE, "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        request.body(Full::new(body)).map_err(|error| error.to_string())
    }

    /// A connection, and whether it is new.
    async fn connection(&self) -> Result<(Sender, bool), String> {
        loop {
            let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(mut sender) = kept else { break };
            if sender.ready().await.is_ok() {
                return Ok((sender, false));
            }
        }
        let cannot =
            |error: io::Error| format!("cannot connect to {}: {error}", self.target.authority);
        let Target { host, port, .. } = &self.target;
        let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(cannot)?;
        stream.set_nodelay(true).map_err(cannot)?;
        let Some(tls) = &self.tls else { return Ok((shake(stream).await?, true)) };
        let name = ServerName::try_from(host.clone()).map_err(|error| error.to_string())?;
        let stream = tls.connect(name, stream).await.map_err(cannot)?;
        Ok((shake(stream).await?, true))
    }

    fn keep(&self, sender: Sender) {
        if !sender.is_closed() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        }
    }
}

/// What was read of a stream.
#[derive(Default)]
struct Stream {
    last_s: Option<f64>,
    usage: Option<Usage>,
    is_finished: bool,
}

impl Stream {
    fn take(&mut self, chunk: Chunk, now_s: f64, output: &mut Output) -> Result<(), String> {
        if let Some(error) = chunk.error {
            return Err(format!("the stream ended with an error: {error}"));
        }
        if chunk.has_content {
            match self.last_s {
                None => output.ttft_s = Some(now_s),
                Some(last_s) => output.itls_s.push(now_s - last_s),
            }
            self.last_s = Some(now_s);
            output.n_chunks += 1;
            output.text.push_str(&chunk.text);
        }
        // An answer may say nothing but that all is done.
        let is_bare_end = chunk.is_done && self.last_s.is_none() && !self.is_finished;
        if chunk.has_content || chunk.is_finished || is_bare_end {
            output.latency_s = now_s;
        }
        self.usage = chunk.usage.or(self.usage);
        self.is_finished |= chunk.is_finished || chunk.is_done;
        Ok(())
    }

    fn end(self, output: &mut Output) -> Result<(), String> {
        if !self.is_finished {
            return Err("the stream ended before the answer did".to_owned());
        }
        output.prompt_tokens = self.usage.map(|usage| usage.prompt_tokens);
        output.completion_tokens = self.usage.map(|usage| usage.completion_tokens);
        output.cached_tokens = self.usage.map_or(0, |usage| usage.cached_tokens());
        Ok(())
    }
}

async fn shake(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<Sender, String> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| format!("cannot speak HTTP: {}", chain(&error)))?;
    // Its errors come to whoever waits for an answer.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

async fn whole(response: Response<Incoming>) -> Result<Bytes, String> {
    let body = Limited::new(response.into_body(), MAX_BODY_BYTES).collect().await;
    Ok(body.map_err(|error| format!("the body broke: {error}"))?.to_bytes())
}

fn refusal(status: StatusCode, body: &[u8]) -> String {
    let text = match serde_json::from_slice::<Value>(body) {
        Ok(value) => error_text(&value),
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    format!("{status}: {text}")
}

/// An error and its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of chunks that come a second apart.
    fn read(chunks: &[&str]) -> (Result<(), String>, Output) {
        let (mut stream, mut output) = (Stream::default(), Output::default());
        for (i, chunk) in chunks.iter().enumerate() {
            let taken = Chunk::parse(chunk.as_bytes())
                .and_then(|chunk| stream.take(chunk, i as f64, &mut output));
            if taken.is_err() {
                return (taken, output);
            }
        }
        let ended = stream.end(&mut output);
        (ended, output)
    }

    const ROLE: &str = r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#;
    const TEXT: &str = r#"{"choices":[{"delta":{"content":"a"}}]}"#;
    const STOP: &str = r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#;
    const USAGE: &str = r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":1}}"#;
    const DONE: &str = "[DONE]";

    #[test]
    fn an_answer_that_ends_without_text_is_complete_and_has_no_first_token() {
        let (ended, output) = read(&[ROLE, STOP, USAGE, DONE]);
        assert_eq!((ended, output.ttft_s, output.latency_s), (Ok(()), None, 1.0));
        assert_eq!((output.n_chunks, output.completion_tokens), (0, Some(1)));
        let (ended, output) = read(&[ROLE, DONE]);
        assert_eq!((ended, output.ttft_s, output.latency_s), (Ok(()), None, 1.0));
        let (ended, output) = read(&[ROLE, TEXT, STOP, USAGE, DONE]);
        assert_eq!((ended, output.ttft_s, output.latency_s), (Ok(()), Some(1.0), 2.0));
    }

    #[test]
    fn an_answer_without_an_end_and_one_with_an_error_have_failed() {
        for chunks in [&[][..], &[ROLE], &[ROLE, TEXT], &[ROLE, USAGE]] {
            let (ended, _) = read(chunks);
            assert_eq!(ended, Err("the stream ended before the answer did".to_owned()));
        }
        let (ended, _) = read(&[ROLE, r#"{"error":{"message":"it broke"}}"#, DONE]);
        assert!(ended.is_err_and(|reason| reason.contains("it broke")));
    }
}
