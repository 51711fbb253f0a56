//! Several models in one process: loaded when they are asked for, unloaded when nobody asks, replaced
//! while they answer, within one ceiling of memory.
//!
//! It must never end an answer that runs: an engine that is no longer wanted takes nothing more in and
//! goes when its last answer has.
//!
//! Start reading at [`Registry::get`] and [`Registry::load`].

mod adapters;
mod declared;
mod error;
mod ledger;
mod room;
mod state;

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lm_backend::StepArbiter;

use crate::machine::MemoryLimit;
use crate::{LoadError, Runtime, RuntimeConfig};

pub use declared::{Configure, Declared, ModelState, ModelStatus, RegistryOptions};
pub use error::RegistryError;
use ledger::Ledger;
use state::{Slot, State};

/// How often engines are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Models by name. The first one declared answers those who name none.
pub struct Registry {
    shared: Arc<Shared>,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    declared: Vec<Declared>,
    /// Names and aliases, to the place in `declared`.
    names: BTreeMap<String, usize>,
    options: RegistryOptions,
    max_loaded: usize,
    ledger: Ledger,
    arbiter: Arc<StepArbiter>,
    state: Mutex<State>,
    changed: Condvar,
}

/// The one load that runs, until it is dropped.
struct Loading<'a>(&'a Shared);

