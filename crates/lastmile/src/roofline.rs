//! What a step cannot do without, and how long that takes at least: the roofline of Williams et al. 2009.
//!
//! Counted are the weights and the KV that a step must read once, and the products with weights. Norms,
//! RoPE and the arithmetic of attention are not: the roofline is a bound, and attention over long
//! contexts stays further below it.

use std::collections::BTreeMap;

use lm_backend::Batch;
use lm_cpu::MachineProbe;
use lm_models::{LayerTensor as T, Model, ModelError, TensorRole, TensorType, tensor_shapes};

/// What this machine gives: the best of what the probes measured.
#[derive(Clone, Debug, PartialEq)]
pub struct MachineRates {
    /// Threads that measured, and that the executor has.
    pub n_threads: usize,
    /// A scan of 256 MiB on huge pages, by all threads.
    pub bandwidth_gb_per_s: f64,
    /// Products with weights of each storage type that the model has, in cache, by all threads.
    pub gmac_per_s: Vec<(TensorType, f64)>,
}

/// The least time for a run of steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Roofline {
    /// The sum over the steps.
    pub seconds: f64,
    /// What takes most of it.
    pub bound: Bound,
}

/// What a step waits for on the roofline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Weights and KV coming from memory.
    Bandwidth,
    /// Products.
    Compute,
}

/// The matrices and the KV of a model, as far as they cost something.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ModelWork {
    /// What every token goes through, by storage type: the layers, but for what follows the last one's K and V.
    layers: BTreeMap<TensorType, Matrices>,
    /// What only rows that are sampled go through: that, and the head.
    sampled: BTreeMap<TensorType, Matrices>,
    /// Positions that each layer sees; `None` sees all.
    windows: Vec<Option<usize>>,
    /// K and V of one position in one layer.
    kv_bytes: u64,
}

/// Weights of one storage type.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Matrices {
    n_params: u64,
    n_bytes: u64,
}

/// What one step must do.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct StepWork {
    n_bytes: u64,
    n_macs: BTreeMap<TensorType, u64>,
}

impl MachineRates {
    /// Measures once, for a model's storage types.
    pub(crate) fn measure(probe: &mut MachineProbe, work: &ModelWork) -> Self {
        let rate = |dtype| Some((dtype, probe.gmac_per_s(dtype)?));
        MachineRates {
            gmac_per_s: work.types().into_iter().filter_map(rate).collect(),
            n_threads: probe.n_threads(),
            bandwidth_gb_per_s: probe.bandwidth_gb_per_s(),
        }
    }

    /// The better of two measurements of the same machine and model, rate by rate.
    pub(crate) fn best(mut self, other: &MachineRates) -> Self {
        self.bandwidth_gb_per_s = self.bandwidth_gb_per_s.max(other.bandwidth_gb_per_s);
        for ((_, rate), (_, other)) in self.gmac_per_s.iter_mut().zip(&other.gmac_per_s) {
            *rate = rate.max(*other);
        }
        self
    }

    /// The least time for `steps`, one after another.
    pub(crate) fn roofline(&self, steps: &[StepWork]) -> Roofline {
        let mut seconds = 0.0;
        let (mut from_bandwidth, mut from_compute) = (0.0, 0.0);
        for step in steps {
            let (reading, computing) = (self.reading_seconds(step), self.computing_seconds(step));
            seconds += reading.max(computing);
            let waited_for =
                if reading > computing { &mut from_bandwidth } else { &mut from_compute };
            *waited_for += reading.max(computing);
        }
        let bound = if from_bandwidth > from_compute { Bound::Bandwidth } else { Bound::Compute };
        Roofline { seconds, bound }
    }

    fn reading_seconds(&self, step: &StepWork) -> f64 {
        step.n_bytes as f64 / (self.bandwidth_gb_per_s * 1e9)
    }

    fn computing_seconds(&self, step: &StepWork) -> f64 {
        let seconds = |(dtype, rate): &(TensorType, f64)| {
            step.n_macs.get(dtype).map_or(0.0, |macs| *macs as f64 / (rate * 1e9))
        };
        self.gmac_per_s.iter().map(seconds).sum()
    }
}

impl ModelWork {
    /// `kv_bytes`: of K and V of one position, in all layers.
    pub(crate) fn of(model: &Model, kv_bytes: u64) -> Result<Self, ModelError> {
        let spec = &model.spec;
        let head_role = match spec.tied_head {
            true => TensorRole::TokenEmbedding,
            false => TensorRole::OutputHead,
        };
        let [mut layers, mut sampled]: [BTreeMap<TensorType, Matrices>; 2] = Default::default();
        for (role, shape) in tensor_shapes(spec) {
            // Norms and biases are vectors; of an embedding that is no head, a step reads a few rows.
            let &[n_rows, k] = shape.as_slice() else { continue };
            if role == TensorRole::TokenEmbedding && role != head_role {
                continue;
            }
            let dtype = model.tensor_type(role)?;
            let n_params = (n_rows * k) as u64;
            let n_bytes = lm_cpu::packed_bytes(dtype, n_rows, k).unwrap_or(0) as u64;
            let matrix = Matrices { n_params, n_bytes };
            let is_sampled = match role {
                TensorRole::Layer(i, tensor) => {
                    let is_before = matches!(tensor, T::AttnQ | T::AttnK | T::AttnV);
                    i + 1 == spec.n_layers && !is_before
                }
                _ => true,
            };
            let of = if is_sampled { &mut sampled } else { &mut layers };
            of.entry(dtype).or_default().add(matrix);
        }
        let windows = spec.sliding_window.clone();
        let kv_bytes = kv_bytes / spec.n_layers.max(1) as u64;
        Ok(ModelWork { layers, sampled, windows, kv_bytes })
    }

