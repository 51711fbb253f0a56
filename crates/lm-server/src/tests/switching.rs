//! Kill, pin and rollback under load: in which step they came in, from which step on they hold, and whom they leave alone.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use lastmile::{AnswerBegun, Observer, RequestEvent, RequestId, StepEvent};
use serde_json::{Value, json};

use super::client::{exchange, open, read_reply};
use super::overriding::{RULES, two};
use super::{CHAT, Server, TEXT, hello, wait_until};

/// Streams of each kind.
const N: usize = 8;
/// A test that fails elsewhere ends.
const PATIENCE: Duration = Duration::from_secs(60);
/// Tokens of a stream that goes on.
const MAX_TOKENS: usize = 1500;

/// The steps of all engines, as an observer hears of them.
#[derive(Default)]
struct Steps(Mutex<Heard>);

#[derive(Default)]
struct Heard {
    routes: BTreeMap<RequestId, &'static str>,
    /// The number, and the requests whose answers were in it.
    steps: Vec<(u64, Vec<RequestId>)>,
}

struct Hearing {
    observer: Arc<dyn Observer>,
    steps: Arc<Steps>,
}

impl Observer for Hearing {
    fn record(&self, event: &RequestEvent) {
        self.observer.record(event);
    }

    fn wants_steps(&self) -> bool {
        true
    }

    fn began(&self, begun: &AnswerBegun<'_>) {
        let (id, route) = (begun.request.id, begun.request.steering.route);
        self.steps.heard().routes.insert(id, route);
    }

    fn stepped(&self, step: &StepEvent<'_>) {
        let requests = step.rows.iter().map(|row| row.request).collect();
        self.steps.heard().steps.push((step.number, requests));
    }
}

impl Steps {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap()
    }

    fn beside(self: &Arc<Self>, observer: Arc<dyn Observer>) -> Arc<dyn Observer> {
        Arc::new(Hearing { observer, steps: Arc::clone(self) })
    }

    /// The newest step that ended.
    fn newest(&self) -> u64 {
        self.heard().steps.last().map_or(0, |(number, _)| *number)
    }

    /// The newest step that had a request of a route in it.
    fn newest_with(&self, route: &str) -> u64 {
        let heard = self.heard();
        let is_of = |id: &RequestId| heard.routes.get(id) == Some(&route);
        let with = heard.steps.iter().filter(|(_, requests)| requests.iter().any(is_of));
        with.map(|(number, _)| *number).max().unwrap_or(0)
    }
}

fn stream(address: SocketAddr, path: &str, body: &str) -> TcpStream {
    let mut stream = open(address, "POST", path, body.len());
    stream.write_all(body.as_bytes()).unwrap();
    stream
}

/// A stream that no switch needs to drop has all of its tokens.
#[track_caller]
fn check_whole(stream: TcpStream) {
    let reply = read_reply(stream);
    let chunks = reply.chunks();
    let usage = chunks.iter().rev().find_map(|chunk| chunk["usage"]["completion_tokens"].as_u64());
    assert_eq!(usage, Some(MAX_TOKENS as u64), "{}", reply.body);
    assert!(reply.body.contains("\"finish_reason\":\"length\""), "{}", reply.body);
}

fn long(fields: Value) -> String {
    let mut body = json!({
        "stream": true,
        "stream_options": { "include_usage": true },
        "ignore_eos": true,
        "max_tokens": MAX_TOKENS,
    });
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body.to_string()
}

