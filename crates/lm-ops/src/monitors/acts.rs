//! What operators did to monitors, who, and why: a file that is only appended to. It is the audit log, and which models are paused
//! follows from it.
//!
//! It must never say that a pause holds which a restart would not know of.
//!
//! Start reading at [`note`] and [`paused`].

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

const FILE: &str = "audit.jsonl";
/// What came before it.
const OLDER: &str = "audit.1.jsonl";
/// What comes after it, while it is made.
const NEXT: &str = "audit.next";
/// Servers of one home write one after the other.
const LOCK: &str = "audit.lock";
/// A file that is larger becomes the older one, in the place of the one before.
const MAX_BYTES: u64 = 4 << 20;
/// Files that are larger than this are none of ours.
const MAX_READ_BYTES: u64 = 4 * MAX_BYTES;

/// What an operator may do to the monitors of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MonitorAction {
    /// It is neither watched nor learned from.
    Pause,
    /// It is watched again.
    Resume,
    /// What is usual of it is learned anew.
    Forget,
}

/// One entry of the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonitorEntry {
    /// Unix milliseconds.
    pub at_ms: i64,
    /// Who did it.
    pub who: String,
    /// What was done.
    pub action: MonitorAction,
    /// To which model, by its name as served.
    pub model: String,
    /// Why; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// Writes an entry down. It is durable when this returns.
pub(super) fn note(folder: &Path, entry: &MonitorEntry) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let lock = File::create(folder.join(LOCK))?;
    lock.lock()?;
    let path = folder.join(FILE);
    let text = read_text(&path)?;
    if text.len() as u64 > MAX_BYTES {
        return begin_anew(folder, &fold(&entries(&text, &path)), entry);
    }
    let mut lines = String::new();
    if !text.is_empty() && !text.ends_with('\n') {
        // A server died while it wrote: the half of a line stays one.
        lines.push('\n');
    }
    lines.push_str(&line(entry)?);
    write(OpenOptions::new().append(true), &path, &lines)?;
    if text.is_empty() { sync_folder(folder) } else { Ok(()) }
}

/// Makes the file the older one. At no time is there none that says who is paused: a full disk or the end of the server
/// leaves the one before.
fn begin_anew(
    folder: &Path,
    paused: &BTreeMap<String, MonitorEntry>,
    entry: &MonitorEntry,
) -> std::io::Result<()> {
    let (path, older, next) = (folder.join(FILE), folder.join(OLDER), folder.join(NEXT));
    // The new file says by itself who is paused.
    let all = paused.values().chain(std::iter::once(entry));
    let lines = all.map(line).collect::<std::io::Result<String>>()?;
    write(OpenOptions::new().write(true).truncate(true), &next, &lines)?;
    match std::fs::remove_file(&older) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Not every file system has links.
    if std::fs::hard_link(&path, &older).is_err() {
        std::fs::copy(&path, &older)?;
    }
    std::fs::rename(&next, &path)?;
    sync_folder(folder)
}

/// Readable by its owner only, and durable.
fn write(options: &mut OpenOptions, path: &Path, text: &str) -> std::io::Result<()> {
    options.create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_data()
}

/// What was made or renamed in it is durable.
fn sync_folder(folder: &Path) -> std::io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// The models that are paused, and who paused them.
pub(super) fn paused(folder: &Path) -> std::io::Result<BTreeMap<String, MonitorEntry>> {
    let path = folder.join(FILE);
    Ok(fold(&entries(&read_text(&path)?, &path)))
}

/// The newest entries, newest first; at most `limit`.
pub(super) fn newest(folder: &Path, limit: usize) -> std::io::Result<Vec<MonitorEntry>> {
    let read = |name: &str| {
        let path = folder.join(name);
        Ok::<_, Error>(entries(&read_text(&path)?, &path))
    };
    let (mut all, newer) = (read(OLDER)?, read(FILE)?);
    // The newer file begins with what is in the older one.
    let known = fold(&all);
    all.extend(newer.into_iter().filter(|entry| known.get(&entry.model) != Some(entry)));
    all.reverse();
    all.truncate(limit);
    Ok(all)
}

fn fold(all: &[MonitorEntry]) -> BTreeMap<String, MonitorEntry> {
    let mut paused = BTreeMap::new();
    for entry in all {
        match entry.action {
            MonitorAction::Pause => drop(paused.insert(entry.model.clone(), entry.clone())),
            MonitorAction::Resume | MonitorAction::Forget => drop(paused.remove(&entry.model)),
        }
    }
    paused
}

