//! A collector of a test: a small HTTP server that keeps what it is sent.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use prost::Message;

use crate::wire::{ExportRequest, Span};

/// How long a test waits before it fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a collector does with a request.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    /// A status, further header lines, and a body.
    Status(u16, &'static str, Vec<u8>),
    /// No answer until the client leaves.
    Hang,
}

/// A request as it came.
pub(super) struct Received {
    /// The request's line and headers, in lower case.
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

impl Received {
    pub(super) fn request(&self) -> ExportRequest {
        ExportRequest::decode(&self.body[..]).unwrap()
    }

    pub(super) fn spans(&self) -> Vec<Span> {
        let resources = self.request().resource_spans.into_iter();
        let scopes = resources.flat_map(|resource| resource.scope_spans);
        scopes.flat_map(|scope| scope.spans).collect()
    }
}

pub(super) struct Collector {
    pub(super) address: String,
    received: Receiver<Received>,
}

impl Collector {
    /// Gives `replies` in order, and takes everything after them.
    pub(super) fn start(replies: impl IntoIterator<Item = Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (sender, received) = channel();
        let replies = Arc::new(Mutex::new(replies.into_iter().collect::<VecDeque<_>>()));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (sender, replies) = (sender.clone(), Arc::clone(&replies));
                // A client that leaves in the middle ends its own thread alone.
                thread::spawn(move || serve(stream.unwrap(), &sender, &replies));
            }
        });
        Collector { address, received }
    }

    /// The next request.
    pub(super) fn next(&self) -> Received {
        self.received.recv_timeout(PATIENCE).unwrap()
    }

    /// Requests until there were so many spans.
    pub(super) fn until(&self, n_spans: usize) -> Vec<Received> {
        let (mut all, mut n) = (Vec::new(), 0);
        while n < n_spans {
            let next = self.next();
            n += next.spans().len();
            all.push(next);
        }
        assert_eq!(n, n_spans);
        all
    }

    /// Whether everything that came was looked at.
    pub(super) fn is_empty(&self) -> bool {
        self.received.try_recv().is_err()
    }
}

/// The requests of one connection.
fn serve(stream: TcpStream, sender: &Sender<Received>, replies: &Mutex<VecDeque<Reply>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    while let Some(received) = read(&mut reader) {
        let reply = replies.lock().unwrap().pop_front();
        let (status, headers, body) = match reply {
            None => (200, "", Vec::new()),
            Some(Reply::Status(status, headers, body)) => (status, headers, body),
            Some(Reply::Hang) => {
                let _test_ended = sender.send(received);
                let _client_left = reader.read(&mut [0]);
                return;
            }
        };
        let n_bytes = body.len();
        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {n_bytes}\r\n{headers}\r\n");
        let _test_ended = sender.send(received);
        if writer.write_all(&[head.as_bytes(), &body].concat()).is_err() {
            return;
        }
    }
}

/// `None` when the client left.
fn read(reader: &mut impl BufRead) -> Option<Received> {
    let mut head = String::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        head.push_str(&line.to_ascii_lowercase());
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.unwrap().parse().unwrap()];
    reader.read_exact(&mut body).ok()?;
    Some(Received { head, body })
}
