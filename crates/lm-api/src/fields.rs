//! A JSON object whose fields are taken one by one, so that what is left over is unknown.
//!
//! It must never know which fields there are.
//!
//! Start reading at [`Fields::parse`] and [`Fields::take`].

use std::fmt;
use std::ops::RangeInclusive;

use serde::Deserializer;
use serde::de::{DeserializeSeed, MapAccess, Visitor};
use serde_json::{Map, Value};

use crate::ApiError;
use crate::error::shorten;
use crate::unique::{self, Unique};

/// Warnings that one response carries at most; the last one counts the others.
const MAX_WARNINGS: usize = 16;

/// The fields of one JSON object that nobody took yet.
#[derive(Debug)]
pub(crate) struct Fields {
    /// What stands before a field's name in its path.
    prefix: String,
    left: Map<String, Value>,
}

impl Fields {
    /// Reads a body. The depth is limited to 128 by the JSON library.
    pub(crate) fn parse(body: &[u8]) -> Result<Fields, ApiError> {
        let mut current = None;
        let mut reader = serde_json::Deserializer::from_slice(body);
        let parsed = TopLevel { current: &mut current }.deserialize(&mut reader);
        match parsed.and_then(|left| reader.end().map(|()| left)) {
            Ok(left) => Ok(Fields { prefix: String::new(), left }),
            Err(error) => Err(ApiError::Json {
                param: current.map_or_else(|| "body".to_owned(), |name| shorten(&name)),
                what: shorten_what(&error.to_string()),
            }),
        }
    }

    /// The fields of an object that another API's body was turned into.
    pub(crate) fn of(left: Map<String, Value>) -> Fields {
        Fields { prefix: String::new(), left }
    }

    /// The fields of an object inside of another.
    pub(crate) fn nested(path: &str, value: Value) -> Result<Fields, ApiError> {
        match value {
            Value::Object(left) => Ok(Fields { prefix: format!("{path}."), left }),
            other => Err(ApiError::invalid(path, &other, "an object")),
        }
    }

    /// The field's full path.
    pub(crate) fn path(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Takes a field out. `null` is the same as absent.
    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        self.left.shift_remove(name).filter(|value| !value.is_null())
    }

    pub(crate) fn boolean(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(ApiError::invalid(self.path(name), &other, "true or false")),
        }
    }

    pub(crate) fn string(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(value)) => Ok(Some(value)),
            Some(other) => Err(ApiError::invalid(self.path(name), &other, "a string")),
        }
    }

    pub(crate) fn number(&mut self, name: &str) -> Result<Option<f64>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match value.as_f64() {
            Some(number) => Ok(Some(number)),
            None => Err(ApiError::invalid(self.path(name), &value, "a number")),
        }
    }

    pub(crate) fn integer(
        &mut self,
        name: &str,
        range: RangeInclusive<i64>,
    ) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match value.as_i64().filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => {
                let wanted = format!("an integer from {} to {}", range.start(), range.end());
                Err(ApiError::invalid(self.path(name), &value, wanted))
            }
        }
    }

    /// An integer that fits 32 bits and is at least `least`.
    pub(crate) fn count(&mut self, name: &str, least: u32) -> Result<Option<u32>, ApiError> {
        let found = self.integer(name, i64::from(least)..=i64::from(u32::MAX))?;
        Ok(found.map(|number| u32::try_from(number).expect("the range was checked")))
    }

    /// Whatever is left is unknown: an error in strict mode, else a warning for each.
    pub(crate) fn finish(self, strict: bool, warnings: &mut Warnings) -> Result<(), ApiError> {
        // A null asks for nothing, so nothing would be ignored.
        for (name, _) in self.left.iter().filter(|(_, value)| !value.is_null()) {
            let param = shorten(&self.path(name));
            if strict {
                return Err(ApiError::UnknownField { param });
            }
            warnings.push(format!("unknown field '{param}' was ignored"));
        }
        Ok(())
    }
}

/// A bounded list of warnings.
#[derive(Debug, Default)]
pub(crate) struct Warnings {
    list: Vec<String>,
    n_more: usize,
}

impl Warnings {
    pub(crate) fn push(&mut self, warning: String) {
        if self.list.len() < MAX_WARNINGS {
            self.list.push(warning);
        } else {
            self.n_more += 1;
        }
    }

    pub(crate) fn into_list(mut self) -> Vec<String> {
        if self.n_more > 0 {
            self.list.push(format!("and {} more warnings like these", self.n_more));
        }
        self.list
    }
}

/// Reads the outermost object and remembers where it is, for the error's `param`.
struct TopLevel<'a> {
    current: &'a mut Option<String>,
}

impl<'de> DeserializeSeed<'de> for TopLevel<'_> {
    type Value = Map<String, Value>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for TopLevel<'_> {
    type Value = Map<String, Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = access.next_key::<String>()? {
            *self.current = Some(name.clone());
            let Unique(value) = access.next_value()?;
            unique::insert(&mut fields, name, value)?;
            *self.current = None;
        }
        Ok(fields)
    }
}

/// The library quotes the offending value at the beginning and gives the place at the end.
fn shorten_what(what: &str) -> String {
    match what.rfind(" at line ") {
        Some(at) => format!("{}{}", shorten(&what[..at]), &what[at..]),
        None => shorten(what),
    }
}
