//! What a placeholder does, and how it is written after `--model placeholder:`.

use std::ops::Range;
use std::str::FromStr;
use std::time::Duration;

use lm_types::TokenId;

use crate::{PlaceholderScript, StepCosts};

/// What the placeholder does. Written as `mode=echo,seed=7,delay_us=200`, in any order.
#[derive(Clone, Debug, PartialEq)]
pub struct PlaceholderOptions {
    /// What it answers.
    pub mode: PlaceholderMode,
    /// Part of the hash behind random answers.
    pub seed: u64,
    /// In random mode an answer ends after about this many tokens.
    pub mean_tokens: u32,
    /// What modes `replay` and `schema` answer.
    pub script: PlaceholderScript,
    /// How long a step takes, all in all: what is left of it after computing is slept.
    pub costs: StepCosts,
    /// By how much of itself that varies from step to step, up and down, evenly.
    pub jitter_percent: u32,
    /// Each step sleeps this long first.
    pub delay: Duration,
    /// Each token of a step adds this much.
    pub delay_per_token: Duration,
    /// This step fails, counted from 1.
    pub fail_at_step: Option<u64>,
    /// Every n-th step fails.
    pub fail_every: Option<u64>,
    /// This step panics, counted from 1.
    pub panic_at_step: Option<u64>,
    /// This step, counted from 1, takes `hang` longer: an engine that stands still.
    pub hang_at_step: Option<u64>,
    /// How long that is.
    pub hang: Duration,
    /// Every n-th step takes `slow` longer.
    pub slow_every: Option<u64>,
    /// How long that is.
    pub slow: Duration,
    /// A row after exactly this many tokens of context holds NaN.
    pub nan_at: Option<u32>,
    /// In this step, counted from 1, every row holds NaN, and so does the KV of its last token.
    pub nan_at_step: Option<u64>,
    /// Positions in one KV block.
    pub block_size: usize,
    /// KV blocks in the pool.
    pub n_blocks: usize,
    /// Longest sequence.
    pub max_model_len: usize,
    /// Labels of mode `classify`.
    pub labels: usize,
}

/// What the placeholder answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlaceholderMode {
    /// Words drawn by a hash of everything before them.
    Random,
    /// The last user message, or the raw prompt, again.
    Echo,
    /// What was recorded: see [`PlaceholderScript`].
    Replay,
    /// JSON of a schema: see [`PlaceholderScript`].
    Schema,
    /// Nothing: it is an encoder, and gives vectors. See [`crate::PlaceholderEncoder`].
    Embed,
    /// Nothing: it is an encoder, and gives labels; with one label, how well two texts go together.
    Classify,
}

/// The tokens that a placeholder gives a meaning to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaceholderVocab {
    /// Entries of the vocabulary.
    pub vocab_size: usize,
    /// Begins a raw prompt.
    pub bos: TokenId,
    /// Ends a raw prompt.
    pub sep: TokenId,
    /// Begins a turn of a conversation.
    pub turn_start: TokenId,
    /// Ends a turn, and an answer.
    pub turn_end: TokenId,
    /// Ends the name of a turn's role.
    pub newline: TokenId,
    /// The entries that are words, which random answers are made of.
    pub words: Range<TokenId>,
}

/// An option that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// No option has this name.
    #[error(
        "placeholder option {name:?} is unknown; known: mode, seed, mean_tokens, step_ns, \
         tile_ns, decode_row_ns, prefill_token_ns, decode_context_ps, prefill_context_ps, jitter_percent, \
         delay_us, delay_per_token_us, slow_every, slow_us, fail_at_step, fail_every, panic_at_step, hang_at_step, hang_us, nan_at, \
         nan_at_step, block_size, n_blocks, max_model_len, labels"
    )]
    Unknown {
        /// As written.
        name: String,
    },
    /// The value is not of the option's kind.
    #[error("placeholder option {name} is {value:?}, but must be {limit}")]
    Invalid {
        /// The option.
        name: String,
        /// As written.
        value: String,
        /// What is allowed.
        limit: &'static str,
    },
}

impl Default for PlaceholderOptions {
    fn default() -> Self {
        PlaceholderOptions {
            mode: PlaceholderMode::Random,
            seed: 0,
            mean_tokens: 64,
            script: PlaceholderScript::default(),
            costs: StepCosts::default(),
            jitter_percent: 0,
            delay: Duration::ZERO,
            delay_per_token: Duration::ZERO,
            fail_at_step: None,
            fail_every: None,
            panic_at_step: None,
            hang_at_step: None,
            hang: Duration::from_secs(60),
            slow_every: None,
            slow: Duration::from_millis(500),
            nan_at: None,
            nan_at_step: None,
            block_size: 32,
            n_blocks: 4096,
            max_model_len: 8192,
            labels: 1,
        }
    }
}

impl PlaceholderOptions {
    /// Bytes of one KV block: a token id and a hash for each position.
    #[must_use]
    pub fn kv_block_bytes(&self) -> u64 {
        (self.block_size * (size_of::<TokenId>() + size_of::<u64>())) as u64
    }
}

impl FromStr for PlaceholderOptions {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let mut options = PlaceholderOptions::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            options.set(name.trim(), value.trim())?;
        }
        Ok(options)
    }
}

