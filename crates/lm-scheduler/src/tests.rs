//! The scheduler by its steps: who gets rows, slots and places, and who gives them up.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use lm_types::{Priority, SeqId, TenantId, Timestamp, TokenId};

use crate::{
    Admission, Drawn, NewSequence, Offer, RefusedBecause, Scheduler, SchedulerConfig, Ticket,
    TimeLimits,
};

/// A scheduler and the time on its machine: 2 ms a step, 1 ms a decode row unless said otherwise, 0.5 ms a prefill token.
struct Rig {
    scheduler: Scheduler,
    now: Timestamp,
    /// Seconds of a step and of a decode row.
    costs: (f64, f64),
}

impl Rig {
    fn new(change: impl FnOnce(&mut SchedulerConfig)) -> Self {
        let mut config = SchedulerConfig {
            block_size: 8,
            n_blocks: 512,
            max_model_len: 1024,
            max_num_seqs: 4,
            max_batch_tokens: 256,
            max_prefill_chunk: 256,
            max_queued_requests: 8,
            max_queued_tokens: 4096,
            max_token_gap: Duration::from_millis(20),
            batch_patience: Duration::from_secs(10),
            prefix_cache: false,
            speculate: false,
            max_extra_logits: 16,
        };
        change(&mut config);
        Rig { scheduler: Scheduler::new(config).unwrap(), now: Timestamp(0), costs: (2e-3, 1e-3) }
    }

    fn add(&mut self, id: u64, tenant: u64, priority: Priority, n_prompt: usize) {
        self.add_with(id, tenant, priority, vec![5; n_prompt]);
    }

    fn add_with(&mut self, id: u64, tenant: u64, priority: Priority, prompt: Vec<TokenId>) {
        let new = NewSequence {
            id: SeqId(id),
            prompt,
            max_new_tokens: 500,
            priority,
            tenant: TenantId(tenant),
            arrived: self.now,
            start_by: None,
            deadline: None,
            cache_salt: 0,
            scores_prompt: false,
        };
        self.scheduler.add(new).unwrap();
    }

    /// Runs a step; who had a row in it.
    fn step(&mut self) -> Vec<u64> {
        let step = self.scheduler.schedule(self.now).clone();
        self.scheduler.check_integrity().unwrap();
        let (rows, prefill) = (step.shape.n_decodes as f64, step.shape.n_prefill_tokens as f64);
        let seconds = self.costs.0 + self.costs.1 * rows + 5e-4 * prefill;
        self.now = self.now + Duration::from_secs_f64(seconds);
        self.scheduler.observe(seconds);
        let drawn = step.rows.iter().filter(|row| row.samples);
        let drawn: Vec<Drawn> = drawn.map(|row| Drawn { seq: row.seq, token: 5 }).collect();
        self.scheduler.complete(&drawn);
        step.rows.iter().map(|row| row.seq.0).collect()
    }
}

#[test]
fn a_tenant_without_a_slot_gets_one_of_a_crowd_and_the_crowd_goes_on_where_it_was() {
    let mut rig = Rig::new(|_| ());
    (0..6).for_each(|i| rig.add(i, 1, Priority::Interactive, 10));
    (0..20).for_each(|_| drop(rig.step()));
    assert_eq!(rig.step(), [0, 1, 2, 3]);
    rig.add(10, 2, Priority::Interactive, 10);
    assert!(rig.step().contains(&10), "it waits although one tenant has all slots");
    let paused = rig.scheduler.sequence(SeqId(3)).unwrap();
    assert!(!paused.is_running() && !paused.block_table().is_empty());
    // The crowd has three slots and the other one, which is fair.
    (0..50).for_each(|_| assert_eq!(rig.step().len(), 4));
    rig.scheduler.remove(SeqId(10));
    assert!(rig.step().contains(&3), "the newest waits although a slot is free");
    assert_eq!(rig.scheduler.sequence(SeqId(3)).unwrap().n_preemptions(), 0);
    assert_eq!(rig.scheduler.counters().preemptions, 0);
}

