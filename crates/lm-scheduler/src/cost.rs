//! How long a step will take on this machine, learnt from the steps that were measured.
//!
//! It must never know a clock: durations are given to it.
//!
//! Start reading at [`CostModel`].

use crate::ScheduledRow;

/// Terms of the model: fixed, per decode row, per prefill token, per KV token that a decode row
/// attends to, per KV token that a prefill token or a draft attends to, per draft, and per row of logits that
/// belongs to a prompt.
const N_TERMS: usize = 7;
/// What a model that has seen nothing assumes, in seconds: a small model on two cores.
const PRIOR: [f64; N_TERMS] = [1e-3, 5e-4, 5e-4, 5e-8, 5e-8, 2e-4, 1e-4];
/// What remains of a measurement's weight after the next one of its kind.
const FORGETTING: f64 = 0.98;
/// Weight of what was believed before, beside one measurement.
const INERTIA: f64 = 0.01;
/// Rounds of coordinate descent for each measurement; the last solution is where it starts.
const N_SWEEPS: usize = 12;
/// Measurements of a kind that are believed as they are.
const N_TRUSTED: u32 = 8;
/// Later ones count as at most this many times longer than predicted: a machine that was taken away
/// for a moment is not a slow machine. One that stays slow is believed within a few steps.
const MOST_SURPRISE: f64 = 1.5;
/// How much of a surprise is put down to the machine's speed at the moment.
const SPEED_GAIN: f64 = 0.1;
/// How much of the error's moving average the newest step is.
const ERROR_GAIN: f64 = 1.0 / 32.0;

/// What a step's duration depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepShape {
    /// Rows of one token.
    pub n_decodes: usize,
    /// Tokens of prefill chunks.
    pub n_prefill_tokens: usize,
    /// KV tokens that decode rows attend to, summed over rows.
    pub decode_attended: usize,
    /// KV tokens that prefill tokens and drafts attend to, summed over tokens.
    pub prefill_attended: usize,
    /// Guessed tokens of decode rows.
    pub n_drafts: usize,
    /// Rows of logits beyond those that a token is drawn from, of prompts.
    pub n_scored: usize,
}

/// Predicts a step's duration, in seconds, as a sum of non-negative costs for each of its parts, times
/// the speed of the machine at the moment. Fitted by least squares of relative errors over recent steps;
/// steps with and without prefill are forgotten separately, so that a long time of decodes does not
/// erase what prefill costs.
#[derive(Clone, Debug, PartialEq)]
pub struct CostModel {
    /// Seconds for each term. None is negative.
    costs: [f64; N_TERMS],
    /// How much longer steps take now than `costs` say.
    slowness: f64,
    /// Without and with prefill.
    kinds: [Measured; 2],
    error: f64,
}

/// The normal equations of the recent steps of one kind.
#[derive(Clone, Debug, Default, PartialEq)]
struct Measured {
    products: [[f64; N_TERMS]; N_TERMS],
    targets: [f64; N_TERMS],
    n_steps: u32,
}

impl StepShape {
    /// Adds a row that computes the token at `position` alone.
    pub fn add_decode(&mut self, position: usize) {
        self.n_decodes += 1;
        self.decode_attended += position + 1;
    }

    /// Adds a chunk of `n_tokens` from position `start` on. Each token attends to all before it, so
    /// the late chunks of a long prompt cost more than the early ones.
    pub fn add_prefill(&mut self, start: usize, n_tokens: usize) {
        self.n_prefill_tokens += n_tokens;
        self.attend(start, n_tokens);
    }

    /// Adds guesses for the positions `start..start + n_drafts` of a row.
    pub fn add_drafts(&mut self, start: usize, n_drafts: usize) {
        self.n_drafts += n_drafts;
        self.attend(start, n_drafts);
    }

    fn attend(&mut self, start: usize, n_tokens: usize) {
        self.prefill_attended += n_tokens * start + n_tokens * (n_tokens + 1) / 2;
    }

    fn terms(&self) -> [f64; N_TERMS] {
        let counts = [
            1,
            self.n_decodes,
            self.n_prefill_tokens,
            self.decode_attended,
            self.prefill_attended,
            self.n_drafts,
            self.n_scored,
        ];
        counts.map(|count| count as f64)
    }
}

impl Default for CostModel {
    fn default() -> Self {
        let kinds = [Measured::default(), Measured::default()];
        CostModel { costs: PRIOR, slowness: 1.0, kinds, error: 0.0 }
    }
}

impl CostModel {
    /// The duration of a step, in seconds.
    #[must_use]
    pub fn predict(&self, shape: &StepShape) -> f64 {
        self.slowness * dot(&self.costs, &shape.terms())
    }

    /// What a prompt's tokens `start..start + n_tokens` add to steps, in seconds.
    #[must_use]
    pub fn prefill(&self, start: usize, n_tokens: usize) -> f64 {
        let mut shape = StepShape::default();
        shape.add_prefill(start, n_tokens);
        self.predict(&shape) - self.predict(&StepShape::default())
    }

