//! A recorded answer, computed again and compared token by token.
//!
//! It must never compare a stored text with a stored text: every verdict is of tokens that were drawn now.
//!
//! Start reading at [`Recorded`], then [`Recorded::verdict`].

use lastmile::{
    AdapterInfo, ChatMessage, FinishReason, GenerateError, GenerateEvent, GenerateRequest,
    GenerateStream, ModelInfo, Prompt, RequestId, Role, Runtime, TokenId,
};
use lm_recorder::Flight;
use lm_store::recipe::{self, RecipeError};
use lm_store::{Reader, RecordedAnswer, RecordedRelease, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One request with its answers and what produced them: what the store keeps, and what a bundle holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bundle {
    /// The version of this form.
    pub lastmile_bundle: u32,
    /// The request, a UUID.
    pub id: String,
    /// Its answers, by choice.
    pub answers: Vec<RecordedAnswer>,
    /// What produced them.
    pub releases: Vec<RecordedRelease>,
}

/// One answer that can be computed again.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// The request.
    pub id: RequestId,
    /// Which of its answers.
    pub choice: u32,
    /// What produced it.
    pub release: RecordedRelease,
    /// What was asked, for this answer alone.
    pub request: GenerateRequest,
    /// The prompt's tokens.
    pub prompt_tokens: Vec<TokenId>,
    /// What was answered.
    pub output_tokens: Vec<TokenId>,
    /// Whether it ended by itself: then nothing may follow.
    pub is_whole: bool,
}

/// What became of computing an answer again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// Every token is the same, and so is the end.
    Identical {
        /// Tokens that were compared.
        n_tokens: usize,
    },
    /// Another token was drawn.
    Diverged {
        /// The first that differs, from 0.
        at: usize,
        /// What is recorded; `None` when the recorded answer ended here.
        expected: Option<TokenId>,
        /// What was drawn; `None` when the answer ended here.
        got: Option<TokenId>,
    },
}

impl Verdict {
    /// Whether nothing differs.
    #[must_use]
    pub fn is_identical(&self) -> bool {
        matches!(self, Verdict::Identical { .. })
    }
}

/// Something that answers depend on, and that is not as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Factor {
    /// `seed`, `system_prompt`, or the name of a release's fact.
    pub name: String,
    /// As it was.
    pub recorded: String,
    /// As it is.
    pub here: String,
}

/// Why an answer cannot be computed again.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The recorded request.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// It is not there.
    #[error("request {id} is not stored: it still runs, was erased, or was answered elsewhere")]
    NotStored {
        /// The request.
        id: String,
    },
    /// Its release is not there.
    #[error("release {hash} is not stored")]
    NoRelease {
        /// Its digest.
        hash: String,
    },
    /// It has no such answer.
    #[error("request {id} has no answer {choice}")]
    NoChoice {
        /// The request.
        id: String,
        /// Which answer.
        choice: u32,
    },
    /// What it is computed from was not kept.
    #[error(
        "{what} of request {id} was not kept (privacy off, erased, redacted, or an older version)"
    )]
    NotKept {
        /// What is missing.
        what: &'static str,
        /// The request.
        id: String,
    },
    /// The form of a bundle is of another version.
    #[error("the bundle is of version {found}, and this program reads version {known}")]
    BundleVersion {
        /// Its version.
        found: u32,
        /// What is read.
        known: u32,
    },
    /// Somebody ended it.
    #[error("it was ended before it was computed")]
    Ended,
    /// The engine refused or failed.
    #[error(transparent)]
    Generate(#[from] GenerateError),
}

const BUNDLE_VERSION: u32 = 1;

impl Bundle {
    /// What the store keeps of a request.
    ///
    /// # Errors
    /// `NotStored`; why the store could not be read.
    pub fn read(reader: &Reader, id: RequestId) -> Result<Self, ReplayError> {
        let answers = reader.recorded(id)?;
        if answers.is_empty() {
            return Err(ReplayError::NotStored { id: id.to_string() });
        }
        let mut hashes: Vec<&str> = answers.iter().map(|a| a.release_hash.as_str()).collect();
        hashes.dedup();
        let mut releases = Vec::new();
        for hash in hashes {
            releases.extend(reader.release(hash)?);
        }
        let (lastmile_bundle, id) = (BUNDLE_VERSION, id.to_string());
        Ok(Bundle { lastmile_bundle, id, answers, releases })
    }

    /// What a crash interrupted, one bundle for each request that had drawn a token. Releases are those of
    /// the store.
    ///
    /// # Errors
    /// Why the store could not be read.
    pub fn of_crash(flight: &Flight, reader: &Reader) -> Result<Vec<Self>, ReplayError> {
        let mut all: Vec<Bundle> = Vec::new();
        for one in flight.in_flight.iter().filter(|one| one.n_tokens > 0) {
            let answer = RecordedAnswer {
                choice: one.choice,
                release_hash: one.release.clone(),
                prompt: one.prompt.clone(),
                recipe: one.recipe.clone(),
                prompt_tokens: one.prompt_tokens.clone(),
                output_tokens: (one.tokens.len() == one.n_tokens).then(|| one.tokens.clone()),
                finish_reason: None,
                error_code: None,
                timeline: None,
            };
            match all.iter_mut().find(|bundle| bundle.id == one.id) {
                Some(bundle) => bundle.answers.push(answer),
                None => all.push(Bundle {
                    lastmile_bundle: BUNDLE_VERSION,
                    id: one.id.clone(),
                    answers: vec![answer],
                    releases: reader.release(&one.release)?.into_iter().collect(),
                }),
            }
        }
        Ok(all)
    }

