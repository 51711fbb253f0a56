//! Requests that a web page may have sent, and connections that say nothing.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::client::{Reply, read_reply, read_until};
use super::{CHAT, Server, hello};

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

/// Asks for `path` with these lines for a head.
fn send(server: &Server, path: &str, version: &str, lines: &str) -> Reply {
    let mut stream = connect(server);
    let head = format!("GET {path} HTTP/{version}\r\n{lines}Connection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    read_reply(stream)
}

#[test]
fn only_hosts_and_origins_of_this_machine_are_answered() {
    let server = Server::start("mode=echo");
    let check = |lines: &str, expect: Option<(&str, &str)>| {
        for path in ["/v1/models", "/", "/health/live", "/metrics", "/nowhere"] {
            let reply = send(&server, path, "1.1", lines);
            assert_eq!(reply.status == 403, expect.is_some(), "{path} {lines}: {}", reply.body);
            if let Some((code, named)) = expect {
                let error = &reply.json()["error"];
                assert_eq!(error["code"], code);
                assert!(error["message"].as_str().unwrap().contains(named), "{error}");
                assert!(reply.header("x-request-id").is_some());
            }
        }
    };
    check(&format!("Host: {}\r\n", server.address), None);
    check("Host: localhost:1\r\nOrigin: http://localhost:3000\r\n", None);
    check("Host: evil.com\r\n", Some(("host_not_allowed", "'evil.com'")));
    check("", Some(("host_not_allowed", "localhost, a loopback address, 127.0.0.1")));
    let origin = "Host: localhost\r\nOrigin: http://evil.com\r\n";
    check(origin, Some(("origin_not_allowed", "'http://evil.com'")));
    assert_eq!(send(&server, "/health/live", "1.0", "").status, 200);
}

#[test]
fn an_insecure_server_answers_any_host() {
    let server = Server::start_with("mode=echo", |config, _| config.insecure = true);
    let lines = "Host: evil.com\r\nOrigin: http://evil.com\r\n";
    assert_eq!(send(&server, "/health/live", "1.1", lines).status, 200);
}

#[test]
fn a_connection_without_a_whole_head_is_closed() {
    let server = Server::start_with("mode=echo", |config, _| {
        config.head_timeout = Duration::from_secs(1);
    });
    let mut stream = connect(&server);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: loc").unwrap();
    let mut answer = Vec::new();
    // Some systems reset a connection with unread bytes; closed is closed.
    drop(stream.read_to_end(&mut answer));
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
    // The head alone is hurried: answers may take longer.
    let slow = server.ask(CHAT, &hello(r#""max_tokens":3"#));
    assert_eq!(slow["choices"][0]["finish_reason"], "length");
}

#[test]
fn connections_over_the_limit_wait() {
    let server = Server::start_with("mode=echo", |config, _| config.max_connections = 1);
    let mut first = connect(&server);
    first.write_all(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    read_until(&mut first, "live");
    let mut second = connect(&server);
    let ask = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    second.write_all(ask).unwrap();
    second.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let waits = second.read(&mut [0; 1]).unwrap_err().kind();
    assert!(matches!(waits, std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut));
    drop(first);
    second.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    assert_eq!(read_reply(second).status, 200);
}
