//! The same tests on a real PostgreSQL server, and rows that move there from a file.
//!
//! Where PostgreSQL's programs are not installed (Debian's package `postgresql`), that is said and nothing is tested.

mod faults;
mod server;

use std::rc::Rc;

use self::server::{PASSWORD, Server, connect};
use super::*;
use crate::{BookFile, Journal, Migrated, Missing, OpenedBook, Reader, migrate, sql, stats};

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
    ("recipe", rows::what_an_answer_is_computed_again_from_is_kept_and_erased_with_its_text),
    ("timeline", rows::with_privacy_off_only_the_timeline_is_kept),
    ("numbers", evidence::answers_of_experiments_are_numbered_and_no_number_is_given_twice),
    ("pages", evidence::answers_and_feedback_are_read_page_by_page_without_copies_and_embeddings),
    ("pressure", evidence::whose_prompts_fill_the_cache_is_found_with_what_differs_in_them),
    ("facts", searching::requests_are_found_by_each_fact_newest_first),
    ("texts", searching::texts_are_found_as_they_were_written),
    ("foreign", tenants::a_foreign_request_looks_like_one_that_never_was),
    ("traffic", tenants::traffic_is_whole_answers_with_their_prompts_oldest_first),
    ("tokens", tenants::tokens_are_summed_by_tenant_and_a_prompt_counts_once),
    ("costs", costing::sums_are_the_sums_of_their_rows_in_every_grouping),
    ("currencies", costing::without_prices_there_is_no_cost_and_currencies_are_not_mixed),
    ("in_the_rows", privacy::only_full_lets_personal_data_into_the_file),
    ("implied", privacy::what_a_server_says_by_itself_is_kept_in_every_mode),
    ("modes", privacy::each_mode_keeps_what_it_says),
    ("hashes", privacy::keyed_hashes_tell_equal_texts_over_restarts_and_not_over_stores),
    ("withheld", privacy::token_ids_cannot_be_redacted_and_are_withheld),
    ("erasing", privacy::an_erased_subject_is_gone_from_every_table_and_from_the_files),
    ("written_down", privacy::requests_are_written_down_before_they_are_erased),
    ("erased_since", moving::what_was_erased_since_an_earlier_copy_is_not_kept),
    ("under_another", privacy::who_was_kept_in_clear_is_found_under_another_mode),
];

#[test]
fn a_store_on_a_server_passes_the_same_tests() {
    let Some(server) = Server::start() else { return };
    let server = Rc::new(server);
    for (name, test) in SUITE {
        let (server, mut n_homes) = (Rc::clone(&server), 0);
        let next = move || {
            n_homes += 1;
            server.url(&format!("{name}_{n_homes}"))
        };
        SERVER.set(Some(Box::new(next)));
        let outcome = std::panic::catch_unwind(test);
        SERVER.set(None);
        assert!(outcome.is_ok(), "{name} fails on PostgreSQL");
    }
    assert!(!server.log().contains("ERROR"), "{}", server.log());
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
    for id in 6000..6003 {
        store.record(&evidence::assigned(id, lm_types::Arm::Primary, None));
    }
    store.feedback(thumb_up(7)).unwrap();
    // The number of what is erased is not given again, wherever the store lies.
    store.erase(crate::Erase::Request(RequestId(6002))).unwrap();
    store.close().unwrap();
    let there = server.url("moved");
    let copied = |from: &Path, to: &Path| {
        let tables: Vec<Migrated> = migrate(from, to, Missing::Refuse).unwrap();
        ["request", "attempt", "feedback", "assignment"].map(|name| {
            let table = tables.iter().find(|table| table.table == name).unwrap();
            (table.rows, table.copied)
        })
    };
    let all = [(1303, 1303), (1303, 1303), (1, 1), (2, 2)];
    assert_eq!(copied(&home.path(), &there), all);
    // Once more changes nothing.
    assert_eq!(copied(&home.path(), &there), all.map(|(rows, _)| (rows, 0)));
    let (here, moved) = (Reader::open(&home.path()).unwrap(), Reader::open(&there).unwrap());
    assert_eq!(here.counts().unwrap(), moved.counts().unwrap());
    assert_eq!(moved.last_assignment().unwrap(), 3);
    assert_eq!(moved.assigned("greeting", 0, 9).unwrap(), here.assigned("greeting", 0, 9).unwrap());
    for id in [0, 7, 1299] {
        let id = RequestId(id);
        assert_eq!(here.request(id).unwrap(), moved.request(id).unwrap());
        assert_eq!(here.recorded(id).unwrap(), moved.recorded(id).unwrap());
        assert_eq!(here.feedback_for(id).unwrap(), moved.feedback_for(id).unwrap());
    }
    let odd = moved.request(RequestId(5000)).unwrap().unwrap();
    assert_eq!(odd.attempts[0].output_text.as_deref(), Some("a\u{fffd}b"));
    let back = home.folder.path().join("back.db");
    assert_eq!(copied(&there, &back), all);
    assert_eq!(stats(&there).unwrap().rows, stats(&back).unwrap().rows);
    // The next answer of an experiment has the next number in either.
    for place in [&there, &back] {
        let store = Store::open(place, StoreOptions::default()).unwrap();
        store.record(&evidence::assigned(7000, lm_types::Arm::Primary, None));
        store.close().unwrap();
        assert_eq!(Reader::open(place).unwrap().last_assignment().unwrap(), 4);
    }
}

