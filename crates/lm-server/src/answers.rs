//! The answers of one request, as one stream.
//!
//! It must never know what an event means.
//!
//! Start reading at [`Answers`].

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use futures_util::stream::{BoxStream, SelectAll, StreamExt};
use lastmile::GenerateEvent;

use crate::response_cache::Events;

/// Events with the index of their choice. Dropping it aborts the answers.
pub(crate) enum Answers {
    /// What nearly every request asks for, and the way of nearly every token.
    One(Events),
    Many(SelectAll<BoxStream<'static, (usize, GenerateEvent)>>),
}

impl Answers {
    pub(crate) fn new(answers: Vec<Events>) -> Self {
        match <[_; 1]>::try_from(answers) {
            Ok([answer]) => Answers::One(answer),
            Err(answers) => {
                let named = |(index, answer): (usize, Events)| {
                    answer.map(move |event| (index, event)).boxed()
                };
                Answers::Many(answers.into_iter().enumerate().map(named).collect())
            }
        }
    }

    /// Ends all of them.
    pub(crate) fn abort(&mut self) {
        *self = Answers::Many(SelectAll::new());
    }
}

impl Stream for Answers {
    type Item = (usize, GenerateEvent);

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match &mut *self {
            Answers::One(answer) => {
                answer.poll_next_unpin(context).map(|event| event.map(|event| (0, event)))
            }
            Answers::Many(answers) => answers.poll_next_unpin(context),
        }
    }
}
