//! Answers that call tools, in the forms of all families, however their texts are cut.

use lm_chat::{AnswerPart, ToolCallParser, ToolFormat};

/// What is said and what is called of an answer that comes in pieces.
fn read(
    format: ToolFormat,
    pieces: impl Iterator<Item = String>,
) -> (String, Vec<(String, String)>) {
    let mut parser = ToolCallParser::new(format, vec!["f".into(), "g".into()]);
    let (mut said, mut called) = (String::new(), Vec::<(String, String)>::new());
    let mut parts: Vec<AnswerPart> = pieces.flat_map(|piece| parser.push(&piece)).collect();
    parts.extend(parser.finish());
    for part in parts {
        match part {
            AnswerPart::Text(text) => said.push_str(&text),
            AnswerPart::CallBegins { name, .. } => called.push((name, String::new())),
            AnswerPart::Arguments { index, json } => called[index].1.push_str(&json),
            AnswerPart::Reasoning(text) => panic!("{text:?} was thought"),
        }
    }
    (said, called)
}

/// The same however the text is cut: its words, and its calls with their arguments.
#[track_caller]
fn check(format: ToolFormat, text: &str, words: &str, calls: &[(&str, &str)]) {
    let called = calls.iter().map(|(name, json)| ((*name).to_owned(), (*json).to_owned()));
    let expect = (words.to_owned(), called.collect::<Vec<_>>());
    let characters: Vec<char> = text.chars().collect();
    for size in [1, 2, 3, 7, 1000] {
        let pieces = characters.chunks(size).map(|piece| piece.iter().collect::<String>());
        assert_eq!(read(format, pieces), expect, "in pieces of {size}");
    }
    for (cut, _) in text.char_indices() {
        let pieces = [text[..cut].to_owned(), text[cut..].to_owned()];
        assert_eq!(read(format, pieces.into_iter()), expect, "cut at {cut}");
    }
}

#[test]
fn hermes() {
    let format = ToolFormat::Hermes;
    check(format, "plain <tool> text\n ", "plain <tool> text\n ", &[]);
    let one = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": \"}\\\"ä\"}}\n</tool_call>";
    check(format, one, "", &[("f", "{\"x\": \"}\\\"ä\"}")]);
    let two =
        format!("I will.\n{one}\n<tool_call>{{\"arguments\": {{}}, \"name\":\"g\"}}</tool_call>\n");
    check(format, &two, "I will.", &[("f", "{\"x\": \"}\\\"ä\"}"), ("g", "{}")]);
    check(format, "<tool_call>{\"name\": \"f\"}</tool_call> done", " done", &[("f", "{}")]);
    let unknown = "<tool_call>{\"name\": \"h\", \"arguments\": {}}</tool_call>";
    check(format, unknown, unknown, &[]);
    check(format, "<tool_call>not JSON", "<tool_call>not JSON", &[]);
    check(format, "so <tool_call>\n", "so <tool_call>\n", &[]);
    check(format, "<tool_call>{\"name\": \"f\", \"argum", "", &[("f", "")]);
    let quoted = "<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": 1}\"}</tool_call>";
    check(format, quoted, "", &[("f", "{\"a\": 1}")]);
}

#[test]
fn llama() {
    let format = ToolFormat::Llama;
    let one = "{\"name\": \"f\", \"parameters\": {\"a\": [1]}}";
    check(format, &format!(" {one}"), "", &[("f", "{\"a\": [1]}")]);
    check(format, &format!("<|python_tag|>{one}"), "", &[("f", "{\"a\": [1]}")]);
    check(format, &format!("So: <|python_tag|>{one}"), "So:", &[("f", "{\"a\": [1]}")]);
    let two =
        "{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"g\", \"parameters\": {\"b\": 2}}";
    check(format, two, "", &[("f", "{}"), ("g", "{\"b\": 2}")]);
    let person = "{\"name\": \"Bob\", \"age\": 3}";
    check(format, person, person, &[]);
    check(format, "It is {\"name\": \"f\"}.", "It is {\"name\": \"f\"}.", &[]);
}

