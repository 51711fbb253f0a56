//! Templates in the manner of known model families, and what they render, to the byte.
#![expect(clippy::unwrap_used, reason = "tests")]

use lm_chat::{ChatError, ChatTemplate, RenderOptions, SpecialTexts};
use lm_types::{ChatMessage, Role};

const PROMPT: RenderOptions = RenderOptions { add_generation_prompt: true, now_unix_s: None };
const WHOLE: RenderOptions = RenderOptions { add_generation_prompt: false, now_unix_s: None };

/// ChatML that begins with a system turn of its own, as SmolLM2's and Qwen2.5's.
const CHATML: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != \
    'system' %}{{ '<|im_start|>system\nYou are helpful<|im_end|>\n' }}{% endif %}{{'<|im_start|>' \
    + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if \
    add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// Headers and trimmed contents, with a date, as Llama 3's.
const LLAMA3: &str = r#"
{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if tools is not none %}{{ raise_exception("no tools") }}{% endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{{- "Today Date: " + date_string + "\n\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"#;

/// The system prompt in the user's turn, strict alternation, and `model` for the assistant, as
/// Gemma's.
const GEMMA: &str = r"{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = '' -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif -%}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else '') }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- endif -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}
";

/// Instructions in brackets, as Mistral's.
const MISTRAL: &str = r#"{{- bos_token }}
{%- set ns = namespace(index=0) %}
{%- for message in messages %}
    {%- if message.role not in ["user", "assistant"] %}
        {{- raise_exception("Only user and assistant roles are supported!") }}
    {%- endif %}
    {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
        {{- raise_exception("roles must alternate") }}
    {%- endif %}
    {%- set ns.index = ns.index + 1 %}
    {%- if message["role"] == "user" %}
        {{- "[INST] " + message["content"] + "[/INST]" }}
    {%- else %}
        {{- " " + message["content"]|trim + eos_token }}
    {%- endif %}
{%- endfor %}
"#;

fn template(source: &str) -> ChatTemplate {
    let tokens = SpecialTexts { bos: "<s>".into(), eos: "</s>".into(), ..SpecialTexts::default() };
    ChatTemplate::new(source, tokens).unwrap()
}

fn say(role: Role, content: &str) -> ChatMessage {
    ChatMessage { role, content: content.to_owned() }
}

/// System, user, assistant, user.
fn conversation() -> Vec<ChatMessage> {
    vec![
        say(Role::System, "Be brief."),
        say(Role::User, " Hi! "),
        say(Role::Assistant, "Hello."),
        say(Role::User, "1 < 2 & 'x'?"),
    ]
}

#[track_caller]
fn check(source: &str, messages: &[ChatMessage], opts: RenderOptions, expect: &str) {
    assert_eq!(template(source).render(messages, opts).as_deref(), Ok(expect));
}

#[track_caller]
fn check_error(source: &str, messages: &[ChatMessage], expect: &ChatError) {
    assert_eq!(template(source).render(messages, PROMPT).as_ref(), Err(expect));
}

#[test]
fn chatml() {
    check(
        CHATML,
        &conversation()[1..2],
        PROMPT,
        "<|im_start|>system\nYou are helpful<|im_end|>\n<|im_start|>user\n Hi! <|im_end|>\n\
         <|im_start|>assistant\n",
    );
    check(
        CHATML,
        &conversation()[..3],
        WHOLE,
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Hi! <|im_end|>\n\
         <|im_start|>assistant\nHello.<|im_end|>\n",
    );
    check(CHATML, &[], PROMPT, "<|im_start|>assistant\n");
}

#[test]
fn the_placeholder_is_chatml_without_a_system_prompt() {
    let rendered = ChatTemplate::placeholder().render(&conversation()[..2], PROMPT).unwrap();
    assert_eq!(
        rendered,
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Hi! <|im_end|>\n\
         <|im_start|>assistant\n"
    );
    assert!(!ChatTemplate::placeholder().begins_with_bos(&rendered));
}

#[test]
fn llama3_prints_the_date_that_it_is_given() {
    let rendered = |date: &str| {
        format!(
            "<s><|start_header_id|>system<|end_header_id|>\n\nToday Date: {date}\n\nBe brief.\
             <|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi!<|eot_id|>\
             <|start_header_id|>assistant<|end_header_id|>\n\n"
        )
    };
    let messages = &conversation()[..2];
    check(LLAMA3, messages, PROMPT, &rendered("26 Jul 2024"));
    let now = RenderOptions { now_unix_s: Some(1_767_225_600), ..PROMPT };
    check(LLAMA3, messages, now, &rendered("01 Jan 2026"));
    assert!(template(LLAMA3).begins_with_bos(&rendered("26 Jul 2024")));
}

#[test]
fn gemma() {
    check(
        GEMMA,
        &conversation(),
        PROMPT,
        "<s><start_of_turn>user\nBe brief.\n\nHi!<end_of_turn>\n<start_of_turn>model\nHello.\
         <end_of_turn>\n<start_of_turn>user\n1 < 2 & 'x'?<end_of_turn>\n<start_of_turn>model\n",
    );
    check_error(
        GEMMA,
        &conversation()[2..],
        &ChatError::Refused {
            message: "Conversation roles must alternate user/assistant/user/assistant/...".into(),
        },
    );
}

#[test]
fn mistral() {
    check(
        MISTRAL,
        &conversation()[1..],
        PROMPT,
        "<s>[INST]  Hi! [/INST] Hello.</s>[INST] 1 < 2 & 'x'?[/INST]",
    );
    check_error(
        MISTRAL,
        &[say(Role::Tool, "42")],
        &ChatError::Refused { message: "Only user and assistant roles are supported!".into() },
    );
}

#[test]
fn developer_becomes_system_only_where_the_template_does_not_know_it() {
    let messages = [say(Role::Developer, "x")];
    check("{{ messages[0].role }}", &messages, PROMPT, "system");
    check("{# developer #}{{ messages[0].role }}", &messages, PROMPT, "developer");
}

#[test]
fn python_in_templates() {
    let one = [say(Role::User, "a<b>\"é\"\n")];
    check("{{ messages[0].content.strip().upper() }}", &one, WHOLE, "A<B>\"É\"");
    check("{{ messages[0].get('name', 'nobody') }}", &one, WHOLE, "nobody");
    check("{{ 'x,y'.split(',')[-1] }}{{ 'abc'[::-1] }}", &one, WHOLE, "ycba");
    check("{{ messages[0].content | tojson }}", &one, WHOLE, r#""a<b>\"é\"\n""#);
    check(
        "{{ {'a': [1, 2.0, none], 'b': true} | tojson }}",
        &one,
        WHOLE,
        r#"{"a": [1, 2.0, null], "b": true}"#,
    );
    check("{{ {'a': [1]} | tojson(indent=2) }}", &one, WHOLE, "{\n  \"a\": [\n    1\n  ]\n}");
    check("{{ none }} {{ true }} {{ 1 == 2 }} {{ missing }}.", &one, WHOLE, "None True False .");
    check(
        "{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}",
        &one,
        WHOLE,
        "01",
    );
    check("{% generation %}x{% endgeneration %}", &one, WHOLE, "x");
    check("{{ tools is none }}{{ unk_token is defined }}", &one, WHOLE, "TrueFalse");
    check("a\n  {% if true %}\n  b\n  {% endif %}\n", &one, WHOLE, "a\n  b\n");
}

#[test]
fn broken_templates_name_the_line() {
    let error = ChatTemplate::new("a\n{% if %}", SpecialTexts::default()).unwrap_err();
    assert!(matches!(error, ChatError::Syntax { line: 2, .. }), "{error:?}");
    let error = template("a\n\n{{ messages[9].content.x }}").render(&[], PROMPT).unwrap_err();
    assert!(matches!(error, ChatError::Render { line: 3, .. }), "{error:?}");
    let source = "x".repeat(ChatTemplate::MAX_SOURCE_BYTES + 1);
    let error = ChatTemplate::new(&source, SpecialTexts::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the chat template has 262145 bytes, but at most 262144 are taken"
    );
}

#[test]
fn hostile_templates_are_stopped() {
    let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
    let steps = ChatError::TooManySteps { limit: ChatTemplate::MAX_STEPS };
    check_error(endless, &[], &steps);
    let bomb = "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(60) %}\
                {% set ns.s = ns.s + ns.s %}{% endfor %}";
    check_error(bomb, &[], &steps);
    check_error("{{ 'x' * 99999999999 }}", &[], &steps);
    let deep = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
    assert!(matches!(template(deep).render(&[], PROMPT), Err(ChatError::Render { .. })));
    let long = vec![say(Role::User, &"x".repeat(1 << 20)); 17];
    let limit = ChatTemplate::MAX_OUTPUT_BYTES;
    check_error(CHATML, &long, &ChatError::OutputTooLong { limit });
}

#[test]
fn threads_share_a_template() {
    let template = template(CHATML);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| template.render(&conversation(), PROMPT).unwrap());
        }
    });
}
