//! A JSON value in which no object gives a key twice.
//!
//! It must never know which keys there are.
//!
//! Start reading at [`Unique`].

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::error::shorten;

/// Reads a value, and fails where an object inside of it repeats a key: readers disagree on which
/// of the two counts, so a filter before the server may have seen the other one.
pub(crate) struct Unique(pub(crate) Value);

/// Adds a field to an object.
///
/// # Errors
/// The field's name when it is there already.
pub(crate) fn insert<E: Error>(
    fields: &mut Map<String, Value>,
    name: String,
    value: Value,
) -> Result<(), E> {
    if fields.contains_key(&name) {
        return Err(E::custom(format_args!("field '{}' is given twice", shorten(&name))));
    }
    fields.insert(name, value);
    Ok(())
}

struct UniqueVisitor;

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        reader.deserialize_any(UniqueVisitor).map(Unique)
    }
}

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Unique(item)) = access.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some((name, Unique(value))) = access.next_entry::<String, Unique>()? {
            insert(&mut fields, name, value)?;
        }
        Ok(Value::Object(fields))
    }
}
