//! `lastmile doctor`: what runs, since when, and what went wrong, on one page.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::Args;
use lm_kernels::Isa;
use lm_keys::{KeyFile, KeyState};
use lm_ops::{Doctor, Reader, StoreError, Utc, is_alive};
use lm_panel::Alert;
use serde::{Deserialize, Serialize};
use ureq::Agent;
use ureq::tls::TlsConfig;

use crate::keys::{key_file, unix_seconds};
use crate::model::home;
use crate::outcome::{Outcome, print_json, say};
use crate::recorder::Crash;

/// How long a server may take to say that it is well.
const PATIENCE: Duration = Duration::from_secs(2);
/// Names a store on a server, as `serve --store` does.
pub(crate) const STORE_VARIABLE: &str = "LASTMILE_STORE";
/// Longest answer to a health check.
const MAX_ANSWER_BYTES: u64 = 64 << 10;
/// Where the home keeps why the last start failed.
const FAILED_START: &str = "failed-start.json";

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lastmile doctor")]
pub(crate) struct DoctorArgs {
    /// At most this instruction set, as `serve` takes it: `scalar`, `avx2`, `avx512vnni` or `amx`.
    #[arg(long, value_name = "ISA", env = "LASTMILE_ISA")]
    pub(crate) isa: Option<String>,
    /// One JSON document.
    #[arg(long)]
    pub(crate) json: bool,
}

/// The keys of this home.
#[derive(Serialize)]
struct FoundKeys {
    /// Whether a server of this home asks for a key.
    required: bool,
    /// Keys that open something.
    valid: usize,
    /// Keys that do not any more.
    expired_or_revoked: usize,
    /// Why the file cannot be read; no server starts with it.
    error: Option<String>,
}

impl FoundKeys {
    fn of(file: &KeyFile) -> Self {
        let (records, error) = match file.read() {
            Ok(records) => (records.unwrap_or_default(), None),
            Err(error) => (vec![], Some(error.to_string())),
        };
        let now_s = unix_seconds();
        let valid = records.iter().filter(|key| key.state(now_s) == KeyState::Valid).count();
        let expired_or_revoked = records.len() - valid;
        FoundKeys { required: !records.is_empty(), valid, expired_or_revoked, error }
    }
}

impl std::fmt::Display for FoundKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.error {
            Some(error) => write!(f, "UNREADABLE: {error}"),
            None if self.required => {
                let (valid, others) = (self.valid, self.expired_or_revoked);
                write!(f, "required; {valid} valid, {others} expired or revoked")
            }
            None => write!(f, "none: on loopback anybody may ask"),
        }
    }
}

/// Everything that the doctor found.
#[derive(Serialize)]
struct Found {
    version: &'static str,
    home: PathBuf,
    /// Cores that this process may use.
    cores: usize,
    isa: FoundIsa,
    models: Vec<String>,
    keys: FoundKeys,
    /// What the server of the newest run says of itself now; `None` when it does not answer.
    health: Option<serde_json::Value>,
    /// What the server of this home that told of alerts last saw that somebody should look at.
    alerts: Option<Alerts>,
    /// What other servers of this home see that run beside it.
    alerts_beside: Vec<Alerts>,
    /// Why the last start failed; `None` when it did not.
    failed_start: Option<FailedStart>,
    /// Who was in flight when a server last died.
    crash: Option<Crash>,
    /// `None` when nothing has run here yet.
    #[serde(flatten)]
    report: Option<Doctor>,
}

/// What a server writes down as `alerts-PORT.json` when its alerts change.
#[derive(Serialize, Deserialize)]
struct Alerts {
    pid: u32,
    /// Unix milliseconds.
    at_ms: i64,
    alerts: Vec<Alert>,
}

impl Alerts {
    /// Those of servers that run, the newest first; where none runs, the newest.
    fn all(home: &Path) -> Vec<Self> {
        let mut all = Vec::new();
        for entry in std::fs::read_dir(home).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let port =
                name.to_str().and_then(|name| name.strip_prefix("alerts-")?.strip_suffix(".json"));
            if port.is_some_and(|port| port.parse::<u16>().is_ok()) {
                let text = std::fs::read_to_string(entry.path()).ok();
                all.extend(text.and_then(|text| serde_json::from_str::<Alerts>(&text).ok()));
            }
        }
        all.sort_by_key(|one| std::cmp::Reverse((is_alive(one.pid), one.at_ms)));
        let newest = all.first().map(|one| one.pid);
        all.retain(|one| is_alive(one.pid) || Some(one.pid) == newest);
        all
    }

    fn print(&self) -> anyhow::Result<()> {
        let whose = match is_alive(self.pid) {
            true => String::new(),
            false => format!("of the last server, at {}: ", Utc(self.at_ms)),
        };
        for Alert { what, next, .. } in &self.alerts {
            say!("alerts   {whose}{what}. {next}");
        }
        if self.alerts.is_empty() {
            say!("alerts   {whose}none");
        }
        Ok(())
    }
}

/// The last start, where it did not come to serving.
#[derive(Serialize, Deserialize)]
pub(crate) struct FailedStart {
    /// Unix milliseconds.
    at_ms: i64,
    error: String,
}

impl FailedStart {
    /// Writes down why a start failed, or takes the last such note back.
    pub(crate) fn note(home: &Path, error: Option<&anyhow::Error>) {
        let path = home.join(FAILED_START);
        let written = match error {
            Some(error) => {
                let at_ms = i64::try_from(unix_seconds()).unwrap_or(i64::MAX).saturating_mul(1000);
                let failed = FailedStart { at_ms, error: format!("{error:#}") };
                // A number and a text can always be written.
                let text = serde_json::to_vec(&failed).unwrap_or_default();
                std::fs::write(&path, text)
            }
            None => match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        };
        if let Err(error) = written {
            tracing::warn!(%error, path = %path.display(), "how the start went could not be noted");
        }
    }