impl Registry {
    /// Declares models; none is loaded yet.
    ///
    /// # Errors
    /// No model, or a name that two have.
    ///
    /// # Panics
    /// When the system has no thread left.
    pub fn new(declared: Vec<Declared>, options: RegistryOptions) -> Result<Self, RegistryError> {
        let mut names = BTreeMap::new();
        for (i, model) in declared.iter().enumerate() {
            for name in std::iter::once(&model.name).chain(&model.aliases) {
                if names.insert(name.clone(), i).is_some() {
                    return Err(RegistryError::NameTaken { name: name.clone() });
                }
            }
        }
        if declared.is_empty() {
            return Err(RegistryError::Empty);
        }
        let max_loaded = options.max_loaded.unwrap_or(declared.len()).max(1);
        let state = State {
            slots: declared.iter().map(|_| Slot::default()).collect(),
            adapters: Vec::new(),
            retiring: Vec::new(),
            ending: Vec::new(),
            ending_bytes: 0,
            loading: None,
            is_closed: false,
        };
        let shared = Arc::new(Shared {
            ledger: Ledger::new(options.memory_limit, max_loaded.min(declared.len())),
            max_loaded,
            declared,
            names,
            options,
            arbiter: Arc::default(),
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let kept = Arc::clone(&shared);
        let keeper = std::thread::Builder::new()
            .name("lm-models".to_owned())
            .spawn(move || kept.keep())
            .expect("the system has a thread for the models");
        Ok(Registry { shared, keeper: Mutex::new(Some(keeper)) })
    }

    /// The engine of a model, if it is loaded; without a name, of the first one. Never waits for a load.
    ///
    /// # Errors
    /// No model has this name; the registry is closed.
    pub fn get(&self, name: Option<&str>) -> Result<Option<Arc<Runtime>>, RegistryError> {
        let i = self.shared.find(name)?;
        let mut state = self.shared.state();
        if state.is_closed {
            return Err(RegistryError::Closed);
        }
        Ok(state.slots[i].used())
    }

    /// Loads a model unless it is, in place of idle ones where that must be. Blocks while it does, and
    /// while another one is loaded.
    ///
    /// # Errors
    /// It cannot be loaded now; those that were loaded and not idle still are.
    pub fn load(&self, name: Option<&str>) -> Result<Arc<Runtime>, RegistryError> {
        let shared = &*self.shared;
        let i = shared.find(name)?;
        let _loading = shared.begin_loading(i)?;
        if let Some(runtime) = shared.state().slots[i].used() {
            return Ok(runtime);
        }
        let config = shared.configure(i)?;
        shared.free_place(i)?;
        let limit = shared.free_memory(i, &config)?;
        shared.start(i, config, limit)
    }

    /// As [`Registry::load`], but in the place of no other model: `None` where one would have to go.
    ///
    /// # Errors
    /// It cannot be loaded, whatever goes.
    pub fn load_beside(&self, name: Option<&str>) -> Result<Option<Arc<Runtime>>, RegistryError> {
        let shared = &*self.shared;
        let i = shared.find(name)?;
        let _loading = shared.begin_loading(i)?;
        if let Some(runtime) = shared.state().slots[i].used() {
            return Ok(Some(runtime));
        }
        let n_loaded = {
            let state = shared.state();
            state.slots.iter().filter(|slot| slot.runtime.is_some()).count()
        };
        if n_loaded >= shared.max_loaded {
            return Ok(None);
        }
        let config = shared.configure(i)?;
        let taken = shared.state().taken_bytes();
        match shared.ledger.grant(&config, taken) {
            Ok(limit) => shared.start(i, config, limit).map(Some),
            Err(LoadError::OutOfMemory { .. }) => Ok(None),
            Err(error) => Err(shared.load_error(i, error)),
        }
    }

    /// Takes a model out of service; its answers finish, then its memory is free. False when it was not
    /// loaded. Who asks for it again has it loaded again.
    ///
    /// # Errors
    /// No model has this name.
    pub fn unload(&self, name: &str) -> Result<bool, RegistryError> {
        let i = self.shared.find(Some(name))?;
        let mut state = self.shared.state();
        let was_loaded = state.retire(i);
        drop(state);
        self.shared.changed.notify_all();
        Ok(was_loaded)
    }

    /// Loads a model anew beside its old engine, which goes on until the new one answers, and then
    /// finishes what runs on it. Where both do not fit, the old one is emptied and dropped first if
    /// `may_drain`: those who ask meanwhile wait. Blocks.
    ///
    /// # Errors
    /// The new one cannot be had; the old one goes on, unless it was dropped first.
    pub fn reload(&self, name: &str, may_drain: bool) -> Result<Arc<Runtime>, RegistryError> {
        let shared = &*self.shared;
        let i = shared.find(Some(name))?;
        let _loading = shared.begin_loading(i)?;
        let config = shared.configure(i)?;
        let is_loaded = shared.state().slots[i].runtime.is_some();
        if !is_loaded {
            shared.free_place(i)?;
            let limit = shared.free_memory(i, &config)?;
            return shared.start(i, config, limit);
        }
        let taken = shared.state().taken_bytes();
        let limit = match shared.ledger.grant(&config, taken) {
            Err(LoadError::OutOfMemory { .. }) if may_drain => shared.drain(i, &config)?,
            granted => granted.map_err(|source| shared.load_error(i, source))?,
        };
        shared.start(i, config, limit)
    }

    /// All declared models, the default one first.
    #[must_use]
    pub fn status(&self) -> Vec<ModelStatus> {
        let state = self.shared.state();
        let status = |(i, model): (usize, &Declared)| {
            let slot = &state.slots[i];
            ModelStatus {
                name: model.name.clone(),
                aliases: model.aliases.clone(),
                state: match (&slot.runtime, state.loading == Some(i)) {
                    (Some(_), _) => ModelState::Loaded,
                    (None, true) => ModelState::Loading,
                    (None, false) => ModelState::Unloaded,
                },
                runtime: slot.runtime.clone(),
                n_retiring: state.retiring.iter().filter(|(of, _)| *of == i).count()
                    + state.ending.iter().filter(|of| **of == i).count(),
                n_loads: slot.n_loads,
            }
        };
        self.shared.declared.iter().enumerate().map(status).collect()
    }

    /// Every engine that runs, those included that only finish what they have.
    #[must_use]
    pub fn engines(&self) -> Vec<Arc<Runtime>> {
        self.shared.state().engines()
    }

    /// The name of the model that answers those who name none.
    #[must_use]
    pub fn default_name(&self) -> &str {
        &self.shared.declared[0].name
    }

    /// The name of the model that `name` is the name or an alias of.
    ///
    /// # Errors
    /// No model has this name.
    pub fn name_of(&self, name: &str) -> Result<&str, RegistryError> {
        Ok(&self.shared.declared[self.shared.find(Some(name))?].name)
    }

    /// Bytes that all models may take together, where anybody says, and bytes that are taken.
    #[must_use]
    pub fn memory(&self) -> (Option<u64>, u64) {
        (self.shared.ledger.ceiling(), self.shared.state().taken_bytes())
    }

    /// Loads nothing more, finishes what runs within `timeout`, and ends every engine.
    pub fn shutdown(&self, timeout: Duration) {
        let engines = {
            let mut state = self.shared.state();
            state.is_closed = true;
            state.engines()
        };
        self.shared.changed.notify_all();
        std::thread::scope(|scope| {
            for engine in &engines {
                scope.spawn(|| engine.shutdown(timeout));
            }
        });
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.shared.state().is_closed = true;
        self.shared.changed.notify_all();
        let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        // It does not panic, and ends when the registry is closed.
        drop(keeper.map(JoinHandle::join));
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, for_: Duration) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_timeout(state, for_);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn find(&self, name: Option<&str>) -> Result<usize, RegistryError> {
        let Some(name) = name else { return Ok(0) };
        let known = || self.names.keys().cloned().collect();
        let unknown = || RegistryError::Unknown { name: name.to_owned(), known: known() };
        let found = self.names.get(name).copied();
        found.or_else(|| self.of_adapter(name)).ok_or_else(unknown)
    }

    fn load_error(&self, i: usize, source: LoadError) -> RegistryError {
        RegistryError::Load { name: self.declared[i].name.clone(), source: Box::new(source) }
    }

    fn configure(&self, i: usize) -> Result<RuntimeConfig, RegistryError> {
        let model = &self.declared[i];
        let config = (model.configure)().map_err(|source| self.load_error(i, source))?;
        let (served_name, adapters) = (Some(model.name.clone()), self.adapters_of(i));
        Ok(RuntimeConfig { served_name, adapters, ..config })
    }

    fn begin_loading(&self, i: usize) -> Result<Loading<'_>, RegistryError> {
        let mut state = self.state();
        while state.loading.is_some() && !state.is_closed {
            state = self.wait(state, LOOK_EVERY);
        }
        if state.is_closed {
            return Err(RegistryError::Closed);
        }
        state.loading = Some(i);
        Ok(Loading(self))
    }

    /// Loads, and puts the new engine in the place of an old one.
    fn start(
        &self,
        i: usize,
        config: RuntimeConfig,
        limit: Option<MemoryLimit>,
    ) -> Result<Arc<Runtime>, RegistryError> {
        let began = Instant::now();
        let name = &self.declared[i].name;
        tracing::info!(model = name, "loading");
        // Steps of others become shorter meanwhile, so that their streams go on.
        let _active = self.arbiter.begin();
        let started = Runtime::start_beside(config, limit, &self.arbiter);
        let runtime = Arc::new(started.map_err(|source| self.load_error(i, source))?);
        let mut state = self.state();
        if state.is_closed {
            return Err(RegistryError::Closed);
        }
        state.retire(i);
        let slot = &mut state.slots[i];
        slot.runtime = Some(Arc::clone(&runtime));
        slot.last_used = Some(Instant::now());
        slot.n_loads += 1;
        drop(state);
        self.changed.notify_all();
        let ms = began.elapsed().as_millis() as u64;
        tracing::info!(model = name, release = %runtime.info().release_hash, ms, "loaded");
        Ok(runtime)
    }
}

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        self.0.state().loading = None;
        self.0.changed.notify_all();
    }
}
