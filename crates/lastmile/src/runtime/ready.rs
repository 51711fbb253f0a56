//! From requests to running answers, in two steps: what is tokenised need not be computed.
//!
//! It must never wait for the engine.
//!
//! Start reading at [`Runtime::ready`].

use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use lm_chat::ChatTemplate;
use lm_engine::{NewSubmission, ServedAdapter, output_pair};
use lm_types::{GenerateError, GenerateRequest, Prompt, ReasoningStart, ReleaseHash, TokenId};

use super::{Running, Runtime};
use crate::prepare::{Prepared, prepare, unix_s};
use crate::{GenerateStream, thinking};

/// A request that was validated and tokenised for one runtime, and that nobody computes yet.
#[derive(Debug)]
pub struct ReadyRequest {
    request: Arc<GenerateRequest>,
    prepared: Prepared,
    adapter: Option<Arc<ServedAdapter>>,
    arrived_at: SystemTime,
    release: ReleaseHash,
    model: String,
}

impl ReadyRequest {
    /// What was asked.
    #[must_use]
    pub fn request(&self) -> &Arc<GenerateRequest> {
        &self.request
    }

    /// The prompt's tokens, with those that an override has answers begin with.
    #[must_use]
    pub fn prompt_tokens(&self) -> &[TokenId] {
        &self.prepared.prompt
    }

    /// How many tokens each answer may have.
    #[must_use]
    pub fn max_new_tokens(&self) -> usize {
        self.prepared.max_new_tokens
    }

    /// Where its answers begin, and whether they think first whatever would be drawn; `None` when they are told as they
    /// are. The prompt's tokens do not tell.
    #[must_use]
    pub fn thinks(&self) -> Option<(ReasoningStart, bool)> {
        self.prepared.thinking.as_ref().map(|plan| (plan.start, !plan.open.is_empty()))
    }

    /// What was changed about the request.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.prepared.warnings
    }

    /// What would produce its answers: the model, or the model with an adapter.
    #[must_use]
    pub fn release(&self) -> ReleaseHash {
        self.release
    }

    /// The name of that, as served.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.model
    }

    /// When it arrived, by the wall clock.
    #[must_use]
    pub fn arrived_at(&self) -> SystemTime {
        self.arrived_at
    }

    /// What was asked, and the prompt's tokens.
    #[must_use]
    pub fn into_parts(self) -> (GenerateRequest, Vec<TokenId>) {
        (Arc::unwrap_or_clone(self.request), self.prepared.prompt)
    }
}

impl Runtime {
    /// Validates and tokenises requests, all or none, on the caller's thread. Nothing is computed.
    ///
    /// # Errors
    /// What refuses the first of them that is refused; it is recorded as a refusal.
    pub fn ready(
        &self,
        requests: Vec<GenerateRequest>,
    ) -> Result<Vec<ReadyRequest>, GenerateError> {
        let arrived_at = SystemTime::now();
        let settled = |one| {
            let mut one = self.dated(one, arrived_at);
            thinking::say_opening(&mut one, self.template.as_ref());
            Arc::new(one)
        };
        let requests: Vec<_> = requests.into_iter().map(settled).collect();
        let ready = self.all_ready(&requests, arrived_at);
        ready.inspect_err(|error| self.count_refusal(requests.first(), arrived_at, error))
    }

    /// Starts what [`Runtime::ready`] of this runtime gave, all or none: one entry for each, as from
    /// [`Runtime::generate`].
    ///
    /// # Errors
    /// As of [`Runtime::generate_all`].
    pub fn start_ready(
        &self,
        all: Vec<ReadyRequest>,
    ) -> Result<Vec<Vec<GenerateStream>>, GenerateError> {
        let first = all.first().map(|one| (Arc::clone(&one.request), one.arrived_at));
        self.submit(all).inspect_err(|error| {
            let (request, arrived_at) =
                first.as_ref().map_or((None, SystemTime::now()), |one| (Some(&one.0), one.1));
            self.count_refusal(request, arrived_at, error);
        })
    }

    /// A chat whose template prints the date carries it, so that it is the same whenever it is computed again.
    fn dated(&self, mut request: GenerateRequest, arrived_at: SystemTime) -> GenerateRequest {
        let prints_date = self.template.as_ref().is_some_and(ChatTemplate::needs_now);
        if prints_date && matches!(request.prompt, Prompt::Chat(_)) {
            request.dialog.now_unix_s.get_or_insert_with(|| unix_s(arrived_at));
        }
        request
    }

    fn count_refusal(
        &self,
        request: Option<&Arc<GenerateRequest>>,
        arrived_at: SystemTime,
        error: &GenerateError,
    ) {
        self.stats.count_failed(error);
        if let Some(request) = request {
            self.record_refusal(request, arrived_at, error);
        }
    }

