//! Steps in an order of the request's own: each is applied to the whole row, and what it takes out is forbidden.
//!
//! It must never be used for the usual order, whose draws are the same bit for bit whatever is done here.
//!
//! Start reading at [`Sampler::draw_in_order`].

use lm_types::{SamplerStep, SamplingParams, TokenId};

use super::{History, SampleError, Sampler, keep_within_sigmas};
use crate::row::Best;
use crate::{repeat, uniform};

impl Sampler {
    /// Applies `steps` to a row that holds only what may be drawn, and draws from what they leave.
    pub(super) fn draw_in_order(
        &mut self,
        row: &mut [f32],
        steps: &[SamplerStep],
        params: &SamplingParams,
        history: History<'_>,
        position: usize,
    ) -> Result<TokenId, SampleError> {
        for step in steps {
            match step {
                SamplerStep::Dry => {
                    if let Some(dry) = &params.dry {
                        repeat::penalise(row, dry, history.prompt, history.generated);
                    }
                }
                SamplerStep::Penalties => self.penalise_seen(row, params, history),
                SamplerStep::TopNSigma if params.top_n_sigma > 0.0 => {
                    keep_within_sigmas(row, params.top_n_sigma);
                }
                SamplerStep::TopNSigma => {}
                SamplerStep::Temperature => self.heat(row, params.temperature)?,
                SamplerStep::TopK | SamplerStep::TypicalP | SamplerStep::TopP => {
                    self.truncate(row, *step, params)?;
                }
                SamplerStep::MinP if params.min_p > 0.0 => {
                    let best = self.blocks.look_through(row)?;
                    forbid_below(row, best.logit + params.min_p.ln());
                }
                SamplerStep::MinP => {}
            }
        }
        let best = self.blocks.look_through(row)?;
        // Without temperature among the steps, 0 is greedy still.
        if params.temperature == 0.0 {
            return Ok(best.token);
        }
        let u = uniform(params.seed, position as u64);
        let total = self.blocks.weigh(row, best.logit, 1.0);
        Ok(self.blocks.at(row, best.logit, 1.0, u * total).unwrap_or(best.token))
    }

    /// At 0 the most likely token is left alone.
    fn heat(&mut self, row: &mut [f32], temperature: f32) -> Result<(), SampleError> {
        if temperature == 0.0 {
            let Best { logit, token } = self.blocks.look_through(row)?;
            row.fill(f32::NEG_INFINITY);
            row[token as usize] = logit;
        } else {
            let factor = 1.0 / temperature.max(1e-4);
            row.iter_mut().for_each(|logit| *logit *= factor);
        }
        Ok(())
    }

    /// Forbids what a step that sorts its candidates leaves out.
    fn truncate(
        &mut self,
        row: &mut [f32],
        step: SamplerStep,
        params: &SamplingParams,
    ) -> Result<(), SampleError> {
        let (blocks, candidates) = (&mut self.blocks, &mut self.candidates);
        match step {
            SamplerStep::TopK if params.top_k > 0 => {
                blocks.look_through(row)?;
                candidates.fill_top_k(row, blocks, params.top_k as usize);
            }
            SamplerStep::TypicalP if params.typical_p < 1.0 => {
                blocks.look_through(row)?;
                candidates.fill_from(row, blocks, f32::MIN);
                candidates.typical_p(f64::from(params.typical_p));
            }
            SamplerStep::TopP if params.top_p < 1.0 => {
                let best = blocks.look_through(row)?;
                candidates.fill_nucleus(row, blocks, best, 1.0, f64::from(params.top_p));
            }
            _ => return Ok(()),
        }
        row.fill(f32::NEG_INFINITY);
        for &(logit, token) in candidates.entries() {
            row[token as usize] = logit;
        }
        Ok(())
    }
}

