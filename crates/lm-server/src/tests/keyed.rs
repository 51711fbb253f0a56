//! Keys at the door: who gets in, where to, and whose requests are whose.

use lm_keys::{KeyError, KeyLimits, NewKey, Scope};
use serde_json::json;

use super::client::{exchange, exchange_with};
use super::{CHAT, Reply, Server, add_key, folder_with_key, hello, key_file, wait_until};
use crate::routes::ROUTES;

const NO_LIMITS: KeyLimits = KeyLimits {
    requests_per_minute: None,
    tokens_per_minute: None,
    max_concurrent: None,
    daily_tokens: None,
    daily_cpu_seconds: None,
    daily_cost: None,
};

#[track_caller]
fn check(reply: &Reply, status: u16, code: &str) {
    assert_eq!(reply.status, status, "{}", reply.body);
    let error = &reply.json()["error"];
    assert_eq!(error["code"], code);
    assert!(error["message"].is_string() && error["type"].is_string(), "{error}");
    assert_eq!(reply.header("www-authenticate").is_some(), status == 401);
}

#[test]
fn without_a_key_nothing_answers_that_tells_of_this_server() {
    let (folder, key) = folder_with_key(&[Scope::Infer], NO_LIMITS);
    let server = Server::start_in(folder, "mode=echo", |_, _, _| {});
    for route in ROUTES {
        let (method, path) = route.split_once(' ').unwrap();
        let reply = exchange(server.address, method, path, "");
        match path {
            _ if path.starts_with("/health") => assert_eq!(reply.status, 200, "{route}"),
            // What is the same for everybody: the API's description, and the pages' files, of which none has this name.
            "/openapi.json" | "/docs" => assert_eq!(reply.status, 200, "{route}"),
            "/panel/{file}" => assert_eq!(reply.status, 404, "{route}"),
            // Ollama's errors are texts.
            _ if path.starts_with("/api/") => {
                assert_eq!((reply.status, &reply.json()["code"]), (401, &json!("missing_api_key")));
            }
            _ => check(&reply, 401, "missing_api_key"),
        }
    }
    // A route that there is not looks like one that there is.
    check(&server.get("/ops/anything"), 401, "missing_api_key");
    check(&server.post_with("none", CHAT, &hello("")), 401, "invalid_api_key");
    check(&server.post_with(&key[..40], CHAT, &hello("")), 401, "invalid_api_key");
    let basic =
        exchange_with(server.address, "GET", "/version", "Authorization: Basic eA==\r\n", "");
    check(&basic, 401, "invalid_api_key");
    assert_eq!(server.post_with(&key, CHAT, &hello("")).status, 200);
    assert_eq!(server.get_with(&key, "/v1/models").status, 200);
    assert_eq!(server.get_with(&key, "/").status, 200);
    assert_eq!(server.get_with(&key, "/nowhere").status, 404);
    assert!(!server.get("/health").body.contains("one"));
}

#[test]
fn a_strangers_body_is_not_waited_for() {
    let (folder, _) = folder_with_key(&[Scope::Infer], NO_LIMITS);
    let server = Server::start_in(folder, "mode=echo", |_, _, _| {});
    let stream = super::client::open(server.address, "POST", CHAT, 1 << 20);
    check(&super::client::read_reply(stream), 401, "missing_api_key");
}

#[test]
fn a_scope_opens_its_routes_and_no_others() {
    let (folder, infer) = folder_with_key(&[Scope::Infer], NO_LIMITS);
    let metrics = add_key(&folder, "metrics", &[Scope::Metrics], NO_LIMITS);
    let server = Server::start_in(folder, "mode=echo", |_, _, _| {});
    check(&server.get_with(&infer, "/metrics"), 403, "insufficient_scope");
    check(&server.post_with(&metrics, CHAT, &hello("")), 403, "insufficient_scope");
    check(&server.get_with(&metrics, "/v1/models"), 403, "insufficient_scope");
    check(&server.post_with(&metrics, "/v1/feedback", "{}"), 403, "insufficient_scope");
    let page = server.get_with(&metrics, "/metrics");
    assert_eq!(page.status, 200);
    let denied = "lastmile_key_denials_total{code=\"insufficient_scope\"} 4\n";
    assert!(page.body.contains(denied), "{}", page.body);
    assert_eq!(server.get_with(&metrics, "/version").status, 200);
}

#[test]
fn an_expired_key_opens_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (name, scopes, limits) = ("old".to_owned(), vec![Scope::Infer], NO_LIMITS);
    let new = NewKey { name, scopes, expires_at: Some(1_000_060), limits };
    let (_, key) = key_file(&folder).create(new, 1_000_000).unwrap();
    let server = Server::start_in(folder, "mode=echo", |_, _, _| {});
    check(&server.post_with(&key, CHAT, &hello("")), 401, "api_key_expired");
}

#[test]
fn keys_come_and_go_while_the_server_runs() {
    let server = Server::start("mode=echo");
    assert_eq!(server.post(CHAT, &hello("")).status, 200);
    // Nobody tells the server: it looks by itself.
    let key = add_key(&server.folder, "one", &[Scope::Infer], NO_LIMITS);
    wait_until("a key is asked for", || server.post(CHAT, &hello("")).status == 401);
    assert_eq!(server.post_with(&key, CHAT, &hello("")).status, 200);
    let file = key_file(&server.folder);
    file.revoke("one", 5).unwrap();
    server.access.reload.notify_one();
    wait_until("the key is revoked", || server.post_with(&key, CHAT, &hello("")).status == 401);
    check(&server.post_with(&key, CHAT, &hello("")), 401, "api_key_revoked");
    check(&server.post(CHAT, &hello("")), 401, "missing_api_key");
}

