//! The form of an answer as JSON, from which the same form can be made again.
//!
//! It must never leave out what decides an answer.
//!
//! Start reading at [`form_to`].

use lm_types::{AnswerForm, CallForm, MayCall};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
pub(super) struct ConstraintRecipe {
    pub(super) field: String,
    pub(super) form: FormRecipe,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FormRecipe {
    JsonObject,
    JsonSchema(String),
    Regex(String),
    Choice(Vec<String>),
    Lark(String),
    Calls(CallRecipe),
    MayCall { calls: CallRecipe, marker: String, otherwise: Option<Box<FormRecipe>> },
}

#[derive(Serialize, Deserialize)]
pub(super) struct CallRecipe {
    schema: String,
    open: String,
    begin: String,
    end: String,
    between: String,
    close: String,
    max_calls: usize,
    #[serde(default)]
    others: Vec<(String, String)>,
}

/// The fields that may ask for a form; errors name them.
pub(super) const FORM_FIELDS: [&str; 10] = [
    "response_format",
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "tool_choice",
    "tools",
    "parallel_tool_calls",
    "format",
];

pub(super) fn form_to(form: &AnswerForm) -> FormRecipe {
    match form.clone() {
        AnswerForm::JsonObject => FormRecipe::JsonObject,
        AnswerForm::JsonSchema(text) => FormRecipe::JsonSchema(text),
        AnswerForm::Regex(text) => FormRecipe::Regex(text),
        AnswerForm::Choice(texts) => FormRecipe::Choice(texts),
        AnswerForm::Lark(text) => FormRecipe::Lark(text),
        AnswerForm::Calls(calls) => FormRecipe::Calls(calls_to(calls)),
        AnswerForm::MayCall(MayCall { calls, marker, otherwise }) => FormRecipe::MayCall {
            calls: calls_to(calls),
            marker: marker.into_owned(),
            otherwise: otherwise.map(|form| Box::new(form_to(&form))),
        },
    }
}

fn calls_to(calls: CallForm) -> CallRecipe {
    CallRecipe {
        schema: calls.schema,
        open: calls.open.into_owned(),
        begin: calls.begin.into_owned(),
        end: calls.end.into_owned(),
        between: calls.between.into_owned(),
        close: calls.close.into_owned(),
        max_calls: calls.max_calls,
        others: calls.others,
    }
}

pub(super) fn form_from(form: FormRecipe) -> AnswerForm {
    match form {
        FormRecipe::JsonObject => AnswerForm::JsonObject,
        FormRecipe::JsonSchema(text) => AnswerForm::JsonSchema(text),
        FormRecipe::Regex(text) => AnswerForm::Regex(text),
        FormRecipe::Choice(texts) => AnswerForm::Choice(texts),
        FormRecipe::Lark(text) => AnswerForm::Lark(text),
        FormRecipe::Calls(calls) => AnswerForm::Calls(calls_from(calls)),
        FormRecipe::MayCall { calls, marker, otherwise } => AnswerForm::MayCall(MayCall {
            calls: calls_from(calls),
            marker: marker.into(),
            otherwise: otherwise.map(|form| Box::new(form_from(*form))),
        }),
    }
}

fn calls_from(calls: CallRecipe) -> CallForm {
    CallForm {
        schema: calls.schema,
        open: calls.open.into(),
        begin: calls.begin.into(),
        end: calls.end.into(),
        between: calls.between.into(),
        close: calls.close.into(),
        max_calls: calls.max_calls,
        others: calls.others,
    }
}
