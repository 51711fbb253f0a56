//! `lastmile doctor`: what runs, since when, and what went wrong, on one page.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use lm_kernels::Isa;
use lm_keys::{KeyFile, KeyState};
use lm_ops::{Doctor, Reader};
use serde::Serialize;
use ureq::Agent;
use ureq::tls::TlsConfig;

use crate::args::DoctorArgs;
use crate::keys::{key_file, unix_seconds};
use crate::model::home;
use crate::outcome::{Outcome, print_json, say};

/// How long a server may take to say that it is well.
const PATIENCE: Duration = Duration::from_secs(2);
/// Names a store on a server, as `serve --store` does.
pub(crate) const STORE_VARIABLE: &str = "LASTMILE_STORE";
/// Longest answer to a health check.
const MAX_ANSWER_BYTES: u64 = 64 << 10;

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
    /// `None` when nothing has run here yet.
    #[serde(flatten)]
    report: Option<Doctor>,
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
    let is_there = path.exists() || std::env::var_os(STORE_VARIABLE).is_some();
    let report = match is_there {
        true => Some(Doctor::examine(&Reader::open(&path)?, SystemTime::now())?),
        false => None,
    };
    let newest = report.as_ref().and_then(|report| report.runs.first());
    let health = newest.and_then(|run| health(&run.run.address));
    let found = Found {
        version: env!("CARGO_PKG_VERSION"),
        home: home.path().to_owned(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        isa: FoundIsa::under(args.isa.as_deref()),
        models: lm_models::installed(&home).into_iter().map(|model| model.name).collect(),
        keys: FoundKeys::of(&key_file(&home)),
        health,
        report,
    };
    if args.json {
        print_json(&found)?;
    } else {
        print_page(&found)?;
    }
    Ok(Outcome::Done)
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
