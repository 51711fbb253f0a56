//! What else somebody might try: odd paths, oversized everything, other pages, standing still.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use lm_keys::{KeyLimits, Scope};

use super::client::{Reply, exchange_with, open, read_reply, read_until};
use super::{CHAT, Server, folder_with_key, hello};

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

/// The answer to these bytes; a connection that is closed without one has none.
fn raw(server: &Server, bytes: &[u8]) -> Option<Reply> {
    let mut stream = connect(server);
    // The server may close before it has read everything.
    drop(stream.write_all(bytes));
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer));
    if answer.is_empty() { None } else { Some(super::client::parsed(answer)) }
}

#[track_caller]
fn get(server: &Server, target: &str, lines: &str) -> u16 {
    let head =
        format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{lines}\r\n");
    raw(server, head.as_bytes()).unwrap_or_else(|| panic!("no answer to {target}")).status
}

#[test]
fn no_spelling_of_a_path_gets_around_a_key_or_a_scope() {
    let (folder, key) = folder_with_key(&[Scope::Infer], KeyLimits::default());
    let server = Server::start_in(folder, "mode=echo", |config, _, _| {
        config.head_timeout = Duration::from_secs(1);
    });
    let line = format!("x-api-key: {key}\r\n");
    for target in [
        "//v1/models",
        "/v1/../v1/models",
        "/v1/./models",
        "/V1/models",
        "/v1/models/",
        "/v1%2fmodels",
        "/%76%31/models",
        "/v1/models%00",
        "/v1\\models",
        "/health/../v1/models",
        "/health/%2e%2e/metrics",
        "/health//../metrics",
        "/health;/metrics",
        "/health?/../metrics#",
        "//metrics",
        "/./metrics",
        "/metrics/",
        "/metrics%20",
        "/%6detrics",
        "http://localhost/v1/models",
        "http://localhost/metrics",
        "http://localhost//metrics",
        "*",
    ] {
        let is_health = target.starts_with("/health?");
        let without = get(&server, target, "");
        assert_eq!(without, if is_health { 200 } else { 401 }, "{target} without a key");
        let with = get(&server, target, &line);
        let is_metrics = target == "http://localhost/metrics";
        let is_models = target == "http://localhost/v1/models";
        let expect = if is_metrics {
            403
        } else if is_health || is_models {
            200
        } else {
            404
        };
        assert_eq!(with, expect, "{target} with a key for /v1");
    }
    // A model's name may hold anything, and is only ever compared.
    assert_eq!(get(&server, "/v1/models/../../metrics", &line), 404);
    assert_eq!(get(&server, "/v1/models/../../metrics", ""), 401);
    // Methods that no route takes do not get in either.
    for method in ["HEAD", "OPTIONS", "PUT", "DELETE", "TRACE", "BREW"] {
        let reply = exchange_with(server.address, method, "/v1/models", "", "");
        assert_eq!(reply.status, 401, "{method}");
    }
    let tunnel = raw(&server, b"CONNECT evil.com:443 HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(tunnel.is_none_or(|reply| reply.status >= 400));
}

#[test]
fn oversized_heads_are_refused() {
    let server = Server::start("mode=echo");
    let status = |target: &str, lines: &str| get(&server, target, lines);
    assert_eq!(status("/version", &format!("X-A: {}\r\n", "x".repeat(16 << 10))), 200);
    assert_eq!(status("/version", &format!("X-A: {}\r\n", "x".repeat(64 << 10))), 431);
    assert_eq!(status("/version", &"X-A: x\r\n".repeat(50)), 200);
    assert_eq!(status("/version", &"X-A: x\r\n".repeat(200)), 431);
    let long = status(&format!("/{}", "x".repeat(60 << 10)), "");
    assert!(matches!(long, 414 | 431), "{long}");
    let without_end = "x".repeat(1 << 20);
    let endless = raw(&server, format!("GET /{without_end}").as_bytes());
    assert!(endless.is_none_or(|reply| matches!(reply.status, 400 | 414 | 431)));
    for bytes in [
        &b"\0\0\0\0\r\n\r\n"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET  / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02",
    ] {
        let mut bytes = bytes.to_vec();
        bytes.extend_from_slice(b"\r\n\r\n");
        assert!(raw(&server, &bytes).is_none_or(|reply| reply.status == 400));
    }
    let both = "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n";
    let smuggled = format!(
        "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\n{both}Connection: close\r\n\r\n0\r\n\r\nGET /metrics HTTP/1.1\r\n\r\n"
    );
    let reply = raw(&server, smuggled.as_bytes());
    assert!(reply.is_none_or(|reply| reply.status == 400), "one answer, and it is no");
    let twice = "Content-Length: 3\r\nContent-Length: 4\r\n";
    let head = format!("POST {CHAT} HTTP/1.1\r\nHost: localhost\r\n{twice}\r\n{{}}");
    assert!(raw(&server, head.as_bytes()).is_none_or(|reply| reply.status == 400));
    assert_eq!(server.post(CHAT, &hello("")).status, 200, "the server is as well as before");
}

#[test]
fn a_head_that_drips_and_a_connection_that_idles_are_closed() {
    let server = Server::start_with("mode=echo", |config, _| {
        config.head_timeout = Duration::from_millis(300);
    });
    // A byte now and then does not keep it open.
    let mut stream = connect(&server);
    let mut closed = false;
    for byte in b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ".iter().cycle().take(400) {
        stream.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        if stream.write_all(&[*byte]).is_err() {
            closed = true;
            break;
        }
        match stream.read(&mut [0; 512]) {
            Ok(0) => closed = true,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Ok(_) => {}
            Err(_) => closed = true,
        }
        if closed {
            break;
        }
    }
    assert!(closed, "4 seconds of single bytes kept the connection open");
    let mut idle = connect(&server);
    idle.write_all(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    read_until(&mut idle, "live");
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty());
}

