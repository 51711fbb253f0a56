//! The URL of a PostgreSQL server.
//!
//! It must never show a password, not even a part of one in a URL that cannot be read, and never send one in clear over a
//! network unless the URL says so.
//!
//! Start reading at [`config`].

use std::net::IpAddr;
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
/// A URL that cannot be read, or names another machine and does not say whether the connection is encrypted.
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
        if !is_on_this_machine(&config) {
            let unsaid = "the server is on another machine and the URL does not say sslmode: \
                          ?sslmode=require encrypts the connection and verifies the server's certificate, \
                          ?sslmode=disable sends prompts and answers in clear";
            return Err(Error::new(ErrorKind::Other, unsaid));
        }
        config.ssl_mode(SslMode::Disable);
    }
    config.application_name("lastmile");
    Ok(config)
}

/// Whether nothing that is sent leaves this machine, whichever of the URL's hosts answers.
fn is_on_this_machine(config: &Config) -> bool {
    let is_local = |host: &Host| match host {
        Host::Tcp(name) => {
            let address = name.parse::<IpAddr>();
            address.map_or_else(|_| name.eq_ignore_ascii_case("localhost"), |ip| ip.is_loopback())
        }
        #[cfg(unix)]
        Host::Unix(_) => true,
    };
    match config.get_hostaddrs() {
        [] => config.get_hosts().iter().all(is_local),
        // Names are for the certificate then.
        addresses => addresses.iter().all(IpAddr::is_loopback),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_goes_over_a_network_in_clear_unless_the_url_says_so() {
        #[track_caller]
        fn check(url: &str, expect: Option<SslMode>) {
            let found = config(url).map(|config| config.get_ssl_mode());
            let refusal = found.as_ref().err().map(ToString::to_string);
            assert_eq!(found.ok(), expect, "{refusal:?}");
            if let Some(refusal) = refusal {
                assert!(refusal.contains("sslmode=require"), "{refusal}");
                assert!(refusal.contains("sslmode=disable") && !refusal.contains("secret"));
            }
        }
        for local in ["localhost", "LOCALHOST", "127.0.0.1", "127.8.9.1:5433", "[::1]", "%2Frun"] {
            check(&format!("postgres://me:secret@{local}/db"), Some(SslMode::Disable));
        }
        for remote in ["db.example", "10.0.0.7", "[2001:db8::1]", "localhost,db.example", "0.0.0.0"]
        {
            let url = format!("postgres://me:secret@{remote}/db");
            check(&url, None);
            check(&format!("{url}?sslmode=prefer"), None);
            check(&format!("{url}?sslmode=require"), Some(SslMode::Require));
            check(&format!("{url}?sslmode=disable"), Some(SslMode::Disable));
        }
        check("postgres://me:secret@localhost/db?hostaddr=10.0.0.7", None);
        check("postgres://me:secret@db/x?hostaddr=127.0.0.1", Some(SslMode::Disable));
    }
}
