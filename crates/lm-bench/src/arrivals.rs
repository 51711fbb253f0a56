//! When requests are sent.

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, Gamma};

use crate::error::invalid;
use crate::{BenchError, Sample};

/// When requests are sent. How many are in flight at once is bounded apart from it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrivals {
    /// All at once; with a bound on how many are in flight, a closed loop.
    AtOnce,
    /// At random times.
    Rate {
        /// Requests per second.
        per_second: f64,
        /// The shape of the gamma distribution of the gaps: 1 is a Poisson process, less is more bursty, infinity is even.
        burstiness: f64,
    },
    /// When the samples were recorded, this many times faster.
    Recorded {
        /// 1 is as it was.
        speed: f64,
    },
}

impl Arrivals {
    /// Seconds after the start at which each sample is sent, ascending. Random ones are stretched so that the last comes
    /// when the rate says, as `vllm bench serve` does it.
    ///
    /// # Errors
    /// A rate, burstiness or speed that is not positive, or a sample without a recorded time.
    pub(crate) fn offsets(&self, samples: &[Sample], seed: u64) -> Result<Vec<f64>, BenchError> {
        match *self {
            Arrivals::AtOnce => Ok(vec![0.0; samples.len()]),
            Arrivals::Rate { per_second, burstiness } => {
                if !(per_second > 0.0 && per_second.is_finite()) {
                    return Err(invalid("request_rate", per_second, "above 0, or inf"));
                }
                random_offsets(samples.len(), per_second, burstiness, seed)
            }
            Arrivals::Recorded { speed } => {
                if !(speed > 0.0 && speed.is_finite()) {
                    return Err(invalid("recorded_speed", speed, "above 0"));
                }
                let time = |sample: &Sample| {
                    sample.recorded_s.ok_or_else(|| {
                        invalid("dataset", "without times", "one with a timestamp for each prompt")
                    })
                };
                let times = samples.iter().map(time).collect::<Result<Vec<f64>, _>>()?;
                let first = times.iter().copied().fold(f64::INFINITY, f64::min);
                Ok(times.iter().map(|time| (time - first) / speed).collect())
            }
        }
    }
}

fn random_offsets(
    n: usize,
    per_second: f64,
    burstiness: f64,
    seed: u64,
) -> Result<Vec<f64>, BenchError> {
    if burstiness.is_nan() || burstiness <= 0.0 {
        return Err(invalid("burstiness", burstiness, "above 0"));
    }
    let gaps: Vec<f64> = if burstiness.is_infinite() {
        vec![1.0 / per_second; n]
    } else {
        let gamma = Gamma::new(burstiness, 1.0 / (per_second * burstiness))
            .map_err(|_| invalid("burstiness", burstiness, "above 0, and not so extreme"))?;
        gamma.sample_iter(StdRng::seed_from_u64(seed)).take(n).collect()
    };
    let mut at = 0.0;
    let mut offsets: Vec<f64> = gaps
        .into_iter()
        .map(|gap| {
            at += gap;
            at
        })
        .collect();
    if at > 0.0 {
        let stretch = n as f64 / per_second / at;
        offsets.iter_mut().for_each(|offset| *offset *= stretch);
    }
    Ok(offsets)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::PromptBody;

    fn samples(times: &[Option<f64>]) -> Vec<Sample> {
        let sample = |recorded_s: &Option<f64>| Sample {
            prompt: PromptBody::Text("a".to_owned()),
            prompt_tokens: 1,
            output_tokens: 1,
            recorded_s: *recorded_s,
        };
        times.iter().map(sample).collect()
    }

    /// Standard deviation of the gaps over their mean: 1 for a Poisson process.
    fn variation(burstiness: f64) -> f64 {
        let arrivals = Arrivals::Rate { per_second: 50.0, burstiness };
        let offsets = arrivals.offsets(&samples(&[None; 4000]), 7).unwrap();
        assert!(offsets.is_sorted());
        assert!((offsets[3999] - 80.0).abs() < 1e-6, "{}", offsets[3999]);
        let gaps: Vec<f64> = offsets.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        variance.sqrt() / mean
    }

    #[test]
    fn burstiness_shapes_the_gaps_and_the_rate_holds() {
        assert!((variation(1.0) - 1.0).abs() < 0.1);
        assert!((variation(0.25) - 2.0).abs() < 0.25);
        assert!(variation(100.0) < 0.15);
        assert!(variation(f64::INFINITY) < 1e-6);
    }

    #[test]
    fn recorded_times_count_from_the_first() {
        let found = Arrivals::Recorded { speed: 2.0 }
            .offsets(&samples(&[Some(100.0), Some(101.0), Some(104.0)]), 0);
        assert_eq!(found.unwrap(), [0.0, 0.5, 2.0]);
        assert!(Arrivals::Recorded { speed: 1.0 }.offsets(&samples(&[None]), 0).is_err());
    }

    #[test]
    fn rates_that_are_none_are_refused_by_name() {
        for (per_second, burstiness, name) in
            [(0.0, 1.0, "request_rate"), (f64::NAN, 1.0, "request_rate"), (1.0, 0.0, "burstiness")]
        {
            let found = Arrivals::Rate { per_second, burstiness }.offsets(&samples(&[None]), 0);
            assert!(found.unwrap_err().to_string().contains(name));
        }
    }
}
