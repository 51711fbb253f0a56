//! `lastmile replay` and `lastmile bundle`: recorded answers, computed again on this machine.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, bail};
use lastmile::{GenerateRequest, Runtime};
use lm_ops::{Bundle, Factor, Flight, Reader, Recorded, ReplayError, Search, Verdict, is_alive};

use crate::doctor::store_path;
use crate::how::How;
use crate::model::{home, start};
use crate::outcome::{Outcome, WrongUse, print_json, say};
use crate::recorder::folder;
use crate::replay_args::{BundleArgs, ReplayArgs};
use crate::replay_report::{Report, Summary};
use crate::restore::restored;
use crate::why::request_id;

/// Answers that are computed at once where a row's bits do not depend on its company.
const N_AT_ONCE: usize = 16;
/// Longest bundle.
const MAX_BUNDLE_BYTES: u64 = 64 << 20;

/// One answer to compute, and how.
pub(crate) struct Job {
    pub(crate) recorded: Recorded,
    /// How it is computed now.
    pub(crate) how: How,
    /// How it was computed, where that is known.
    pub(crate) recorded_how: Option<How>,
    /// What is asked now.
    pub(crate) request: GenerateRequest,
}

/// A model that was started for a replay.
pub(crate) struct Started {
    pub(crate) runtime: Runtime,
}

impl Started {
    pub(crate) fn new(how: &How) -> anyhow::Result<Self> {
        Ok(Started { runtime: start(how.config()?)? })
    }

    pub(crate) fn compute(
        &self,
        recorded: &Recorded,
        request: &GenerateRequest,
    ) -> Result<Verdict, ReplayError> {
        recorded.verdict(Recorded::begin(&self.runtime, request)?)
    }

    /// Whether answers that are computed together are the same bits as alone.
    fn is_invariant(&self) -> bool {
        let path = &self.runtime.info().backend.kernel_path;
        path.starts_with("cpu-") || path.starts_with("placeholder")
    }
}

pub(crate) fn replay(args: &ReplayArgs) -> anyhow::Result<Outcome> {
    let mut reports = Vec::new();
    let mut jobs: Vec<Job> = Vec::new();
    for (name, bundle) in bundles(args)? {
        let all = bundle.map_err(anyhow::Error::from);
        let all = all.and_then(|bundle| Ok(bundle.recorded(args.choice)?));
        let all = all.and_then(|all| {
            all.into_iter().map(|recorded| job(args, recorded)).collect::<anyhow::Result<Vec<_>>>()
        });
        match all {
            Ok(all) => jobs.extend(all),
            Err(error) if error.is::<WrongUse>() => return Err(error),
            Err(error) => reports.push(Report::failed(name, 0, &error)),
        }
    }
    // Each model is started once.
    jobs.sort_by_key(|job| job.how.text());
    for group in jobs.chunk_by(|a, b| a.how == b.how) {
        match Started::new(&group[0].how) {
            Ok(started) => compute(&started, group, &mut reports),
            Err(error) => reports.extend(
                group
                    .iter()
                    .map(|job| Report::failed(job.recorded.id, job.recorded.choice, &error)),
            ),
        }
    }
    let summary = Summary::of(reports);
    if args.json {
        print_json(&summary)?;
    } else {
        write!(std::io::stdout(), "{summary}")?;
    }
    match (summary.n_diverged, summary.n_failed) {
        (0, 0) => Ok(Outcome::Done),
        (0, n) => bail!("{n} of {} answers could not be computed again", summary.n),
        _ => Ok(Outcome::No),
    }
}

