//! Batches, bad collectors, and the end.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use prost::Message;

use super::collector::{Collector, Reply};
use super::{event, quick, start};
use crate::wire::{ExportResponse, PartialSuccess};
use crate::{Counts, Limits};

/// A server that does not wait is done long before.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Sends one answer to a collector that first gives `replies`; tells how often it was asked.
#[track_caller]
fn check(replies: &[Reply], n_requests: usize, expect: Counts) {
    let collector = Collector::start(replies.to_vec());
    let (exporter, observer, _) = start(&collector.address, Limits { tries: 3, ..quick() });
    observer.record(&event(1));
    let first = collector.next();
    for _ in 1..n_requests {
        assert_eq!(collector.next().body, first.body, "the same again");
    }
    exporter.shutdown();
    assert!(collector.is_empty());
    assert_eq!(exporter.counts(), expect, "{replies:?}");
}

fn status(status: u16) -> Reply {
    Reply::Status(status, "", Vec::new())
}

#[test]
fn what_may_help_is_tried_again_and_no_longer() {
    let all = Counts { exported: 4, ..Counts::default() };
    let none = Counts { failed: 4, ..Counts::default() };
    check(&[], 1, all);
    check(&[status(503)], 2, all);
    // A collector that asks for an hour does not get it.
    check(&[Reply::Status(429, "retry-after: 3600\r\n", Vec::new()), status(502)], 3, all);
    check(&[status(503), status(504), status(503)], 3, none);
    check(&[status(400)], 1, none);
    check(&[Reply::Status(307, "location: http://127.0.0.1:1/\r\n", Vec::new())], 1, none);
    let partial = PartialSuccess { rejected_spans: 1, error_message: "old".to_owned() };
    let answer = ExportResponse { partial_success: Some(partial) }.encode_to_vec();
    check(
        &[Reply::Status(200, "", answer)],
        1,
        Counts { exported: 3, failed: 1, ..Counts::default() },
    );
    check(&[Reply::Status(200, "", b"{}".to_vec())], 1, all);
}

#[test]
fn a_collector_that_is_not_there_costs_its_spans_alone() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let (exporter, observer, kept) = start(&address, Limits { tries: 2, ..quick() });
    (0..10).for_each(|i| observer.record(&event(i)));
    exporter.shutdown();
    assert_eq!(exporter.counts(), Counts { failed: 40, ..Counts::default() });
    assert_eq!(kept.0.lock().unwrap().len(), 10);
}

#[test]
fn a_collector_that_hangs_never_blocks() {
    const N: u128 = 2000;
    let collector = Collector::start(vec![Reply::Hang; 100]);
    let limits = Limits {
        queue_answers: 16,
        timeout: Duration::from_secs(600),
        shutdown: Duration::from_millis(100),
        ..quick()
    };
    let (exporter, observer, kept) = start(&collector.address, limits);
    observer.record(&event(0));
    // From here on the thread waits for an answer.
    let n_first = collector.next().spans().len() as u64;
    let began = Instant::now();
    (0..N).for_each(|i| observer.record(&event(i)));
    let took = began.elapsed();
    assert!(took < AT_ONCE, "{N} answers took {took:?}");
    let dropped = (N as u64 - 16) * 4;
    assert_eq!((n_first, exporter.counts()), (4, Counts { dropped, ..Counts::default() }));
    assert_eq!(kept.0.lock().unwrap().len(), N as usize + 1, "the inner observer hears of all");
    let began = Instant::now();
    exporter.shutdown();
    let took = began.elapsed();
    assert!(took < Duration::from_secs(2), "shutting down took {took:?}");
}

#[test]
fn a_hang_ends_by_its_timeout() {
    let collector = Collector::start([Reply::Hang]);
    let limits = Limits { timeout: Duration::from_secs(2), ..quick() };
    let (exporter, observer, _) = start(&collector.address, limits);
    observer.record(&event(1));
    let (first, second) = (collector.next(), collector.next());
    assert_eq!(first.body, second.body);
    exporter.shutdown();
    assert_eq!(exporter.counts(), Counts { exported: 4, ..Counts::default() });
}

#[test]
fn batches_are_bounded_and_split_no_tree() {
    let collector = Collector::start([]);
    let limits = Limits { batch_spans: 6, every: Duration::from_secs(3600), ..quick() };
    let (exporter, observer, _) = start(&collector.address, limits);
    (1..=21).for_each(|i| observer.record(&event(i)));
    let full = collector.until(80);
    exporter.shutdown();
    let rest = collector.next();
    assert!(full.iter().all(|batch| batch.spans().len() == 8));
    assert_eq!(rest.spans().len(), 4);
    let roots = full.iter().chain([&rest]).flat_map(|batch| batch.spans());
    let roots = roots.filter(|span| span.parent_span_id.is_empty());
    let ids: Vec<_> = roots.map(|root| root.trace_id).collect();
    assert_eq!(ids, (1..=21_u128).map(|id| id.to_be_bytes().to_vec()).collect::<Vec<_>>());
}

#[test]
fn the_end_sends_what_waits_and_later_answers_are_dropped() {
    let collector = Collector::start([]);
    let limits = Limits { every: Duration::from_secs(3600), ..quick() };
    let (exporter, observer, kept) = start(&collector.address, limits);
    (0..3).for_each(|i| observer.record(&event(i)));
    exporter.shutdown();
    assert_eq!(collector.next().spans().len(), 12);
    observer.record(&event(9));
    exporter.shutdown();
    assert_eq!(exporter.counts(), Counts { exported: 12, dropped: 4, ..Counts::default() });
    assert_eq!(kept.0.lock().unwrap().len(), 4);
    assert!(observer.wants_steps(), "as the inner one does");
}

#[test]
fn the_end_does_not_wait_out_a_backoff() {
    let collector = Collector::start([status(503)]);
    let hour = Duration::from_secs(3600);
    let limits = Limits { backoff: hour, longest_backoff: hour, ..quick() };
    let (exporter, observer, _) = start(&collector.address, limits);
    observer.record(&event(1));
    let _refused = collector.next();
    exporter.shutdown();
    assert_eq!(collector.next().spans().len(), 4);
    assert_eq!(exporter.counts(), Counts { exported: 4, ..Counts::default() });
}
