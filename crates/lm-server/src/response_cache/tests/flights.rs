//! Who computes when who computed has ended, how many at once, and how urgently.

use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lastmile::{
    Ban, FinishReason, GenerateError, GenerateEvent, GenerateRequest, OnHit, OutputRules, Priority,
    ReleaseHash, RequestId,
};

use super::{Rig, request, tokens};
use crate::response_cache::flight::{Flight, Next, Place};
use crate::response_cache::started::Started;

/// A request whose echo is ended by a rule at its last word.
fn filtered() -> GenerateRequest {
    let text = "one two three four five six seven eight nine ten eleven twelve secret";
    let mut asked = request(text, 100);
    let phrase = "secret".to_owned();
    let ban = Ban { rule: "r".into(), phrase, ignore_case: false, then: OnHit::Stop };
    asked.steering.rules = Some(Arc::new(OutputRules::new(vec![ban])));
    asked
}

fn computed_by(events: &[GenerateEvent]) -> Option<RequestId> {
    match events.last() {
        Some(GenerateEvent::Finished(finish)) => finish.timings.computed_by,
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_followed_what_a_rule_ended_computes_beside_the_others_and_not_after_them() {
    let rig = Rig::new("mode=echo,delay_us=4000");
    let asked = filtered();
    let before = rig.runtime.stats().steps;
    let alone = rig.runtime.complete(asked.clone()).unwrap().remove(0);
    assert_eq!(alone.finish.reason, FinishReason::Filtered);
    let n_of_one = rig.runtime.stats().steps - before;
    let before = rig.runtime.stats().steps;
    let started: Vec<Started> = (0..16).map(|_| rig.start(&asked).1).collect();
    let reads: Vec<_> = started
        .into_iter()
        .map(|answer| rig.tokio.spawn(answer.events.collect::<Vec<_>>()))
        .collect();
    for read in reads {
        let events = rig.tokio.block_on(read).unwrap();
        assert_eq!(tokens(&events), (alone.tokens.clone(), Some(FinishReason::Filtered)));
        assert_eq!(computed_by(&events), None, "each is recorded by the engine, once");
    }
    let n_steps = rig.runtime.stats().steps - before;
    assert!(n_steps < 6 * n_of_one, "{n_steps} steps, where one answer takes {n_of_one}");
    assert_eq!(rig.count(|c| &c.handed_on), 15);
    let (word, answer) = rig.start(&asked);
    assert_eq!(word, "miss", "nobody joins what was parted");
    drop(answer);
}

#[test]
fn who_led_and_was_ended_is_recorded_once() {
    let rig = Rig::new("mode=random,delay_us=20000");
    let asked = request("ended", 60);
    let (_, mut first) = rig.start(&asked);
    let (_, mut leads) = rig.start(&asked);
    let (_, reads) = rig.start(&asked);
    rig.next(&mut first).unwrap();
    rig.next(&mut leads).unwrap();
    drop(first);
    // More than was told before: its own request is computed.
    for _ in 0..2 {
        rig.next(&mut leads).unwrap();
    }
    leads.ender.as_ref().unwrap().end();
    // Another reader hears of that end first.
    assert_eq!(tokens(&rig.read(reads)).1, Some(FinishReason::Length));
    let events = rig.read(leads);
    assert_eq!(tokens(&events).1, Some(FinishReason::Abort));
    assert_eq!(computed_by(&events), None, "it is the end that the engine recorded");
}

#[test]
fn nobody_waits_for_a_less_urgent_one_after_a_hand_over_either() {
    let rig = Rig::new("mode=random,delay_us=20000");
    let asked = request("class", 200);
    let (_, mut first) = rig.start(&asked);
    let batch = GenerateRequest { priority: Priority::Batch, ..asked.clone() };
    let (word, mut follower) = rig.start(&batch);
    assert_eq!(word, "hit");
    rig.next(&mut first).unwrap();
    rig.next(&mut follower).unwrap();
    drop(first);
    let began = Instant::now();
    while rig.count(|c| &c.handed_on) == 0 {
        assert!(began.elapsed() < Duration::from_secs(20), "nobody computes");
        rig.next(&mut follower).unwrap();
    }
    assert_eq!(rig.start(&asked).0, "miss", "a batch computes it now");
}

fn flight() -> Flight {
    Flight::new(Priority::Interactive, 0, ReleaseHash([0; 16]))
}

#[test]
fn who_leads_is_as_urgent_as_the_most_urgent_who_waits() {
    let flight = flight();
    let classes = [Priority::Interactive, Priority::Batch, Priority::Interactive];
    let seats = classes.map(|class| flight.join(class));
    assert!(flight.leave(seats[0]), "it led");
    let mut place = Place::default();
    let (next, _) = flight.next(seats[1], &mut place, Waker::noop());
    assert!(matches!(next, Next::Lead(Priority::Interactive)));
    flight.leave(seats[2]);
    flight.leave(seats[1]);
    let seat = flight.join(Priority::Batch);
    let (next, _) = flight.next(seat, &mut place, Waker::noop());
    assert!(matches!(next, Next::Lead(Priority::Batch)));
    assert_eq!(flight.priority(), Priority::Batch);
}

#[test]
fn what_another_release_would_go_on_with_fails_for_all() {
    let flight = flight();
    let (first, second) = (flight.join(Priority::Batch), flight.join(Priority::Batch));
    flight.end_replaced(second);
    assert!(!flight.is_useless(), "it is not what computes");
    flight.end_replaced(first);
    assert!(flight.is_useless());
    for seat in [first, second] {
        let (next, _) = flight.next(seat, &mut Place::default(), Waker::noop());
        let has_failed = matches!(
            next,
            Next::SharedEnd(GenerateEvent::Failed(GenerateError::Sequence { .. }), None)
        );
        assert!(has_failed && !flight.is_own(seat), "who is told it records it");
    }
}
