//! Reads one JSON value and refuses what readers understand differently: an object that names a key twice, and an
//! integer that 64 bits do not hold, which most would round.
//!
//! It must never know schemas.
//!
//! Start reading at [`parse`].

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Why a text is not a JSON value that all readers understand alike.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum JsonError {
    /// Column in bytes from 1; `at` is the byte of the text, from 0.
    Syntax { message: String, column: usize, at: usize },
    /// Where the second one ends: the column in bytes from 1, and the byte of the text from 0.
    DuplicateKey { key: String, column: usize, at: usize },
    /// An integer under -2^63 or over 2^64-1. Where it begins, in the same way.
    LargeInteger { column: usize, at: usize },
}

/// 2^63: only floats are read as large as this, and integers that nothing else holds.
const LEAST_LARGE: f64 = 9_223_372_036_854_775_808.0;

/// The grammar of RFC 8259, and within what it leaves to the reader: nesting deeper than 127 and numbers beyond a 64-bit
/// float are errors, and so are lone surrogates, which no UTF-8 can hold.
pub(crate) fn parse(text: &str) -> Result<Value, JsonError> {
    let seen = Seen::default();
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Seed(&seen).deserialize(&mut deserializer);
    let value = value.and_then(|value| deserializer.end().map(|()| value)).map_err(|error| {
        let (at, column) = place_of(&error, text);
        match seen.duplicate.take() {
            Some(key) => JsonError::DuplicateKey { key, column, at },
            None => {
                let message = error.to_string();
                let place = format!(" at line {} column {}", error.line(), error.column());
                let message = message.strip_suffix(&place).unwrap_or(&message).to_owned();
                JsonError::Syntax { message, column, at }
            }
        }
    })?;
    // Few rows have one, so that few are read twice.
    let large = if seen.is_large.get() { large_integer(text) } else { None };
    let Some(at) = large else { return Ok(value) };
    Err(JsonError::LargeInteger { column: column_of(text, at), at })
}

/// The byte of the text at which an error is, and its column.
fn place_of(error: &serde_json::Error, text: &str) -> (usize, usize) {
    let lines_before = text.split_inclusive('\n').take(error.line().saturating_sub(1));
    let begin: usize = lines_before.map(str::len).sum();
    let at = match error.column() {
        // Where a line end must not be, it is counted as of the line after it.
        0 if !error.is_eof() => begin.saturating_sub(1),
        column => begin + column.saturating_sub(1),
    };
    (at, column_of(text, at))
}

fn column_of(text: &str, at: usize) -> usize {
    let before = &text.as_bytes()[..at.min(text.len())];
    at + 1 - memchr::memrchr(b'\n', before).map_or(0, |end| end + 1)
}

/// Where the first integer of a JSON text begins that 64 bits do not hold.
fn large_integer(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                at += 1;
                while at < bytes.len() && bytes[at] != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            b'-' | b'0'..=b'9' => {
                let is_part = |byte: u8| byte.is_ascii_digit() || b"+-.eE".contains(&byte);
                let n = bytes[at..].iter().take_while(|byte| is_part(**byte)).count();
                let number = &text[at..at + n];
                let is_integer = !number.contains(['.', 'e', 'E']);
                if is_integer && number.parse::<i64>().is_err() && number.parse::<u64>().is_err() {
                    return Some(at);
                }
                at += n;
            }
            _ => at += 1,
        }
    }
    None
}

/// What was seen while a value was built.
#[derive(Default)]
struct Seen {
    /// The first key that comes twice.
    duplicate: Cell<Option<String>>,
    /// A number that may be an integer which was rounded.
    is_large: Cell<bool>,
}

/// Builds a value.
#[derive(Clone, Copy)]
struct Seed<'a>(&'a Seen);

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        self.0.is_large.set(self.0.is_large.get() || value.abs() >= LEAST_LARGE);
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if object.contains_key(&key) {
                self.0.duplicate.set(Some(key));
                return Err(A::Error::custom("duplicate key"));
            }
            object.insert(key, entries.next_value_seed(self)?);
        }
        Ok(Value::Object(object))
    }
}
