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
    /// The route that it came by, and of an edit the one that the edited answer came by.
    pub(crate) routes: [&'a str; 2],
    /// The model that was asked for, by the name that it is served by.
    pub(crate) model: &'a str,
    /// `None` is who came without a key.
    pub(crate) tenant: Option<String>,
    /// What the user wrote, message by message.
    pub(crate) texts: Vec<&'a str>,
    /// The answer that it goes on with, as far as that is given.
    pub(crate) answer: &'a str,
    /// The text that answers go on with for whoever reads them.
    pub(crate) before: &'a str,
    /// What of the prompt is told back.
    pub(crate) told: Vec<&'a str>,
    /// What was written last: in the prompt, and into the answer that it was to.
    last: [Option<&'a str>; 2],
    document: OnceCell<Value>,
    languages: OnceCell<[Option<&'static str>; 2]>,
    source: Source<'a>,
}

enum Source<'a> {
    Coming(&'a GenerateRequest),
    Stored(&'a Answered),
}

impl<'a> Subject<'a> {
    pub(crate) fn coming(request: &'a GenerateRequest, model: &'a str) -> Self {
        let read_as = request.steering.read_as.as_deref();
        let mut texts = match read(request) {
            Prompt::Text(text) => vec![text.as_str()],
            Prompt::Infill { prefix, suffix } => vec![prefix.as_str(), suffix.as_str()],
            Prompt::Tokens(_) => Vec::new(),
            Prompt::Chat(messages) => messages
                .iter()
                .filter(|message| message.role == Role::User)
                .map(|message| message.content.as_str())
                .collect(),
        };
        let changes = read_as.map_or(&[][..], |read_as| read_as.changes.as_slice());
        let told = told_of(request);
        let last = add_changes(&mut texts, changes.iter().map(String::as_str));
        let route = request.steering.route;
        Subject {
            routes: [route, read_as.map_or("", |read_as| read_as.route.as_str())],
            model,
            tenant: tenant_text(request.tenant),
            texts,
            answer: read_as.map_or("", |read_as| read_as.answer.as_str()),
            before: before_of(request),
            told,
            last,
            document: OnceCell::new(),
            languages: OnceCell::new(),
            source: Source::Coming(request),
        }
    }

    /// `None` when its prompt was not kept.
    pub(crate) fn stored(row: &'a Answered) -> Option<Self> {
        let prompt = row.prompt.as_ref()?;
        let said = prompt.get("read_as").unwrap_or(prompt);
        let mut texts: Vec<&str> =
            ["text", "suffix"].into_iter().filter_map(|name| said[name].as_str()).collect();
        let messages = said["messages"].as_array().into_iter().flatten();
        let of_user = messages.filter(|message| message["role"] == "user");
        texts.extend(of_user.filter_map(|message| message["content"].as_str()));
        let changes = said["changes"].as_array().into_iter().flatten();
        let last = add_changes(&mut texts, changes.filter_map(Value::as_str));
        let contents = || said["messages"].as_array().into_iter().flatten();
        let contents = || contents().filter_map(|message| message["content"].as_str());
        let text = said["text"].as_str();
        let before = match (said["answer"].as_str(), text) {
            (Some(answer), _) => answer,
            (None, Some(text)) => text,
            (None, None) => {
                let last = contents().next_back().filter(|_| row.params["continues_last"] == true);
                last.unwrap_or_default().trim_end()
            }
        };
        let tells = row.params["tells_prompt"] == true;
        let route = row.params["route"].as_str().unwrap_or_default();
        Some(Subject {
            routes: [route, said["route"].as_str().unwrap_or_default()],
            model: &row.model,
            tenant: row.tenant.clone(),
            texts,
            answer: said["answer"].as_str().unwrap_or_default(),
            before,
            told: text.into_iter().chain(contents()).filter(|_| tells).collect(),
            last,
            document: OnceCell::new(),
            languages: OnceCell::new(),
            source: Source::Stored(row),
        })
    }

    /// Whether the user wrote last in this language, as far as it can be told: in the prompt, or into the answer.
    pub(crate) fn is_in(&self, language: &str) -> bool {
        let languages = self
            .languages
            .get_or_init(|| self.last.map(|text| text.and_then(lm_data::language_of)));
        languages.contains(&Some(language))
    }

    /// The request as a JSON document: prompt, parameters, `model`, `tenant`, `route`. What tokens are read as stands
    /// there as a prompt would.
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
            let read_as = prompt.get("read_as").cloned().unwrap_or_default();
            for part in [read_as, prompt, params] {
                if let (Value::Object(all), Value::Object(part)) = (&mut document, part) {
                    all.extend(part);
                }
            }
            document
        })
    }
}

/// Puts what was written into an answer behind the texts of the prompt that it was to; gives what was written last into
/// each.
fn add_changes<'a>(
    texts: &mut Vec<&'a str>,
    changes: impl Iterator<Item = &'a str>,
) -> [Option<&'a str>; 2] {
    let in_prompt = texts.last().copied();
    let n_texts = texts.len();
    texts.extend(changes.filter(|change| !change.is_empty()));
    [in_prompt, texts[n_texts..].last().copied()]
}

/// The prompt as it is read.
fn read(request: &GenerateRequest) -> &Prompt {
    let read_as = request.steering.read_as.as_deref();
    read_as.map_or(&request.prompt, |read_as| &read_as.prompt)
}

/// The text that answers go on with for whoever reads them: a raw prompt, or the answer that was begun.
fn before_of(request: &GenerateRequest) -> &str {
    let edited = request.steering.read_as.as_deref().filter(|edited| !edited.route.is_empty());
    match (edited, read(request)) {
        (Some(edited), _) => edited.answer.as_str(),
        (None, Prompt::Text(text) | Prompt::Infill { prefix: text, .. }) => text.as_str(),
        (None, Prompt::Chat(messages)) if request.dialog.continues_last => {
            messages.last().map_or("", |last| last.content.trim_end())
        }
        (None, Prompt::Chat(_) | Prompt::Tokens(_)) => "",
    }
}

/// What of the prompt is told back.
fn told_of(request: &GenerateRequest) -> Vec<&str> {
    match read(request) {
        _ if !request.report.is_wanted() => Vec::new(),
        Prompt::Text(text) | Prompt::Infill { prefix: text, .. } => vec![text.as_str()],
        Prompt::Chat(messages) => messages.iter().map(|one| one.content.as_str()).collect(),
        Prompt::Tokens(_) => Vec::new(),
    }
}
