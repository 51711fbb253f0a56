//! Where traces go, under which name, and within which limits.

use std::time::Duration;

use percent_encoding::percent_decode_str;
use ureq::http::{HeaderName, HeaderValue, Uri};

use crate::OtelError;

/// The variable that names the collector where no option does.
pub const ENDPOINT_VARIABLE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const HEADERS: &str = "OTEL_EXPORTER_OTLP_HEADERS";
const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
const SERVICE_NAME: &str = "OTEL_SERVICE_NAME";
const RESOURCE: &str = "OTEL_RESOURCE_ATTRIBUTES";
const PATH: &str = "/v1/traces";

/// Where traces go and under which name.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The whole address.
    pub(crate) url: String,
    /// They are marked as sensitive, so that `Debug` does not show them.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// What is said of this process.
    pub(crate) resource: Vec<(String, String)>,
    /// How much, how long, how often.
    pub limits: Limits,
}

/// How much may wait and how long is tried.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Answers that wait to be sent; more are dropped and counted.
    pub queue_answers: usize,
    /// Spans of one request to the collector; the last answer may exceed it by its own.
    pub batch_spans: usize,
    /// How long a span waits for others.
    pub every: Duration,
    /// How long the collector may take to answer.
    pub timeout: Duration,
    /// How often a batch is sent before it is dropped.
    pub tries: u32,
    /// The wait before the second try; it doubles up to `longest_backoff`.
    pub backoff: Duration,
    /// The longest wait between two tries, also where the collector asks for more.
    pub longest_backoff: Duration,
    /// What a shutdown takes at most.
    pub shutdown: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            queue_answers: 2048,
            batch_spans: 512,
            every: Duration::from_secs(1),
            timeout: Duration::from_secs(10),
            tries: 5,
            backoff: Duration::from_millis(500),
            longest_backoff: Duration::from_secs(5),
            shutdown: Duration::from_secs(2),
        }
    }
}

