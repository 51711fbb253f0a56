//! Which models this server has, by the names that clients ask for, and the one load that all who wait
//! for a model share.
//!
//! It must never compute, never know a route, and never hold a thread for each of those who wait.
//!
//! Start reading at [`Models::resolve`].

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lastmile::{
    AdapterError, AdapterInfo, AdapterSource, GenerateError, ModelStatus, Registry, RegistryError,
    Runtime,
};
use lm_api::{ApiError, ModelRefusal};
use lm_ops::Ops;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};

use crate::idle::Idle;

/// How long a request waits for its model at most; what came later is told to come again.
pub(crate) const LOAD_WAIT: Duration = Duration::from_secs(120);

/// How often it is tried to load a model for what runs for nobody.
const BESIDE_EVERY: Duration = Duration::from_secs(30);

/// The models of one server.
pub(crate) struct Models {
    registry: Arc<Registry>,
    ops: Ops,
    /// What runs for nobody holds its model, which may have to go for another one.
    idle: Arc<Idle>,
    /// The last load of each model: `None` within while it runs.
    loads: Mutex<BTreeMap<String, watch::Receiver<Option<Loaded>>>>,
    /// When it was last tried to load a model beside the others.
    tried: Mutex<BTreeMap<String, Instant>>,
}

type Loaded = Result<(), Arc<RegistryError>>;

impl Models {
    pub(crate) fn new(registry: Registry, ops: Ops) -> Self {
        Models {
            registry: Arc::new(registry),
            ops,
            idle: Arc::default(),
            loads: Mutex::default(),
            tried: Mutex::default(),
        }
    }

    /// What runs for nobody: one for the whole server.
    pub(crate) fn idle(&self) -> &Arc<Idle> {
        &self.idle
    }

    /// The model of this name or alias; without one, the default model. It is loaded when it is not.
    ///
    /// # Errors
    /// No model has this name, or it cannot be loaded now.
    pub(crate) async fn resolve(&self, name: Option<&str>) -> Result<Arc<Runtime>, ApiError> {
        self.resolve_within(name, LOAD_WAIT).await
    }

    /// As [`Models::resolve`], for a request that waits no longer than `limit`.
    pub(crate) async fn resolve_within(
        &self,
        name: Option<&str>,
        limit: Duration,
    ) -> Result<Arc<Runtime>, ApiError> {
        let waits_until = Instant::now() + limit.min(LOAD_WAIT);
        loop {
            if let Some(runtime) = self.get(name)? {
                return Ok(runtime);
            }
            let name = self.name_of(name)?;
            // Models with work are not unloaded, and nobody is to wait for work that is for nobody.
            self.idle.make_way();
            let mut load = self.join_load(&name);
            let Ok(done) = timeout_at(waits_until, load.wait_for(Option::is_some)).await else {
                let waited_ms = limit.min(LOAD_WAIT).as_millis() as u64;
                return Err(ApiError::Model(ModelRefusal::Loading { model: name, waited_ms }));
            };
            match done.as_deref() {
                // Another model may have taken its place already.
                Ok(Some(Ok(()))) => {}
                Ok(Some(Err(error))) => return Err(refusal(error)),
                Ok(None) | Err(_) => {
                    let what = format!("loading the model '{name}' panicked");
                    return Err(ApiError::Internal { what });
                }
            }
        }
    }

    /// The model of this name or alias, if it is loaded; without one, the default model.
    ///
    /// # Errors
    /// No model has this name.
    pub(crate) fn get(&self, name: Option<&str>) -> Result<Option<Arc<Runtime>>, ApiError> {
        self.registry.get(name).map_err(|error| self.refusal(&error, name))
    }

