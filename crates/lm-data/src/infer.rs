//! A contract proposed from data: what all rows have in common, for somebody to read and correct.
//!
//! It must never propose a rule that a row it has seen breaks.
//!
//! Start reading at [`infer`].

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::check::contract::{ColumnTerms, NearDuplicates, Terms, TextTerms};
use crate::check::text;
use crate::error::io_error;
use crate::infer_near::NearRows;
use crate::read::convert::{self, CsvHeader, CsvKind};
use crate::read::framer::{Framer, Record};
use crate::read::input::Input;
use crate::read::{Format, parquet_rows};
use crate::{DataError, MAX_ROW_BYTES_LIMIT};

/// A contract that was proposed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inferred {
    /// Rows that were read.
    pub n_rows: u64,
    /// Records that are no rows in any contract.
    pub n_broken: u64,
    /// The contract, in TOML.
    pub contract: String,
}

/// A column may have so many values and be an enumeration.
const MAX_ENUM: usize = 20;
/// Columns beyond are left to the row's text.
const MAX_COLUMNS: usize = 500;
/// Distinct values are followed up to so many.
const MAX_DISTINCT: usize = 200_000;

static SHAPES: LazyLock<Vec<(&str, Regex)>> = LazyLock::new(|| {
    let shapes = [
        r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
        r"^\d{4}-\d{2}-\d{2}$",
        r"^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}:\d{2}(\.\d+)?(Z|[+-]\d{2}:?\d{2})?$",
        r"^https?://\S+$",
        r"^[^@\s]+@[^@\s]+\.[^@\s]+$",
        r"^[A-Za-z]{1,8}[-_]\d+$",
        r"^\d+$",
    ];
    let regex = |shape| Regex::new(shape).expect("the shape is a constant: this is a bug");
    shapes.into_iter().map(|shape| (shape, regex(shape))).collect()
});

/// Reads up to `max_rows` rows of a file and proposes a contract that all of them keep. Reads it twice when it has long
/// texts, so that of a pipe nothing is proposed that compares them.
///
/// # Errors
/// [`DataError::UnknownFormat`], [`DataError::NoRows`], [`DataError::DamagedSource`], [`DataError::Io`].
pub fn infer(path: &Path, format: Option<Format>, max_rows: u64) -> Result<Inferred, DataError> {
    let format = format.map_or_else(|| Format::of(path), Ok)?;
    let mut seen = Seen { from_cells: format == Format::Csv, ..Seen::default() };
    each_row(path, format, max_rows, &mut |row| match row {
        Some(row) => seen.row(row),
        None => seen.n_broken += 1,
    })?;
    if seen.n_rows == 0 {
        return Err(DataError::NoRows { path: path.to_owned(), blank_lines: 0 });
    }
    let mut terms = seen.terms(format);
    if terms.near_duplicates.is_some() && !are_far(path, format, max_rows, &terms)? {
        terms.near_duplicates = None;
    }
    let contract = toml::to_string_pretty(&terms)
        .map_err(|error| io_error("write the contract of", path)(std::io::Error::other(error)))?;
    Ok(Inferred { n_rows: seen.n_rows, n_broken: seen.n_broken, contract })
}

/// Whether no row is a near-duplicate of another one.
fn are_far(path: &Path, format: Format, max_rows: u64, terms: &Terms) -> Result<bool, DataError> {
    if !path.is_file() {
        return Ok(false);
    }
    let mut near = NearRows::new(terms);
    each_row(path, format, max_rows, &mut |row| {
        if let Some(row) = row {
            near.see(row);
        }
    })?;
    Ok(!near.may_be_found())
}

/// Calls `see` with each row, or with nothing for a record that is no row in any contract.
fn each_row(
    path: &Path,
    format: Format,
    max_rows: u64,
    see: &mut dyn FnMut(Option<&Value>),
) -> Result<(), DataError> {
    if format == Format::Parquet {
        let max_rows = usize::try_from(max_rows).unwrap_or(usize::MAX);
        for row in parquet_rows::rows(path, 0)?.take(max_rows) {
            let row = row?.ok().and_then(|text| convert::parse(&text, None).ok());
            see(row.as_ref());
        }
        return Ok(());
    }
    let (input, _) = Input::open(path)?;
    let mut framer = Framer::new(input, format, MAX_ROW_BYTES_LIMIT);
    let mut record = Record::default();
    let mut header = None;
    let mut n_rows = 0;
    while n_rows < max_rows && framer.next_record(&mut record).map_err(io_error("read", path))? {
        if format == Format::Csv && header.is_none() {
            let read = CsvHeader::new(&record.bytes, |_| CsvKind::Text);
            header = Some(read.map_err(|detail| DataError::DamagedSource {
                path: path.to_owned(),
                detail: format!("header: {detail}"),
            })?);
            continue;
        }
        if record.is_blank() {
            continue;
        }
        let is_whole = record.fault.is_none() && !record.too_long;
        let row = is_whole.then(|| convert::convert(format, header.as_ref(), &record).ok());
        let row = row.flatten().map(|(_, row)| row);
        n_rows += u64::from(row.is_some());
        see(row.as_ref());
    }
    Ok(())
}

