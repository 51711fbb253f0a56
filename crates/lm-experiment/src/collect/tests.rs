//! What counts as evidence of an answer.

use lm_store::StoredAttempt;
use lm_types::RequestId;

use super::*;
use crate::{Advice, Report};

const SPEC: &str = r#"
name = "left"
owner = "ana@example.com"
reason = "who waits for it leaves"
model = "small"
from = "50"
[candidate.params]
top_k = 7
[goal]
metric = "valid_json"
[[guardrails]]
metric = "not_failure"
max_loss = 0.05
"#;

fn answered(finish_reason: &str) -> Answered {
    Answered {
        request_id: RequestId(1),
        model: "small".to_owned(),
        tenant: None,
        arrived_at_ms: 0,
        prompt: None,
        params: serde_json::Value::Null,
        n: 1,
        priority: "interactive".to_owned(),
        mean_logprob: None,
        attempt: StoredAttempt {
            choice: 0,
            release_hash: String::new(),
            finish_reason: Some(finish_reason.to_owned()),
            error_code: None,
            error_message: None,
            output_text: Some("{}".to_owned()),
            prompt_tokens: 1,
            completion_tokens: 1,
            cached_tokens: 0,
            queue_wait_ms: 0.0,
            ttft_ms: Some(1.0),
            e2e_ms: 2.0,
            cpu_seconds: 0.1,
            n_preemptions: 0,
            joules: None,
            cost: None,
            currency: None,
            output_mac: None,
        },
    }
}

/// Half of the candidate's clients leave, and none of the primary's.
#[test]
fn a_candidate_that_its_clients_leave_is_rolled_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut book = Book::open(&folder.path().join("experiments.db")).expect("a file");
    let spec = Spec::parse(SPEC).expect("a spec");
    let experiment = book.start(&spec, "ana", 2).expect("an experiment");
    let live = experiment.live().expect("it runs");
    // As production judges what was left.
    let measure = |_: Metric, one: &Answered| {
        let was_left = one.attempt.finish_reason.as_deref() == Some("abort");
        Some(f64::from(u8::from(!was_left)))
    };
    let mut scan = Scan {
        connection: &book.connection,
        spec: &experiment.spec,
        stage: experiment.stage,
        measure: &measure,
        tally: Tally::new(&experiment.spec),
    };
    for i in 0..400 {
        let user = format!("user {i}");
        let unit = crate::Unit {
            request: "r",
            tenant: None,
            user: Some(&user),
            header: None,
            first_message: None,
        };
        let tag = live.assign(unit);
        let is_left = tag.arm == Arm::Candidate && i % 2 == 0;
        let one = answered(if is_left { "abort" } else { "stop" });
        scan.see_drawn(&tag, &one).expect("it is weighed");
    }
    let report = Report::of(&experiment, &scan.tally);
    let Advice::Rollback { why } = &report.advice else { panic!("{:?}", report.advice) };
    assert!(why.contains("not_failure"), "{why}");
    // What was left is neither JSON nor none.
    assert_eq!(report.candidate, Some(1.0));
    assert!(report.n_candidate < report.units[1], "{report:?}");
}
