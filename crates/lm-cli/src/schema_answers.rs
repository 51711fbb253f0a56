//! Random documents of a JSON Schema.
//!
//! It must never give one that is not valid: each is checked by a validator, and a schema of which none can be made is refused.
//!
//! Start reading at [`schema_answers`].

use std::path::Path;

use anyhow::Context;
use lastmile::ScriptedAnswer;
use serde_json::{Map, Value, json};

use crate::outcome::WrongUse;

/// Tries for each document.
const TRIES: u64 = 20;
/// Depth from which on only what is required is made.
const DEEP: usize = 6;
/// Depth at which a schema that refers to itself is given up.
const TOO_DEEP: usize = 32;
const WORDS: [&str; 12] = [
    "alpha", "bridge", "cloud", "delta", "ember", "field", "grain", "harbor", "island", "juniper",
    "kernel", "lantern",
];

/// `n` answers that are each a valid document of the schema in a file; the same for the same seed.
pub(crate) fn schema_answers(
    path: &Path,
    n: usize,
    seed: u64,
) -> anyhow::Result<Vec<ScriptedAnswer>> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let wrong = |what: String| WrongUse(format!("--placeholder-schema {}: {what}", path.display()));
    let schema: Value = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    let validator = jsonschema::validator_for(&schema).map_err(|error| wrong(error.to_string()))?;
    let mut draws = Draws { seed, n_drawn: 0 };
    let mut answers = Vec::with_capacity(n);
    let mut problem = String::new();
    for _ in 0..n as u64 * TRIES {
        if answers.len() == n {
            break;
        }
        let Some(value) = draws.value(&schema, &schema, 0) else {
            problem = "it refers to itself without end, or to what it does not hold".to_owned();
            continue;
        };
        match validator.validate(&value) {
            Ok(()) => answers.push(ScriptedAnswer { prompt: None, answer: value.to_string() }),
            Err(error) => problem = format!("{value} is not valid: {error}"),
        }
    }
    if answers.is_empty() {
        return Err(wrong(format!("no valid document could be made; {problem}")).into());
    }
    Ok(answers)
}

/// Random choices.
struct Draws {
    seed: u64,
    n_drawn: u64,
}

impl Draws {
    fn uniform(&mut self) -> f64 {
        self.n_drawn += 1;
        lm_sampler::uniform(self.seed, self.n_drawn)
    }

    /// A whole number from `low` to `high`.
    fn between(&mut self, low: i64, high: i64) -> i64 {
        let span = high.saturating_sub(low).max(0).saturating_add(1);
        low.saturating_add((self.uniform() * span as f64) as i64).min(high.max(low))
    }

    fn pick<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        all.get(self.between(0, all.len() as i64 - 1) as usize)
    }

    /// A document of `schema`, a part of `root`; `None` where none ends.
    fn value(&mut self, schema: &Value, root: &Value, depth: usize) -> Option<Value> {
        if depth > TOO_DEEP || schema == &Value::Bool(false) {
            return None;
        }
        if let Some(reference) = schema["$ref"].as_str() {
            let target = root.pointer(reference.strip_prefix('#')?)?;
            return self.value(target, root, depth + 1);
        }
        if let Some(value) = schema.get("const") {
            return Some(value.clone());
        }
        for (name, is_list) in [("enum", false), ("anyOf", true), ("oneOf", true)] {
            let Some(all) = schema[name].as_array() else { continue };
            let picked = self.pick(all)?.clone();
            return if is_list { self.value(&picked, root, depth + 1) } else { Some(picked) };
        }
        let kind = match &schema["type"] {
            Value::Array(kinds) => self.pick(kinds)?.as_str()?.to_owned(),
            Value::String(kind) => kind.clone(),
            _ if schema["properties"].is_object() => "object".to_owned(),
            _ if schema.get("items").is_some() => "array".to_owned(),
            _ => "string".to_owned(),
        };
        match kind.as_str() {
            "object" => self.object(schema, root, depth),
            "array" => self.array(schema, root, depth),
            "string" => Some(json!(self.text(schema))),
            "integer" => Some(json!(self.integer(schema))),
            "number" => Some(json!(self.number(schema))),
            "boolean" => Some(json!(self.uniform() < 0.5)),
            "null" => Some(Value::Null),
            _ => None,
        }
    }

    fn object(&mut self, schema: &Value, root: &Value, depth: usize) -> Option<Value> {
        let none = Map::new();
        let properties = schema["properties"].as_object().unwrap_or(&none);
        let required: Vec<&str> = schema["required"]
            .as_array()
            .map_or(vec![], |names| names.iter().filter_map(Value::as_str).collect());
        let mut object = Map::new();
        for (name, part) in properties {
            let must = required.contains(&name.as_str());
            if must || (depth < DEEP && self.uniform() < 0.7) {
                object.insert(name.clone(), self.value(part, root, depth + 1)?);
            }
        }
        for name in required.iter().filter(|name| !properties.contains_key(**name)) {
            object.insert((*name).to_owned(), json!(self.pick(&WORDS)?));
        }
        Some(Value::Object(object))
    }

    fn array(&mut self, schema: &Value, root: &Value, depth: usize) -> Option<Value> {
        let least = schema["minItems"].as_i64().unwrap_or(0);
        let most = schema["maxItems"].as_i64().unwrap_or(least.max(1) + 2);
        let n = if depth < DEEP { self.between(least, most) } else { least };
        let any = json!({"type": "string"});
        let items = schema.get("items").filter(|items| items.is_object()).unwrap_or(&any);
        (0..n)
            .map(|_| self.value(items, root, depth + 1))
            .collect::<Option<Vec<_>>>()
            .map(Value::Array)
    }

    fn text(&mut self, schema: &Value) -> String {
        if let Some(known) = formatted(schema["format"].as_str(), self.between(1, 28)) {
            return known;
        }
        let least = schema["minLength"].as_u64().unwrap_or(1) as usize;
        let most = schema["maxLength"].as_u64().map_or(usize::MAX, |n| n as usize);
        let mut text = String::new();
        while text.is_empty() || text.len() < least || self.uniform() < 0.5 {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(WORDS[self.between(0, WORDS.len() as i64 - 1) as usize]);
        }
        text.truncate(most);
        text
    }

    fn integer(&mut self, schema: &Value) -> i64 {
        let (low, high) = bounds(schema, 100.0);
        let step = schema["multipleOf"].as_i64().unwrap_or(1).max(1);
        let above = i64::from(schema["exclusiveMinimum"].is_number());
        let below = i64::from(schema["exclusiveMaximum"].is_number());
        let (low, high) = (low.ceil() as i64 + above, high.floor() as i64 - below);
        let drawn = self.between(low.div_euclid(step), high.div_euclid(step));
        let drawn = drawn.saturating_mul(step);
        if drawn < low { drawn + step } else { drawn }
    }

    fn number(&mut self, schema: &Value) -> f64 {
        let (low, high) = bounds(schema, 100.0);
        let value = low + (high - low) * self.uniform();
        // Two digits read well, as long as they keep the bounds.
        let rounded = (value * 100.0).round() / 100.0;
        if (low..=high).contains(&rounded) { rounded } else { value }
    }
}

