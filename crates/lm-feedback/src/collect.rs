//! From traffic to failures: reads what is new in the store, again and again, each answer with the same outcome.
//!
//! It must never hold more than a page of answers.
//!
//! Start reading at [`Book::collect`], then at [`Scan::page`].

use std::collections::{BTreeMap, HashMap};

use lm_store::{
    Answered, Place, Reader, RecordedAnswer, StoredAttempt, StoredFeedback, StoredRequest,
};
use lm_types::RequestId;
use serde::Serialize;

use crate::scan::{Looked, Scan};
use crate::{Answer, Book, FeedbackError};

/// What one reading found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Collected {
    /// Answers that were looked at; those of the last hour come again.
    pub n_answers: u64,
    /// Of them those that failed.
    pub n_failures: u64,
    /// Problems that were not known before.
    pub n_new_clusters: u64,
}

/// Who asked the same again soon after an answer ended.
#[derive(Debug, Default)]
pub struct Regenerations {
    /// Who asked what: the request, and when its last answer ended.
    asked: HashMap<[u8; 32], (String, i64)>,
    /// Requests, and when they were asked again, in Unix milliseconds.
    again: HashMap<String, i64>,
}

/// An answer is stored when it ends, under the time of its arrival: one that took longer than this is not found.
const LONGEST_ANSWER_MS: i64 = 60 * 60 * 1000;
/// Asked again later than this is another conversation.
const SOON_MS: i64 = 10 * 60 * 1000;
const PAGE: u32 = 1000;
/// Requests with late feedback that are read at once.
const LATE_PAGE: usize = 100;
/// Most questions that are remembered at once; with more, those that ended longest ago are forgotten.
const MAX_ASKED: usize = 100_000;

impl Regenerations {
    /// The next answer in the order of arrival.
    pub fn see(&mut self, answer: &Answer) {
        if answer.messages.is_empty() {
            return;
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(answer.tenant.as_deref().unwrap_or_default().as_bytes());
        for message in &answer.messages {
            hasher.update(&[0]);
            hasher.update(message.to_string().as_bytes());
        }
        let key = *hasher.finalize().as_bytes();
        let now_ms = answer.arrived_at_ms;
        match self.asked.get_mut(&key) {
            // Another answer of the same request.
            Some((request, ended_ms)) if *request == answer.request_id => {
                *ended_ms = answer.ended_at_ms.max(*ended_ms);
            }
            other => {
                if let Some((request, ended_ms)) = other
                    // Who asks before the answer is there has not seen it.
                    && (*ended_ms..=*ended_ms + SOON_MS).contains(&now_ms)
                {
                    self.again.entry(request.clone()).or_insert(now_ms);
                }
                self.asked.insert(key, (answer.request_id.clone(), answer.ended_at_ms));
            }
        }
        if self.asked.len() > MAX_ASKED {
            self.asked.retain(|_, (_, ended_ms)| *ended_ms + SOON_MS >= now_ms);
            if self.asked.len() > MAX_ASKED {
                self.asked.clear();
            }
        }
    }

    /// When a request was asked again, in Unix milliseconds.
    #[must_use]
    pub fn again_ms(&self, request_id: &str) -> Option<i64> {
        self.again.get(request_id).copied()
    }
}

impl Book {
    /// Reads what came into the store since the last time, finds failures, and gives each its cluster. Any number of
    /// times: an answer counts once. Others may write between two pages; what is interrupted is read again.
    ///
    /// # Errors
    /// [`FeedbackError::Store`], [`FeedbackError::Database`].
    pub fn collect(&mut self, reader: &Reader, now_ms: i64) -> Result<Collected, FeedbackError> {
        let before_ms = self.collected_ms()?;
        let from_ms = before_ms.unwrap_or(0).saturating_sub(LONGEST_ANSWER_MS);
        let opinions = opinions(reader, from_ms, now_ms)?;
        let again = regenerations(reader, from_ms, now_ms)?;
        let look = |row: &Answered, said: &[StoredFeedback]| Looked::at(row, said, &again);
        let mut scan = Scan::of(self, now_ms);
        let mut place = Some(Place::before(from_ms));
        while let Some(from) = place {
            place = scan.page(|| {
                let page = reader.answers(&from, now_ms, PAGE)?;
                let looked = page.iter().map(|row| {
                    let said = opinions.get(&row.request_id);
                    look(row, said.map_or(&[][..], Vec::as_slice))
                });
                Ok((looked.collect(), page.last().map(Answered::place)))
            })?;
        }
        // Feedback may come long after its request.
        let opinions: Vec<_> = opinions.iter().collect();
        for some in opinions.chunks(LATE_PAGE) {
            scan.page(|| {
                let mut looked = Vec::new();
                for (id, said) in some {
                    let Some(request) = reader.request(**id)? else { continue };
                    if request.arrived_at_ms < from_ms {
                        let said = reader.feedback_for(**id).unwrap_or_else(|_| said.to_vec());
                        let answers = answers_of(request, &reader.recorded(**id)?);
                        looked.extend(answers.iter().map(|row| look(row, &said)));
                    }
                }
                Ok((looked, ()))
            })?;
        }
        let collected = scan.collected;
        // Last: what is not written by now is read again.
        self.note_collected(before_ms, now_ms)?;
        Ok(collected)
    }