    /// How much of a step each row is, in seconds: what it adds by itself, and an equal part of what a step takes
    /// however little it computes. A row's own part is the same alone and beside others.
    pub fn shares(&self, rows: &[ScheduledRow], shares: &mut Vec<f64>) {
        let fixed = self.predict(&StepShape::default()) / rows.len().max(1) as f64;
        shares.clear();
        shares.extend(
            rows.iter().map(|row| {
                self.predict(&row.shape()) - self.predict(&StepShape::default()) + fixed
            }),
        );
        // A model that was taught that nothing costs anything.
        if shares.iter().sum::<f64>() <= 0.0 {
            shares.clear();
            shares.extend(rows.iter().map(|row| row.n_tokens as f64));
        }
        let whole: f64 = shares.iter().sum();
        shares.iter_mut().for_each(|share| *share /= whole);
    }

    /// The longest chunk from position `start` on, with logits after each token or after none, with which a step of `shape` takes at most `seconds`.
    #[must_use]
    pub fn longest_chunk(
        &self,
        shape: &StepShape,
        start: usize,
        is_scored: bool,
        seconds: f64,
    ) -> usize {
        let left = seconds / self.slowness - dot(&self.costs, &shape.terms());
        if left <= 0.0 {
            return 0;
        }
        // n tokens cost `square * n^2 + linear * n`.
        let square = self.costs[4] / 2.0;
        let scoring = if is_scored { self.costs[6] } else { 0.0 };
        let linear = self.costs[2] + scoring + self.costs[4] * (start as f64 + 0.5);
        let root = (linear * linear + 4.0 * square * left).sqrt();
        (2.0 * left / (linear + root)) as usize
    }

    /// Recent steps' mean of |predicted - measured| / measured.
    #[must_use]
    pub fn relative_error(&self) -> f64 {
        self.error
    }

    /// Learns from a step that took `seconds`; 0 and what is no number teach nothing.
    pub fn observe(&mut self, shape: &StepShape, seconds: f64) {
        if !(seconds.is_finite() && seconds > 0.0) {
            return;
        }
        let terms = shape.terms();
        let expected = dot(&self.costs, &terms).max(f64::MIN_POSITIVE);
        let predicted = expected * self.slowness;
        let error = ((predicted - seconds) / seconds).abs();
        self.error += ERROR_GAIN * (error.min(10.0) - self.error);
        let kind = &mut self.kinds[usize::from(shape.n_prefill_tokens > 0)];
        let mut ratio = seconds / predicted;
        if kind.n_steps >= N_TRUSTED {
            ratio = ratio.clamp(1.0 / MOST_SURPRISE, MOST_SURPRISE);
            self.slowness *= 1.0 + SPEED_GAIN * (ratio - 1.0);
            self.slowness = self.slowness.clamp(0.05, 20.0);
        }
        kind.n_steps = kind.n_steps.saturating_add(1);
        kind.add(&terms, expected * ratio);
        self.fit();
    }

    /// Coordinate descent on the normal equations, kept non-negative, and near to the last solution
    /// wherever the measurements say nothing.
    fn fit(&mut self) {
        let before = self.costs;
        let [plain, prefill] = &self.kinds;
        for _ in 0..N_SWEEPS {
            for i in 0..N_TERMS {
                let scale = before[i].max(1e-3 * PRIOR[i]);
                let pull = INERTIA / (scale * scale);
                let mut target = plain.targets[i] + prefill.targets[i] + pull * before[i];
                for j in (0..N_TERMS).filter(|&j| j != i) {
                    let product = plain.products[i][j] + prefill.products[i][j];
                    target -= product * self.costs[j];
                }
                let square = plain.products[i][i] + prefill.products[i][i] + pull;
                self.costs[i] = (target / square).max(0.0);
            }
        }
    }
}

impl Measured {
    /// Weighs errors relative to the step's duration, so that short steps count as much as long ones.
    fn add(&mut self, terms: &[f64; N_TERMS], seconds: f64) {
        let row = terms.map(|term| term / seconds);
        for (i, products) in self.products.iter_mut().enumerate() {
            for (product, other) in products.iter_mut().zip(row) {
                *product = FORGETTING * *product + row[i] * other;
            }
            self.targets[i] = FORGETTING * self.targets[i] + row[i];
        }
    }
}

