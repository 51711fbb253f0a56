//! `lastmile doctor`: what runs, since when, and what went wrong, on one page.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use lm_kernels::Isa;
use lm_ops::{Doctor, Reader};
use serde::Serialize;

use crate::args::DoctorArgs;
use crate::model::home;
use crate::outcome::{Outcome, print_json, say};

/// How long a server may take to say that it is well.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest answer to a health check.
const MAX_ANSWER_BYTES: u64 = 64 << 10;

/// Everything that the doctor found.
#[derive(Serialize)]
struct Found {
    version: &'static str,
    home: PathBuf,
    /// Cores that this process may use.
    cores: usize,
    isa: FoundIsa,
    models: Vec<String>,
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
    let report = match path.exists() {
        true => Some(Doctor::examine(&Reader::open(&path)?, SystemTime::now())?),
        false => None,
    };
    let newest = report.as_ref().and_then(|report| report.runs.first());
    let address = newest.and_then(|run| run.run.address.parse().ok());
    let found = Found {
        version: env!("CARGO_PKG_VERSION"),
        home: home.path().to_owned(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        isa: FoundIsa::under(args.isa.as_deref()),
        models: lm_models::installed(&home).into_iter().map(|model| model.name).collect(),
        health: address.and_then(health),
        report,
    };
    if args.json {
        print_json(&found)?;
    } else {
        print_page(&found)?;
    }
    Ok(Outcome::Done)
}

/// Where the store of a home is.
pub(crate) fn store_path(home: &Path) -> PathBuf {
    home.join("store").join("lastmile.db")
}

fn print_page(found: &Found) -> anyhow::Result<()> {
    let models = if found.models.is_empty() { "none".to_owned() } else { found.models.join(", ") };
    say!("lastmile {} on {} cores, home {}", found.version, found.cores, found.home.display());
    say!("isa      {}", found.isa);
    say!("models   {models}");
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

/// What a server says at `/health`.
fn health(address: SocketAddr) -> Option<serde_json::Value> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.set_write_timeout(Some(PATIENCE)).ok()?;
    let request = format!("GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER_BYTES).read_to_string(&mut answer).ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    serde_json::from_str(body).ok()
}
