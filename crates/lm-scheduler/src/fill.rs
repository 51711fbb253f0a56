//! Who gets rows in a step, and how many tokens.
//!
//! Order of service: class, then the least served tenant, then arrival. Decodes come first. The
//! step's predicted time bounds both, see [`Scheduler::time_bounds`].

use std::time::Duration;

use lm_types::{Priority, SeqId};

use crate::waiting::Turn;
use crate::{ScheduledRow, Scheduler, Sequence, StepShape};

/// What part of the token gap's bound a step may take that holds decodes and one prompt: the rest is for
/// what cannot be predicted, such as other processes.
const LEAST_PART: f64 = 0.6;
/// What part it may take while very many prompts wait: each of them waits for all before it.
const MOST_PART: f64 = 0.95;
/// What part of the bound a step of background alone may take: whoever comes meanwhile waits for its end, if it has readers.
const BACKGROUND_PART: f64 = 0.1;
/// How many times what one row takes it may take, too: large models read their weights for longer than that part, and
/// many rows share the reading.
const BACKGROUND_TIMES: f64 = 1.25;
/// How many times as long a step of others may become for background: what it takes from streams, those who wait for
/// their first token lose as well.
const BACKGROUND_BESIDE: f64 = 1.05;
/// Prefill tokens that a step may hold whatever they take, so that no prompt waits for ever. Without streams, chunks that
/// do not end a prompt are multiples of it, as kernels take rows in such tiles.
pub(crate) const LEAST_CHUNK: usize = 16;
/// The same where streams run, late in a long prompt, and for background: with fewer, the weights would be read for too
/// little.
const LEAST_BESIDE: usize = LEAST_CHUNK / 2;
/// Of what chunks beside streams are multiples, so that they come near to the bound and not beyond it.
const GRAIN_BESIDE: usize = LEAST_CHUNK / 4;
/// Where decodes alone exceed the bound they take turns; one that was left out of so many steps goes
/// first, whatever its class and tenant.
const MOST_LEFT_OUT: u64 = 32;

/// After so many steps of background alone they teach what steps without guesses take: until then the short ones, in which
/// the machine's own hitches weigh more, would make the chunks of prompts shorter.
const LEARNT_ALONE: u64 = 256;

/// A running sequence in a step's order; smaller is earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Candidate {
    /// False, so first, when it was left out of too many steps.
    is_in_turn: bool,
    class: Priority,
    served: u64,
    n_slots: usize,
    /// For decodes: when it last had a row, counted in rows, so that a tenant's streams take turns.
    last_row: u64,
    arrival: u64,
    id: SeqId,
}

/// What is left of a step.
struct Room {
    tokens: usize,
    /// Rows of logits beyond one for each sequence.
    extra_logits: usize,
    /// What part of the bound decodes and prefill together may take.
    mixed_part: f64,
    /// Whether background sequences get rows.
    background: bool,
    /// The step without them.
    urgent: StepShape,
    /// Whether anybody was given prefill tokens.
    has_prefill: bool,
}

impl Candidate {
    fn turn(&self) -> Turn {
        (self.class, self.served, self.n_slots, self.arrival)
    }
}

impl Scheduler {
    /// Fills the step: decodes, then prefills and admissions.
    pub(crate) fn fill_step(&mut self) {
        let background = !self.has_urgent_work();
        let mut room = Room {
            tokens: self.config.max_batch_tokens,
            extra_logits: self.config.max_extra_logits,
            mixed_part: self.mixed_part(),
            background,
            urgent: StepShape::default(),
            has_prefill: false,
        };
        self.schedule_decodes(&mut room);
        self.schedule_prefills(&mut room);
        // Those that hold all blocks between them would wait for each other for ever. What is on its way
        // from outside comes, or is given up.
        while self.step.rows.is_empty()
            && !self.is_importing()
            && self.running.len() + self.paused.len() > 1
        {
            if self.preempt_worst(None).is_none() {
                return;
            }
            self.schedule_prefills(&mut room);
        }
        self.draft(room.tokens, room.urgent.n_decodes > 0);
    }

