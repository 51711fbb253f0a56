//! What a key may use, as its holder sees it.

use std::io::Write;
use std::time::Duration;

use lm_keys::{KeyLimits, Scope};

use super::client::{open_with, read_until};
use super::{CHAT, Reply, Server, add_key, begin_within_a_day, folder_with_key, hello, wait_until};

#[track_caller]
fn check(reply: &Reply, code: &str, value: &str) {
    assert_eq!(reply.status, 429, "{}", reply.body);
    let error = &reply.json()["error"];
    assert_eq!(error["code"], code);
    assert_eq!(error["type"], "rate_limit_error");
    assert!(error["message"].as_str().unwrap().contains(value), "{error}");
}

fn retry_after_ms(reply: &Reply) -> u64 {
    let ms: u64 = reply.header("retry-after-ms").unwrap().parse().unwrap();
    let seconds: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert_eq!(seconds, ms.div_ceil(1000));
    ms
}

#[test]
fn requests_per_minute_and_the_first_retry_is_admitted() {
    let limits = KeyLimits { requests_per_minute: Some(600), ..KeyLimits::default() };
    let (folder, key) = folder_with_key(&[Scope::Infer], limits);
    let other = add_key(&folder, "other", &[Scope::Infer], KeyLimits::default());
    let server = Server::start_in(folder, "mode=echo", |_, _, _| {});
    let ask = |key: &str| server.post_with(key, CHAT, "{}");
    let refused = (0..2000).map(|_| ask(&key)).find(|reply| reply.status == 429);
    let refused = refused.expect("600 requests a minute and no more");
    check(&refused, "requests_per_minute_exceeded", "requests_per_minute is 600");
    let wait_ms = retry_after_ms(&refused);
    assert!((1..=100).contains(&wait_ms), "{wait_ms} ms until one of 600 a minute is free");
    assert_eq!(ask(&other).status, 400, "nobody else noticed");
    // The wait is what is tested.
    std::thread::sleep(Duration::from_millis(wait_ms));
    assert_eq!(ask(&key).status, 400);
}

#[test]
fn tokens_per_minute_count_what_was_used() {
    begin_within_a_day();
    let limits = KeyLimits { tokens_per_minute: Some(1000), ..KeyLimits::default() };
    let (folder, key) = folder_with_key(&[Scope::Infer], limits);
    let server = Server::start_in(folder, "mode=random", |_, _, _| {});
    let ask = |n: u32| {
        let fields = format!(r#""max_tokens":{n},"ignore_eos":true,"n":2"#);
        server.post_with(&key, CHAT, &hello(&fields))
    };
    let answer = ask(300);
    assert_eq!(answer.status, 200, "{}", answer.body);
    let used = answer.json()["usage"]["total_tokens"].as_u64().unwrap();
    assert!(used > 600);
    let meter = &server.access.keys.authenticate(&key, crate::now()).unwrap().meter;
    assert_eq!(meter.spent_today(crate::now()).tokens, used, "exactly what the answer says");
    wait_until("the request has ended", || meter.n_open() == 0);
    let refused = ask(300);
    check(&refused, "tokens_per_minute_exceeded", "tokens_per_minute is 1000");
    let wait_ms = retry_after_ms(&refused);
    // 600 and a prompt are set aside, about 390 are left, and 1000 come in a minute.
    assert!((5_000..20_000).contains(&wait_ms), "{wait_ms}");
    assert_eq!(ask(50).status, 200, "a smaller one fits");
}

#[test]
fn an_answer_that_was_left_is_charged_as_far_as_it_came() {
    let limits = KeyLimits { daily_tokens: Some(1_000_000), ..KeyLimits::default() };
    let (folder, key) = folder_with_key(&[Scope::Infer], limits);
    let server = Server::start_in(folder, "mode=random,delay_us=5000", |_, _, _| {});
    let body = hello(r#""stream":true,"ignore_eos":true"#);
    let line = format!("x-api-key: {key}\r\n");
    let mut stream = open_with(server.address, "POST", CHAT, &line, body.len());
    stream.write_all(body.as_bytes()).unwrap();
    // The empty chunk that opens a chat comes before anything is computed.
    read_until(&mut stream, "\"content\":\" ");
    let meter = &server.access.keys.authenticate(&key, crate::now()).unwrap().meter;
    assert_eq!(meter.n_open(), 1);
    // What it takes counts while it runs.
    wait_until("its tokens are counted", || meter.spent_today(crate::now()).tokens > 10);
    drop(stream);
    wait_until("the answer is charged", || meter.spent_today(crate::now()).tokens > 0);
    wait_until("its place is given back", || meter.n_open() == 0);
    assert!(meter.spent_today(crate::now()).tokens < 2000);
}

#[test]
fn open_requests_are_limited() {
    let limits = KeyLimits { max_concurrent: Some(1), ..KeyLimits::default() };
    let (folder, key) = folder_with_key(&[Scope::Infer], limits);
    let server = Server::start_in(folder, "mode=random,delay_us=5000", |_, _, _| {});
    let body = hello(r#""stream":true,"ignore_eos":true"#);
    let line = format!("x-api-key: {key}\r\n");
    let mut stream = open_with(server.address, "POST", CHAT, &line, body.len());
    stream.write_all(body.as_bytes()).unwrap();
    server.wait_for_running(1, 0);
    let refused = server.post_with(&key, CHAT, &hello(""));
    check(&refused, "max_concurrent_exceeded", "max_concurrent is 1");
    assert!(retry_after_ms(&refused) >= 100);
    assert_eq!(server.get_with(&key, "/v1/models").status, 200, "only answers are counted");
    drop(stream);
    wait_until("the place is free", || {
        server.post_with(&key, CHAT, &hello(r#""max_tokens":1"#)).status == 200
    });
}

#[test]
fn a_daily_budget_survives_a_restart() {
    begin_within_a_day();
    let limits = KeyLimits { daily_tokens: Some(500), ..KeyLimits::default() };
    let (folder, key) = folder_with_key(&[Scope::Infer], limits);
    let ask = |server: &Server| {
        let body = hello(r#""max_tokens":450,"ignore_eos":true,"n":1"#);
        server.post_with(&key, CHAT, &body)
    };
    let server = Server::start_in(folder, "mode=random", |_, _, _| {});
    let answer = ask(&server);
    assert_eq!(answer.status, 200, "{}", answer.body);
    let used = answer.json()["usage"]["total_tokens"].as_u64().unwrap();
    let folder = server.end();
    let server = Server::start_in(folder, "mode=random", |_, _, _| {});
    let meter = &server.access.keys.authenticate(&key, crate::now()).unwrap().meter;
    assert_eq!(meter.spent_today(crate::now()).tokens, used);
    let refused = ask(&server);
    check(&refused, "daily_tokens_exceeded", "daily_tokens is 500");
    let until_midnight_s = 86_400 - crate::now().unix_s % 86_400;
    let wait_s = retry_after_ms(&refused) / 1000;
    assert!(wait_s.abs_diff(until_midnight_s) <= 10, "{wait_s} s");
}