    fn last(home: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(home.join(FAILED_START)).ok()?).ok()
    }
}

/// The instruction set that the CPU executor takes here.
#[derive(Serialize)]
struct FoundIsa {
    /// `None` when the cap names no instruction set.
    in_use: Option<&'static str>,
    /// At most this one, as `LASTMILE_ISA` or `--isa` says.
    cap: Option<String>,
    /// Those of this machine that have kernels, slowest first.
    available: Vec<&'static str>,
}

impl FoundIsa {
    fn under(cap: Option<&str>) -> Self {
        FoundIsa {
            in_use: Isa::detect_capped(cap).ok().map(Isa::name),
            cap: cap.filter(|cap| !cap.is_empty()).map(str::to_owned),
            available: Isa::available().into_iter().map(Isa::name).collect(),
        }
    }
}

impl std::fmt::Display for FoundIsa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {}", self.in_use.unwrap_or("none"), self.available.join(", "))?;
        match (&self.cap, self.in_use) {
            (None, _) => Ok(()),
            (Some(cap), Some(_)) => write!(f, "; LASTMILE_ISA is {cap}"),
            (Some(cap), None) => {
                write!(f, "; LASTMILE_ISA is {cap:?}, which is no instruction set")
            }
        }
    }
}

pub(crate) fn doctor(args: &DoctorArgs) -> anyhow::Result<Outcome> {
    let home = home()?;
    let path = store_path(home.path());
    let report = match Reader::open(&path) {
        Ok(reader) => Some(Doctor::examine(&reader, SystemTime::now())?),
        Err(StoreError::Missing { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let newest = report.as_ref().and_then(|report| report.runs.first());
    let health = newest.and_then(|run| health(&run.run.address));
    let mut alerts_beside = Alerts::all(home.path());
    let alerts = (!alerts_beside.is_empty()).then(|| alerts_beside.remove(0));
    let mut found = Found {
        version: env!("CARGO_PKG_VERSION"),
        home: home.path().to_owned(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        isa: FoundIsa::under(args.isa.as_deref()),
        models: lm_models::installed(&home).into_iter().map(|model| model.name).collect(),
        keys: FoundKeys::of(&key_file(&home)),
        health,
        alerts,
        alerts_beside,
        failed_start: FailedStart::last(home.path()),
        crash: Crash::last(home.path())?,
        report,
    };
    if args.json {
        print_json(&found)?;
    } else {
        name_keys(&mut found, &key_file(&home));
        print_page(&found)?;
    }
    Ok(Outcome::Done)
}

/// Keys are told by their names where the file of keys can be read.
fn name_keys(found: &mut Found, file: &KeyFile) {
    let keys = file.read().ok().flatten().unwrap_or_default();
    let names: BTreeMap<String, String> =
        keys.into_iter().map(|key| (key.id.to_string(), key.name)).collect();
    if let Some(report) = &mut found.report {
        report.by_key.rename(|id| names.get(id).cloned());
        let key = &mut report.cache.key;
        if let Some(name) = names.get(key.as_str()) {
            *key = format!("{name} ({key})");
        }
    }
}

/// Where the store of a home is: a file, unless `LASTMILE_STORE` names a server.
pub(crate) fn store_path(home: &Path) -> PathBuf {
    let named = std::env::var_os(STORE_VARIABLE).filter(|named| !named.is_empty());
    named.map_or_else(|| store_folder(home).join("lastmile.db"), PathBuf::from)
}

/// Where a home keeps what belongs to its store, wherever that is.
pub(crate) fn store_folder(home: &Path) -> PathBuf {
    home.join("store")
}

fn print_page(found: &Found) -> anyhow::Result<()> {
    let models = if found.models.is_empty() { "none".to_owned() } else { found.models.join(", ") };
    say!("lastmile {} on {} cores, home {}", found.version, found.cores, found.home.display());
    say!("isa      {}", found.isa);
    say!("models   {models}");
    say!("keys     {}", found.keys);
    let newest = found.report.as_ref().and_then(|report| report.runs.first());
    if let Some(run) = newest {
        let tls = if run.run.address.starts_with("https://") { "by TLS" } else { "without TLS" };
        say!("address  {}, {tls}", run.run.address);
    }
    match &found.health {
        Some(health) => say!("health   {health}"),
        None => say!("health   no server answers"),
    }
    found.alerts.iter().chain(&found.alerts_beside).try_for_each(Alerts::print)?;
    if let Some(failed) = &found.failed_start {
        say!("start    FAILED at {}: {}", Utc(failed.at_ms), failed.error);
    }
    if let Some(crash) = &found.crash {
        crash.print()?;
    }
    match &found.report {
        Some(report) => say!("\n{report}"),
        None => say!("\nNothing has run here yet: `lastmile serve` starts a server."),
    }
    Ok(())
}

/// What the server at an address, as it is noted in the store, says at `/health`.
fn health(address: &str) -> Option<serde_json::Value> {
    let url = match address.strip_prefix("https://") {
        Some(_) => format!("{address}/health"),
        None => format!("http://{address}/health"),
    };
    // The certificate is for other names than this address; nothing secret is sent.
    let tls = TlsConfig::builder().disable_verification(true).build();
    let agent: Agent = Agent::config_builder()
        .timeout_global(Some(PATIENCE))
        .http_status_as_error(false)
        .proxy(None)
        .tls_config(tls)
        .build()
        .into();
    let mut answer = agent.get(url).call().ok()?;
    let body = answer.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_to_string().ok()?;
    serde_json::from_str(&body).ok()
}
