//! Whether bytes are of the format that they are said to be: told by their first rows, before anybody waits for them.
//!
//! It must never refuse what quarantine can keep: a row that is bad among others is no fault of the whole.
//!
//! Start reading at [`check`].

use std::path::Path;

use crate::DataError;
use crate::check::json::{self, JsonError};
use crate::error::io_error;
use crate::read::convert::{CsvHeader, CsvKind};
use crate::read::format::sniff;
use crate::read::framer::{Framer, Record};
use crate::read::input::{Input, head_of};
use crate::read::{Format, parquet_rows};

/// When none of so many rows can be read, nothing can.
const ROWS: usize = 20;
const HEAD_BYTES: usize = 4096;
const PARQUET_MAGIC: &[u8] = b"PAR1";
/// The length of Parquet's footer and the magic after it.
const PARQUET_END_BYTES: u64 = 8;

/// Where the first fault is, and what it is.
type Fault = (u64, String);

/// Reads the first rows.
///
/// # Errors
/// [`DataError::NotOfFormat`] when none of them can be read; [`DataError::NoRows`] when there are none.
pub(crate) fn check(path: &Path, format: Format, max_row_bytes: usize) -> Result<(), DataError> {
    let found = match format {
        Format::Parquet => parquet(path),
        Format::Mbox | Format::Mail => mail(path),
        _ => frames(path, format, max_row_bytes),
    };
    let (offset_bytes, detail) = match found {
        Ok(Opening::Readable) => return Ok(()),
        Ok(Opening::Empty { blank_lines }) => {
            return Err(DataError::NoRows { path: "what was sent".into(), blank_lines });
        }
        Ok(Opening::Faulty(fault)) => fault,
        Err(DataError::Compressed { kind, .. }) => {
            (0, format!("it is compressed by {kind}: send it as it is"))
        }
        Err(error) => return Err(error),
    };
    Err(DataError::NotOfFormat { format, offset_bytes, detail })
}

/// What the first rows say.
enum Opening {
    Readable,
    Empty { blank_lines: u64 },
    Faulty(Fault),
}

fn frames(path: &Path, format: Format, max_row_bytes: usize) -> Result<Opening, DataError> {
    let (input, _) = Input::open(path)?;
    let mut framer = Framer::new(input, format, max_row_bytes);
    let mut record = Record::default();
    let mut header = None;
    if format == Format::Csv {
        if !framer.next_record(&mut record).map_err(io_error("read", path))? {
            return Ok(Opening::Empty { blank_lines: 0 });
        }
        match CsvHeader::new(&record.bytes, |_| CsvKind::Text) {
            Ok(read) => header = Some(read),
            Err(detail) => {
                return Ok(Opening::Faulty((record.offset_bytes, format!("header: {detail}"))));
            }
        }
    }
    let (mut first, mut n_rows, mut blank_lines) = (None, 0, 0);
    while n_rows < ROWS && framer.next_record(&mut record).map_err(io_error("read", path))? {
        if record.is_blank() {
            blank_lines += 1;
            continue;
        }
        n_rows += 1;
        let Some(fault) = fault_of(&record, header.as_ref(), max_row_bytes) else {
            return Ok(Opening::Readable);
        };
        first = first.or(Some(fault));
    }
    Ok(first.map_or(Opening::Empty { blank_lines }, Opening::Faulty))
}

fn fault_of(record: &Record, header: Option<&CsvHeader>, max_row_bytes: usize) -> Option<Fault> {
    if let Some(fault) = record.fault {
        return Some((record.offset_bytes, fault.to_owned()));
    }
    if record.too_long {
        let size = record.size_bytes;
        let detail = format!("the row has {size} bytes, and at most {max_row_bytes} may be");
        return Some((record.offset_bytes, detail));
    }
    // What is not UTF-8 may be windows-1252, which quarantine proposes as a repair.
    let not_utf8 = std::str::from_utf8(&record.bytes).err().map(|error| error.valid_up_to() as u64);
    let text = match not_utf8 {
        None => String::from_utf8_lossy(&record.bytes),
        Some(_) => encoding_rs::WINDOWS_1252.decode(&record.bytes).0,
    };
    let (at, detail) = match header {
        Some(header) => (0, header.row(text.as_bytes()).err()?),
        None => json_fault(&text)?,
    };
    Some(match not_utf8 {
        None => (record.offset_bytes + at, detail),
        Some(at) => (record.offset_bytes + at, "the bytes are not UTF-8".to_owned()),
    })
}

fn json_fault(text: &str) -> Option<Fault> {
    match json::parse(text) {
        Ok(_) | Err(JsonError::DuplicateKey { .. } | JsonError::LargeInteger { .. }) => None,
        Err(JsonError::Syntax { message, at, .. }) => Some((at as u64, message)),
    }
}

/// A mail that is damaged is a row of its own; what has no header is none.
fn mail(path: &Path) -> Result<Opening, DataError> {
    let head = head_of(path, HEAD_BYTES)?;
    let Some(at) = head.iter().position(|byte| !byte.is_ascii_whitespace()) else {
        return Ok(Opening::Empty { blank_lines: 0 });
    };
    if matches!(sniff(&head), Some(Format::Mbox | Format::Mail)) {
        return Ok(Opening::Readable);
    }
    Ok(Opening::Faulty((at as u64, "it begins with no header of a mail".to_owned())))
}

fn parquet(path: &Path) -> Result<Opening, DataError> {
    let size = path.metadata().map_err(io_error("read the size of", path))?.len();
    if !head_of(path, PARQUET_MAGIC.len())?.starts_with(PARQUET_MAGIC) {
        return Ok(Opening::Faulty((0, "it does not begin with PAR1".to_owned())));
    }
    let at_end = |error: DataError| match error {
        DataError::DamagedSource { detail, .. } => {
            Ok(Opening::Faulty((size.saturating_sub(PARQUET_END_BYTES), detail)))
        }
        other => Err(other),
    };
    let mut rows = match parquet_rows::rows(path, 0) {
        Ok(rows) => rows,
        Err(error) => return at_end(error),
    };
    match rows.next() {
        None => Ok(Opening::Empty { blank_lines: 0 }),
        Some(Ok(_)) => Ok(Opening::Readable),
        Some(Err(DataError::DamagedSource { detail, .. })) => {
            Ok(Opening::Faulty((PARQUET_MAGIC.len() as u64, detail)))
        }
        Some(Err(error)) => Err(error),
    }
}
