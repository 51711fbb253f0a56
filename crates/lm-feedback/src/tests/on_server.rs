//! The same tests on a real PostgreSQL server.
//!
//! Where PostgreSQL's programs are not installed (Debian's package `postgresql`), that is said and nothing is tested.

#[path = "../../../lm-store/src/tests/on_server/server.rs"]
#[expect(dead_code, reason = "the store's own tests need more of it")]
mod server;

use std::rc::Rc;

use lm_store::sql;

use self::server::Server;
use super::{SERVER, carrying, finding, reviewing, turning, weighing};

/// What holds of conclusions wherever they lie.
const SUITE: &[(&str, fn())] = &[
    ("clusters", finding::failures_of_one_problem_are_one_cluster_and_keep_their_ids),
    ("implied", finding::what_is_implied_is_found),
    ("late", finding::late_feedback_is_found),
    ("interrupted", finding::a_reading_that_is_interrupted_goes_on_where_it_was),
    ("two", finding::two_that_read_the_same_find_the_same_problems),
    ("waits", finding::who_waits_is_told_that_another_one_writes),
    ("leases", turning::an_answer_is_one_reviewers_until_it_is_reviewed_or_the_lease_ends),
    ("proved", turning::a_fix_is_proved_by_traffic_and_guarded),
    ("learned", turning::what_fails_after_a_proof_was_not_fixed_fast),
    ("expectation", turning::a_problem_that_no_text_shows_needs_an_expectation),
    ("rows", turning::traffic_becomes_rows_once_each_masked_and_with_its_source),
    ("calls", turning::traffic_keeps_calls_of_tools_and_names),
    ("chosen", turning::traffic_is_chosen_by_route_time_and_how_sure_the_model_was),
    ("several", reviewing::a_reviewer_has_several_and_others_get_the_rest),
    ("books", reviewing::no_answer_is_leased_twice_however_many_books_are_open),
    ("back", reviewing::who_gave_a_verdict_may_take_it_back),
    ("lunch", reviewing::a_verdict_is_not_overwritten_by_whose_lease_ended),
    ("no_such", reviewing::an_answer_that_a_request_has_not_is_not_reviewed),
    ("bad", reviewing::what_is_called_bad_is_told_to_other_books),
    ("weeks", reviewing::weeks_begin_on_mondays_and_count_what_happened_in_them),
    ("trend", reviewing::a_trend_counts_the_failures_of_equal_parts),
    ("order", carrying::fixes_and_evidence_keep_the_order_in_which_they_were_written),
    ("erased", carrying::what_is_erased_is_gone_from_conclusions_and_not_before),
    ("carried", carrying::conclusions_move_and_what_people_wrote_is_never_lost_in_silence),
    ("looked_at", carrying::all_that_people_wrote_in_the_new_place_is_looked_at),
    ("meanwhile", carrying::what_is_written_while_a_copy_runs_is_not_lost),
    ("unknown", carrying::what_a_store_does_not_know_of_is_not_carried_to_it),
    ("parts", carrying::many_are_erased_in_parts_and_an_erasure_goes_on),
    ("nothing_new", finding::a_page_in_which_nothing_is_new_is_not_written),
    ("fast", finding::a_page_comes_in_however_fast_others_write),
    ("moved", weighing::what_fails_as_another_problem_of_the_kind_is_not_improved),
    ("moved_in_release", weighing::what_moved_in_a_release_is_not_improved_either),
    ("horizon", weighing::the_wait_for_complaints_is_learned_from_those_before),
    ("kept", carrying::two_places_become_one_and_the_later_verdict_holds),
];

#[test]
fn conclusions_on_a_server_pass_the_same_tests() {
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
}

#[test]
fn conclusions_move_to_a_server_and_back() {
    let Some(server) = Server::start() else { return };
    carrying::there_and_back(&server.url("there"));
}

#[test]
fn reviews_that_stayed_in_a_file_are_told_until_they_are_carried() {
    let Some(server) = Server::start() else { return };
    carrying::left_behind(&server.url("behind"));
}

#[test]
fn a_server_that_goes_away_is_told_and_used_again() {
    let Some(server) = Server::start() else { return };
    let url = server.url("restarts");
    let mut book = crate::Book::open(&url).unwrap();
    server.stop();
    let lost = book.give_back("ann").unwrap_err();
    assert!(!lost.is_busy() && !lost.to_string().contains(server::PASSWORD), "{lost}");
    server.start_again();
    assert_eq!(book.give_back("ann").unwrap(), 0);
    let copied = book.backup(&url).unwrap_err().to_string();
    assert!(copied.contains("pg_dump") && !copied.contains(server::PASSWORD), "{copied}");
}