    /// The storage types of its matrices.
    fn types(&self) -> Vec<TensorType> {
        let mut types: Vec<_> = self.layers.keys().chain(self.sampled.keys()).copied().collect();
        types.sort_unstable();
        types.dedup();
        types
    }

    pub(crate) fn of_step(&self, batch: &Batch) -> StepWork {
        let mut step = StepWork::default();
        for (dtype, matrices) in &self.layers {
            step.multiply(*dtype, *matrices, batch.n_tokens());
        }
        for (dtype, matrices) in &self.sampled {
            step.multiply(*dtype, *matrices, batch.sample_rows.len());
        }
        for s in 0..batch.n_sequences() {
            let end = batch.context_lens[s] as usize;
            let start = end - batch.tokens_of(s).len();
            step.n_bytes += self.kv_bytes * self.n_positions_read(start, end);
        }
        step
    }

    /// Positions that tokens at `start..end` of a sequence see, each counted once a layer.
    fn n_positions_read(&self, start: usize, end: usize) -> u64 {
        let first = |window: &Option<usize>| match window {
            Some(window) => (start + 1).saturating_sub(*window),
            None => 0,
        };
        self.windows.iter().map(|window| (end - first(window)) as u64).sum()
    }
}

impl Matrices {
    fn add(&mut self, other: Matrices) {
        self.n_params += other.n_params;
        self.n_bytes += other.n_bytes;
    }
}

impl StepWork {
    /// Reads the matrices once and multiplies them with `n_rows` rows.
    fn multiply(&mut self, dtype: TensorType, matrices: Matrices, n_rows: usize) {
        if n_rows > 0 {
            self.n_bytes += matrices.n_bytes;
            *self.n_macs.entry(dtype).or_default() += matrices.n_params * n_rows as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use lm_backend::Want;
    use lm_types::BlockIdx;

    use super::*;

    /// 1000 parameters in Q4_1 that every token meets, 200 in Q8_0 that sampled rows do; two layers, one of which sees 4 positions.
    fn model() -> ModelWork {
        let layers = Matrices { n_params: 1000, n_bytes: 625 };
        ModelWork {
            layers: [(TensorType::Q4_1, layers)].into(),
            sampled: [(TensorType::Q8_0, Matrices { n_params: 200, n_bytes: 212 })].into(),
            windows: vec![None, Some(4)],
            kv_bytes: 10,
        }
    }

    /// The work of a step whose sequences have `(tokens before it, tokens in it, whether one is drawn)`.
    #[track_caller]
    fn check(sequences: &[(usize, usize, bool)], n_bytes: u64, q4_1: u64, q8_0: u64) {
        let mut batch = Batch::default();
        let table: Vec<_> = (0..8).map(BlockIdx).collect();
        for (start, n_tokens, drawn) in sequences {
            let want = drawn.then_some(Want::Argmax);
            batch.push_sequence(&vec![1; *n_tokens], *start, &table, 16, want);
        }
        let step = model().of_step(&batch);
        let macs = |dtype| step.n_macs.get(&dtype).copied().unwrap_or(0);
        let found = (step.n_bytes, macs(TensorType::Q4_1), macs(TensorType::Q8_0));
        assert_eq!(found, (n_bytes, q4_1, q8_0));
    }

    #[test]
    fn a_step_reads_weights_once_and_the_positions_that_its_tokens_see() {
        // A decode row at position 9 sees 10 positions in one layer, and 4 in the other.
        check(&[(9, 1, true)], 625 + 212 + 10 * (10 + 4), 1000, 200);
        // Two of them share the weights and nothing else.
        check(&[(9, 1, true), (1, 1, true)], 625 + 212 + 10 * (14 + 2 + 2), 2000, 400);
        // A chunk at 8..16 that draws nothing needs neither the head nor the end of the last layer; its first token sees from 5 on.
        check(&[(8, 8, false)], 625 + 10 * (16 + 11), 8000, 0);
    }

    #[test]
    fn a_step_takes_the_longer_of_reading_and_computing() {
        let rates = MachineRates {
            n_threads: 2,
            bandwidth_gb_per_s: 2.0,
            gmac_per_s: vec![(TensorType::Q4_1, 4.0), (TensorType::Q8_0, 1.0)],
        };
        let step = |n_bytes, q4_1, q8_0| StepWork {
            n_bytes,
            n_macs: [(TensorType::Q4_1, q4_1), (TensorType::Q8_0, q8_0)].into(),
        };
        // 3 s of reading against 1 + 1 s of products; then 1 s against 2 + 3 s.
        let reads = step(6_000_000_000, 4_000_000_000, 1_000_000_000);
        let computes = step(2_000_000_000, 8_000_000_000, 3_000_000_000);
        let expect = |seconds, bound| Roofline { seconds, bound };
        assert_eq!(rates.roofline(std::slice::from_ref(&reads)), expect(3.0, Bound::Bandwidth));
        assert_eq!(rates.roofline(std::slice::from_ref(&computes)), expect(5.0, Bound::Compute));
        assert_eq!(rates.roofline(&[reads, computes]), expect(8.0, Bound::Compute));
    }

    #[test]
    fn the_better_rate_of_two_measurements_counts() {
        let rates = |bandwidth_gb_per_s, rate| MachineRates {
            n_threads: 2,
            bandwidth_gb_per_s,
            gmac_per_s: vec![(TensorType::Q4_1, rate)],
        };
        assert_eq!(rates(2.0, 9.0).best(&rates(3.0, 8.0)), rates(3.0, 9.0));
    }
}
