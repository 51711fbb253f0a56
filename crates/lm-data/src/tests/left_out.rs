//! What is in a watched folder and cannot be added is in nobody's way.

use std::time::Duration;

use super::*;
use crate::{Release, Select, WatchEvent, WatchOptions, release, watch};

struct Watched {
    desk: Desk,
    folder: PathBuf,
    options: WatchOptions,
}

impl Watched {
    /// Watches with the thresholds that are the default.
    fn new() -> Watched {
        let desk = Desk::new();
        let folder = desk.folder.path().join("watched");
        fs::create_dir(&folder).unwrap();
        let thresholds = IngestOptions::default().thresholds;
        let ingest = IngestOptions { thresholds, ..desk.lenient() };
        let options =
            WatchOptions { ingest, once: true, settle: Duration::ZERO, ..WatchOptions::default() };
        Watched { desk, folder, options }
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.folder.join(name), bytes).unwrap();
    }

    fn look(&self, on_event: &mut dyn FnMut(WatchEvent)) -> (u64, bool) {
        let (home, folder) = (&self.desk.home, &self.folder);
        watch(home, "tickets", folder, &self.options, &mut |_| true, on_event).unwrap()
    }

    #[track_caller]
    fn check(&self, expect: &[String]) {
        let mut rows: Vec<String> = String::from_utf8(newest_rows(&self.desk))
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect();
        let mut expect: Vec<String> =
            expect.iter().flat_map(|rows| rows.lines()).map(str::to_owned).collect();
        rows.sort_unstable();
        expect.sort_unstable();
        assert_eq!(rows, expect);
    }
}

fn rows(name: &str, n: usize) -> String {
    (0..n).map(|i| format!("{{\"text\":\"{name} {i}\"}}\n")).collect()
}

#[test]
fn a_bad_file_is_left_out_until_it_changes_and_the_others_are_added() {
    let mut watched = Watched::new();
    watched.options.once = false;
    watched.file("a.jsonl", "[]\n".repeat(30));
    watched.file("b.jsonl", rows("b", 30));
    let mut n_waits = 0;
    let mut wait = |_| {
        n_waits += 1;
        match n_waits {
            1 => watched.file("c.jsonl", rows("c", 30)),
            2 => watched.file("a.jsonl", rows("a", 30)),
            _ => return false,
        }
        true
    };
    let mut n_refused = 0;
    let mut on_event = |event| n_refused += u64::from(matches!(event, WatchEvent::Refused(_)));
    let (home, folder) = (&watched.desk.home, &watched.folder);
    let ended = watch(home, "tickets", folder, &watched.options, &mut wait, &mut on_event).unwrap();
    assert_eq!((ended, n_refused), ((3, true), 1));
    watched.check(&["a", "b", "c"].map(|name| rows(name, 30)));
}

#[test]
fn a_few_rows_added_to_a_version_fail_by_no_share() {
    let watched = Watched::new();
    watched.file("a.jsonl", rows("a", 30));
    assert_eq!(watched.look(&mut |_| ()), (1, false));
    watched.file("b.jsonl", rows("b", 1) + "[]\n");
    assert_eq!(watched.look(&mut |_| ()), (1, false));
    watched.check(&[rows("a", 30), rows("b", 1)]);
    assert_eq!(watched.desk.quarantined(Report::Newest).len(), 1);
    // 20 rows are enough to judge.
    watched.file("c.jsonl", rows("c", 18) + "[]\n[]\n");
    assert_eq!(watched.look(&mut |_| ()), (0, true));
    // A limit of 0 needs no sample.
    let mut strict = watched;
    strict.file("c.jsonl", "[]\n");
    strict.options.ingest.thresholds.fail = 0.0;
    assert_eq!(strict.look(&mut |_| ()), (0, true));
}

#[test]
fn rows_that_are_appended_while_their_file_is_read_are_added() {
    let watched = Watched::new();
    watched.file("a.jsonl", rows("a", 3));
    let mut is_first = true;
    watched.look(&mut |event| {
        if matches!(event, WatchEvent::Progress(_)) && std::mem::take(&mut is_first) {
            watched.file("a.jsonl", rows("a", 5));
        }
    });
    watched.check(&[rows("a", 5)]);
}

#[test]
fn what_is_compressed_by_another_program_is_left_out_and_told_once() {
    let watched = Watched::new();
    watched.file("a.jsonl", b"\x28\xb5\x2f\xfd and what Zstandard made of it");
    watched.file("b.jsonl", rows("b", 3));
    let mut told = Vec::new();
    let mut on_event = |event| {
        if let WatchEvent::LeftOut(error) = event {
            told.push(error.to_string());
        }
    };
    assert_eq!(watched.look(&mut on_event), (1, false));
    watched.check(&[rows("b", 3)]);
    assert!(told.len() == 1 && told[0].contains("a.jsonl is compressed by"), "{told:?}");
}

