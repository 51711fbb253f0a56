//! What a collector gets, and what a bad one does.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod collector;
mod delivery;
mod trees;

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use lm_types::{
    ChatMessage, FinishReason, GenerateRequest, Loss, Observer, Outcome, Prompt, ReleaseHash,
    RequestEvent, RequestId, Role, Stall, Task, TenantId, Timeline, Timings, Usage,
};

use crate::{Exporter, Limits, Settings, traced};

/// In every text of a client; it must never leave.
pub(super) const SECRET: &str = "the rain in Spain";

/// An observer that keeps what it hears.
#[derive(Default)]
pub(super) struct Kept(pub(super) Mutex<Vec<RequestEvent>>);

impl Observer for Kept {
    fn record(&self, event: &RequestEvent) {
        self.0.lock().unwrap().push(event.clone());
    }

    fn wants_steps(&self) -> bool {
        true
    }
}

/// Limits of which no test has to wait.
pub(super) fn quick() -> Limits {
    Limits {
        every: Duration::from_millis(5),
        backoff: Duration::from_millis(1),
        longest_backoff: Duration::from_millis(5),
        ..Limits::default()
    }
}

/// An exporter to `address` and an observer that feeds it.
pub(super) fn start(address: &str, limits: Limits) -> (Exporter, Arc<dyn Observer>, Arc<Kept>) {
    let variable = |name: &str| {
        (name == "OTEL_EXPORTER_OTLP_HEADERS").then(|| "x-key=open%20sesame".to_owned())
    };
    let mut settings = Settings::read(&format!("http://{address}"), variable).unwrap();
    settings.limits = limits;
    let exporter = Exporter::start(settings).unwrap();
    let kept = Arc::new(Kept::default());
    let inner: Arc<dyn Observer> = Arc::<Kept>::clone(&kept);
    (exporter.clone(), traced(inner, exporter), kept)
}

/// A chat that waited 10 ms, was read until 50 ms and answered until 250 ms, with [`SECRET`] wherever text may be.
pub(super) fn event(id: u128) -> RequestEvent {
    let ms = Duration::from_millis;
    let content = format!("Tell me of {SECRET}");
    let chat = Prompt::Chat(vec![ChatMessage { role: Role::User, content }]);
    let mut request = GenerateRequest::new(RequestId(id), chat);
    request.sampling.temperature = 0.7;
    request.sampling.seed = 42;
    request.stop.max_tokens = Some(64);
    request.stop.stop_strings = vec![SECRET.to_owned()];
    request.subject = Some(SECRET.to_owned());
    request.dialog.tools = Some(format!("[\"{SECRET}\"]"));
    request.tenant = TenantId(0xabc);
    request.steering.route = "/v1/chat/completions";
    request.steering.opening = SECRET.to_owned();
    RequestEvent {
        request,
        task: Task::Generate,
        choice: 0,
        model: "small".to_owned(),
        release: ReleaseHash([7; 16]),
        arrived_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
        outcome: Outcome::Finished(FinishReason::Stop),
        output_text: SECRET.to_owned(),
        prompt_tokens: vec![1; 20],
        output_tokens: vec![2; 9],
        mean_logprob: None,
        hits: Vec::new(),
        usage: Usage {
            prompt_tokens: 20,
            completion_tokens: 9,
            cached_tokens: 16,
            ..Usage::default()
        },
        timings: Timings {
            queue_wait: ms(10),
            ttft: ms(50),
            e2e: ms(250),
            cpu_seconds: 0.125,
            n_preemptions: 1,
            ..Timings::default()
        },
        timeline: Timeline {
            losses: vec![Loss { at: ms(100), away: Some(ms(30)), lost_blocks: true, by: None }],
            stalls: vec![Stall {
                at: ms(20),
                took: ms(25),
                predicted: ms(5),
                n_rows: 3,
                n_tokens: 21,
            }],
            n_losses: 1,
            n_steps: 10,
            n_chunks: 2,
            ..Timeline::default()
        },
    }
}
