//! The newest answers with their tokens, in memory: to be continued from any token of them, on the KV that they left.
//!
//! It must never hold more than its bytes, and nothing at all where no texts are kept.
//!
//! Start reading at [`Kept`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lastmile::{
    ChatMessage, GenerateRequest, Observer, Outcome, Prompt, RequestEvent, RequestId, Role,
    SamplingParams, StopRules, TenantId, TokenId,
};
use lm_store::StoredRequest;
use serde_json::Value;

/// Bytes that all take together.
const MAX_BYTES: usize = 64 << 20;

/// The newest answers. Clones share them.
#[derive(Clone, Default)]
pub struct Kept(Arc<Mutex<Answers>>);

#[derive(Default)]
struct Answers {
    by_id: BTreeMap<(RequestId, u32), Arc<KeptAnswer>>,
    /// Oldest first.
    order: VecDeque<(RequestId, u32)>,
    n_bytes: usize,
}

/// An answer with what was asked.
#[derive(Clone, Debug, PartialEq)]
pub struct KeptAnswer {
    /// What was asked.
    pub request: GenerateRequest,
    /// Which of the request's answers this is.
    pub choice: u32,
    /// The model that answered.
    pub model: String,
    /// The answer, what an override put before it included.
    pub text: String,
    /// Its tokens, without those of what was put before it.
    pub tokens: Vec<TokenId>,
}

impl Kept {
    /// An answer, if it is kept.
    #[must_use]
    pub fn get(&self, id: RequestId, choice: u32) -> Option<Arc<KeptAnswer>> {
        self.lock().by_id.get(&(id, choice)).cloned()
    }

    /// Hears of each answer before `observer`.
    #[must_use]
    pub fn observer(&self, observer: Arc<dyn Observer>) -> Arc<dyn Observer> {
        Arc::new(Keeping { kept: self.clone(), observer })
    }

    fn put(&self, event: &RequestEvent) {
        let n_bytes = size_bytes(event);
        if n_bytes > MAX_BYTES {
            return;
        }
        let key = (event.request.id, event.choice);
        let answer = KeptAnswer {
            request: event.request.clone(),
            choice: event.choice,
            model: event.model.clone(),
            text: event.output_text.clone(),
            tokens: event.output_tokens.clone(),
        };
        let mut all = self.lock();
        if all.by_id.insert(key, Arc::new(answer)).is_none() {
            all.order.push_back(key);
            all.n_bytes += n_bytes;
        }
        while all.n_bytes > MAX_BYTES {
            let Some(oldest) = all.order.pop_front() else { break };
            if let Some(gone) = all.by_id.remove(&oldest) {
                all.n_bytes = all.n_bytes.saturating_sub(weight(&gone.request, &gone.text, gone.tokens.len()));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Answers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Keeping {
    kept: Kept,
    observer: Arc<dyn Observer>,
}

impl Observer for Keeping {
    fn record(&self, event: &RequestEvent) {
        if matches!(event.outcome, Outcome::Finished(_)) && !event.output_text.is_empty() {
            self.kept.put(event);
        }
        self.observer.record(event);
    }
}

fn size_bytes(event: &RequestEvent) -> usize {
    weight(&event.request, &event.output_text, event.output_tokens.len())
}

fn weight(request: &GenerateRequest, text: &str, n_tokens: usize) -> usize {
    let prompt = match &request.prompt {
        Prompt::Text(text) => text.len(),
        Prompt::Tokens(tokens) => size_of_val(tokens.as_slice()),
        Prompt::Chat(messages) => messages.iter().map(|m| m.content.len() + 64).sum(),
    };
    let form = request.constraint.as_ref().map_or(0, |asked| asked.form.size_bytes());
    let tokens = n_tokens * size_of::<TokenId>();
    prompt + request.dialog.size_bytes() + form + text.len() + tokens + size_of::<KeptAnswer>() + 256
}

/// An answer as the store has it, without its tokens. `None` when what was asked cannot be known from it: texts were not
/// kept, the template was given more than messages, or the answer had a form.
#[must_use]
pub fn from_store(stored: StoredRequest, choice: u32) -> Option<KeptAnswer> {
    let attempt = stored.attempts.into_iter().find(|attempt| attempt.choice == choice)?;
    let (prompt, params) = (stored.prompt?, stored.params);
    if params["constrained"] == true || params["dialog"] == true {
        return None;
    }
    let number = |name: &str| params[name].as_f64().map(|number| number as f32);
    let count = |name: &str| params[name].as_u64().and_then(|n| u32::try_from(n).ok());
    let mut request = GenerateRequest::new(stored.id, prompt_of(&prompt)?);
    request.sampling = SamplingParams {
        temperature: number("temperature")?,
        top_k: count("top_k")?,
        top_p: number("top_p")?,
        min_p: number("min_p")?,
        repetition_penalty: number("repetition_penalty")?,
        presence_penalty: number("presence_penalty")?,
        frequency_penalty: number("frequency_penalty")?,
        seed: params["seed"].as_u64()?,
        ..SamplingParams::default()
    };
    let strings = |list: &Value| -> Option<Vec<String>> {
        list.as_array()?.iter().map(|one| one.as_str().map(str::to_owned)).collect()
    };
    let ids = params["stop_token_ids"].as_array()?.iter();
    request.stop = StopRules {
        max_tokens: count("max_tokens"),
        min_tokens: 0,
        stop_strings: strings(&prompt["stop"]).unwrap_or_default(),
        stop_token_ids: ids.filter_map(|id| u32::try_from(id.as_u64()?).ok()).collect(),
        ignore_eos: params["ignore_eos"].as_bool()?,
    };
    request.tenant = match &stored.tenant {
        None => TenantId::ANONYMOUS,
        Some(id) => TenantId(u64::from_str_radix(id, 16).ok()?),
    };
    let text = attempt.output_text.filter(|text| !text.is_empty())?;
    Some(KeptAnswer { request, choice, model: stored.model, text, tokens: Vec::new() })
}

fn prompt_of(stored: &Value) -> Option<Prompt> {
    if let Some(text) = stored["text"].as_str() {
        return Some(Prompt::Text(text.to_owned()));
    }
    if let Some(tokens) = stored["tokens"].as_array() {
        let ids = tokens.iter().map(|id| u32::try_from(id.as_u64()?).ok());
        return Some(Prompt::Tokens(ids.collect::<Option<_>>()?));
    }
    let message = |message: &Value| {
        let role = match message["role"].as_str()? {
            "system" => Role::System,
            "user" => Role::User,
            "assistant" => Role::Assistant,
            "tool" => Role::Tool,
            "developer" => Role::Developer,
            _ => return None,
        };
        Some(ChatMessage { role, content: message["content"].as_str()?.to_owned() })
    };
    Some(Prompt::Chat(stored["messages"].as_array()?.iter().map(message).collect::<Option<_>>()?))
}
