//! Ways around rules that are none.

use serde_json::json;

use super::overriding::RULES;
use super::{CHAT, Server, TEXT, wait_until};

#[test]
fn tokens_hide_no_prompt_from_rules() {
    let server = Server::start("mode=echo");
    let german = "Ich wei\u{df} nicht, ob das verboten ist, aber es ist wie immer zu sp\u{e4}t und die \
                  Lieferung war nicht f\u{fc}r uns";
    let chat = json!({ "messages": [{ "role": "user", "content": german }], "max_tokens": 4 });
    let rule = json!({
        "id": "no-german", "owner": "ana", "reason": "a test", "mandatory": true,
        "when": { "prompt": "verboten", "language": "de", "routes": [CHAT, TEXT] },
        "then": { "action": "stop", "text": "No." },
    });
    assert_eq!(server.post(RULES, &rule.to_string()).status, 201);
    let tokens = server.ask("/tokenize", &json!({ "prompt": german }).to_string());
    let tokens = json!({ "prompt": tokens["tokens"], "max_tokens": 4 }).to_string();
    let id = server.ask(CHAT, &chat.to_string())["id"].as_str().unwrap().to_owned();
    let edit = |id: &str, text: &str| {
        let body = json!({ "at": 0, "text": text, "max_tokens": 4 }).to_string();
        server.post(&format!("/v1/responses/{id}/edit"), &body)
    };
    // What is edited twice is an edit of the same chat; what else is written into it changes nothing.
    let once = edit(&id, "");
    assert_eq!(once.status, 200, "{}", once.body);
    let once = once.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(edit(&once, "Here is what was asked for in the mail").status, 200);
    assert_eq!(server.post(TEXT, &tokens).status, 200);
    let path = format!("{RULES}/no-german");
    let dry = || server.post(&format!("{path}/dry-run?since_ms=0"), "").json();
    wait_until("all is stored", || dry()["answers"] == 4);
    assert_eq!(dry()["hits"], 4);
    assert_eq!(server.post(&format!("{path}/publish"), "").status, 200);
    for reply in [
        server.post(CHAT, &chat.to_string()),
        edit(&id, ""),
        edit(&once, "Here is what was asked for in the mail"),
        server.post(TEXT, &tokens),
    ] {
        assert_eq!(reply.status, 403, "{}", reply.body);
    }
    wait_until("every hit is counted", || server.hits("no-german") == 4);
}