#[test]
fn rows_that_would_take_the_place_of_others_are_not_moved() {
    let Some(server) = Server::start() else { return };
    let (home, there) = (Home::new(), server.url("taken"));
    for (place, id) in [(&home.path(), 1), (&there, 2)] {
        let store = Store::open(place, StoreOptions::default()).unwrap();
        store.record(&evidence::assigned(id, lm_types::Arm::Primary, None));
        store.close().unwrap();
    }
    // Both gave the number 1.
    let refused = migrate(&home.path(), &there, Missing::Keep).unwrap_err().to_string();
    assert!(refused.contains("assignment has another row in the place"), "{refused}");
    let same = migrate(&there, &there, Missing::Refuse).unwrap_err();
    assert!(matches!(same, StoreError::InvalidOption { field: "to", .. }), "{same}");
}

#[test]
fn a_schema_of_an_earlier_version_is_upgraded_in_place() {
    let Some(server) = Server::start() else { return };
    let url = server.url("old");
    let old = connect(url.to_str().unwrap(), Duration::from_secs(60));
    old.execute_batch(&crate::server::server_tables(crate::schema::UPGRADES[0])).unwrap();
    old.execute_batch(
        "CREATE TABLE lastmile_schema(version BIGINT NOT NULL); \
         INSERT INTO lastmile_schema VALUES (1); \
         INSERT INTO request VALUES ('00000000-0000-0000-0000-000000000009', 'r', 'm', 0, NULL, \
         '{}', 1, 'batch')",
    )
    .unwrap();
    let wanted = crate::schema::SCHEMA_VERSION;
    let older = Reader::open(&url).err().unwrap();
    assert!(matches!(older, StoreError::SchemaOlder { found: 1, .. }), "{older}");
    assert_eq!(crate::upgrade(&url).unwrap(), (1, wanted));
    assert_eq!(crate::upgrade(&url).unwrap(), (wanted, wanted));
    let request = Reader::open(&url).unwrap().request(RequestId(9)).unwrap().unwrap();
    assert_eq!((request.model.as_str(), request.tenant), ("m", None));
    old.execute_batch("UPDATE lastmile_schema SET version = 99").unwrap();
    let newer = open_error(&url);
    assert!(matches!(newer, StoreError::SchemaNewer { found: 99, .. }), "{newer}");
}

#[test]
fn a_book_has_tables_of_its_own_that_a_store_does_not_touch() {
    const FIRST: BookFile = BookFile {
        application_id: 0x6c6d_7473,
        upgrades: &["CREATE TABLE page(request_id TEXT NOT NULL, x INTEGER) STRICT;"],
        journal: Journal::Rollback,
        secure_delete: true,
        busy: Duration::from_secs(10),
    };
    const SECOND: BookFile = BookFile {
        upgrades: &[FIRST.upgrades[0], "ALTER TABLE page ADD COLUMN y INTEGER;"],
        ..FIRST
    };
    let Some(server) = Server::start() else { return };
    let url = server.url("book");
    let book = |file: BookFile| match file.open_at(&url).unwrap() {
        OpenedBook::Book(connection) => connection,
        OpenedBook::Foreign { .. } => panic!("it is of this version"),
    };
    let store = Store::open(&url, StoreOptions::default()).unwrap();
    record_all(&store, 0..2);
    store.flush().unwrap();
    let id = RequestId(1);
    book(FIRST).execute("INSERT INTO page VALUES (?1, 7)", [id.to_string()]).unwrap();
    // As an integer of 64 bits, and once.
    for x in [7, 1 << 40] {
        let connection = book(SECOND);
        let sql = "SELECT x, y FROM page";
        let row: (i64, Option<i64>) =
            connection.query_row(sql, (), |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        assert_eq!(row, (x, None));
        connection.execute("UPDATE page SET x = ?1", [1_i64 << 40]).unwrap();
    }
    let opened = FIRST.open_at(&url).unwrap();
    let is_newer = matches!(opened, OpenedBook::Foreign { schema: 2, known: 1, .. });
    assert!(is_newer, "a later version's tables are left alone");

    let home = Home::new();
    let tables = migrate(&url, &home.path(), Missing::Refuse).unwrap();
    assert!(tables.iter().all(|table| table.table != "page"), "{tables:?}");
    store.erase(crate::Erase::Request(id)).unwrap();
    let n_pages: i64 =
        book(SECOND).query_row("SELECT count(*) FROM page", (), |row| row.get(0)).unwrap();
    assert_eq!(n_pages, 1);
}

#[test]
fn what_only_a_file_has_is_refused_with_what_does_it_there() {
    let Some(server) = Server::start() else { return };
    let url = server.url("no_file");
    let refused = crate::backup(&url, Path::new("copy.db")).unwrap_err().to_string();
    assert!(refused.contains("pg_dump") && !refused.contains(PASSWORD), "{refused}");
}
