//! What is told of an answer's way: who was before it, what its tokens waited for, what it lost.

use lm_types::{Gap, GapCause, Timeline};

use super::*;

/// The timeline of the request with this id.
#[track_caller]
fn told(rig: &Rig, id: u128) -> Timeline {
    let events = rig.observer.0.lock().unwrap();
    let event = events.iter().find(|event| event.request.id == RequestId(id)).unwrap();
    let n_tokens = event.output_tokens.len();
    assert_eq!(event.usage.completion_tokens as usize, n_tokens);
    event.timeline.clone()
}

#[test]
fn who_waits_for_a_slot_is_told_behind_whom() {
    let mut rig = Rig::new("");
    let mut readers = Vec::new();
    for i in 0..20 {
        readers.push(rig.add(prompt(i), |request| {
            request.id = RequestId(u128::from(i));
            request.stop.max_tokens = Some(4 + i);
        }));
        rig.engine.step();
    }
    rig.run();
    let first = told(&rig, 0);
    assert_eq!((first.queue.n_running, first.queue.n_began), (0, 0));
    assert!(first.queue.behind.is_empty());
    let busy = (0..20).map(|i| told(&rig, i)).find(|story| story.queue.n_waiting > 0);
    let story = busy.unwrap_or_else(|| told(&rig, 19));
    assert_eq!(story.queue.n_slots, 16);
    assert!(story.queue.n_began >= u32::from(story.queue.n_waiting > 0), "{:?}", story.queue);
    assert!(story.queue.behind.len() <= Timeline::MAX_NAMED);
}

#[test]
fn a_prompt_beside_a_stream_is_why_its_token_came_late() {
    // A step of only a stream takes 1 ms, one with 48 prompt tokens 25.
    let mut rig = Rig::new("step_ns=1000000,prefill_token_ns=500000");
    let stream = rig.add(prompt(1), |request| {
        request.id = RequestId(1);
        request.stop.max_tokens = Some(40);
    });
    for _ in 0..20 {
        rig.engine.step();
    }
    let other = rig.add((0..200).map(|i| placeholder::FIRST_WORD + i % 90).collect(), |request| {
        request.id = RequestId(2);
        request.stop.max_tokens = Some(4);
    });
    rig.run();
    drop((stream, other));
    let story = told(&rig, 1);
    // A machine that is busy elsewhere makes other gaps, and any part of the prompt comes late.
    let is_whole = |gap: &&Gap| matches!(gap.because, GapCause::Prompt { n_tokens: 16.., .. });
    let longest = story.gaps.iter().find(is_whole).expect("a gap that a part of the prompt made");
    let GapCause::Prompt { of, .. } = longest.because else {
        panic!("{longest:?}");
    };
    assert_eq!(of.request, RequestId(2));
    assert!(longest.took >= Duration::from_millis(5), "{longest:?}");
    assert_eq!(story.tokens.len(), 40);
    assert!(story.tokens.is_sorted());
    assert_eq!((story.least_rows, story.most_rows), (1, 2));
    let chunks = told(&rig, 2).chunks;
    let n_computed: u32 = chunks.iter().map(|chunk| chunk.n_tokens).sum();
    assert_eq!(n_computed, 200);
    assert!(chunks.iter().all(|chunk| !chunk.is_again));
}

#[test]
fn who_is_preempted_is_told_for_whom_and_how_long() {
    let mut rig = Rig::new("");
    // All blocks are taken by two long answers of batch before somebody urgent comes.
    let ids = [1_u128, 2];
    let readers: Vec<_> = ids
        .iter()
        .map(|id| {
            let tokens = (0..700).map(|p| placeholder::FIRST_WORD + (p + *id as u32) % 200);
            rig.add(tokens.collect(), |request| {
                request.id = RequestId(*id);
                request.priority = Priority::Batch;
                request.stop.max_tokens = Some(200);
            })
        })
        .collect();
    (0..40).for_each(|_| rig.engine.step());
    let many: Vec<_> = (3..7_u128)
        .map(|id| {
            let tokens = (0..800).map(|p| placeholder::FIRST_WORD + (3 * p + id as u32) % 200);
            rig.add(tokens.collect(), |request| {
                request.id = RequestId(id);
                request.stop.max_tokens = Some(200);
            })
        })
        .collect();
    rig.run();
    drop((readers, many));
    let all: Vec<Timeline> = (1..7).map(|id| told(&rig, id)).collect();
    let lost: Vec<_> = all.iter().flat_map(|story| &story.losses).collect();
    assert!(!lost.is_empty(), "6 answers of 110 blocks in 512 lose some");
    assert!(lost.iter().any(|loss| loss.lost_blocks));
    assert!(lost.iter().all(|loss| loss.away.is_some()), "all of them ended well: {lost:?}");
    assert!(lost.iter().any(|loss| loss.by.is_some()), "{lost:?}");
}
