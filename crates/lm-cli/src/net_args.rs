//! What `serve` can be told about clients: keys, TLS, hosts and limits; and where its traces go.

use std::path::PathBuf;

use clap::Args;

use crate::traces::TraceArgs;

#[derive(Clone, Debug, Args)]
pub(crate) struct NetArgs {
    /// One key with every scope, besides those of `lastmile keys`.
    ///
    /// 16 characters or more. Others can see the command line: prefer the variable.
    #[arg(long, value_name = "KEY", env = "LASTMILE_API_KEY", hide_env_values = true)]
    pub(crate) api_key: Option<String>,
    /// The certificate chain, in PEM; SIGHUP reads it again.
    #[arg(long, value_name = "FILE", requires = "tls_key", env = "LASTMILE_TLS_CERT")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The certificate's private key, in PEM.
    #[arg(
        long,
        value_name = "FILE",
        requires = "tls_cert",
        hide_short_help = true,
        env = "LASTMILE_TLS_KEY"
    )]
    pub(crate) tls_key: Option<PathBuf>,
    /// A name that requests may be for, such as a reverse proxy's; may be given again.
    #[arg(
        long,
        value_name = "NAME",
        hide_short_help = true,
        value_delimiter = ',',
        env = "LASTMILE_ALLOWED_HOST"
    )]
    pub(crate) allowed_host: Vec<String>,
    /// An origin, such as https://chat.example, whose pages may ask; may be given again.
    #[arg(
        long,
        value_name = "ORIGIN",
        hide_short_help = true,
        value_delimiter = ',',
        env = "LASTMILE_CORS_ORIGIN"
    )]
    pub(crate) cors_origin: Vec<String>,
    /// Connections at once; more wait in the system's backlog.
    #[arg(
        long,
        default_value_t = 4096,
        hide_short_help = true,
        value_name = "N",
        env = "LASTMILE_MAX_CONNECTIONS"
    )]
    pub(crate) max_connections: usize,
    /// Connections of one address; more are refused.
    ///
    /// By default three quarters of all for this machine, where a reverse proxy may speak for everybody, and a
    /// quarter for any other address. An IPv6 address counts by its first 64 bits.
    #[arg(
        long,
        value_name = "N",
        hide_short_help = true,
        env = "LASTMILE_MAX_CONNECTIONS_PER_ADDRESS"
    )]
    pub(crate) max_connections_per_address: Option<usize>,
    /// Bytes of the bodies of all open requests; more are refused with 429.
    ///
    /// The memory plan sets twice as much aside: prompts are kept until their answers have ended.
    #[arg(
        long,
        default_value_t = 32 << 20,
        value_name = "BYTES",
        hide_short_help = true,
        env = "LASTMILE_MAX_OPEN_BODY_BYTES"
    )]
    pub(crate) max_open_body_bytes: usize,
    /// Bytes of one body of rows that is sent to `/ops/v1/ingest`; a larger one is refused with 413.
    #[arg(
        long,
        default_value_t = 1 << 30,
        value_name = "BYTES",
        hide_short_help = true,
        env = "LASTMILE_MAX_INGEST_BYTES",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub(crate) max_ingest_bytes: u64,
    /// Bytes of such bodies that may wait on the disk, for each dataset; when there are more, bodies are refused with 429.
    #[arg(
        long,
        default_value_t = 4 << 30,
        value_name = "BYTES",
        hide_short_help = true,
        env = "LASTMILE_MAX_INGEST_BACKLOG_BYTES",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub(crate) max_ingest_backlog_bytes: u64,
    /// Seconds after which a client that takes nothing of its answer is left.
    #[arg(long, default_value_t = 30, value_name = "SECONDS", hide_short_help = true, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) write_timeout: u64,
    #[command(flatten)]
    pub(crate) traces: TraceArgs,
}