    fn all_ready(
        &self,
        requests: &[Arc<GenerateRequest>],
        arrived_at: SystemTime,
    ) -> Result<Vec<ReadyRequest>, GenerateError> {
        if self.info.encoder.is_some() {
            let name = &self.info.name;
            let message = format!(
                "model is '{name}', an encoder: it turns texts into vectors or labels, and writes none"
            );
            return Err(GenerateError::InvalidField { field: "model", message });
        }
        let materials = self.materials();
        let (mut all, mut n_answers) = (Vec::new(), 0);
        for request in requests {
            let prepared = prepare(request, &materials)?;
            let adapter = self.adapters.of_request(request.adapter.as_deref())?;
            let (model, release) = match &adapter {
                Some(adapter) => (adapter.served_by.model.clone(), adapter.served_by.release),
                None => (self.info.name.clone(), self.info.release_hash),
            };
            let request = Arc::clone(request);
            n_answers += request.n as usize;
            all.push(ReadyRequest { request, prepared, adapter, arrived_at, release, model });
            // Checked on the way, so that memory is bounded by the queue and not by the request.
            if n_answers > self.max_queued {
                let limit = self.max_queued;
                let message =
                    format!("n asks for {n_answers} answers or more, but at most {limit} may wait");
                return Err(GenerateError::InvalidField { field: "n", message });
            }
        }
        Ok(all)
    }

    fn submit(&self, all: Vec<ReadyRequest>) -> Result<Vec<Vec<GenerateStream>>, GenerateError> {
        let vocab_size = self.info.backend.vocab_size;
        let (mut submissions, mut streams) = (Vec::new(), Vec::new());
        for ReadyRequest { request, prepared, adapter, arrived_at, .. } in all {
            let mut grammars = self.grammars.states(&request, &self.tokenizer, vocab_size)?;
            let choices = (0..request.n).map(|choice| {
                let (output, reader) = output_pair(prepared.max_new_tokens);
                submissions.push(NewSubmission {
                    request: Arc::clone(&request),
                    choice,
                    prompt: prepared.prompt.clone(),
                    max_new_tokens: prepared.max_new_tokens,
                    stop: prepared.stop.clone(),
                    grammar: grammars.pop(),
                    processors: prepared.processors.clone(),
                    thinking: prepared.thinking.clone(),
                    arrived_at,
                    adapter: adapter.clone(),
                    output,
                });
                GenerateStream::new(reader, prepared.warnings.clone(), prepared.prompt.len())
            });
            streams.push(choices.collect());
        }
        let engine = self.engine.read().unwrap_or_else(PoisonError::into_inner);
        match engine.as_ref() {
            Some(Running::Decoder(engine)) => engine.submit(submissions)?,
            Some(Running::Encoder(_)) | None => return Err(GenerateError::ShuttingDown),
        }
        Ok(streams)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use lm_types::{ChatMessage, RequestId, Role};

    use super::*;
    use crate::{ModelSource, RuntimeConfig};

    #[test]
    fn a_chat_carries_the_date_that_its_template_prints() {
        let start = |template: &str| {
            let mut config = RuntimeConfig::new(ModelSource::placeholder("mode=echo").unwrap());
            config.chat_template = Some(template.to_owned());
            Runtime::start(config).unwrap()
        };
        let chat = || {
            let message = ChatMessage { role: Role::User, content: "hi".to_owned() };
            GenerateRequest::new(RequestId(1), Prompt::Chat(vec![message]))
        };
        let dated = start("{{ strftime_now('%F %T') }} {{ messages[0].content }}");
        let ready = dated.ready(vec![chat()]).unwrap().remove(0);
        let arrived_s = unix_s(ready.arrived_at());
        let (request, tokens) = ready.into_parts();
        assert_eq!(request.dialog.now_unix_s, Some(arrived_s));
        let mut old = request.clone();
        let again = dated.ready(vec![request]).unwrap().remove(0);
        assert_eq!(again.prompt_tokens(), tokens, "at another time it is rendered the same");
        old.dialog.now_unix_s = Some(0);
        let old = dated.ready(vec![old]).unwrap().remove(0);
        let text = dated.detokenize(old.prompt_tokens()).unwrap();
        assert!(text.contains("1970-01-01 00:00:00 hi"), "{text}");
        // Who has a date of its own keeps it, and what is recorded says nothing of it.
        let asks = start("{{ strftime_now('%F') if strftime_now is defined else 'built in' }}");
        let ready = asks.ready(vec![chat()]).unwrap().remove(0);
        assert_eq!(ready.request().dialog.now_unix_s, None);
        let text = asks.detokenize(ready.prompt_tokens()).unwrap();
        assert!(text.contains("built in"), "{text}");
    }
}
