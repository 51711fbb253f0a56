//! The rows of a Parquet file as JSON texts.
//!
//! It must never turn a value into another one: what JSON cannot say breaks a rule.
//!
//! Start reading at [`rows`], then [`value`].

use std::fs::File;
use std::path::{Path, PathBuf};

use parquet::basic::Compression;
use parquet::data_type::Decimal;
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use serde_json::{Map, Value};

use crate::DataError;
use crate::caught::caught;
use crate::error::io_error;

/// A row's text, or what JSON cannot say of it.
pub(crate) type RowText = Result<String, &'static str>;

/// A larger decimal takes its reader longer than a row may. So many bytes are 308 digits.
const MAX_DECIMAL_BYTES: usize = 128;
const MAX_DECIMAL_SCALE: i32 = 308;
/// How many there are in a second, and with how many digits they are written.
const MILLIS: (i64, usize) = (1_000, 3);
const MICROS: (i64, usize) = (1_000_000, 6);

/// The rows from `skip` on. An error of the file itself ends it.
pub(crate) fn rows(
    path: &Path,
    skip: u64,
) -> Result<impl Iterator<Item = Result<RowText, DataError>> + use<>, DataError> {
    let file = File::open(path).map_err(io_error("open the source", path))?;
    let reader = read(path, || SerializedFileReader::new(file))?;
    let mut columns = reader.metadata().row_groups().iter().flat_map(|group| group.columns());
    if let Some(codec) = columns.find_map(|column| unread_codec(column.compression())) {
        let wanted = "write it with Snappy, gzip or no compression";
        let detail = format!("its columns are compressed by {codec}, which is not read: {wanted}");
        return Err(DataError::DamagedSource { path: path.to_owned(), detail });
    }
    // It holds a page of each column, not a row group.
    let rows = RowIter::from_file_into(Box::new(reader));
    let mut rows = Rows { path: path.to_owned(), rows, is_over: false };
    for _ in 0..skip {
        if rows.next_row()?.is_none() {
            break;
        }
    }
    Ok(rows)
}

/// The name of a compression for which there is no reader here.
fn unread_codec(codec: Compression) -> Option<&'static str> {
    match codec {
        Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::GZIP(_) => None,
        Compression::ZSTD(_) => Some("Zstandard"),
        Compression::LZ4 | Compression::LZ4_RAW => Some("LZ4"),
        Compression::BROTLI(_) => Some("Brotli"),
        Compression::LZO => Some("LZO"),
    }
}

struct Rows {
    path: PathBuf,
    rows: RowIter<'static>,
    is_over: bool,
}

impl Rows {
    fn next_row(&mut self) -> Result<Option<Row>, DataError> {
        let row = read(&self.path, || self.rows.next().transpose());
        // After a panic nobody knows where it is.
        self.is_over |= row.is_err();
        row
    }
}

impl Iterator for Rows {
    type Item = Result<RowText, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        self.next_row().map(|row| row.map(|row| text(&row))).transpose()
    }
}

/// What the crate cannot read it refuses, or panics on, as on the type INTERVAL.
fn read<T>(path: &Path, work: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, DataError> {
    let damaged = |detail: String| DataError::DamagedSource {
        path: path.to_owned(),
        detail: detail.chars().take(300).collect(),
    };
    match caught(work) {
        Ok(outcome) => outcome.map_err(|error| damaged(error.to_string())),
        Err(panic) => Err(damaged(format!("it cannot be read: {panic}"))),
    }
}

fn text(row: &Row) -> RowText {
    group(row).map(|row| row.to_string())
}

fn group(row: &Row) -> Result<Value, &'static str> {
    let mut object = Map::with_capacity(row.len());
    for (name, field) in row.get_column_iter() {
        if object.insert(name.clone(), value(field)?).is_some() {
            return Err("two columns have the same name");
        }
    }
    Ok(Value::Object(object))
}

