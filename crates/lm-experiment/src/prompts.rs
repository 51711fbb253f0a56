//! System prompts by name and version: what was said once is never changed.
//!
//! It must never lose the request's own instructions unless the prompt leaves them out.
//!
//! Start reading at [`Book::add_prompt`].

use rusqlite::{OptionalExtension, Row, params};
use serde::Serialize;

use crate::spec::is_name;
use crate::{Book, ExperimentError};

/// Stands for the request's own system message.
pub const SYSTEM: &str = "{system}";
const MAX_BYTES: usize = 64 << 10;

/// One version of a system prompt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PromptVersion {
    /// Its name.
    pub name: String,
    /// From 1.
    pub version: u32,
    /// BLAKE3 of the text, the first 16 hexadecimal digits.
    pub digest: String,
    /// The text.
    pub text: String,
    /// Unix milliseconds.
    pub added_at_ms: i64,
    /// Who added it.
    pub added_by: String,
}

/// The prompt with the request's own instructions in their place.
pub(crate) fn render(text: &str, own: &str) -> String {
    text.replace(SYSTEM, own).trim().to_owned()
}

impl Book {
    /// Keeps a system prompt as its next version. The same text as the newest version is that version.
    ///
    /// # Errors
    /// [`ExperimentError::Invalid`], [`ExperimentError::Database`].
    pub fn add_prompt(
        &mut self,
        name: &str,
        text: &str,
        who: &str,
        now_ms: i64,
    ) -> Result<PromptVersion, ExperimentError> {
        if !is_name(name) {
            let wanted = "1 to 64 letters, digits, '-', '_' and '.'";
            return Err(ExperimentError::invalid("name", format!("{name:?}"), wanted));
        }
        if text.len() > MAX_BYTES || text.trim().is_empty() {
            let value = format!("{} bytes long", text.len());
            return Err(ExperimentError::invalid("text", value, "1 to 65536 bytes of text"));
        }
        let digest = blake3::hash(text.as_bytes()).to_hex()[..16].to_owned();
        let newest = match self.prompt(name) {
            Ok(found) if found.digest == digest => return Ok(found),
            Ok(found) => found.version,
            Err(ExperimentError::Unknown { .. }) => 0,
            Err(error) => return Err(error),
        };
        let version = newest + 1;
        self.change("prompt", name, &format!("version {version}, {digest}"), who, now_ms, |t| {
            t.execute(
                "INSERT INTO prompt VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![name, version, digest, text, now_ms, who],
            )
            .map(drop)
        })?;
        self.prompt(name)
    }

    /// A prompt by NAME, which is its newest version, or NAME@VERSION.
    ///
    /// # Errors
    /// [`ExperimentError::Unknown`], [`ExperimentError::Database`].
    pub fn prompt(&self, wanted: &str) -> Result<PromptVersion, ExperimentError> {
        let (name, version) = match wanted.split_once('@') {
            Some((name, version)) => (name, version.parse::<u32>().ok()),
            None => (wanted, Some(0)),
        };
        let unknown =
            || ExperimentError::Unknown { what: "system prompt", name: wanted.to_owned() };
        let version = version.ok_or_else(unknown)?;
        let found = self
            .connection
            .prepare_cached(
                "SELECT name, version, digest, text, added_at_ms, added_by FROM prompt \
                 WHERE name = ?1 AND (?2 = 0 OR version = ?2) ORDER BY version DESC LIMIT 1",
            )
            .and_then(|mut s| s.query_row(params![name, version], prompt_row).optional())
            .map_err(self.wrap("read"))?;
        found.ok_or_else(unknown)
    }

    /// All versions of all prompts.
    ///
    /// # Errors
    /// [`ExperimentError::Database`].
    pub fn prompts(&self) -> Result<Vec<PromptVersion>, ExperimentError> {
        let read = || -> rusqlite::Result<Vec<PromptVersion>> {
            self.connection
                .prepare_cached(
                    "SELECT name, version, digest, text, added_at_ms, added_by FROM prompt \
                     ORDER BY name, version",
                )?
                .query_map([], prompt_row)?
                .collect()
        };
        read().map_err(self.wrap("read"))
    }
}

fn prompt_row(row: &Row<'_>) -> rusqlite::Result<PromptVersion> {
    Ok(PromptVersion {
        name: row.get(0)?,
        version: row.get(1)?,
        digest: row.get(2)?,
        text: row.get(3)?,
        added_at_ms: row.get(4)?,
        added_by: row.get(5)?,
    })
}
