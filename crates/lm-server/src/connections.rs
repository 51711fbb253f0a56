//! Connections: how many, how long one may take to say what it wants, and how all of them end.
//!
//! It must never know routes.
//!
//! Start reading at [`serve_connections`].

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::future::Future;
use std::io::{self, ErrorKind, Write};
use std::net::Shutdown;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};

use crate::peers::{PeerPlace, Peers};
use crate::write_deadline::WriteDeadline;
use crate::{ServerConfig, Tls};

/// How long it takes until the system is asked again, once it gave no connection.
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);
/// Bytes that a connection holds of what was sent and not yet read, in the longest heads.
const BUFFERED_HEADS: usize = 2;
/// What an address hears that has too many connections.
const TOO_MANY_CONNECTIONS: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\n\
    connection: close\r\ncontent-type: application/json\r\ncontent-length: 131\r\n\r\n\
    {\"error\":{\"message\":\"this address has too many connections open\",\"type\":\"server_error\",\
    \"param\":null,\"code\":\"too_many_connections\"}}";

/// Serves until `stop` resolves; then takes no more connections in and returns when those that are
/// open have ended. Over the limit, connections wait in the system's backlog until one ends.
pub(crate) async fn serve_connections(
    listener: TcpListener,
    router: Router,
    config: &Arc<ServerConfig>,
    tls: Option<Arc<Tls>>,
    peers: Arc<Peers>,
    stop: impl Future<Output = ()>,
) {
    let n_slots = u32::try_from(config.max_connections).unwrap_or(u32::MAX);
    let n_slots = n_slots.min(u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX));
    let slots = Arc::new(Semaphore::new(n_slots as usize));
    let (closing, is_closing) = watch::channel(());
    let mut stop = pin!(stop);
    loop {
        let (stream, places) = tokio::select! {
            accepted = accept(&listener, &slots, &peers, tls.is_some()) => accepted,
            () = &mut stop => break,
        };
        let connection = Connection {
            stream,
            router: router.clone(),
            config: Arc::clone(config),
            tls: tls.clone(),
            is_closing: is_closing.clone(),
        };
        tokio::spawn(async move {
            connection.run().await;
            drop(places);
        });
    }
    drop((listener, closing));
    // Whoever holds all slots is alone.
    drop(slots.acquire_many(n_slots).await);
}

/// The next connection, and its places. While the system gives none, such as when the process may open
/// no more files, this says so and tries again every [`ACCEPT_AGAIN`]; those that are open go on.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
    peers: &Arc<Peers>,
    has_tls: bool,
) -> (TcpStream, (OwnedSemaphorePermit, PeerPlace)) {
    let slot = Arc::clone(slots).acquire_owned().await;
    let slot = slot.expect("nobody closes the semaphore: this is a bug");
    loop {
        match listener.accept().await {
            Ok((stream, address)) => match peers.enter(address.ip()) {
                Some(place) => return (stream, (slot, place)),
                None => refuse(stream, has_tls),
            },
            Err(error) if left_already(&error) => {}
            Err(error) => {
                tracing::error!(%error, "cannot take connections in; clients wait");
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

/// Closes a connection of an address that has too many. Never waits: an answer that does not fit the empty
/// buffer of a new connection is not sent.
fn refuse(stream: TcpStream, has_tls: bool) {
    let Ok(mut stream) = stream.into_std() else { return };
    if !has_tls {
        // Who does not hear the answer sees that the connection ends.
        let _ = stream.write(TOO_MANY_CONNECTIONS);
    }
    let _ = stream.shutdown(Shutdown::Both);
}

/// Whether the client went before it was taken in.
fn left_already(error: &io::Error) -> bool {
    use ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// One client's connection.
struct Connection {
    stream: TcpStream,
    router: Router,
    config: Arc<ServerConfig>,
    tls: Option<Arc<Tls>>,
    is_closing: watch::Receiver<()>,
}

impl Connection {
    /// Answers request after request. Ends when the client does, when a head does not come in time,
    /// or, once the server closes, after the answer that is being sent.
    async fn run(mut self) {
        // A token is a small packet, and none may wait for the next.
        if let Err(error) = self.stream.set_nodelay(true) {
            tracing::warn!(%error, "cannot send small packets at once");
        }
        let stream = WriteDeadline::new(self.stream, self.config.write_timeout);
        let Some(tls) = self.tls else {
            return talk(stream, self.router, &self.config, self.is_closing).await;
        };
        let began = tokio::select! {
            began = timeout(self.config.head_timeout, tls.acceptor().accept(stream)) => began,
            _ = self.is_closing.changed() => return,
        };
        match began {
            Ok(Ok(stream)) => talk(stream, self.router, &self.config, self.is_closing).await,
            Ok(Err(error)) => tracing::debug!(%error, "TLS could not begin"),
            Err(_) => tracing::debug!("TLS did not begin in time"),
        }
    }
}

async fn talk(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    router: Router,
    config: &ServerConfig,
    mut is_closing: watch::Receiver<()>,
) {
    let service = TowerToHyperService::new(router);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(config.head_timeout)
        .max_header_size(config.max_head_bytes)
        .max_headers(config.max_headers)
        .max_buf_size(BUFFERED_HEADS * config.max_head_bytes)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        // The sender says nothing; it is dropped.
        _ = is_closing.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
}