/// The field in JSON. The crate's own conversion panics on dates and decimals beyond what it knows.
fn value(field: &Field) -> Result<Value, &'static str> {
    const NOT_FINITE: &str = "a number is not finite, which JSON cannot say";
    Ok(match field {
        Field::Float16(n) if !f32::from(*n).is_finite() => return Err(NOT_FINITE),
        Field::Float(n) if !n.is_finite() => return Err(NOT_FINITE),
        Field::Double(n) if !n.is_finite() => return Err(NOT_FINITE),
        Field::Decimal(n) if !can_be_written(n) => {
            return Err("a decimal has over 128 bytes, or over 308 digits after its point");
        }
        Field::TimeMillis(n) if *n < 0 => return Err("a time of day is negative"),
        Field::TimeMicros(n) if *n < 0 => return Err("a time of day is negative"),
        Field::TimeMillis(n) => Value::String(time(i64::from(*n), MILLIS)),
        Field::TimeMicros(n) => Value::String(time(*n, MICROS)),
        Field::Date(days) => Value::String(date(i64::from(*days))),
        Field::TimestampMillis(n) => Value::String(timestamp(*n, MILLIS)),
        Field::TimestampMicros(n) => Value::String(timestamp(*n, MICROS)),
        Field::Group(row) => group(row)?,
        Field::ListInternal(list) => {
            Value::Array(list.elements().iter().map(value).collect::<Result<_, _>>()?)
        }
        Field::MapInternal(map) => {
            let mut object = Map::with_capacity(map.len());
            for (key, field) in map.entries() {
                let key = match value(key)? {
                    Value::String(key) => key,
                    key => key.to_string(),
                };
                if object.insert(key, value(field)?).is_some() {
                    return Err("a map has the same key twice");
                }
            }
            Value::Object(object)
        }
        plain => plain.to_json_value(),
    })
}

fn can_be_written(n: &Decimal) -> bool {
    n.data().len() <= MAX_DECIMAL_BYTES
        && (0..=MAX_DECIMAL_SCALE).contains(&n.scale())
        && n.scale() <= n.precision()
}

fn timestamp(n: i64, unit: (i64, usize)) -> String {
    let per_day = 86_400 * unit.0;
    let (days, in_day) = (n.div_euclid(per_day), n.rem_euclid(per_day));
    format!("{} {} +00:00", date(days), time(in_day, unit))
}

fn time(n: i64, (per_second, n_digits): (i64, usize)) -> String {
    let (all_seconds, rest) = (n / per_second, n % per_second);
    let (hours, minutes, seconds) = (all_seconds / 3600, all_seconds / 60 % 60, all_seconds % 60);
    format!("{hours:02}:{minutes:02}:{seconds:02}.{rest:0n_digits$}")
}

/// A day of the Gregorian calendar, from 1970-01-01. Years before 0 and beyond 9999 have a sign.
/// Source: Hinnant, chrono-Compatible Low-Level Date Algorithms, `civil_from_days`.
fn date(days: i64) -> String {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Months from March on, so that the leap day is the last.
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = 400 * era + year_of_era + i64::from(month <= 2);
    if (0..=9999).contains(&year) {
        return format!("{year:04}-{month:02}-{day:02}");
    }
    format!("{year:+05}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(field: &Field, expect: &str) {
        assert_eq!(value(field), Ok(Value::String(expect.to_owned())));
    }

    #[test]
    fn dates_and_times_are_written_whatever_they_are() {
        for field in [
            Field::Date(0),
            Field::Date(-1),
            Field::Date(11_016),
            Field::Date(-719_468),
            Field::Date(3_000_000),
            Field::TimeMillis(86_399_999),
            Field::TimeMicros(1_000_001),
            Field::TimestampMillis(951_782_400_001),
            Field::TimestampMicros(-1),
        ] {
            // As it was while the crate wrote it.
            assert_eq!(value(&field), Ok(field.to_json_value()));
        }
        check(&Field::Date(11_016), "2000-02-29");
        check(&Field::Date(i32::MAX), "+5881580-07-11");
        check(&Field::Date(i32::MIN), "-5877641-06-23");
        check(&Field::TimestampMicros(i64::MAX), "+294247-01-10 04:00:54.775807 +00:00");
        check(&Field::TimestampMicros(i64::MIN), "-290308-12-21 19:59:05.224192 +00:00");
        check(&Field::TimestampMillis(i64::MAX), "+292278994-08-17 07:12:55.807 +00:00");
        assert!(value(&Field::TimeMillis(-1)).is_err());
    }

    #[test]
    fn decimals_that_nobody_can_write_are_told() {
        let decimal = |precision, scale| Field::Decimal(Decimal::from_i32(-1234, precision, scale));
        check(&decimal(4, 2), "-12.34");
        check(&decimal(6, 6), "-0.001234");
        assert!(value(&decimal(i32::MAX, i32::MAX)).is_err());
        assert!(value(&decimal(1, 2)).is_err());
    }
}
