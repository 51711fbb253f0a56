//! Sources that are added as they come: each row once, whatever happens to files and processes.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;
use crate::{WatchEvent, WatchOptions, log, watch};

struct Watched {
    desk: Desk,
    folder: PathBuf,
}

impl Watched {
    fn new() -> Watched {
        let desk = Desk::new();
        let folder = desk.folder.path().join("watched");
        fs::create_dir(&folder).unwrap();
        Watched { desk, folder }
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn options(&self) -> WatchOptions {
        let ingest = self.desk.lenient();
        WatchOptions { ingest, once: true, settle: Duration::ZERO, ..WatchOptions::default() }
    }

    /// Reads what is there; gives the number of versions that were published.
    fn look(&self) -> u64 {
        self.look_with(&self.options()).0
    }

    fn look_with(&self, options: &WatchOptions) -> (u64, bool) {
        let home = &self.desk.home;
        watch(home, "tickets", &self.folder, options, &mut |_| true, &mut |_| ()).unwrap()
    }

    /// The published rows and how often each is there.
    #[track_caller]
    fn check(&self, expect: &[(&str, usize)]) {
        let rows = String::from_utf8(newest_rows(&self.desk)).unwrap();
        let mut found = BTreeMap::new();
        rows.lines().for_each(|row| *found.entry(row.to_owned()).or_insert(0) += 1);
        let expect = expect.iter().map(|(text, n)| (format!("{{\"text\":\"{text}\"}}"), *n));
        assert_eq!(found, expect.collect());
    }
}

fn row(text: &str) -> String {
    format!("{{\"text\":\"{text}\"}}\n")
}

#[test]
fn a_file_that_grows_is_read_on() {
    let watched = Watched::new();
    watched.file("a.jsonl", row("1") + &row("2"));
    assert_eq!(watched.look(), 1);
    assert_eq!(watched.look(), 0);
    watched.file("a.jsonl", row("1") + &row("2") + &row("2"));
    assert_eq!(watched.look(), 1);
    watched.check(&[("1", 1), ("2", 2)]);
    let log = log(&watched.desk.home, "tickets").unwrap();
    assert_eq!((log[0].rows_in, log[0].parent.as_ref()), (3, Some(&log[1].version)));
}

#[test]
fn a_line_without_an_end_is_read_once_it_goes_on() {
    let watched = Watched::new();
    watched.file("a.jsonl", row("1") + row("2").trim_end());
    watched.look();
    watched.file("a.jsonl", row("1") + &row("2") + &row("3"));
    watched.look();
    watched.check(&[("1", 1), ("2", 1), ("3", 1)]);
    watched.file("a.jsonl", row("1") + &row("2") + &row("3") + "{\"text\":");
    watched.look();
    watched.file("a.jsonl", row("1") + &row("2") + &row("3") + &row("4"));
    watched.look();
    watched.check(&[("1", 1), ("2", 1), ("3", 1), ("4", 1)]);
    // What had been read of the line is not lost either.
    let bad = watched.desk.quarantined(Report::Newest);
    assert_eq!(bad.iter().map(|row| row.raw.as_str()).collect::<Vec<_>>(), ["{\"text\":"]);
}

#[test]
fn a_mailbox_grows_by_whole_mails_and_csv_by_records() {
    let mail = |text: &str| {
        format!("From a@b.c Mon Jan  1 00:00:00 2001\nFrom: a@b.c\nSubject: {text}\n\n{text}\n\n")
    };
    let watched = Watched::new();
    let contract = Some(watched.desk.file("any.json", "{}"));
    let mut options = watched.options();
    options.ingest.contract = contract;
    watched.file("a.mbox", mail("one"));
    watched.file("b.csv", "x\n1\n");
    watched.look_with(&options);
    watched.file("a.mbox", mail("one") + &mail("two"));
    watched.file("b.csv", "x\n1\n2\n");
    watched.look_with(&options);
    let rows = String::from_utf8(newest_rows(&watched.desk)).unwrap();
    let seen = |part: &str| rows.matches(part).count();
    assert_eq!(rows.lines().count(), 4, "{rows}");
    let parts = ["\"subject\":\"one\"", "\"subject\":\"two\"", "{\"x\":\"1\"}", "{\"x\":\"2\"}"];
    parts.iter().for_each(|part| assert_eq!(seen(part), 1, "{part}"));
}

#[test]
fn a_file_that_is_renamed_or_comes_again_is_known() {
    let watched = Watched::new();
    watched.file("a.jsonl", row("1"));
    watched.file("b.jsonl", row("2"));
    watched.look();
    fs::create_dir(watched.folder.join("deep")).unwrap();
    fs::rename(watched.folder.join("a.jsonl"), watched.folder.join("deep/c.jsonl")).unwrap();
    watched.file("b again.jsonl", row("2"));
    assert_eq!(watched.look(), 0);
    fs::remove_file(watched.folder.join("b.jsonl")).unwrap();
    watched.look();
    watched.file("b.jsonl", row("2"));
    watched.look();
    // Renamed and grown.
    fs::rename(watched.folder.join("deep/c.jsonl"), watched.folder.join("d.jsonl")).unwrap();
    watched.file("d.jsonl", row("1") + &row("3"));
    assert_eq!(watched.look(), 1);
    watched.check(&[("1", 1), ("2", 1), ("3", 1)]);
}

#[test]
fn of_a_rewritten_file_only_new_rows_are_added() {
    let watched = Watched::new();
    watched.file("a.jsonl", row("1") + "[]\n" + &row("2") + &row("2"));
    watched.look();
    watched.file("a.jsonl", row("0") + &row("2") + "[]\n" + &row("1") + &row("2") + &row("2"));
    watched.look();
    watched.check(&[("0", 1), ("1", 1), ("2", 3)]);
    let manifest = crate::show(&watched.desk.home, "tickets", None).unwrap().manifest;
    assert_eq!((manifest.rows_in, manifest.rows_quarantined, manifest.rows_repeated), (6, 1, 4));
}

#[test]
fn files_that_are_being_written_and_hidden_ones_are_left_alone() {
    let watched = Watched::new();
    watched.file("a.jsonl", row("1"));
    watched.file("b.jsonl.part", row("2"));
    watched.file(".c.jsonl", row("3"));
    watched.file("d.txt", row("4"));
    let mut options = watched.options();
    options.ingest.include = vec!["*.jsonl".to_owned()];
    watched.look_with(&options);
    watched.check(&[("1", 1)]);
    // One that was just changed is waited for.
    let mut n_waits = 0;
    let options = WatchOptions { settle: Duration::from_secs(3600), ..options };
    watched.file("e.jsonl", row("5"));
    let mut wait = |_| {
        n_waits += 1;
        n_waits < 3
    };
    let home = &watched.desk.home;
    let watch = watch(home, "tickets", &watched.folder, &options, &mut wait, &mut |_| ());
    assert_eq!(watch.unwrap().0, 0);
}

#[test]
fn a_file_that_cannot_be_read_is_quarantined_and_in_nobodys_way() {
    let watched = Watched::new();
    watched.file("a.jsonl", row("1"));
    watched.file("b.parquet", "PAR1 no more");
    watched.file("c.csv", "x,x\n1,2\n");
    watched.file("d.jsonl.gz", b"\x1f\x8b\x08\x00 nothing");
    watched.file("e.what", "just words");
    let mut left_out = Vec::new();
    let mut on_event = |event| {
        if let WatchEvent::LeftOut(error) = event {
            left_out.push(error.to_string());
        }
    };
    let (home, options) = (&watched.desk.home, watched.options());
    watch(home, "tickets", &watched.folder, &options, &mut |_| true, &mut on_event).unwrap();
    watched.check(&[("1", 1)]);
    assert!(left_out.len() == 1 && left_out[0].contains("e.what"), "{left_out:?}");
    let bad = watched.desk.quarantined(Report::Newest);
    let found: Vec<_> = bad.iter().map(|row| (row.source.as_str(), row.rule.as_str())).collect();
    let names = ["b.parquet", "c.csv", "d.jsonl.gz"];
    assert_eq!(found, names.map(|name| (name, "unreadable")));
    assert!(bad[1].detail.contains("column \"x\" comes twice"), "{bad:?}");
    // One that is mended is read.
    watched.file("c.csv", "text\n2\n");
    assert_eq!(watched.look(), 1);
    watched.check(&[("1", 1), ("2", 1)]);
}

#[test]
fn a_batch_that_is_refused_is_told_once_and_read_again_when_it_changes() {
    let watched = Watched::new();
    let mut options = watched.options();
    options.ingest.thresholds = IngestOptions::default().thresholds;
    watched.file("a.jsonl", "[]\n");
    let mut n_refused = 0;
    let mut on_event = |event| n_refused += u64::from(matches!(event, WatchEvent::Refused(_)));
    let home = &watched.desk.home;
    let ended = watch(home, "tickets", &watched.folder, &options, &mut |_| true, &mut on_event);
    assert_eq!((ended.unwrap(), n_refused), ((0, true), 1));
    watched.file("a.jsonl", row("1"));
    assert_eq!(watched.look_with(&options), (1, false));
    watched.check(&[("1", 1)]);
}

#[test]
fn what_is_offered_is_taken_once_by_its_key() {
    let watched = Watched::new();
    let home = &watched.desk.home;
    let take =
        |key, rows: &str| offer(home, "tickets", key, rows.as_bytes(), &InboxLimits::default());
    assert!(!take(Some("k1"), &row("1")).unwrap().already_taken);
    assert!(take(Some("k1"), &row("1")).unwrap().already_taken);
    assert!(matches!(take(Some("k1"), &row("2")), Err(DataError::KeyReused { .. })));
    // The same rows under another key are other rows.
    assert!(!take(Some("k2"), &row("1")).unwrap().already_taken);
    assert_eq!(backlog(home, "tickets").unwrap().n_bodies, 2);
    take(None, &row("3")).unwrap();
    assert_eq!(watched.look(), 1);
    watched.check(&[("1", 2), ("3", 1)]);
    for key in [Some("k1"), Some("k2")] {
        assert!(take(key, &row("1")).unwrap().already_taken);
    }
    assert!(take(None, &row("3")).unwrap().already_taken);
    assert_eq!(watched.look(), 0);
    assert!(take(Some(""), "x").is_err() && take(None, " \n").is_err());
}

#[test]
fn a_full_inbox_refuses_and_drops_nothing() {
    let desk = Desk::new();
    let limits = InboxLimits { n_bodies: 20, ..InboxLimits::default() };
    let offer =
        |i: u64| offer(&desk.home, "tickets", None, row(&i.to_string()).as_bytes(), &limits);
    for i in 0..20 {
        offer(i).unwrap();
    }
    let error = offer(20).unwrap_err();
    assert!(matches!(error, DataError::InboxFull { value: 20, .. }), "{error}");
    assert!(offer(0).unwrap().already_taken);
    let options = WatchOptions {
        ingest: desk.lenient(),
        once: true,
        settle: Duration::ZERO,
        ..WatchOptions::default()
    };
    let empty = desk.folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    watch(&desk.home, "tickets", &empty, &options, &mut |_| true, &mut |_| ()).unwrap();
    let n_rows = crate::show(&desk.home, "tickets", None).unwrap().manifest.rows_published;
    assert_eq!(n_rows, 20);
    assert!(!offer(20).unwrap().already_taken);
}

const CHILD: &str = "LASTMILE_TEST_WATCH_OF_CHILD";

/// Not a test by itself: the process that the next test kills. Without its variable it ends.
#[test]
fn child_that_watches_until_it_is_killed() {
    let Some(folder) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    let contract = Some(folder.join("schema.json"));
    let ingest = IngestOptions { contract, ..IngestOptions::default() };
    let options =
        WatchOptions { ingest, once: true, settle: Duration::ZERO, ..WatchOptions::default() };
    let home = DataHome(folder.join("data"));
    let ended =
        watch(&home, "tickets", &folder.join("watched"), &options, &mut |_| true, &mut |_| ());
    ended.unwrap();
    stay_if_told();
}

#[test]
fn kills_at_any_moment_lose_and_double_nothing() {
    let watched = Watched::new();
    watched.desk.lenient();
    let text = |file: usize, i: usize| format!("{file}-{i}{}", "-".repeat(8));
    let files = 4;
    for file in 0..files {
        let rows: String = (0..60_000).map(|i| row(&text(file, i))).collect();
        watched.file(&format!("{file}.jsonl"), rows);
    }
    let mut killed = 0;
    // Later and later, so that the kills meet reading, checkpoints, publishing and the end.
    for round in 0..200_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tests::watching::child_that_watches_until_it_is_killed"])
            .env(CHILD, watched.desk.folder.path())
            .env(STAYS, if round < 2 { "1" } else { "" })
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let (told, ended) = std::sync::mpsc::channel::<()>();
        let patience = Duration::from_millis(15 * (round + 1));
        // Nobody ever tells: this is a clock, not a wait for something.
        let _ = ended.recv_timeout(patience);
        drop(told);
        if child.try_wait().unwrap().is_some_and(|status| status.success()) {
            break;
        }
        killed += 1;
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(killed > 1, "the child ended before it could be killed");
    assert_eq!(watched.look(), 0);
    let rows = String::from_utf8(newest_rows(&watched.desk)).unwrap();
    let mut found: Vec<&str> = rows.lines().collect();
    found.sort_unstable();
    let mut expect: Vec<String> = (0..files)
        .flat_map(|file| (0..60_000).map(move |i| row(&text(file, i)).trim_end().to_owned()))
        .collect();
    expect.sort_unstable();
    assert_eq!(found.len(), expect.len());
    assert!(found == expect);
}