#[test]
fn a_kill_under_load_ends_its_route_within_a_step_and_no_other_stream() {
    let steps = Arc::new(Steps::default());
    let server = Server::start_with("mode=random,delay_us=4000", |_, model| {
        model.observer = steps.beside(Arc::clone(&model.observer));
    });
    let endless = hello(r#""stream":true,"ignore_eos":true"#);
    let other = long(json!({ "prompt": "a" }));
    let killed: Vec<_> = (0..N).map(|_| stream(server.address, CHAT, &endless)).collect();
    let others: Vec<_> = (0..N).map(|_| stream(server.address, TEXT, &other)).collect();
    server.wait_for_running(2 * N as u64, 0);
    let came_in = steps.newest();
    let reply = server.post(&format!("{RULES}/kill"), &json!({ "route": CHAT }).to_string());
    let held = steps.newest();
    assert_eq!(reply.json()["killed"], json!([CHAT]));
    for stream in killed {
        assert!(read_reply(stream).body.contains("[DONE]"));
    }
    others.into_iter().for_each(check_whole);
    let last = steps.newest_with(CHAT);
    println!(
        "kill: came in after step {came_in}, held after {held}, the last step with it is {last}"
    );
    // The step that ran when it was answered is the last one.
    assert!(last <= held + 1, "it is in step {last}, and held after {held}");
    assert!(steps.newest_with(TEXT) > last + 10, "the others go on");
    assert_eq!(server.post(CHAT, &hello("")).status, 503);
    let rollback = server.post(&format!("{RULES}/rollback"), r#"{"reason": "mended"}"#);
    assert_eq!(rollback.json()["operator"]["killed"], json!([]));
    assert_eq!(
        server.post(CHAT, &hello(r#""max_tokens":2"#)).status,
        200,
        "from the next request on"
    );
    check_audit(&server, &["rollback", "kill"]);
}

#[track_caller]
fn check_audit(server: &Server, expect: &[&str]) {
    let audit = server.get(&format!("{RULES}/audit")).json();
    let audit = audit.as_array().unwrap();
    let did: Vec<&str> = audit.iter().map(|one| one["action"].as_str().unwrap()).collect();
    assert_eq!(did, expect);
    assert!(audit.iter().all(|one| one["who"] == "somebody on this machine"), "{audit:?}");
}

/// Who asked when, and which model answered.
#[derive(Clone)]
struct Asked {
    at: Instant,
    model: String,
}

/// Asks for model `a` again and again.
fn ask_on(address: SocketAddr, is_over: &AtomicBool, all: &Mutex<Vec<Asked>>) {
    let body = hello(r#""model":"a","max_tokens":2"#);
    let began = Instant::now();
    while !is_over.load(Relaxed) && began.elapsed() < PATIENCE {
        let at = Instant::now();
        let reply = exchange(address, "POST", CHAT, &body);
        assert_eq!(reply.status, 200, "{}", reply.body);
        let model = reply.json()["model"].as_str().unwrap().to_owned();
        all.lock().unwrap().push(Asked { at, model });
    }
}

#[test]
fn a_pin_and_its_rollback_under_load_hold_from_the_next_request_on_and_drop_no_stream() {
    let options = "mode=random,delay_us=4000";
    let server = two(options, options);
    let messages = json!([{ "role": "user", "content": "hello world" }]);
    let body = long(json!({ "model": "a", "messages": messages }));
    let streams: Vec<_> = (0..N).map(|_| stream(server.address, CHAT, &body)).collect();
    server.wait_for_running(N as u64, 0);
    let (is_over, all) = (AtomicBool::new(false), Mutex::new(Vec::<Asked>::new()));
    let more = |what: &str| {
        let n = all.lock().unwrap().len();
        wait_until(what, || all.lock().unwrap().len() >= n + 12);
    };
    let switched = std::thread::scope(|scope| {
        (0..4).for_each(|_| drop(scope.spawn(|| ask_on(server.address, &is_over, &all))));
        more("some are answered before");
        let pinning = Instant::now();
        let pin = server.post(&format!("{RULES}/pin"), r#"{"target": "b"}"#);
        let pinned = Instant::now();
        more("some are answered by the pin");
        let rolling = Instant::now();
        let rollback = server.post(&format!("{RULES}/rollback"), "");
        let rolled_back = Instant::now();
        more("some are answered after");
        is_over.store(true, Relaxed);
        (pin.status, rollback.status, [pinning, pinned, rolling, rolled_back])
    });
    let (pin, rollback, [pinning, pinned, rolling, rolled_back]) = switched;
    assert_eq!((pin, rollback), (200, 200));
    streams.into_iter().for_each(check_whole);
    let all = all.into_inner().unwrap();
    let asked = |from: Option<Instant>, to: Option<Instant>| {
        let is_in = |one: &&Asked| {
            from.is_none_or(|from| one.at >= from) && to.is_none_or(|to| one.at < to)
        };
        all.iter().filter(is_in).map(|one| one.model.as_str()).collect::<Vec<_>>()
    };
    // Who asked while it was being switched may have either.
    let by_pin = asked(Some(pinned), Some(rolling));
    assert!(by_pin.len() >= 4 && by_pin.iter().all(|model| *model == "b"), "{by_pin:?}");
    let after = asked(Some(rolled_back), None);
    assert!(after.len() >= 4 && after.iter().all(|model| *model == "a"), "{after:?}");
    let before = asked(None, Some(pinning));
    assert!(before.iter().filter(|model| **model == "a").count() + 4 >= before.len(), "{before:?}");
    check_audit(&server, &["rollback", "pin"]);
}
