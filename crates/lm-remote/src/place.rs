//! Where datasets lie: a prefix of a bucket, and how it is reached.
//!
//! It must never know what a dataset is, nor write a secret anywhere.
//!
//! Start reading at [`Place::open`].

use std::env;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientConfigKey, Error, ObjectStore, ObjectStoreExt, PutMode, PutPayload,
    RetryConfig, UpdateVersion,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::runtime::{Builder, Runtime};

use crate::RemoteError;
use crate::told::Told;
use crate::wire::{PATIENCE, Wire, is_true};

/// A file of root certificates in PEM; without, the web's public roots.
const ROOTS: &str = "AWS_CA_BUNDLE";
/// How often a request is made before it is given up.
const ATTEMPTS: &str = "AWS_MAX_ATTEMPTS";
const DEFAULT_ATTEMPTS: usize = 7;
const MAX_ATTEMPTS: usize = 20;
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// So long after the first try no other is begun: the default number of them fits, also when none has an answer. All of
/// them are signed at the time of the first, which S3 takes for a quarter of an hour.
const RETRY_TIMEOUT: Duration = Duration::from_secs(13 * 60);
/// Settings of the library that only its own client honours.
const UNHEEDED: [(ClientConfigKey, &str); 3] = [
    (ClientConfigKey::ProxyUrl, "AWS_PROXY_URL"),
    (ClientConfigKey::AllowInvalidCertificates, "AWS_ALLOW_INVALID_CERTIFICATES"),
    (ClientConfigKey::Http2Only, "AWS_HTTP2_ONLY"),
];

/// A prefix of a bucket.
#[derive(Debug)]
pub struct Place {
    /// As `s3://BUCKET`.
    bucket: String,
    prefix: Path,
    pub(crate) store: Arc<dyn ObjectStore>,
    /// Its threads drive the connections; who asks for something waits on its own.
    pub(crate) runtime: Runtime,
}

/// What a put on the condition that a key is new, or unchanged, came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// It is written.
    Done,
    /// The condition does not hold; nothing changed.
    Refused,
}

impl Place {
    /// A place `s3://BUCKET/PREFIX`, reached as `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`,
    /// `AWS_REGION`, `AWS_ENDPOINT_URL`, `AWS_ALLOW_HTTP`, `AWS_CA_BUNDLE` and `AWS_MAX_ATTEMPTS` say. Nothing is sent.
    ///
    /// # Errors
    /// [`RemoteError::InvalidPlace`], [`RemoteError::InvalidSetting`], [`RemoteError::Unusable`].
    pub fn open(place: &str) -> Result<Place, RemoteError> {
        let (bucket, prefix) = parse(place)?;
        let builder = AmazonS3Builder::from_env().with_bucket_name(bucket);
        check_settings(&builder)?;
        let retry = RetryConfig {
            backoff: BackoffConfig { max_backoff: MAX_BACKOFF, ..Default::default() },
            max_retries: attempts()? - 1,
            retry_timeout: RETRY_TIMEOUT,
        };
        let wire = Wire { tls: tls()?, patience: PATIENCE };
        let builder = builder.with_retry(retry).with_http_connector(wire);
        let unusable = |detail: String| RemoteError::Unusable { place: place.to_owned(), detail };
        let store = builder.build().map_err(|error| unusable(error.to_string()))?;
        Place::over(Arc::new(store), bucket, prefix)
    }

    /// A place in a store that is there.
    pub(crate) fn over(
        store: Arc<dyn ObjectStore>,
        bucket: &str,
        prefix: Path,
    ) -> Result<Place, RemoteError> {
        let bucket = format!("s3://{bucket}");
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("lm-remote")
            .enable_all()
            .build()
            .map_err(|error| RemoteError::Unusable {
                place: bucket.clone(),
                detail: error.to_string(),
            })?;
        Ok(Place { bucket, prefix, store, runtime })
    }

    /// As it is written: `s3://BUCKET/PREFIX`.
    pub fn url(&self) -> String {
        self.shown(&self.prefix)
    }

    /// The key of a file of the place, of parts that hold nothing but what names of datasets and digests do.
    pub(crate) fn key(&self, parts: &[&str]) -> Path {
        parts.iter().fold(self.prefix.clone(), |key, part| key.join(*part))
    }

    pub(crate) fn shown(&self, key: &Path) -> String {
        let separator = if key.is_root() { "" } else { "/" };
        format!("{}{separator}{key}", self.bucket)
    }

    /// An object as a whole with its tag, or `None` when there is none. Of at most `max_bytes`.
    pub(crate) fn read(
        &self,
        key: &Path,
        max_bytes: u64,
    ) -> Result<Option<(Bytes, Option<String>)>, RemoteError> {
        let failed = |error: &Error| self.failed("read", key, error);
        self.runtime.block_on(async {
            let answer = match self.store.get(key).await {
                Err(error) if is_absent(&error) => return Ok(None),
                other => other.map_err(|error| failed(&error))?,
            };
            let (size_bytes, tag) = (answer.meta.size, answer.meta.e_tag.clone());
            if size_bytes > max_bytes {
                let key = self.shown(key);
                return Err(RemoteError::TooLarge { key, size_bytes, max_bytes });
            }
            let bytes = answer.bytes().await.map_err(|error| failed(&error))?;
            Ok(Some((bytes, tag)))
        })
    }