#[derive(Default)]
struct Seen {
    n_rows: u64,
    n_broken: u64,
    /// Rows that are objects.
    n_objects: u64,
    from_cells: bool,
    /// Some text, nested ones included, breaks a rule of texts.
    any_mojibake: bool,
    any_control: bool,
    any_blank: bool,
    columns: BTreeMap<String, Column>,
    order: Vec<String>,
}

#[derive(Default)]
struct Column {
    n_present: u64,
    n_null: u64,
    kinds: BTreeSet<&'static str>,
    range: Option<(f64, f64)>,
    chars: Option<(u64, u64)>,
    values: BTreeMap<String, u64>,
    hashes: HashSet<u64>,
    is_unique: bool,
    overflowed: bool,
    /// Shapes that some value does not have.
    broken_shapes: BTreeSet<usize>,
    n_texts: u64,
    any_blank: bool,
}

impl Seen {
    fn row(&mut self, row: &Value) {
        self.n_rows += 1;
        text::each_text(row, &[], &mut |_, text| {
            self.any_mojibake |= text::is_mojibake(text);
            self.any_control |= text::has_control(text);
            // Of cells the column says whether the empty ones are texts.
            self.any_blank |= !self.from_cells && text.trim().is_empty();
        });
        let Some(row) = row.as_object() else { return };
        self.n_objects += 1;
        for (name, value) in row {
            if !self.columns.contains_key(name) {
                if self.columns.len() >= MAX_COLUMNS {
                    self.any_blank |= value.as_str().is_some_and(|text| text.trim().is_empty());
                    continue;
                }
                self.order.push(name.clone());
                let column = Column { is_unique: true, ..Column::default() };
                self.columns.insert(name.clone(), column);
            }
            let cell = if self.from_cells { typed(value) } else { None };
            if let Some(column) = self.columns.get_mut(name) {
                column.see(cell.as_ref().unwrap_or(value), value);
            }
        }
    }

    fn terms(&mut self, format: Format) -> Terms {
        if self.from_cells {
            self.columns.values_mut().for_each(Column::settle_cells);
        }
        let is_chat = matches!(format, Format::Chat | Format::Sharegpt);
        let (mojibake, control_chars) = (!self.any_mojibake, !self.any_control);
        let text = TextTerms { mojibake, control_chars, ..TextTerms::default() };
        let mut terms = Terms { format: 1, chat: is_chat, text, ..Terms::default() };
        if self.n_objects < self.n_rows {
            return terms;
        }
        let mut properties = Map::new();
        let mut required = Vec::new();
        let mut texts = Vec::new();
        for name in &self.order {
            let column = &self.columns[name];
            properties.insert(name.clone(), column.schema());
            if column.n_present == self.n_rows {
                required.push(name.clone());
            }
            // Such a name would be taken for a JSON pointer.
            if name.starts_with('/') {
                continue;
            }
            let rules = column.terms(self.n_rows);
            if column.is_key(self.n_rows) {
                terms.unique.push(vec![name.clone()]);
            }
            if column.is_prose() {
                texts.push(name.clone());
            }
            terms.columns.insert(name.clone(), rules);
        }
        // A rule of texts is proposed only where it holds of all of them.
        let any_blank = self.any_blank || self.columns.values().any(|column| column.any_blank);
        terms.text.empty = !any_blank;
        if !texts.is_empty() && self.n_rows >= 100 {
            terms.near_duplicates = Some(NearDuplicates { columns: texts, similarity: 0.95 });
        }
        let mut schema = json!({ "type": "object", "properties": properties });
        if !required.is_empty() {
            schema["required"] = json!(required);
        }
        terms.schema = Some(schema);
        terms
    }
}

/// What a cell of CSV reads as; `None` for text.
fn typed(value: &Value) -> Option<Value> {
    let text = value.as_str()?;
    match text {
        "" => return Some(Value::Null),
        "true" | "false" => return Some(Value::Bool(text == "true")),
        _ => {}
    }
    // A leading zero or plus is part of a name, as of a postcode.
    let has_zero = text.starts_with('0') && text.len() > 1 && !text.starts_with("0.");
    let is_plain = !text.starts_with('+') && !has_zero;
    let integer = text.parse::<i64>().ok().map(Value::from);
    // An integer that 64 bits do not hold is a name.
    let is_float = text.contains(['.', 'e', 'E']);
    let number = || text.parse::<f64>().ok().filter(|n| n.is_finite() && is_float);
    integer.or_else(|| number().map(Value::from)).filter(|_| is_plain)
}

