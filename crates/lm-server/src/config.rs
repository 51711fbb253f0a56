//! Where the server listens and what it allows.
//!
//! It must never know models.
//!
//! Start reading at [`ServerConfig`].

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpListener;

/// Where the server listens and what it allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// Where to listen; port 0 takes any that is free.
    pub address: SocketAddr,
    /// Listen on other addresses than loopback, although nobody has to show a key, and take
    /// requests whatever their Host and Origin are.
    pub insecure: bool,
    /// Larger bodies are refused with 413.
    pub max_body_bytes: usize,
    /// A body that takes longer to arrive is refused with 408.
    pub body_timeout: Duration,
    /// A connection on which no whole request head comes for so long is closed.
    pub head_timeout: Duration,
    /// Connections that may be open at once; more wait in the system's backlog.
    pub max_connections: usize,
    /// Requests with a body that may be open at once; more are refused with 429.
    pub max_open_requests: usize,
    /// Refuse unknown fields instead of warning.
    pub strict: bool,
    /// How long running answers may go on after the server was told to stop.
    pub shutdown_timeout: Duration,
}

/// Why the server cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address can be reached from other machines.
    #[error(
        "refusing to listen on {address}: other machines can reach it, and this version checks no \
         keys. Listen on a loopback address such as 127.0.0.1, or pass --insecure to allow it"
    )]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// The system does not give the address.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The listener is broken.
    #[error("the listener failed: {0}")]
    Listener(#[from] std::io::Error),
}

impl Default for ServerConfig {
    fn default() -> Self {
        ServerConfig {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            insecure: false,
            max_body_bytes: 1 << 20,
            body_timeout: Duration::from_secs(30),
            head_timeout: Duration::from_secs(15),
            max_connections: 4096,
            max_open_requests: 2048,
            strict: false,
            shutdown_timeout: Duration::from_secs(30),
        }
    }
}

/// Takes the address.
///
/// # Errors
/// `NotLoopback` unless insecure; `Bind` when the system refuses.
pub async fn bind(config: &ServerConfig) -> Result<TcpListener, ServeError> {
    let address = config.address;
    if !config.insecure && !address.ip().to_canonical().is_loopback() {
        return Err(ServeError::NotLoopback { address });
    }
    TcpListener::bind(address).await.map_err(|source| ServeError::Bind { address, source })
}