#[test]
fn a_folder_of_empty_files_is_watched_on() {
    let mut watched = Watched::new();
    watched.options.once = false;
    watched.file("a.jsonl", "");
    let mut n_waits = 0;
    let mut wait = |_| {
        n_waits += 1;
        if n_waits == 2 {
            watched.file("a.jsonl", rows("a", 3));
        }
        n_waits < 4
    };
    let (home, folder) = (&watched.desk.home, &watched.folder);
    let ended = watch(home, "tickets", folder, &watched.options, &mut wait, &mut |_| ()).unwrap();
    assert_eq!(ended, (1, false));
    watched.check(&[rows("a", 3)]);
}

#[test]
fn a_dataset_that_somebody_else_holds_is_waited_for() {
    let watched = Watched::new();
    watched.file("a.jsonl", rows("a", 3));
    let (home, folder) = (&watched.desk.home, &watched.folder);
    let mut lock = Some(home.dataset("tickets").unwrap().lock().unwrap());
    let mut n_waits = 0;
    let mut wait = |_| {
        n_waits += 1;
        if n_waits == 2 {
            drop(lock.take());
        }
        n_waits < 9
    };
    let ended = watch(home, "tickets", folder, &watched.options, &mut wait, &mut |_| ()).unwrap();
    assert_eq!((ended, n_waits), ((1, false), 2));
    watched.check(&[rows("a", 3)]);
}

#[test]
fn a_file_from_the_future_is_read_when_it_stays_as_it_is() {
    let mut watched = Watched::new();
    watched.options.settle = Duration::from_millis(20);
    watched.file("a.jsonl", rows("a", 3));
    let file = fs::File::options().append(true).open(watched.folder.join("a.jsonl")).unwrap();
    let in_a_year = std::time::SystemTime::now() + Duration::from_hours(365 * 24);
    file.set_modified(in_a_year).unwrap();
    let mut n_waits = 0;
    let mut wait = |time| {
        std::thread::sleep(time);
        n_waits += 1;
        n_waits < 100
    };
    let (home, folder) = (&watched.desk.home, &watched.folder);
    let ended = watch(home, "tickets", folder, &watched.options, &mut wait, &mut |_| ()).unwrap();
    assert_eq!(ended, (1, false));
    assert!((1..100).contains(&n_waits), "{n_waits}");
    watched.check(&[rows("a", 3)]);
}

#[test]
fn a_repaired_row_is_known_when_its_file_is_rewritten() {
    let mut watched = Watched::new();
    let terms = "format = 1\n[text]\nmojibake = true\n";
    watched.options.ingest.contract = Some(watched.desk.file("contract.toml", terms));
    watched.options.ingest.allow = vec!["mojibake".to_owned()];
    let bad = "{\"text\":\"cafÃ©\"}\n";
    watched.file("a.jsonl", rows("a", 2) + bad);
    watched.look(&mut |_| ());
    let home = &watched.desk.home;
    let repair = || {
        let select = Select::Rule("mojibake".to_owned());
        release(home, "tickets", &select, Release::Repaired, None)
    };
    repair().unwrap();
    watched.file("a.jsonl", rows("new", 1) + &rows("a", 2) + bad);
    watched.look(&mut |_| ());
    assert!(matches!(repair(), Err(DataError::NothingReleased { .. })));
    watched.check(&[rows("new", 1), rows("a", 2), "{\"text\":\"café\"}\n".to_owned()]);
}

#[cfg(target_os = "linux")]
#[test]
fn what_the_system_refuses_is_left_out_and_told_once() {
    let watched = Watched::new();
    // The first has no permission to read for anybody, the second fails when it is read.
    let refused = [("a.jsonl", "/proc/sys/vm/compact_memory"), ("b.jsonl", "/proc/self/mem")];
    for (name, target) in refused {
        std::os::unix::fs::symlink(target, watched.folder.join(name)).unwrap();
    }
    watched.file("c.jsonl", rows("c", 3));
    let mut told = Vec::new();
    let mut on_event = |event| {
        if let WatchEvent::LeftOut(error) = event {
            told.push(error.to_string());
        }
    };
    assert_eq!(watched.look(&mut on_event), (1, false));
    watched.check(&[rows("c", 3)]);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("a.jsonl") && told[1].contains("b.jsonl"), "{told:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn names_that_are_not_utf8_are_told_apart() {
    use std::os::unix::ffi::OsStrExt;
    let watched = Watched::new();
    for (i, name) in [&b"a\xff.jsonl"[..], b"a\xfe.jsonl", b"a\\xff.jsonl"].iter().enumerate() {
        let path = watched.folder.join(std::ffi::OsStr::from_bytes(name));
        fs::write(path, rows(&i.to_string(), 1)).unwrap();
    }
    assert_eq!(watched.look(&mut |_| ()), (1, false));
    watched.check(&["0", "1", "2"].map(|name| rows(name, 1)));
    assert_eq!(watched.look(&mut |_| ()), (0, false));
}
