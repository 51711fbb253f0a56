//! The loop on the placeholder, and the queue alone.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use lm_backend::{PlaceholderEncoder, StepArbiter};
use lm_types::{
    GenerateError, GenerateRequest, Observer, Outcome, Priority, Prompt, ReleaseHash, RequestEvent,
    RequestId, Task, TenantId, Timestamp,
};

use super::queue::Queue;
use super::reply::reply_pair;
use super::{EncodeHandle, EncodeLimits, EncodeParts, EncodeReply, EncodeSubmission, EncodeText};
use crate::ServedBy;

#[derive(Default)]
struct Seen(Mutex<Vec<RequestEvent>>);

impl Observer for Seen {
    fn record(&self, event: &RequestEvent) {
        self.0.lock().unwrap().push(event.clone());
    }
}

fn spawn(options: &str, max_queued_requests: usize) -> (EncodeHandle, Arc<Seen>) {
    let seen = Arc::<Seen>::default();
    let options = format!("mode=embed,{options}");
    let parts = EncodeParts {
        encoder: Box::new(PlaceholderEncoder::new(options.parse().unwrap(), 512)),
        observer: seen.clone(),
        served_by: ServedBy { model: "m".to_owned(), release: ReleaseHash([0; 16]) },
        arbiter: Arc::<StepArbiter>::default(),
    };
    let limits = EncodeLimits {
        max_queued_requests,
        max_queued_tokens: 1 << 16,
        max_token_gap: Duration::from_millis(100),
    };
    (EncodeHandle::spawn(parts, limits), seen)
}

fn submission(id: u128, lens: &[usize]) -> EncodeSubmission {
    let text = |len: &usize| EncodeText {
        input_ids: (0..*len as u32).map(|i| 5 + i % 500).collect(),
        token_types: vec![0; *len],
    };
    EncodeSubmission {
        request: Arc::new(GenerateRequest::new(RequestId(id), Prompt::Text(String::new()))),
        task: Task::Embed,
        texts: lens.iter().map(text).collect(),
        arrived_at: SystemTime::now(),
    }
}

fn of(submission: EncodeSubmission, change: impl FnOnce(&mut GenerateRequest)) -> EncodeSubmission {
    let mut request = (*submission.request).clone();
    change(&mut request);
    EncodeSubmission { request: Arc::new(request), ..submission }
}

#[test]
fn requests_share_batches_and_each_gets_its_own_rows() {
    let (engine, seen) = spawn("delay_us=20000", 100);
    let replies: Vec<EncodeReply> =
        (1..=20).map(|i| engine.submit(submission(i, &[i as usize, 3])).unwrap()).collect();
    let all: Vec<_> = replies.into_iter().map(|reply| reply.wait().unwrap()).collect();
    for (i, encoded) in all.iter().enumerate() {
        assert_eq!((encoded.rows.len(), encoded.n_tokens), (2, i as u32 + 1 + 3));
        assert_eq!(encoded.rows[1], all[2].rows[0], "the same text has the same row everywhere");
    }
    let stats = engine.stats().snapshot();
    assert!(stats.steps < 20, "{} batches for 20 requests", stats.steps);
    assert_eq!((stats.prompt_tokens, stats.n_running, stats.n_waiting), (270, 0, 0));
    let seen = seen.0.lock().unwrap();
    assert_eq!(seen.len(), 20);
    assert!(seen.iter().all(|event| event.task == Task::Embed && event.usage.prompt_tokens > 0));
}

#[test]
fn a_fault_is_of_its_own_request_alone() {
    // The batch fails, then each text is tried alone.
    let (engine, _seen) = spawn("fail_at_step=1", 100);
    assert_eq!(engine.submit(submission(1, &[2, 3])).unwrap().wait().unwrap().rows.len(), 2);
    let (engine, _seen) = spawn("panic_at_step=1", 100);
    assert!(engine.submit(submission(1, &[2, 3])).unwrap().wait().is_ok());
    let (engine, seen) = spawn("nan_at=7,delay_us=20000", 100);
    let all = [[5], [7], [6]].map(|lens| engine.submit(submission(1, &lens)).unwrap());
    let [first, second, third] = all.map(EncodeReply::wait);
    assert!(first.is_ok() && third.is_ok());
    assert!(matches!(second, Err(GenerateError::Sequence { .. })), "{second:?}");
    let (engine, _seen) = spawn("fail_every=1", 100);
    let failed = engine.submit(submission(1, &[2])).unwrap().wait();
    assert!(matches!(failed, Err(GenerateError::Backend { .. })), "{failed:?}");
    let is_failed = |event: &&RequestEvent| matches!(event.outcome, Outcome::Failed(_));
    let n_failed = seen.0.lock().unwrap().iter().filter(is_failed).count();
    assert_eq!(n_failed, 1);
}

