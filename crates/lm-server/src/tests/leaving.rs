//! Clients that leave, and the server that leaves.

use std::io::Write;
use std::time::Duration;

use super::client::{open, read_reply, read_until};
use super::{CHAT, Server, hello, wait_until};

/// With `ignore_eos` an answer goes on for more than a minute.
const ENDLESS: &str = "mode=random,delay_us=10000";

#[test]
fn a_client_that_leaves_aborts_its_answers() {
    let server = Server::start(ENDLESS);
    for fields in [r#""stream":true,"n":2"#, r#""stream":false,"n":2"#] {
        let body = hello(&format!(r#"{fields},"ignore_eos":true"#));
        let mut stream = open(server.address, "POST", CHAT, body.len());
        stream.write_all(body.as_bytes()).unwrap();
        server.wait_for_running(2, 0);
        drop(stream);
        server.wait_for_running(0, 0);
    }
    let gone = "lastmile_http_requests_total{route=\"/v1/chat/completions\",status=\"499\"} 2";
    wait_until("the clients that left are counted, before and in the stream", || {
        server.get("/metrics").body.contains(gone)
    });
}

#[test]
fn drain_finishes_what_runs_and_refuses_what_comes() {
    // Long enough, about 4 seconds, for everything that is asked meanwhile.
    let mut server = Server::start("mode=echo,delay_us=40000");
    let text = "h".repeat(100);
    let body = format!(r#"{{"messages":[{{"role":"user","content":"{text}"}}],"stream":true}}"#);
    let mut stream = open(server.address, "POST", CHAT, body.len());
    stream.write_all(body.as_bytes()).unwrap();
    read_until(&mut stream, "\"content\":\"h");
    server.stop();
    wait_until("the server drains", || server.get("/health/ready").status == 503);
    assert_eq!(server.get("/health").json()["status"], "draining");
    assert_eq!(server.get("/health/live").status, 200);
    let refused = server.post(CHAT, &hello(""));
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("5")));
    assert_eq!(refused.json()["error"]["code"], "shutting_down");
    let rest = read_until(&mut stream, "[DONE]");
    assert!(rest.contains("\"finish_reason\":\"stop\""));
    server.wait().unwrap();
    assert_eq!(server.ops.counters().recorded, 1);
}

#[test]
fn drain_ends_what_takes_too_long() {
    let mut server = Server::start_with(ENDLESS, |config, _| {
        config.shutdown_timeout = Duration::from_millis(50);
    });
    let body = hello(r#""stream":true,"ignore_eos":true"#);
    let mut stream = open(server.address, "POST", CHAT, body.len());
    stream.write_all(body.as_bytes()).unwrap();
    server.wait_for_running(1, 0);
    server.stop();
    let reply = read_reply(stream);
    let events = reply.events();
    assert!(events[events.len() - 2].contains("shutting_down"), "{}", reply.body);
    server.wait().unwrap();
}

#[test]
fn no_shutdown_timeout_is_too_long() {
    let mut server = Server::start_with("mode=echo", |config, _| {
        config.shutdown_timeout = Duration::MAX;
    });
    assert_eq!(server.get("/health/live").status, 200);
    server.stop();
    server.wait().unwrap();
}
