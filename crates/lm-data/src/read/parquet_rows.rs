//! The rows of a Parquet file as JSON texts.
//!
//! It must never turn a value into another one: what JSON cannot say breaks a rule.
//!
//! Start reading at [`rows`].

use std::fs::File;
use std::path::Path;

use parquet::errors::ParquetError;
use parquet::file::reader::SerializedFileReader;
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};

use crate::DataError;
use crate::error::io_error;

/// A row's text, or what JSON cannot say of it.
pub(crate) type RowText = Result<String, &'static str>;

/// The rows from `skip` on. An error of the file itself ends it.
pub(crate) fn rows(
    path: &Path,
    skip: u64,
) -> Result<impl Iterator<Item = Result<RowText, DataError>> + use<>, DataError> {
    let file = File::open(path).map_err(io_error("open the source", path))?;
    let path = path.to_owned();
    let damaged = move |error: ParquetError| DataError::DamagedSource {
        path: path.clone(),
        detail: error.to_string().chars().take(300).collect(),
    };
    let reader = SerializedFileReader::new(file).map_err(&damaged)?;
    // It holds a page of each column, not a row group.
    let rows = RowIter::from_file_into(Box::new(reader));
    let rows = rows.skip(usize::try_from(skip).unwrap_or(usize::MAX));
    Ok(rows.map(move |row| row.map(|row| text(&row)).map_err(&damaged)))
}

fn text(row: &Row) -> RowText {
    if row.get_column_iter().any(|(_, field)| has_no_json(field)) {
        return Err("a number is not finite, which JSON cannot say");
    }
    Ok(row.to_json_value().to_string())
}

fn has_no_json(field: &Field) -> bool {
    match field {
        Field::Float(n) => !n.is_finite(),
        Field::Double(n) => !n.is_finite(),
        Field::Float16(n) => !f32::from(*n).is_finite(),
        Field::Group(row) => row.get_column_iter().any(|(_, field)| has_no_json(field)),
        Field::ListInternal(list) => list.elements().iter().any(has_no_json),
        Field::MapInternal(map) => map.entries().iter().any(|(_, value)| has_no_json(value)),
        _ => false,
    }
}
