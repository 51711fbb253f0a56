//! A record of CSV as a JSON object.
//!
//! It must never guess: a cell is text unless the contract wants a number or a boolean and it reads as one.
//!
//! Start reading at [`Header::row`].

use serde_json::{Map, Number, Value};

/// 2^53: up to it, floats hold all integers.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// The names of the columns, and which of them are not text.
#[derive(Clone, Debug, Default)]
pub(crate) struct Header {
    names: Vec<String>,
    kinds: Vec<Kind>,
}

/// What the contract wants of a cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kind {
    #[default]
    Text,
    Integer,
    Number,
    Boolean,
}

impl Header {
    /// Reads the header line. `kind` says what the contract wants of a column.
    pub(crate) fn new(line: &[u8], kind: impl Fn(&str) -> Kind) -> Result<Header, String> {
        let names = cells(line)?;
        for (i, name) in names.iter().enumerate() {
            if name.is_empty() {
                return Err(format!("column {} has no name", i + 1));
            }
            if names[..i].contains(name) {
                return Err(format!("column {name:?} comes twice"));
            }
        }
        let kinds = names.iter().map(|name| kind(name)).collect();
        Ok(Header { names, kinds })
    }

    /// An empty cell of a column that is not text is `null`.
    pub(crate) fn row(&self, record: &[u8]) -> Result<Value, String> {
        let cells = cells(record)?;
        let (found, wanted) = (cells.len(), self.names.len());
        if found != wanted {
            return Err(format!("{found} cells, but the header names {wanted} columns"));
        }
        let mut row = Map::with_capacity(found);
        for ((name, kind), cell) in self.names.iter().zip(&self.kinds).zip(cells) {
            row.insert(name.clone(), value(cell, *kind));
        }
        Ok(Value::Object(row))
    }
}

/// What does not read as it should stays text, which the schema then refuses by name.
fn value(cell: String, kind: Kind) -> Value {
    let read = match kind {
        Kind::Text => None,
        _ if cell.is_empty() => Some(Value::Null),
        Kind::Integer => cell.parse::<i64>().ok().map(Value::from),
        Kind::Number => number(&cell),
        Kind::Boolean => match cell.as_str() {
            "true" | "True" | "TRUE" => Some(Value::Bool(true)),
            "false" | "False" | "FALSE" => Some(Value::Bool(false)),
            _ => None,
        },
    };
    read.unwrap_or(Value::String(cell))
}

/// An integer that a float does not hold is one all the same, or no number.
fn number(cell: &str) -> Option<Value> {
    let float = cell.parse::<f64>().ok()?;
    let is_integer = cell.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'+' | b'-'));
    if is_integer && float.abs() >= MAX_EXACT {
        return cell.parse::<i64>().ok().map(Value::from);
    }
    Number::from_f64(float).map(Value::Number)
}

fn cells(record: &[u8]) -> Result<Vec<String>, String> {
    let mut reader =
        csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(record);
    let mut cells = csv::StringRecord::new();
    reader.read_record(&mut cells).map_err(|error| error.to_string())?;
    let found = cells.iter().map(str::to_owned).collect();
    // It ends a record at a CR, too, and what comes after it would be lost.
    if reader.read_record(&mut cells).map_err(|error| error.to_string())? {
        return Err("a CR without LF ends the record: lines must end with LF or CRLF".to_owned());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(cell: &str, expect: Value) {
        let header = Header::new(b"x", |_| Kind::Number).unwrap();
        assert_eq!(header.row(cell.as_bytes()).unwrap(), json!({ "x": expect }));
    }

    #[test]
    fn numbers_are_not_rounded_to_other_integers() {
        check("7", json!(7.0));
        check("0.5", json!(0.5));
        check("1e30", json!(1e30));
        check("9007199254740992", json!(9_007_199_254_740_992_i64));
        check("-9007199254740993", json!(-9_007_199_254_740_993_i64));
        check("12345678901234567890123", json!("12345678901234567890123"));
        check("x", json!("x"));
    }
}
