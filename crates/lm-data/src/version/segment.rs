//! The rows of a version: immutable Parquet files that are named by their digest.
//!
//! It must never write a row's text in any way but as it came.
//!
//! Start reading at [`Layout`], then [`write()`] and [`Rows`].

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::{Compression, LogicalType, Repetition, Type as PhysicalType};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::record::{Field, reader::RowIter};
use parquet::schema::types::{ColumnPath, Type, TypePtr};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::DataError;
use crate::check::contract::Terms;
use crate::error::io_error;
use crate::home::sync_folder;

/// The column of the row's whole text; it alone is the row, the others are for readers.
pub(crate) const JSON: &str = "_json";
const SOURCE: &str = "_source";
const OFFSET: &str = "_offset";
/// A row group is held in memory while it is written and read.
const GROUP_BYTES: usize = 4 << 20;

/// One file of rows or of quarantined rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// BLAKE3 of the file's bytes, in hexadecimal; also its name.
    pub hash: String,
    /// Rows in it.
    pub n_rows: u64,
    /// Its size.
    pub size_bytes: u64,
}

/// A row with where it came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StoredRow {
    pub(crate) text: String,
    pub(crate) source: String,
    pub(crate) offset_bytes: u64,
    /// 0 when it is read from a version, which does not keep it.
    pub(crate) line: u64,
}

/// The columns of a Parquet file beside the row's text.
pub(crate) struct Layout {
    columns: Vec<(String, Kind)>,
    schema: TypePtr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Integer,
    Number,
    Boolean,
}

impl Layout {
    /// The properties of the contract's schema that are of one plain type.
    pub(crate) fn new(terms: &Terms) -> Layout {
        let properties = terms.schema.as_ref().and_then(|schema| schema.get("properties"));
        let properties = properties.and_then(Value::as_object);
        let mut columns = Vec::new();
        for (name, property) in properties.into_iter().flatten() {
            let reserved = [JSON, SOURCE, OFFSET].contains(&name.as_str());
            if let Some(kind) = kind_of(property).filter(|_| !reserved) {
                columns.push((name.clone(), kind));
            }
        }
        let text = |name: &str, repetition| {
            Type::primitive_type_builder(name, PhysicalType::BYTE_ARRAY)
                .with_logical_type(Some(LogicalType::String))
                .with_repetition(repetition)
                .build()
        };
        let plain = |name: &str, kind, repetition| {
            Type::primitive_type_builder(name, kind).with_repetition(repetition).build()
        };
        let mut fields = vec![
            text(JSON, Repetition::REQUIRED),
            text(SOURCE, Repetition::REQUIRED),
            plain(OFFSET, PhysicalType::INT64, Repetition::REQUIRED),
        ];
        fields.extend(columns.iter().map(|(name, kind)| match kind {
            Kind::Text => text(name, Repetition::OPTIONAL),
            Kind::Integer => plain(name, PhysicalType::INT64, Repetition::OPTIONAL),
            Kind::Number => plain(name, PhysicalType::DOUBLE, Repetition::OPTIONAL),
            Kind::Boolean => plain(name, PhysicalType::BOOLEAN, Repetition::OPTIONAL),
        }));
        let fields = fields.into_iter().map(|field| field.map(Arc::new));
        let fields = fields.collect::<Result<Vec<_>, _>>().expect("plain columns: this is a bug");
        let schema = Type::group_type_builder("row").with_fields(fields).build();
        let schema = schema.expect("a group of columns: this is a bug");
        Layout { columns, schema: Arc::new(schema) }
    }
}

fn kind_of(property: &Value) -> Option<Kind> {
    let kind = match property.get("type")? {
        Value::Array(kinds) => {
            let mut kinds = kinds.iter().filter(|kind| *kind != "null");
            let only = kinds.next()?;
            if kinds.next().is_some() {
                return None;
            }
            only
        }
        kind => kind,
    };
    Some(match kind.as_str()? {
        "string" => Kind::Text,
        "integer" => Kind::Integer,
        "number" => Kind::Number,
        "boolean" => Kind::Boolean,
        _ => return None,
    })
}

