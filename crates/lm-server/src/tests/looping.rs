//! The loop from failures to fixes, and datasets, as the pages ask for them.

use lm_keys::{KeyLimits, Scope};
use serde_json::{Value, json};

use super::{CHAT, Server, folder_with_key, wait_until};

const LEASE: &str = "/ops/v1/review/lease";
const VERDICT: &str = "/ops/v1/review/verdict";
const UNDO: &str = "/ops/v1/review/undo";

/// A server whose answers to three questions were cut; they are known as failures.
fn cut_short() -> Server {
    let server = Server::start("mode=echo");
    for i in 0..3 {
        let question = format!("Recite all {i} verses of the ballad of the grey harbour");
        let messages = json!([{ "role": "user", "content": question }]);
        server.ask(CHAT, &json!({ "messages": messages, "max_tokens": 2 }).to_string());
    }
    wait_until("the failures are found", || {
        let found = server.get("/ops/v1/failures").json();
        found["data"][0]["n_failures"] == 3
    });
    server
}

impl Server {
    fn act(&self, path: &str, body: Value) -> (u16, Value) {
        let reply = self.post(path, &body.to_string());
        (reply.status, reply.json())
    }
}

#[test]
fn problems_have_a_rank_a_trend_and_examples() {
    let server = cut_short();
    let found = server.get("/ops/v1/failures?days=1").json();
    let problem = &found["data"][0];
    assert_eq!((&found["n_problems"], &problem["rank"]), (&json!(1), &json!(1)));
    assert_eq!(problem["fingerprint"], "truncated");
    let trend = problem["trend"].as_array().unwrap();
    let n: u64 = trend.iter().map(|part| part.as_u64().unwrap()).sum();
    assert_eq!(n, 3);
    assert!(problem["trend_svg"].as_str().unwrap().starts_with("<svg"));
    assert!(found["as_of_ms"].as_i64().unwrap() > 0 && found["is_failing"] == false);

    let cluster = problem["cluster"].as_str().unwrap();
    let one = server.get(&format!("/ops/v1/failures/{}?limit=2&width=400", &cluster[..8])).json();
    assert_eq!(one["cluster"], cluster);
    assert_eq!(one["examples"].as_array().unwrap().len(), 2);
    let told = &one["examples"][0]["told"];
    assert!(told["messages"][0]["text"].as_str().unwrap().contains("grey harbour"), "{told}");
    assert_eq!(told["finish_reason"], "length");
    assert_eq!((&one["fixes"], &one["picture"]["rows"]), (&json!([]), &json!([])));
    assert_eq!(server.get("/ops/v1/fixes").json()["n_fixes"], 0);

    let learning = server.get("/ops/v1/learning").json();
    assert_eq!(learning["learning"]["n_failures"], 3);
    assert_eq!(learning["weeks"].as_array().unwrap().len(), 8);
    for name in ["stages", "proofs", "weeks"] {
        assert!(learning["pictures"][name]["svg"].as_str().unwrap().contains("<title>"), "{name}");
    }
}

