//! Where the server listens and what it allows.
//!
//! It must never know models.
//!
//! Start reading at [`ServerConfig`].

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use lm_keys::KeyRing;
use tokio::net::{TcpListener, TcpSocket};

use crate::override_routes::KILLABLE_ROUTES;
use crate::response_cache::ResponseCacheOptions;

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
    /// A connection on which no whole request head comes for so long is closed; neither does TLS
    /// take longer to begin.
    pub head_timeout: Duration,
    /// Longer request heads, target included, are refused with 431.
    pub max_head_bytes: usize,
    /// More header lines are refused with 431.
    pub max_headers: usize,
    /// A client that takes nothing of its answer for so long is left, and the answer aborted.
    pub write_timeout: Duration,
    /// What the system may hold of an answer that the client did not take yet, for each connection.
    pub send_buffer_bytes: u32,
    /// Connections that may be open at once; more wait in the system's backlog.
    pub max_connections: usize,
    /// Connections that one address may hold; more are refused at once. By default three quarters of all for
    /// this machine, where a reverse proxy speaks for everybody, and a quarter for any other address.
    pub max_connections_per_address: Option<usize>,
    /// Bytes of the bodies of all open requests; a body for which there is no room is refused with 429.
    pub max_open_body_bytes: usize,
    /// Requests with a body that may be open at once; more are refused with 429.
    pub max_open_requests: usize,
    /// Refuse unknown fields instead of warning.
    pub strict: bool,
    /// How long running answers may go on after the server was told to stop.
    pub shutdown_timeout: Duration,
    /// Names besides this machine's own that requests may be for, such as a reverse proxy's.
    pub allowed_hosts: Vec<String>,
    /// Origins, such as `https://chat.example`, whose pages may read answers.
    pub cors_origins: Vec<String>,
    /// Where the state of an engine that stands still is kept; `None` logs it only.
    pub state_folder: Option<PathBuf>,
    /// How often each probe of the state folder is computed again; zero is never.
    pub probe_interval: Duration,
    /// Whole answers that are told again.
    pub response_cache: ResponseCacheOptions,
}

/// Why the server cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address can be reached from other machines.
    #[error(
        "refusing to listen on {address}: other machines can reach it, and there is no API key. Make \
         one with `lastmile keys create NAME`, listen on a loopback address such as 127.0.0.1, or \
         pass --insecure to let anybody in"
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
    /// An option that could never match a request.
    #[error("{option} is {value:?}, but must be {wanted}")]
    InvalidOption {
        /// The option's name on the command line.
        option: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        wanted: &'static str,
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
            max_head_bytes: 32 << 10,
            max_headers: 100,
            write_timeout: Duration::from_secs(30),
            send_buffer_bytes: 256 << 10,
            max_connections: 4096,
            max_connections_per_address: None,
            max_open_body_bytes: 32 << 20,
            max_open_requests: 2048,
            strict: false,
            shutdown_timeout: Duration::from_secs(30),
            allowed_hosts: Vec::new(),
            cors_origins: Vec::new(),
            state_folder: None,
            probe_interval: Duration::from_mins(10),
            response_cache: ResponseCacheOptions::default(),
        }
    }
}

impl ServerConfig {
    /// Bytes that open requests take at most (their bodies, and their texts and tokens, which are as long), and cached
    /// answers.
    #[must_use]
    pub fn request_bytes(&self) -> u64 {
        let bodies = 2 * self.max_open_body_bytes as u64;
        bodies.saturating_add(self.response_cache.max_bytes as u64)
    }
}

/// Connections that wait until the server takes them in.
const BACKLOG: u32 = 1024;

/// Takes the address. Must run within the runtime that will serve.
///
/// # Errors
/// `NotLoopback` without a key unless insecure; `InvalidOption`; `Bind` when the system refuses.
pub fn bind(config: &ServerConfig, keys: &KeyRing) -> Result<TcpListener, ServeError> {
    let address = config.address;
    validate(config)?;
    if !config.insecure && !keys.is_required() && !address.ip().to_canonical().is_loopback() {
        return Err(ServeError::NotLoopback { address });
    }
    let bound = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // A restart must not wait for old connections to be forgotten.
        #[cfg(unix)]
        socket.set_reuseaddr(true)?;
        // Connections inherit it.
        socket.set_send_buffer_size(config.send_buffer_bytes)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bound().map_err(|source| ServeError::Bind { address, source })
}

fn validate(config: &ServerConfig) -> Result<(), ServeError> {
    let refuse = |option, value: &String, wanted| {
        Err(ServeError::InvalidOption { option, value: value.clone(), wanted })
    };
    if config.max_body_bytes > config.max_open_body_bytes {
        let wanted = "at most --max-open-body-bytes";
        return refuse("--max-body-bytes", &config.max_body_bytes.to_string(), wanted);
    }
    if let Some(0) = config.max_connections_per_address {
        return refuse("--max-connections-per-address", &"0".to_owned(), "at least 1");
    }
    let routes = &config.response_cache.sampled_routes;
    if let Some(route) = routes.iter().find(|route| !KILLABLE_ROUTES.contains(&route.as_str())) {
        let wanted = "a route whose answers are computed, such as /v1/chat/completions";
        return refuse("--response-cache-sampled", route, wanted);
    }
    let is_name = |name: &String| {
        !name.is_empty()
            && name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-'))
    };
    if let Some(name) = config.allowed_hosts.iter().find(|name| !is_name(name)) {
        return refuse(
            "--allowed-host",
            name,
            "a name such as llm.example, without scheme and port",
        );
    }
    let is_origin = |origin: &String| {
        let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        let is_host = |c: u8| c.is_ascii_alphanumeric() || b".-:[]".contains(&c);
        host.is_some_and(|host| !host.is_empty() && host.bytes().all(is_host))
    };
    if let Some(origin) = config.cors_origins.iter().find(|origin| !is_origin(origin)) {
        let wanted =
            "an origin such as https://chat.example, without a path and a slash at the end";
        return refuse("--cors-origin", origin, wanted);
    }
    Ok(())
}