#[test]
fn answers_of_a_revoked_key_end_and_those_of_others_go_on() {
    let (folder, lost) = folder_with_key(&[Scope::Infer], NO_LIMITS);
    let server = Server::start_in(folder, "mode=random,delay_us=10000", |_, _, _| {});
    let kept = add_key(&server.folder, "kept", &[Scope::Infer], NO_LIMITS);
    server.access.reload.notify_one();
    wait_until("the key is known", || server.post_with(&kept, CHAT, "{}").status != 401);
    let endless = hello(r#""ignore_eos":true,"max_tokens":3000"#);
    let short = hello(r#""ignore_eos":true,"max_tokens":600"#);
    std::thread::scope(|scope| {
        let lost = scope.spawn(|| server.post_with(&lost, CHAT, &endless));
        let kept = scope.spawn(|| server.post_with(&kept, CHAT, &short));
        server.wait_for_running(2, 0);
        key_file(&server.folder).revoke("one", 5).unwrap();
        server.wait_for_running(1, 0);
        let lost = lost.join().unwrap();
        assert_eq!(lost.json()["choices"][0]["finish_reason"], "abort", "{}", lost.body);
        let kept = kept.join().unwrap();
        assert_eq!(kept.json()["usage"]["completion_tokens"], 600, "{}", kept.body);
    });
}

#[test]
fn a_key_file_that_breaks_or_goes_opens_nothing() {
    let (folder, key) = folder_with_key(&[Scope::Infer], NO_LIMITS);
    let second = tempfile::tempdir().unwrap();
    let server = Server::start_in(folder, "mode=echo", |_, _, _| {});
    let path = server.folder.path().join("keys.json");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    server.access.reload.notify_one();
    // Another key comes with the repaired file, so that the broken one was seen before.
    let other = add_key(&second, "two", &[Scope::Infer], NO_LIMITS);
    check(&server.post(CHAT, &hello("")), 401, "missing_api_key");
    assert_eq!(server.post_with(&key, CHAT, &hello("")).status, 200);
    std::fs::copy(key_file(&second).path(), &path).unwrap();
    server.access.reload.notify_one();
    wait_until("the file is read", || server.post_with(&other, CHAT, &hello("")).status == 200);
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(server.access.load_keys(&server.ops), Err(KeyError::Gone { .. })));
    assert_eq!(server.post_with(&other, CHAT, &hello("")).status, 200);
    check(&server.post(CHAT, &hello("")), 401, "missing_api_key");
}

#[test]
fn another_tenants_request_is_not_found() {
    let (folder, one) = folder_with_key(&[Scope::Infer], NO_LIMITS);
    let two = add_key(&folder, "two", &[Scope::Infer], NO_LIMITS);
    let operator = add_key(&folder, "operator", &[Scope::Infer, Scope::Ops], NO_LIMITS);
    let server = Server::start_in(folder, "mode=echo", |_, _, _| {});
    let answer = server.post_with(&one, CHAT, &hello("")).json();
    let body = json!({ "request_id": answer["id"], "rating": true }).to_string();
    let never = json!({ "request_id": "0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b", "rating": true });
    let foreign = server.post_with(&two, "/v1/feedback", &body);
    check(&foreign, 404, "request_not_found");
    let unknown = server.post_with(&two, "/v1/feedback", &never.to_string());
    let same = |reply: &Reply| {
        let mut error = reply.json()["error"].clone();
        error["message"] = json!(error["message"].as_str().unwrap().split(" is ").next());
        error
    };
    assert_eq!(same(&foreign), same(&unknown));
    assert_eq!(server.post_with(&one, "/v1/feedback", &body).status, 201);
    assert_eq!(server.post_with(&operator, "/v1/feedback", &body).status, 201);
}

#[test]
fn what_one_tenant_asked_cannot_be_felt_by_another() {
    let (folder, one) = folder_with_key(&[Scope::Infer], NO_LIMITS);
    let two = add_key(&folder, "two", &[Scope::Infer], NO_LIMITS);
    let server = Server::start_in(folder, "mode=echo", |_, _, _| {});
    let long = "a secret of one tenant ".repeat(40);
    let body = json!({ "messages": [{ "role": "user", "content": long }], "max_tokens": 1 });
    let cached = |key: &str| {
        let reply = server.post_with(key, CHAT, &body.to_string());
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
    };
    assert_eq!(cached(&one), 0);
    assert_eq!(cached(&two), 0, "the other tenant's prompt shows");
    assert!(cached(&one) > 100, "one's own does not");
    assert!(cached(&two) > 100);
}

#[test]
fn a_header_that_says_two_things_is_refused() {
    let server = Server::start("mode=echo");
    for (name, one, two) in [
        ("x-lastmile-deadline-ms", "60000", "60001"),
        ("x-lastmile-max-queue-ms", "60000", "60001"),
        ("x-lastmile-priority", "batch", "interactive"),
    ] {
        let ask = |second: &str| {
            let lines = format!("{name}: {one}\r\n{name}: {second}\r\n");
            exchange_with(server.address, "POST", CHAT, &lines, &hello(""))
        };
        assert_eq!(ask(one).status, 200, "{name}");
        let refused = ask(two);
        assert_eq!(refused.status, 400, "{name}");
        for part in [name, one, two] {
            assert!(refused.body.contains(part), "{part} is not in {}", refused.body);
        }
    }
}