#[test]
fn a_reader_that_stands_still_is_left_and_its_answer_aborted() {
    let server = Server::start_with("mode=random,max_model_len=100000", |config, _| {
        config.write_timeout = Duration::from_millis(300);
        config.send_buffer_bytes = 16 << 10;
    });
    let body = hello(r#""stream":true,"ignore_eos":true,"logprobs":true,"top_logprobs":20"#);
    let mut stream = open(server.address, "POST", CHAT, body.len());
    stream.write_all(body.as_bytes()).unwrap();
    read_until(&mut stream, "\"content\":");
    // Nobody reads on; the answer would go on for 100,000 tokens.
    let gone = "lastmile_http_requests_total{route=\"/v1/chat/completions\",status=\"499\"} 1";
    super::wait_until("the reader is left", || server.get("/metrics").body.contains(gone));
    server.wait_for_running(0, 0);
    let (_, n_aborted) = server.runtime.stats().finished[2];
    assert_eq!(n_aborted, 1);
}

#[test]
fn browsers_are_told_what_not_to_do() {
    let server = Server::start("mode=echo");
    let stream = server.post(CHAT, &hello(r#""stream":true"#));
    for reply in [server.get("/"), server.get("/nowhere"), server.post(CHAT, &hello("")), stream] {
        let header = |name: &str| reply.header(name).map(str::to_owned);
        assert_eq!(header("x-content-type-options").as_deref(), Some("nosniff"));
        assert_eq!(header("referrer-policy").as_deref(), Some("no-referrer"));
        assert_eq!(header("x-frame-options").as_deref(), Some("DENY"));
        assert_eq!(header("cache-control").as_deref(), Some("no-store"));
        assert_eq!(header("access-control-allow-origin"), None);
    }
}

#[test]
fn pages_of_listed_origins_may_ask_and_no_others() {
    let (folder, key) = folder_with_key(&[Scope::Infer], KeyLimits::default());
    let server = Server::start_in(folder, "mode=echo", |config, _, _| {
        config.cors_origins = vec!["https://chat.example".to_owned()];
    });
    let ask =
        |method: &str, lines: &str| exchange_with(server.address, method, "/v1/models", lines, "");
    let origin = "Origin: https://chat.example\r\n";
    let preflight = format!("{origin}Access-Control-Request-Method: POST\r\n");
    let reply = ask("OPTIONS", &preflight);
    assert_eq!((reply.status, reply.body.as_str()), (204, ""));
    assert_eq!(reply.header("access-control-allow-origin"), Some("https://chat.example"));
    let allowed = reply.header("access-control-allow-headers").unwrap();
    for name in ["authorization", "deadline-ms", "max-queue-ms", "priority"] {
        assert!(allowed.contains(name), "{name} is not in {allowed}");
    }
    // Of what unmodified clients send none has to be known here.
    let wanted =
        "anthropic-dangerous-direct-browser-access,anthropic-version,x-api-key,x-stainless-os";
    let asked = format!("{preflight}Access-Control-Request-Headers: {wanted}\r\n");
    assert_eq!(ask("OPTIONS", &asked).header("access-control-allow-headers"), Some(wanted));
    let reply = ask("GET", &format!("{origin}x-api-key: {key}\r\n"));
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("access-control-allow-origin"), Some("https://chat.example"));
    assert_eq!(reply.header("vary"), Some("origin"));
    // The page may read why it was refused.
    let reply = ask("GET", origin);
    assert_eq!(reply.status, 401);
    assert!(reply.header("access-control-allow-origin").is_some());
    let evil = "Origin: https://evil.example\r\nAccess-Control-Request-Method: POST\r\n";
    let reply = ask("OPTIONS", evil);
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (403, None));
    assert_eq!(reply.header("access-control-allow-headers"), None);
}

#[test]
fn a_body_that_drips_is_not_waited_for() {
    let (folder, key) = folder_with_key(&[Scope::Infer], KeyLimits::default());
    let server = Server::start_in(folder, "mode=echo", |config, _, _| {
        config.body_timeout = Duration::from_millis(300);
    });
    let line = format!("x-api-key: {key}\r\n");
    let mut stream = super::client::open_with(server.address, "POST", CHAT, &line, 100_000);
    let mut writer = stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        while writer.write_all(b" ").is_ok() {
            std::thread::park_timeout(Duration::from_millis(10));
        }
    });
    let head = read_until(&mut stream, "body_timeout");
    assert!(head.starts_with("HTTP/1.1 408"), "{head}");
    drop(stream);
    writing.join().unwrap();
    let reply = read_reply(super::client::open_with(server.address, "POST", CHAT, &line, 0));
    assert_eq!(reply.status, 400);
}
