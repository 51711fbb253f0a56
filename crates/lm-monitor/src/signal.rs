//! What is watched of an answer, as numbers.
//!
//! It must never know where the numbers come from.
//!
//! Start reading at [`Signal`].

/// One number of an answer that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    /// Tokens of the answer.
    OutputTokens,
    /// Whether it begins as refusals do.
    Refusal,
    /// Whether it had to be of a form and is not.
    SchemaInvalid,
    /// Whether its client left.
    Abort,
    /// Whether it failed.
    Error,
    /// Time to the first token.
    TtftMs,
    /// Time for each token after the first.
    TpotMs,
    /// Tokens of the prompt.
    PromptTokens,
    /// The share of the prompt's tokens that came from the prefix cache.
    CacheHit,
    /// The mean log-probability of the answer's tokens, where it is known.
    MeanLogprob,
    /// Whether its reader says that it is bad; known of the answers that somebody rates.
    BadFeedback,
}

/// How a signal behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A number of any size, watched by its logarithm.
    Positive,
    /// A number as it is.
    Number,
    /// Yes or no; a rise by twice this share is to be found.
    Rate(f64),
}

/// How many signals there are.
pub const N_SIGNALS: usize = 11;

impl Signal {
    /// All signals.
    pub const ALL: [Signal; N_SIGNALS] = [
        Signal::OutputTokens,
        Signal::Refusal,
        Signal::SchemaInvalid,
        Signal::Abort,
        Signal::Error,
        Signal::TtftMs,
        Signal::TpotMs,
        Signal::PromptTokens,
        Signal::CacheHit,
        Signal::MeanLogprob,
        Signal::BadFeedback,
    ];

    /// A stable word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Signal::OutputTokens => "output_tokens",
            Signal::Refusal => "refusal",
            Signal::SchemaInvalid => "schema_invalid",
            Signal::Abort => "abort",
            Signal::Error => "error",
            Signal::TtftMs => "ttft_ms",
            Signal::TpotMs => "tpot_ms",
            Signal::PromptTokens => "prompt_tokens",
            Signal::CacheHit => "cache_hit",
            Signal::MeanLogprob => "mean_logprob",
            Signal::BadFeedback => "bad_feedback",
        }
    }

    /// How it behaves.
    #[must_use]
    pub fn kind(self) -> Kind {
        match self {
            Signal::OutputTokens | Signal::TtftMs | Signal::TpotMs | Signal::PromptTokens => {
                Kind::Positive
            }
            Signal::CacheHit | Signal::MeanLogprob => Kind::Number,
            Signal::Refusal | Signal::BadFeedback => Kind::Rate(0.05),
            Signal::SchemaInvalid | Signal::Abort | Signal::Error => Kind::Rate(0.025),
        }
    }

    /// The number that is watched, of the value as it is measured.
    #[must_use]
    pub(crate) fn watched(self, value: f64) -> f64 {
        match self.kind() {
            Kind::Positive => value.max(0.0).ln_1p(),
            Kind::Number | Kind::Rate(_) => value,
        }
    }
}

/// The numbers of one answer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reading {
    /// The request's id.
    pub id: u128,
    /// The hour of the week in which it arrived, below 168.
    pub hour: u8,
    /// As measured, in the order of [`Signal::ALL`]; `None` where there is nothing to measure.
    pub values: [Option<f64>; N_SIGNALS],
}
