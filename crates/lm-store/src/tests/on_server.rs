//! The same tests on a real PostgreSQL server, rows that move there from a file, and a server that goes away.
//!
//! Where PostgreSQL's programs are not installed (Debian's package `postgresql`), that is said and nothing is tested.

use std::io::Write;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use super::*;
use crate::{Migrated, Reader, migrate, stats};

/// A server in a folder of its own, on a Unix socket there.
struct Server {
    folder: tempfile::TempDir,
    programs: PathBuf,
    /// Whom it runs as, where the tests run as root, which it refuses.
    user: Option<(u32, u32)>,
}

impl Server {
    /// `None`, and a loud word, where there are no programs.
    fn start() -> Option<Server> {
        let Some(programs) = programs() else {
            let mut out = std::io::stderr();
            writeln!(out, "SKIPPED: PostgreSQL is not installed, so nothing was tested on it")
                .unwrap();
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let user = is_root().then(|| user("postgres").or_else(|| user("nobody")).unwrap());
        if let Some((uid, gid)) = user {
            chown(folder.path(), Some(uid), Some(gid)).unwrap();
        }
        let server = Server { folder, programs, user };
        let data = server.data();
        server.run(
            "initdb",
            &["-D", &data, "-U", "lastmile", "-A", "trust", "--no-sync", "-E", "UTF8"],
        );
        server.start_again();
        Some(server)
    }

    fn data(&self) -> String {
        self.folder.path().join("data").display().to_string()
    }

    fn start_again(&self) {
        let options =
            format!("-k {} -c listen_addresses= -c fsync=off", self.folder.path().display());
        let log = self.folder.path().join("log").display().to_string();
        self.run("pg_ctl", &["-D", &self.data(), "-w", "-l", &log, "-o", &options, "start"]);
    }

    fn stop(&self) {
        // In order: what a crash may take from telemetry is its last moments, as on a file.
        self.run("pg_ctl", &["-D", &self.data(), "-w", "-m", "fast", "stop"]);
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let mut command = Command::new(self.programs.join(program));
        command.args(arguments).current_dir(self.folder.path());
        // The server must not keep the test's pipes open.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        let status = command.status().unwrap();
        assert!(status.success(), "{program} ended with {status}");
    }

    /// The URL of a schema of its own.
    fn url(&self, schema: &str) -> PathBuf {
        let socket = self.folder.path().display().to_string().replace('/', "%2F");
        let admin = format!("postgres://lastmile@{socket}/postgres");
        let mut client = postgres::Client::connect(&admin, postgres::NoTls).unwrap();
        client.batch_execute(&format!("CREATE SCHEMA IF NOT EXISTS {schema}")).unwrap();
        PathBuf::from(format!("{admin}?options=-c%20search_path%3D{schema}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A test that failed may have stopped it already.
        let mut command = Command::new(self.programs.join("pg_ctl"));
        command.args(["-D", &self.data(), "-m", "immediate", "stop"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        let _ = command.status();
    }
}

/// Debian keeps each version's programs in a folder of its own, out of the path.
fn programs() -> Option<PathBuf> {
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let folders = debian.map(|version| version.path().join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut all = folders.chain(std::env::split_paths(&path));
    all.find(|folder| folder.join("initdb").is_file())
}

fn is_root() -> bool {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0
}

fn user(name: &str) -> Option<(u32, u32)> {
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let fields = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let found = fields.into_iter().find(|fields| fields[0] == name)?;
    Some((found[2].parse().ok()?, found[3].parse().ok()?))
}

/// What holds of a store wherever it lies.
const SUITE: &[(&str, fn())] = &[
    ("reads_back", rows::a_request_reads_back_with_all_its_answers),
    ("prompts", rows::every_kind_of_prompt_reads_back),
    ("duplicates", rows::the_first_of_two_answers_for_one_choice_is_kept_and_the_second_counted),
    ("a_thousand", rows::a_thousand_answers_are_all_there_after_a_flush),
    ("dropping", rows::dropping_the_last_handle_writes_everything_out),
    ("feedback", rows::feedback_sees_the_answer_queued_before_it_and_survives_a_reopen),
    ("bad_feedback", rows::feedback_that_cannot_be_right_is_refused_with_its_field),
    ("totals", rows::totals_count_errors_by_code_and_take_percentiles_of_what_was_measured),
    ("retention", rows::retention_erases_texts_first_and_rows_later),
    ("release", rows::a_release_is_stored_once),
    ("run", rows::a_run_is_running_then_stopped),
    ("facts", searching::requests_are_found_by_each_fact_newest_first),
    ("texts", searching::texts_are_found_as_they_were_written),
    ("foreign", tenants::a_foreign_request_looks_like_one_that_never_was),
    ("traffic", tenants::traffic_is_whole_answers_with_their_prompts_oldest_first),
    ("tokens", tenants::tokens_are_summed_by_tenant_and_a_prompt_counts_once),
    ("costs", costing::sums_are_the_sums_of_their_rows_in_every_grouping),
    ("currencies", costing::without_prices_there_is_no_cost_and_currencies_are_not_mixed),
    ("modes", privacy::each_mode_keeps_what_it_says),
    ("hashes", privacy::keyed_hashes_tell_equal_texts_over_restarts_and_not_over_stores),
    ("withheld", privacy::token_ids_cannot_be_redacted_and_are_withheld),
    ("erasing", privacy::an_erased_subject_is_gone_from_every_table_and_from_the_files),
    ("under_another", privacy::who_was_kept_in_clear_is_found_under_another_mode),
];

#[test]
fn a_store_on_a_server_passes_the_same_tests() {
    let Some(server) = Server::start() else { return };
    let server = std::rc::Rc::new(server);
    for (name, test) in SUITE {
        let (server, mut n_homes) = (std::rc::Rc::clone(&server), 0);
        let next = move || {
            n_homes += 1;
            server.url(&format!("{name}_{n_homes}"))
        };
        SERVER.set(Some(Box::new(next)));
        let outcome = std::panic::catch_unwind(test);
        SERVER.set(None);
        assert!(outcome.is_ok(), "{name} fails on PostgreSQL");
    }
}

#[test]
fn rows_move_to_a_server_and_back_and_none_is_lost() {
    let Some(server) = Server::start() else { return };
    let home = Home::new();
    let store = home.open_with(|options| options.prices.per_cpu_second = 1.0);
    record_all(&store, 0..1300);
    // Nothing that a file can hold may stop a server.
    let mut odd = event(5000);
    odd.output_text = "a\0b".to_owned();
    store.record(&odd);
    store.feedback(thumb_up(7)).unwrap();
    store.close().unwrap();
    let there = server.url("moved");
    let copied = |from: &Path, to: &Path| {
        let tables: Vec<Migrated> = migrate(from, to).unwrap();
        let of = |name: &str| tables.iter().find(|table| table.table == name).unwrap().clone();
        let counts = |table: Migrated| (table.rows, table.copied);
        (counts(of("request")), counts(of("attempt")), counts(of("feedback")))
    };
    assert_eq!(copied(&home.path(), &there), ((1301, 1301), (1301, 1301), (1, 1)));
    // Once more changes nothing.
    assert_eq!(copied(&home.path(), &there), ((1301, 0), (1301, 0), (1, 0)));
    let (here, moved) = (Reader::open(&home.path()).unwrap(), Reader::open(&there).unwrap());
    assert_eq!(here.counts().unwrap(), moved.counts().unwrap());
    for id in [0, 7, 1299] {
        let id = RequestId(id);
        assert_eq!(here.request(id).unwrap(), moved.request(id).unwrap());
        assert_eq!(here.feedback_for(id).unwrap(), moved.feedback_for(id).unwrap());
    }
    let back = home.folder.path().join("back.db");
    assert_eq!(copied(&there, &back), ((1301, 1301), (1301, 1301), (1, 1)));
    assert_eq!(stats(&there).unwrap().rows, stats(&back).unwrap().rows);
    let odd = moved.request(RequestId(5000)).unwrap().unwrap();
    assert_eq!(odd.attempts[0].output_text.as_deref(), Some("a\u{fffd}b"));
}

#[test]
fn a_server_that_goes_away_is_counted_and_used_again_when_it_is_back() {
    let Some(server) = Server::start() else { return };
    let store = Store::open(&server.url("restarts"), StoreOptions::default()).unwrap();
    record_all(&store, 0..10);
    store.flush().unwrap();
    // What the writer does at its start is over once it takes another entry.
    store.flush().unwrap();
    server.stop();
    record_all(&store, 10..20);
    store.flush().unwrap();
    assert_eq!((store.counters().recorded, store.counters().write_errors), (10, 10));
    let lost = store.feedback(thumb_up(1)).unwrap_err();
    assert!(matches!(lost, StoreError::Unreachable { .. }), "{lost}");
    assert!(store.reader().counts().is_err());
    server.start_again();
    record_all(&store, 20..30);
    store.feedback(thumb_up(1)).unwrap();
    let counts = store.reader().counts().unwrap();
    assert_eq!((counts.requests, counts.feedback), (20, 1));
}

#[test]
fn a_password_is_never_shown_and_a_file_is_no_server() {
    #[track_caller]
    fn check(place: &str, expect: &str) {
        assert_eq!(crate::sql::shown(Path::new(place)), Path::new(expect));
    }
    check("postgres://me:secret@host:5432/db", "postgres://me@host:5432/db");
    check("postgresql://me:s@cret@host/db?password=secret", "postgresql://me@host/db");
    check("postgres://host/db", "postgres://host/db");
    check("/var/lib/store.db", "/var/lib/store.db");
    let refused = open_error(Path::new("postgres://me:secret@127.0.0.1:1/db")).to_string();
    assert!(refused.contains("me@127.0.0.1") && !refused.contains("secret"), "{refused}");
}
