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
    let bound = app.config.address.ip();
    match check(&request, bound) {
        Err(error) if !app.config.insecure => {
            entry.failed(&error);
            reply::error(&error)
        }
        _ => next.run(request).await,
    }
}

fn check<B>(request: &axum::http::Request<B>, bound: IpAddr) -> Result<(), ApiError> {
    let values = |name: &HeaderName| request.headers().get_all(name).into_iter().map(text);
    // Only before HTTP/1.1 may a request not say whom it is for.
    if values(&HOST).next().is_none() && request.version() > Version::HTTP_10 {
        return Err(ApiError::host_not_allowed("", bound));
    }
    if let Some(host) = values(&HOST).find(|host| !is_own(host, bound)) {
        return Err(ApiError::host_not_allowed(&host, bound));
    }
    let is_own_page = |origin: &str| {
        let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        host.is_some_and(|host| is_own(host, bound))
    };
    match values(&ORIGIN).find(|origin| !is_own_page(origin)) {
        Some(origin) => Err(ApiError::origin_not_allowed(&origin, bound)),
        None => Ok(()),
    }
}

fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

/// Whether `host`, with or without a port, is localhost, a loopback address or `bound`.
fn is_own(host: &str, bound: IpAddr) -> bool {
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, port)) => (name, port),
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let has_port = port.strip_prefix(':').is_some_and(|p| p.bytes().all(|b| b.is_ascii_digit()));
    if !port.is_empty() && !has_port {
        return false;
    }
    let own_address = |address: IpAddr| {
        let address = address.to_canonical();
        address.is_loopback() || address == bound.to_canonical()
    };
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(own_address)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use axum::http::{Request, Version};

    use super::check;

    const BOUND: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 7));

    /// `expect` is the code of the refusal.
    #[track_caller]
    fn check_headers(version: Version, headers: &[(&str, &str)], expect: Option<&str>) {
        let request = Request::builder().version(version);
        let add = |request: axum::http::request::Builder, (name, value): &(&str, &str)| {
            request.header(*name, *value)
        };
        let request = headers.iter().fold(request, add).body(()).expect("a request");
        let found = check(&request, BOUND).err();
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
        for own in ["192.168.1.7", "192.168.1.7:80", "[::ffff:127.0.0.1]"] {
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
        for other in ["http://evil.com", "null", "", "localhost", "file://", "http://localhost/x"] {
            origin(other, false);
        }
    }
}