#[test]
fn background_runs_in_idle_slots_and_yields_at_once() {
    let mut rig = Rig::new(|config| config.max_token_gap = Duration::from_millis(70));
    (0..4).for_each(|i| rig.add(i, 1, Priority::Background, 10));
    (0..5).for_each(|_| drop(rig.step()));
    assert_eq!(rig.step().len(), 4);
    rig.add(10, 2, Priority::Batch, 100);
    assert_eq!(rig.step(), [10]);
    while rig.scheduler.sequence(SeqId(10)).unwrap().n_generated() == 0 {
        assert_eq!(rig.step(), [10]);
    }
    // One gave up its slot; the others run beside what only decodes, but seldom: one of them every 33 steps.
    let mut n_rows = [0; 4];
    let mut n_steps = 0;
    for _ in 0..330 {
        let rows = rig.step();
        assert!(rows.contains(&10) && rows.len() <= 2, "{rows:?}");
        rows.iter().filter(|id| **id < 4).for_each(|id| n_rows[*id as usize] += 1);
        n_steps += usize::from(rows.len() == 2);
    }
    assert!((9..=11).contains(&n_steps), "{n_steps} steps had background");
    assert_eq!(n_rows.iter().filter(|n| **n > 0).count(), 3, "{n_rows:?}");
    assert_eq!(rig.scheduler.counters().preemptions, 0);
}

#[test]
fn who_comes_waits_a_tenth_of_the_bound_at_most_for_background() {
    let mut rig = Rig::new(|config| config.max_token_gap = Duration::from_millis(100));
    // The rig's costs: 2 ms, 1 ms a decode, 0.5 ms a token of a prompt.
    rig.add(0, 1, Priority::Interactive, 100);
    while rig.scheduler.sequence(SeqId(0)).is_none_or(|seq| seq.n_generated() < 100) {
        rig.step();
    }
    rig.scheduler.remove(SeqId(0));
    for class in [Priority::Background, Priority::Batch] {
        rig.add(class as u64, 1, class, 400);
        let (mut longest, mut n_steps) = (Duration::ZERO, 0);
        while rig.scheduler.sequence(SeqId(class as u64)).is_none_or(|seq| seq.n_generated() == 0) {
            let before = rig.now;
            assert_eq!(rig.step(), [class as u64]);
            longest = longest.max(rig.now.since(before));
            n_steps += 1;
        }
        rig.scheduler.remove(SeqId(class as u64));
        let (ms, is_short) = (longest.as_millis(), longest <= Duration::from_millis(11));
        assert_eq!(is_short, class == Priority::Background, "{class:?}: {ms} ms");
        assert!(n_steps < 40, "{class:?}: it creeps");
    }
}

#[test]
fn background_of_a_model_whose_steps_are_long_is_computed_together() {
    // 20 ms a step and 0.5 ms a row: one row takes more than a quarter of the bound, and eight little more than one.
    let mut rig = Rig::new(|config| {
        (config.max_token_gap, config.max_num_seqs) = (Duration::from_millis(60), 16);
    });
    rig.costs = (20e-3, 5e-4);
    rig.add(100, 1, Priority::Interactive, 10);
    (0..200).for_each(|_| drop(rig.step()));
    (0..8).for_each(|i| rig.add(i, 2, Priority::Background, 10));
    (0..20).for_each(|_| drop(rig.step()));
    // Beside a stream what costs it little, and then alone.
    let beside: Vec<usize> = (0..40).map(|_| rig.step().len() - 1).collect();
    let n_rows: usize = beside.iter().sum();
    assert!(n_rows >= 8 && beside.iter().all(|n| *n < 8), "{beside:?}");
    rig.scheduler.remove(SeqId(100));
    (0..20).for_each(|_| drop(rig.step()));
    assert_eq!(rig.step().len(), 8);
}

#[test]
fn batch_waits_no_longer_than_its_patience() {
    let mut rig = Rig::new(|config| config.batch_patience = Duration::from_millis(500));
    (0..4).for_each(|i| rig.add(i, 1, Priority::Interactive, 10));
    rig.step();
    rig.add(10, 2, Priority::Batch, 10);
    while rig.now < Timestamp(500_000) {
        assert!(!rig.step().contains(&10), "batch goes before interactive");
    }
    let ran = (0..10).any(|_| rig.step().contains(&10));
    assert!(ran, "batch starves");
}

