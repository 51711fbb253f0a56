//! Ways around rules that are none.

use serde_json::{Value, json};

use super::client::Reply;
use super::overriding::{RULES, ban, two};
use super::{CHAT, Server, TEXT, hello, wait_until};

/// Each of its letters is a token of its own.
const PHRASE: &str = "zqxk";

/// The text of a completion and why it ended, whole or streamed.
#[track_caller]
fn completed(reply: &Reply, stream: bool) -> (String, String) {
    assert_eq!(reply.status, 200, "{}", reply.body);
    let all = if stream { reply.chunks() } else { vec![reply.json()] };
    let choices = || all.iter().map(|one| &one["choices"][0]);
    let text = choices().filter_map(|choice| choice["text"].as_str()).collect();
    let end = choices().filter_map(|choice| choice["finish_reason"].as_str()).collect();
    (text, end)
}

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

#[test]
fn an_echo_and_its_answer_make_no_phrase() {
    let server = Server::start("mode=echo");
    server.rule("stop", ban(&[PHRASE], "stop"));
    for cut in 1..PHRASE.len() {
        let (begin, rest) = PHRASE.split_at(cut);
        // The answer is the prompt again.
        let prompt = format!("{rest} and so {begin}");
        for stream in [false, true] {
            let body = json!({ "prompt": prompt, "echo": true, "logprobs": 2, "stream": stream });
            let told = completed(&server.post(TEXT, &body.to_string()), stream);
            assert_eq!(told, (prompt.clone(), "content_filter".to_owned()));
        }
    }
    // A prompt that holds it is answered, and not told back.
    let ask = |path: &str, more: Value| {
        let said = format!("so {PHRASE}");
        let messages = json!([{ "role": "user", "content": said }]);
        let prompt = if path == CHAT { ("messages", messages) } else { ("prompt", json!(said)) };
        let mut body = json!({ "max_tokens": 1 });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body[prompt.0] = prompt.1;
        server.post(path, &body.to_string())
    };
    for path in [TEXT, CHAT] {
        assert_eq!(ask(path, json!({})).status, 200);
        let refused = ask(path, json!({ "prompt_logprobs": 1 }));
        assert_eq!(refused.status, 403, "{}", refused.body);
        assert!(!refused.body.contains(PHRASE), "{}", refused.body);
    }
    assert_eq!(ask(TEXT, json!({ "echo": true })).status, 403);
}

#[test]
fn an_edit_and_what_follows_make_no_phrase() {
    let server = Server::start("mode=echo");
    let said = format!("so {PHRASE} end");
    let chat = json!({ "messages": [{ "role": "user", "content": said }] }).to_string();
    let id = server.ask(CHAT, &chat)["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/responses/{id}/edit");
    wait_until("the answer is stored", || server.post(&path, r#"{"at":0}"#).status == 200);
    server.rule("stop", ban(&[PHRASE], "stop"));
    for cut in 1..PHRASE.len() {
        // What of it stays of the answer, and what its user writes.
        for n_kept in 0..=cut {
            for stream in [false, true] {
                let body = json!({
                    "at_char": 3 + n_kept, "text": &PHRASE[n_kept..cut], "stream": stream,
                });
                let told = completed(&server.post(&path, &body.to_string()), stream);
                assert_eq!(told, (String::new(), "content_filter".to_owned()), "{body}");
            }
        }
        // Nor is it told back what was kept with it.
        let keep = |text: &str| {
            let body = json!({ "at_char": 3 + cut, "text": text, "continue": false });
            server.post(&path, &body.to_string())
        };
        assert_eq!(keep("!").status, 200);
        let refused = keep(&PHRASE[cut..]);
        assert_eq!(refused.status, 403, "{}", refused.body);
        assert!(!refused.body.contains(PHRASE), "{}", refused.body);
    }
}

/// Each API that knows tools with a body that asks for an echo of the text.
fn apis_with_tools(text: &str, stream: bool) -> [(&'static str, String); 4] {
    let messages = json!([{ "role": "user", "content": text }]);
    let (model, form) = ("placeholder", json!({ "type": "object" }));
    let function = json!({ "name": "f", "parameters": form });
    let nested = json!([{ "type": "function", "function": function }]);
    let flat = json!([{ "type": "function", "name": "f", "parameters": form }]);
    let own = json!([{ "name": "f", "input_schema": form }]);
    [
        (CHAT, json!({ "messages": messages, "tools": nested })),
        ("/v1/responses", json!({ "model": model, "input": messages, "tools": flat })),
        (
            "/v1/messages",
            json!({ "model": model, "max_tokens": 400, "messages": messages, "tools": own }),
        ),
        ("/api/chat", json!({ "model": model, "messages": messages, "tools": nested })),
    ]
    .map(|(path, mut body)| {
        body["stream"] = stream.into();
        (path, body.to_string())
    })
}

#[test]
fn what_is_left_of_an_answer_without_its_calls_makes_no_phrase() {
    let server = Server::start("mode=echo");
    // No id of a call or a request can hold what is looked for.
    server.rule("stop", ban(&["zq-xk"], "stop"));
    let call = |arguments: &str| {
        format!(r#"<tool_call>{{"name": "f", "arguments": {arguments}}}</tool_call>"#)
    };
    let answers = [
        format!("so zq{}-xk and", call("{}")),
        format!("so z{}q{}-xk and", call("{}"), call(r#"{"y": 1}"#)),
        // Arguments that are written as a string hide it behind two escapes.
        call(r#""{\"x\": \"z\\u0071-xk\"}""#),
        call(r#""{\"x\": \"\\u007aq\\u002dxk\"}""#),
    ];
    for answer in &answers {
        for stream in [false, true] {
            for (path, body) in apis_with_tools(answer, stream) {
                let reply = server.post(path, &body);
                assert_eq!(reply.status, 200, "{path}: {}", reply.body);
                assert!(reply.body.contains("\"f\""), "{path} calls: {}", reply.body);
                for never in ["-xk", "u002dxk", "u0071"] {
                    assert!(!reply.body.contains(never), "{path}: {}", reply.body);
                }
            }
        }
    }
    wait_until("every answer is counted", || server.hits("stop") == 4 * 2 * 4);
}

#[test]
fn neither_users_nor_rules_choose_another_model_than_the_pinned_one() {
    let server = two("mode=echo", "mode=echo");
    server.rule("chain", json!({ "then": { "action": "fallback", "models": ["b"] } }));
    assert_eq!(server.ask(CHAT, &hello(r#""model":"a""#))["model"], "b");
    assert_eq!(server.post(&format!("{RULES}/pin"), r#"{"target": "a"}"#).status, 200);
    let asked = server.asking(CHAT, "fallback", &hello(r#""model":"b""#));
    for answer in [server.ask(CHAT, &hello(r#""model":"b""#)), asked.json()] {
        assert_eq!(answer["model"], "a", "{answer}");
        assert!(answer["warnings"].to_string().contains("a model is pinned"), "{answer}");
    }
}