#[test]
fn reviewers_lease_judge_and_think_better_of_it() {
    let server = cut_short();
    let (_, ann) = server.act(LEASE, json!({ "reviewer": "ann", "n": 2 }));
    assert_eq!((ann["data"].as_array().unwrap().len(), &ann["n_unreviewed"]), (2, &json!(3)));
    assert!(ann["data"][0]["told"]["output"]["text"].is_string());
    let (_, bob) = server.act(LEASE, json!({ "reviewer": "bob" }));
    assert_eq!(bob["data"].as_array().unwrap().len(), 1);

    let answer = &ann["data"][0]["answer"];
    let accept = json!({ "answer": answer, "verdict": "accept", "reviewer": "bob" });
    let (status, refused) = server.act(VERDICT, accept);
    assert_eq!((status, &refused["error"]["code"]), (409, &json!("conflict")), "{refused}");
    let tag = json!({ "answer": answer, "verdict": "tag", "text": " odd ", "reviewer": "ann" });
    assert_eq!(server.act(VERDICT, tag).0, 200);
    let correct =
        json!({ "answer": answer, "verdict": "correct", "text": "All of it.", "reviewer": "ann" });
    assert_eq!(server.act(VERDICT, correct).1["verdict"], "correct");
    let undo = json!({ "answer": answer, "reviewer": "bob" });
    assert_eq!(server.act(UNDO, undo).0, 409);
    let (status, back) = server.act(UNDO, json!({ "answer": answer, "reviewer": "ann" }));
    assert_eq!((status, &back["verdict"], &back["correction"]), (200, &Value::Null, &Value::Null));
    assert_eq!(back["told"]["tags"], json!(["odd"]));

    let (_, given) = server.act("/ops/v1/review/give-back", json!({ "reviewer": "ann" }));
    assert_eq!(given["given_back"], 2);
    let (_, eve) = server.act(LEASE, json!({ "reviewer": "eve", "n": 20 }));
    assert_eq!(eve["data"].as_array().unwrap().len(), 2);
}

#[test]
fn bad_wishes_are_named() {
    let server = Server::start("mode=echo");
    let check = |reply: (u16, Value), status: u16, param: &str, wanted: &str| {
        let error = &reply.1["error"];
        assert_eq!((reply.0, error["param"].as_str().unwrap_or_default()), (status, param));
        assert!(error["message"].as_str().unwrap().contains(wanted), "{error}");
    };
    let get = |path: &str| {
        let reply = server.get(path);
        (reply.status, reply.json())
    };
    let verdict = |verdict: &str, text: Option<&str>| {
        let mut body = json!({ "answer": "0", "verdict": verdict });
        if let Some(text) = text {
            body["text"] = text.into();
        }
        server.act(VERDICT, body)
    };
    check(get("/ops/v1/failures?days=0"), 400, "days", "from 1 to 3650");
    check(get("/ops/v1/failures?day=1"), 400, "day", "nothing has this name");
    check(get("/ops/v1/failures/zzz"), 404, "", "0 clusters");
    check(get("/ops/v1/learning?width=9"), 400, "width", "from 240 to 1600");
    check(server.act(LEASE, json!({ "n": 0 })), 400, "n", "from 1 to 20");
    check(server.act(LEASE, json!({ "reviewer": " " })), 400, "reviewer", "1 to 64");
    check(server.act(LEASE, json!({ "who": "ann" })), 400, "body", "unknown field `who`");
    check(verdict("praise", None), 400, "verdict", "accept, reject, correct or tag");
    check(verdict("tag", None), 400, "text", "correct and tag");
    check(verdict("accept", Some("x")), 400, "text", "left out");
    check(verdict("accept", None), 404, "", "0 failures");
    check(get("/ops/v1/datasets/No%20Such"), 400, "name", "a-z");
    check(get("/ops/v1/datasets/none"), 404, "", "no dataset none");
    check(get("/ops/v1/datasets/none/diff"), 404, "", "no dataset none");
    check(get("/ops/v1/datasets/none/quarantine?unpublished=1"), 400, "unpublished", "true or");
    check(get("/ops/v1/datasets/none/coverage?by=a,b,c,d"), 400, "by", "at most 3");
    assert_eq!(get("/ops/v1/datasets").1, json!({ "data": [], "next": null }));
}

#[test]
fn failures_and_rows_are_for_operators() {
    let (folder, key) = folder_with_key(&[Scope::Infer], KeyLimits::default());
    let server = Server::start_in(folder, "mode=echo", |_, _, _| {});
    for path in ["/ops/v1/failures", "/ops/v1/datasets", "/ops/v1/learning", "/ops/v1/fixes"] {
        assert_eq!(server.get(path).status, 401, "{path}");
        assert_eq!(server.get_with(&key, path).status, 403, "{path}");
    }
    assert_eq!(server.post_with(&key, LEASE, "{}").status, 403);
}
