//! What can be wrong with how traces are to be sent.

/// What can be wrong with how traces are to be sent. Headers are never echoed: they hold keys.
#[derive(Debug, thiserror::Error)]
pub enum OtelError {
    /// No address of a collector.
    #[error(
        "--otlp-endpoint (or OTEL_EXPORTER_OTLP_ENDPOINT) is {endpoint:?}, but must be http://HOST:PORT or \
         https://HOST:PORT, with a path or without"
    )]
    Endpoint {
        /// What was given.
        endpoint: String,
    },
    /// A name or a password in the address.
    #[error(
        "--otlp-endpoint (or OTEL_EXPORTER_OTLP_ENDPOINT) must not hold a user or a password: give them as a header \
         in OTEL_EXPORTER_OTLP_HEADERS"
    )]
    Credentials,
    /// A list that cannot be read.
    #[error("{variable}: entry {entry} must be name=value, with other characters written as %XX")]
    List {
        /// The variable's name.
        variable: &'static str,
        /// Which entry, counted from 1.
        entry: usize,
    },
    /// A protocol that is not spoken.
    #[error(
        "{variable} is {protocol:?}, but only http/protobuf is spoken: give the collector's HTTP port"
    )]
    Protocol {
        /// The variable's name.
        variable: &'static str,
        /// What was given.
        protocol: String,
    },
    /// The system gave no thread.
    #[error("cannot start the thread that sends traces: {0}")]
    Thread(std::io::Error),
}