fn forbid_below(row: &mut [f32], threshold: f32) {
    let below = row.iter_mut().filter(|logit| **logit < threshold);
    below.for_each(|logit| *logit = f32::NEG_INFINITY);
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use lm_types::SamplerStep::{MinP, Penalties, Temperature, TopK, TopNSigma, TopP, TypicalP};

    use super::*;

    /// 3 and 5 are the most likely tokens, one about half as likely as the other.
    const LOGITS: [f32; 6] = [0.0, 1.0, -1.0, 4.0, 0.5, 3.3];

    /// The tokens that come out over many positions, and how often each does. \[6\]
    fn counts(steps: &[SamplerStep], params: &SamplingParams) -> [usize; 6] {
        let params = SamplingParams { samplers: Some(steps.to_vec()), ..params.clone() };
        let (mut sampler, mut counts) = (Sampler::default(), [0; 6]);
        let history = History { generated: &[3], ..History::default() };
        for position in 0..20_000 {
            let drawn = sampler.sample(&LOGITS, &params, history, position).unwrap();
            counts[drawn.token as usize] += 1;
        }
        counts
    }

    #[track_caller]
    fn check(steps: &[SamplerStep], params: &SamplingParams, expect: &[usize]) {
        let counts = counts(steps, params);
        let found: Vec<usize> = (0..6).filter(|&token| counts[token] > 0).collect();
        assert_eq!(found, expect);
    }

    fn params() -> SamplingParams {
        SamplingParams {
            temperature: 2.0,
            top_k: 2,
            top_p: 0.5,
            min_p: 0.3,
            typical_p: 0.3,
            top_n_sigma: 0.5,
            presence_penalty: 2.0,
            ..SamplingParams::default()
        }
    }

    #[test]
    fn only_what_is_named_applies() {
        let all = [0, 1, 2, 3, 4, 5];
        check(&[], &params(), &all);
        check(&[Temperature], &params(), &all);
        check(&[Penalties], &params(), &all);
        check(&[TopK], &params(), &[3, 5]);
        check(&[TopP], &params(), &[3]);
        check(&[MinP], &params(), &[3, 5]);
        check(&[TopNSigma], &params(), &[3, 5]);
        assert_eq!(counts(&[TypicalP], &params()).iter().filter(|&&n| n > 0).count(), 1);
    }

    #[test]
    fn the_order_decides() {
        // Penalised first, 3 falls behind 5 and is not among the best one; afterwards it is alone.
        let one = SamplingParams { top_k: 1, ..params() };
        check(&[Penalties, TopK], &one, &[5]);
        check(&[TopK, Penalties], &one, &[3]);
        // Heat makes the nucleus larger.
        let wide = SamplingParams { top_p: 0.85, ..params() };
        check(&[TopP, Temperature], &wide, &[3, 5]);
        check(&[Temperature, TopP], &wide, &[1, 3, 4, 5]);
        // Greedy picks at its place.
        let greedy = SamplingParams { temperature: 0.0, ..params() };
        check(&[Temperature, Penalties], &greedy, &[3]);
        check(&[Penalties, Temperature], &greedy, &[5]);
        check(&[Penalties], &greedy, &[5]);
    }

    #[test]
    fn bans_come_first_whatever_the_order() {
        let params = SamplingParams { samplers: Some(vec![TopK]), ..params() };
        let sample = |banned: &[TokenId]| {
            let history = History { banned, ..History::default() };
            Sampler::default().sample(&LOGITS, &params, history, 0).map(|drawn| drawn.token)
        };
        assert_eq!(sample(&[0, 1, 2, 3, 5]), Ok(4));
        assert_eq!(sample(&[0, 1, 2, 3, 4, 5]), Err(SampleError::NothingLeft));
    }

    #[test]
    fn the_usual_order_spelt_out_has_the_same_frequencies() {
        let params = SamplingParams { temperature: 0.8, top_k: 4, ..SamplingParams::default() };
        let ordered = counts(&SamplerStep::USUAL, &params);
        let mut usual = [0_usize; 6];
        let mut sampler = Sampler::default();
        for position in 0..20_000 {
            let history = History { generated: &[3], ..History::default() };
            let drawn = sampler.sample(&LOGITS, &params, history, position).unwrap();
            usual[drawn.token as usize] += 1;
        }
        for (one, other) in ordered.iter().zip(usual) {
            assert!(one.abs_diff(other) < 600, "{ordered:?} and {usual:?}");
        }
    }
}
