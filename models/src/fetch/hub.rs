//! Files of the Hugging Face hub, by the hf-hub crate.
//!
//! The user's token is sent only where the hub, asked without it, answers 401, 403 or 404: hf-hub
//! hands it on to the host that a file's redirect names. So a public model's store never sees it;
//! that of a gated or private one does.
//!
//! It must never verify or install: it leaves a file in the staging folder. hf-hub knows no
//! timeouts, so each call runs on a thread of its own, and the caller waits for signs of life only
//! so long. A thread that is given up ends at its next sign of life.
//!
//! Start reading at [`HubFile::download`].

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use hf_hub::api::sync::{Api, ApiBuilder};
use hf_hub::{Cache, Repo, RepoType};

use super::digest::from_hex;
use super::progress::Progress;
use super::pull::PullOptions;
use crate::hf_config::read_bounded;

/// hf-hub's cache inside of the staging folder; keeps its `.part` files between pulls.
const CACHE: &str = "hub";
const EVENTS: usize = 64;
const MAX_FILES: usize = 100_000;
const TOKEN_LIMIT_BYTES: u64 = 4096;

/// One file of a repository.
#[derive(Clone, Debug)]
pub(super) struct HubFile<'a> {
    pub(super) repo: &'a str,
    pub(super) revision: &'a str,
    pub(super) path: &'a str,
}

/// A file as the hub lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) path: String,
    pub(super) size_bytes: Option<u64>,
    /// Known for large files only.
    pub(super) sha256: Option<[u8; 32]>,
}

/// What a download's thread tells.
enum Event {
    Answered { size_bytes: u64 },
    Begun,
    Bytes(usize),
    Done(Result<PathBuf, String>),
}

impl HubFile<'_> {
    /// Downloads the file into the staging folder, going on where an earlier pull broke off.
    ///
    /// # Errors
    /// Why not, in a sentence: no answer in time, another size than `size_bytes`, over
    /// `limit_bytes`, …
    pub(super) fn download(
        &self,
        staging: &Path,
        size_bytes: Option<u64>,
        limit_bytes: u64,
        options: &PullOptions,
        progress: &dyn Progress,
    ) -> Result<PathBuf, String> {
        let access = Access::new(staging, options)?;
        let events = self.spawn(access, Cache::new(staging.join(CACHE)))?;
        let announced = match wait(&events, options.hub_answer)? {
            Event::Answered { size_bytes } => size_bytes,
            Event::Done(Err(reason)) => return Err(reason),
            _ => return Err("it answered out of turn".to_owned()),
        };
        if let Some(wanted) = size_bytes.filter(|&wanted| wanted != announced) {
            return Err(format!("it has {announced} bytes, but {wanted} are wanted"));
        }
        if announced > limit_bytes {
            return Err(format!(
                "it has {announced} bytes, but at most {limit_bytes} may be fetched"
            ));
        }
        progress.begin(self.path, Some(announced));
        let result = follow(&events, announced, options.hub_stall, progress);
        progress.end();
        result
    }

    fn spawn(&self, access: Access, cache: Cache) -> Result<Receiver<Event>, String> {
        let (sender, events) = sync_channel(EVENTS);
        let repo =
            Repo::with_revision(self.repo.to_owned(), RepoType::Model, self.revision.to_owned());
        let path = self.path.to_owned();
        let work = move || {
            let result = transfer(&access, &cache, repo, &path, &sender);
            let _ = sender.send(Event::Done(result));
        };
        let thread = std::thread::Builder::new().name("hub-download".to_owned()).spawn(work);
        thread.map_err(|error| format!("cannot start a thread: {error}"))?;
        Ok(events)
    }
}

