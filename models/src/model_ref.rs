//! What people write to name a model.
//!
//! It must never touch the network; it looks at the disk only to tell a path from a name.
//!
//! Start reading at [`ModelRef::parse`].

use std::fmt;
use std::path::{Path, PathBuf};

use crate::catalog::{Catalog, is_repo, is_repo_path};
use crate::fetch::FetchError;

/// A model by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelRef {
    /// A card of the catalog.
    Card(String),
    /// A file or folder on disk.
    Path(PathBuf),
    /// A repository of the Hugging Face hub: `hf:org/repo[:file]`.
    Hub {
        /// `org/name`.
        repo: String,
        /// A file of it; without one the repository's only model, or its Q4_K_M.
        file: Option<String>,
    },
    /// No model at all: `placeholder[:options]`. Holds the options.
    Placeholder(String),
}

impl ModelRef {
    /// Reads `placeholder[:options]`, `hf:org/repo[:file]`, a path (it holds a separator, ends in
    /// `.gguf`, or exists), or else the name of a card.
    ///
    /// # Errors
    /// `BadName` for a malformed `hf:`, `UnknownModel` with the names that are known.
    pub fn parse(text: &str, catalog: &Catalog) -> Result<ModelRef, FetchError> {
        if text == "placeholder" {
            return Ok(ModelRef::Placeholder(String::new()));
        }
        if let Some(options) = text.strip_prefix("placeholder:") {
            return Ok(ModelRef::Placeholder(options.to_owned()));
        }
        if let Some(rest) = text.strip_prefix("hf:") {
            return parse_hub(rest);
        }
        if let Ok(card) = catalog.get(text) {
            return Ok(ModelRef::Card(card.name.clone()));
        }
        let is_path = text.contains(['/', '\\']) || text.ends_with(".gguf");
        if is_path || (!text.is_empty() && Path::new(text).exists()) {
            return Ok(ModelRef::Path(PathBuf::from(text)));
        }
        Err(catalog.get(text).err().unwrap_or_else(|| bad_name(text, "the name of a card")))
    }
}

fn parse_hub(rest: &str) -> Result<ModelRef, FetchError> {
    let (repo, file) = match rest.split_once(':') {
        None => (rest, None),
        Some((repo, file)) => (repo, Some(file)),
    };
    if !is_repo(repo) || !file.is_none_or(is_repo_path) {
        return Err(bad_name(&format!("hf:{rest}"), "hf:org/repo or hf:org/repo:file"));
    }
    Ok(ModelRef::Hub { repo: repo.to_owned(), file: file.map(str::to_owned) })
}

fn bad_name(value: &str, wanted: &'static str) -> FetchError {
    FetchError::BadName { value: value.chars().take(200).collect(), wanted }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ModelRef::Card(name) => f.write_str(name),
            ModelRef::Path(path) => write!(f, "{}", path.display()),
            ModelRef::Hub { repo, file: None } => write!(f, "hf:{repo}"),
            ModelRef::Hub { repo, file: Some(file) } => write!(f, "hf:{repo}:{file}"),
            ModelRef::Placeholder(options) if options.is_empty() => f.write_str("placeholder"),
            ModelRef::Placeholder(options) => write!(f, "placeholder:{options}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: Result<ModelRef, &str>) {
        match (ModelRef::parse(text, &Catalog::builtin()), expect) {
            (Ok(found), Ok(expect)) => {
                assert_eq!(found, expect);
                assert_eq!(found.to_string(), text);
            }
            (Err(error), Err(part)) => {
                assert!(error.to_string().contains(part), "{text:?} gave: {error}");
            }
            (found, expect) => panic!("{text:?} gave {found:?}, expected {expect:?}"),
        }
    }

    #[test]
    fn names_are_told_apart() {
        let hub = |file: Option<&str>| ModelRef::Hub {
            repo: "org/Repo-1.5".to_owned(),
            file: file.map(str::to_owned),
        };
        check("placeholder", Ok(ModelRef::Placeholder(String::new())));
        check("placeholder:mode=echo", Ok(ModelRef::Placeholder("mode=echo".to_owned())));
        check("hf:org/Repo-1.5", Ok(hub(None)));
        check("hf:org/Repo-1.5:q4/a.gguf", Ok(hub(Some("q4/a.gguf"))));
        check("gemma3-270m", Ok(ModelRef::Card("gemma3-270m".to_owned())));
        check("./gone", Ok(ModelRef::Path("./gone".into())));
        check("gone.gguf", Ok(ModelRef::Path("gone.gguf".into())));
        check("src", Ok(ModelRef::Path("src".into())));
        check("gemma4", Err("gemma3-270m, smollm2-135m-instruct"));
        check("", Err("smollm2-135m-instruct"));
        check("hf:org", Err("hf:org/repo"));
        check("hf:org/repo:../../etc/passwd", Err("hf:org/repo:file"));
        check("hf:org/..", Err("hf:org/repo"));
    }
}