    /// Writes an object, whatever is there.
    pub(crate) fn write(&self, key: &Path, bytes: Bytes) -> Result<(), RemoteError> {
        let put = self.store.put(key, PutPayload::from_bytes(bytes));
        let written = self.runtime.block_on(put);
        written.map(drop).map_err(|error| self.failed("write", key, &error))
    }

    /// Writes an object that is not there yet.
    pub(crate) fn create(&self, key: &Path, bytes: Bytes) -> Result<Put, RemoteError> {
        self.put_if(key, bytes, PutMode::Create)
    }

    /// Writes an object when it still has this tag.
    pub(crate) fn replace(
        &self,
        key: &Path,
        bytes: Bytes,
        tag: String,
    ) -> Result<Put, RemoteError> {
        let unchanged = UpdateVersion { e_tag: Some(tag), version: None };
        self.put_if(key, bytes, PutMode::Update(unchanged))
    }

    fn put_if(&self, key: &Path, bytes: Bytes, mode: PutMode) -> Result<Put, RemoteError> {
        let put = self.store.put_opts(key, PutPayload::from_bytes(bytes), mode.into());
        match self.runtime.block_on(put) {
            Ok(_) => Ok(Put::Done),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(Put::Refused),
            Err(error) => Err(self.failed("write", key, &error)),
        }
    }

    /// The names and sizes of the objects right below a key.
    pub(crate) fn list(&self, folder: &Path) -> Result<Vec<(String, u64)>, RemoteError> {
        let listed = self.store.list(Some(folder)).try_filter_map(|object| async move {
            let name = object.location.filename().unwrap_or_default().to_owned();
            let is_right_below = folder.clone().join(name.as_str()) == object.location;
            Ok(is_right_below.then_some((name, object.size)))
        });
        let listed = self.runtime.block_on(listed.try_collect::<Vec<_>>());
        listed.map_err(|error| self.failed("list", folder, &error))
    }

    pub(crate) fn failed(&self, action: &'static str, key: &Path, error: &Error) -> RemoteError {
        let Told { status, detail, advice, .. } = Told::of(error);
        RemoteError::Store { action, key: self.shown(key), status, detail, advice }
    }
}

/// Whether an object is not there; a bucket that is not there is another matter.
pub(crate) fn is_absent(error: &Error) -> bool {
    matches!(error, Error::NotFound { .. })
        && Told::of(error).code.as_deref() != Some("NoSuchBucket")
}

