//! Where requests go.

use hyper::Uri;

use crate::BenchError;
use crate::error::invalid;

/// A server, as in `http://127.0.0.1:8080` or `https://host/openai`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub(crate) is_tls: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Host and port as in the header `host`.
    pub(crate) authority: String,
    /// What stands before `/v1`.
    prefix: String,
}

impl Target {
    /// Reads a base URL. A `/v1` at its end, as OpenAI's clients have it, is taken as said by the endpoint.
    ///
    /// # Errors
    /// Not a URL of `http` or `https` with a host.
    pub fn parse(url: &str) -> Result<Target, BenchError> {
        let refuse = || {
            invalid(
                "base_url",
                url,
                "a URL such as http://127.0.0.1:8080, without query or fragment",
            )
        };
        let uri: Uri = url.parse().map_err(|_| refuse())?;
        let is_tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(refuse()),
        };
        let authority = uri.authority().ok_or_else(refuse)?;
        // Credentials belong into --api-key; in a URL they would end up in reports.
        if uri.query().is_some() || authority.as_str().contains('@') || authority.host().is_empty()
        {
            return Err(refuse());
        }
        let path = uri.path().trim_end_matches('/');
        Ok(Target {
            is_tls,
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 }),
            authority: authority.as_str().to_owned(),
            prefix: path.strip_suffix("/v1").unwrap_or(path).to_owned(),
        })
    }

    /// The path of an endpoint such as `/v1/models` on this server.
    pub(crate) fn path(&self, endpoint: &str) -> String {
        format!("{}{endpoint}", self.prefix)
    }

    /// The whole address of an endpoint.
    pub(crate) fn url(&self, endpoint: &str) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority, self.path(endpoint))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[track_caller]
    fn check(url: &str, host: &str, port: u16, models: &str) {
        let target = Target::parse(url).unwrap();
        assert_eq!((target.host.as_str(), target.port), (host, port));
        assert_eq!(target.url("/v1/models"), models);
    }

    #[test]
    fn base_urls_are_taken_with_and_without_v1() {
        check("http://127.0.0.1:81", "127.0.0.1", 81, "http://127.0.0.1:81/v1/models");
        check("http://127.0.0.1:81/v1/", "127.0.0.1", 81, "http://127.0.0.1:81/v1/models");
        check("https://a.b/openai", "a.b", 443, "https://a.b/openai/v1/models");
        check("http://[::1]:8080", "::1", 8080, "http://[::1]:8080/v1/models");
        for bad in [
            "127.0.0.1:81",
            "ftp://a",
            "http://",
            "http://u:p@a",
            "http://a/?x=1",
            "",
            "http://a b",
        ] {
            let error = Target::parse(bad).unwrap_err().to_string();
            assert!(error.contains("base_url") && error.contains(bad), "{error}");
        }
    }
}