#[test]
fn beside_a_stream_chunks_come_near_to_their_part_of_the_bound_and_are_never_tiny() {
    // 16 tokens beside one decode take 11 ms: less than 0.6 times the bound, more, and more than all of it.
    for (gap_ms, beside) in [(40, 36..=40), (15, 8..=12), (10, 8..=8)] {
        let mut rig = Rig::new(|config| config.max_token_gap = Duration::from_millis(gap_ms));
        rig.add(1, 1, Priority::Interactive, 10);
        (0..200).for_each(|_| drop(rig.step()));
        rig.add(2, 1, Priority::Interactive, 500);
        let mut chunks = vec![];
        while rig.scheduler.sequence(SeqId(2)).is_none_or(|seq| seq.n_generated() == 0) {
            rig.step();
            chunks.push(rig.scheduler.step().shape.n_prefill_tokens);
        }
        chunks.sort_unstable();
        assert!(beside.contains(&chunks[chunks.len() / 2]), "{gap_ms} ms: {chunks:?}");
    }
}

#[test]
fn decodes_that_exceed_the_bound_take_turns() {
    let mut rig = Rig::new(|config| config.max_num_seqs = 32);
    // 32 rows take 34 ms, and 20 may be taken.
    (0..32).for_each(|i| rig.add(i, 1, Priority::Interactive, 1));
    (0..100).for_each(|_| drop(rig.step()));
    let mut n_rows = [0; 32];
    for _ in 0..40 {
        let rows = rig.step();
        assert!((15..=19).contains(&rows.len()), "{} rows", rows.len());
        rows.iter().for_each(|id| n_rows[*id as usize] += 1);
    }
    let (least, most) = (n_rows.iter().min().unwrap(), n_rows.iter().max().unwrap());
    assert!(most - least <= 2, "{n_rows:?}");
}

#[test]
fn a_long_prompt_is_cut_so_that_streams_go_on_and_it_never_starves() {
    let mut rig = Rig::new(|_| ());
    rig.add(0, 1, Priority::Interactive, 10);
    (0..30).for_each(|_| drop(rig.step()));
    rig.add(1, 1, Priority::Interactive, 500);
    let mut n_steps = 0;
    while rig.scheduler.sequence(SeqId(1)).unwrap().n_generated() == 0 {
        let before = rig.now;
        assert!(rig.step().contains(&0), "a stream stalls");
        // Until chunks were measured the prior holds, which is near.
        assert!(rig.now - before <= Duration::from_millis(20), "step {n_steps}");
        n_steps += 1;
    }
    // 12 ms hold 16 tokens beside the decode, not fewer.
    assert!(n_steps <= 500 / 16 + 2, "{n_steps} steps");
}

fn offer(fingerprint: u64) -> Offer {
    Offer {
        class: Priority::Interactive,
        tenant: TenantId(1),
        prompt_tokens: 10,
        max_new_tokens: 50,
        is_exact: true,
        fingerprint,
    }
}

#[test]
fn a_refused_request_has_its_place_when_it_comes_again_in_time() {
    let rig = Rig::new(|_| ());
    let mut admission = Admission::new(&rig.scheduler);
    let none = TimeLimits::default();
    let mut now = Timestamp(0);
    let mut tickets = Vec::new();
    for i in 0..8 {
        tickets.push(admission.offer(now, &[offer(i)], none).unwrap().0[0]);
    }
    let refusal = admission.offer(now, &[offer(100)], none).unwrap_err();
    let full = RefusedBecause::QueueRequests { queued: 8, limit: 8 };
    assert_eq!(refusal.because, full);
    let wait = refusal.retry_after.unwrap();
    // One leaves; the place is kept for the one that was promised it.
    admission.leave(tickets.remove(0));
    let newcomer = admission.offer(now, &[offer(200)], none).unwrap_err();
    assert!(newcomer.retry_after.unwrap() > wait, "a newcomer goes before");
    now = now + wait;
    assert!(admission.offer(now, &[offer(100)], none).is_ok(), "a promise is broken");
    // Whoever does not come leaves the place to others after a while.
    admission.leave(tickets.remove(0));
    now = now + Duration::from_secs(60);
    assert!(admission.offer(now, &[offer(300)], none).is_ok());
}