impl Settings {
    /// Sends to `endpoint`, the base address of a collector; the rest is as OpenTelemetry's variables say. `variable`
    /// tells what a variable of the environment holds.
    ///
    /// # Errors
    /// What cannot be read, by its name.
    pub fn read(
        endpoint: &str,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, OtelError> {
        // An empty variable is as good as none, by OpenTelemetry's rules.
        let variable = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        if let Some(protocol) = variable(PROTOCOL).filter(|protocol| protocol != "http/protobuf") {
            return Err(OtelError::Protocol { variable: PROTOCOL, protocol });
        }
        let mut resource =
            variable(RESOURCE).map_or(Ok(Vec::new()), |text| list(RESOURCE, &text))?;
        if let Some(name) = variable(SERVICE_NAME) {
            resource.retain(|(key, _)| key != "service.name");
            resource.insert(0, ("service.name".to_owned(), name));
        }
        for (key, value) in
            [("service.name", "lastmile"), ("service.version", env!("CARGO_PKG_VERSION"))]
        {
            if resource.iter().all(|(known, _)| known != key) {
                resource.push((key.to_owned(), value.to_owned()));
            }
        }
        let headers = variable(HEADERS).map_or(Ok(Vec::new()), |text| headers(&text))?;
        Ok(Settings { url: url(endpoint)?, headers, resource, limits: Limits::default() })
    }

    /// Where the spans are sent to.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }
}

fn url(endpoint: &str) -> Result<String, OtelError> {
    let wrong = || OtelError::Endpoint { endpoint: endpoint.chars().take(200).collect() };
    if endpoint.contains('@') {
        return Err(OtelError::Credentials);
    }
    let uri: Uri = endpoint.parse().map_err(|_| wrong())?;
    let has_host = uri.host().is_some_and(|host| !host.is_empty());
    // What is no number of a port is taken for none.
    let port = uri.authority().and_then(|authority| authority.as_str().rsplit_once(':'));
    let is_port = port.is_none_or(|(_, port)| port.ends_with(']') || uri.port_u16().is_some());
    let is_plain = uri.query().is_none() && matches!(uri.scheme_str(), Some("http" | "https"));
    if !(has_host && is_port && is_plain) {
        return Err(wrong());
    }
    let base = endpoint.trim_end_matches('/');
    Ok(if base.ends_with(PATH) { base.to_owned() } else { format!("{base}{PATH}") })
}

fn headers(text: &str) -> Result<Vec<(HeaderName, HeaderValue)>, OtelError> {
    let read = |(i, (name, value)): (usize, (String, String))| {
        let wrong = || OtelError::List { variable: HEADERS, entry: i + 1 };
        let name: HeaderName = name.parse().map_err(|_| wrong())?;
        let mut value: HeaderValue = value.parse().map_err(|_| wrong())?;
        value.set_sensitive(true);
        Ok((name, value))
    };
    list(HEADERS, text)?.into_iter().enumerate().map(read).collect()
}

/// `name=value,name=value`, with values in which `%2C` is a comma.
fn list(variable: &'static str, text: &str) -> Result<Vec<(String, String)>, OtelError> {
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    let read = |(i, entry): (usize, &str)| {
        let pair = entry.split_once('=').and_then(|(name, value)| {
            let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
            let name = name.trim();
            (!name.is_empty()).then(|| (name.to_owned(), value.into_owned()))
        });
        pair.ok_or(OtelError::List { variable, entry: i + 1 })
    };
    entries.enumerate().map(read).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn read(endpoint: &str, variables: &[(&str, &str)]) -> Result<Settings, OtelError> {
        Settings::read(endpoint, |name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[track_caller]
    fn check_url(endpoint: &str, expect: Option<&str>) {
        let found = read(endpoint, &[]);
        match expect {
            Some(url) => assert_eq!(found.unwrap().url(), url),
            None => {
                let error = found.unwrap_err().to_string();
                assert!(error.contains("--otlp-endpoint"), "{endpoint}: {error}");
                assert!(!error.contains("secret"), "{error}");
            }
        }
    }

    #[test]
    fn an_endpoint_is_a_base_address() {
        check_url("http://localhost:4318", Some("http://localhost:4318/v1/traces"));
        check_url("http://localhost:4318/", Some("http://localhost:4318/v1/traces"));
        check_url("https://otlp.example/otlp", Some("https://otlp.example/otlp/v1/traces"));
        check_url("http://[::1]:4318", Some("http://[::1]:4318/v1/traces"));
        check_url("http://[::1]", Some("http://[::1]/v1/traces"));
        check_url("http://host/v1/traces", Some("http://host/v1/traces"));
        for bad in ["", "localhost:4318", "grpc://host:4317", "http://", "http://:4318", "/v1"] {
            check_url(bad, None);
        }
        for bad in ["http://host:port", "http://host:99999", "http://host?a=b", "http://a b"] {
            check_url(bad, None);
        }
        check_url("http://user:secret@host", None);
    }

    #[track_caller]
    fn check_wrong(variable: (&str, &str), expect: &str) {
        let error = read("http://host", &[variable]).unwrap_err().to_string();
        assert!(error.contains(expect) && error.contains(variable.0), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }

    #[test]
    fn variables_are_read_as_opentelemetry_says() {
        let settings = read(
            "http://host",
            &[
                (HEADERS, "x-key=secret%2Cb, authorization=Basic%20secret"),
                (SERVICE_NAME, "front"),
                (RESOURCE, "service.name=other,deployment.environment.name=test"),
                (PROTOCOL, " "),
            ],
        );
        let settings = settings.unwrap();
        assert!(!format!("{settings:?}").contains("secret"), "{settings:?}");
        let values: Vec<_> = settings.headers.iter().map(|(_, value)| value.as_bytes()).collect();
        assert_eq!(values, [&b"secret,b"[..], b"Basic secret"]);
        let resource = [
            ("service.name", "front"),
            ("deployment.environment.name", "test"),
            ("service.version", env!("CARGO_PKG_VERSION")),
        ];
        let resource = resource.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(settings.resource, resource);
        let plain = read("http://host", &[]).unwrap();
        assert!(plain.resource.contains(&("service.name".to_owned(), "lastmile".to_owned())));
        check_wrong((HEADERS, "a=b,secret"), "entry 2");
        check_wrong((HEADERS, "a b=secret"), "entry 1");
        check_wrong((HEADERS, "a=%0Asecret"), "entry 1");
        check_wrong((RESOURCE, "=secret"), "entry 1");
        check_wrong((PROTOCOL, "grpc"), "http/protobuf");
    }
}