/// The bucket and the prefix.
fn parse(place: &str) -> Result<(&str, Path), RemoteError> {
    let invalid = |detail: &str| RemoteError::InvalidPlace {
        place: without_user(place).chars().take(200).collect(),
        detail: detail.to_owned(),
    };
    let rest =
        place.strip_prefix("s3://").ok_or_else(|| invalid("it does not begin with s3://"))?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let fits = |c: u8| matches!(c, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    if bucket.is_empty() || !bucket.bytes().all(fits) {
        return Err(invalid("a bucket's name has letters, digits, '.', '-' and '_'"));
    }
    let prefix = Path::parse(prefix.trim_end_matches('/'));
    Ok((bucket, prefix.map_err(|error| invalid(&error.to_string()))?))
}

/// What the library would find out too late, or not at all.
fn check_settings(builder: &AmazonS3Builder) -> Result<(), RemoteError> {
    let setting = |key: ClientConfigKey| builder.get_config_value(&AmazonS3ConfigKey::Client(key));
    for (key, variable) in UNHEEDED {
        let value = setting(key).unwrap_or_default();
        if !value.is_empty() && !["false", "0", "off", "no", "n"].contains(&value.as_str()) {
            // A proxy's URL may hold a password.
            let value = if key == ClientConfigKey::ProxyUrl { "…".to_owned() } else { value };
            let detail = "this is not supported here: unset it".to_owned();
            return Err(RemoteError::InvalidSetting { variable, value, detail });
        }
    }
    let of_s3 = builder.get_config_value(&AmazonS3ConfigKey::S3Endpoint);
    let variable = if of_s3.is_some() { "AWS_ENDPOINT_URL_S3" } else { "AWS_ENDPOINT_URL" };
    let endpoint = of_s3.or_else(|| builder.get_config_value(&AmazonS3ConfigKey::Endpoint));
    let Some(value) = endpoint else { return Ok(()) };
    let uri: Option<hyper::Uri> = value.parse().ok();
    let host = uri.as_ref().and_then(hyper::Uri::host).unwrap_or_default();
    let detail = match uri.as_ref().and_then(hyper::Uri::scheme_str) {
        _ if value.contains('@') => {
            "credentials are no part of it: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        }
        Some("https") if !host.is_empty() => return Ok(()),
        Some("http") if !host.is_empty() => {
            if setting(ClientConfigKey::AllowHttp).as_deref().is_some_and(is_true) {
                return Ok(());
            }
            "this is not encrypted: AWS_ALLOW_HTTP=true allows it"
        }
        _ => "write https://HOST or https://HOST:PORT",
    };
    let value = without_user(&value);
    Err(RemoteError::InvalidSetting { variable, value, detail: detail.to_owned() })
}

/// A URL to be shown: what is before an `@` may be a password.
fn without_user(url: &str) -> String {
    let Some((before, after)) = url.rsplit_once('@') else { return url.to_owned() };
    let scheme = before.find("://").map_or("", |at| &before[..at + "://".len()]);
    format!("{scheme}…@{after}")
}

fn attempts() -> Result<usize, RemoteError> {
    let Ok(value) = env::var(ATTEMPTS) else { return Ok(DEFAULT_ATTEMPTS) };
    match value.parse() {
        Ok(attempts @ 1..=MAX_ATTEMPTS) => Ok(attempts),
        _ => {
            let detail = format!("it must be a number from 1 to {MAX_ATTEMPTS}");
            Err(RemoteError::InvalidSetting { variable: ATTEMPTS, value, detail })
        }
    }
}

fn tls() -> Result<ClientConfig, RemoteError> {
    let named = env::var_os(ROOTS).filter(|path| !path.is_empty());
    let roots = match named {
        Some(path) => read_roots(FilePath::new(&path))?,
        None => RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() },
    };
    Ok(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}

fn read_roots(path: &FilePath) -> Result<RootCertStore, RemoteError> {
    let refused = |detail: String| RemoteError::InvalidSetting {
        variable: ROOTS,
        value: path.display().to_string(),
        detail,
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|e| refused(e.to_string()))? {
        let certificate = certificate.map_err(|e| refused(e.to_string()))?;
        roots.add(certificate).map_err(|e| refused(e.to_string()))?;
    }
    if roots.is_empty() { Err(refused("it holds no certificate".to_owned())) } else { Ok(roots) }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[track_caller]
    fn check(place: &str, expect: Option<(&str, &str)>) {
        let parsed = parse(place).ok().map(|(bucket, prefix)| (bucket, prefix.to_string()));
        let expect = expect.map(|(bucket, prefix)| (bucket, prefix.to_owned()));
        assert_eq!(parsed, expect);
    }

    #[test]
    fn a_place_is_a_bucket_and_a_prefix() {
        check("s3://b", Some(("b", "")));
        check("s3://b/", Some(("b", "")));
        check("s3://b.c-1/a/b c/", Some(("b.c-1", "a/b c")));
        check("s3://", None);
        check("s3:///a", None);
        check("s3://key:secret@b/a", None);
        let error = parse("s3://key:secret@b/a").unwrap_err().to_string();
        assert!(error.contains("s3://…@b/a") && !error.contains("secret"), "{error}");
        check("s3://b/a//c", None);
        check("s3://b/../c", None);
        check("b/a", None);
        check("gs://b/a", None);
    }

    #[test]
    fn settings_that_would_be_ignored_or_break_later_are_refused() {
        let check = |key: AmazonS3ConfigKey, value: &str| {
            let builder = AmazonS3Builder::new().with_config(key, value);
            check_settings(&builder).map_err(|error| error.to_string())
        };
        let endpoint = |value| check(AmazonS3ConfigKey::Endpoint, value);
        endpoint("https://s3.example:9000").unwrap();
        assert!(endpoint("http://127.0.0.1:9000").unwrap_err().contains("AWS_ALLOW_HTTP=true"));
        assert!(endpoint("127.0.0.1:9000").unwrap_err().contains("write https://HOST"));
        assert!(endpoint("").unwrap_err().contains("write https://HOST"));
        for secret in ["http://user:pw@h", "https://user:pw@h", "user:pw@h", "https://user:p/w@h"] {
            let error = endpoint(secret).unwrap_err();
            assert!(error.contains("…@h") && error.contains("credentials are no part"), "{error}");
            assert!(!error.contains("user") && !error.contains("pw"), "{error}");
        }
        let client = |key, value| check(AmazonS3ConfigKey::Client(key), value);
        assert!(
            client(ClientConfigKey::ProxyUrl, "http://p").unwrap_err().contains("AWS_PROXY_URL")
        );
        client(ClientConfigKey::AllowInvalidCertificates, "false").unwrap();
        client(ClientConfigKey::AllowInvalidCertificates, "true").unwrap_err();
    }

    #[test]
    fn the_default_number_of_tries_fits_when_no_answer_comes() {
        let longest = crate::wire::answer_timeout(PATIENCE, crate::shelf::PART_BYTES);
        let failed = (longest + MAX_BACKOFF) * (DEFAULT_ATTEMPTS as u32 - 1);
        assert!(failed <= RETRY_TIMEOUT, "{failed:?}");
        assert!(RETRY_TIMEOUT + MAX_BACKOFF < Duration::from_secs(15 * 60));
    }
}