#[test]
fn a_full_queue_refuses_and_a_drained_one_ends() {
    let (mut engine, _seen) = spawn("delay_us=1000000", 2);
    let first = engine.submit(submission(1, &[4])).unwrap();
    let second = engine.submit(submission(2, &[4])).unwrap();
    let refused = engine.submit(submission(3, &[4])).unwrap_err();
    assert!(matches!(refused, GenerateError::QueueFull { queued: 2, limit: 2, .. }), "{refused:?}");
    assert!(refused.retry_after().is_some());
    engine.shutdown(Duration::from_secs(10));
    assert!(first.wait().is_ok() && second.wait().is_ok());
    assert_eq!(engine.submit(submission(4, &[4])).unwrap_err(), GenerateError::ShuttingDown);
}

#[test]
fn time_limits_refuse_at_once_or_end_what_waits() {
    let (engine, seen) = spawn("delay_us=1000000", 10);
    let soon = Some(Duration::from_millis(20));
    let late = engine.submit(of(submission(1, &[5000]), |r| r.deadline = soon)).unwrap_err();
    assert!(matches!(late, GenerateError::DeadlineUnreachable { .. }), "{late:?}");
    let running = engine.submit(submission(2, &[4])).unwrap();
    while engine.stats().snapshot().step_rows == 0 {
        std::thread::yield_now();
    }
    let waits = engine.submit(of(submission(3, &[4]), |r| r.max_queue = soon)).unwrap();
    let abandoned = engine.submit(submission(4, &[4])).unwrap();
    drop(abandoned);
    assert!(running.wait().is_ok());
    let over = waits.wait();
    assert!(matches!(over, Err(GenerateError::DeadlineExceeded { .. })), "{over:?}");
    let ids: Vec<u128> = seen.0.lock().unwrap().iter().map(|event| event.request.id.0).collect();
    assert!(ids.contains(&2) && ids.contains(&3), "{ids:?}");
    assert_eq!(engine.stats().snapshot().expired_waiting, 1);
}

#[test]
fn higher_classes_and_less_served_tenants_go_first() {
    let mut queue = Queue::new(100, 1 << 16);
    let now = Timestamp(0);
    let mut replies = Vec::new();
    let mut add = |queue: &mut Queue, id, tenant, priority, lens: &[usize]| {
        let (writer, reply) = reply_pair();
        replies.push(reply);
        let submission = of(submission(id, lens), |request| {
            request.tenant = TenantId(tenant);
            request.priority = priority;
        });
        queue.admit(submission, writer, now).unwrap();
    };
    add(&mut queue, 1, 1, Priority::Batch, &[10]);
    add(&mut queue, 2, 1, Priority::Interactive, &[10, 10, 10]);
    add(&mut queue, 3, 2, Priority::Interactive, &[10]);
    // Of equally served tenants the first, then the other one, then the crowd; background class last.
    let order = |picks: Vec<super::queue::Pick>| picks.iter().map(|p| p.job).collect::<Vec<_>>();
    assert_eq!(order(queue.next_batch(25, now)), [1, 2]);
    assert_eq!(order(queue.next_batch(1000, now)), [1, 1, 0]);
    assert!(queue.next_batch(1000, now).is_empty());
    // A batch request that has waited long counts as interactive.
    add(&mut queue, 4, 3, Priority::Batch, &[5]);
    add(&mut queue, 5, 4, Priority::Interactive, &[5]);
    let later = Timestamp(11_000_000);
    assert_eq!(order(queue.next_batch(5, later)), [3]);
}
