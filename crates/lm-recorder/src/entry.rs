//! What a record holds: its kinds, as bytes and back.
//!
//! Start reading at [`Begun`] and [`encode_step`].

use lm_types::{RequestId, StepEvent, TokenId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A process began to record: [`Run`] as JSON.
pub(crate) const RUN: u32 = 1;
/// An answer was taken in: [`Begun`] as JSON.
pub(crate) const BEGUN: u32 = 2;
/// A step, as [`encode_step`] writes it.
pub(crate) const STEP: u32 = 3;
/// An answer is over: `[16]` id, `[4]` choice.
pub(crate) const ENDED: u32 = 4;
/// An answer that is told again before it is overwritten: [`Begun`] with its tokens so far.
pub(crate) const AGAIN: u32 = 5;

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) pid: u32,
    pub(crate) started_at_ms: i64,
    pub(crate) version: String,
}

/// An answer that was taken in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Begun {
    pub(crate) id: String,
    pub(crate) choice: u32,
    /// As 16 hexadecimal digits; `None` came without a key.
    pub(crate) tenant: Option<String>,
    /// On whose behalf the client says that it asks; `None` when it is not kept.
    #[serde(default)]
    pub(crate) subject: Option<String>,
    pub(crate) model: String,
    /// In hexadecimal.
    pub(crate) release: String,
    pub(crate) arrived_at_ms: i64,
    pub(crate) n_prompt_tokens: usize,
    /// As the store keeps it; `None` when it is not to be kept, or too long.
    pub(crate) prompt: Option<Value>,
    pub(crate) recipe: Option<Value>,
    pub(crate) prompt_tokens: Option<Vec<TokenId>>,
    /// How many tokens were drawn so far, when it is told again.
    pub(crate) n_tokens: usize,
    /// Those, where they are kept.
    pub(crate) tokens: Vec<TokenId>,
}

impl Begun {
    /// What is left when everything that somebody said is taken away.
    pub(crate) fn without_text(&self) -> Begun {
        Begun {
            subject: None,
            prompt: None,
            recipe: None,
            prompt_tokens: None,
            tokens: Vec::new(),
            ..self.clone()
        }
    }
}

/// A step that was read back.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Step {
    pub(crate) number: u64,
    pub(crate) at_us: u64,
    pub(crate) took_us: u32,
    pub(crate) n_free_blocks: u32,
    pub(crate) n_prompt_tokens: u32,
    pub(crate) rows: Vec<Row>,
}

/// A row of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) key: u64,
    pub(crate) n_tokens: u32,
    /// Whether a token was drawn.
    pub(crate) is_drawn: bool,
    /// Which, where it is kept.
    pub(crate) token: Option<TokenId>,
    pub(crate) logprob: Option<f32>,
}

/// In place of a token, where none was drawn.
const NO_TOKEN: u32 = u32::MAX;
/// In place of a token that is not to be kept.
const HIDDEN: u32 = u32::MAX - 1;
const STEP_HEAD: usize = 32;
const ROW: usize = 20;

/// Which answer a row is of: 64 bits of its request's id, which are random, and its number.
pub(crate) fn key(id: RequestId, choice: u32) -> u64 {
    (id.0 as u64).wrapping_add(u64::from(choice).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// Appends a step: its head, then its rows. No allocation once `out` is warm.
pub(crate) fn encode_step(step: &StepEvent<'_>, at_us: u64, keeps_text: bool, out: &mut Vec<u8>) {
    let took_us = u32::try_from(step.took.as_micros()).unwrap_or(u32::MAX);
    out.extend_from_slice(&step.number.to_le_bytes());
    out.extend_from_slice(&at_us.to_le_bytes());
    for number in [took_us, step.n_free_blocks, step.n_prompt_tokens, step.rows.len() as u32] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    for row in step.rows {
        let token = match row.token {
            Some(token) if keeps_text => token,
            Some(_) => HIDDEN,
            None => NO_TOKEN,
        };
        out.extend_from_slice(&key(row.request, row.choice).to_le_bytes());
        out.extend_from_slice(&row.n_tokens.to_le_bytes());
        out.extend_from_slice(&token.to_le_bytes());
        out.extend_from_slice(&row.logprob.unwrap_or(f32::NAN).to_le_bytes());
    }
}

/// Bytes of a step of so many rows.
pub(crate) fn step_bytes(n_rows: usize) -> usize {
    STEP_HEAD + ROW * n_rows
}

/// Rows of the step that `bytes` begin with.
pub(crate) fn n_rows(bytes: &[u8]) -> Option<usize> {
    u32_at(bytes, 28).map(|n| n as usize)
}

/// `None` when the bytes are of another form.
pub(crate) fn decode_step(bytes: &[u8]) -> Option<Step> {
    let n_rows = n_rows(bytes)?;
    if bytes.len() != step_bytes(n_rows) {
        return None;
    }
    let row = |bytes: &[u8]| {
        let logprob = f32::from_le_bytes(bytes.get(16..20)?.try_into().ok()?);
        let token = u32_at(bytes, 12)?;
        Some(Row {
            key: u64_at(bytes, 0)?,
            n_tokens: u32_at(bytes, 8)?,
            is_drawn: token != NO_TOKEN,
            token: Some(token).filter(|token| *token < HIDDEN),
            logprob: Some(logprob).filter(|logprob| !logprob.is_nan()),
        })
    };
    Some(Step {
        number: u64_at(bytes, 0)?,
        at_us: u64_at(bytes, 8)?,
        took_us: u32_at(bytes, 16)?,
        n_free_blocks: u32_at(bytes, 20)?,
        n_prompt_tokens: u32_at(bytes, 24)?,
        rows: bytes[STEP_HEAD..].chunks_exact(ROW).map(row).collect::<Option<_>>()?,
    })
}

/// Takes the tokens of all answers but those with these keys out of a step. Says whether there was one.
pub(crate) fn hide_tokens(bytes: &mut [u8], is_kept: impl Fn(u64) -> bool) -> bool {
    let mut is_changed = false;
    for row in bytes.get_mut(STEP_HEAD..).unwrap_or_default().chunks_exact_mut(ROW) {
        let is_meant = u64_at(row, 0).is_some_and(|key| !is_kept(key));
        if is_meant && u32_at(row, 12).is_some_and(|token| token < HIDDEN) {
            row[12..16].copy_from_slice(&HIDDEN.to_le_bytes());
            is_changed = true;
        }
    }
    is_changed
}

/// `[16]` id, `[4]` choice.
pub(crate) fn encode_ended(id: RequestId, choice: u32) -> [u8; 20] {
    let mut bytes = [0; 20];
    bytes[..16].copy_from_slice(&id.0.to_le_bytes());
    bytes[16..].copy_from_slice(&choice.to_le_bytes());
    bytes
}

pub(crate) fn decode_ended(bytes: &[u8]) -> Option<(RequestId, u32)> {
    let id = u128::from_le_bytes(bytes.get(..16)?.try_into().ok()?);
    Some((RequestId(id), u32_at(bytes, 16)?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
