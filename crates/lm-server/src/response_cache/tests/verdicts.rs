//! What another process takes down of an answer makes it go here.

use std::time::{Duration, Instant};

use lastmile::{GenerateEvent, GenerateRequest, RequestId};
use lm_api::ApiError;
use lm_ops::{Decision, Ops, now_ms};
use serde_json::{Value, json};

use super::{Rig, mint_id, open, request};
use crate::response_cache::Wish;
use crate::response_cache::verdicts::Watched;

impl Rig {
    /// Asks, and reads to the end: what the cache had to do with it, and the request.
    #[track_caller]
    fn ask(&self, asked: &GenerateRequest) -> (&'static str, RequestId) {
        let id = mint_id();
        let ready = self.runtime.ready(vec![GenerateRequest { id, ..asked.clone() }]).unwrap();
        let (word, mut all) =
            self.cache().started(&self.runtime, Wish::Usual, true, ready).unwrap();
        let events = self.read(all.remove(0).remove(0));
        assert!(matches!(events.last(), Some(GenerateEvent::Finished(_))));
        self.store.flush().unwrap();
        (word, id)
    }

    fn say(&self, ops: &Ops, id: RequestId, what: Value) {
        let mut body = what;
        body["request_id"] = json!(id.to_string());
        self.tokio.block_on(ops.feedback(body.to_string().as_bytes(), None, false)).unwrap();
    }
}

#[test]
fn feedback_that_another_process_took_makes_an_answer_go() {
    let rig = Rig::new("mode=random");
    let (_, other) = open(&rig.folder);
    let mut watched = Watched::new(&rig.app.ops);
    for bad in [json!({ "rating": false }), json!({ "correction": "another one" })] {
        let asked = request(&bad.to_string(), 8);
        let (_, id) = rig.ask(&asked);
        rig.say(&other, id, json!({ "rating": true }));
        watched.look(&rig.app, now_ms());
        let (word, told) = rig.ask(&asked);
        assert_eq!(word, "hit", "praise is no reason");
        // On what was told from the cache, as much as on what was computed.
        rig.say(&other, told, bad);
        watched.look(&rig.app, now_ms());
        let (word, _) = rig.ask(&asked);
        assert_eq!(word, "miss");
        // It is not heard twice.
        watched.look(&rig.app, now_ms());
        assert_eq!(rig.ask(&asked).0, "hit");
    }
    assert_eq!(rig.count(|c| &c.unread), 0);
}

/// Leases all failures, of which there are so many, and says of one what a reviewer finds.
fn review(ops: &Ops, n_failures: usize, id: RequestId, decision: &Decision) {
    let the_loop = ops.feedback_loop().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        assert!(Instant::now() < deadline, "the traffic is read");
        match the_loop.lease("ann", 10) {
            Ok(page) if page.data.len() == n_failures => break,
            // What is new is read now and then.
            Ok(_) | Err(ApiError::Ops(_)) => std::thread::park_timeout(Duration::from_millis(10)),
            Err(error) => panic!("{error}"),
        }
    }
    the_loop.review(&id.to_string(), decision, "ann").unwrap();
}

#[test]
fn a_review_of_another_process_makes_an_answer_go() {
    let rig = Rig::new("mode=random");
    let (_, other) = open(&rig.folder);
    let mut watched = Watched::new(&rig.app.ops);
    // Each is cut at its limit, which is a sign of a failure.
    let (good, bad) = (request("good", 8), request("bad", 9));
    let (good_id, bad_id) = (rig.ask(&good).1, rig.ask(&bad).1);
    watched.look(&rig.app, now_ms());
    assert!(!rig.folder.path().join("feedback.db").exists(), "nobody reviewed anything");
    review(&other, 2, good_id, &Decision::Reject);
    watched.look(&rig.app, now_ms());
    review(&other, 1, bad_id, &Decision::Accept);
    watched.look(&rig.app, now_ms());
    assert_eq!((rig.ask(&good).0, rig.ask(&bad).0), ("hit", "miss"));
}

#[test]
fn what_cannot_be_read_hides_nothing_else_and_is_read_later() {
    let rig = Rig::new("mode=random");
    let (_, other) = open(&rig.folder);
    let mut watched = Watched::new(&rig.app.ops);
    let (told, reviewed) = (request("told", 8), request("reviewed", 8));
    let (told_id, reviewed_id) = (rig.ask(&told).1, rig.ask(&reviewed).1);
    // A folder in the place of the reviews.
    let reviews = rig.folder.path().join("feedback.db");
    std::fs::create_dir(&reviews).unwrap();
    rig.say(&other, told_id, json!({ "rating": false }));
    // For a day, as far as it knows.
    watched.look(&rig.app, now_ms() + 24 * 60 * 60 * 1000);
    assert_eq!(rig.count(|c| &c.unread), 1);
    assert_eq!(rig.ask(&told).0, "miss");
    std::fs::remove_dir(&reviews).unwrap();
    review(&other, 3, reviewed_id, &Decision::Correct("better".to_owned()));
    watched.look(&rig.app, now_ms());
    assert_eq!((rig.ask(&reviewed).0, rig.count(|c| &c.unread)), ("miss", 1));
}
