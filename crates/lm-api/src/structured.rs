//! The fields that ask for an answer of a given form: OpenAI's `response_format`, and vLLM's own.
//!
//! It must never compile a grammar: what cannot be enforced is for the runtime to say.
//!
//! Start reading at [`constraint`].

use lastmile::{AnswerForm, Constraint};
use serde_json::Value;

use crate::ApiError;
use crate::error::shown;
use crate::fields::{Fields, Warnings};

/// Takes out every field that asks for a form. At most one may.
pub(crate) fn constraint(
    fields: &mut Fields,
    warnings: &mut Warnings,
    strict: bool,
) -> Result<Option<Constraint>, ApiError> {
    let mut asked: Vec<Constraint> = Vec::new();
    if let Some(value) = fields.take("response_format")
        && let Some(form) = response_format(value, strict, warnings)?
    {
        asked.push(Constraint { field: "response_format", form });
    }
    if let Some(value) = fields.take("structured_outputs") {
        let mut inner = Fields::nested("structured_outputs", value)?;
        let before = asked.len();
        for (kind, name) in ["json", "regex", "choice", "grammar", "json_object"].iter().enumerate()
        {
            if let Some(form) = take_form(&mut inner, kind, name)? {
                asked.push(Constraint { field: "structured_outputs", form });
            }
        }
        if asked.len() == before {
            let wanted = "an object with one of json, regex, choice, grammar, json_object";
            return Err(ApiError::Missing { param: "structured_outputs".to_owned(), wanted });
        }
        inner.finish(strict, warnings)?;
    }
    for (kind, field) in
        ["guided_json", "guided_regex", "guided_choice", "guided_grammar"].into_iter().enumerate()
    {
        if let Some(form) = take_form(fields, kind, field)? {
            asked.push(Constraint { field, form });
        }
    }
    if let [first, second, ..] = asked.as_slice() {
        return Err(ApiError::Conflict {
            param: second.field,
            found: "given".to_owned(),
            other: first.field,
            other_found: "given, too".to_owned(),
            wanted: "an answer has one form",
        });
    }
    Ok(asked.pop())
}

/// One of vLLM's ways: JSON schema, regular expression, choice, grammar, or any object.
fn take_form(fields: &mut Fields, kind: usize, name: &str) -> Result<Option<AnswerForm>, ApiError> {
    let param = fields.path(name);
    Ok(match kind {
        0 => match fields.take(name) {
            Some(Value::String(schema)) => Some(AnswerForm::JsonSchema(schema)),
            Some(schema @ (Value::Object(_) | Value::Bool(_))) => {
                Some(AnswerForm::JsonSchema(schema.to_string()))
            }
            Some(other) => {
                return Err(ApiError::invalid(param, &other, "a JSON schema, or one as text"));
            }
            None => None,
        },
        1 => fields.string(name)?.map(AnswerForm::Regex),
        2 => match fields.take(name) {
            Some(value) => {
                let texts = value.as_array().filter(|list| !list.is_empty()).and_then(|list| {
                    list.iter().map(|text| text.as_str().map(str::to_owned)).collect()
                });
                let wanted = "an array of at least 1 string";
                Some(AnswerForm::Choice(
                    texts.ok_or_else(|| ApiError::invalid(param, &value, wanted))?,
                ))
            }
            None => None,
        },
        3 => fields.string(name)?.map(AnswerForm::Lark),
        _ => fields.boolean(name)?.filter(|&asks| asks).map(|_| AnswerForm::JsonObject),
    })
}

/// OpenAI's `response_format`; also what the Responses API calls `text.format`.
pub(crate) fn response_format(
    value: Value,
    strict: bool,
    warnings: &mut Warnings,
) -> Result<Option<AnswerForm>, ApiError> {
    let mut fields = Fields::nested("response_format", value)?;
    let wanted = "text, json_object or json_schema";
    let param = fields.path("type");
    let kind = fields.string("type")?;
    let form = match kind.as_deref() {
        Some("text") => None,
        Some("json_object") => Some(AnswerForm::JsonObject),
        Some("json_schema") => {
            let param = fields.path("json_schema");
            let wanted = "an object with name and schema";
            let value = fields.take("json_schema");
            let mut named = Fields::nested(
                &param,
                value.ok_or(ApiError::Missing { param: param.clone(), wanted })?,
            )?;
            // A schema is enforced in any case, so `strict` asks for nothing more.
            named.boolean("strict")?;
            named.string("name")?;
            named.string("description")?;
            let param = named.path("schema");
            let schema =
                named.take("schema").ok_or(ApiError::Missing { param, wanted: "a JSON schema" })?;
            named.finish(strict, warnings)?;
            Some(AnswerForm::JsonSchema(schema.to_string()))
        }
        Some(other) => {
            return Err(ApiError::Unsupported { param, found: shown(&Value::from(other)) });
        }
        None => return Err(ApiError::Missing { param, wanted }),
    };
    fields.finish(strict, warnings)?;
    Ok(form)
}