    /// The seconds that a step of decodes may take when it gets a row of `class`, and one of decodes and
    /// prefill. Without decodes prefill has the whole bound: no stream stalls, and whoever comes meanwhile
    /// waits no longer than a stream would. Background has less of both. `None` without a bound.
    fn time_bounds(&self, room: &Room, class: Priority) -> Option<(f64, f64)> {
        let bound = self.config.max_token_gap;
        let mut seconds = bound.as_secs_f64();
        if class == Priority::Background {
            let most = match room.urgent.n_decodes {
                0 => self.most_alone(),
                _ => BACKGROUND_BESIDE * self.cost.predict(&room.urgent),
            };
            seconds = seconds.min(most);
        }
        let mixed = if self.step.shape.n_decodes > 0 { room.mixed_part * seconds } else { seconds };
        (bound > Duration::ZERO).then_some((seconds, mixed))
    }

    /// Learns how long the last step took.
    pub fn observe(&mut self, seconds: f64) {
        let is_urgent =
            |id: &SeqId| self.sequences.get(id).is_some_and(|seq| seq.class < Priority::Background);
        if self.step.rows.iter().any(|row| is_urgent(&row.seq)) {
            self.last_urgent = self.n_steps;
        }
        let n_alone = self.n_steps - self.last_urgent;
        let is_rare = self.last_urgent == 0 || self.step.shape.n_drafts > 0;
        if n_alone == 0 || is_rare || n_alone > LEARNT_ALONE {
            self.cost.observe(&self.step.shape, seconds);
        }
    }

    /// The seconds that a step of background alone may take, under a bound.
    pub(crate) fn most_alone(&self) -> f64 {
        let mut least = StepShape::default();
        least.add_decode(0);
        let part = BACKGROUND_PART * self.config.max_token_gap.as_secs_f64();
        part.max(BACKGROUND_TIMES * self.cost.predict(&least))
    }

    /// What part of the bound a step of decodes and prefill may take now. At a given throughput a stream's
    /// token can only come sooner where a prompt's first token comes later, so prompts get more of
    /// the time the more of them there are.
    pub(crate) fn mixed_part(&self) -> f64 {
        let prefills = self.running.iter().filter(|id| self.sequences[id].n_remaining() > 1);
        let n_prompts = self.waiting.len() + prefills.count();
        MOST_PART - (MOST_PART - LEAST_PART) / n_prompts.max(1) as f64
    }

    /// Whether anything but background waits or prefills: background pauses meanwhile.
    fn has_urgent_work(&self) -> bool {
        let is_urgent = |id: &SeqId| {
            let seq = &self.sequences[id];
            seq.class < Priority::Background && seq.n_remaining() > 1
        };
        let waits = self.waiting.best_class().is_some_and(|class| class < Priority::Background);
        waits || self.running.iter().any(is_urgent)
    }

    /// Lists the running sequences that `wants` in their order.
    fn list(&mut self, room: &Room, wants: impl Fn(&Sequence) -> bool, take_turns: bool) {
        let (n_steps, sequences, tenants) = (self.n_steps, &self.sequences, &self.tenants);
        self.order.clear();
        for id in &self.running {
            let seq = &sequences[id];
            let is_ready = !seq.is_importing() && wants(seq);
            if !is_ready || (seq.class == Priority::Background && !room.background) {
                continue;
            }
            let tenant = tenants.get(seq.tenant);
            self.order.push(Candidate {
                is_in_turn: !take_turns
                    || seq.class == Priority::Background
                    || n_steps - seq.last_step <= MOST_LEFT_OUT,
                class: seq.class,
                served: tenant.served,
                n_slots: tenant.n_slots,
                last_row: if take_turns { seq.last_row } else { 0 },
                arrival: seq.arrival,
                id: *id,
            });
        }
        self.order.sort_unstable();
    }

