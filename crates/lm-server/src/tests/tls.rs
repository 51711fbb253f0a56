//! TLS over real sockets, with certificates made here.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::client::parsed;
use super::{Server, wait_until};
use crate::{Tls, TlsError};

/// Writes a certificate for localhost and its key; returns the certificate.
fn make(folder: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(folder.join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).unwrap()
}

fn start(head_timeout: Duration) -> (Server, CertificateDer<'static>) {
    let folder = tempfile::tempdir().unwrap();
    let certificate = make(folder.path());
    let path = folder.path().to_owned();
    let server = Server::start_in(folder, "mode=echo", |config, _, access| {
        config.head_timeout = head_timeout;
        access.tls =
            Some(Arc::new(Tls::load(path.join("cert.pem"), path.join("key.pem")).unwrap()));
    });
    (server, certificate)
}

type Stream = StreamOwned<ClientConnection, TcpStream>;

/// A connection to somebody who holds this certificate.
fn connect(server: &Server, certificate: &CertificateDer<'static>) -> std::io::Result<Stream> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let socket = TcpStream::connect(server.address)?;
    socket.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut stream = StreamOwned::new(connection, socket);
    stream.flush()?;
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

fn ask(stream: &mut Stream, connection: &str) {
    let head =
        format!("GET /version HTTP/1.1\r\nHost: localhost\r\nConnection: {connection}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
}

fn version(mut stream: Stream) -> u16 {
    ask(&mut stream, "close");
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer));
    parsed(answer).status
}

#[test]
fn answers_come_by_tls_and_not_without() {
    let (server, certificate) = start(Duration::from_secs(2));
    assert_eq!(version(connect(&server, &certificate).unwrap()), 200);
    let other = make(tempfile::tempdir().unwrap().path());
    assert!(connect(&server, &other).is_err(), "another certificate was taken");
    let mut plain = TcpStream::connect(server.address).unwrap();
    plain.write_all(b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    drop(plain.read_to_end(&mut answer));
    assert!(!answer.starts_with(b"HTTP"), "plain HTTP was answered");
    // Whoever says nothing is not waited for.
    let mut silent = TcpStream::connect(server.address).unwrap();
    silent.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    assert_eq!(silent.read(&mut [0; 16]).unwrap(), 0);
    assert!(server.ops.counters().write_errors == 0);
}

#[test]
fn a_certificate_is_replaced_without_dropping_connections() {
    let (server, before) = start(Duration::from_secs(30));
    let mut open = connect(&server, &before).unwrap();
    ask(&mut open, "keep-alive");
    let mut head = [0; 12];
    open.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    let after = make(server.folder.path());
    server.access.reload.notify_one();
    wait_until("the new certificate is shown", || connect(&server, &after).is_ok());
    assert!(connect(&server, &before).is_err());
    // The rest of the first answer, and a second one.
    ask(&mut open, "close");
    let mut rest = Vec::new();
    drop(open.read_to_end(&mut rest));
    assert!(String::from_utf8_lossy(&rest).contains("HTTP/1.1 200"), "the connection was dropped");
    // What cannot be read does not replace what works.
    std::fs::write(server.folder.path().join("cert.pem"), "nothing").unwrap();
    let tls = server.access.tls.as_ref().unwrap();
    let error = tls.reload().unwrap_err();
    assert!(error.to_string().contains("cert.pem"), "{error}");
    assert_eq!(version(connect(&server, &after).unwrap()), 200);
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    make(folder.path());
    let refused = |certificate: &str, key: &str| {
        Tls::load(path(certificate), path(key)).expect_err("they were taken")
    };
    let names = |error: &TlsError, name: &str| {
        assert!(error.to_string().contains(name), "{error}");
        matches!(error, TlsError::Unreadable { .. })
    };
    assert!(names(&refused("absent.pem", "key.pem"), "absent.pem"));
    assert!(names(&refused("cert.pem", "absent.pem"), "absent.pem"));
    assert!(names(&refused("key.pem", "key.pem"), "key.pem"));
    assert!(names(&refused("cert.pem", "cert.pem"), "cert.pem"));
    std::fs::write(path("empty.pem"), "").unwrap();
    assert!(names(&refused("empty.pem", "key.pem"), "empty.pem"));
    std::fs::copy(path("key.pem"), path("other.pem")).unwrap();
    make(folder.path());
    let mismatch = refused("cert.pem", "other.pem");
    assert!(matches!(mismatch, TlsError::Refused { .. }), "{mismatch}");
}