pub(crate) fn bundle(args: &BundleArgs) -> anyhow::Result<Outcome> {
    let reader = Reader::open(&store_path(home()?.path()))?;
    let mut bundle = Bundle::read(&reader, request_id(&args.id)?)?;
    if args.redact {
        bundle.redact();
    }
    let mut options = std::fs::OpenOptions::new();
    // A new file is nobody else's to read from its first byte on.
    options.write(true).truncate(args.force).create(args.force).create_new(!args.force);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let path = args.output.display();
    let mut file = options.open(&args.output).with_context(|| format!("cannot write {path}"))?;
    serde_json::to_writer_pretty(&mut file, &bundle)?;
    writeln!(file)?;
    file.sync_all().with_context(|| format!("cannot write {path}"))?;
    let kept = if args.redact { "no text" } else { "prompt and answer" };
    say!("{path}: {} answers, {kept}", bundle.answers.len());
    Ok(Outcome::Done)
}

/// What is to be computed, by its name on the command line.
fn bundles(args: &ReplayArgs) -> anyhow::Result<Vec<(String, Result<Bundle, ReplayError>)>> {
    let path = store_path(home()?.path());
    let mut reader = None;
    let mut of_store = |id: &str| -> anyhow::Result<Result<Bundle, ReplayError>> {
        let id = request_id(id)?;
        let reader = match &mut reader {
            Some(reader) => reader,
            none => none.insert(Reader::open(&path)?),
        };
        Ok(Bundle::read(reader, id))
    };
    let mut all = Vec::new();
    for target in &args.targets {
        let bundle = match Path::new(target).is_file() {
            true => Ok(read_bundle(Path::new(target))?),
            false => of_store(target)?,
        };
        all.push((target.clone(), bundle));
    }
    if args.crash.is_some() {
        let flight = Flight::last_crash(&folder(home()?.path()), is_alive)?;
        let flight = flight.context("no crash is recorded")?;
        let interrupted = Bundle::of_crash(&flight, &Reader::open(&path)?)?;
        if interrupted.is_empty() {
            bail!("no answer had drawn a token when the server died");
        }
        all.extend(interrupted.into_iter().map(|bundle| (bundle.id.clone(), Ok(bundle))));
    }
    if let Some(n) = args.last {
        for id in newest(&Reader::open(&path)?, n)? {
            all.push((id.clone(), of_store(&id)?));
        }
    }
    Ok(all)
}

/// The ids of the newest requests that generated something.
fn newest(reader: &Reader, n: u32) -> anyhow::Result<Vec<String>> {
    let (mut ids, mut seen) = (Vec::new(), BTreeSet::new());
    let mut before_ms = None;
    while ids.len() < n as usize {
        let search = Search { before_ms, limit: lm_ops::MAX_FOUND, ..Search::default() };
        let found = reader.search(&search)?;
        let Some(last) = found.last() else { break };
        // A page may end within a millisecond: the next one begins with it again.
        let next_ms = last.arrived_at_ms.saturating_add(1);
        before_ms = Some(if before_ms == Some(next_ms) { last.arrived_at_ms } else { next_ms });
        let new = found.into_iter().filter(|one| seen.insert(one.id.clone()));
        ids.extend(new.filter(|one| one.completion_tokens > Some(0)).map(|one| one.id));
    }
    ids.truncate(n as usize);
    Ok(ids)
}

fn read_bundle(path: &Path) -> anyhow::Result<Bundle> {
    let shown = path.display();
    let size = std::fs::metadata(path).with_context(|| format!("cannot read {shown}"))?.len();
    if size > MAX_BUNDLE_BYTES {
        bail!("{shown} has {size} bytes, but a bundle has at most {MAX_BUNDLE_BYTES}");
    }
    let text = std::fs::read(path).with_context(|| format!("cannot read {shown}"))?;
    serde_json::from_slice(&text).with_context(|| format!("{shown} is no bundle"))
}

