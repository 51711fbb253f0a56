//! Tools in the prompts of all families: described, called before, answered, and required.

use lm_chat::{ChatError, MustCall, RenderOptions, ToolCallParser, ToolFormat};
use lm_types::{ChatMessage, Dialog, Role};

use crate::templates::{
    GEMMA_2, GRANITE, GRANITE_30, LLAMA, MISTRAL_SMALL, MISTRAL_V3, MISTRAL_V11, PHI, QWEN,
};
use crate::{PROMPT, say, template};

const TOOLS: &str = r#"[{"type":"function","function":{"name":"f","description":"Looks.","parameters":
    {"type":"object","properties":{"x":{"type":"integer"}}}}}]"#;
const CALLS: &str = r#"{"tool_calls":[{"id":"abcdefgh1","type":"function",
    "function":{"name":"f","arguments":{"x":1}}}]}"#;
const RESULT: &str = r#"{"tool_call_id":"abcdefgh1"}"#;

/// A question, a call, its result.
fn asked() -> (Vec<ChatMessage>, Dialog) {
    let messages =
        vec![say(Role::User, "Hi"), say(Role::Assistant, ""), say(Role::Tool, "the result")];
    let dialog = Dialog {
        tools: Some(TOOLS.to_owned()),
        message_fields: vec![(1, CALLS.to_owned()), (2, RESULT.to_owned())],
        ..Dialog::default()
    };
    (messages, dialog)
}

/// The prompt after a call and its result, with these parts in this order.
#[track_caller]
fn check(source: &str, format: ToolFormat, expect: &[&str]) {
    let template = template(source);
    assert_eq!(template.tool_format(), format);
    let (messages, dialog) = asked();
    let rendered = template.render_dialog(&messages, &dialog, PROMPT).unwrap();
    let mut rest = rendered.as_str();
    for part in expect {
        let Some((_, after)) = rest.split_once(*part) else {
            panic!("no {part:?} in {rest:?} of {rendered}")
        };
        rest = after;
    }
    assert_eq!(rest, "", "of {rendered}");
}

#[test]
fn hermes_and_llama_are_left_to_their_templates() {
    check(
        QWEN,
        ToolFormat::Hermes,
        &[
            "# Tools\n<tools>\n{\"type\": \"function\", \"function\": {\"name\": \"f\"",
            "<|im_start|>assistant\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n</tool_call><|im_end|>\n",
            "<|im_start|>user\n<tool_response>\nthe result\n</tool_response><|im_end|>\n",
            "<|im_start|>assistant\n",
        ],
    );
    check(
        LLAMA,
        ToolFormat::Llama,
        &[
            "\"name\": \"f\"",
            "\n\nHi<|eot_id|>",
            "{\"name\": \"f\", \"parameters\": {\"x\": 1}}<|eot_id|>",
            "<|start_header_id|>ipython<|end_header_id|>\n\n\"the result\"<|eot_id|>",
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ],
    );
}

#[test]
fn mistral_is_left_to_its_templates() {
    check(
        MISTRAL_V3,
        ToolFormat::Mistral,
        &[
            "<s>[AVAILABLE_TOOLS] [{\"type\": \"function\"",
            "[/AVAILABLE_TOOLS][INST] Hi[/INST]",
            "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"x\": 1}, \"id\": \"abcdefgh1\"}]</s>",
            "[TOOL_RESULTS] {\"content\": the result, \"call_id\": \"abcdefgh1\"}[/TOOL_RESULTS]",
        ],
    );
    check(
        MISTRAL_V11,
        ToolFormat::MistralArgs,
        &[
            "[INST]Hi[/INST]",
            "[TOOL_CALLS]f[CALL_ID]abcdefgh1[ARGS]{\"x\": 1}</s>",
            "[TOOL_RESULTS]abcdefgh1[TOOL_CONTENT]the result[/TOOL_RESULTS]",
        ],
    );
}

