//! What `plan` says of speed, where the costs of steps are known.

use std::io::Write;

use lastmile::{ModelSource, Prediction, RuntimeConfig, StepCosts, predict};
use serde_json::{Value, json};

use crate::outcome::say;

/// Requests in flight at once.
const STREAMS: [usize; 3] = [1, 8, 32];
/// As the closed loops of the benchmarks have them.
const PROMPT_TOKENS: usize = 118;
const OUTPUT_TOKENS: usize = 64;

/// Closed loops as `costs` predict them, or the placeholder's own costs; none where neither is known.
pub(crate) fn predictions(
    config: &RuntimeConfig,
    costs: Option<StepCosts>,
) -> anyhow::Result<Vec<Prediction>> {
    let own = match &config.model {
        ModelSource::Placeholder(options) => Some(options.costs),
        ModelSource::Path { .. } => None,
    };
    let Some(costs) = costs.or(own).filter(|costs| !costs.is_zero()) else { return Ok(vec![]) };
    let one = |streams| predict(&costs, config, streams, PROMPT_TOKENS, OUTPUT_TOKENS);
    Ok(STREAMS.into_iter().map(one).collect::<Result<_, _>>()?)
}

pub(crate) fn as_json(predictions: &[Prediction]) -> Value {
    let one = |found: &Prediction| {
        json!({
            "streams": found.streams, "output_tokens_per_s": found.output_tokens_per_s,
            "ttft_ms_p50": found.ttft_ms_p50, "tpot_ms_p50": found.tpot_ms_p50,
        })
    };
    predictions.iter().map(one).collect()
}

pub(crate) fn print(predictions: &[Prediction]) -> anyhow::Result<()> {
    if predictions.is_empty() {
        return Ok(());
    }
    say!(
        "\n  streams  tokens/s  TTFT p50 ms  TPOT p50 ms   prompts of {PROMPT_TOKENS} tokens, answers of {OUTPUT_TOKENS}"
    );
    for found in predictions {
        let (rate, ttft, tpot) = (found.output_tokens_per_s, found.ttft_ms_p50, found.tpot_ms_p50);
        say!("  {:>7}  {rate:>8.1}  {ttft:>11.1}  {tpot:>11.1}", found.streams);
    }
    Ok(())
}
