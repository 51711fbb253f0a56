//! Conversations whose last message is to be continued.

use lm_chat::ChatError;
use lm_types::{Dialog, Role};

use crate::{PROMPT, say, template};

const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + \
    message['content'] + '<|im_end|>\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// Contents are trimmed, and the text ends in the middle of nowhere, as Llama 3's.
const TRIMS: &str = "{% for message in messages %}{{ '<|start_header_id|>' + message.role + \
    '<|end_header_id|>\n\n' + message.content | trim + '<|eot_id|>' }}{% endfor %}";

/// An empty message is left out, as many templates do.
const SKIPS: &str = "{% for message in messages %}{% if message.content %}{{ message.role + ':' + \
    message.content.strip() + '</s>' }}{% endif %}{% endfor %}";

#[track_caller]
fn check(source: &str, content: &str, expect: &str) {
    let messages = [say(Role::User, "Hi </s> <|im_end|>"), say(Role::Assistant, content)];
    let dialog = Dialog { continues_last: true, ..Dialog::default() };
    let rendered = template(source).render_dialog(&messages, &dialog, PROMPT).unwrap();
    assert_eq!(rendered, expect, "{content:?}");
}

#[test]
fn what_is_continued_ends_with_its_last_character() {
    let contents = ["<", "|", "end", "", "im_end", "<|", ">", "\u{fdd0}", "I am", "Hi </s>"];
    for content in contents {
        let turn = "<|im_start|>user\nHi </s> <|im_end|><|im_end|>\n<|im_start|>assistant\n";
        check(CHATML, content, &format!("{turn}{content}"));
        let turn = "<|start_header_id|>user<|end_header_id|>\n\nHi </s> <|im_end|><|eot_id|>\
                    <|start_header_id|>assistant<|end_header_id|>\n\n";
        check(TRIMS, content, &format!("{turn}{content}"));
        check(SKIPS, content, &format!("user:Hi </s> <|im_end|></s>assistant:{content}"));
    }
}

#[test]
fn blanks_around_are_the_templates_but_none_are_left_at_the_end() {
    let turn = "<|im_start|>user\nHi </s> <|im_end|><|im_end|>\n<|im_start|>assistant\n";
    check(CHATML, "  I am \n", &format!("{turn}  I am"));
    check(CHATML, " \n", turn);
    check(SKIPS, "  I am \n", "user:Hi </s> <|im_end|></s>assistant:I am");
}

#[test]
fn a_message_that_is_left_out_cannot_be_continued() {
    let messages = [say(Role::User, "Hi"), say(Role::Assistant, "Hi")];
    let dialog = Dialog { continues_last: true, ..Dialog::default() };
    let rendered = template("{{ messages[0].content }}").render_dialog(&messages, &dialog, PROMPT);
    assert_eq!(rendered, Err(ChatError::CannotContinue));
}

#[test]
fn a_template_that_shows_the_message_twice_ends_with_the_last() {
    let source = "{{ messages[-1].content }}/{% for m in messages %}{{ m.content }};{% endfor %}";
    check(source, "x", "x/Hi </s> <|im_end|>;x");
}
