//! A recorded answer, computed again by a model that serves: beside its requests, and never as one of them.
//!
//! Start reading at [`Recorded::begin_again`]; [`ProbeFile`] has what is computed again and again.

use std::path::{Path, PathBuf};

use lastmile::{
    GenerateRequest, GenerateStream, Priority, RequestId, Runtime, Steering, TenantId, TokenId,
};
use lm_store::Reader;
use serde::{Deserialize, Serialize};

use crate::replay::{Bundle, Factor, Recorded, ReplayError, Verdict};

/// One answer that was computed again.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Again {
    /// Which of the request's answers.
    pub choice: u32,
    /// Whether it is the same, token by token.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// The recorded token at which it differs, as text; empty where it does not.
    pub expected_text: String,
    /// And the one that was drawn.
    pub got_text: String,
    /// The release that was recorded.
    pub recorded_release: String,
    /// The release that computed now.
    pub release: String,
    /// What of the release is not as it was.
    pub differs: Vec<Factor>,
}

impl Recorded {
    /// Has a model that serves compute the answer as request `id`, on nobody's behalf.
    ///
    /// # Errors
    /// The request is refused here.
    pub fn begin_again(
        &self,
        runtime: &Runtime,
        id: RequestId,
        priority: Priority,
    ) -> Result<GenerateStream, ReplayError> {
        let request = GenerateRequest {
            id,
            priority,
            tenant: TenantId::ANONYMOUS,
            subject: None,
            deadline: None,
            max_queue: None,
            steering: Steering { again: true, ..Steering::default() },
            ..self.request.clone()
        };
        Recorded::begin(runtime, &request)
    }

    /// What came of it.
    #[must_use]
    pub fn again(&self, runtime: &Runtime, verdict: Verdict) -> Again {
        let info = runtime.info();
        let text = |id: Option<TokenId>| match id {
            Some(id) if (id as usize) < info.backend.vocab_size => runtime.token_text(id),
            Some(_) => "(not in the vocabulary)".to_owned(),
            None => "(the end)".to_owned(),
        };
        let (expected_text, got_text) = match verdict {
            Verdict::Identical { .. } => (String::new(), String::new()),
            Verdict::Diverged { expected, got, .. } => (text(expected), text(got)),
        };
        let adapter = self.request.adapter.as_deref().and_then(|name| runtime.adapter(name));
        let release = adapter.as_ref().map_or(info.release_hash, |one| one.release_hash);
        Again {
            choice: self.choice,
            verdict,
            expected_text,
            got_text,
            recorded_release: self.release.hash.clone(),
            release: release.to_string(),
            differs: self.differences(info, adapter.as_ref()),
        }
    }
}

/// A recorded request that a server computes again from time to time: its answers must stay what they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeFile {
    /// The version of this form.
    pub lastmile_probe: u32,
    /// The model's name as served.
    pub model: String,
    /// When it was kept, in Unix milliseconds.
    pub kept_at_ms: i64,
    /// What was asked and answered.
    pub bundle: Bundle,
}

/// Why a probe cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The name.
    #[error(
        "the probe's name is {name:?}, but must be 1 to 64 letters, digits, '-', '_' and '.', and begin with none of those three"
    )]
    Name {
        /// As it was given.
        name: String,
    },
    /// Its answer cannot be computed again.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// The file.
    #[error("cannot use {}: {what}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        what: String,
    },
}

const PROBE_VERSION: u32 = 1;
const MAX_PROBE_BYTES: u64 = 16 << 20;

impl ProbeFile {
    /// Where probes are kept in a home.
    #[must_use]
    pub fn folder(home: &Path) -> PathBuf {
        home.join("probes")
    }

    /// Where one of them is.
    ///
    /// # Errors
    /// [`ProbeError::Name`].
    pub fn path(home: &Path, name: &str) -> Result<PathBuf, ProbeError> {
        let is_part = |c: u8| c.is_ascii_alphanumeric() || b"._-".contains(&c);
        let is_name = (1..=64).contains(&name.len())
            && name.bytes().all(is_part)
            && name.as_bytes()[0].is_ascii_alphanumeric();
        match is_name {
            true => Ok(ProbeFile::folder(home).join(format!("{name}.json"))),
            false => Err(ProbeError::Name { name: name.to_owned() }),
        }
    }

    /// Removes the probes of a home that are of one of these requests, in their written form. Returns their names.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub fn forget(home: &Path, request_ids: &[String]) -> Result<Vec<String>, ProbeError> {
        let mut forgotten = Vec::new();
        for entry in std::fs::read_dir(ProbeFile::folder(home)).into_iter().flatten().flatten() {
            let path = entry.path();
            let is_of_them = |probe: ProbeFile| request_ids.contains(&probe.bundle.id);
            if !ProbeFile::read(&path).is_ok_and(is_of_them) {
                continue;
            }
            std::fs::remove_file(&path).map_err(|error| ProbeError::File {
                path: path.clone(),
                what: error.to_string(),
            })?;
            forgotten.extend(path.file_stem().and_then(|name| name.to_str()).map(str::to_owned));
        }
        Ok(forgotten)
    }

    /// Takes a request of the store, all of whose answers can be computed again.
    ///
    /// # Errors
    /// [`ProbeError::Replay`].
    pub fn of(reader: &Reader, id: RequestId, now_ms: i64) -> Result<ProbeFile, ProbeError> {
        let bundle = Bundle::read(reader, id)?;
        bundle.recorded(None)?;
        let request = reader.request(id).map_err(ReplayError::from)?;
        let not_stored = || ReplayError::NotStored { id: id.to_string() };
        let model = request.ok_or_else(not_stored)?.model;
        Ok(ProbeFile { lastmile_probe: PROBE_VERSION, model, kept_at_ms: now_ms, bundle })
    }

    /// Reads one.
    ///
    /// # Errors
    /// [`ProbeError::File`].
    pub fn read(path: &Path) -> Result<ProbeFile, ProbeError> {
        let wrong = |what: String| ProbeError::File { path: path.to_owned(), what };
        let found = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?;
        if !found.is_file() {
            return Err(wrong("it is no file".to_owned()));
        }
        let size = found.len();
        if size > MAX_PROBE_BYTES {
            return Err(wrong(format!(
                "it has {size} bytes, and at most {MAX_PROBE_BYTES} are read"
            )));
        }
        let text = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
        let probe: ProbeFile =
            serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        match probe.lastmile_probe {
            PROBE_VERSION if probe.bundle.answers.is_empty() => {
                Err(wrong("it holds no answer".to_owned()))
            }
            PROBE_VERSION => Ok(probe),
            other => Err(wrong(format!(
                "it is of version {other}, and this program reads {PROBE_VERSION}"
            ))),
        }
    }

    /// Writes it, readable by its owner only. Whoever reads meanwhile reads the old one or the new one.
    ///
    /// # Errors
    /// [`ProbeError::File`].
    pub fn write(&self, path: &Path) -> Result<(), ProbeError> {
        use std::io::Write;
        let wrong = |error: std::io::Error| ProbeError::File {
            path: path.to_owned(),
            what: error.to_string(),
        };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(wrong)?;
        }
        let next = path.with_extension("json.next");
        let mut options = std::fs::OpenOptions::new();
        options.write(true).truncate(true).create(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&next).map_err(wrong)?;
        // Numbers, texts and lists can always be written.
        let text = serde_json::to_vec_pretty(self).unwrap_or_default();
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(wrong)?;
        std::fs::rename(&next, path).map_err(wrong)
    }
}