    /// Gives one token to each sequence that lacks only one, as far as the time goes.
    fn schedule_decodes(&mut self, room: &mut Room) {
        self.list(room, |seq| seq.n_remaining() == 1, true);
        for i in 0..self.order.len() {
            let id = self.order[i].id;
            let class = self.order[i].class;
            let mut shape = self.step.shape;
            shape.add_decode(self.sequences[&id].n_computed);
            let is_over = |bounds: Option<(f64, f64)>| {
                bounds.is_some_and(|(seconds, _)| {
                    shape.n_decodes > 1 && self.cost.predict(&shape) > seconds
                })
            };
            let is_too_long = is_over(self.time_bounds(room, class));
            let takes_turn = is_too_long
                && self.background_may_take_turn(room, class)
                && !is_over(self.time_bounds(room, Priority::Interactive));
            if room.tokens == 0 || (is_too_long && !takes_turn) {
                return;
            }
            if takes_turn {
                self.last_beside = self.n_steps;
            }
            // An earlier one may have taken its blocks.
            if self.sequences[&id].is_running && self.make_room_for_one(id) {
                self.schedule_row(id, 1, room);
            }
        }
    }

    /// Whether it is time for a row of background beside others' decodes that does not fit into the step's time: all of
    /// background has one turn.
    fn background_may_take_turn(&self, room: &Room, class: Priority) -> bool {
        class == Priority::Background
            && room.urgent.n_decodes > 0
            && self.n_steps - self.last_beside > MOST_LEFT_OUT
    }

    /// Gives chunks to prefilling sequences and slots to waiting ones, whoever's turn it is.
    fn schedule_prefills(&mut self, room: &mut Room) {
        self.list(room, |seq| seq.n_remaining() > 1, false);
        let mut i = 0;
        // Who was just preempted would be admitted again at once, and take the blocks back.
        let mut admits = self.step.preempted.is_empty() || self.running.is_empty();
        while room.tokens > 0 {
            let running = self.order.get(i).copied();
            let may_run = |class| class < Priority::Background || room.background;
            let waiting = self.waiting.next(&self.tenants);
            let waiting = waiting.filter(|((class, ..), _)| admits && may_run(*class));
            let id = match (running, waiting) {
                (Some(running), waiting)
                    if waiting.is_none_or(|(turn, _)| running.turn() < turn) =>
                {
                    i += 1;
                    running.id
                }
                (_, Some(((class, ..), id))) if self.has_time(room, class) => {
                    match self.admit_or_resume(id) {
                        Some(id) => id,
                        None => {
                            admits = false;
                            continue;
                        }
                    }
                }
                _ => return,
            };
            // It may have lost its slot meanwhile, and got it again.
            let seq = &self.sequences[&id];
            let is_next = seq.is_running && seq.last_step != self.n_steps && !seq.is_importing();
            if is_next && !self.schedule_chunk(id, room) {
                return;
            }
        }
    }

    /// Whether there is time for one more chunk, of `class`.
    fn has_time(&self, room: &Room, class: Priority) -> bool {
        let longest = |(_, mixed)| self.cost.longest_chunk(&self.step.shape, 0, false, mixed);
        !room.has_prefill
            || self.time_bounds(room, class).is_none_or(|bounds| longest(bounds) >= LEAST_CHUNK)
    }

