//! Answers of which somebody said whether they are good, each with how likely its model found it.
//!
//! It must never guess a judgement, and never count one answer twice.
//!
//! Start reading at [`Judged::read`].

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use lastmile::RequestId;
use lm_evidence::Scored;
use lm_feedback::{Book, FeedbackError};
use lm_store::{Place, Rating, Reader, RecordedAnswer, StoredFeedback};

/// What was judged, as far as it can be learned from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Judged {
    /// By release, in hexadecimal: the mean log-probability of an answer's tokens, and whether it is good. The newest first.
    pub by_release: BTreeMap<String, Vec<Scored>>,
    /// Answers that were judged, but whose requests asked neither for confidence nor for log-probabilities.
    pub n_without_logprob: u64,
    /// Answers that a release gave to the same prompt before, token for token; the newest judgement counts.
    pub n_repeated: u64,
}

/// Feedback that is read at once.
const PAGE: u32 = 1000;
/// Failures whose reviews count: the newest.
const MAX_FAILURES: u32 = 100_000;
/// Above it a rating says that an answer is good; below 1 less it, that it is bad. Otherwise it says neither.
const GOOD: f64 = 0.6;

/// An answer: its request, and which of its answers.
type Key = (RequestId, u32);

impl Judged {
    /// What was said of answers by feedback, of which the last counts, and by reviewers, whose verdicts count before it: a
    /// failure that was accepted is bad, one that was rejected is good.
    ///
    /// # Errors
    /// Why the store or the conclusions could not be read.
    pub fn read(book: &Book, reader: &Reader) -> Result<Judged, FeedbackError> {
        let mut said = by_feedback(reader)?;
        for failure in book.failures(None, MAX_FAILURES)? {
            let is_good = match failure.verdict.as_deref() {
                Some("accepted") => false,
                Some("rejected") => true,
                _ => continue,
            };
            if let Ok(id) = failure.request_id.parse() {
                said.insert((id, failure.choice), is_good);
            }
        }
        let mut judged = Judged::default();
        let mut seen: HashSet<u64> = HashSet::new();
        let mut last: Option<(RequestId, Vec<RecordedAnswer>)> = None;
        // Ids rise with time, and the answers of a request follow each other.
        for (&(id, choice), &is_good) in said.iter().rev() {
            if last.as_ref().is_none_or(|(read, _)| *read != id) {
                last = Some((id, reader.recorded(id)?));
            }
            let mut of_request = last.iter().flat_map(|(_, answers)| answers);
            // What was erased is known no more.
            if let Some(answer) = of_request.find(|answer| answer.choice == choice) {
                judged.take(id, answer, is_good, &mut seen);
            }
        }
        Ok(judged)
    }

    fn take(
        &mut self,
        id: RequestId,
        answer: &RecordedAnswer,
        is_good: bool,
        seen: &mut HashSet<u64>,
    ) {
        let mean = answer.timeline.as_ref().and_then(|timeline| timeline.mean_logprob);
        let Some(score) = mean.filter(|mean| mean.is_finite()) else {
            self.n_without_logprob += 1;
            return;
        };
        // What was told again is the answer of who computed it.
        let computed_by =
            answer.timeline.as_ref().and_then(|timeline| timeline.computed_by.clone());
        let mut hasher = DefaultHasher::new();
        (computed_by.unwrap_or_else(|| id.to_string()), answer.choice).hash(&mut hasher);
        if !seen.insert(hasher.finish()) {
            self.n_repeated += 1;
            return;
        }
        // So is what another computed alike, where tokens are kept.
        if let (Some(prompt), Some(output)) = (&answer.prompt_tokens, &answer.output_tokens) {
            let mut hasher = DefaultHasher::new();
            (&answer.release_hash, prompt, output).hash(&mut hasher);
            if !seen.insert(hasher.finish()) {
                self.n_repeated += 1;
                return;
            }
        }
        let of_release = self.by_release.entry(answer.release_hash.clone()).or_default();
        of_release.push(Scored { score, is_good });
    }
}

fn by_feedback(reader: &Reader) -> Result<BTreeMap<Key, bool>, FeedbackError> {
    let mut said = BTreeMap::new();
    let mut place = Place::before(0);
    loop {
        let page = reader.feedback(&place, i64::MAX, PAGE)?;
        let Some(last) = page.last() else { return Ok(said) };
        place = Place::of_feedback(last);
        for feedback in &page {
            let key = (feedback.request_id, feedback.choice);
            match opinion(feedback) {
                Some(Some(is_good)) => {
                    said.insert(key, is_good);
                }
                Some(None) => {
                    said.remove(&key);
                }
                None => {}
            }
        }
    }
}

/// Whether an answer is good; inside `None` for a rating that says neither, and outside where nothing was rated.
fn opinion(feedback: &StoredFeedback) -> Option<Option<bool>> {
    if feedback.correction.is_some() {
        return Some(Some(false));
    }
    let rating = match feedback.rating? {
        Rating::Boolean(is_good) => f64::from(u8::from(is_good)),
        Rating::Score(score) => score,
    };
    let is_clear = !(1.0 - GOOD..=GOOD).contains(&rating);
    Some(is_clear.then_some(rating > GOOD))
}