/// Writes the rows as an object; the same rows are the same object.
pub(crate) fn write(
    objects: &Path,
    scratch: &Path,
    layout: &Layout,
    rows: &[StoredRow],
) -> Result<Segment, DataError> {
    let to_data = |error: ParquetError| match error {
        ParquetError::External(source) => io_error("write", scratch)(std::io::Error::other(source)),
        other => io_error("write", scratch)(std::io::Error::other(other.to_string())),
    };
    let file = File::create(scratch).map_err(io_error("create", scratch))?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_column_dictionary_enabled(ColumnPath::from(JSON), false)
        .set_column_statistics_enabled(ColumnPath::from(JSON), EnabledStatistics::None)
        .set_created_by("lastmile".to_owned())
        .build();
    let out = BufWriter::new(file);
    let mut writer = SerializedFileWriter::new(out, layout.schema.clone(), Arc::new(properties))
        .map_err(to_data)?;
    let mut rest = rows;
    while !rest.is_empty() {
        let mut size = 0;
        let fits = |row: &&StoredRow| {
            let fits = size < GROUP_BYTES;
            size += row.text.len();
            fits
        };
        let (group, after) = rest.split_at(rest.iter().take_while(fits).count());
        let mut group_writer = writer.next_row_group().map_err(to_data)?;
        write_group(&mut group_writer, layout, group).map_err(to_data)?;
        group_writer.close().map_err(to_data)?;
        rest = after;
    }
    let out = writer.into_inner().map_err(to_data)?;
    let file = out.into_inner().map_err(std::io::IntoInnerError::into_error);
    file.and_then(|file| file.sync_all()).map_err(io_error("write", scratch))?;
    adopt(objects, scratch, "parquet", rows.len() as u64)
}

fn write_group(
    group: &mut SerializedRowGroupWriter<'_, BufWriter<File>>,
    layout: &Layout,
    rows: &[StoredRow],
) -> Result<(), ParquetError> {
    let bytes = |text: &str| ByteArray::from(text.as_bytes().to_vec());
    column::<ByteArrayType>(group, rows.iter().map(|row| Some(bytes(&row.text))), false)?;
    column::<ByteArrayType>(group, rows.iter().map(|row| Some(bytes(&row.source))), false)?;
    let offset = |row: &StoredRow| Some(i64::try_from(row.offset_bytes).unwrap_or(i64::MAX));
    column::<Int64Type>(group, rows.iter().map(offset), false)?;
    if layout.columns.is_empty() {
        return Ok(());
    }
    // What is no JSON here was JSON when it was checked.
    let values: Vec<Value> =
        rows.iter().map(|row| serde_json::from_str(&row.text).unwrap_or_default()).collect();
    for (name, kind) in &layout.columns {
        let cells = values.iter().map(|row| row.get(name));
        match kind {
            Kind::Text => {
                let cell = |cell: Option<&Value>| cell.and_then(Value::as_str).map(bytes);
                column::<ByteArrayType>(group, cells.map(cell), true)?;
            }
            Kind::Integer => {
                // JSON Schema takes 3.0 for an integer.
                let whole = |cell: &Value| {
                    let float = cell.as_f64().filter(|n| n.fract() == 0.0 && n.abs() < 9.0e15);
                    cell.as_i64().or(float.map(|n| n as i64))
                };
                column::<Int64Type>(group, cells.map(|cell| cell.and_then(whole)), true)?;
            }
            Kind::Number => {
                let cell = |cell: Option<&Value>| cell.and_then(Value::as_f64);
                column::<DoubleType>(group, cells.map(cell), true)?;
            }
            Kind::Boolean => {
                let cell = |cell: Option<&Value>| cell.and_then(Value::as_bool);
                column::<BoolType>(group, cells.map(cell), true)?;
            }
        }
    }
    Ok(())
}

