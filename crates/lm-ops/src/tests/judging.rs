//! What was said of answers becomes what a confidence is learned from.

use lastmile::{GenerateRequest, Prompt, RequestId};
use lm_feedback::{Book, Decision};
use lm_store::{Feedback, Rating};

use super::{World, world};
use crate::Judged;

impl World {
    /// Asks for two answers with log-probabilities.
    fn ask_for_two(&self, id: u128, prompt: &str) {
        let mut request = GenerateRequest::new(RequestId(id), Prompt::Text(prompt.to_owned()));
        request.sampling.logprobs = Some(0);
        request.n = 2;
        assert_eq!(self.runtime.complete(request).unwrap().len(), 2);
    }

    fn rate(&self, id: u128, choice: u32, rating: Option<Rating>, correction: Option<&str>) {
        let feedback = Feedback {
            request_id: RequestId(id),
            by: None,
            choice,
            rating,
            comment: Some("seen".to_owned()),
            correction: correction.map(str::to_owned),
        };
        self.ops.store.feedback(feedback).unwrap();
    }

    fn judged(&self, book: &Book) -> Judged {
        Judged::read(book, self.ops.reader()).unwrap()
    }
}

/// Of the one release, the newest first.
fn good(judged: &Judged) -> Vec<bool> {
    judged.by_release.values().flatten().map(|one| one.is_good).collect()
}

#[test]
fn the_last_word_counts_a_reviewers_before_others_and_no_answer_twice() {
    let world = world("mode=echo");
    let mut book = Book::open(&world.folder.path().join("feedback.db")).unwrap();
    for id in 1..=5 {
        world.ask_for_two(id << 64, &format!("question {id}"));
    }
    // As the first one, token for token.
    world.ask_for_two(6 << 64, "question 1");
    world.ask(7 << 64);
    assert_eq!(world.judged(&book), Judged::default());

    world.rate(1 << 64, 0, Some(Rating::Boolean(true)), None);
    assert_eq!(good(&world.judged(&book)), [true]);
    // Neither good nor bad takes the word back; a comment leaves it.
    world.rate(1 << 64, 0, None, None);
    assert_eq!(good(&world.judged(&book)), [true]);
    world.rate(1 << 64, 0, Some(Rating::Score(0.5)), None);
    assert_eq!(good(&world.judged(&book)), [false; 0]);
    world.rate(1 << 64, 0, Some(Rating::Score(0.7)), None);
    world.rate(2 << 64, 1, Some(Rating::Score(0.3)), None);
    world.rate(3 << 64, 0, Some(Rating::Boolean(true)), Some("something else"));
    assert_eq!(good(&world.judged(&book)), [false, false, true]);
    let judged = world.judged(&book);
    let mut scores = judged.by_release.values().flatten().map(|one| one.score);
    assert!(scores.all(|score| score <= 0.0), "a log-probability is not positive");

    // Without log-probabilities nothing is learned.
    world.rate(7 << 64, 0, Some(Rating::Boolean(true)), None);
    assert_eq!(world.judged(&book).n_without_logprob, 1);

    // A reviewer finds that the second one was no failure, and that the third is.
    world.ops.store.flush().unwrap();
    book.collect(world.ops.reader(), crate::now_ms() + 1000).unwrap();
    let second = format!("{}/1", RequestId(2 << 64));
    book.review(&second, &Decision::Reject, "ann", 0).unwrap();
    book.review(&RequestId(3 << 64).to_string(), &Decision::Accept, "ann", 0).unwrap();
    world.rate(3 << 64, 0, Some(Rating::Boolean(true)), None);
    assert_eq!(good(&world.judged(&book)), [false, true, true]);

    // The same answer to the same prompt counts as the newest one is judged.
    world.rate(6 << 64, 0, Some(Rating::Boolean(false)), None);
    let judged = world.judged(&book);
    assert_eq!((good(&judged), judged.n_repeated), (vec![false, false, true], 1));
}
