//! `lastmile placeholder calibrate`: from a real model's steps to a placeholder's costs.

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use lastmile::{
    CalibrateError, Fit, StepCosts, StepLoad, StepRecord, SweepOptions, fit_costs, record_steps,
};
use serde::{Deserialize, Serialize};

use crate::model::runtime_config;
use crate::outcome::{Outcome, WrongUse, print_json, say};
use crate::placeholder_args::CalibrateArgs;

/// A file of costs.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct CostsFile {
    /// The model whose steps they are.
    model: String,
    n_steps: usize,
    n_outliers: usize,
    mean_relative_error: f64,
    costs: Costs,
}

/// [`StepCosts`] as it is written.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Costs {
    step_ns: u64,
    #[serde(default)]
    tile_ns: u64,
    decode_row_ns: u64,
    prefill_token_ns: u64,
    decode_context_ps: u64,
    prefill_context_ps: u64,
}

/// A file of steps.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct RunFile {
    model: String,
    steps: Vec<Step>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Step {
    n_decodes: u64,
    n_prefill_tokens: u64,
    decode_attended: u64,
    prefill_attended: u64,
    seconds: f64,
}

pub(crate) fn calibrate(args: &CalibrateArgs) -> anyhow::Result<Outcome> {
    let (model, steps) = match &args.from {
        Some(path) => read_run(path)?,
        None => (args.model.clone(), recorded(args)?),
    };
    if let Some(path) = &args.save_run {
        save_run(path, &model, &steps)?;
    }
    let Fit { costs, n_steps, n_outliers, mean_relative_error } =
        fit_costs(&steps).map_err(refused)?;
    let costs = Costs::of(costs);
    let file = CostsFile { model, n_steps, n_outliers, mean_relative_error, costs };
    let text = toml::to_string(&file).context("cannot write the costs as TOML")?;
    write(&args.output, &text)?;
    if args.json {
        print_json(&file)?;
        return Ok(Outcome::Done);
    }
    let costs = &file.costs;
    say!("{n_steps} steps of {}, {n_outliers} left out as outliers", file.model);
    say!("  step             {:>10.3} ms", costs.step_ns as f64 / 1e6);
    say!("  4 tokens         {:>10.3} ms", costs.tile_ns as f64 / 1e6);
    say!("  decode row       {:>10.3} ms", costs.decode_row_ns as f64 / 1e6);
    say!("  prefill token    {:>10.3} ms", costs.prefill_token_ns as f64 / 1e6);
    say!("  decode context   {:>10.3} us for 1000 tokens", costs.decode_context_ps as f64 / 1e3);
    say!("  prefill context  {:>10.3} us for 1000 tokens", costs.prefill_context_ps as f64 / 1e3);
    say!("  mean error of a step {:.1} %", mean_relative_error * 100.0);
    say!("wrote {}", args.output.display());
    Ok(Outcome::Done)
}

/// The costs of a file that `calibrate` wrote.
pub(crate) fn read_costs(path: &Path) -> anyhow::Result<StepCosts> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let file: CostsFile = toml::from_str(&text)
        .map_err(|error| WrongUse(format!("{} is no file of costs: {error}", path.display())))?;
    let Costs { step_ns, tile_ns, decode_row_ns, prefill_token_ns, .. } = file.costs;
    let Costs { decode_context_ps, prefill_context_ps, .. } = file.costs;
    Ok(StepCosts {
        step_ns,
        tile_ns,
        decode_row_ns,
        prefill_token_ns,
        decode_context_ps,
        prefill_context_ps,
    })
}

impl Costs {
    fn of(costs: StepCosts) -> Self {
        let StepCosts { step_ns, tile_ns, decode_row_ns, prefill_token_ns, .. } = costs;
        let StepCosts { decode_context_ps, prefill_context_ps, .. } = costs;
        Costs {
            step_ns,
            tile_ns,
            decode_row_ns,
            prefill_token_ns,
            decode_context_ps,
            prefill_context_ps,
        }
    }
}

fn recorded(args: &CalibrateArgs) -> anyhow::Result<Vec<StepRecord>> {
    let config = runtime_config(&args.model, &args.run)?;
    let options = SweepOptions {
        streams: args.streams.clone(),
        requests_per_stream: args.requests_per_stream,
        prompt_tokens: args.prompt_tokens,
        output_tokens: args.output_tokens,
        seed: args.seed,
    };
    record_steps(config, &options, |what| eprintln!("{what}")).map_err(refused)
}

/// What the caller said wrongly ends with 2.
fn refused(error: CalibrateError) -> anyhow::Error {
    match error {
        CalibrateError::Option { .. } | CalibrateError::Limits(_) => {
            WrongUse(error.to_string()).into()
        }
        CalibrateError::Generate(error) => crate::outcome::refusal(error),
        other => other.into(),
    }
}

fn read_run(path: &Path) -> anyhow::Result<(String, Vec<StepRecord>)> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let file: RunFile = serde_json::from_str(&text)
        .map_err(|error| WrongUse(format!("{} is no recorded run: {error}", path.display())))?;
    let step = |step: Step| {
        let Step { n_decodes, n_prefill_tokens, decode_attended, prefill_attended, seconds } = step;
        let load = StepLoad { n_decodes, n_prefill_tokens, decode_attended, prefill_attended };
        StepRecord { load, seconds }
    };
    Ok((file.model, file.steps.into_iter().map(step).collect()))
}

fn save_run(path: &Path, model: &str, steps: &[StepRecord]) -> anyhow::Result<()> {
    let step = |step: &StepRecord| {
        let StepLoad { n_decodes, n_prefill_tokens, decode_attended, prefill_attended } = step.load;
        let seconds = step.seconds;
        Step { n_decodes, n_prefill_tokens, decode_attended, prefill_attended, seconds }
    };
    let file = RunFile { model: model.to_owned(), steps: steps.iter().map(step).collect() };
    write(path, &(serde_json::to_string(&file)? + "\n"))
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
