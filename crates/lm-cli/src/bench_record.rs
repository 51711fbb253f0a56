//! `lastmile bench loop --record`: what store, flight recorder and cost counters take of the throughput.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use lastmile::{AnswerBegun, Observer, RequestEvent, Runtime, StepEvent};
use lm_ops::{Ops, Recorder, RecorderOptions, Store, StoreOptions};
use serde_json::json;

use crate::bench_args::BenchLoopArgs;
use crate::bench_loop::closed_loop;
use crate::model::{runtime_config, start};
use crate::outcome::{Outcome, WrongUse, print_json, say};

/// For the last commit.
const PATIENCE: Duration = Duration::from_secs(10);
/// As `serve` has it by default.
const RECORDER_BYTES: u64 = 16 << 20;

/// Output tokens a second of a round without recording, and of one with it.
type Round = [f64; 2];

pub(crate) fn bench_record(folder: &Path, args: &BenchLoopArgs) -> anyhow::Result<Outcome> {
    if args.rounds == 0 {
        return Err(WrongUse("--rounds is 0, but must be at least 1".to_owned()).into());
    }
    std::fs::create_dir(folder).with_context(|| {
        format!("--record needs a new folder: cannot make {}", folder.display())
    })?;
    let store = Store::open(&folder.join("lastmile.db"), StoreOptions::default())?;
    let options = RecorderOptions { capacity: RECORDER_BYTES, keeps_text: true };
    let ops = Ops::new(store).with_recorder(Recorder::open(&folder.join("recorder"), options)?.0);
    let config = || runtime_config(&args.model.model, &args.model.run);
    let plain = start(config()?)?;
    let timed = Arc::new(Timed { observer: ops.observer(), nanoseconds: AtomicU64::new(0) });
    let observer = Arc::clone(&timed) as Arc<dyn Observer>;
    let recorded = start(lastmile::RuntimeConfig { observer, ..config()? })?;
    ops.begin_run(&[recorded.info()], &recorded.info().name, "bench")?;
    // The first requests of each pay for what is made once.
    let (mut first, mut rounds) = (0, Vec::new());
    for runtime in [&plain, &recorded] {
        throughput(runtime, args, &mut first)?;
    }
    let (mut recorded_s, in_calls, in_store) = (0.0, timed.seconds(), store_seconds());
    for i in 0..args.rounds {
        let mut round = [0.0; 2];
        // Who goes first takes turns: a machine that grows warm favours neither.
        for side in if i % 2 == 0 { [0, 1] } else { [1, 0] } {
            round[side] = throughput([&plain, &recorded][side], args, &mut first)?;
        }
        recorded_s += (args.requests as f64 * f64::from(args.max_tokens)) / round[1];
        rounds.push(round);
        if !args.model.json {
            say!("{:>8.1} without, {:>8.1} with  {:.4}", round[0], round[1], round[1] / round[0]);
        }
    }
    let (asked, began) = (((args.rounds + 1) * args.requests) as u64, Instant::now());
    while ops.counters().recorded < asked {
        if began.elapsed() > PATIENCE {
            let kept = ops.counters().recorded;
            bail!("{kept} of {asked} answers were recorded: this is not what recording takes");
        }
        std::thread::sleep(PATIENCE / 100);
    }
    let shares = Shares {
        of_calls: (timed.seconds() - in_calls) / recorded_s,
        of_store: store_seconds().zip(in_store).map(|(now, then)| (now - then) / recorded_s),
    };
    report(&plain, args, &rounds, &shares)?;
    Ok(Outcome::Done)
}

/// Times what an observer takes on the threads that call it.
struct Timed {
    observer: Arc<dyn Observer>,
    nanoseconds: AtomicU64,
}

impl Timed {
    fn seconds(&self) -> f64 {
        self.nanoseconds.load(Relaxed) as f64 / 1e9
    }

    fn time(&self, call: impl FnOnce()) {
        let began = Instant::now();
        call();
        self.nanoseconds.fetch_add(began.elapsed().as_nanos() as u64, Relaxed);
    }
}

impl Observer for Timed {
    fn record(&self, event: &RequestEvent) {
        self.time(|| self.observer.record(event));
    }

    fn wants_steps(&self) -> bool {
        self.observer.wants_steps()
    }

    fn began(&self, begun: &AnswerBegun<'_>) {
        self.time(|| self.observer.began(begun));
    }

    fn stepped(&self, step: &StepEvent<'_>) {
        self.time(|| self.observer.stepped(step));
    }
}

/// What recording took, as a share of the wall time of the rounds with it.
struct Shares {
    /// In calls of the observer, on the engine's thread.
    of_calls: f64,
    /// CPU time of the store's thread; `None` where the system does not say.
    of_store: Option<f64>,
}

/// CPU seconds of the threads that write the store, since the start.
fn store_seconds() -> Option<f64> {
    let mut ticks = 0;
    for task in std::fs::read_dir("/proc/self/task").ok()? {
        let task = task.ok()?.path();
        let name = std::fs::read_to_string(task.join("comm")).unwrap_or_default();
        if name.trim() == "store-writer" {
            let stat = std::fs::read_to_string(task.join("stat")).ok()?;
            // User and system time are the 12th and 13th field after the name.
            let fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11).take(2);
            ticks += fields.filter_map(|field| field.parse::<u64>().ok()).sum::<u64>();
        }
    }
    // Linux tells them in hundredths of a second.
    Some(ticks as f64 / 100.0)
}

fn throughput(runtime: &Runtime, args: &BenchLoopArgs, first: &mut usize) -> anyhow::Result<f64> {
    let began = Instant::now();
    let samples = closed_loop(runtime, args, *first)?;
    let seconds = began.elapsed().as_secs_f64();
    *first += args.requests;
    Ok(samples.iter().map(|sample| f64::from(sample.n_tokens)).sum::<f64>() / seconds)
}

fn report(
    runtime: &Runtime,
    args: &BenchLoopArgs,
    rounds: &[Round],
    shares: &Shares,
) -> anyhow::Result<()> {
    let mut ratios: Vec<f64> = rounds.iter().map(|[plain, recorded]| recorded / plain).collect();
    ratios.sort_by(f64::total_cmp);
    let n = ratios.len();
    let median = (ratios[n / 2] + ratios[(n - 1) / 2]) / 2.0;
    let (least, most) = (ratios[0], ratios[n - 1]);
    if args.model.json {
        return print_json(&json!({
            "model": runtime.info().name,
            "kernel_path": runtime.info().backend.kernel_path,
            "concurrency": args.concurrency,
            "requests": args.requests,
            "prompt_tokens": args.prompt_tokens,
            "max_tokens": args.max_tokens,
            "output_tokens_per_s_without_and_with": rounds,
            "share_in_observer_calls": shares.of_calls,
            "share_of_store_thread": shares.of_store,
            "ratio_median": median,
            "ratio_least": least,
            "ratio_most": most,
        }));
    }
    let store =
        shares.of_store.map_or("unknown".to_owned(), |share| format!("{:.2} %", 100.0 * share));
    say!(
        "of the time, {:.2} % went into calls on the engine's thread; the store's own thread used {store} of a core",
        100.0 * shares.of_calls
    );
    say!("with recording {median:.4} of the throughput at the median ({least:.4} to {most:.4})");
    Ok(())
}
