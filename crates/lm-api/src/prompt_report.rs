//! What a response tells of its prompt: `echo` of OpenAI's completions, and `prompt_logprobs` of vLLM.
//!
//! It must never know the vocabulary: tokens arrive with their names.
//!
//! Start reading at [`Told`] (in) and [`ScoredToken`] (out).

use lastmile::PromptReport;
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::ApiError;
use crate::fields::Fields;
use crate::logprobs::finite;
use crate::params::MAX_TOP_LOGPROBS;

/// What a body asks to be told of its prompts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) report: PromptReport,
    pub(crate) echo: bool,
    pub(crate) has_prompt_logprobs: bool,
    has_logprobs: bool,
}

/// A token of a prompt, and what could have stood there: as in vLLM, a map from token id.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredToken {
    /// The prompt's own token first.
    pub candidates: Vec<ScoredCandidate>,
}

/// One candidate.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredCandidate {
    /// Its id.
    pub token: u32,
    /// Its natural log-probability.
    pub logprob: f32,
    /// Tokens that are more likely, and this one.
    pub rank: u32,
    /// Its text.
    pub text: String,
}

impl Told {
    /// Reads `echo` and `prompt_logprobs` of a completion that asks for `logprobs`.
    pub(crate) fn of_completion(
        fields: &mut Fields,
        logprobs: Option<u32>,
    ) -> Result<Told, ApiError> {
        let echo = fields.boolean("echo")?.unwrap_or(false);
        let own = prompt_logprobs(fields)?;
        let echoed = logprobs.filter(|_| echo);
        let report = PromptReport { tokens: echo, logprobs: own.max(echoed) };
        let (has_prompt_logprobs, has_logprobs) = (own.is_some(), echoed.is_some());
        Ok(Told { report, echo, has_prompt_logprobs, has_logprobs })
    }

    /// Reads `prompt_logprobs` of a chat.
    pub(crate) fn of_chat(fields: &mut Fields) -> Result<Told, ApiError> {
        let logprobs = prompt_logprobs(fields)?;
        let report = PromptReport { tokens: false, logprobs };
        Ok(Told { report, has_prompt_logprobs: logprobs.is_some(), ..Told::default() })
    }

    /// A stream has no place for `prompt_logprobs`, and likelihoods of an echo come with the first answer only.
    pub(crate) fn check_stream(self, stream: bool, n: u32) -> Result<(), ApiError> {
        let conflict = |param: &'static str, found: String, wanted| {
            let (other, other_found) = ("stream", "true".to_owned());
            Err(ApiError::Conflict { param, found, other, other_found, wanted })
        };
        match self.report.logprobs {
            Some(top) if stream && self.has_prompt_logprobs => {
                let wanted = "they are part of a whole response only";
                conflict("prompt_logprobs", top.to_string(), wanted)
            }
            Some(_) if stream && self.has_logprobs && n > 1 => {
                let wanted = "a stream that echoes its prompt with logprobs has one answer";
                conflict("n", n.to_string(), wanted)
            }
            _ => Ok(()),
        }
    }
}

impl Serialize for ScoredToken {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(serde::Serialize)]
        struct Entry<'a> {
            logprob: f32,
            rank: u32,
            decoded_token: &'a str,
        }
        let mut map = serializer.serialize_map(Some(self.candidates.len()))?;
        for candidate in &self.candidates {
            let (logprob, rank) = (finite(candidate.logprob), candidate.rank);
            let entry = Entry { logprob, rank, decoded_token: &candidate.text };
            map.serialize_entry(&candidate.token.to_string(), &entry)?;
        }
        map.end()
    }
}

fn prompt_logprobs(fields: &mut Fields) -> Result<Option<u32>, ApiError> {
    Ok(fields.integer("prompt_logprobs", 0..=MAX_TOP_LOGPROBS)?.map(|top| top as u32))
}
