//! Why the holder of a key, or somebody without one, is turned away.
//!
//! It must never hold a key.
//!
//! Start reading at [`Denial`].

use std::time::Duration;

use lm_keys::{AuthError, LimitKind, OverLimit};

/// Why a request is turned away before anybody looks at what it asks for.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum Denial {
    /// No key was shown.
    #[error(
        "this server needs an API key: send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'"
    )]
    KeyMissing,
    /// What was shown is no key of this server.
    #[error("the API key is not one of this server's")]
    KeyUnknown,
    /// The key's time is over.
    #[error("the API key has expired")]
    KeyExpired,
    /// The key was taken back.
    #[error("the API key was revoked")]
    KeyRevoked,
    /// The key does not open this route.
    #[error("the API key lacks the scope '{scope}', which this route needs")]
    ScopeMissing {
        /// The scope's name.
        scope: &'static str,
    },
    /// The key has used what it may.
    #[error(
        "the API key is at its limit: {} is {}; try again in {} s", over.kind.as_str(), over.limit,
        over.retry_after.as_secs_f64().ceil()
    )]
    OverLimit {
        /// Which limit, its value, and how long to wait.
        over: OverLimit,
    },
    /// Nobody knows what is left of the key's daily budget.
    #[error(
        "the API key has a daily budget ({}), and what was used of it today cannot be read from this server's store; \
         try again in {} s", kind.as_str(), RETRY_UNREAD.as_secs()
    )]
    BudgetUnread {
        /// Which budget.
        kind: LimitKind,
    },
}

/// The server looks so often whether its store can be read.
const RETRY_UNREAD: Duration = Duration::from_secs(5);

impl Denial {
    /// The HTTP status.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Denial::KeyMissing | Denial::KeyUnknown | Denial::KeyExpired | Denial::KeyRevoked => {
                401
            }
            Denial::ScopeMissing { .. } => 403,
            Denial::OverLimit { .. } => 429,
            Denial::BudgetUnread { .. } => 503,
        }
    }

    /// The stable word for programs.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Denial::KeyMissing => "missing_api_key",
            Denial::KeyUnknown => "invalid_api_key",
            Denial::KeyExpired => "api_key_expired",
            Denial::KeyRevoked => "api_key_revoked",
            Denial::ScopeMissing { .. } => "insufficient_scope",
            Denial::BudgetUnread { .. } => "budget_unread",
            Denial::OverLimit { over } => match over.kind {
                LimitKind::RequestsPerMinute => "requests_per_minute_exceeded",
                LimitKind::TokensPerMinute => "tokens_per_minute_exceeded",
                LimitKind::Concurrent => "max_concurrent_exceeded",
                LimitKind::DailyTokens => "daily_tokens_exceeded",
                LimitKind::DailyCpuSeconds => "daily_cpu_seconds_exceeded",
                LimitKind::DailyCost => "daily_cost_exceeded",
            },
        }
    }

    /// How long to wait before trying again, where that helps.
    #[must_use]
    pub fn retry_after(self) -> Option<Duration> {
        match self {
            Denial::OverLimit { over } => Some(over.retry_after),
            Denial::BudgetUnread { .. } => Some(RETRY_UNREAD),
            _ => None,
        }
    }
}

impl From<AuthError> for Denial {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Unknown => Denial::KeyUnknown,
            AuthError::Expired { .. } => Denial::KeyExpired,
            AuthError::Revoked { .. } => Denial::KeyRevoked,
        }
    }
}
