//! Texts to vectors and labels: what is asked of an encoder, and what comes back.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use lm_backend::EncoderSpec;
use lm_engine::{EncodeReply, EncodeSubmission, EncodeText, Encoded};
use lm_models::Pooling;
use lm_tokenizer::Tokenizer;
use lm_types::{
    GenerateError, GenerateRequest, Priority, Prompt, RequestId, Steering, Task, TenantId, TokenId,
    TraceParent,
};

/// Texts in one request.
const MAX_TEXTS: usize = 4096;
/// What is kept of the texts of a request for the record.
const MAX_RECORDED_BYTES: usize = 64 << 10;

/// Texts for an encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct EncodeRequest {
    /// Chosen by the caller.
    pub id: RequestId,
    /// What is encoded: 1 to 4,096.
    pub texts: Vec<EncoderText>,
    /// What the rows are for.
    pub task: Task,
    /// Whether a text that is too long is cut, and the answer warns of it; else it is an error.
    pub truncate: bool,
    /// Who goes first when there is too little room.
    pub priority: Priority,
    /// On whose behalf.
    pub tenant: TenantId,
    /// How long after its arrival its answer is worth nothing.
    pub deadline: Option<Duration>,
    /// How long it may wait before its first batch.
    pub max_queue: Option<Duration>,
    /// Where its sender's trace stands.
    pub trace: Option<TraceParent>,
}

/// One text for an encoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EncoderText {
    /// A text; the tokens that begin and end one are added.
    Text(String),
    /// Token ids, taken as they are.
    Tokens(Vec<TokenId>),
    /// Two texts that are read together, such as a question and a document.
    Pair(String, String),
}

/// What is known of a loaded encoder besides what all models have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncoderInfo {
    /// The encoder's facts.
    pub spec: EncoderSpec,
    /// How tokens become a vector.
    pub pooling: Pooling,
    /// Whether more than one label may hold.
    pub is_multi_label: bool,
}

/// Rows that are on their way; a future. Dropping it abandons the request.
#[derive(Debug)]
pub struct Encoding {
    reply: EncodeReply,
    warnings: Vec<String>,
}

impl EncodeRequest {
    /// A request with the default parameters.
    #[must_use]
    pub fn new(id: RequestId, task: Task, texts: Vec<EncoderText>) -> Self {
        EncodeRequest {
            id,
            texts,
            task,
            truncate: false,
            priority: Priority::Interactive,
            tenant: TenantId::ANONYMOUS,
            deadline: None,
            max_queue: None,
            trace: None,
        }
    }
}

impl Encoding {
    pub(crate) fn new(reply: EncodeReply, warnings: Vec<String>) -> Self {
        Encoding { reply, warnings }
    }

    /// What was changed: texts that were cut.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Blocks until the rows are there.
    ///
    /// # Errors
    /// The request failed.
    pub fn wait(self) -> Result<Encoded, GenerateError> {
        self.reply.wait()
    }
}

impl Future for Encoding {
    type Output = Result<Encoded, GenerateError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.reply).poll(context)
    }
}

/// `x / |x|`; a vector of zeros stays.
pub fn normalize(x: &mut [f32]) {
    let norm = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    if norm > 0.0 {
        x.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
    }
}

/// The probabilities of labels: that each holds for itself, or that it is the one that does.
#[must_use]
pub fn probabilities(logits: &[f32], is_multi_label: bool) -> Vec<f32> {
    // With one label there is nothing to choose between.
    if is_multi_label || logits.len() == 1 {
        return logits.iter().map(|logit| 1.0 / (1.0 + (-logit).exp())).collect();
    }
    let greatest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exps: Vec<f32> = logits.iter().map(|logit| (logit - greatest).exp()).collect();
    let sum: f32 = exps.iter().sum();
    exps.into_iter().map(|exp| exp / sum).collect()
}