/// A full queue of another tenant's.
fn full(rig: &Rig) -> (Admission, Vec<Ticket>) {
    let mut admission = Admission::new(&rig.scheduler);
    let other = |i: u64| Offer { tenant: TenantId(9), ..offer(1000 + i) };
    let tickets = (0..8)
        .map(|i| admission.offer(Timestamp(0), &[other(i)], TimeLimits::default()).unwrap().0[0]);
    let tickets = tickets.collect();
    (admission, tickets)
}

#[test]
fn the_promises_of_one_tenant_do_not_put_others_off() {
    let rig = Rig::new(|_| ());
    let (mut admission, _) = full(&rig);
    let none = TimeLimits::default();
    let mut wait = |offer: Offer| {
        admission.offer(Timestamp(0), &[offer], none).unwrap_err().retry_after.unwrap()
    };
    let quiet = |i: u64| Offer { tenant: TenantId(2), ..offer(i) };
    let before = wait(quiet(1));
    let greedy = |i: u64| Offer { max_new_tokens: 3000, ..offer(i) };
    let last = (0..100).map(|i| wait(greedy(i))).last().unwrap();
    // It shares the machine with one more, and comes after its own first.
    let after = wait(quiet(2));
    assert!(after <= 4 * before, "{after:?}, {before:?} before");
    assert!(last > 50 * after, "the greedy tenant is to wait {last:?}, the other {after:?}");
}

#[test]
fn equal_requests_are_told_different_times() {
    let rig = Rig::new(|_| ());
    let (mut admission, mut tickets) = full(&rig);
    let none = TimeLimits::default();
    let refused = |admission: &mut Admission| {
        admission.offer(Timestamp(0), &[offer(5)], none).unwrap_err().retry_after.unwrap()
    };
    let waits = [0; 4].map(|_| refused(&mut admission));
    assert!(waits.is_sorted() && waits.windows(2).all(|pair| pair[0] < pair[1]), "{waits:?}");
    for wait in waits {
        admission.leave(tickets.remove(0));
        assert!(admission.offer(Timestamp(0) + wait, &[offer(5)], none).is_ok());
    }
}

#[test]
fn choices_take_a_place_each_and_all_or_none() {
    let rig = Rig::new(|config| config.max_queued_tokens = 60);
    let mut admission = Admission::new(&rig.scheduler);
    let none = TimeLimits::default();
    admission.offer(Timestamp(0), &[offer(1); 3], none).unwrap();
    let refusal = admission.offer(Timestamp(0), &[offer(2); 4], none).unwrap_err();
    assert_eq!(refusal.because, RefusedBecause::QueueTokens { queued: 30, limit: 60 });
    assert_eq!((admission.n_queued(), admission.queued_tokens()), (3, 30));
    // A prompt of any length has a place where nothing else waits.
    let mut admission = Admission::new(&rig.scheduler);
    let long = Offer { prompt_tokens: 1000, ..offer(3) };
    assert!(admission.offer(Timestamp(0), &[long], none).is_ok());
}

#[test]
fn what_no_wait_would_make_possible_is_refused_for_ever() {
    let rig = Rig::new(|_| ());
    let mut admission = Admission::new(&rig.scheduler);
    let limits = TimeLimits { deadline: Some(Duration::from_millis(10)), ..TimeLimits::default() };
    let long = Offer { prompt_tokens: 1000, ..offer(1) };
    let refusal = admission.offer(Timestamp(0), &[long], limits).unwrap_err();
    assert!(matches!(refusal.because, RefusedBecause::Deadline { .. }));
    assert_eq!(refusal.retry_after, None);
}

#[test]
fn what_is_suggested_is_guessed_before_anything_else_and_holds_for_one_token() {
    let mut rig = Rig::new(|config| config.speculate = true);
    rig.add(1, 1, Priority::Interactive, 10);
    (0..100).for_each(|_| drop(rig.step()));
    for n_certain in [0, 2] {
        let before = rig.scheduler.counters();
        rig.scheduler.suggest(SeqId(1), [7, 8, 9].into_iter(), n_certain);
        let row = rig.scheduler.schedule(rig.now).rows[0];
        assert_eq!((row.n_tokens, row.n_drafts, row.n_logits), (4, 3, 4));
        let seq = rig.scheduler.sequence(SeqId(1)).unwrap();
        assert!(seq.tokens_and_drafts().ends_with(&[7, 8, 9]) && !seq.tokens().ends_with(&[9]));
        rig.scheduler.complete(&[7, 8, 4].map(|token| Drawn { seq: SeqId(1), token }));
        rig.scheduler.check_integrity().unwrap();
        assert!(rig.scheduler.sequence(SeqId(1)).unwrap().tokens().ends_with(&[7, 8, 4]));
        let [suggested, drawn] = rig.scheduler.counters().suggested_tokens;
        assert_eq!(suggested - before.suggested_tokens[0], 3);
        assert_eq!(drawn - before.suggested_tokens[1], 2);
        (0..30).for_each(|_| drop(rig.step()));
        assert_eq!(rig.scheduler.counters().suggested_tokens, [suggested, drawn]);
    }
}