fn bounds(schema: &Value, span: f64) -> (f64, f64) {
    let of = |names: [&str; 2]| names.iter().find_map(|name| schema[*name].as_f64());
    let low = of(["minimum", "exclusiveMinimum"]);
    let high = of(["maximum", "exclusiveMaximum"]);
    match (low, high) {
        (Some(low), Some(high)) => (low, high),
        (Some(low), None) => (low, low + span),
        (None, Some(high)) => (high - span, high),
        (None, None) => (0.0, span),
    }
}

/// A text of a format that is often checked.
fn formatted(format: Option<&str>, n: i64) -> Option<String> {
    Some(match format? {
        "date" => format!("2026-02-{n:02}"),
        "time" => format!("10:{n:02}:00Z"),
        "date-time" => format!("2026-02-{n:02}T10:00:00Z"),
        "email" => format!("user{n}@example.com"),
        "uri" => format!("https://example.com/{n}"),
        "uuid" => format!("00000000-0000-4000-8000-0000000000{n:02}"),
        "ipv4" => format!("192.0.2.{n}"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn made(schema: &Value) -> anyhow::Result<Vec<Value>> {
        let name = format!("lm-schema-{}-{:p}.json", std::process::id(), schema);
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, schema.to_string()).unwrap();
        let answers = schema_answers(&path, 40, 3);
        std::fs::remove_file(&path).unwrap();
        Ok(answers?.iter().map(|a| serde_json::from_str(&a.answer).unwrap()).collect())
    }

    #[test]
    fn documents_are_valid_and_differ() {
        let schema = json!({
            "type": "object", "required": ["id", "kind", "parts"], "additionalProperties": false,
            "properties": {
                "id": {"type": "integer", "minimum": 5, "maximum": 90, "multipleOf": 5},
                "kind": {"enum": ["a", "b"]}, "score": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
                "name": {"type": ["string", "null"], "minLength": 3, "maxLength": 9},
                "at": {"type": "string", "format": "date-time"},
                "parts": {"type": "array", "items": {"$ref": "#/$defs/part"}, "minItems": 1, "maxItems": 3},
            },
            "$defs": {"part": {"type": "object", "required": ["n"], "properties": {
                "n": {"oneOf": [{"type": "boolean"}, {"const": 7}]},
                "sub": {"type": "array", "items": {"$ref": "#/$defs/part"}},
            }}},
        });
        let found = made(&schema).unwrap();
        assert_eq!(found.len(), 40);
        let kinds: std::collections::BTreeSet<_> =
            found.iter().map(|value| value["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds.len(), 2);
        assert_eq!(found, made(&schema).unwrap(), "the same seed");
    }

    #[test]
    fn schemas_that_nothing_fits_are_refused() {
        let endless = json!({"$ref": "#"});
        let never = json!({"type": "string", "pattern": "^[0-9]{40}$"});
        for (schema, part) in
            [(endless, "refers"), (never, "not valid"), (json!({"type": 7}), "schema")]
        {
            let error = made(&schema).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
