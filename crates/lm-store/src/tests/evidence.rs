//! What experiments, fixes and `doctor` read: answers in order, in pages, and what fills the prefix cache.

use std::sync::Arc;

use lm_types::{Arm, ArmTag, CacheMissReason, TenantId};

use super::*;
use crate::{Erase, Place, Reader};

/// An answer of an experiment.
pub(super) fn assigned(id: u128, arm: Arm, shadow_of: Option<u128>) -> RequestEvent {
    let mut event = event(id);
    event.request.steering.arm = Some(Arc::new(ArmTag {
        experiment: "greeting".to_owned(),
        arm,
        unit: format!("unit-{id}"),
        percent: 30,
        variant: "variant".to_owned(),
        shadow_of: shadow_of.map(RequestId),
    }));
    event
}

fn numbers(reader: &Reader, after: i64) -> Vec<(i64, u128)> {
    let page = reader.assigned("greeting", after, 100).unwrap();
    page.into_iter().map(|one| (one.seq, one.answered.request_id.0)).collect()
}

#[test]
pub(super) fn answers_of_experiments_are_numbered_and_no_number_is_given_twice() {
    let home = Home::new();
    let store = home.open();
    assert_eq!(store.reader().last_assignment().unwrap(), 0);
    store.record(&assigned(1, Arm::Primary, None));
    store.record(&event(2));
    store.record(&assigned(3, Arm::Candidate, None));
    store.record(&assigned(4, Arm::Shadow, Some(1)));
    store.flush().unwrap();
    let reader = store.reader();
    let [(first, 1), (second, 3), (third, 4)] = numbers(reader, 0)[..] else {
        panic!("{:?}", numbers(reader, 0));
    };
    assert!(0 < first && first < second && second < third);
    assert_eq!(numbers(reader, first), [(second, 3), (third, 4)]);
    assert_eq!(reader.assigned("greeting", 0, 1).unwrap().len(), 1);
    assert!(reader.assigned("another", 0, 100).unwrap().is_empty());
    assert_eq!(reader.last_assignment().unwrap(), third);
    let shadow = reader.arm_of(RequestId(4)).unwrap().unwrap();
    assert_eq!((shadow.tag.arm, shadow.tag.percent), (Arm::Shadow, 30));
    assert_eq!(shadow.tag.shadow_of, Some(RequestId(1)));
    assert_eq!(shadow.answered.attempt.output_text.as_deref(), Some("4"));
    assert_eq!(reader.arm_of(RequestId(2)).unwrap(), None);
    // A copy goes with its original, and its number with it.
    let erased = store.erase(Erase::Request(RequestId(1))).unwrap();
    assert_eq!(erased.request_ids, [RequestId(1).to_string(), RequestId(4).to_string()]);
    assert_eq!(store.reader().last_assignment().unwrap(), third);
    store.record(&assigned(5, Arm::Primary, None));
    store.flush().unwrap();
    let after = numbers(store.reader(), second);
    assert!(matches!(after[..], [(number, 5)] if number > third), "{after:?}");
}

#[test]
pub(super) fn answers_and_feedback_are_read_page_by_page_without_copies_and_embeddings() {
    let home = Home::new();
    let store = home.open();
    let at = SystemTime::now() - DAY;
    for id in 0..10 {
        store.record(&RequestEvent { arrived_at: at + Duration::from_secs(1), ..event(id) });
    }
    store.record(&RequestEvent { arrived_at: at, ..assigned(20, Arm::Shadow, Some(1)) });
    store.record(&RequestEvent { arrived_at: at, task: Task::Embed, ..event(21) });
    for id in [3, 5] {
        store.feedback(thumb_up(id)).unwrap();
    }
    let (reader, end_ms) = (store.reader(), i64::MAX);
    let (mut place, mut found) = (Place::before(0), Vec::new());
    loop {
        let page = reader.answers(&place, end_ms, 3).unwrap();
        let Some(last) = page.last() else { break };
        place = last.place();
        found.extend(page.iter().map(|answered| answered.request_id.0));
    }
    assert_eq!(found, (0..10).collect::<Vec<u128>>());
    assert_eq!(reader.count_answers(0, end_ms, None).unwrap(), 10);
    assert_eq!(reader.count_answers(0, end_ms, Some(&RELEASE.to_string())).unwrap(), 10);
    assert_eq!(reader.count_answers(0, end_ms, Some("another")).unwrap(), 0);
    let first = reader.feedback(&Place::before(0), end_ms, 1).unwrap().remove(0);
    let rest = reader.feedback(&Place::of_feedback(&first), end_ms, 10).unwrap();
    assert_eq!((first.request_id, rest[0].request_id), (RequestId(3), RequestId(5)));
    assert_eq!(rest.len(), 1);
    // Praise is not bad, a low score is, and so is a correction.
    let say = |id: u128, rating: Option<Rating>, correction: Option<&str>| {
        let correction = correction.map(str::to_owned);
        store.feedback(Feedback { rating, correction, ..thumb_up(id) }).unwrap();
    };
    say(6, Some(Rating::Score(0.5)), None);
    say(7, Some(Rating::Score(0.4)), None);
    say(8, Some(Rating::Boolean(false)), None);
    say(9, None, Some("better"));
    let (mut place, mut found) = (Place::before(0), Vec::new());
    while let Some((next, id)) = reader.bad_feedback(&place, 1).unwrap().pop() {
        place = next;
        found.push(id.0);
    }
    found.sort_unstable();
    assert_eq!(found, [7, 8, 9]);
    assert!(reader.bad_feedback(&Place::before(i64::MAX), 10).unwrap().is_empty());
}

#[test]
pub(super) fn whose_prompts_fill_the_cache_is_found_with_what_differs_in_them() {
    let home = Home::new();
    let store = home.open();
    let missed = |id: u128, tenant: u64, reason, tokens: Vec<u32>| {
        let mut event = event(id);
        event.request.tenant = TenantId(tenant);
        event.prompt_tokens = tokens;
        event.timings.first_miss = Some((0, reason));
        event
    };
    store.record(&missed(1, 7, CacheMissReason::Evicted, vec![1, 2, 3]));
    store.record(&missed(2, 8, CacheMissReason::NeverSeen, vec![1, 2, 3]));
    store.record(&missed(3, 9, CacheMissReason::NeverSeen, vec![1, 5, 6, 7]));
    let late = SystemTime::now() + Duration::from_secs(1);
    let newest = missed(4, 9, CacheMissReason::NeverSeen, vec![2, 5, 6, 7]);
    store.record(&RequestEvent { arrived_at: late, ..newest });
    store.flush().unwrap();
    let found = store.reader().cache_pressure(SystemTime::now() - DAY).unwrap();
    assert_eq!((found.n_evicted, found.key.as_str()), (1, "0000000000000009"));
    // Two prompts of 10 tokens, 3 of them from the cache.
    assert_eq!(found.new_tokens, 14);
    let tail = found.tail.unwrap();
    assert_eq!((tail.n_tokens, tail.differs_at, tail.n_same), (4, 0, 3));
    assert_eq!(tail.request, RequestId(4).to_string());
    let nothing = store.reader().cache_pressure(SystemTime::now() + DAY).unwrap();
    assert_eq!((nothing.n_evicted, nothing.key.as_str(), nothing.tail), (0, "", None));
}