impl Column {
    fn see(&mut self, value: &Value, raw: &Value) {
        self.n_present += 1;
        self.kinds.insert(match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_f64() => "number",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        });
        if value.is_null() {
            self.n_null += 1;
            return;
        }
        if let Some(number) = value.as_f64() {
            let (min, max) = self.range.unwrap_or((number, number));
            self.range = Some((min.min(number), max.max(number)));
        }
        if let Some(text) = raw.as_str() {
            self.n_texts += 1;
            let n = text.chars().count() as u64;
            let (min, max) = self.chars.unwrap_or((n, n));
            self.chars = Some((min.min(n), max.max(n)));
            self.any_blank |= text.trim().is_empty();
            for (i, (_, shape)) in SHAPES.iter().enumerate() {
                if !self.broken_shapes.contains(&i) && !shape.is_match(text) {
                    self.broken_shapes.insert(i);
                }
            }
            if self.values.len() <= MAX_ENUM {
                *self.values.entry(text.to_owned()).or_default() += 1;
            }
        }
        if self.is_unique
            && !self.overflowed
            && !matches!(value, Value::Array(_) | Value::Object(_))
        {
            let hash = blake3::hash(value.to_string().as_bytes());
            let mut half = [0; 8];
            half.copy_from_slice(&hash.as_bytes()[..8]);
            self.is_unique = self.hashes.insert(u64::from_le_bytes(half));
            self.overflowed = self.hashes.len() >= MAX_DISTINCT;
            if !self.is_unique {
                self.hashes = HashSet::new();
            }
        }
    }

    /// What an ingest makes of cells: a column of numbers or of booleans, or else of texts, of which some may be empty.
    fn settle_cells(&mut self) {
        let is_all = |known: &[&str]| {
            let mut kinds = self.kinds.iter().filter(|kind| **kind != "null").peekable();
            kinds.peek().is_some() && kinds.all(|kind| known.contains(kind))
        };
        if is_all(&["integer", "number"]) || is_all(&["boolean"]) {
            return;
        }
        self.kinds = BTreeSet::from(["string"]);
        if self.n_null > 0 {
            *self.values.entry(String::new()).or_default() += self.n_null;
            self.chars = Some((0, self.chars.map_or(0, |(_, max)| max)));
            self.broken_shapes = (0..SHAPES.len()).collect();
            self.n_texts += std::mem::take(&mut self.n_null);
            (self.any_blank, self.is_unique) = (true, false);
        }
    }

    fn schema(&self) -> Value {
        let mut kinds: Vec<&str> = self.kinds.iter().copied().collect();
        if kinds.contains(&"number") {
            kinds.retain(|kind| *kind != "integer");
        }
        match kinds.as_slice() {
            [kind] => json!({ "type": kind }),
            kinds => json!({ "type": kinds }),
        }
    }

    fn is_text(&self) -> bool {
        self.kinds.contains("string")
    }

    fn is_enum(&self) -> bool {
        // Each value must have come often, or it is chance that there are few.
        let often = self.values.values().all(|count| *count >= 5);
        let all_texts = self.n_texts == self.n_present - self.n_null;
        self.is_text() && all_texts && self.values.len() <= MAX_ENUM && often
    }

    fn is_prose(&self) -> bool {
        self.is_text() && self.chars.is_some_and(|(_, max)| max >= 100) && !self.is_enum()
    }

    /// A short value that every row has and that never came twice.
    fn is_key(&self, n_rows: u64) -> bool {
        let is_short = self.chars.is_none_or(|(_, max)| max <= 64);
        let is_plain = !self.kinds.contains("number") && !self.kinds.contains("boolean");
        let is_scalar = !self.kinds.contains("array") && !self.kinds.contains("object");
        let is_whole = self.n_present == n_rows && self.n_null == 0;
        // Beyond what is followed nobody knows.
        let is_unique = self.is_unique && !self.overflowed;
        is_unique && is_short && is_plain && is_scalar && is_whole && n_rows >= 20
    }

    fn terms(&self, n_rows: u64) -> ColumnTerms {
        let mut terms = ColumnTerms::default();
        if let Some((min, max)) = self.range.filter(|_| !self.is_text()) {
            (terms.min, terms.max) = (Some(min), Some(max));
        }
        if self.is_text() {
            let (min, max) = self.chars.unwrap_or((0, 0));
            (terms.min_chars, terms.max_chars) = (Some(min), Some(max));
            let shape = (0..SHAPES.len()).find(|i| !self.broken_shapes.contains(i));
            if self.is_enum() {
                let value = |text: &String| Value::String(text.clone());
                terms.one_of = Some(self.values.keys().map(value).collect());
            } else if let Some(i) = shape.filter(|_| self.n_texts >= 5) {
                terms.pattern = Some(SHAPES[i].0.to_owned());
            }
        }
        let n_missing = n_rows - self.n_present + self.n_null;
        let share = n_missing as f64 / n_rows as f64;
        // Up to the next hundredth, so that the rows it was taken from keep it.
        terms.max_null_share = Some((share * 100.0).ceil() / 100.0);
        terms
    }
}
