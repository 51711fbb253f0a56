//! Which answers somebody called bad, whoever took it down: this server, another one, or a program at the terminal.
//!
//! It must never make a file of conclusions where there is none, and never be called on a thread that serves: it blocks.
//!
//! Start reading at [`Verdicts::told`].

use std::time::Duration;

use lastmile::RequestId;
use lm_feedback::{Book, FeedbackError};
use lm_store::{Place, StoreError};

use crate::Ops;

/// Rows that are read at once.
const PAGE: u32 = 1000;
/// How long who writes conclusions is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Reads what people say of answers, in feedback and in reviews.
pub struct Verdicts {
    ops: Ops,
    /// The reviews, once there are any.
    book: Option<Book>,
    /// What they said when they were read last, at which version of theirs.
    reviewed: Option<(i64, Vec<RequestId>)>,
}

impl Verdicts {
    /// Of the store and the conclusions that `ops` has.
    #[must_use]
    pub fn new(ops: &Ops) -> Verdicts {
        Verdicts { ops: ops.clone(), book: None, reviewed: None }
    }

    /// The requests with an answer that feedback called bad or corrected since `from_ms` (Unix milliseconds), some maybe
    /// twice.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn told(&self, from_ms: i64) -> Result<Vec<RequestId>, StoreError> {
        let (mut after, mut all) = (Place::before(from_ms), Vec::new());
        loop {
            let page = self.ops.reader().bad_feedback(&after, PAGE)?;
            let is_last = page.len() < PAGE as usize;
            for (place, id) in page {
                after = place;
                all.push(id);
            }
            if is_last {
                return Ok(all);
            }
        }
    }

    /// The requests with an answer that reviewers called a failure or corrected since `from_ms` (Unix milliseconds), maybe
    /// with some from before. They are searched only when somebody wrote to them.
    ///
    /// # Errors
    /// The reviews cannot be read; the next call opens them anew.
    pub fn reviewed(&mut self, from_ms: i64) -> Result<Vec<RequestId>, FeedbackError> {
        let place = self.ops.feedback_loop().map(|the_loop| the_loop.place().to_owned());
        let Some(place) = place.filter(|place| Book::may_be_at(place)) else {
            return Ok(Vec::new());
        };
        let book = match self.book.take() {
            Some(book) => book,
            None => Book::open_impatient(&place, PATIENCE)?,
        };
        let version = book.version()?;
        let known = self.reviewed.take().filter(|(read, _)| *read == version);
        let reviewed = match known {
            Some((_, known)) => known,
            None => book.called_bad(from_ms)?.iter().filter_map(|id| id.parse().ok()).collect(),
        };
        self.reviewed = Some((version, reviewed.clone()));
        self.book = Some(book);
        Ok(reviewed)
    }
}