#[test]
fn a_guess_that_an_answer_ends_with_was_right() {
    let mut rig = Rig::new(|config| config.speculate = true);
    rig.add(1, 1, Priority::Interactive, 10);
    (0..100).for_each(|_| drop(rig.step()));
    let of_answer = |rig: &Rig| rig.scheduler.sequence(SeqId(1)).unwrap().n_drafted_accepted();
    let (before, of_answer_before) = (rig.scheduler.counters(), of_answer(&rig));
    rig.scheduler.suggest(SeqId(1), [7, 8, 9].into_iter(), 0);
    assert_eq!(rig.scheduler.schedule(rig.now).rows[0].n_drafts, 3);
    rig.scheduler.complete(&[7, 8].map(|token| Drawn { seq: SeqId(1), token }));
    rig.scheduler.check_integrity().unwrap();
    let (after, of_answer_after) = (rig.scheduler.counters(), of_answer(&rig));
    let of_forms = [0, 1].map(|i| after.suggested_tokens[i] - before.suggested_tokens[i]);
    let of_all =
        [after.draft_tokens - before.draft_tokens, after.accepted_tokens - before.accepted_tokens];
    assert_eq!((of_forms, of_all), ([3, 2], [3, 2]));
    assert_eq!(of_answer_after.0 - of_answer_before.0, 3);
    assert_eq!(of_answer_after.1 - of_answer_before.1, 2);
    assert!(rig.scheduler.sequence(SeqId(1)).unwrap().tokens().ends_with(&[7, 8]));
}

#[test]
fn a_copy_goes_on_beyond_what_was_suggested() {
    let guessed = |suggested: &[TokenId]| {
        let mut rig = Rig::new(|config| {
            (config.speculate, config.max_token_gap) = (true, Duration::ZERO);
        });
        // It ends as it began.
        let prompt = (100..130).chain(100..110).collect();
        rig.add_with(1, 1, Priority::Interactive, prompt);
        rig.scheduler.schedule(rig.now);
        rig.scheduler.observe(2e-2);
        rig.scheduler.complete(&[Drawn { seq: SeqId(1), token: 110 }]);
        rig.scheduler.suggest(SeqId(1), suggested.iter().copied(), 1);
        let row = rig.scheduler.schedule(rig.now).rows[0];
        rig.scheduler.check_integrity().unwrap();
        let tokens = rig.scheduler.sequence(SeqId(1)).unwrap().tokens_and_drafts();
        tokens[tokens.len() - row.n_drafts..].to_vec()
    };
    let copy = guessed(&[111, 112]);
    assert!(copy.len() > 2 && copy.iter().copied().eq(111..111 + copy.len() as u32));
    // What is suggested holds where the copy says otherwise.
    assert_eq!(guessed(&[111, 7]), [111, 7]);
}

#[test]
fn suggestions_that_are_wrong_are_guessed_less_unless_they_are_certain() {
    let mut rig = Rig::new(|_| ());
    rig.add(1, 1, Priority::Interactive, 10);
    (0..100).for_each(|_| drop(rig.step()));
    rig.scheduler.config.speculate = true;
    let guessed = |rig: &mut Rig, n_certain: usize| {
        rig.scheduler.suggest(SeqId(1), [7, 8, 9, 10].into_iter(), n_certain);
        let step = rig.scheduler.schedule(rig.now).clone();
        rig.scheduler.observe(3e-3 + 9e-4 * step.shape.n_drafts as f64);
        rig.scheduler.complete(&[Drawn { seq: SeqId(1), token: 4 }]);
        step.rows[0].n_drafts
    };
    assert!(rig.scheduler.n_may_guess() > 0);
    assert_eq!(guessed(&mut rig, 0), 4);
    let n_tried = (0..100).filter(|_| guessed(&mut rig, 0) > 0).count();
    assert!(n_tried < 30, "wrong ones were tried {n_tried} times");
    assert_eq!(guessed(&mut rig, 4), 4);
    rig.scheduler.config.speculate = false;
    assert_eq!(rig.scheduler.n_may_guess(), 0);
}