    /// No version of its own, so that pages which others read meanwhile are not read anew for it.
    fn note_collected(&self, before_ms: Option<i64>, now_ms: i64) -> Result<(), FeedbackError> {
        let sql = match before_ms {
            None => {
                "INSERT INTO state(name, value) VALUES ('collected_ms', ?1) \
                 ON CONFLICT (name) DO UPDATE SET value = excluded.value"
            }
            // Where it is gone, all is to be read again.
            Some(_) => "UPDATE state SET value = ?1 WHERE name = 'collected_ms'",
        };
        self.connection.execute(sql, [now_ms]).map(drop).map_err(self.wrap("write"))
    }
}

/// Feedback that came since, by request.
fn opinions(
    reader: &Reader,
    from_ms: i64,
    now_ms: i64,
) -> Result<BTreeMap<RequestId, Vec<StoredFeedback>>, FeedbackError> {
    let mut by_request: BTreeMap<RequestId, Vec<StoredFeedback>> = BTreeMap::new();
    let mut place = Place::before(from_ms);
    loop {
        let page = reader.feedback(&place, now_ms, PAGE)?;
        let Some(last) = page.last() else { return Ok(by_request) };
        place = Place::of_feedback(last);
        for said in page {
            by_request.entry(said.request_id).or_default().push(said);
        }
    }
}

fn regenerations(
    reader: &Reader,
    from_ms: i64,
    now_ms: i64,
) -> Result<Regenerations, FeedbackError> {
    let mut again = Regenerations::default();
    let mut place = Place::before(from_ms);
    loop {
        let page = reader.answers(&place, now_ms, PAGE)?;
        let Some(last) = page.last() else { return Ok(again) };
        place = last.place();
        page.iter().for_each(|row| again.see(&Answer::new(row, &[])));
    }
}

/// A request's answers, one by one; how sure the model was of them is in what was recorded.
pub(crate) fn answers_of(request: StoredRequest, recorded: &[RecordedAnswer]) -> Vec<Answered> {
    let StoredRequest {
        id,
        model,
        arrived_at_ms,
        prompt,
        params,
        tenant,
        attempts,
        n,
        priority,
        ..
    } = request;
    let mean_of = |choice: u32| {
        let of_choice = recorded.iter().find(|answer| answer.choice == choice);
        of_choice.and_then(|answer| answer.timeline.as_ref()?.mean_logprob)
    };
    let with_attempt = |attempt: StoredAttempt| Answered {
        mean_logprob: mean_of(attempt.choice),
        request_id: id,
        model: model.clone(),
        tenant: tenant.clone(),
        arrived_at_ms,
        prompt: prompt.clone(),
        params: params.clone(),
        n,
        priority: priority.clone(),
        attempt,
    };
    attempts.into_iter().map(with_attempt).collect()
}
