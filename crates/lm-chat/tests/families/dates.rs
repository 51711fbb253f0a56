//! Templates that print the date.

use lm_chat::{ChatError, RenderOptions};
use lm_types::Role;

use crate::templates::{GRANITE, MISTRAL_SMALL};
use crate::{PROMPT, say, template};

#[test]
fn templates_that_ask_nobody_are_given_the_date() {
    let chat = [say(Role::User, "Hi")];
    let granite = template(GRANITE);
    assert!(granite.needs_now());
    assert_eq!(
        granite.render(&chat, PROMPT).unwrap(),
        "<|start_of_role|>system<|end_of_role|>Today's Date: January 01, 2026.<|end_of_text|>\n\
         <|start_of_role|>user<|end_of_role|>Hi<|end_of_text|>\n\
         <|start_of_role|>assistant<|end_of_role|>"
    );
    let mistral = template(MISTRAL_SMALL);
    assert!(mistral.needs_now());
    assert_eq!(
        mistral.render(&chat, PROMPT).unwrap(),
        "<s>[SYSTEM_PROMPT]The current date is 2026-01-01.[/SYSTEM_PROMPT][INST]Hi[/INST]"
    );
    let undated = RenderOptions { now_unix_s: None, ..PROMPT };
    let error = mistral.render(&chat, undated).unwrap_err();
    assert!(matches!(error, ChatError::Render { .. }), "{error:?}");
}

#[test]
fn templates_that_have_a_date_built_in_need_none() {
    let asks =
        "{% if strftime_now is defined %}{{ strftime_now('%F') }}{% else %}26 Jul 2024{% endif %}";
    assert!(!template(asks).needs_now());
    assert!(!template("{{ messages[0].content }}").needs_now());
}