    /// Without any text, and without the tokens that spell one: times, numbers and releases are left.
    pub fn redact(&mut self) {
        for answer in &mut self.answers {
            (answer.prompt, answer.recipe) = (None, None);
            (answer.prompt_tokens, answer.output_tokens) = (None, None);
        }
        for release in &mut self.releases {
            release.how = None;
        }
    }

    /// The answers that can be computed again; of one choice where it is given.
    ///
    /// # Errors
    /// What is missing.
    pub fn recorded(&self, choice: Option<u32>) -> Result<Vec<Recorded>, ReplayError> {
        if self.lastmile_bundle != BUNDLE_VERSION {
            let (found, known) = (self.lastmile_bundle, BUNDLE_VERSION);
            return Err(ReplayError::BundleVersion { found, known });
        }
        let wanted = |answer: &&RecordedAnswer| choice.is_none_or(|one| one == answer.choice);
        let answers = self.answers.iter().filter(wanted);
        let all: Vec<_> = answers.map(|answer| self.one(answer)).collect::<Result<_, _>>()?;
        match (all.is_empty(), choice) {
            (true, Some(choice)) => Err(ReplayError::NoChoice { id: self.id.clone(), choice }),
            _ => Ok(all),
        }
    }

    fn one(&self, answer: &RecordedAnswer) -> Result<Recorded, ReplayError> {
        let missing = |what| ReplayError::NotKept { what, id: self.id.clone() };
        let id: RequestId =
            self.id.parse().map_err(|_| ReplayError::NotStored { id: self.id.clone() })?;
        let mut releases = self.releases.iter();
        let release = releases.find(|release| release.hash == answer.release_hash);
        let prompt = answer.prompt.as_ref().ok_or_else(|| missing("the prompt"))?;
        let recipe = answer.recipe.as_ref().ok_or_else(|| missing("the recipe"))?;
        let mut request = recipe::from_json(id, prompt, recipe)?;
        // Choice `i` of `n` draws with seed `seed + i`.
        request.sampling.seed = request.sampling.seed.wrapping_add(u64::from(answer.choice));
        request.n = 1;
        let reason = answer.finish_reason.as_deref();
        Ok(Recorded {
            id,
            choice: answer.choice,
            release: release
                .cloned()
                .ok_or_else(|| ReplayError::NoRelease { hash: answer.release_hash.clone() })?,
            request,
            prompt_tokens: answer
                .prompt_tokens
                .clone()
                .ok_or_else(|| missing("the prompt's tokens"))?,
            output_tokens: answer
                .output_tokens
                .clone()
                .ok_or_else(|| missing("the answer's tokens"))?,
            is_whole: matches!(reason, Some("stop" | "length")),
        })
    }
}

impl Recorded {
    /// Starts computing `request`, which is the recorded one or a variant of it.
    ///
    /// # Errors
    /// The request is refused here.
    pub fn begin(
        runtime: &Runtime,
        request: &GenerateRequest,
    ) -> Result<GenerateStream, ReplayError> {
        Ok(runtime.generate(request.clone())?.remove(0))
    }

    /// Compares what is being computed with what is recorded; ends it at the first difference.
    ///
    /// # Errors
    /// The answer fails here.
    pub fn verdict(&self, stream: GenerateStream) -> Result<Verdict, ReplayError> {
        let expected = &self.output_tokens;
        let mut at = 0;
        for event in stream {
            match event {
                GenerateEvent::Delta { tokens, .. } => {
                    for got in tokens {
                        match expected.get(at) {
                            Some(token) if *token == got => at += 1,
                            None if !self.is_whole => break,
                            other => {
                                let (expected, got) = (other.copied(), Some(got));
                                return Ok(Verdict::Diverged { at, expected, got });
                            }
                        }
                    }
                    if !self.is_whole && at == expected.len() {
                        break;
                    }
                }
                GenerateEvent::Finished(finish) if finish.reason == FinishReason::Abort => {
                    return Err(ReplayError::Ended);
                }
                GenerateEvent::Prompt { .. } | GenerateEvent::Finished(_) => {}
                GenerateEvent::Failed(error) => return Err(error.into()),
            }
        }
        Ok(match expected.get(at) {
            None => Verdict::Identical { n_tokens: at },
            Some(token) => Verdict::Diverged { at, expected: Some(*token), got: None },
        })
    }

    /// What of the release that computes now, with an adapter where the request has one, is not as it was.
    #[must_use]
    pub fn differences(&self, here: &ModelInfo, adapter: Option<&AdapterInfo>) -> Vec<Factor> {
        let release = adapter.map_or(&here.release, |adapter| &adapter.release);
        let recorded = |name: &str| {
            let fact = self.release.facts.get(name).and_then(Value::as_str);
            fact.unwrap_or("unknown").to_owned()
        };
        let facts = release.facts.iter();
        let factors = facts.map(|(name, value)| Factor {
            name: (*name).to_owned(),
            recorded: recorded(name),
            here: value.clone(),
        });
        factors.filter(|factor| factor.recorded != factor.here).collect()
    }

    /// The request with another system prompt.
    #[must_use]
    pub fn with_system(&self, text: &str) -> Option<GenerateRequest> {
        let mut request = self.request.clone();
        let Prompt::Chat(messages) = &mut request.prompt else { return None };
        let system = ChatMessage { role: Role::System, content: text.to_owned() };
        match messages.first_mut() {
            Some(first) if first.role == Role::System => *first = system,
            _ => {
                messages.insert(0, system);
                for (i, _) in &mut request.dialog.message_fields {
                    *i += 1;
                }
            }
        }
        Some(request)
    }

    /// The system prompt; empty when there is none.
    #[must_use]
    pub fn system(&self) -> &str {
        match &self.request.prompt {
            Prompt::Chat(messages) => match messages.first() {
                Some(first) if first.role == Role::System => &first.content,
                _ => "",
            },
            _ => "",
        }
    }
}
