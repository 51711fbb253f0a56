//! The URL of a PostgreSQL server.
//!
//! It must never show a password, not even a part of one in a URL that cannot be read.
//!
//! Start reading at [`config`].

use std::str::FromStr;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

use super::super::{Error, ErrorKind, Result};

/// A URL as it may be shown: who, where, which database.
pub(in crate::sql) fn shown_url(url: &str) -> Option<String> {
    let config = Config::from_str(url).ok()?;
    let user = config.get_user().map(|user| format!("{user}@")).unwrap_or_default();
    let ports = config.get_ports();
    let hosts = config.get_hosts().iter().enumerate().map(|(i, host)| {
        let name = match host {
            Host::Tcp(name) if name.contains(':') => format!("[{name}]"),
            Host::Tcp(name) => name.clone(),
            #[cfg(unix)]
            Host::Unix(folder) => folder.display().to_string(),
        };
        match ports.get(i).or(ports.first()) {
            Some(port) if *port != 5432 => format!("{name}:{port}"),
            _ => name,
        }
    });
    let hosts = hosts.collect::<Vec<_>>().join(",");
    let database = config.get_dbname().map(|name| format!("/{name}")).unwrap_or_default();
    Some(format!("postgres://{user}{hosts}{database}"))
}

/// How the server of a URL is reached; its password may be in `PGPASSWORD`.
///
/// # Errors
/// A URL that cannot be read.
pub(super) fn config(url: &str) -> Result<Config> {
    // The library's own sentence may repeat a part of the URL.
    let refused = "the URL must be postgres://USER:PASSWORD@HOST:PORT/DATABASE?PARAMETER=VALUE, \
                   with %XX for what is no letter or digit in a password, and PostgreSQL's parameters; \
                   sslmode may be disable or require";
    let mut config = Config::from_str(url).map_err(|_| Error::new(ErrorKind::Other, refused))?;
    if config.get_hosts().is_empty() {
        return Err(Error::new(ErrorKind::Other, "the URL names no host"));
    }
    if config.get_password().is_none()
        && let Some(password) = std::env::var_os("PGPASSWORD")
    {
        config.password(password.as_encoded_bytes());
    }
    // "prefer" would be content with an attacker's refusal of TLS, so it is no better than none.
    if config.get_ssl_mode() == SslMode::Prefer {
        config.ssl_mode(SslMode::Disable);
    }
    config.application_name("lastmile");
    Ok(config)
}
