//! The dashboard's page and what its pages ask for.

use std::time::{Duration, Instant};

use lm_keys::{KeyLimits, Scope};
use serde_json::json;

use super::client::{exchange_with, open, open_with, read_reply, read_until};
use super::{CHAT, Server, add_key, folder_with_key, hello, wait_until};

const HTML: &str = "Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\n";

#[test]
fn browsers_get_a_page_and_programs_the_index() {
    let server = Server::start("mode=echo");
    let page = exchange_with(server.address, "GET", "/", HTML, "");
    assert!(page.header("content-type").unwrap().starts_with("text/html"));
    assert_eq!(page.header("vary"), Some("accept"));
    let policy = page.header("content-security-policy").unwrap();
    for part in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"] {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
    assert!(server.get("/").json()["routes"].is_array());
    let script = server.get("/panel/main.js");
    assert!(script.header("content-type").unwrap().starts_with("text/javascript"));
    for path in ["/panel/no.js", "/panel/..%2fCargo.toml", "/panel/index.html/x"] {
        assert_eq!(server.get(path).status, 404, "{path}");
    }
    let other = server.get("/version");
    assert!(other.header("content-security-policy").unwrap().contains("default-src 'none'"));
}

#[test]
fn the_state_of_now_counts_what_was_answered() {
    let server = Server::start("mode=echo");
    // The last minute is counted from the first look at it.
    drop(server.get("/ops/v1/now"));
    server.ask(CHAT, &hello(""));
    server.post(CHAT, &hello(r#""max_tokens":1000000"#));
    wait_until("the state has the answer and the error", || {
        let now = server.get("/ops/v1/now").json();
        let model = &now["models"][0];
        let is_told = now["last_errors"][0]["code"] == "context_length_exceeded";
        is_told && model["finished"] == 1 && model["errors"] == 1 && model["ttft_ms"]["n"] == 1
    });
    let now = server.get("/ops/v1/now").json();
    assert_eq!(now["server"]["status"], "ok");
    assert_eq!(now["models"][0]["name"], "placeholder");
    assert!(now["models"][0]["kv_blocks"].as_u64().unwrap() > 0);
}

#[test]
fn charts_are_pictures_with_tables_and_bad_wishes_are_named() {
    let server = Server::start("mode=echo");
    drop(server.get("/ops/v1/now"));
    for name in ["throughput", "ttft", "gap", "queue", "kv", "errors", "memory"] {
        let chart = server.get(&format!("/ops/v1/charts/{name}?width=400&minutes=5")).json();
        let svg = chart["svg"].as_str().unwrap();
        assert!(svg.starts_with("<svg width=\"400\"") && svg.contains("<title>"), "{name}: {svg}");
        assert!(chart["columns"].as_array().unwrap().len() >= 2);
    }
    let check = |path: &str, param: &str, wanted: &str| {
        let reply = server.get(path);
        let error = &reply.json()["error"];
        assert_eq!((reply.status, error["param"].as_str()), (400, Some(param)), "{path}");
        assert!(error["message"].as_str().unwrap().contains(wanted), "{path}: {error}");
    };
    check("/ops/v1/charts/no", "chart", "one of throughput");
    check("/ops/v1/charts/kv?width=1", "width", "from 240 to 1600");
    check("/ops/v1/charts/kv?minutes=61", "minutes", "from 1 to 60");
    check("/ops/v1/charts/kv?model=other", "model", "a model that is served");
    check("/ops/v1/charts/kv?colour=red", "colour", "left out");
    check("/v1/requests?limit=0", "limit", "from 1 to 200");
    check("/v1/requests?limit=1&limit=2", "limit", "given once");
    check("/v1/requests?id=xyz", "id", "a UUID");
    check("/v1/requests?tenant=me", "tenant", "16 hexadecimal digits");
    check("/v1/requests/xyz/page", "id", "a UUID");
    let unknown = server.get("/v1/requests/0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b/page");
    assert_eq!(unknown.status, 404);
}

#[test]
fn a_live_page_is_told_and_does_not_hold_up_the_end() {
    let mut server = Server::start("mode=echo");
    let mut stream = open(server.address, "GET", "/ops/v1/now/stream", 0);
    let said = read_until(&mut stream, "\n\n");
    assert!(said.contains("text/event-stream") && said.contains("data: {"), "{said}");
    assert!(server.get("/metrics").body.contains("\nlastmile_live_pages 1\n"));
    let begun = Instant::now();
    server.stop();
    drop(read_until(&mut stream, "0\r\n\r\n"));
    server.wait().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[test]
fn more_live_pages_than_there_are_places_are_refused() {
    let server = Server::start("mode=echo");
    let mut all: Vec<_> = (0..64)
        .map(|_| {
            let mut stream = open(server.address, "GET", "/ops/v1/now/stream", 0);
            read_until(&mut stream, "data: {");
            stream
        })
        .collect();
    let refused = server.get("/ops/v1/now/stream");
    assert_eq!(
        (refused.status, refused.json()["error"]["code"].as_str()),
        (429, Some("too_many_requests"))
    );
    drop(all.pop());
    wait_until("a place is free again", || {
        server.get("/metrics").body.contains("\nlastmile_live_pages 63\n")
    });
    let mut again = open(server.address, "GET", "/ops/v1/now/stream", 0);
    assert!(read_until(&mut again, "\r\n\r\n").starts_with("HTTP/1.1 200"));
}

#[test]
fn requests_are_found_by_who_sent_them_and_by_operators() {
    let (folder, one) = folder_with_key(&[Scope::Infer], KeyLimits::default());
    let two = add_key(&folder, "two", &[Scope::Infer], KeyLimits::default());
    let ops = add_key(&folder, "ops", &[Scope::Ops], KeyLimits::default());
    let server = Server::start_in(folder, "mode=echo", |_, _, _| {});
    let sent = server.post_with(&one, CHAT, &hello("")).json();
    let id = sent["id"].as_str().unwrap().to_owned();
    let n_found = |key: &str, query: &str| {
        let reply = server.get_with(key, &format!("/v1/requests?{query}"));
        reply.json()["data"].as_array().map(Vec::len)
    };
    wait_until("it is stored", || n_found(&one, "") == Some(1));
    assert_eq!(n_found(&two, ""), Some(0));
    assert_eq!(n_found(&ops, "text=hello"), Some(1));
    assert_eq!(n_found(&ops, "text=goodbye"), Some(0));
    assert_eq!(n_found(&ops, "tenant=none"), Some(0));
    assert_eq!(server.get_with(&two, "/v1/requests?tenant=none").status, 400);
    let status =
        |key: &str| server.get_with(key, &format!("/v1/requests/{id}/page?width=300")).status;
    assert_eq!((status(&one), status(&two), status(&ops)), (200, 404, 200));
    let page = server.get_with(&one, &format!("/v1/requests/{id}/page")).json();
    assert_eq!(page["prompt"]["messages"][0]["content"], "hello world");
    assert!(page["picture"]["svg"].as_str().unwrap().contains("class=\"s2\""));
    assert_eq!(server.get("/v1/requests").status, 401);
    assert_eq!(server.get_with(&one, "/ops/v1/now").status, 403);
    // The page itself is for everybody, and says nothing.
    let page = read_reply(open_with(server.address, "GET", "/", HTML, 0));
    assert_eq!(page.status, 200);
    assert!(!page.body.contains("placeholder"));
    assert_eq!(server.get("/").status, 401);
}

#[test]
fn a_seed_is_shown_in_all_its_digits() {
    let server = Server::start("mode=echo");
    let exact = |seed: u64| {
        let sent = server.ask(CHAT, &hello(&format!(r#""seed":{seed}"#)));
        let path = format!("/v1/requests/{}/page", sent["id"].as_str().unwrap());
        wait_until("it is stored", || server.get(&path).status == 200);
        let page = server.get(&path).json();
        assert_eq!(page["params"]["seed"], seed);
        page["exact_params"].clone()
    };
    // A browser has all whole numbers up to 2^53 - 1.
    assert_eq!(exact(9_007_199_254_740_991), json!(null));
    assert_eq!(exact(9_007_199_254_740_993), json!({ "seed": "9007199254740993" }));
    assert_eq!(exact(u64::MAX), json!({ "seed": "18446744073709551615" }));
}

#[test]
fn without_keys_nobody_on_the_network_reads_what_others_asked() {
    let server = Server::start_with("mode=echo", |config, _| {
        config.address = "0.0.0.0:0".parse().unwrap();
        config.insecure = true;
    });
    let local = format!("127.0.0.1:{}", server.address.port()).parse().unwrap();
    let get = |path: &str| super::exchange(local, "GET", path, "");
    assert_eq!(get("/v1/requests").status, 401);
    assert_eq!(get("/v1/requests/0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b/page").status, 401);
    assert_eq!(get("/v1/models").status, 200);
}

#[test]
fn a_timeline_says_what_was_waited_for_and_names_no_stranger() {
    let (folder, one) = folder_with_key(&[Scope::Infer], KeyLimits::default());
    let two = add_key(&folder, "two", &[Scope::Infer], KeyLimits::default());
    let ops = add_key(&folder, "ops", &[Scope::Ops, Scope::Infer], KeyLimits::default());
    let options = "mode=random,step_ns=1000000,prefill_token_ns=1000000";
    let server = Server::start_in(folder, options, |_, _, _| {});
    let body = |prompt: &str, n: u32| {
        format!(r#"{{"prompt":"{prompt}","max_tokens":{n},"ignore_eos":true}}"#)
    };
    let (slow, first) = std::thread::scope(|scope| {
        let slow = scope.spawn(|| server.post_with(&one, "/v1/completions", &body("hello", 2000)));
        wait_until("the first one runs", || server.runtime.stats().generation_tokens > 20);
        let long = "many words ".repeat(60);
        let other = server.post_with(&two, "/v1/completions", &body(&long, 2));
        (slow.join().unwrap(), other)
    });
    let id = |reply: &super::Reply| reply.json()["id"].as_str().unwrap().to_owned();
    let (slow, first) = (id(&slow), id(&first));
    let path = |id: &str| format!("/v1/requests/{id}/timeline");
    wait_until("it is stored", || server.get_with(&one, &path(&slow)).status == 200);
    let told = server.get_with(&one, &path(&slow)).json();
    let answer = &told["answers"][0];
    assert_eq!(answer["completion_tokens"], 2000);
    assert_eq!(answer["first_miss"]["reason"], "partial_block");
    let gaps = answer["largest_gaps"].as_array().unwrap();
    let gap = gaps.iter().find(|gap| gap["cause"]["kind"] == "prompt").unwrap();
    assert!(gap["because"].as_str().unwrap().contains("another key's request"), "{gap}");
    assert_eq!(gap["cause"]["of"]["request"], serde_json::Value::Null);
    // An operator sees whose it was.
    let told = server.get_with(&ops, &path(&slow)).json();
    let gaps = told["answers"][0]["largest_gaps"].as_array().unwrap();
    let gap = gaps.iter().find(|gap| gap["cause"]["kind"] == "prompt").unwrap();
    assert_eq!(first, format!("cmpl-{}", gap["cause"]["of"]["request"].as_str().unwrap()));
    // A stranger sees nothing.
    assert_eq!(server.get_with(&two, &path(&slow)).status, 404);
    assert_eq!(server.get_with(&one, &path("nonsense")).status, 400);
}

#[test]
fn alerts_are_told_with_their_beginning() {
    let server = Server::start("mode=echo");
    let alerts = || server.get("/ops/v1/alerts").json();
    let none = alerts();
    assert_eq!((&none["open"], &none["past"]), (&json!([]), &json!([])));
    for _ in 0..5 {
        server.post(CHAT, &hello(r#""max_tokens":1000000"#));
    }
    wait_until("that requests fail is an alert", || alerts()["open"][0]["since_ms"].is_i64());
    let all = alerts();
    let open = &all["open"][0];
    assert_eq!((&open["key"], &open["level"]), (&json!("errors placeholder"), &json!("warning")));
    assert!(open["ended_at_ms"].is_null() && open["requests"] == json!([]), "{open}");
}

#[test]
fn signals_of_a_model_that_nobody_asked_are_not_there() {
    let server = Server::start("mode=echo");
    assert_eq!(server.get("/ops/v1/monitors/moon/signals").status, 404);
}
