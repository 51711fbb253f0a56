//! The models that tests run on, fetched once.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use lm_models::{Home, ModelRef, NoProgress, PullOptions};

/// Two tests of one process do not fetch at once; two processes are kept apart by the model's lock.
static FETCHING: Mutex<()> = Mutex::new(());

/// The folder that holds models for tests: `LASTMILE_TEST_HOME`, else `target/test-home`.
pub(crate) fn test_home() -> Home {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/test-home");
    Home::new(std::env::var_os("LASTMILE_TEST_HOME").map_or_else(default, PathBuf::from))
}

/// The path of a card's model, fetched when it is not there. Fails loudly when it cannot be had.
#[track_caller]
pub(crate) fn path(card: &str) -> PathBuf {
    let _one_at_a_time = FETCHING.lock().unwrap();
    let (home, model) = (test_home(), ModelRef::Card(card.to_owned()));
    match lm_models::pull(&model, &home, &PullOptions::default(), &NoProgress) {
        Ok(installed) => installed.path,
        Err(error) => panic!("the tests need the model {card}: {error}"),
    }
}
