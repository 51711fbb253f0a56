//! A client that knows nothing but HTTP/1.1.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// A response. Chunked bodies are joined.
pub(super) struct Reply {
    pub(super) status: u16,
    head: String,
    pub(super) body: String,
}

impl Reply {
    #[track_caller]
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    /// The data of the server-sent events.
    pub(super) fn events(&self) -> Vec<&str> {
        self.body.lines().filter_map(|line| line.strip_prefix("data: ")).collect()
    }

    /// The chunks of a stream that ends as it should.
    #[track_caller]
    pub(super) fn chunks(&self) -> Vec<Value> {
        let mut events = self.events();
        assert_eq!(events.pop(), Some("[DONE]"), "{}", self.body);
        events.iter().map(|event| serde_json::from_str(event).unwrap()).collect()
    }
}

pub(super) fn exchange(address: SocketAddr, method: &str, path: &str, body: &str) -> Reply {
    exchange_with(address, method, path, "", body)
}

/// With further lines in the head, each with its end.
pub(super) fn exchange_with(
    address: SocketAddr,
    method: &str,
    path: &str,
    lines: &str,
    body: &str,
) -> Reply {
    let mut stream = open_with(address, method, path, lines, body.len());
    stream.write_all(body.as_bytes()).unwrap();
    read_reply(stream)
}

/// Sends a request's head.
pub(super) fn open(address: SocketAddr, method: &str, path: &str, n_body: usize) -> TcpStream {
    open_with(address, method, path, "", n_body)
}

pub(super) fn open_with(
    address: SocketAddr,
    method: &str,
    path: &str,
    lines: &str,
    n_body: usize,
) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{lines}\
         Content-Type: application/json\r\nContent-Length: {n_body}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

pub(super) fn read_reply(mut stream: TcpStream) -> Reply {
    let mut raw = Vec::new();
    stream.read_to_end(&mut raw).unwrap();
    parsed(raw)
}

/// The first response of these bytes.
pub(super) fn parsed(raw: Vec<u8>) -> Reply {
    let raw = String::from_utf8(raw).unwrap();
    let (head, body) = raw.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let mut reply = Reply { status, head: head.to_owned(), body: body.to_owned() };
    if reply.header("transfer-encoding") == Some("chunked") {
        reply.body = joined(body);
    }
    reply
}

/// Reads until `wanted` has come.
pub(super) fn read_until(stream: &mut TcpStream, wanted: &str) -> String {
    let (mut all, mut buffer) = (String::new(), [0; 4096]);
    while !all.contains(wanted) {
        let n = stream.read(&mut buffer).unwrap();
        assert_ne!(n, 0, "the stream ended before {wanted:?}: {all}");
        all.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
    }
    all
}

fn joined(mut chunked: &str) -> String {
    let mut body = String::new();
    while let Some((size, rest)) = chunked.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        body.push_str(&rest[..size]);
        chunked = &rest[size + 2..];
    }
    body
}
