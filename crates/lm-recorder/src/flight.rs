//! What a ring tells: the last steps, and who was in flight when it ends.
//!
//! It must never need the process that wrote it.
//!
//! Start reading at [`Flight::read`].

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use lm_types::TokenId;
use serde::Serialize;
use serde_json::Value;

use crate::RecorderError;
use crate::entry::{
    AGAIN, BEGUN, Begun, ENDED, RUN, Run, STEP, Step, decode_ended, decode_step, key,
};
use crate::recorder::{crash_path, ring_path};
use crate::ring::scan;
use crate::writer::key_of;

/// What a ring tells.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Flight {
    /// The process that wrote it; `None` when that is overwritten.
    pub pid: Option<u32>,
    /// When it began to, in Unix milliseconds.
    pub started_at_ms: Option<i64>,
    /// The time of its last step, in Unix milliseconds.
    pub last_step_at_ms: Option<i64>,
    /// Answers that had begun and not ended, by arrival.
    pub in_flight: Vec<InFlight>,
    /// Its steps, oldest first, as far as they are not overwritten.
    pub steps: Vec<RecordedStep>,
}

/// An answer that had begun and not ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InFlight {
    /// The request, a UUID.
    pub id: String,
    /// Which of its answers, from 0.
    pub choice: u32,
    /// On whose behalf, as 16 hexadecimal digits; `None` came without a key.
    pub tenant: Option<String>,
    /// The model's name as served.
    pub model: String,
    /// What answered, in hexadecimal.
    pub release: String,
    /// Unix milliseconds.
    pub arrived_at_ms: i64,
    /// Tokens of the prompt.
    pub n_prompt_tokens: usize,
    /// Tokens that had been drawn.
    pub n_tokens: usize,
    /// Those; empty when they were not kept.
    #[serde(skip)]
    pub tokens: Vec<TokenId>,
    /// What was asked, as the store keeps it; `None` when it was not kept.
    #[serde(skip)]
    pub prompt: Option<Value>,
    /// As above.
    #[serde(skip)]
    pub recipe: Option<Value>,
    /// As above.
    #[serde(skip)]
    pub prompt_tokens: Option<Vec<TokenId>>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RecordedStep {
    /// Its number since its engine started.
    pub step: u64,
    /// When it ended, in Unix microseconds.
    pub at_us: u64,
    /// How long it took.
    pub took_us: u32,
    /// KV blocks that were free after it was planned.
    pub n_free_blocks: u32,
    /// Prompt tokens in it.
    pub n_prompt_tokens: u32,
    /// Its answers.
    pub rows: Vec<RecordedToken>,
}

/// One answer's part of a step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RecordedToken {
    /// The request; `None` when its beginning is overwritten.
    pub id: Option<String>,
    /// Which of its answers.
    pub choice: u32,
    /// Tokens that were computed.
    pub n_tokens: u32,
    /// What was drawn; `None` when nothing was, or it is not kept.
    pub token: Option<TokenId>,
    /// Its log-probability, where somebody asked for it.
    pub logprob: Option<f32>,
}

impl Flight {
    /// What a file tells; `None` when there is none.
    ///
    /// # Errors
    /// The system refuses.
    pub fn read(path: &Path) -> Result<Option<Self>, RecorderError> {
        let io = |source| RecorderError::Io { what: "read", path: path.to_owned(), source };
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(error)),
        };
        let (mut flight, mut steps) = (Flight::default(), Vec::new());
        let mut answers: BTreeMap<u64, Answer> = BTreeMap::new();
        for record in scan(&mut file).map_err(io)? {
            match record.kind {
                RUN => {
                    let run = serde_json::from_slice::<Run>(&record.payload).ok();
                    flight.pid = run.as_ref().map(|run| run.pid);
                    flight.started_at_ms = run.map(|run| run.started_at_ms);
                }
                BEGUN | AGAIN => {
                    if let Ok(begun) = serde_json::from_slice::<Begun>(&record.payload)
                        && let Some(key) = key_of(&begun.id, begun.choice)
                    {
                        answers.insert(key, Answer { begun, is_over: false });
                    }
                }
                ENDED => {
                    if let Some((id, choice)) = decode_ended(&record.payload)
                        && let Some(answer) = answers.get_mut(&key(id, choice))
                    {
                        answer.is_over = true;
                    }
                }
                STEP => {
                    let Some(step) = decode_step(&record.payload) else { continue };
                    for row in &step.rows {
                        if let Some(answer) = answers.get_mut(&row.key) {
                            answer.begun.n_tokens += usize::from(row.is_drawn);
                            answer.begun.tokens.extend(row.token);
                        }
                    }
                    steps.push(step);
                }
                // Of a later version.
                _ => {}
            }
        }
        flight.last_step_at_ms = steps.last().map(|step: &Step| step.at_us.cast_signed() / 1000);
        flight.steps = steps.iter().map(|step| named(step, &answers)).collect();
        let open = answers.into_values().filter(|answer| !answer.is_over);
        flight.in_flight = open.map(|answer| in_flight(answer.begun)).collect();
        flight.in_flight.sort_by(|a, b| {
            (a.arrived_at_ms, &a.id, a.choice).cmp(&(b.arrived_at_ms, &b.id, b.choice))
        });
        Ok(Some(flight))
    }

    /// What the ring of a home tells now.
    ///
    /// # Errors
    /// The system refuses.
    pub fn current(folder: &Path) -> Result<Option<Self>, RecorderError> {
        Flight::read(&ring_path(folder))
    }

    /// The last crash in a home: of the process that recorded last, if it is gone, or an earlier one.
    ///
    /// # Errors
    /// The system refuses.
    pub fn last_crash(
        folder: &Path,
        is_alive: impl Fn(u32) -> bool,
    ) -> Result<Option<Self>, RecorderError> {
        let current = Flight::current(folder)?;
        let is_crash = |flight: &Flight| flight.has_crashed() && !flight.pid.is_some_and(&is_alive);
        match current.filter(is_crash) {
            Some(crash) => Ok(Some(crash)),
            None => Flight::read(&crash_path(folder)),
        }
    }

    /// Whether answers had begun and not ended.
    #[must_use]
    pub fn has_crashed(&self) -> bool {
        !self.in_flight.is_empty()
    }
}

struct Answer {
    begun: Begun,
    is_over: bool,
}

fn named(step: &Step, answers: &BTreeMap<u64, Answer>) -> RecordedStep {
    let rows = step.rows.iter().map(|row| {
        let answer = answers.get(&row.key).map(|answer| &answer.begun);
        RecordedToken {
            id: answer.map(|answer| answer.id.clone()),
            choice: answer.map_or(0, |answer| answer.choice),
            n_tokens: row.n_tokens,
            token: row.token,
            logprob: row.logprob,
        }
    });
    RecordedStep {
        step: step.number,
        at_us: step.at_us,
        took_us: step.took_us,
        n_free_blocks: step.n_free_blocks,
        n_prompt_tokens: step.n_prompt_tokens,
        rows: rows.collect(),
    }
}

fn in_flight(begun: Begun) -> InFlight {
    InFlight {
        id: begun.id,
        choice: begun.choice,
        tenant: begun.tenant,
        model: begun.model,
        release: begun.release,
        arrived_at_ms: begun.arrived_at_ms,
        n_prompt_tokens: begun.n_prompt_tokens,
        n_tokens: begun.n_tokens,
        tokens: begun.tokens,
        prompt: begun.prompt,
        recipe: begun.recipe,
        prompt_tokens: begun.prompt_tokens,
    }
}
