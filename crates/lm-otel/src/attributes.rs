//! Attributes of spans, as OTLP writes them.

use crate::wire::{AnyValue, ArrayValue, KeyValue, Value};

/// Attributes of one span or event.
#[derive(Debug, Default)]
pub(crate) struct Attributes(pub(crate) Vec<KeyValue>);

impl Attributes {
    pub(crate) fn text(&mut self, key: &str, value: &str) -> &mut Self {
        self.push(key, Value::Text(value.to_owned()))
    }

    pub(crate) fn texts<'a>(
        &mut self,
        key: &str,
        values: impl Iterator<Item = &'a str>,
    ) -> &mut Self {
        let value = |value: &str| AnyValue { value: Some(Value::Text(value.to_owned())) };
        let values = values.map(value).collect();
        self.push(key, Value::Array(ArrayValue { values }))
    }

    pub(crate) fn int(&mut self, key: &str, value: impl Into<i64>) -> &mut Self {
        self.push(key, Value::Int(value.into()))
    }

    pub(crate) fn double(&mut self, key: &str, value: f64) -> &mut Self {
        self.push(key, Value::Double(value))
    }

    /// As a person would write it: 0.7 rather than 0.699999988.
    pub(crate) fn single(&mut self, key: &str, value: f32) -> &mut Self {
        let value = value.to_string().parse().unwrap_or_else(|_| f64::from(value));
        self.double(key, value)
    }

    pub(crate) fn flag(&mut self, key: &str, value: bool) -> &mut Self {
        self.push(key, Value::Bool(value))
    }

    fn push(&mut self, key: &str, value: Value) -> &mut Self {
        let value = Some(AnyValue { value: Some(value) });
        self.0.push(KeyValue { key: key.to_owned(), value });
        self
    }
}