/// Runs on the download's thread.
fn transfer(
    access: &Access,
    cache: &Cache,
    repo: Repo,
    path: &str,
    events: &SyncSender<Event>,
) -> Result<PathBuf, String> {
    let text = |error: hf_hub::api::sync::ApiError| error.to_string();
    let cached = cache.repo(repo.clone());
    let of_file = |api: &Api| {
        let repo = api.repo(repo.clone());
        let metadata = api.metadata(&repo.url(path))?;
        Ok((repo, metadata))
    };
    let is_refusal = |error: &_| match error {
        hf_hub::api::sync::ApiError::RequestError(error) => is_refused(error),
        _ => false,
    };
    let (repo, metadata) = access.ask(of_file, is_refusal).map_err(text)?;
    // hf-hub makes file names of these two.
    for (what, value) in [("etag", metadata.etag()), ("commit", metadata.commit_hash())] {
        if !crate::catalog::is_word(value) {
            return Err(format!("its {what} is {value:?}, which cannot be a file's name"));
        }
    }
    let _ = events.send(Event::Answered { size_bytes: metadata.size() as u64 });
    // hf-hub asks for the rest of a part that is whole already, and fails for ever.
    let part = cached.blob_path(metadata.etag()).with_extension("part");
    if std::fs::metadata(&part).is_ok_and(|part| part.len() >= metadata.size() as u64) {
        std::fs::remove_file(&part).map_err(|error| error.to_string())?;
    }
    let link =
        repo.download_with_progress(path, Reporter { events: events.clone() }).map_err(text)?;
    std::fs::canonicalize(link).map_err(|error| error.to_string())
}

/// Passes hf-hub's progress on; unwinds the thread when nobody waits any more, for hf-hub has no
/// other way to break a transfer off.
struct Reporter {
    events: SyncSender<Event>,
}

impl Reporter {
    fn tell(&self, event: Event) {
        if self.events.send(event).is_err() {
            std::panic::resume_unwind(Box::new("the download was given up"));
        }
    }
}

impl hf_hub::api::Progress for Reporter {
    fn init(&mut self, _size: usize, _filename: &str) {
        self.tell(Event::Begun);
    }

    fn update(&mut self, n_bytes: usize) {
        self.tell(Event::Bytes(n_bytes));
    }

    fn finish(&mut self) {}
}

fn wait(events: &Receiver<Event>, limit: Duration) -> Result<Event, String> {
    events.recv_timeout(limit).map_err(|error| match error {
        RecvTimeoutError::Timeout => format!("no sign of life within {} s", limit.as_secs_f32()),
        RecvTimeoutError::Disconnected => "the download's thread ended early".to_owned(),
    })
}

fn follow(
    events: &Receiver<Event>,
    announced: u64,
    stall: Duration,
    progress: &dyn Progress,
) -> Result<PathBuf, String> {
    let mut done_bytes = 0;
    loop {
        match wait(events, stall)? {
            Event::Answered { .. } | Event::Begun => done_bytes = 0,
            Event::Bytes(n_bytes) => done_bytes += n_bytes as u64,
            Event::Done(result) => return result,
        }
        if done_bytes > announced {
            return Err(format!("it sends more than the {announced} bytes that it announced"));
        }
        progress.advance(done_bytes);
    }
}

/// Lists a repository and names the commit, so that what is fetched next belongs together.
///
/// # Errors
/// Why not, in a sentence.
pub(super) fn list(
    repo: &str,
    staging: &Path,
    options: &PullOptions,
) -> Result<(String, Vec<Listed>), String> {
    let access = Access::new(staging, options)?;
    let repo = repo.to_owned();
    let (sender, answer) = sync_channel(1);
    let work = move || {
        let of_repo = |api: &Api| {
            let request = api.model(repo.clone()).info_request().query("blobs", "true");
            request.call()?.body_mut().read_json::<serde_json::Value>()
        };
        let json = access.ask(of_repo, is_refused);
        let _ = sender.send(json.map_err(|error| error.to_string()));
    };
    let thread = std::thread::Builder::new().name("hub-list".to_owned()).spawn(work);
    thread.map_err(|error| format!("cannot start a thread: {error}"))?;
    let json = answer
        .recv_timeout(options.hub_answer)
        .map_err(|_| format!("no answer within {} s", options.hub_answer.as_secs_f32()))??;
    read_listing(&json)
}

