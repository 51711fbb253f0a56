//! Whether a request may have been sent by a web page of another machine.
//!
//! It must never look up a name: a page that leads its own name to this machine, by DNS rebinding,
//! is seen by that name in the Host header. Nor must it know routes.
//!
//! Start reading at [`guard`].

use std::net::IpAddr;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::header::{HOST, HeaderName, ORIGIN};
use axum::http::{HeaderValue, Version};
use axum::middleware::Next;
use axum::response::Response;
use lm_api::ApiError;

use crate::ServerConfig;
use crate::app::App;
use crate::reply;
use crate::request_log::RequestEntry;

/// Refuses what a browser might send for somebody else, unless the server runs insecurely.
pub(crate) async fn guard(
    State(app): State<Arc<App>>,
    Extension(entry): Extension<Arc<RequestEntry>>,
    request: Request,
    next: Next,
) -> Response {
    match check(&request, &app.config) {
        Err(error) if !app.config.insecure => {
            entry.failed(&error);
            reply::error(&error)
        }
        _ => next.run(request).await,
    }
}

fn check<B>(request: &axum::http::Request<B>, config: &ServerConfig) -> Result<(), ApiError> {
    let bound = config.address.ip();
    let values = |name: &HeaderName| request.headers().get_all(name).into_iter().map(text);
    // Only before HTTP/1.1 may a request not say whom it is for.
    if values(&HOST).next().is_none() && request.version() > Version::HTTP_10 {
        return Err(ApiError::host_not_allowed("", bound));
    }
    // A target of the form http://host/path says it a second time.
    let authority = request.uri().authority().map(|authority| authority.as_str().to_owned());
    if let Some(host) = values(&HOST).chain(authority).find(|host| !is_own(host, config)) {
        return Err(ApiError::host_not_allowed(&host, bound));
    }
    let is_own_page = |origin: &str| {
        let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        let is_listed = config.cors_origins.iter().any(|listed| listed == origin);
        is_listed || host.is_some_and(|host| is_own(host, config))
    };
    match values(&ORIGIN).find(|origin| !is_own_page(origin)) {
        Some(origin) => Err(ApiError::origin_not_allowed(&origin, bound)),
        None => Ok(()),
    }
}

fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

/// Whether `host`, with or without a port, is localhost, a loopback address, the one that is listened
/// on, or an allowed name.
fn is_own(host: &str, config: &ServerConfig) -> bool {
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, port)) => (name, port),
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let has_port = port.strip_prefix(':').is_some_and(|p| p.bytes().all(|b| b.is_ascii_digit()));
    if !port.is_empty() && !has_port {
        return false;
    }
    let bound = config.address.ip().to_canonical();
    let own_address = |address: IpAddr| {
        let address = address.to_canonical();
        // Who listens on all addresses does not know them; and no page can lead an address elsewhere.
        address.is_loopback() || address == bound || bound.is_unspecified()
    };
    let is_allowed = |allowed: &String| allowed.eq_ignore_ascii_case(name);
    name.eq_ignore_ascii_case("localhost")
        || name.parse().is_ok_and(own_address)
        || config.allowed_hosts.iter().any(is_allowed)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use axum::http::{Request, Version};

    use super::check;
    use crate::ServerConfig;

    const BOUND: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 7);

    fn config(address: impl Into<IpAddr>) -> ServerConfig {
        ServerConfig {
            address: (address.into(), 8080).into(),
            allowed_hosts: vec!["llm.example".to_owned()],
            cors_origins: vec!["https://chat.example".to_owned()],
            ..ServerConfig::default()
        }
    }

    /// `expect` is the code of the refusal.
    #[track_caller]
    fn check_headers(version: Version, headers: &[(&str, &str)], expect: Option<&str>) {
        let request = Request::builder().version(version);
        let add = |request: axum::http::request::Builder, (name, value): &(&str, &str)| {
            request.header(*name, *value)
        };
        let request = headers.iter().fold(request, add).body(()).expect("a request");
        let found = check(&request, &config(BOUND)).err();
        assert_eq!(found.map(|error| error.code()), expect, "{headers:?}");
    }

    #[test]
    fn only_names_of_this_machine_are_hosts() {
        let host = |host: &str, expect: bool| {
            let refused = (!expect).then_some("host_not_allowed");
            check_headers(Version::HTTP_11, &[("host", host)], refused);
        };
        for own in ["localhost", "LocalHost:1", "127.0.0.1", "127.9.9.9:8080", "[::1]:8080"] {
            host(own, true);
        }
        for own in ["192.168.1.7", "192.168.1.7:80", "[::ffff:127.0.0.1]", "LLM.example:443"] {
            host(own, true);
        }
        for other in ["evil.com", "evil.com:8080", "localhost.evil.com", "192.168.1.8", "0.0.0.0"] {
            host(other, false);
        }
        for odd in ["", "evil.com@localhost", "localhost:x", "localhost:1:2", "[::1", "[::1]x"] {
            host(odd, false);
        }
        check_headers(Version::HTTP_11, &[], Some("host_not_allowed"));
        check_headers(Version::HTTP_10, &[], None);
        let two = [("host", "localhost"), ("host", "evil.com")];
        check_headers(Version::HTTP_11, &two, Some("host_not_allowed"));
    }

    #[test]
    fn only_pages_of_this_machine_are_origins() {
        let origin = |origin: &str, expect: bool| {
            let refused = (!expect).then_some("origin_not_allowed");
            let headers = [("host", "localhost"), ("origin", origin)];
            check_headers(Version::HTTP_11, &headers, refused);
        };
        for own in ["http://localhost:3000", "https://127.0.0.1", "http://192.168.1.7:8080"] {
            origin(own, true);
        }
        for own in ["https://chat.example", "https://llm.example"] {
            origin(own, true);
        }
        for other in ["http://evil.com", "null", "", "localhost", "file://", "http://localhost/x"] {
            origin(other, false);
        }
        for other in
            ["http://chat.example", "https://chat.example:444", "https://chat.example.evil"]
        {
            origin(other, false);
        }
    }

    #[test]
    fn a_target_with_a_host_must_name_this_machine_too() {
        let target = |uri: &str, expect: bool| {
            let request = Request::builder().uri(uri).header("host", "localhost").body(());
            let found = check(&request.expect("a request"), &config(BOUND));
            assert_eq!(found.is_ok(), expect, "{uri}");
        };
        target("http://localhost/v1/models", true);
        target("http://192.168.1.7:8080/v1/models", true);
        target("http://evil.com/v1/models", false);
        target("http://localhost@evil.com/v1/models", false);
        target("http://evil.com@localhost/v1/models", false);
    }

    #[test]
    fn who_listens_on_all_addresses_takes_any_address_but_no_name() {
        let host = |host: &str, expect: bool| {
            let request = Request::builder().header("host", host).body(()).expect("a request");
            let found = check(&request, &config(Ipv4Addr::UNSPECIFIED));
            assert_eq!(found.is_ok(), expect, "{host}");
        };
        host("10.1.2.3:8080", true);
        host("[2001:db8::1]", true);
        host("evil.com", false);
    }
}