fn dot(a: &[f64; N_TERMS], b: &[f64; N_TERMS]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use lm_types::SeqId;

    use super::*;

    /// A machine: fixed 4 ms, 1 ms a row, 0.7 ms a prefill token, 40 ns and 90 ns an attended token.
    fn seconds(shape: &StepShape) -> f64 {
        dot(&[4e-3, 1e-3, 7e-4, 4e-8, 9e-8, 3e-4, 2e-4], &shape.terms())
    }

    fn step(n_decodes: usize, context: usize, start: usize, n_prefill: usize) -> StepShape {
        let mut shape = StepShape::default();
        (0..n_decodes).for_each(|_| shape.add_decode(context));
        shape.add_prefill(start, n_prefill);
        shape
    }

    /// Decodes of several batch sizes and the chunks of long prompts.
    fn mixed(i: usize) -> StepShape {
        match i % 3 {
            0 => step(1 + i % 17, 100 + 10 * i, 0, 0),
            1 => step(i % 5, 400, 128 * (i % 20), 128),
            _ => step(2, 50 * i, 64 * (i % 40), 16 + i % 64),
        }
    }

    fn taught(n: usize, slowness: impl Fn(usize) -> f64) -> CostModel {
        let mut model = CostModel::default();
        for i in 0..n {
            let shape = mixed(i);
            model.observe(&shape, seconds(&shape) * slowness(i));
        }
        model
    }

    #[track_caller]
    fn check(model: &CostModel, shape: &StepShape, slowness: f64, tolerance: f64) {
        let (found, expect) = (model.predict(shape), seconds(shape) * slowness);
        assert!((found / expect - 1.0).abs() < tolerance, "{found} s, expected {expect} s");
    }

    #[test]
    fn a_dozen_steps_teach_it_and_a_hundred_teach_it_well() {
        for (n, tolerance) in [(12, 0.25), (100, 0.05)] {
            let model = taught(n, |_| 1.0);
            for shape in [step(1, 300, 0, 0), step(16, 300, 0, 0), step(1, 300, 2500, 64)] {
                check(&model, &shape, 1.0, tolerance);
            }
        }
        assert!(taught(300, |_| 1.0).relative_error() < 0.03);
    }

    #[test]
    fn late_chunks_are_shorter_and_fit_the_time() {
        let model = taught(100, |_| 1.0);
        let decodes = step(4, 300, 0, 0);
        let lengths =
            [0, 3000, 30_000].map(|start| model.longest_chunk(&decodes, start, false, 0.06));
        assert!(lengths[0] > lengths[1] && lengths[1] > lengths[2], "{lengths:?}");
        for (start, n) in [0, 3000, 30_000].into_iter().zip(lengths) {
            assert!(model.predict(&step(4, 300, start, n)) <= 0.06);
            assert!(model.predict(&step(4, 300, start, n + 1)) > 0.06);
        }
        assert_eq!(model.longest_chunk(&step(400, 300, 0, 0), 0, false, 0.06), 0);
    }

    #[test]
    fn a_machine_that_is_taken_away_now_and_then_is_not_slow() {
        let model = taught(300, |i| if i % 10 == 9 { 8.0 } else { 1.0 });
        check(&model, &step(8, 300, 0, 0), 1.0, 0.2);
        check(&model, &step(1, 300, 1000, 64), 1.0, 0.2);
    }

    #[test]
    fn a_machine_that_becomes_slow_is_believed_for_prefill_too() {
        let mut model = taught(100, |_| 1.0);
        for i in 0..25 {
            let shape = step(1 + i % 4, 300, 0, 0);
            model.observe(&shape, 2.0 * seconds(&shape));
        }
        // Only decodes were seen since.
        check(&model, &step(4, 300, 1000, 64), 2.0, 0.25);
    }

    #[test]
    fn nothing_unlearns_prefill_during_decodes() {
        let mut model = taught(100, |_| 1.0);
        for i in 0..20_000 {
            let shape = step(1, 300 + i % 1000, 0, 0);
            model.observe(&shape, seconds(&shape));
        }
        check(&model, &step(1, 300, 1000, 64), 1.0, 0.1);
    }

    #[test]
    fn a_step_is_shared_by_what_its_rows_take() {
        let model = taught(300, |_| 1.0);
        let row = |start, n_tokens| {
            let (seq, n_drafts, n_logits, samples) = (SeqId(0), 0, 1, true);
            ScheduledRow { seq, start, n_tokens, n_drafts, n_logits, samples }
        };
        let mut shares = vec![9.0];
        let rows = [row(100, 1), row(100, 1), row(30_000, 1), row(4000, 256)];
        model.shares(&rows, &mut shares);
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        assert_eq!(shares[0], shares[1]);
        // By their tokens, the rows would have been 0.4 %, 0.4 %, 0.4 % and 98.8 %.
        assert!(shares[2] > 1.5 * shares[0] && shares[3] > 20.0 * shares[2], "{shares:?}");
        model.shares(&rows[..1], &mut shares);
        assert_eq!(shares, [1.0]);
    }

    #[test]
    fn odd_durations_teach_nothing() {
        let mut model = taught(30, |_| 1.0);
        let before = model.clone();
        for odd in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            model.observe(&step(1, 10, 0, 0), odd);
        }
        assert_eq!(model, before);
    }
}