    /// Begins to load a model for what runs for nobody: no other one goes for it. Returns at once.
    pub(crate) fn load_beside(&self, name: &str) {
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        if tried.get(name).is_some_and(|at| at.elapsed() < BESIDE_EVERY) {
            return;
        }
        tried.insert(name.to_owned(), Instant::now());
        drop(tried);
        let (registry, ops, name) = (Arc::clone(&self.registry), self.ops.clone(), name.to_owned());
        spawn_blocking(move || match registry.load_beside(Some(&name)) {
            Ok(Some(runtime)) => note(&ops, &runtime),
            Ok(None) => {
                tracing::warn!(
                    model = name,
                    "not loaded for copies: another model would have to go"
                );
            }
            Err(error) => tracing::error!(%error, "not loaded for copies"),
        });
    }

    /// All models, the default one first.
    pub(crate) fn status(&self) -> Vec<ModelStatus> {
        self.registry.status()
    }

    /// What is known of the model of this name or alias.
    pub(crate) fn status_of(&self, name: &str) -> Result<ModelStatus, ApiError> {
        let name = self.name_of(Some(name))?;
        let mut all = self.status().into_iter();
        Ok(all.find(|model| model.name == name).expect("a name that was found is declared"))
    }

    /// Every model that is loaded, the default one first. No two have one name.
    pub(crate) fn loaded(&self) -> Vec<Arc<Runtime>> {
        self.status().into_iter().filter_map(|model| model.runtime).collect()
    }

    /// Every engine that runs: those included that were replaced and finish what they have.
    pub(crate) fn engines(&self) -> Vec<Arc<Runtime>> {
        self.registry.engines()
    }

    /// The name of the model that answers requests that name none.
    pub(crate) fn default_name(&self) -> &str {
        self.registry.default_name()
    }

    /// Bytes that all models may take together, where anybody says, and bytes that are taken.
    pub(crate) fn memory(&self) -> (Option<u64>, u64) {
        self.registry.memory()
    }

    /// Takes a model out of service; false when it was not in it.
    pub(crate) fn unload(&self, name: &str) -> Result<bool, ApiError> {
        self.registry.unload(name).map_err(|error| self.refusal(&error, Some(name)))
    }

    /// The adapters of all models, with the names of their models.
    pub(crate) fn adapters(&self) -> Vec<(String, AdapterSource)> {
        self.registry.adapters()
    }

    /// The name, if it is an adapter's.
    pub(crate) fn adapter_name(&self, name: Option<&str>) -> Option<String> {
        name.filter(|name| self.registry.is_adapter(name)).map(str::to_owned)
    }

    /// Loads an adapter of a model; without a name, of the default one. Blocks.
    pub(crate) fn load_adapter(
        &self,
        model: Option<&str>,
        name: &str,
        path: &Path,
    ) -> Result<AdapterInfo, ApiError> {
        let loaded = self.registry.load_adapter(model, name, path);
        let (runtime, adapter) = loaded.map_err(|error| self.refusal(&error, model))?;
        note(&self.ops, &runtime);
        let model = &runtime.info().name;
        tracing::info!(adapter = name, model, release = %adapter.release_hash, "loaded");
        Ok(adapter)
    }

    /// Takes an adapter out of service.
    pub(crate) fn unload_adapter(&self, name: &str) -> Result<(), ApiError> {
        self.registry.unload_adapter(name).map_err(|error| self.refusal(&error, Some(name)))?;
        tracing::info!(adapter = name, "unloaded");
        Ok(())
    }

    /// Loads a model anew while its old engine goes on.
    pub(crate) async fn reload(&self, name: &str, may_drain: bool) -> Result<(), ApiError> {
        // The old engine may have to be empty first.
        self.idle.make_way();
        let (registry, ops) = (Arc::clone(&self.registry), self.ops.clone());
        let owned = name.to_owned();
        let reloaded = spawn_blocking(move || {
            let runtime = registry.reload(&owned, may_drain)?;
            note(&ops, &runtime);
            Ok(())
        });
        let panicked = |_| Err(ApiError::Internal { what: "the reload panicked".to_owned() });
        let done = reloaded.await.map(|done| {
            done.map_err(|error| {
                tracing::error!(%error, "the model that was there stays");
                self.refusal(&error, Some(name))
            })
        });
        done.unwrap_or_else(panicked)
    }