#[test]
fn granite_is_given_the_calls_that_its_templates_drop() {
    let calls = "<|tool_call|>[{\"name\":\"f\",\"arguments\":{\"x\":1}}]<|end_of_text|>\n";
    check(
        GRANITE,
        ToolFormat::Granite,
        &[
            "Today's Date: January 01, 2026. Respond with <|tool_call|>",
            "<|start_of_role|>tools<|end_of_role|>[\n",
            "<|start_of_role|>user<|end_of_role|>Hi<|end_of_text|>\n",
            &format!("<|start_of_role|>assistant<|end_of_role|>{calls}"),
            "<|start_of_role|>tool<|end_of_role|>the result<|end_of_text|>\n",
            "<|start_of_role|>assistant<|end_of_role|>",
        ],
    );
    check(
        GRANITE_30,
        ToolFormat::Granite,
        &[
            "<|start_of_role|>available_tools<|end_of_role|>\n",
            "<|start_of_role|>user<|end_of_role|>Hi<|end_of_text|>\n",
            &format!("<|start_of_role|>assistant<|end_of_role|>{calls}"),
            "<|start_of_role|>tool_response<|end_of_role|>the result<|end_of_text|>\n",
            "<|start_of_role|>assistant<|end_of_role|>\n",
        ],
    );
}

#[test]
fn phi_is_given_its_tools_beside_the_system_message() {
    let functions = "<|tool|>[{\"name\":\"f\",\"description\":\"Looks.\",\"parameters\":{\"type\":\"object\",\
                     \"properties\":{\"x\":{\"type\":\"integer\"}}}}]<|/tool|><|end|>";
    let calls = "<|tool_call|>[{\"name\":\"f\",\"arguments\":{\"x\":1}}]<|/tool_call|>";
    check(
        PHI,
        ToolFormat::Phi,
        &[
            &format!("<|system|>You are a helpful assistant with some tools.{functions}"),
            "<|user|>Hi<|end|>",
            &format!("<|assistant|>{calls}<|end|>"),
            "<|tool|>the result<|end|><|assistant|>",
        ],
    );
    let messages = [say(Role::System, "Be brief."), say(Role::User, "Hi")];
    let dialog = Dialog { tools: Some(TOOLS.to_owned()), ..Dialog::default() };
    let rendered = template(PHI).render_dialog(&messages, &dialog, PROMPT).unwrap();
    assert_eq!(rendered, format!("<|system|>Be brief.{functions}<|user|>Hi<|end|><|assistant|>"));
}

const CALLED: &str = "<tool_call>\n{\"name\":\"f\",\"arguments\":{\"x\":1}}\n</tool_call>";
const ANSWERED: &str = "<tool_response>\nthe result\n</tool_response>";

#[test]
fn templates_without_tools_are_given_words() {
    check(
        GEMMA_2,
        ToolFormat::Hermes,
        &[
            "<s><start_of_turn>user\nYou can call functions.",
            "<tools>\n{\"type\":\"function\"",
            "\n\nHi<end_of_turn>\n",
            &format!("<start_of_turn>model\n{CALLED}<end_of_turn>\n"),
            &format!("<start_of_turn>user\n{ANSWERED}<end_of_turn>\n<start_of_turn>model\n"),
        ],
    );
    check(
        MISTRAL_SMALL,
        ToolFormat::Hermes,
        &[
            "<s>[SYSTEM_PROMPT]You can call functions.",
            "[/SYSTEM_PROMPT][INST]Hi[/INST]",
            &format!("{CALLED}</s>[INST]{ANSWERED}[/INST]"),
        ],
    );
    // It mentions tools, and shows none.
    let raises = "{% if tools is not none %}{{ raise_exception('no tools') }}{% endif %}\
                  {% for message in messages %}{{ message.role + ':' + message.content + ';' }}{% endfor %}";
    check(
        raises,
        ToolFormat::Hermes,
        &["system:You can call functions.", ";user:Hi;", CALLED, &format!(";user:{ANSWERED};")],
    );
}

