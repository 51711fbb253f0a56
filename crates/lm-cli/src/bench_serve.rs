//! `lastmile bench serve`: load on any server that speaks OpenAI's API.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use indicatif::ProgressBar;
use lm_bench::{
    Arrivals, BenchError, Facts, Goodput, LengthRange, LoadOptions, Metric, Metrics, Report, Run,
    Sample, Target,
};
use lm_ops::Utc;
use serde_json::{Map, Value};

use crate::bench_serve_args::{BenchServeArgs, DatasetName, LoadArgs, PromptArgs, ResultArgs};
use crate::outcome::{Outcome, WrongUse, print_json, say};
use crate::traffic::recorded_samples;

/// Tokens of an answer where neither the data set nor --output-len says it.
const OUTPUT_TOKENS: usize = 256;

pub(crate) fn bench_serve(args: &BenchServeArgs) -> anyhow::Result<Outcome> {
    let target = Target::parse(&args.base_url).map_err(wrong_use)?;
    let (mut facts, goodput) = (facts(args)?, goodput(&args.result.goodput)?);
    let samples = samples(&args.prompts)?;
    let warmups = lm_bench::random(
        args.load.num_warmups,
        &lengths(&args.prompts),
        args.prompts.seed.wrapping_add(1 << 32),
    )
    .map_err(wrong_use)?;
    facts.model_id = match &args.model {
        Some(model) => model.clone(),
        None => lm_bench::served_model(&target, args.api_key.as_deref())?,
    };
    let options = options(args, target, facts.model_id.clone())?;
    let bar = progress(samples.len());
    let run = lm_bench::run(&options, &warmups, &samples, |n_done| bar.set_position(n_done as u64));
    bar.finish_and_clear();
    let run = run.map_err(wrong_use)?;
    let metrics = Metrics::of(&run, &samples, &goodput);
    let report = Report { facts: &facts, run: &run, metrics: &metrics };
    if args.result.json {
        print_json(&report.json(args.result.save_detailed))?;
    } else {
        write!(std::io::stdout(), "{report}")?;
    }
    if args.result.save_result {
        save(&args.result, &facts, &run, &report)?;
    }
    Ok(if metrics.completed == 0 { Outcome::No } else { Outcome::Done })
}

/// What the caller said wrongly ends with 2, what could not be done with 3.
fn wrong_use(error: BenchError) -> anyhow::Error {
    match error {
        BenchError::Invalid { .. } | BenchError::Dataset { .. } => {
            WrongUse(error.to_string()).into()
        }
        other => other.into(),
    }
}

fn options(args: &BenchServeArgs, target: Target, model: String) -> anyhow::Result<LoadOptions> {
    let load = &args.load;
    let arrivals = match args.prompts.dataset_name {
        DatasetName::Recorded if load.request_rate.is_infinite() => {
            Arrivals::Recorded { speed: load.recorded_speed }
        }
        _ if load.request_rate.is_infinite() => Arrivals::AtOnce,
        _ => Arrivals::Rate { per_second: load.request_rate, burstiness: load.burstiness },
    };
    Ok(LoadOptions {
        target,
        endpoint: endpoint(args.endpoint.as_deref())?,
        model,
        api_key: args.api_key.clone(),
        arrivals,
        max_concurrency: load.max_concurrency,
        timeout: Duration::from_secs(load.timeout),
        ignore_eos: load.ignore_eos,
        extra_body: extra_body(load)?,
        seed: args.prompts.seed,
        server_pid: load.server_pid,
    })
}

fn endpoint(endpoint: Option<&str>) -> anyhow::Result<Option<String>> {
    match endpoint {
        Some(path) if !path.starts_with('/') || !path.ends_with("completions") => {
            let limit = "a path that ends with /completions or /chat/completions";
            Err(WrongUse(format!("--endpoint is {path:?}, but must be {limit}")).into())
        }
        other => Ok(other.map(str::to_owned)),
    }
}

fn extra_body(load: &LoadArgs) -> anyhow::Result<Map<String, Value>> {
    let Some(text) = &load.extra_body else { return Ok(Map::new()) };
    serde_json::from_str(text).map_err(|error| {
        WrongUse(format!("--extra-body is {text:?}, but must be a JSON object: {error}")).into()
    })
}

fn lengths(prompts: &PromptArgs) -> LengthRange {
    LengthRange {
        input_tokens: prompts.random_input_len,
        output_tokens: prompts.random_output_len,
        range_ratio: prompts.random_range_ratio,
    }
}

