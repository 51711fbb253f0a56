//! `lastmile bench engine`: the executor alone, and how much of the machine's roofline it reaches.

use std::io::Write;

use lastmile::{
    BenchCase, Bound, CaseKind, EngineBench, EngineBenchError, EngineBenchOptions, LoadError,
    MachineRates,
};
use serde_json::{Map, Value, json};

use crate::bench_args::BenchEngineArgs;
use crate::model::runtime_config;
use crate::outcome::{Outcome, WrongUse, print_json, say};

pub(crate) fn bench_engine(args: &BenchEngineArgs) -> anyhow::Result<Outcome> {
    let options = EngineBenchOptions {
        prompt_tokens: args.prompt_tokens,
        batches: args.batch.clone(),
        context: args.context,
        steps: args.steps,
        repeats: args.repeat,
        seed: args.model.seed,
    };
    let config = runtime_config(&args.model.model, &args.model.run)?;
    let found = lastmile::bench_engine(&config, &options, |begins| eprintln!("{begins}"));
    let found = found.map_err(|error| match error {
        EngineBenchError::Option { .. }
        | EngineBenchError::KvTooSmall { .. }
        | EngineBenchError::Load(LoadError::Limits(_)) => WrongUse(error.to_string()).into(),
        other => anyhow::Error::from(other),
    })?;
    if args.model.json {
        print_json(&document(&found, &options))?;
    } else {
        print_table(&found, &options)?;
    }
    Ok(Outcome::Done)
}

fn document(found: &EngineBench, options: &EngineBenchOptions) -> Value {
    json!({
        "model": found.model,
        "kernel_path": found.kernel_path,
        "weights_bytes": found.weights_bytes,
        "prompt_tokens": options.prompt_tokens,
        "chunk_tokens": found.chunk_tokens,
        "context": options.context,
        "repeats": options.repeats,
        "machine": found.machine.as_ref().map(machine_document),
        "cases": found.cases.iter().map(case_document).collect::<Vec<_>>(),
    })
}

fn machine_document(machine: &MachineRates) -> Value {
    let rates = machine.gmac_per_s.iter().map(|(dtype, rate)| (dtype.to_string(), json!(rate)));
    json!({
        "threads": machine.n_threads,
        "bandwidth_gb_per_s": machine.bandwidth_gb_per_s,
        "gmac_per_s": rates.collect::<Map<_, _>>(),
    })
}

fn case_document(case: &BenchCase) -> Value {
    let (kind, n_decodes) = match case.kind {
        CaseKind::Prompt => ("prompt", 0),
        CaseKind::Decode { n_sequences } => ("decode", n_sequences),
        CaseKind::Mixed { n_sequences } => ("mixed", n_sequences),
    };
    let (best, median) = (case.tokens_per_s_best(), case.tokens_per_s_median());
    let roofline = case.roofline.map(|roofline| {
        json!({
            "tokens_per_s": case.n_tokens as f64 / roofline.seconds,
            "fraction": case.roofline_fraction(),
            "bound": bound_name(roofline.bound),
        })
    });
    json!({
        "case": kind,
        "decodes": n_decodes,
        "steps": case.n_steps,
        "tokens": case.n_tokens,
        "tokens_per_s_best": best,
        "tokens_per_s_median": median,
        "step_ms_best": case.step_ms(best),
        "step_ms_median": case.step_ms(median),
        "roofline": roofline,
    })
}

fn print_table(found: &EngineBench, options: &EngineBenchOptions) -> anyhow::Result<()> {
    say!("{} on {}", found.model, found.kernel_path);
    if let Some(machine) = &found.machine {
        let rates = machine.gmac_per_s.iter().map(|(dtype, rate)| format!("{dtype} {rate:.0}"));
        let rates = rates.collect::<Vec<_>>().join(", ");
        let (n_threads, bandwidth) = (machine.n_threads, machine.bandwidth_gb_per_s);
        say!("{n_threads} threads: memory {bandwidth:.1} GB/s, GMAC/s: {rates}");
    }
    say!("{:<32}{:>10}{:>10}{:>12}   of roofline", "tokens/s", "best", "median", "ms a step");
    for case in &found.cases {
        let (best, median) = (case.tokens_per_s_best(), case.tokens_per_s_median());
        let fraction = case.roofline_fraction().zip(case.roofline).map(|(fraction, roofline)| {
            format!("{:.0} % ({})", fraction * 100.0, bound_name(roofline.bound))
        });
        let (name, step_ms) = (case_name(case.kind, options), case.step_ms(best));
        let fraction = fraction.as_deref().unwrap_or("-");
        say!("{name:<32}{best:>10.1}{median:>10.1}{step_ms:>12.2}   {fraction}");
    }
    Ok(())
}

fn case_name(kind: CaseKind, options: &EngineBenchOptions) -> String {
    let EngineBenchOptions { prompt_tokens, context, .. } = options;
    match kind {
        CaseKind::Prompt => format!("prompt of {prompt_tokens}"),
        CaseKind::Decode { n_sequences } => format!("decode {n_sequences} at {context}"),
        CaseKind::Mixed { n_sequences } => {
            format!("prompt of {prompt_tokens}, decode {n_sequences} at {context}")
        }
    }
}

fn bound_name(bound: Bound) -> &'static str {
    match bound {
        Bound::Bandwidth => "bandwidth",
        Bound::Compute => "compute",
    }
}