fn read_listing(json: &serde_json::Value) -> Result<(String, Vec<Listed>), String> {
    let commit = json.get("sha").and_then(|sha| sha.as_str()).unwrap_or_default();
    if !crate::catalog::is_word(commit) {
        return Err(format!("it names no commit: sha is {commit:?}"));
    }
    let files = json.get("siblings").and_then(|list| list.as_array());
    let files = files.ok_or_else(|| "it lists no files".to_owned())?;
    if files.len() > MAX_FILES {
        return Err(format!("it lists {} files, but at most {MAX_FILES} can be", files.len()));
    }
    let listed = files.iter().filter_map(|file| {
        let large = file.get("lfs");
        let sha256 = large.and_then(|large| large.get("sha256")).and_then(|hex| hex.as_str());
        Some(Listed {
            path: file.get("rfilename")?.as_str()?.to_owned(),
            size_bytes: file.get("size").and_then(|size| size.as_u64()),
            sha256: sha256.and_then(from_hex),
        })
    });
    Ok((commit.to_owned(), listed.collect()))
}

/// The hub as anybody and, when there is a token, as its owner.
struct Access {
    anonymous: Api,
    with_token: Option<Api>,
}

impl Access {
    fn new(staging: &Path, options: &PullOptions) -> Result<Access, String> {
        let token = match &options.hub_token_file {
            Some(path) => token_in(path),
            None => users_token(),
        };
        Ok(Access {
            anonymous: api(staging, options, None)?,
            with_token: token.map(|token| api(staging, options, Some(token))).transpose()?,
        })
    }

    /// Asks as anybody, and again with the token only when that is refused.
    fn ask<T, E>(
        &self,
        question: impl Fn(&Api) -> Result<T, E>,
        is_refusal: impl Fn(&E) -> bool,
    ) -> Result<T, E> {
        match (question(&self.anonymous), &self.with_token) {
            (Err(error), Some(api)) if is_refusal(&error) => question(api),
            (answer, _) => answer,
        }
    }
}

/// Whether the hub may say something else to somebody whom it knows; it hides private repositories
/// behind 404.
fn is_refused(error: &ureq::Error) -> bool {
    matches!(error, ureq::Error::StatusCode(401 | 403 | 404))
}

fn api(staging: &Path, options: &PullOptions, token: Option<String>) -> Result<Api, String> {
    let mut builder = ApiBuilder::from_cache(Cache::new(staging.join(CACHE)))
        .with_progress(false)
        .with_token(token)
        .with_user_agent("lastmile", env!("CARGO_PKG_VERSION"));
    let endpoint = options.hub_endpoint.clone().or_else(|| std::env::var("HF_ENDPOINT").ok());
    if let Some(endpoint) = endpoint.filter(|endpoint| !endpoint.is_empty()) {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
    }
    builder.build().map_err(|error| error.to_string())
}

/// The user's token, from where Hugging Face's own tools keep it.
fn users_token() -> Option<String> {
    let from_env = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().and_then(|text| trimmed(&text)));
    let from_file = || {
        let home = std::env::var_os("HF_HOME").map(PathBuf::from);
        let home = home.or_else(|| Some(std::env::home_dir()?.join(".cache/huggingface")))?;
        let path =
            std::env::var_os("HF_TOKEN_PATH").map_or_else(|| home.join("token"), PathBuf::from);
        token_in(&path)
    };
    from_env.or_else(from_file)
}

fn token_in(path: &Path) -> Option<String> {
    let bytes = read_bounded(path, TOKEN_LIMIT_BYTES).ok()?;
    trimmed(&String::from_utf8(bytes).ok()?)
}

fn trimmed(text: &str) -> Option<String> {
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}
