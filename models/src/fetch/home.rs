//! The folder that holds models, and what is where in it.
//!
//! It must never create anything by itself.
//!
//! Start reading at [`Home`].

use std::path::{Path, PathBuf};

use super::error::FetchError;

/// The folder that lastmile keeps its files in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home(PathBuf);

impl Home {
    /// This folder; it need not exist.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Home {
        Home(path.into())
    }

    /// `LASTMILE_HOME`, else the platform's data folder: `$XDG_DATA_HOME/lastmile` or
    /// `~/.local/share/lastmile`, `~/Library/Application Support/lastmile`,
    /// `%LOCALAPPDATA%\lastmile`.
    ///
    /// # Errors
    /// `NoHome` when none of the variables that it is worked out from is set.
    pub fn from_env() -> Result<Home, FetchError> {
        let folder = |name: &str| {
            std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
        };
        let user = std::env::home_dir().filter(|path| path.is_absolute());
        let data = if cfg!(windows) {
            folder("LOCALAPPDATA")
        } else if cfg!(target_os = "macos") {
            user.map(|user| user.join("Library/Application Support"))
        } else {
            let xdg = folder("XDG_DATA_HOME").filter(|path| path.is_absolute());
            xdg.or_else(|| user.map(|user| user.join(".local/share")))
        };
        let own = folder("LASTMILE_HOME").or_else(|| data.map(|data| data.join("lastmile")));
        own.map(Home).ok_or(FetchError::NoHome)
    }

    /// The folder itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where `*.toml` cards add to the catalog.
    #[must_use]
    pub fn catalog(&self) -> PathBuf {
        self.0.join("catalog")
    }

    /// Where models are installed, a folder for each.
    #[must_use]
    pub fn models(&self) -> PathBuf {
        self.0.join("models")
    }

    /// The folder of one model.
    pub(super) fn model(&self, folder: &str) -> PathBuf {
        self.models().join(folder)
    }

    /// Held while a model's folder is changed. Outside of the folder, so that it outlives it.
    pub(super) fn lock(&self, folder: &str) -> PathBuf {
        self.models().join(format!(".{folder}.lock"))
    }
}

/// The folder of a repository's files.
pub(super) fn hub_folder(repo: &str) -> String {
    format!("hf--{}", repo.replace('/', "--"))
}