impl PlaceholderOptions {
    fn set(&mut self, name: &str, value: &str) -> Result<(), OptionError> {
        let up_to = |limit: u64, words: &'static str| match value.parse::<u64>() {
            Ok(number) if number >= 1 && number <= limit => Ok(number),
            _ => Err(invalid(name, value, words)),
        };
        let count = || up_to(u64::MAX, "a number from 1");
        let micros = || match value.parse::<u64>() {
            Ok(number) if number <= 60_000_000 => Ok(Duration::from_micros(number)),
            _ => Err(invalid(name, value, "microseconds, at most 60000000")),
        };
        let cost = || match value.parse::<u64>() {
            Ok(number) if number <= 60_000_000_000 => Ok(number),
            _ => Err(invalid(name, value, "a number, at most 60000000000")),
        };
        let length = || up_to(1 << 24, "a number from 1 to 16777216").map(|n| n as usize);
        match name {
            "mode" => self.mode = value.parse()?,
            "seed" => self.seed = value.parse().map_err(|_| invalid(name, value, "a number"))?,
            "mean_tokens" => {
                self.mean_tokens = up_to(1 << 20, "a number from 1 to 1048576")? as u32
            }
            "step_ns" => self.costs.step_ns = cost()?,
            "tile_ns" => self.costs.tile_ns = cost()?,
            "decode_row_ns" => self.costs.decode_row_ns = cost()?,
            "prefill_token_ns" => self.costs.prefill_token_ns = cost()?,
            "decode_context_ps" => self.costs.decode_context_ps = cost()?,
            "prefill_context_ps" => self.costs.prefill_context_ps = cost()?,
            "jitter_percent" => {
                self.jitter_percent = up_to(100, "a number from 1 to 100")? as u32;
            }
            "slow_every" => self.slow_every = Some(count()?),
            "slow_us" => self.slow = micros()?,
            "delay_us" => self.delay = micros()?,
            "delay_per_token_us" => self.delay_per_token = micros()?,
            "fail_at_step" => self.fail_at_step = Some(count()?),
            "fail_every" => self.fail_every = Some(count()?),
            "panic_at_step" => self.panic_at_step = Some(count()?),
            "hang_at_step" => self.hang_at_step = Some(count()?),
            "hang_us" => self.hang = micros()?,
            "nan_at_step" => self.nan_at_step = Some(count()?),
            "nan_at" => self.nan_at = Some(length()? as u32),
            "block_size" => self.block_size = up_to(1024, "a number from 1 to 1024")? as usize,
            "n_blocks" => self.n_blocks = length()?,
            "max_model_len" => self.max_model_len = length()?,
            "labels" => self.labels = up_to(1024, "a number from 1 to 1024")? as usize,
            _ => return Err(OptionError::Unknown { name: name.to_owned() }),
        }
        Ok(())
    }
}

const MODES: &str = "random, echo, replay, schema, embed or classify";

impl PlaceholderMode {
    /// Whether it reads texts and writes none.
    #[must_use]
    pub fn is_encoder(self) -> bool {
        matches!(self, PlaceholderMode::Embed | PlaceholderMode::Classify)
    }
}

impl FromStr for PlaceholderMode {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        match text {
            "random" => Ok(PlaceholderMode::Random),
            "echo" => Ok(PlaceholderMode::Echo),
            "replay" => Ok(PlaceholderMode::Replay),
            "schema" => Ok(PlaceholderMode::Schema),
            "embed" => Ok(PlaceholderMode::Embed),
            "classify" => Ok(PlaceholderMode::Classify),
            _ => Err(invalid("mode", text, MODES)),
        }
    }
}

fn invalid(name: &str, value: &str, limit: &'static str) -> OptionError {
    OptionError::Invalid { name: name.to_owned(), value: value.to_owned(), limit }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: Result<PlaceholderOptions, &str>) {
        let found = text.parse::<PlaceholderOptions>();
        assert_eq!(found.map_err(|e| e.to_string()), expect.map_err(str::to_owned));
    }

    #[test]
    fn options_are_read_in_any_order_and_refused_by_name() {
        let base = PlaceholderOptions::default;
        check("", Ok(base()));
        check(
            "seed=7, mode=echo",
            Ok(PlaceholderOptions { mode: PlaceholderMode::Echo, seed: 7, ..base() }),
        );
        check(
            "delay_us=200,nan_at=3",
            Ok(PlaceholderOptions { delay: Duration::from_micros(200), nan_at: Some(3), ..base() }),
        );
        let costs = StepCosts { step_ns: 5, prefill_context_ps: 9, ..StepCosts::default() };
        check(
            "step_ns=5,prefill_context_ps=9,jitter_percent=10",
            Ok(PlaceholderOptions { costs, jitter_percent: 10, ..base() }),
        );
        check(
            "jitter_percent=101",
            Err("placeholder option jitter_percent is \"101\", but must be a number from 1 to 100"),
        );
        check(
            "mode=shout",
            Err("placeholder option mode is \"shout\", but must be random, echo, replay, schema, \
             embed or classify"),
        );
        check(
            "block_size=0",
            Err("placeholder option block_size is \"0\", but must be a number from 1 to 1024"),
        );
        check("seed", Err("placeholder option seed is \"\", but must be a number"));
        assert!("sead=1".parse::<PlaceholderOptions>().is_err());
    }
}