fn column<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, BufWriter<File>>,
    cells: impl Iterator<Item = Option<T::T>>,
    optional: bool,
) -> Result<(), ParquetError> {
    let mut values = Vec::new();
    let mut levels = Vec::new();
    for cell in cells {
        levels.push(i16::from(cell.is_some()));
        values.extend(cell);
    }
    let mut writer = group.next_column()?.expect("the layout has this column: this is a bug");
    writer.typed::<T>().write_batch(&values, optional.then_some(&levels[..]), None)?;
    writer.close()
}

/// Gives a finished file its name among the objects.
pub(crate) fn adopt(
    objects: &Path,
    file: &Path,
    extension: &str,
    n_rows: u64,
) -> Result<Segment, DataError> {
    let (hash, size_bytes) = digest(file)?;
    let target = objects.join(format!("{hash}.{extension}"));
    fs::rename(file, &target).map_err(io_error("store as", &target))?;
    sync_folder(objects)?;
    Ok(Segment { hash, n_rows, size_bytes })
}

/// The path of a segment among the objects.
pub(crate) fn object(objects: &Path, segment: &Segment, extension: &str) -> PathBuf {
    objects.join(format!("{}.{extension}", segment.hash))
}

/// The size of a segment's rows before compression, as its file says.
pub(crate) fn plain_bytes(path: &Path) -> Result<u64, DataError> {
    let file = File::open(path).map_err(io_error("open", path))?;
    let reader = SerializedFileReader::new(file)
        .map_err(|error| DataError::Damaged { path: path.to_owned(), detail: error.to_string() })?;
    let groups = reader.metadata().row_groups().iter();
    let sizes = groups.map(|group| u64::try_from(group.total_byte_size()).unwrap_or(u64::MAX));
    Ok(sizes.fold(0, u64::saturating_add))
}

/// The BLAKE3 digest of a file in hexadecimal, and its size.
pub(crate) fn digest(path: &Path) -> Result<(String, u64), DataError> {
    let mut hasher = blake3::Hasher::new();
    File::open(path)
        .and_then(|file| hasher.update_reader(file).map(|_| ()))
        .map_err(io_error("read", path))?;
    Ok((hasher.finalize().to_hex().to_string(), hasher.count()))
}

/// Reads the rows of a segment in order.
pub(crate) struct Rows {
    path: PathBuf,
    rows: RowIter<'static>,
}

impl Rows {
    pub(crate) fn open(path: &Path) -> Result<Rows, DataError> {
        let damaged = |error: ParquetError| DataError::Damaged {
            path: path.to_owned(),
            detail: error.to_string(),
        };
        let file = File::open(path).map_err(io_error("open", path))?;
        let reader = SerializedFileReader::new(file).map_err(damaged)?;
        let schema = reader.metadata().file_metadata().schema();
        let wanted = [JSON, SOURCE, OFFSET];
        let fields = schema.get_fields().iter().filter(|field| wanted.contains(&field.name()));
        if !fields.clone().map(|field| field.name()).eq(wanted) {
            // In another order another column would be taken for the row.
            let detail = "it is no segment of a dataset".to_owned();
            return Err(DataError::Damaged { path: path.to_owned(), detail });
        }
        let projection = Type::group_type_builder("row").with_fields(fields.cloned().collect());
        let projection = projection.build().map_err(damaged)?;
        let rows = RowIter::from_file_into(Box::new(reader));
        let rows = rows.project(Some(projection)).map_err(damaged)?;
        Ok(Rows { path: path.to_owned(), rows })
    }
}

impl Iterator for Rows {
    type Item = Result<StoredRow, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let damaged = |detail: String| DataError::Damaged { path: self.path.clone(), detail };
        Some(match self.rows.next()? {
            Err(error) => Err(damaged(error.to_string())),
            Ok(row) => {
                let mut fields = row.into_columns().into_iter().map(|(_, field)| field);
                match (fields.next(), fields.next(), fields.next()) {
                    (Some(Field::Str(text)), Some(Field::Str(source)), Some(Field::Long(at))) => {
                        let offset_bytes = u64::try_from(at).unwrap_or_default();
                        Ok(StoredRow { text, source, offset_bytes, line: 0 })
                    }
                    _ => Err(damaged("it is no segment of a dataset".to_owned())),
                }
            }
        })
    }
}
