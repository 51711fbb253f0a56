//! An answer as monitors see it: numbers, and the beginning of its text.
//!
//! It must never take long: this runs on the engine's thread.
//!
//! Start reading at [`Seen::of`].

use std::time::{Duration, UNIX_EPOCH};

use lastmile::{Constraint, FinishReason, Outcome, RequestEvent, RequestId, Task};
use lm_monitor::{N_SIGNALS, Reading, Signal};

/// Of an answer, what a refusal shows in.
const OPENING_BYTES: usize = 400;

/// An answer on its way.
pub(crate) struct Seen {
    pub(crate) model: String,
    pub(crate) release: String,
    /// When its request arrived, in Unix milliseconds.
    pub(crate) at_ms: i64,
    pub(crate) ended_ms: i64,
    pub(crate) reading: Reading,
    /// Its beginning, where it ended by itself.
    pub(crate) opening: Option<String>,
    /// Rather than what somebody says of one.
    pub(crate) is_answer: bool,
}

impl Seen {
    /// Answers of clients; copies and what is computed again are nobody's. What comes from the response cache says nothing
    /// of the model as it is now, and what no engine saw says nothing of any: a rule's own answer, what waits for a person, a
    /// request that was refused.
    pub(crate) fn is_watched(event: &RequestEvent) -> bool {
        let steering = &event.request.steering;
        let is_copy = steering.arm.as_ref().is_some_and(|arm| arm.shadow_of.is_some());
        // Encoders keep no tokens, and only they have other tasks.
        let is_of_engine = event.task != Task::Generate || !event.prompt_tokens.is_empty();
        is_of_engine && !steering.again && !is_copy && event.timings.computed_by.is_none()
    }

    pub(crate) fn of(event: &RequestEvent) -> Seen {
        let (usage, timings) = (event.usage, &event.timings);
        let at = event.arrived_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let ended = match &event.outcome {
            Outcome::Finished(reason) => Some(*reason),
            Outcome::Failed(_) => None,
        };
        let is_whole = matches!(ended, Some(FinishReason::Stop | FinishReason::Length));
        let share = |is_so: bool| Some(f64::from(u8::from(is_so)));
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        let n_gaps = usage.completion_tokens.saturating_sub(1);
        let mut values = [None; N_SIGNALS];
        let mut set = |signal: Signal, value: Option<f64>| values[signal as usize] = value;
        set(Signal::OutputTokens, is_whole.then_some(f64::from(usage.completion_tokens)));
        set(Signal::Abort, share(ended == Some(FinishReason::Abort)));
        set(Signal::Error, share(ended.is_none()));
        let has_form = |asked: &Constraint| !asked.form.takes_any_text();
        if event.request.constraint.as_ref().is_some_and(has_form) && is_whole {
            // The grammar holds as far as it was let: one that was cut is of no form.
            set(Signal::SchemaInvalid, share(ended == Some(FinishReason::Length)));
        }
        if !timings.ttft.is_zero() {
            set(Signal::TtftMs, Some(ms(timings.ttft)));
            if is_whole && n_gaps > 0 {
                let gaps = timings.e2e.saturating_sub(timings.ttft);
                set(Signal::TpotMs, Some(ms(gaps) / f64::from(n_gaps)));
            }
        }
        if usage.prompt_tokens > 0 {
            set(Signal::PromptTokens, Some(f64::from(usage.prompt_tokens)));
            let hit = f64::from(usage.cached_tokens) / f64::from(usage.prompt_tokens);
            set(Signal::CacheHit, Some(hit));
        }
        set(Signal::MeanLogprob, event.mean_logprob.filter(|_| is_whole));
        let opening = (ended == Some(FinishReason::Stop)).then(|| {
            let text = &event.output_text;
            text[..text.floor_char_boundary(OPENING_BYTES)].to_owned()
        });
        let unix_ms = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let at_ms = unix_ms(at);
        Seen {
            model: event.model.clone(),
            release: event.release.to_string(),
            at_ms,
            ended_ms: unix_ms(at.saturating_add(timings.e2e)),
            reading: Reading { id: event.request.id.0, hour: hour_of(at_ms), values },
            opening,
            is_answer: true,
        }
    }

    /// What somebody says of an answer.
    pub(crate) fn rating(
        model: String,
        release: String,
        id: RequestId,
        is_bad: bool,
        at_ms: i64,
    ) -> Seen {
        let mut reading = Reading { id: id.0, hour: hour_of(at_ms), ..Reading::default() };
        reading.values[Signal::BadFeedback as usize] = Some(f64::from(u8::from(is_bad)));
        let ended_ms = at_ms;
        Seen { model, release, at_ms, ended_ms, reading, opening: None, is_answer: false }
    }
}

fn hour_of(at_ms: i64) -> u8 {
    (at_ms.div_euclid(60 * 60 * 1000).rem_euclid(168)) as u8
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use lastmile::{GenerateError, GenerateRequest, Prompt, ReleaseHash};

    use super::*;

    /// As it is told of a request that no engine saw.
    fn told(outcome: Outcome) -> RequestEvent {
        let request = GenerateRequest::new(RequestId(1), Prompt::Text("why".to_owned()));
        let (release, error) = (ReleaseHash([7; 16]), GenerateError::EmptyPrompt);
        let now = SystemTime::now();
        let refused = RequestEvent::refused(request, "m".to_owned(), release, now, error);
        RequestEvent { outcome, ..refused }
    }

    #[test]
    fn what_no_engine_computed_is_not_watched() {
        let canned = told(Outcome::Finished(FinishReason::Stop));
        let stopped = told(Outcome::Finished(FinishReason::Abort));
        let refused = told(Outcome::Failed(GenerateError::EmptyPrompt));
        assert!([canned, stopped, refused].iter().all(|event| !Seen::is_watched(event)));
    }

    #[test]
    fn what_an_engine_ended_is_watched_however_it_ended() {
        let fault = GenerateError::Sequence { message: "its logits are not finite".to_owned() };
        for outcome in [
            Outcome::Finished(FinishReason::Stop),
            Outcome::Finished(FinishReason::Abort),
            Outcome::Failed(fault),
        ] {
            let event = RequestEvent { prompt_tokens: vec![3, 4], ..told(outcome) };
            assert!(Seen::is_watched(&event), "{event:?}");
        }
        let embedded = told(Outcome::Finished(FinishReason::Stop));
        assert!(Seen::is_watched(&RequestEvent { task: Task::Embed, ..embedded }));
    }

    #[test]
    fn answers_of_a_copy_or_of_another_request_are_not_watched() {
        let seen = || RequestEvent {
            prompt_tokens: vec![3, 4],
            ..told(Outcome::Finished(FinishReason::Stop))
        };
        let mut again = seen();
        again.request.steering.again = true;
        let mut cached = seen();
        cached.timings.computed_by = Some(RequestId(2));
        assert!(!Seen::is_watched(&again) && !Seen::is_watched(&cached));
    }
}
