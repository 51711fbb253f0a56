//! A step whose answers nobody reads any more.

use std::cell::Cell;

use super::*;

/// Tells `on_ask` each time that it asks whether its step is wanted: the number of the step, and how often it asked in it.
struct Asking {
    inner: PlaceholderBackend,
    n_steps: usize,
    on_ask: Box<dyn Fn(usize, usize) + Send>,
}

impl Backend for Asking {
    fn spec(&self) -> &BackendSpec {
        self.inner.spec()
    }

    fn execute(&mut self, _: &Batch, _: &mut LogitsBuf) -> Result<(), BackendError> {
        panic!("the engine says whether a step is wanted")
    }

    fn execute_while(
        &mut self,
        batch: &Batch,
        logits: &mut LogitsBuf,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<(), BackendError> {
        assert!(is_wanted(), "who left before the step is not in it");
        self.n_steps += 1;
        let n_asked = Cell::new(0);
        let is_wanted = || {
            n_asked.set(n_asked.get() + 1);
            (self.on_ask)(self.n_steps, n_asked.get());
            is_wanted()
        };
        self.inner.execute_while(batch, logits, &is_wanted)
    }
}

fn asking(options: &str, on_ask: impl Fn(usize, usize) + Send + 'static) -> Rig {
    let on_ask = Box::new(on_ask);
    let wrap = |inner| Box::new(Asking { inner, n_steps: 0, on_ask }) as Box<dyn Backend>;
    Rig::with_parts(options, None, None, wrap, |_| ())
}

type Readers = Arc<Mutex<Vec<OutputReader>>>;

/// Of `readers`, all behind the first `n_stay` leave in the fourth step. Each step takes 30 ms.
fn rig_that_is_left(n_stay: usize) -> (Rig, Readers) {
    let readers = Readers::default();
    let seen = Arc::clone(&readers);
    let rig = asking("step_ns=30000000", move |step, _| {
        if step == 4 {
            seen.lock().unwrap().truncate(n_stay);
        }
    });
    (rig, readers)
}

fn reasons(rig: &Rig) -> Vec<FinishReason> {
    let events = rig.observer.0.lock().unwrap();
    let reason = |event: &RequestEvent| match event.outcome {
        Outcome::Finished(reason) => reason,
        ref other => panic!("{other:?}"),
    };
    events.iter().map(reason).collect()
}

/// A prompt that takes more steps than those before everybody leaves, and the answer to it.
fn long_prompt() -> Vec<TokenId> {
    (0..600).map(|p| placeholder::FIRST_WORD + (p * p) % 197).collect()
}

fn answer_alone(prompt: Vec<TokenId>) -> String {
    let mut rig = Rig::new("");
    let reader = rig.add(prompt, |request| request.stop.max_tokens = Some(12));
    rig.run();
    answer(&reader).0
}

#[test]
fn a_step_that_nobody_waits_for_is_not_computed_to_its_end() {
    let (mut rig, readers) = rig_that_is_left(0);
    let decoding = rig.add(prompt(1), |_| ());
    let prefilling = rig.add(long_prompt(), |_| ());
    readers.lock().unwrap().extend([decoding, prefilling]);
    for _ in 0..3 {
        rig.engine.step();
    }
    assert_eq!(rig.stats.snapshot().n_running, 2);
    rig.engine.step();
    assert!(rig.engine.is_idle(), "both answers are over");
    assert_eq!(reasons(&rig), [FinishReason::Abort; 2]);
    let stats = rig.stats.snapshot();
    assert_eq!((stats.failed_steps, stats.n_free_blocks), (0, stats.n_blocks));
    // How long a step may take is judged by whole ones.
    assert_eq!(stats.steps, 3);
    // What the step left of the prompt is used by nobody: the placeholder would answer NaN.
    let again = rig.add(long_prompt(), |request| request.stop.max_tokens = Some(12));
    rig.run();
    assert_eq!(answer(&again), (answer_alone(long_prompt()), Ok(FinishReason::Length)));
    let n_cached = rig.observer.0.lock().unwrap()[2].usage.cached_tokens;
    assert!((1..600).contains(&n_cached), "the steps before count: {n_cached} tokens");
}

#[test]
fn a_step_that_one_waits_for_is_computed_for_all() {
    let (mut rig, readers) = rig_that_is_left(1);
    let stays = rig.add(long_prompt(), |request| request.stop.max_tokens = Some(12));
    let leaves = rig.add(prompt(1), |_| ());
    readers.lock().unwrap().extend([stays, leaves]);
    rig.run();
    let stays = readers.lock().unwrap().remove(0);
    assert_eq!(answer(&stays), (answer_alone(long_prompt()), Ok(FinishReason::Length)));
    assert_eq!(reasons(&rig), [FinishReason::Abort, FinishReason::Length]);
}

/// Gives up each step, whoever reads.
struct GivesUp(PlaceholderBackend);

impl Backend for GivesUp {
    fn spec(&self) -> &BackendSpec {
        self.0.spec()
    }

    fn execute(&mut self, _: &Batch, _: &mut LogitsBuf) -> Result<(), BackendError> {
        Err(BackendError::GivenUp)
    }
}

#[test]
fn a_backend_that_gives_up_what_is_read_has_failed() {
    let wrap = |inner| Box::new(GivesUp(inner)) as Box<dyn Backend>;
    let mut rig = Rig::with_parts("", None, None, wrap, |_| ());
    let reader = rig.add(prompt(1), |_| ());
    rig.run();
    assert!(matches!(answer(&reader).1, Err(GenerateError::Backend { .. })));
    assert_eq!(rig.stats.snapshot().failed_steps, 1);
}

#[test]
fn who_leaves_long_steps_again_and_again_gets_shorter_ones() {
    let readers = Readers::default();
    let reader = Arc::clone(&readers);
    // It asks once a millisecond, and a chunk of 64 takes a second and a quarter.
    let mut rig = asking("prefill_token_ns=20000000", move |_, n_asked| {
        if n_asked == 150 {
            reader.lock().unwrap().clear();
        }
    });
    let mut chunks = Vec::new();
    for _ in 0..3 {
        let reader = rig.add(long_prompt(), |_| ());
        readers.lock().unwrap().push(reader);
        rig.engine.step();
        chunks.push(rig.engine.scheduler.step().rows[0].n_tokens);
        readers.lock().unwrap().clear();
        rig.run();
    }
    assert!(chunks[0] == 64 && chunks[2] < 64, "{chunks:?}");
}