#[test]
fn results_that_follow_each_other_are_one_turn_where_roles_alternate() {
    let (mut messages, mut dialog) = asked();
    messages.extend([say(Role::Tool, "another"), say(Role::User, "And?")]);
    dialog.message_fields.push((3, RESULT.to_owned()));
    let rendered = template(GEMMA_2).render_dialog(&messages, &dialog, PROMPT).unwrap();
    let turn = format!(
        "<start_of_turn>user\n{ANSWERED}\n<tool_response>\nanother\n</tool_response>\nAnd?<end_of_turn>\n"
    );
    assert!(rendered.ends_with(&format!("{turn}<start_of_turn>model\n")), "{rendered}");
    // What has nothing to do with tools is refused as ever.
    let twice = [say(Role::User, "Hi"), say(Role::User, "Ho")];
    let dialog = Dialog { tools: Some(TOOLS.to_owned()), ..Dialog::default() };
    let refused = template(GEMMA_2).render_dialog(&twice, &dialog, PROMPT);
    assert!(matches!(refused, Err(ChatError::Refused { .. })), "{refused:?}");
}

#[test]
fn a_call_after_words_and_a_continued_answer_are_written_out_too() {
    let (mut messages, mut dialog) = asked();
    messages[1].content = "Let me see.".to_owned();
    messages.push(say(Role::Assistant, "It is <"));
    dialog.continues_last = true;
    let rendered = template(GEMMA_2).render_dialog(&messages, &dialog, PROMPT).unwrap();
    assert!(rendered.contains(&format!("model\nLet me see.\n{CALLED}")), "{rendered}");
    assert!(rendered.ends_with(&format!("{ANSWERED}<end_of_turn>\n<start_of_turn>model\nIt is <")));
}

/// What a grammar makes of a format is what its parser reads.
#[test]
fn required_calls_are_read() {
    let tools = TOOLS.replacen('[', r#"[{"type":"function","function":{"name":"g"}},"#, 1);
    let formats = [
        ToolFormat::Hermes,
        ToolFormat::Llama,
        ToolFormat::Mistral,
        ToolFormat::MistralArgs,
        ToolFormat::Granite,
        ToolFormat::Phi,
    ];
    for format in formats {
        let form = format.calls(&tools, &MustCall::Any, true).unwrap();
        let body = |name: &str| match format {
            ToolFormat::MistralArgs => "{}".to_owned(),
            ToolFormat::Llama => format!("{{\"name\": \"{name}\", \"parameters\": {{}}}}"),
            _ => format!("{{\"name\": \"{name}\", \"arguments\": {{}}}}"),
        };
        let begin = form.others.first().map_or(&*form.begin, |(begin, _)| begin.as_str());
        let text = format!(
            "{}{}{}{}{}{begin}{}{}{}",
            form.open,
            form.begin,
            body("g"),
            form.end,
            form.between,
            body("f"),
            form.end,
            form.close
        );
        let mut parser = ToolCallParser::new(format, vec!["f".into(), "g".into()]);
        let mut parts = parser.push(&text);
        parts.extend(parser.finish());
        let begun: Vec<&str> = parts.iter().filter_map(begun).collect();
        assert_eq!(begun, ["g", "f"], "of {text}");
        assert!(
            !parts.iter().any(|part| matches!(part, lm_chat::AnswerPart::Text(_))),
            "{parts:?}"
        );
        let marks = format.marks();
        assert!(marks.is_empty() || marks.iter().any(|mark| text.contains(*mark)), "{text}");
    }
}

fn begun(part: &lm_chat::AnswerPart) -> Option<&str> {
    match part {
        lm_chat::AnswerPart::CallBegins { name, .. } => Some(name),
        _ => None,
    }
}

#[test]
fn a_chat_without_tools_is_as_it_was() {
    let chat = [say(Role::User, "Hi")];
    let undated = RenderOptions { now_unix_s: None, ..PROMPT };
    for source in [GEMMA_2, GRANITE_30, LLAMA, MISTRAL_V3, MISTRAL_V11, PHI, QWEN] {
        let rendered = template(source).render(&chat, undated).unwrap();
        assert!(rendered.contains("Hi") && !rendered.contains("tools"), "{rendered}");
    }
}