    /// Gives a sequence as many tokens as budget, free blocks and time allow. False when the time
    /// is up.
    fn schedule_chunk(&mut self, id: SeqId, room: &mut Room) -> bool {
        let seq = &self.sequences[&id];
        let n_slots = (seq.block_table.len() + self.blocks.n_free()) * self.config.block_size;
        let is_scored = seq.unscored_from.is_some();
        // Before the first position whose logits are wanted, any number; from there on each takes a row.
        let n_free_rows = seq.n_scored().saturating_sub(seq.n_computed);
        let n_rows = n_free_rows.saturating_add(room.extra_logits + 1);
        let n_free_slots = n_slots - seq.n_computed;
        let limits = [room.tokens, self.config.max_prefill_chunk, n_free_slots, n_rows];
        let most = limits.into_iter().fold(seq.n_remaining(), usize::min);
        let in_time = self.time_bounds(room, seq.class).map_or(most, |(_, seconds)| {
            let shape = &self.step.shape;
            if seq.n_remaining() == 1 {
                // It counts as a decode.
                let mut with = *shape;
                with.add_decode(seq.n_computed);
                return usize::from(self.cost.predict(&with) <= seconds);
            }
            self.cost.longest_chunk(shape, seq.n_computed, is_scored, seconds)
        });
        // One that was paused between two tokens takes its turn among the decodes.
        let is_prompt = seq.n_remaining() > 1 || self.step.rows.is_empty();
        let is_beside = self.step.shape.n_decodes > 0 && self.config.max_token_gap > Duration::ZERO;
        let (least, grain) = match is_beside || seq.class == Priority::Background {
            true => (LEAST_BESIDE, GRAIN_BESIDE),
            false => (LEAST_CHUNK, LEAST_CHUNK),
        };
        let is_background_beside = seq.class == Priority::Background && room.urgent.n_decodes > 0;
        let must_wait = is_background_beside && !self.background_may_take_turn(room, seq.class);
        let chunk = match in_time {
            _ if in_time >= most => most,
            _ if in_time < least && (room.has_prefill || !is_prompt || must_wait) => 0,
            _ if in_time < least => least.min(most),
            _ => in_time - in_time % grain,
        };
        if chunk > 0 {
            if is_background_beside && in_time < least {
                self.last_beside = self.n_steps;
            }
            room.has_prefill = true;
            self.schedule_row(id, chunk, room);
        }
        chunk > 0 || most == 0
    }

    /// Puts the next `n_tokens` of a sequence into the step, and blocks under them.
    fn schedule_row(&mut self, id: SeqId, n_tokens: usize, room: &mut Room) {
        if self.sequences[&id].first_scheduled.is_none() {
            self.started(id);
        }
        let seq = self.sequences.get_mut(&id).expect("a scheduled sequence is known");
        let (start, end) = (seq.n_computed, seq.n_computed + n_tokens);
        while seq.block_table.len() * self.config.block_size < end {
            let block = self.blocks.allocate().expect("room was made before: this is a bug");
            seq.block_table.push(block);
        }
        let mut shapes = [Some(&mut self.step.shape), None];
        if seq.class < Priority::Background {
            shapes[1] = Some(&mut room.urgent);
        }
        for shape in shapes.into_iter().flatten() {
            match seq.n_remaining() {
                1 => shape.add_decode(start),
                _ => shape.add_prefill(start, n_tokens),
            }
        }
        // What is computed again after a preemption was paid for.
        let paid = seq.n_charged.max(start).min(end);
        let n_prompt = seq.n_prompt.clamp(paid, end) - paid;
        self.tenants.charge(seq.tenant, n_prompt, end - paid - n_prompt);
        seq.n_charged = seq.n_charged.max(end);
        self.n_rows += 1;
        (seq.last_step, seq.last_row) = (self.n_steps, self.n_rows);
        let samples = end == seq.tokens.len();
        let n_scored = if seq.n_generated() == 0 { seq.n_scored().max(start) } else { usize::MAX };
        let n_logits = end.saturating_sub(n_scored).max(usize::from(samples));
        let n_extra = n_logits.saturating_sub(1);
        self.step.shape.n_scored += n_extra;
        let row = ScheduledRow { seq: id, start, n_tokens, n_drafts: 0, n_logits, samples };
        self.step.rows.push(row);
        room.tokens -= n_tokens;
        room.extra_logits -= n_extra;
    }
}
