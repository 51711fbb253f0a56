//! Adapters as models: which names they have, and which model each belongs to.
//!
//! It must never forget an adapter because its model is loaded anew: those that are declared come with it.

use std::path::Path;
use std::sync::Arc;

use super::{Registry, RegistryError, Shared};
use crate::{AdapterError, AdapterInfo, AdapterSource, Runtime};

impl Registry {
    /// Declares an adapter of a model (without a name, of the first one), which is loaded with it.
    ///
    /// # Errors
    /// No such model; a name that something has.
    pub fn declare_adapter(
        &self,
        model: Option<&str>,
        source: AdapterSource,
    ) -> Result<(), RegistryError> {
        let i = self.shared.find(model)?;
        self.shared.add_adapter(i, source)
    }

    /// Loads an adapter of a model (without a name, of the first one), which is loaded when it is not. From then on
    /// its name is a model's. Blocks.
    ///
    /// # Errors
    /// No such model, a name that something has, or an adapter that cannot be had.
    pub fn load_adapter(
        &self,
        model: Option<&str>,
        name: &str,
        path: &Path,
    ) -> Result<(Arc<Runtime>, AdapterInfo), RegistryError> {
        let shared = &*self.shared;
        let i = shared.find(model)?;
        let adapter = |source| RegistryError::Adapter { source: Box::new(source) };
        if shared.find(Some(name)).is_ok() {
            return Err(adapter(AdapterError::NameTaken { name: name.to_owned() }));
        }
        loop {
            self.load(Some(&shared.declared[i].name))?;
            // Nobody puts another engine in its place meanwhile.
            let _loading = shared.begin_loading(i)?;
            let Some(runtime) = shared.state().slots[i].used() else { continue };
            let info = runtime.load_adapter(name, path).map_err(adapter)?;
            let source = AdapterSource { name: info.name.clone(), path: info.path.clone() };
            if let Err(error) = shared.add_adapter(i, source) {
                // Another model's took the name meanwhile.
                runtime.unload_adapter(name).map_err(adapter)?;
                return Err(error);
            }
            return Ok((runtime, info));
        }
    }

    /// Takes an adapter out of service at once; answers that are computed with it go on to their end.
    ///
    /// # Errors
    /// No adapter has this name.
    pub fn unload_adapter(&self, name: &str) -> Result<(), RegistryError> {
        let mut state = self.shared.state();
        let Some(at) = state.adapters.iter().position(|(_, source)| source.name == name) else {
            let known = state.adapters.iter().map(|(_, source)| source.name.clone()).collect();
            let source = AdapterError::Unknown { name: name.to_owned(), known };
            return Err(RegistryError::Adapter { source: Box::new(source) });
        };
        let (i, _) = state.adapters.remove(at);
        let runtime = state.slots[i].runtime.clone();
        drop(state);
        // A model that was loaded without it has none.
        drop(runtime.map(|runtime| runtime.unload_adapter(name)));
        Ok(())
    }

    /// The adapters that models have or are loaded with, with the names of their models.
    #[must_use]
    pub fn adapters(&self) -> Vec<(String, AdapterSource)> {
        let named = |(i, source): &(usize, AdapterSource)| {
            (self.shared.declared[*i].name.clone(), source.clone())
        };
        self.shared.state().adapters.iter().map(named).collect()
    }

    /// Whether a name is an adapter's.
    #[must_use]
    pub fn is_adapter(&self, name: &str) -> bool {
        self.shared.state().adapters.iter().any(|(_, source)| source.name == name)
    }
}

impl Shared {
    fn add_adapter(&self, i: usize, source: AdapterSource) -> Result<(), RegistryError> {
        let mut state = self.state();
        let is_taken = state.adapters.iter().any(|(_, other)| other.name == source.name);
        if is_taken || self.names.contains_key(&source.name) {
            return Err(RegistryError::NameTaken { name: source.name });
        }
        state.adapters.push((i, source));
        Ok(())
    }

    /// The model that an adapter's name stands for.
    pub(super) fn of_adapter(&self, name: &str) -> Option<usize> {
        let state = self.state();
        let found = state.adapters.iter().find(|(_, source)| source.name == name);
        found.map(|(i, _)| *i)
    }

    /// What a model is loaded with.
    pub(super) fn adapters_of(&self, i: usize) -> Vec<AdapterSource> {
        let state = self.state();
        let own = state.adapters.iter().filter(|(of, _)| *of == i);
        own.map(|(_, source)| source.clone()).collect()
    }
}
