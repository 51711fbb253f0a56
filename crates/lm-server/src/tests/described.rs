//! Answers of other APIs against what `/openapi.json` says of them.

use serde_json::{Value, json};

use super::Server;

/// What of a value is not as its schema says. Knows what the document uses.
fn unfit(document: &Value, schema: &Value, value: &Value, path: &str) -> Option<String> {
    if let Some(name) = schema["$ref"].as_str() {
        return unfit(document, document.pointer(&name[1..]).unwrap(), value, path);
    }
    if let Some(all) = schema["anyOf"].as_array() {
        let found: Vec<String> =
            all.iter().map_while(|one| unfit(document, one, value, path)).collect();
        return (found.len() == all.len()).then(|| found.join(", or "));
    }
    let is = |kind: &str| match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        _ => value.is_object(),
    };
    let has_type = match &schema["type"] {
        Value::Null => true,
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).any(is),
        kind => is(kind.as_str().unwrap()),
    };
    let in_enum = schema["enum"].as_array().is_none_or(|words| words.contains(value));
    if !has_type || !in_enum {
        return Some(format!("{path} is {value}"));
    }
    let mut required =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    if let Some(name) = required.find(|name| value.get(name).is_none()) {
        return Some(format!("{path} has no {name}"));
    }
    let no_fields = serde_json::Map::new();
    let known = schema["properties"].as_object().unwrap_or(&no_fields);
    for (name, one) in value.as_object().unwrap_or(&no_fields) {
        let path = format!("{path}.{name}");
        match known.get(name) {
            Some(schema) => {
                if let Some(what) = unfit(document, schema, one, &path) {
                    return Some(what);
                }
            }
            // An object without a word of its fields may have any.
            None if known.is_empty() => {}
            None => return Some(format!("{path} is not described")),
        }
    }
    let items = value.as_array().into_iter().flatten();
    items
        .enumerate()
        .find_map(|(i, item)| unfit(document, &schema["items"], item, &format!("{path}[{i}]")))
}

/// The answer is as the document says, and the document says something.
#[track_caller]
fn check(document: &Value, method: &str, path: &str, answer: &Value) {
    let operation = &document["paths"][path][method];
    let schema = &operation["responses"]["200"]["content"]["application/json"]["schema"];
    assert_ne!(schema["$ref"], "#/components/schemas/Object", "{path}");
    assert_eq!(unfit(document, schema, answer, path), None, "{answer}");
}

#[test]
fn answers_are_as_they_are_described() {
    let server = Server::start("mode=echo");
    let document = server.get("/openapi.json").json();
    let hi = json!([{ "role": "user", "content": "hello world" }]);
    let named = json!({ "type": "function", "function": { "name": "f" } });
    let schema = json!({ "type": "object", "properties": {}, "additionalProperties": false });
    let post = |path: &str, body: Value| {
        check(&document, "post", path, &server.ask(path, &body.to_string()));
    };
    for limit in [1, 99] {
        post("/v1/messages", json!({ "messages": hi, "max_tokens": limit, "fruit": 1 }));
        post("/v1/responses", json!({ "input": "hello", "max_output_tokens": limit }));
        let options = json!({ "num_predict": limit });
        let body = json!({ "messages": hi, "options": options, "stream": false });
        post("/api/chat", body);
        post("/api/generate", json!({ "prompt": "hello", "options": options, "stream": false }));
    }
    let tool = json!({ "name": "f", "input_schema": schema });
    let choice = json!({ "type": "tool", "name": "f" });
    let body = json!({ "messages": hi, "max_tokens": 99, "tools": [tool], "tool_choice": choice });
    post("/v1/messages", body);
    let tool = json!({ "type": "function", "name": "f", "parameters": schema });
    let choice = json!({ "type": "function", "name": "f" });
    post("/v1/responses", json!({ "input": "hi", "tools": [tool], "tool_choice": choice }));
    post("/v1/messages/count_tokens", json!({ "messages": hi }));
    post("/api/chat", json!({ "messages": [], "keep_alive": 0 }));
    post("/api/generate", json!({ "model": "placeholder" }));
    post("/api/show", json!({ "model": "placeholder" }));
    for path in ["/api/tags", "/api/ps", "/api/version"] {
        check(&document, "get", path, &server.get(path).json());
    }
    // What does not fit is seen.
    let error = json!({ "$ref": "#/components/schemas/OllamaError" });
    for wrong in [json!({ "error": "x" }), json!({ "error": named, "code": "x" }), json!([])] {
        assert!(unfit(&document, &error, &wrong, "").is_some(), "{wrong}");
    }
}
