//! What a model thinks, apart from what it says, in the words of each API.

use serde_json::{Value, json};

use super::client::Reply;
use super::overriding::RULES;
use super::{CHAT, Server, hello};

/// `ChatML` of a model that thinks, with a switch; an answer repeats what was said.
const THINKS: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + \
    message['content'] + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}\
    {{ '<|im_start|>assistant\n' }}{% if enable_thinking is defined and not enable_thinking %}\
    {{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}";

const ANSWER: &str = "<think>\nhm, so\n</think>\n\nyes <think> no";

fn thinking_server(template: &str) -> Server {
    let template = template.to_owned();
    Server::start_with("mode=echo", |_, model| model.chat_template = Some(template))
}

fn asks(fields: &Value) -> String {
    let messages = json!([{ "role": "user", "content": ANSWER }]);
    let mut body = json!({ "model": "placeholder", "messages": messages });
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body.to_string()
}

fn events(reply: &Reply) -> Vec<Value> {
    reply.events().iter().map(|event| serde_json::from_str(event).unwrap()).collect()
}

fn lines(reply: &Reply) -> Vec<Value> {
    reply.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The texts at a path of several documents, joined.
fn joined(all: &[Value], path: &str) -> String {
    all.iter().filter_map(|one| one.pointer(path)?.as_str()).collect()
}

#[test]
fn chats_tell_reasoning_apart() {
    let server = thinking_server(THINKS);
    for more in [json!({}), json!({ "n": 2 }), json!({ "logprobs": true })] {
        let body = server.ask(CHAT, &asks(&more));
        let message = &body["choices"][0]["message"];
        assert_eq!(message["reasoning_content"], "hm, so", "{body}");
        assert_eq!(message["content"], "yes <think> no", "{body}");
    }
    let chunks = server.post(CHAT, &asks(&json!({ "stream": true }))).chunks();
    assert_eq!(joined(&chunks, "/choices/0/delta/reasoning_content"), "hm, so");
    assert_eq!(joined(&chunks, "/choices/0/delta/content"), "yes <think> no");
}

/// A form that takes any text leaves room for what is thought, and for calls in the text behind it alone.
#[test]
fn what_may_call_thinks_first_as_ever() {
    let server = thinking_server(THINKS);
    let tools = json!([{ "type": "function", "function": { "name": "f" } }]);
    let call = "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>";
    let said = format!("<think>\nhm, so <tool_call> or STOP\n</think>\n\nyes {call}");
    let mut body = json!({
        "model": "placeholder", "messages": [{ "role": "user", "content": said }],
        "temperature": 0, "stop": ["STOP"],
    });
    let (plain, mut formed) = (body.to_string(), None);
    body["tools"] = tools;
    for parallel in [false, true] {
        body["parallel_tool_calls"] = json!(parallel);
        let whole = server.ask(CHAT, &body.to_string());
        let message = &whole["choices"][0]["message"];
        assert_eq!(message["reasoning_content"], "hm, so <tool_call> or STOP", "{whole}");
        assert_eq!(message["tool_calls"][0]["function"]["name"], "f", "{whole}");
        let n = &whole["usage"]["completion_tokens_details"]["reasoning_tokens"];
        assert!(formed.replace(n.clone()).is_none_or(|before| before == *n), "{whole}");
        assert!(n.as_u64() > Some(10), "{whole}");
    }
    let without = server.ask(CHAT, &plain);
    assert_eq!(without["choices"][0]["message"]["content"], format!("yes {call}"), "{without}");
}

#[test]
fn a_model_that_does_not_think_is_told_as_it_is() {
    let server = Server::start("mode=echo");
    let message = server.ask(CHAT, &asks(&json!({})))["choices"][0]["message"].clone();
    assert_eq!((&message["content"], message.get("reasoning_content")), (&json!(ANSWER), None));
    let thinks = thinking_server(THINKS);
    let message = thinks.ask(CHAT, &hello(""))["choices"][0]["message"].clone();
    assert_eq!(
        (&message["content"], message.get("reasoning_content")),
        (&json!("hello world"), None)
    );
}

#[test]
fn a_prompt_may_have_opened_the_tag() {
    // The placeholder takes what the prompt opened for the beginning of its answer.
    let server = thinking_server(&THINKS.replace("assistant\n", "assistant\n<think>\n"));
    let message = server.ask(CHAT, &asks(&json!({})))["choices"][0]["message"].clone();
    assert_eq!(message["reasoning_content"], "hm, so", "{message}");
    assert_eq!(message["content"], "yes <think> no", "{message}");
}

#[test]
fn messages_tell_a_block_of_thinking() {
    let server = thinking_server(THINKS);
    let thinking = json!({ "type": "enabled", "budget_tokens": 1024 });
    let body = asks(&json!({ "max_tokens": 400, "thinking": thinking }));
    let content = server.ask("/v1/messages", &body)["content"].clone();
    assert_eq!(
        (&content[0]["type"], &content[0]["thinking"]),
        (&json!("thinking"), &json!("hm, so"))
    );
    assert!(content[0]["signature"].is_string(), "{content}");
    assert_eq!(content[1], json!({ "type": "text", "text": "yes <think> no" }));
    let body = asks(&json!({ "max_tokens": 400, "thinking": thinking, "stream": true }));
    let events = events(&server.post("/v1/messages", &body));
    assert_eq!(joined(&events, "/delta/thinking"), "hm, so");
    assert_eq!(joined(&events, "/delta/text"), "yes <think> no");
    let kinds: Vec<&str> =
        events.iter().filter_map(|event| event.pointer("/delta/type")?.as_str()).collect();
    let signed = kinds.iter().position(|kind| *kind == "signature_delta").unwrap();
    assert!(kinds[..signed].iter().all(|kind| *kind == "thinking_delta"), "{kinds:?}");
    assert!(kinds[signed + 1..].iter().all(|kind| *kind == "text_delta"), "{kinds:?}");
}

#[test]
fn responses_tell_an_item_of_reasoning() {
    let server = thinking_server(THINKS);
    let whole = server.ask("/v1/responses", &json!({ "input": ANSWER }).to_string());
    assert_eq!(whole["output"][0]["type"], "reasoning");
    let thought = json!([{ "type": "reasoning_text", "text": "hm, so" }]);
    assert_eq!(whole["output"][0]["content"], thought);
    assert_eq!(whole["output"][1]["content"][0]["text"], "yes <think> no");
    let body = json!({ "input": ANSWER, "stream": true }).to_string();
    let events = events(&server.post("/v1/responses", &body));
    let of = |kind: &str| -> Vec<Value> {
        events.iter().filter(|event| event["type"] == kind).cloned().collect()
    };
    assert_eq!(joined(&of("response.reasoning_text.delta"), "/delta"), "hm, so");
    assert_eq!(joined(&of("response.reasoning_text.done"), "/text"), "hm, so");
    assert_eq!(joined(&of("response.output_text.delta"), "/delta"), "yes <think> no");
    assert_eq!(of("response.output_item.done").len(), 2);
}

#[test]
fn ollama_tells_thinking() {
    let server = thinking_server(THINKS);
    let message = server.ask("/api/chat", &asks(&json!({ "stream": false })))["message"].clone();
    assert_eq!(message["thinking"], "hm, so", "{message}");
    assert_eq!(message["content"], "yes <think> no", "{message}");
    let all = lines(&server.post("/api/chat", &asks(&json!({}))));
    assert_eq!(joined(&all, "/message/thinking"), "hm, so");
    assert_eq!(joined(&all, "/message/content"), "yes <think> no");
    let body = json!({ "model": "placeholder", "prompt": ANSWER, "stream": false }).to_string();
    let answer = server.ask("/api/generate", &body);
    assert_eq!(
        (&answer["thinking"], &answer["response"]),
        (&json!("hm, so"), &json!("yes <think> no"))
    );
}

/// A chat of one message.
fn says(text: &str, fields: &Value) -> String {
    let mut body = json!({ "messages": [{ "role": "user", "content": text }] });
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body.to_string()
}

#[test]
fn a_budget_closes_the_tag_exactly_and_again() {
    let server = thinking_server(THINKS);
    // An echo goes on behind what was put in the place of its tokens.
    let said = "<think>?!?!?!</think>yes";
    for more in [
        json!({}),
        json!({ "temperature": 1.0, "seed": 5 }),
        json!({ "logprobs": true, "top_logprobs": 2 }),
    ] {
        let mut fields = more;
        fields["max_reasoning_tokens"] = 3.into();
        let body = server.ask(CHAT, &says(said, &fields));
        let message = &body["choices"][0]["message"];
        assert_eq!(message["reasoning_content"], "?!?", "{body}");
        assert_eq!(message["content"], "nk>yes", "{body}");
        let details = &body["usage"]["completion_tokens_details"];
        // 7 bytes open, 3 are thought, 8 close.
        assert_eq!(details["reasoning_tokens"], 18, "{body}");
        assert_eq!(body["choices"][0]["finish_reason"], "stop");
    }
    let in_time = server.ask(CHAT, &says(said, &json!({ "max_reasoning_tokens": 6 })));
    assert_eq!(in_time["choices"][0]["message"]["content"], "yes");
    let fields = json!({ "stream": true, "max_reasoning_tokens": 3, "stream_options": { "include_usage": true } });
    let chunks = server.post(CHAT, &says(said, &fields)).chunks();
    assert_eq!(joined(&chunks, "/choices/0/delta/reasoning_content"), "?!?");
    let usage = &chunks.last().unwrap()["usage"];
    assert_eq!(usage["completion_tokens_details"]["reasoning_tokens"], 18, "{usage}");
}

#[test]
fn thinking_is_turned_off() {
    let server = thinking_server(THINKS);
    let said = "<think>\n\n</think>\n\nyes";
    let off = [
        json!({ "reasoning_effort": "none" }),
        json!({ "chat_template_kwargs": { "enable_thinking": false } }),
    ];
    for fields in off {
        let message = server.ask(CHAT, &says(said, &fields))["choices"][0]["message"].clone();
        let thought = message.get("reasoning_content");
        assert_eq!((&message["content"], thought), (&json!("yes"), None));
    }
    // Who does not ask Anthropic's API for it gets none.
    let body = says(said, &json!({ "model": "placeholder", "max_tokens": 400 }));
    let content = server.ask("/v1/messages", &body)["content"].clone();
    assert_eq!(content, json!([{ "type": "text", "text": "yes" }]));
    let plain = Server::start("mode=echo");
    let refused = plain.post(CHAT, &hello(r#""reasoning_effort":"high""#));
    assert_eq!(refused.status, 400, "{}", refused.body);
    assert_eq!(refused.json()["error"]["param"], "reasoning_effort");
}

#[test]
fn a_form_begins_after_the_closing_tag() {
    let server = thinking_server(THINKS);
    let form = json!(["yes", "no"]);
    let asked = json!({ "reasoning_effort": "high", "guided_choice": form });
    let body = server.ask(CHAT, &says("<think>??</think>yes or so", &asked));
    let message = &body["choices"][0]["message"];
    assert_eq!((&message["reasoning_content"], &message["content"]), (&json!("??"), &json!("yes")));
    let unasked = json!({ "guided_choice": form });
    let body = server.ask(CHAT, &says("<think>??</think>yes", &unasked));
    let message = &body["choices"][0]["message"];
    assert!(message.get("reasoning_content").is_none(), "{body}");
    assert!(message["content"] == "yes" || message["content"] == "no", "{body}");
}

#[test]
fn stop_strings_end_what_is_said_and_not_what_is_thought() {
    let server = thinking_server(THINKS);
    let body = server.ask(CHAT, &asks(&json!({ "stop": ["so", " no"] })));
    let message = &body["choices"][0]["message"];
    assert_eq!(message["reasoning_content"], "hm, so", "{body}");
    assert_eq!(message["content"], "yes <think>", "{body}");
}

#[track_caller]
fn rule(server: &Server, then: &Value) {
    let rule = json!({ "id": "r", "owner": "ana", "reason": "a test", "then": then });
    let reply = server.post(&format!("{RULES}?publish=true"), &rule.to_string());
    assert_eq!(reply.status, 201, "{}", reply.body);
}

#[test]
fn rules_hold_for_what_is_thought() {
    let ban = |on_hit: &str| json!({ "action": "ban", "phrases": ["so"], "on_hit": on_hit });
    let stops = thinking_server(THINKS);
    rule(&stops, &ban("stop"));
    let choice = stops.ask(CHAT, &asks(&json!({})))["choices"][0].clone();
    assert_eq!(choice["message"]["reasoning_content"], "hm,", "{choice}");
    assert_eq!(
        (&choice["message"]["content"], &choice["finish_reason"]),
        (&json!(""), &json!("content_filter"))
    );
    let replaces = thinking_server(THINKS);
    let mut replace = ban("replace");
    replace["text"] = "[removed]".into();
    rule(&replaces, &replace);
    let message = replaces.ask(CHAT, &asks(&json!({})))["choices"][0]["message"].clone();
    assert_eq!(message["content"], "[removed]", "{message}");
    let begins = thinking_server(&THINKS.replace("assistant\n", "assistant\n<think>\n"));
    rule(&begins, &json!({ "action": "prefix", "text": "Dear all, " }));
    let message = begins.ask(CHAT, &asks(&json!({})))["choices"][0]["message"].clone();
    let text = message["content"].as_str().unwrap();
    assert!(text.starts_with("Dear all, "), "{message}");
    assert!(message.get("reasoning_content").is_none(), "{message}");
}

#[test]
fn a_budget_holds_for_an_answer_that_turns_back() {
    let template = THINKS.replace("assistant\n", "assistant\n<think>\n");
    let server = Server::start_with("mode=random,mean_tokens=100000", |_, model| {
        model.chat_template = Some(template);
    });
    let body = hello(r#""max_tokens":60,"max_reasoning_tokens":20,"seed":5"#);
    let thought = |body: &Value| {
        let thought = body["choices"][0]["message"]["reasoning_content"].as_str();
        thought.unwrap().to_owned()
    };
    let before = server.ask(CHAT, &body);
    let all = thought(&before);
    let words: Vec<&str> = all.split(' ').collect();
    let phrase = format!("{} {}", words[10], words[11]);
    rule(&server, &json!({ "action": "ban", "phrases": [phrase], "on_hit": "resubmit" }));
    let after = server.ask(CHAT, &body);
    assert!(!thought(&after).contains(&phrase), "{after}");
    for answer in [&before, &after] {
        let usage = &answer["usage"];
        // 20 are thought, and 8 bytes close.
        assert_eq!(usage["completion_tokens_details"]["reasoning_tokens"], 28, "{answer}");
        assert_eq!(usage["completion_tokens"], 60, "{answer}");
    }
}
