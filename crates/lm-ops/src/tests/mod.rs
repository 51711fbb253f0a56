//! A runtime on the placeholder, recorded into a store in a temporary folder.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod datasets;
mod experiments;
mod feedback_loop;
mod ingesting;
mod judging;
mod overriding;

use std::time::{Duration, SystemTime};

use lastmile::{GenerateRequest, ModelSource, Prompt, RequestId, Runtime, RuntimeConfig};
use lm_store::{Reader, RunState, Store, StoreOptions};

use crate::{Doctor, Ops};

struct World {
    folder: tempfile::TempDir,
    ops: Ops,
    runtime: Runtime,
}

fn world(placeholder: &str) -> World {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store.db"), StoreOptions::default()).unwrap();
    let ops = Ops::new(store);
    let mut config = RuntimeConfig::new(ModelSource::placeholder(placeholder).unwrap());
    config.observer = ops.observer();
    let runtime = Runtime::start(config).unwrap();
    ops.begin_run(&[runtime.info()], "placeholder", "127.0.0.1:8080").unwrap();
    World { folder, ops, runtime }
}

impl World {
    fn ask(&self, id: u128) -> RequestId {
        let id = RequestId(id);
        let prompt = Prompt::Text("hello world".to_owned());
        // Failures are part of what the tests look at.
        drop(self.runtime.complete(GenerateRequest::new(id, prompt)));
        id
    }

    fn examine(&self, now: SystemTime) -> Doctor {
        let reader = Reader::open(&self.folder.path().join("store.db")).unwrap();
        Doctor::examine(&reader, now).unwrap()
    }
}

#[tokio::test]
async fn feedback_right_after_the_answer_is_taken_and_durable() {
    let world = world("mode=echo");
    let id = world.ask(7);
    let body = format!(r#"{{"request_id":"chatcmpl-{id}","rating":"up","mood":1}}"#);
    let receipt = world.ops.feedback(body.as_bytes(), None, false).await.unwrap();
    assert_eq!(receipt.request_id, id.to_string());
    assert_eq!(receipt.warnings, ["unknown field 'mood' was ignored"]);
    assert_eq!(world.examine(SystemTime::now()).stored.feedback, 1);
    assert_eq!(world.ops.counters().feedback, 1);
}

#[tokio::test]
async fn bad_feedback_is_refused_by_status_and_field() {
    let world = world("mode=echo");
    let id = world.ask(7);
    let cases = [
        (format!(r#"{{"request_id":"{}","rating":true}}"#, RequestId(8)), 404, "request_id"),
        (format!(r#"{{"request_id":"{id}","rating":true,"choice":1}}"#), 400, "choice"),
        (format!(r#"{{"request_id":"{id}"}}"#), 400, "rating"),
        (r#"{"rating":true}"#.to_owned(), 400, "request_id"),
    ];
    for (body, status, param) in cases {
        let error = world.ops.feedback(body.as_bytes(), None, false).await.unwrap_err();
        assert_eq!((error.status(), error.body().param.as_deref()), (status, Some(param)));
    }
}

#[test]
fn the_doctor_sees_runs_totals_and_errors() {
    let world = world("mode=echo,fail_at_step=4");
    for id in 1..=3 {
        world.ask(id);
    }
    world.runtime.shutdown(Duration::from_secs(5));
    world.ops.close().unwrap();
    let report = world.examine(SystemTime::now());
    assert_eq!(report.runs[0].state, RunState::Stopped);
    assert_eq!((report.last_hour.requests, report.last_day.attempts), (3, 3));
    assert_eq!(report.last_hour.errors.get("backend_error"), Some(&1));
    assert_eq!(report.last_errors[0].code, "backend_error");
    let page = report.to_string();
    let id = report.last_errors[0].request_id.to_string();
    for part in ["stopped", "3 requests", "backend_error 1", "injected at step 4", &id, "p99"] {
        assert!(page.contains(part), "{part:?} is missing in:\n{page}");
    }
    assert!(page.lines().count() < 60);
    assert!(serde_json::to_string(&report).unwrap().contains("\"last_hour\""));
}

#[test]
fn a_silent_run_counts_as_crashed() {
    let world = world("mode=echo");
    assert_eq!(world.examine(SystemTime::now()).runs[0].state, RunState::Running);
    let later = SystemTime::now() + Duration::from_secs(3600);
    let report = world.examine(later);
    assert_eq!(report.runs[0].state, RunState::Crashed);
    assert!(report.to_string().contains("CRASHED"));
}
