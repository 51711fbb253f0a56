//! How urgent a request is: `priority`, `deadline_ms` and `max_queue_ms`, as fields or as headers.
//!
//! It must never know what a queue is.
//!
//! Start reading at [`Urgency`].

use std::ops::RangeInclusive;
use std::time::Duration;

use lastmile::Priority;
use serde_json::Value;

use crate::ApiError;
use crate::fields::Fields;

/// Milliseconds of a limit: up to a day.
const MILLIS: RangeInclusive<i64> = 1..=86_400_000;
const PRIORITIES: &str = "\"interactive\", \"batch\" or \"background\"";

/// How urgent a request is, as far as it says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Urgency {
    /// How long after its arrival its answer is worth nothing.
    pub deadline: Option<Duration>,
    /// How long it may wait before its first step.
    pub max_queue: Option<Duration>,
    /// Who goes first.
    pub priority: Option<Priority>,
}

impl Urgency {
    /// The header that stands for `priority`.
    pub const PRIORITY_HEADER: &str = "x-lastmile-priority";
    /// The header that stands for `deadline_ms`.
    pub const DEADLINE_HEADER: &str = "x-lastmile-deadline-ms";
    /// The header that stands for `max_queue_ms`.
    pub const MAX_QUEUE_HEADER: &str = "x-lastmile-max-queue-ms";

    /// Reads the fields of a body.
    pub(crate) fn read(fields: &mut Fields) -> Result<Self, ApiError> {
        let mut millis = |name| {
            let found = fields.integer(name, MILLIS)?;
            Ok(found.map(|number| Duration::from_millis(number.unsigned_abs())))
        };
        let (deadline, max_queue) = (millis("deadline_ms")?, millis("max_queue_ms")?);
        let priority = fields.take("priority").map(|value| {
            value
                .as_str()
                .and_then(priority)
                .ok_or_else(|| ApiError::invalid("priority", &value, PRIORITIES))
        });
        Ok(Urgency { deadline, max_queue, priority: priority.transpose()? })
    }

    /// Adds what `header` says, by the headers' names. A header and a field may say the same.
    ///
    /// # Errors
    /// A header that cannot be read, or that contradicts its field.
    pub fn with_headers<'a>(
        mut self,
        header: impl Fn(&str) -> Option<&'a str>,
    ) -> Result<Self, ApiError> {
        let millis = |name: &str| {
            let Some(text) = header(name) else { return Ok(None) };
            let number = text.trim().parse().ok().filter(|number| MILLIS.contains(number));
            let wanted = || format!("an integer from {} to {}", MILLIS.start(), MILLIS.end());
            let found = Value::from(text);
            let number = number.ok_or_else(|| ApiError::invalid(name, &found, wanted()))?;
            Ok(Some(Duration::from_millis(number.unsigned_abs())))
        };
        let show = |limit: Duration| limit.as_millis().to_string();
        let (name, field) = (Self::DEADLINE_HEADER, "deadline_ms");
        self.deadline = same(field, self.deadline, name, millis(name)?, show)?;
        let (name, field) = (Self::MAX_QUEUE_HEADER, "max_queue_ms");
        self.max_queue = same(field, self.max_queue, name, millis(name)?, show)?;
        let name = Self::PRIORITY_HEADER;
        let class = header(name).map(|text| {
            let found = Value::from(text);
            priority(text.trim()).ok_or_else(|| ApiError::invalid(name, &found, PRIORITIES))
        });
        let class = class.transpose()?;
        let show = |class: Priority| format!("{class:?}").to_lowercase();
        self.priority = same("priority", self.priority, name, class, show)?;
        Ok(self)
    }
}

fn priority(word: &str) -> Option<Priority> {
    match word {
        "interactive" => Some(Priority::Interactive),
        "batch" => Some(Priority::Batch),
        "background" => Some(Priority::Background),
        _ => None,
    }
}

/// The one that is given, or both when they are the same.
fn same<T: Copy + PartialEq>(
    param: &'static str,
    field: Option<T>,
    other: &'static str,
    header: Option<T>,
    show: impl Fn(T) -> String,
) -> Result<Option<T>, ApiError> {
    match (field, header) {
        (Some(field), Some(header)) if field != header => Err(ApiError::Conflict {
            param,
            found: show(field),
            other,
            other_found: show(header),
            wanted: "give one of them, or both with the same value",
        }),
        _ => Ok(field.or(header)),
    }
}