/// How one answer is computed: as it was, but for what was said on the command line.
fn job(args: &ReplayArgs, recorded: Recorded) -> anyhow::Result<Job> {
    let recorded_how = recorded.release.how.as_deref().map(How::read).transpose()?;
    let chosen = match (&args.release, &args.model) {
        (Some(prefix), _) => Some(of_release(prefix)?),
        (None, Some(model)) => Some(How::plain(model)),
        (None, None) => recorded_how.clone(),
    };
    let hash = &recorded.release.hash;
    let mut how = chosen.with_context(|| {
        format!("how release {hash} was started is not recorded; --model says what to compute with")
    })?;
    how.isa = args.isa.clone().filter(|isa| !isa.is_empty()).or(how.isa);
    how.device = args.device.clone().unwrap_or(how.device);
    how.kv_cache = args.kv_cache.map(|kv_type| kv_type.as_str().to_owned()).or(how.kv_cache);
    if let Some(path) = &args.chat_template {
        let text = std::fs::read_to_string(path);
        how.chat_template = Some(text.with_context(|| format!("cannot read {}", path.display()))?);
    }
    let mut request = match &args.system {
        None => recorded.request.clone(),
        Some(text) => recorded.with_system(text).ok_or_else(|| {
            WrongUse(format!("--system is given, but request {} is no chat", recorded.id))
        })?,
    };
    request.sampling.seed = args.seed.unwrap_or(request.sampling.seed);
    Ok(Job { recorded, how, recorded_how, request })
}

fn of_release(prefix: &str) -> anyhow::Result<How> {
    let releases = Reader::open(&store_path(home()?.path()))?.releases(prefix)?;
    let release = match releases.as_slice() {
        [one] => one,
        [] => return Err(WrongUse(format!("--as is {prefix}, but no release begins so")).into()),
        several => {
            let n = several.len();
            return Err(WrongUse(format!("--as is {prefix}, but {n} releases begin so")).into());
        }
    };
    let how = release.how.as_deref().map(How::read).transpose()?;
    how.with_context(|| format!("how release {} was started is not recorded", release.hash))
}

/// Computes a group of answers with one model.
fn compute(started: &Started, group: &[Job], reports: &mut Vec<Report>) {
    let n_at_once = if started.is_invariant() { N_AT_ONCE } else { 1 };
    for jobs in group.chunks(n_at_once) {
        let begin = |job: &Job| Recorded::begin(&started.runtime, &job.request);
        let streams: Vec<_> = jobs.iter().map(begin).collect();
        for (job, stream) in jobs.iter().zip(streams) {
            let verdict = stream.and_then(|stream| job.recorded.verdict(stream));
            let report = verdict.map_err(anyhow::Error::from).and_then(|verdict| {
                let differs = differences(started, job);
                let because = match verdict {
                    Verdict::Identical { .. } => None,
                    Verdict::Diverged { .. } => Some(restored(started, job, &differs, verdict)?),
                };
                Ok(Report::of(&started.runtime, &job.recorded, verdict, differs, because))
            });
            let (id, choice) = (job.recorded.id, job.recorded.choice);
            reports.push(report.unwrap_or_else(|error| Report::failed(id, choice, &error)));
        }
    }
}

/// Everything that is not as it was: of the request first, then of the release.
pub(crate) fn differences(started: &Started, job: &Job) -> Vec<Factor> {
    let (then, now) = (&job.recorded.request, &job.request);
    let mut all = Vec::new();
    if then.sampling.seed != now.sampling.seed {
        let (recorded, here) = (then.sampling.seed.to_string(), now.sampling.seed.to_string());
        all.push(Factor { name: "seed".to_owned(), recorded, here });
    }
    if then.prompt != now.prompt {
        let now = Recorded { request: now.clone(), ..job.recorded.clone() };
        let (recorded, here) = (job.recorded.system().to_owned(), now.system().to_owned());
        all.push(Factor { name: "system_prompt".to_owned(), recorded, here });
    }
    let adapter = now.adapter.as_deref().and_then(|name| started.runtime.adapter(name));
    all.extend(job.recorded.differences(started.runtime.info(), adapter.as_ref()));
    all
}
