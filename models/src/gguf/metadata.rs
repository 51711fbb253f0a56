//! The key-value part of a GGUF file.
//!
//! It must never know which keys exist: it types values, and families ask for keys.
//!
//! Start reading at [`Metadata`].

use std::collections::BTreeMap;

use super::cursor::Cursor;
use crate::ModelError;

/// Keys longer than this are no keys. GGUF's own limit.
const KEY_LIMIT_BYTES: u64 = 65_535;
/// A chat template is the longest string seen, some tens of KiB.
const STRING_LIMIT_BYTES: u64 = 16 << 20;
/// An array's items; vocabularies of 2^18 are the largest seen.
const ARRAY_LIMIT: u64 = 1 << 24;
const STRING_TYPE: u32 = 8;
const ARRAY_TYPE: u32 = 9;

macro_rules! scalars {
    ($($name:ident($rust:ty) = $number:literal, $text:literal;)*) => {
        /// One value. The names and numbers are GGUF's.
        #[derive(Clone, Debug, PartialEq)]
        #[expect(missing_docs, reason = "the names are GGUF's own")]
        pub enum Value { $($name($rust),)* Bool(bool), String(String), Array(Array) }

        /// Items of one type. An array of arrays is refused when it is read.
        #[derive(Clone, Debug, PartialEq)]
        #[expect(missing_docs, reason = "the names are GGUF's own")]
        pub enum Array { $($name(Vec<$rust>),)* Bool(Vec<bool>), String(Vec<String>) }

        impl Value {
            /// The number of its type in the file.
            pub(super) fn type_number(&self) -> u32 {
                match self {
                    $(Value::$name(_) => $number,)*
                    Value::Bool(_) => 7,
                    Value::String(_) => STRING_TYPE,
                    Value::Array(_) => ARRAY_TYPE,
                }
            }

            /// Its type in words.
            #[must_use]
            pub fn type_name(&self) -> &'static str {
                match self {
                    $(Value::$name(_) => $text,)*
                    Value::Bool(_) => "bool",
                    Value::String(_) => "string",
                    Value::Array(_) => "array",
                }
            }

            /// Appends the value as the file holds it, without its type number.
            pub(super) fn write_to(&self, out: &mut Vec<u8>) {
                match self {
                    $(Value::$name(value) => out.extend(value.to_le_bytes()),)*
                    Value::Bool(value) => out.push(u8::from(*value)),
                    Value::String(value) => write_string(out, value),
                    Value::Array(value) => value.write_to(out),
                }
            }

            fn read(cursor: &mut Cursor<'_>, number: u32, key: &str) -> Result<Value, ModelError> {
                match number {
                    $($number => cursor.array(key).map(<$rust>::from_le_bytes).map(Value::$name),)*
                    7 => read_bool(cursor, key).map(Value::Bool),
                    STRING_TYPE => {
                        let text = cursor.string(STRING_LIMIT_BYTES, key)?;
                        Ok(Value::String(text.to_owned()))
                    }
                    ARRAY_TYPE => Array::read(cursor, key).map(Value::Array),
                    other => Err(unknown_type(key, other)),
                }
            }
        }

        impl Array {
            /// Items.
            #[must_use]
            pub fn len(&self) -> usize {
                match self {
                    $(Array::$name(items) => items.len(),)*
                    Array::Bool(items) => items.len(),
                    Array::String(items) => items.len(),
                }
            }

            fn write_to(&self, out: &mut Vec<u8>) {
                let number: u32 = match self {
                    $(Array::$name(_) => $number,)*
                    Array::Bool(_) => 7,
                    Array::String(_) => STRING_TYPE,
                };
                out.extend(number.to_le_bytes());
                out.extend((self.len() as u64).to_le_bytes());
                match self {
                    $(Array::$name(items) => {
                        items.iter().for_each(|item| out.extend(item.to_le_bytes()));
                    })*
                    Array::Bool(items) => out.extend(items.iter().map(|&item| u8::from(item))),
                    Array::String(items) => items.iter().for_each(|item| write_string(out, item)),
                }
            }

            fn read(cursor: &mut Cursor<'_>, key: &str) -> Result<Array, ModelError> {
                match cursor.u32(key)? {
                    $($number => {
                        const SIZE: usize = size_of::<$rust>();
                        let n_items = cursor.count(SIZE as u64, ARRAY_LIMIT, key)?;
                        let bytes = cursor.take(n_items * SIZE as u64, key)?;
                        let items = bytes.as_chunks::<SIZE>().0.iter();
                        let items = items.map(|item| <$rust>::from_le_bytes(*item));
                        Ok(Array::$name(items.collect()))
                    })*
                    7 => {
                        let n_items = cursor.count(1, ARRAY_LIMIT, key)?;
                        let items = (0..n_items).map(|_| read_bool(cursor, key));
                        items.collect::<Result<_, _>>().map(Array::Bool)
                    }
                    STRING_TYPE => {
                        let n_items = cursor.count(8, ARRAY_LIMIT, key)?;
                        let items = (0..n_items).map(|_| {
                            cursor.string(STRING_LIMIT_BYTES, key).map(str::to_owned)
                        });
                        items.collect::<Result<_, _>>().map(Array::String)
                    }
                    ARRAY_TYPE => {
                        Err(ModelError::unsupported(key, "an array of arrays", "arrays of scalars"))
                    }
                    other => Err(unknown_type(key, other)),
                }
            }
        }
    };
}

scalars! {
    U8(u8) = 0, "u8";
    I8(i8) = 1, "i8";
    U16(u16) = 2, "u16";
    I16(i16) = 3, "i16";
    U32(u32) = 4, "u32";
    I32(i32) = 5, "i32";
    F32(f32) = 6, "f32";
    U64(u64) = 10, "u64";
    I64(i64) = 11, "i64";
    F64(f64) = 12, "f64";
}