/// Two calls in a list, and what they are.
const LIST: &str =
    "[{\"name\": \"f\", \"arguments\": {\"a\": 1}}, {\"name\": \"g\", \"arguments\": {}}]";
const LISTED: [(&str, &str); 2] = [("f", "{\"a\": 1}"), ("g", "{}")];

#[test]
fn mistral() {
    for format in [ToolFormat::Mistral, ToolFormat::MistralArgs] {
        check(format, LIST, "", &LISTED);
        check(format, &format!("[TOOL_CALLS] {LIST}"), "", &LISTED);
        check(format, &format!("Well.\n[TOOL_CALLS]{LIST}"), "Well.", &LISTED);
        check(format, "[1, 2]", "[1, 2]", &[]);
        check(format, "[TOOLS", "[TOOLS", &[]);
        check(format, "[TOOL_CALLS]", "[TOOL_CALLS]", &[]);
    }
}

#[test]
fn mistral_with_the_name_before_the_arguments() {
    let format = ToolFormat::MistralArgs;
    let one = "[TOOL_CALLS]f[CALL_ID]a1B2c3D4e[ARGS]{\"x\": \"}[TOOL_CALLS]ä\", \"name\": \"g\"}";
    let arguments = "{\"x\": \"}[TOOL_CALLS]ä\", \"name\": \"g\"}";
    check(format, one, "", &[("f", arguments)]);
    check(
        format,
        &format!("I will. {one}[TOOL_CALLS]g[ARGS]{{}}"),
        "I will.",
        &[("f", arguments), ("g", "{}")],
    );
    check(format, "[TOOL_CALLS]f{\"a\": {}}\n", "", &[("f", "{\"a\": {}}")]);
    check(format, "[TOOL_CALLS] g [ARGS] {} done", " done", &[("g", "{}")]);
    check(format, "[TOOL_CALLS]f[ARGS]{\"a\": [", "", &[("f", "{\"a\": [")]);
    let unknown = "[TOOL_CALLS]h[ARGS]{\"a\": 1}";
    check(format, unknown, unknown, &[]);
    let unmarked = "[TOOL_CALLS]f[0]{}";
    check(format, unmarked, unmarked, &[]);
    check(format, "[TOOL_CALLS]f[AR", "[TOOL_CALLS]f[AR", &[]);
    let long = format!("[TOOL_CALLS]{} and so on", "x".repeat(200));
    check(format, &long, &long, &[]);
    let late = format!("{long} [TOOL_CALLS]f[ARGS]{{}}");
    check(format, &late, &long, &[("f", "{}")]);
}

#[test]
fn granite() {
    let format = ToolFormat::Granite;
    for mark in ["<|tool_call|>", "<tool_call>", ""] {
        check(format, &format!("{mark}{LIST}"), "", &LISTED);
        check(format, &format!(" {mark} {LIST}\n"), "", &LISTED);
    }
    check(format, &format!("Let me see. <|tool_call|>{LIST}"), "Let me see.", &LISTED);
    check(format, "<|tool_call|>{\"name\": \"f\", \"arguments\": {}}", "", &[("f", "{}")]);
    let each = "<tool_call>{\"name\": \"f\"}</tool_call>\n<tool_call>{\"name\": \"g\"}</tool_call>";
    check(format, each, "", &[("f", "{}"), ("g", "{}")]);
    check(format, "<|tool_call|>[]", "<|tool_call|>[]", &[]);
    check(format, "a <|tool_c> b < c", "a <|tool_c> b < c", &[]);
}

#[test]
fn phi() {
    let format = ToolFormat::Phi;
    check(format, &format!("<|tool_call|>{LIST}<|/tool_call|>"), "", &LISTED);
    check(format, &format!("<|tool_call|>{LIST}"), "", &LISTED);
    check(format, &format!("{LIST}<|/tool_call|>"), "", &LISTED);
    check(format, &format!("Yes.<|tool_call|>{LIST}<|/tool_call|> So."), "Yes. So.", &LISTED);
    let unknown = "<|tool_call|>[{\"name\": \"h\", \"arguments\": {}}]<|/tool_call|>";
    check(format, unknown, unknown, &[]);
}
