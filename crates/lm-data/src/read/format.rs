//! Which format a file has: by what its user says, else by its name, else by its first bytes.
//!
//! It must never read more than the first bytes.
//!
//! Start reading at [`Format::of`].

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::DataError;
use crate::read::input;

/// How the rows of a file are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One JSON value a line.
    Jsonl,
    /// One array whose elements are the rows; or values one after the other.
    Json,
    /// RFC 4180 with a header line; a cell becomes a number or a boolean where the contract says so.
    Csv,
    /// Parquet, nested columns included.
    Parquet,
    /// OpenAI's `{"messages": [{"role", "content"}]}`, a line each.
    Chat,
    /// ShareGPT's `{"conversations": [{"from", "value"}]}`, a line each; published as OpenAI's messages.
    Sharegpt,
    /// Mails one after the other, each after a `From ` line.
    Mbox,
    /// One mail of RFC 5322 a file.
    Mail,
}

const SNIFF_BYTES: usize = 4096;
const NAMES: [(Format, &str); 8] = [
    (Format::Jsonl, "jsonl"),
    (Format::Json, "json"),
    (Format::Csv, "csv"),
    (Format::Parquet, "parquet"),
    (Format::Chat, "chat"),
    (Format::Sharegpt, "sharegpt"),
    (Format::Mbox, "mbox"),
    (Format::Mail, "mail"),
];

impl Format {
    /// The format of a file by its name and its first bytes. A pipe must say its format or be JSONL.
    pub(crate) fn of(path: &Path) -> Result<Format, DataError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let name = name.strip_suffix(".gz").unwrap_or(&name);
        let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
        match extension {
            "jsonl" | "ndjson" => return Ok(Format::Jsonl),
            "csv" => return Ok(Format::Csv),
            "parquet" => return Ok(Format::Parquet),
            "mbox" => return Ok(Format::Mbox),
            "eml" => return Ok(Format::Mail),
            "json" => return Ok(Format::Json),
            _ => {}
        }
        if !path.is_file() && !path.is_dir() {
            return Ok(Format::Jsonl);
        }
        let head = input::head_of(path, SNIFF_BYTES)?;
        sniff(&head).ok_or_else(|| DataError::UnknownFormat { path: path.to_owned() })
    }

    /// Rows may be added at the end of such a file without touching the others.
    pub(crate) fn grows(self) -> bool {
        matches!(self, Format::Jsonl | Format::Csv | Format::Chat | Format::Sharegpt | Format::Mbox)
    }
}

pub(crate) fn sniff(head: &[u8]) -> Option<Format> {
    if head.starts_with(b"PAR1") {
        return Some(Format::Parquet);
    }
    if head.starts_with(b"From ") {
        return Some(Format::Mbox);
    }
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    match text.first() {
        Some(b'[') => return Some(Format::Json),
        // One value a line, or one value over several lines.
        Some(b'{') => {
            let line = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
            let is_whole = line.trim_ascii_end().ends_with(b"}") || line.len() == text.len();
            return Some(if is_whole { Format::Jsonl } else { Format::Json });
        }
        None => return Some(Format::Jsonl),
        _ => {}
    }
    starts_with_header(text).then_some(Format::Mail)
}

/// `Name: value` with a name of printable characters, as every mail begins.
fn starts_with_header(text: &[u8]) -> bool {
    let line = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let colon = line.iter().position(|&byte| byte == b':');
    colon.is_some_and(|n| n > 0 && line[..n].iter().all(|byte| byte.is_ascii_graphic()))
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES.iter().find(|(format, _)| format == self).map_or("", |(_, name)| name);
        f.write_str(name)
    }
}

impl FromStr for Format {
    type Err = DataError;

    fn from_str(text: &str) -> Result<Format, DataError> {
        let found = NAMES.iter().find(|(_, name)| *name == text).map(|(format, _)| *format);
        found.ok_or_else(|| DataError::InvalidOption {
            field: "format",
            value: text.chars().take(80).collect(),
            limit: "jsonl, json, csv, parquet, chat, sharegpt, mbox or mail",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(head: &str, expect: Option<Format>) {
        assert_eq!(sniff(head.as_bytes()), expect);
    }

    #[test]
    fn formats_are_told_by_their_first_bytes() {
        check("PAR1\u{15}", Some(Format::Parquet));
        check("From a@b Mon Jan  1 00:00:00 2001\n", Some(Format::Mbox));
        check("\u{feff} [\n", Some(Format::Json));
        check("{\"a\": 1}\n{}", Some(Format::Jsonl));
        check("{\n \"a\": 1}", Some(Format::Json));
        check("Received: from x\n\tby y", Some(Format::Mail));
        check("", Some(Format::Jsonl));
        check("hello world\n", None);
        check(": x", None);
    }
}