    /// Takes nothing more in, finishes what runs within `timeout`, and ends every engine. Blocks.
    pub(crate) fn shutdown(&self, timeout: Duration) {
        self.registry.shutdown(timeout);
    }

    /// Whether somebody waits for a model: what runs for nobody does not begin then.
    pub(crate) fn is_loading(&self) -> bool {
        let loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        loads.values().any(is_running)
    }

    /// The load of a model that runs, or a new one.
    fn join_load(&self, name: &str) -> watch::Receiver<Option<Loaded>> {
        let mut loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(load) = loads.get(name).filter(|load| is_running(load)) {
            return load.clone();
        }
        let (sender, load) = watch::channel(None);
        loads.insert(name.to_owned(), load.clone());
        let (registry, ops, name) = (Arc::clone(&self.registry), self.ops.clone(), name.to_owned());
        spawn_blocking(move || {
            let loaded = registry.load(Some(&name)).map(|runtime| note(&ops, &runtime));
            if let Err(error) = &loaded {
                tracing::error!(%error, "a model that was asked for is not loaded");
            }
            // All who waited may have left.
            drop(sender.send(Some(loaded.map_err(Arc::new))));
        });
        load
    }

    fn name_of(&self, name: Option<&str>) -> Result<String, ApiError> {
        let name = name.unwrap_or(self.default_name());
        let found = self.registry.name_of(name).map(str::to_owned);
        found.map_err(|error| self.refusal(&error, Some(name)))
    }

    fn refusal(&self, error: &RegistryError, name: Option<&str>) -> ApiError {
        match error {
            RegistryError::Unknown { .. } => {
                let all: Vec<String> = self.status().into_iter().map(|model| model.name).collect();
                ApiError::model_not_found(name.unwrap_or_default(), &all.join("', '"))
            }
            error => refusal(error),
        }
    }
}

/// Whether a load has not ended. One that panicked has.
fn is_running(load: &watch::Receiver<Option<Loaded>>) -> bool {
    load.borrow().is_none() && load.has_changed().is_ok()
}

/// Tells the store what answers from now on. A store that cannot write is no reason not to serve.
fn note(ops: &Ops, runtime: &Runtime) {
    let adapters = runtime.adapters();
    let noted = ops.note_release(runtime.info()).and_then(|()| {
        adapters.iter().try_for_each(|adapter| ops.note_adapter(runtime.info(), adapter))
    });
    if let Err(error) = noted {
        tracing::error!(%error, "what was loaded could not be noted in the store");
    }
}

/// The registry's error as clients see it: files are the operator's.
fn refusal(error: &RegistryError) -> ApiError {
    let message = error.to_string();
    match error {
        RegistryError::Closed => {
            ApiError::Generate { error: GenerateError::ShuttingDown, prompt_param: "" }
        }
        RegistryError::AllBusy { .. } => ApiError::Model(ModelRefusal::AllBusy { message }),
        RegistryError::StillBusy { .. } => ApiError::Model(ModelRefusal::StillBusy { message }),
        error if error.is_out_of_memory() => ApiError::Model(ModelRefusal::OutOfMemory { message }),
        RegistryError::Adapter { source } => {
            let (status, code) = match **source {
                AdapterError::Unknown { .. } => (404, "adapter_not_found"),
                AdapterError::NameTaken { .. } => (409, "adapter_exists"),
                AdapterError::TooMany { .. } => (409, "adapters_full"),
                AdapterError::OutOfMemory { .. } => (503, "insufficient_memory"),
                _ => (400, "invalid_adapter"),
            };
            ApiError::Model(ModelRefusal::Adapter { message, status, code })
        }
        RegistryError::Load { name, .. } => {
            ApiError::Model(ModelRefusal::Failed { model: name.clone(), why: None })
        }
        RegistryError::Unknown { .. } | RegistryError::NameTaken { .. } | RegistryError::Empty => {
            ApiError::Internal { what: message }
        }
    }
}
