//! TLS by rustls, with a certificate that can be replaced while connections are open.
//!
//! It must never speak to a client without a certificate, and never lose one that works.
//!
//! Start reading at [`Tls::load`].

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// A certificate with its key.
#[derive(Debug)]
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    current: RwLock<Arc<ServerConfig>>,
}

/// Why a certificate cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// A file that is not there or holds something else.
    #[error("cannot read {wanted} from {}: {what}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        wanted: &'static str,
        /// What is wrong.
        what: String,
    },
    /// The two do not belong together, or rustls does not know their kind.
    #[error("the certificate {} and the key {} cannot be used: {what}", certificate.display(), key.display())]
    Refused {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        what: String,
    },
}

impl Tls {
    /// Reads a chain of certificates and a private key, both in PEM.
    ///
    /// # Errors
    /// A file that cannot be read, or two that do not belong together.
    pub fn load(
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Result<Self, TlsError> {
        let (certificate, key) = (certificate.into(), key.into());
        let current = RwLock::new(read(&certificate, &key)?);
        Ok(Tls { certificate, key, current })
    }

    /// Reads the files again. Connections that are open keep what they began with.
    ///
    /// # Errors
    /// As [`Tls::load`]; then the certificate that is in use stays.
    pub fn reload(&self) -> Result<(), TlsError> {
        let next = read(&self.certificate, &self.key)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }

    /// For the next connection.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner)).into()
    }
}

fn read(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let unreadable = |path: &Path, wanted, what: String| TlsError::Unreadable {
        path: path.to_owned(),
        wanted,
        what,
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(certificate, "a certificate", error.to_string()))?;
    if chain.is_empty() {
        let what = "it holds no PEM section CERTIFICATE".to_owned();
        return Err(unreadable(certificate, "a certificate", what));
    }
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| unreadable(key, "a private key", error.to_string()))?;
    let refused = |error: rustls::Error| TlsError::Refused {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        what: error.to_string(),
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(refused)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(refused)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