/// Tokenises a request's texts, cutting what is too long where it says so.
pub(crate) fn prepare_texts(
    request: &EncodeRequest,
    tokenizer: &Tokenizer,
    spec: &EncoderSpec,
) -> Result<(EncodeSubmission, Vec<String>), GenerateError> {
    let n = request.texts.len();
    if !(1..=MAX_TEXTS).contains(&n) {
        let message = format!("input has {n} texts, but must have 1 to {MAX_TEXTS}");
        return Err(GenerateError::InvalidField { field: "input", message });
    }
    let (mut texts, mut warnings) = (Vec::with_capacity(n), Vec::new());
    for (i, text) in request.texts.iter().enumerate() {
        let mut encoded = encode(text, tokenizer, spec)?;
        let (len, limit) = (encoded.input_ids.len(), spec.max_model_len);
        if len == 0 {
            return Err(GenerateError::EmptyPrompt);
        }
        if len > limit {
            let too_long = format!("input[{i}] has {len} tokens, but the model reads {limit}");
            let begins_with = request.truncate.then(|| cut_at(text, tokenizer, limit)).flatten();
            let Some((keep, end)) = begins_with else {
                let message = match request.truncate {
                    true => format!("{too_long}, which its first text alone takes"),
                    false => format!("{too_long}: with truncate it is cut"),
                };
                return Err(GenerateError::InvalidField { field: "input", message });
            };
            encoded.input_ids.truncate(keep);
            encoded.input_ids.extend(end);
            let last_type = encoded.token_types.last().copied().unwrap_or_default();
            encoded.token_types.truncate(keep);
            encoded.token_types.resize(encoded.input_ids.len(), last_type);
            warnings.push(format!("{too_long}: it was cut"));
        }
        texts.push(encoded);
    }
    let submission = EncodeSubmission {
        request: Arc::new(recorded(request)),
        task: request.task,
        texts,
        arrived_at: SystemTime::now(),
    };
    Ok((submission, warnings))
}

fn encode(
    text: &EncoderText,
    tokenizer: &Tokenizer,
    spec: &EncoderSpec,
) -> Result<EncodeText, GenerateError> {
    let pair = |first: &str, second: Option<&str>| {
        let encoded = tokenizer.encode_pair(first, second);
        let (input_ids, token_types) = encoded.map_err(|error| GenerateError::InvalidField {
            field: "input",
            message: format!("a text cannot be tokenised: {error}"),
        })?;
        Ok(EncodeText { input_ids, token_types })
    };
    let encoded = match text {
        EncoderText::Text(text) => pair(text, None)?,
        EncoderText::Pair(first, second) => pair(first, Some(second))?,
        EncoderText::Tokens(tokens) => {
            EncodeText { input_ids: tokens.clone(), token_types: vec![0; tokens.len()] }
        }
    };
    let vocab_size = spec.vocab_size;
    match encoded.input_ids.iter().find(|&&id| id as usize >= vocab_size) {
        Some(&token) => Err(GenerateError::UnknownToken { token, vocab_size }),
        None => Ok(encoded),
    }
}

/// How many tokens stay of a text that is cut to `limit`, and those that end it. `None` where the first text of a
/// pair leaves no room for the second.
fn cut_at(
    text: &EncoderText,
    tokenizer: &Tokenizer,
    limit: usize,
) -> Option<(usize, Vec<TokenId>)> {
    let end = match text {
        EncoderText::Tokens(_) => Vec::new(),
        EncoderText::Text(_) | EncoderText::Pair(..) => tokenizer.suffix().to_vec(),
    };
    let keep = limit.checked_sub(end.len())?;
    if let EncoderText::Pair(first, _) = text {
        let first = tokenizer.encode_pair(first, None).ok()?.0;
        if first.len() >= keep {
            return None;
        }
    }
    Some((keep, end))
}

/// The request as it is remembered: its texts as one.
fn recorded(request: &EncodeRequest) -> GenerateRequest {
    let mut joined = String::new();
    for text in &request.texts {
        if joined.len() > MAX_RECORDED_BYTES {
            break;
        }
        if !joined.is_empty() {
            joined.push('\n');
        }
        match text {
            EncoderText::Text(text) => joined.push_str(text),
            EncoderText::Pair(first, second) => {
                joined.push_str(first);
                joined.push('\t');
                joined.push_str(second);
            }
            EncoderText::Tokens(tokens) => joined.push_str(&format!("[{} tokens]", tokens.len())),
        }
    }
    GenerateRequest {
        priority: request.priority,
        tenant: request.tenant,
        deadline: request.deadline,
        max_queue: request.max_queue,
        steering: Steering { trace: request.trace, ..Steering::default() },
        ..GenerateRequest::new(request.id, Prompt::Text(joined).excerpt(MAX_RECORDED_BYTES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_of_one_label_or_of_each() {
        let close = |found: Vec<f32>, expect: &[f32]| {
            assert!(found.iter().zip(expect).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?}");
        };
        close(probabilities(&[0.0, 0.0], false), &[0.5, 0.5]);
        close(probabilities(&[1000.0, 0.0], false), &[1.0, 0.0]);
        close(probabilities(&[0.0, 0.0], true), &[0.5, 0.5]);
        close(probabilities(&[0.0], false), &[0.5]);
        let mut zeros = [0.0; 3];
        normalize(&mut zeros);
        assert_eq!(zeros, [0.0; 3]);
    }
}
