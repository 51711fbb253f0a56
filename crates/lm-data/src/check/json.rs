//! Reads one JSON value and refuses an object that names a key twice: which of the two counts
//! would depend on the reader.
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
}

/// The grammar of RFC 8259, and within what it leaves to the reader: nesting deeper than 127 and numbers beyond a 64-bit
/// float are errors, and so are lone surrogates, which no UTF-8 can hold.
pub(crate) fn parse(text: &str) -> Result<Value, JsonError> {
    let duplicate = Cell::new(None);
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Seed(&duplicate).deserialize(&mut deserializer);
    value.and_then(|value| deserializer.end().map(|()| value)).map_err(|error| {
        let column = error.column();
        let lines_before = text.split_inclusive('\n').take(error.line().saturating_sub(1));
        let at = lines_before.map(str::len).sum::<usize>() + column.saturating_sub(1);
        match duplicate.take() {
            Some(key) => JsonError::DuplicateKey { key, column, at },
            None => {
                let message = error.to_string();
                let place = format!(" at line {} column {column}", error.line());
                let message = message.strip_suffix(&place).unwrap_or(&message).to_owned();
                JsonError::Syntax { message, column, at }
            }
        }
    })
}

/// Builds a value; the cell takes the first key that comes twice.
#[derive(Clone, Copy)]
struct Seed<'a>(&'a Cell<Option<String>>);

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
                self.0.set(Some(key));
                return Err(A::Error::custom("duplicate key"));
            }
            object.insert(key, entries.next_value_seed(self)?);
        }
        Ok(Value::Object(object))
    }
}