fn line(entry: &MonitorEntry) -> std::io::Result<String> {
    Ok(serde_json::to_string(entry)? + "\n")
}

/// Empty when there is no file.
fn read_text(path: &Path) -> std::io::Result<String> {
    match std::fs::metadata(path) {
        Ok(found) if found.len() > MAX_READ_BYTES => Err(Error::other("it is too large")),
        Ok(_) => Ok(String::from_utf8_lossy(&std::fs::read(path)?).into_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    }
}

/// What can be read. A line that cannot is named, and the others hold.
fn entries(text: &str, path: &Path) -> Vec<MonitorEntry> {
    let mut all = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        match serde_json::from_str(line) {
            Ok(entry) => all.push(entry),
            Err(error) => {
                let (path, line) = (path.display(), i + 1);
                tracing::warn!(%path, line, %error, "an entry of the monitors' audit log is lost");
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn entry(at_ms: i64, action: MonitorAction, model: &str) -> MonitorEntry {
        let (who, reason) = ("ana".to_owned(), "a new prompt".to_owned());
        MonitorEntry { at_ms, who, action, model: model.to_owned(), reason }
    }

    fn paused_models(folder: &Path) -> Vec<String> {
        paused(folder).unwrap().into_keys().collect()
    }

    #[test]
    fn who_is_paused_follows_from_what_was_done() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("monitors");
        assert!(paused_models(&folder).is_empty());
        assert!(newest(&folder, 10).unwrap().is_empty());
        for (i, (action, model)) in [
            (MonitorAction::Pause, "a"),
            (MonitorAction::Pause, "b"),
            (MonitorAction::Pause, "c"),
            (MonitorAction::Resume, "a"),
            (MonitorAction::Forget, "b"),
        ]
        .into_iter()
        .enumerate()
        {
            note(&folder, &entry(i as i64, action, model)).unwrap();
        }
        assert_eq!(paused_models(&folder), ["c"]);
        let told = newest(&folder, 2).unwrap();
        let forgotten = entry(4, MonitorAction::Forget, "b");
        assert_eq!(told, [forgotten, entry(3, MonitorAction::Resume, "a")]);
    }

    #[test]
    fn half_a_line_harms_no_other_and_a_file_that_grew_keeps_who_is_paused() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path();
        note(folder, &entry(1, MonitorAction::Pause, "a")).unwrap();
        let path = folder.join(FILE);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(br#"{"at_ms":2,"who":"an"#).unwrap();
        note(folder, &entry(3, MonitorAction::Pause, "b")).unwrap();
        assert_eq!(paused_models(folder), ["a", "b"]);
        let long = MonitorEntry {
            reason: "x".repeat(MAX_BYTES as usize),
            ..entry(4, MonitorAction::Resume, "b")
        };
        note(folder, &long).unwrap();
        note(folder, &entry(5, MonitorAction::Pause, "c")).unwrap();
        assert_eq!(paused_models(folder), ["a", "c"]);
        assert!(std::fs::metadata(&path).unwrap().len() < 1000);
        assert!(folder.join(OLDER).exists());
        assert_eq!(newest(folder, 1).unwrap(), [entry(5, MonitorAction::Pause, "c")]);
    }

    /// The disk is full when the file is to begin anew.
    #[test]
    fn pauses_outlive_a_new_file_that_cannot_be_written() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path();
        note(folder, &entry(1, MonitorAction::Pause, "a")).unwrap();
        let long = MonitorEntry {
            reason: "x".repeat(MAX_BYTES as usize),
            ..entry(2, MonitorAction::Pause, "b")
        };
        note(folder, &long).unwrap();
        std::fs::create_dir(folder.join(NEXT)).unwrap();
        note(folder, &entry(3, MonitorAction::Resume, "a")).unwrap_err();
        assert_eq!(paused_models(folder), ["a", "b"]);
        assert_eq!(newest(folder, 1).unwrap(), [long]);

        std::fs::remove_dir(folder.join(NEXT)).unwrap();
        // What the end of a server left behind.
        std::fs::write(folder.join(NEXT), "half a l").unwrap();
        std::fs::hard_link(folder.join(FILE), folder.join(OLDER)).unwrap();
        note(folder, &entry(4, MonitorAction::Resume, "a")).unwrap();
        assert_eq!(paused_models(folder), ["b"]);
        let told: Vec<i64> = newest(folder, 9).unwrap().iter().map(|entry| entry.at_ms).collect();
        assert_eq!(told, [4, 2, 1]);
        assert!(!folder.join(NEXT).exists());
    }
}