#[test]
fn guesses_are_looked_for_as_far_as_they_pay_beside_those_that_decode() {
    let mut rig = Rig::new(|config| {
        (config.speculate, config.max_num_seqs, config.max_queued_requests) = (true, 16, 16);
        config.max_token_gap = Duration::ZERO;
    });
    assert_eq!(rig.scheduler.n_may_guess(), 0, "nobody runs");
    rig.add(1, 1, Priority::Interactive, 10);
    rig.step();
    assert_eq!(rig.scheduler.n_may_guess(), 1, "what a guess takes is tried with one");
    // A guess takes almost as long as a step of one.
    for i in 0..60 {
        let guess = (i % 3 > 0).then_some(7);
        rig.scheduler.suggest(SeqId(1), guess.into_iter(), 1);
        let n_drafts = rig.scheduler.schedule(rig.now).shape.n_drafts;
        rig.scheduler.observe(3e-3 + 1.8e-3 * n_drafts as f64);
        let right = guess.filter(|_| n_drafts > 0).into_iter();
        // The text repeats nothing, so that nothing else is guessed.
        let drawn: Vec<Drawn> =
            right.chain([100 + i]).map(|token| Drawn { seq: SeqId(1), token }).collect();
        rig.scheduler.complete(&drawn);
    }
    assert!(rig.scheduler.counters().drafts >= 4);
    assert_eq!(rig.scheduler.n_may_guess(), rig.scheduler.config.max_extra_logits);
    // The prompts of many are computed in a step in which nobody decodes.
    rig.scheduler.remove(SeqId(1));
    (2..18).for_each(|i| rig.add(i, 1, Priority::Interactive, 10));
    rig.step();
    let shape = rig.scheduler.step().shape;
    assert_eq!((shape.n_decodes, shape.n_prefill_tokens), (0, 160));
    assert_eq!(rig.scheduler.n_may_guess(), 0);
}

#[test]
fn guesses_make_no_step_of_background_longer_than_background_may_be() {
    // A step in which each row draws `token`, as often as was guessed and once more. Its seconds and its guesses.
    let step = |rig: &mut Rig, token: TokenId| {
        let shape = rig.scheduler.schedule(rig.now).shape;
        let n_rows = (shape.n_decodes + shape.n_drafts) as f64;
        let seconds = 2e-3 + 1e-3 * n_rows + 5e-4 * shape.n_prefill_tokens as f64;
        rig.now = rig.now + Duration::from_secs_f64(seconds);
        rig.scheduler.observe(seconds);
        let rows = rig.scheduler.step().rows.clone();
        let rows = rows.iter().filter(|row| row.samples);
        let drawn = rows.flat_map(|row| (0..=row.n_drafts).map(|_| Drawn { seq: row.seq, token }));
        rig.scheduler.complete(&drawn.collect::<Vec<_>>());
        (seconds, shape.n_drafts)
    };
    for (class, is_short) in [(Priority::Background, true), (Priority::Batch, false)] {
        let mut rig = Rig::new(|config| {
            (config.speculate, config.max_token_gap) = (true, Duration::from_millis(100));
        });
        // What a step takes without guesses: nothing of this text comes again.
        rig.add_with(0, 1, Priority::Interactive, (1000..1040).collect());
        for i in 0..40 {
            step(&mut rig, 100 + i);
        }
        rig.scheduler.remove(SeqId(0));
        // One token again and again: all guesses are right. What they take is learnt from the first ones.
        rig.add(1, 1, class, 40);
        let steps = (0..25).map(|_| step(&mut rig, 5)).skip(8);
        let (longest, most) = steps.fold((0.0_f64, 0), |(s, n), (t, m)| (s.max(t), n.max(m)));
        assert!(most > 1, "{class:?}: nothing is guessed");
        assert_eq!(longest < 0.0125, is_short, "{class:?}: {longest} s with {most} guesses");
    }
}