fn unknown_type(key: &str, number: u32) -> ModelError {
    ModelError::unsupported(format!("{key}: the value type"), number, "0 to 12")
}

fn read_bool(cursor: &mut Cursor<'_>, key: &str) -> Result<bool, ModelError> {
    match cursor.array::<1>(key)? {
        [0] => Ok(false),
        [1] => Ok(true),
        [other] => Err(ModelError::invalid(key, format!("the byte {other}"), "0 or 1")),
    }
}

pub(super) fn write_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

impl Array {
    /// Whether there are no items.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// All keys and values, sorted by key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    values: BTreeMap<String, Value>,
}

impl Metadata {
    pub(super) fn read(cursor: &mut Cursor<'_>, n_values: u64) -> Result<Metadata, ModelError> {
        let mut values = BTreeMap::new();
        for _ in 0..n_values {
            let key = cursor.string(KEY_LIMIT_BYTES, "a metadata key")?;
            let number = cursor.u32(key)?;
            let value = Value::read(cursor, number, key)?;
            if values.insert(key.to_owned(), value).is_some() {
                return Err(ModelError::Duplicate { what: "metadata key", name: key.to_owned() });
            }
        }
        Ok(Metadata { values })
    }

    /// Adds or replaces a value.
    pub fn set(&mut self, key: &str, value: Value) {
        self.values.insert(key.to_owned(), value);
    }

    /// Keeps the keys that `keep` says yes to.
    pub fn retain(&mut self, mut keep: impl FnMut(&str) -> bool) {
        self.values.retain(|key, _| keep(key));
    }

    /// Every key and value, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.values.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// A whole number of any width.
    ///
    /// # Errors
    /// `Invalid` when the value is of another type or negative.
    pub fn u64(&self, key: &str) -> Result<Option<u64>, ModelError> {
        let number = |value: &Value| match *value {
            Value::U8(v) => Some(u64::from(v)),
            Value::U16(v) => Some(u64::from(v)),
            Value::U32(v) => Some(u64::from(v)),
            Value::U64(v) => Some(v),
            Value::I8(v) => u64::try_from(v).ok(),
            Value::I16(v) => u64::try_from(v).ok(),
            Value::I32(v) => u64::try_from(v).ok(),
            Value::I64(v) => u64::try_from(v).ok(),
            _ => None,
        };
        self.typed(key, "a whole number from 0", number)
    }

    /// A token id, or any number that fits 32 bits.
    ///
    /// # Errors
    /// `Invalid` when the value is of another type or does not fit.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, ModelError> {
        let too_large = |value: u64| ModelError::TooLarge {
            what: key.to_owned(),
            value,
            limit: u64::from(u32::MAX),
        };
        self.u64(key)?.map(|value| u32::try_from(value).map_err(|_| too_large(value))).transpose()
    }

    /// A number with a fraction.
    ///
    /// # Errors
    /// `Invalid` when the value is of another type.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, ModelError> {
        self.typed(key, "a number", |value| match *value {
            Value::F32(v) => Some(v),
            Value::F64(v) => Some(v as f32),
            _ => None,
        })
    }

    /// Yes or no.
    ///
    /// # Errors
    /// `Invalid` when the value is of another type.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, ModelError> {
        self.typed(key, "true or false", |value| match *value {
            Value::Bool(v) => Some(v),
            _ => None,
        })
    }

    /// A text.
    ///
    /// # Errors
    /// `Invalid` when the value is of another type.
    pub fn str(&self, key: &str) -> Result<Option<&str>, ModelError> {
        self.typed(key, "a string", |value| match value {
            Value::String(v) => Some(v.as_str()),
            _ => None,
        })
    }

    /// Several texts.
    ///
    /// # Errors
    /// `Invalid` when the value is of another type.
    pub fn strings(&self, key: &str) -> Result<Option<&[String]>, ModelError> {
        self.typed(key, "an array of strings", |value| match value {
            Value::Array(Array::String(v)) => Some(v.as_slice()),
            _ => None,
        })
    }

    /// Several texts, taken out so that they are held once.
    ///
    /// # Errors
    /// `Invalid` when the value is of another type.
    pub(super) fn take_strings(&mut self, key: &str) -> Result<Option<Vec<String>>, ModelError> {
        self.strings(key)?;
        match self.values.remove(key) {
            Some(Value::Array(Array::String(items))) => Ok(Some(items)),
            _ => Ok(None),
        }
    }

    /// Several numbers with fractions.
    ///
    /// # Errors
    /// `Invalid` when the value is of another type.
    pub fn f32s(&self, key: &str) -> Result<Option<&[f32]>, ModelError> {
        self.typed(key, "an array of f32", |value| match value {
            Value::Array(Array::F32(v)) => Some(v.as_slice()),
            _ => None,
        })
    }

    /// Several whole numbers; writers use both `u32` and `i32` for them.
    ///
    /// # Errors
    /// `Invalid` when the value is of another type or an item is negative.
    pub fn u32s(&self, key: &str) -> Result<Option<Vec<u32>>, ModelError> {
        self.typed(key, "an array of whole numbers from 0", |value| match value {
            Value::Array(Array::U32(v)) => Some(v.clone()),
            Value::Array(Array::I32(v)) => v.iter().map(|&item| u32::try_from(item).ok()).collect(),
            _ => None,
        })
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        wanted: &str,
        get: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ModelError> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        let found = || match value {
            Value::Array(_) | Value::String(_) => format!("of type {}", value.type_name()),
            scalar => format!("{scalar:?}"),
        };
        get(value).map(Some).ok_or_else(|| ModelError::invalid(key, found(), wanted))
    }
}
