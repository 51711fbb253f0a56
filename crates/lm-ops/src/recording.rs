//! What a runtime tells of its answers: counted, stored, and written into the flight recorder.
//!
//! It must never hold up a step, nor write down what is computed for nobody: no erasure would find whose words those are.
//!
//! Start reading at [`Recording`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lastmile::{AnswerBegun, Observer, RequestEvent, RequestId, StepEvent, StepRow};
use lm_store::Store;

use crate::Recorder;
use crate::cost::CostCounters;

/// Answers computed again that are known at once. Where more run, the oldest is taken for one that ended.
const MAX_AGAIN: usize = 1024;

/// Counts an answer's cost, then tells the store and the recorder of it.
pub(crate) struct Recording {
    pub(crate) store: Store,
    pub(crate) counters: Arc<CostCounters>,
    pub(crate) recorder: Option<Recorder>,
    pub(crate) again: AgainNow,
}

/// Answers that run and are computed again for nobody: probes, replays, cached answers.
#[derive(Default)]
pub(crate) struct AgainNow(Mutex<Vec<(RequestId, u32)>>);

impl AgainNow {
    fn lock(&self) -> MutexGuard<'_, Vec<(RequestId, u32)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn began(&self, request: RequestId, choice: u32) {
        let mut all = self.lock();
        if all.len() >= MAX_AGAIN {
            all.remove(0);
        }
        all.push((request, choice));
    }

    fn ended(&self, request: RequestId, choice: u32) {
        self.lock().retain(|one| *one != (request, choice));
    }

    /// The rows of the others; `None` when all are.
    fn others(&self, rows: &[StepRow]) -> Option<Vec<StepRow>> {
        let all = self.lock();
        let is_other = |row: &&StepRow| !all.contains(&(row.request, row.choice));
        (!all.is_empty()).then(|| rows.iter().filter(is_other).copied().collect())
    }
}

impl Observer for Recording {
    fn record(&self, event: &RequestEvent) {
        self.counters.count(event, self.store.prices());
        if event.request.steering.again {
            return self.again.ended(event.request.id, event.choice);
        }
        self.store.record(event);
        if let Some(recorder) = &self.recorder {
            recorder.record(event);
        }
    }

    fn wants_steps(&self) -> bool {
        self.recorder.is_some()
    }

    fn began(&self, begun: &AnswerBegun<'_>) {
        let Some(recorder) = &self.recorder else { return };
        match begun.request.steering.again {
            true => self.again.began(begun.request.id, begun.choice),
            false => recorder.began(begun),
        }
    }

    fn stepped(&self, step: &StepEvent<'_>) {
        let Some(recorder) = &self.recorder else { return };
        match self.again.others(step.rows) {
            Some(rows) => recorder.stepped(&StepEvent { rows: &rows, ..*step }),
            None => recorder.stepped(step),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::path::Path;

    use lastmile::{
        GenerateRequest, ModelSource, Prompt, RequestId, Runtime, RuntimeConfig, Steering,
    };
    use lm_store::{Store, StoreOptions};

    use crate::{Flight, Ops, Recorder, RecorderOptions};

    /// Computes one answer with a recorder in `folder`; what that knows afterwards.
    fn recorded(folder: &Path, again: bool) -> Flight {
        let store = Store::open(&folder.join("store.db"), StoreOptions::default()).unwrap();
        let options = RecorderOptions { capacity: 1 << 16, keeps_text: true };
        let (recorder, _) = Recorder::open(folder, options).unwrap();
        let ops = Ops::new(store).with_recorder(recorder.clone());
        let mut config = RuntimeConfig::new(ModelSource::placeholder("mode=random").unwrap());
        config.observer = ops.observer();
        let runtime = Runtime::start(config).unwrap();
        let prompt = Prompt::Text("what was erased".to_owned());
        let mut request = GenerateRequest::new(RequestId(1), prompt);
        request.stop.max_tokens = Some(8);
        request.stop.ignore_eos = true;
        request.steering = Steering { again, ..Steering::default() };
        drop(runtime.complete(request).unwrap());
        recorder.close();
        Flight::current(folder).unwrap().unwrap()
    }

    #[test]
    fn what_is_computed_again_for_nobody_is_not_in_the_flight_recorder() {
        let n_rows =
            |flight: &Flight| flight.steps.iter().map(|step| step.rows.len()).sum::<usize>();
        let folder = tempfile::tempdir().unwrap();
        let n_asked = n_rows(&recorded(folder.path(), false));
        assert!(n_asked > 0, "what was asked is");
        let folder = tempfile::tempdir().unwrap();
        let flight = recorded(folder.path(), true);
        let n_again = n_rows(&flight);
        assert!(!flight.steps.is_empty() && n_again == 0, "{:?}", flight.steps);
        assert!(flight.in_flight.is_empty());
    }
}