fn samples(prompts: &PromptArgs) -> anyhow::Result<Vec<Sample>> {
    let (n, path) = (prompts.num_prompts, prompts.dataset_path.as_deref());
    let at_least_one = [("--num-prompts", Some(n)), ("--output-len", prompts.output_len)];
    if let Some((name, _)) = at_least_one.iter().find(|(_, value)| *value == Some(0)) {
        return Err(WrongUse(format!("{name} is 0, but must be at least 1")).into());
    }
    let output_tokens = prompts.output_len.unwrap_or(OUTPUT_TOKENS);
    let name = prompts.dataset_name.as_str();
    let needed =
        || WrongUse(format!("--dataset-path is absent, but --dataset-name {name} needs it"));
    match prompts.dataset_name {
        DatasetName::Random if path.is_some() => {
            let what = "--dataset-path is given, but --dataset-name is random";
            return Err(WrongUse(what.to_owned()).into());
        }
        DatasetName::Random => lm_bench::random(n, &lengths(prompts), prompts.seed),
        DatasetName::Sharegpt => {
            lm_bench::sharegpt(path.ok_or_else(needed)?, n, prompts.output_len, prompts.seed)
        }
        DatasetName::Custom => lm_bench::custom(path.ok_or_else(needed)?, n, output_tokens),
        DatasetName::Recorded => match path {
            Some(path) => lm_bench::recorded(path, n, output_tokens),
            None => return recorded_samples(n),
        },
    }
    .map_err(wrong_use)
}

fn facts(args: &BenchServeArgs) -> anyhow::Result<Facts> {
    let result = &args.result;
    let metric = |name: &String| {
        Metric::ALL.into_iter().find(|metric| metric.key() == name).ok_or_else(|| {
            let limit = "ttft, tpot, itl or e2el";
            WrongUse(format!("--percentile-metrics holds {name:?}, but must be {limit}"))
        })
    };
    if let Some(bad) = result.metric_percentiles.iter().find(|p| !(0.0..=100.0).contains(*p)) {
        let what = format!("--metric-percentiles holds {bad}, but must be from 0 to 100");
        return Err(WrongUse(what).into());
    }
    let pair = |text: &String| {
        let (key, value) = text.split_once('=')?;
        Some((key.to_owned(), value.to_owned()))
    };
    let pair = |text: &String| {
        pair(text)
            .ok_or_else(|| WrongUse(format!("--metadata holds {text:?}, but must be KEY=VALUE")))
    };
    Ok(Facts {
        date: Utc(now_ms()).to_string(),
        label: result.label.clone(),
        model_id: String::new(),
        base_url: args.base_url.clone(),
        endpoint: args.endpoint.clone(),
        dataset_name: args.prompts.dataset_name.as_str().to_owned(),
        request_rate: args.load.request_rate.is_finite().then_some(args.load.request_rate),
        burstiness: args.load.burstiness,
        max_concurrency: args.load.max_concurrency,
        metadata: result.metadata.iter().map(pair).collect::<Result<_, _>>()?,
        metrics: result.percentile_metrics.iter().map(metric).collect::<Result<_, _>>()?,
        percentiles: result.metric_percentiles.clone(),
    })
}

fn goodput(pairs: &[String]) -> anyhow::Result<Goodput> {
    let mut goodput = Goodput::default();
    for pair in pairs {
        let refuse = || {
            let limit = "ttft:MS, tpot:MS or e2el:MS, with MS not below 0";
            WrongUse(format!("--goodput holds {pair:?}, but must be {limit}"))
        };
        let (name, ms) = pair.split_once(':').ok_or_else(refuse)?;
        let ms = ms.parse().ok().filter(|ms: &f64| *ms >= 0.0);
        let ms = Some(ms.ok_or_else(refuse)?);
        match name {
            "ttft" => goodput.ttft_ms = ms,
            "tpot" => goodput.tpot_ms = ms,
            "e2el" => goodput.e2el_ms = ms,
            _ => return Err(refuse().into()),
        }
    }
    Ok(goodput)
}

fn save(result: &ResultArgs, facts: &Facts, run: &Run, report: &Report<'_>) -> anyhow::Result<()> {
    let name = result.result_filename.clone().unwrap_or_else(|| default_name(facts));
    let json = result.result_dir.join(name);
    let write = |path: &PathBuf, text: &str| {
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    std::fs::create_dir_all(&result.result_dir)
        .with_context(|| format!("cannot create {}", result.result_dir.display()))?;
    write(&json, &(serde_json::to_string_pretty(&report.json(result.save_detailed))? + "\n"))?;
    let chart = json.with_extension("svg");
    let title = format!("{} at {}, {}", facts.model_id, facts.base_url, facts.date);
    write(&chart, &lm_bench::svg(&title, run, report.metrics)?)?;
    if !result.json {
        say!("wrote {} and {}", json.display(), chart.display());
    }
    Ok(())
}

/// As `vllm bench serve` names results.
fn default_name(facts: &Facts) -> String {
    let rate = facts.request_rate.map_or("inf".to_owned(), |rate| rate.to_string());
    let limit = facts.max_concurrency.map_or(String::new(), |n| format!("-concurrency{n}"));
    let model = facts.model_id.rsplit('/').next().unwrap_or_default();
    let safe = |c: char| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let name = format!("{}-{rate}qps{limit}-{model}-{}", facts.label, facts.date);
    name.chars().map(safe).collect::<String>() + ".json"
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn progress(n: usize) -> ProgressBar {
    if std::io::stderr().is_terminal() { ProgressBar::new(n as u64) } else { ProgressBar::hidden() }
}
