//! A request as rules see it: the same of one that comes and of one that is stored, so that a dry run is exact.
//!
//! It must never hold what is not stored of a request.
//!
//! Start reading at [`Subject`].

use std::cell::OnceCell;

use lm_store::{Answered, params_json, priority_text, prompt_json, tenant_text};
use lm_types::{GenerateRequest, Prompt, Role};
use serde_json::{Value, json};

/// A request as rules see it.
pub(crate) struct Subject<'a> {
    pub(crate) route: &'a str,
    /// The model that was asked for, by the name that it is served by.
    pub(crate) model: &'a str,
    /// `None` is who came without a key.
    pub(crate) tenant: Option<String>,
    /// What the user wrote, message by message.
    pub(crate) texts: Vec<&'a str>,
    document: OnceCell<Value>,
    language: OnceCell<Option<&'static str>>,
    source: Source<'a>,
}

enum Source<'a> {
    Coming(&'a GenerateRequest),
    Stored(&'a Answered),
}

impl<'a> Subject<'a> {
    pub(crate) fn coming(request: &'a GenerateRequest, model: &'a str) -> Self {
        let texts = match &request.prompt {
            Prompt::Text(text) => vec![text.as_str()],
            Prompt::Infill { prefix, suffix } => vec![prefix.as_str(), suffix.as_str()],
            Prompt::Tokens(_) => request.steering.change.as_deref().into_iter().collect(),
            Prompt::Chat(messages) => messages
                .iter()
                .filter(|message| message.role == Role::User)
                .map(|message| message.content.as_str())
                .collect(),
        };
        Subject {
            route: request.steering.route,
            model,
            tenant: tenant_text(request.tenant),
            texts,
            document: OnceCell::new(),
            language: OnceCell::new(),
            source: Source::Coming(request),
        }
    }

    /// `None` when its prompt was not kept.
    pub(crate) fn stored(row: &'a Answered) -> Option<Self> {
        let prompt = row.prompt.as_ref()?;
        let mut texts: Vec<&str> =
            ["text", "suffix"].into_iter().filter_map(|name| prompt[name].as_str()).collect();
        let messages = prompt["messages"].as_array().into_iter().flatten();
        let of_user = messages.filter(|message| message["role"] == "user");
        texts.extend(of_user.filter_map(|message| message["content"].as_str()));
        Some(Subject {
            route: row.params["route"].as_str().unwrap_or_default(),
            model: &row.model,
            tenant: row.tenant.clone(),
            texts,
            document: OnceCell::new(),
            language: OnceCell::new(),
            source: Source::Stored(row),
        })
    }

    /// The language of what the user wrote last, as far as it can be told.
    pub(crate) fn language(&self) -> Option<&'static str> {
        *self.language.get_or_init(|| self.texts.last().and_then(|text| lm_data::language_of(text)))
    }

    /// The request as a JSON document: prompt, parameters, `model`, `tenant`, `route`.
    pub(crate) fn document(&self) -> &Value {
        self.document.get_or_init(|| {
            let (prompt, params) = match self.source {
                Source::Coming(request) => {
                    let mut params = params_json(request);
                    params["priority"] = priority_text(request.priority).into();
                    params["n"] = request.n.into();
                    (prompt_json(request), params)
                }
                Source::Stored(row) => {
                    let mut params = row.params.clone();
                    params["priority"] = row.priority.as_str().into();
                    params["n"] = row.n.into();
                    (row.prompt.clone().unwrap_or_default(), params)
                }
            };
            let mut document = json!({ "model": self.model, "tenant": self.tenant });
            for part in [prompt, params] {
                if let (Value::Object(all), Value::Object(part)) = (&mut document, part) {
                    all.extend(part);
                }
            }
            document
        })
    }
}
