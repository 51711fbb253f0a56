//! A schema made a little narrower, so that a small or random model ends and every reader can read what it wrote.
//! Each answer still validates against the schema that was given, and where there is such an answer, there is one still.
//!
//! - Numbers lie within ±(10^15 - 1), unless the schema bounds them itself: what is longer, doubles cannot hold. Where
//!   its own bound leaves no room there, within ±9·10^18.
//! - An object has the properties that its schema lists, unless `additionalProperties` says otherwise, or it must have
//!   others.
//! - What is combined with another schema (by `allOf`, or beside `$ref`, `anyOf` and their like) keeps its properties
//!   and items open: the other may list more.
//!
//! It must never know llguidance.
//!
//! Start reading at [`narrow`].

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

/// The greatest magnitude of a number that the schema does not bound.
const GREATEST: i64 = 999_999_999_999_999;
/// The greatest magnitude where the schema's own bound lies beyond that. It fits 64 bits, as grammars need it.
const FARTHEST: i64 = 9_000_000_000_000_000_000;
/// Whoever names no number above this leaves room within [`GREATEST`], however it is combined.
const NEAR: f64 = 1e14;
/// The definition of any value, among the document's own.
const ANY: &str = "lastmile_any_value";
/// Keywords whose value is a schema.
const ONE: [&str; 3] = ["items", "additionalItems", "additionalProperties"];
/// Keywords whose value is a list of schemas.
const LISTS: [&str; 4] = ["anyOf", "allOf", "oneOf", "prefixItems"];
/// Keywords whose value maps names to schemas.
const MAPS: [&str; 4] = ["properties", "patternProperties", "$defs", "definitions"];
/// Keywords by which other schemas say something of the same value.
const OTHERS: [&str; 5] = ["$ref", "allOf", "anyOf", "oneOf", "if"];
/// How often references are followed to further ones before every schema counts as combined.
const MAX_PASSES: usize = 8;

/// Narrows a whole document.
pub(crate) fn narrow(document: &mut Map<String, Value>) {
    Narrowing::default().document(document);
    let definitions = document.entry("$defs").or_insert_with(|| json!({}));
    if let Some(definitions) = definitions.as_object_mut() {
        definitions.insert(ANY.to_owned(), any_value());
    }
}

/// A reference to the definition of any value.
fn any() -> Value {
    json!({ "$ref": format!("#/$defs/{ANY}") })
}

fn any_value() -> Value {
    json!({ "anyOf": [
        { "type": ["null", "boolean", "string"] },
        { "type": "number", "minimum": -GREATEST, "maximum": GREATEST },
        { "type": "array", "items": any() },
        { "type": "object", "additionalProperties": any() },
    ]})
}

/// What must be known of a document to narrow its schemas.
#[derive(Debug, Default)]
struct Narrowing {
    /// What references lead to from places where it is combined with something else.
    combined: BTreeSet<String>,
    /// Every schema counts as combined.
    is_all_combined: bool,
    /// The document names numbers beyond [`NEAR`].
    is_far: bool,
    /// What is combined is known, and schemas are narrowed.
    is_known: bool,
}

impl Narrowing {
    fn document(mut self, document: &mut Map<String, Value>) {
        self.is_far = document.values().any(names_far_numbers);
        self.is_all_combined = (0..MAX_PASSES).all(|_| {
            let n_known = self.combined.len();
            self.visit(document, "#", false);
            self.combined.len() > n_known
        });
        self.is_known = true;
        self.visit(document, "#", false);
    }

    /// Visits the schema at `path`, a JSON pointer as references have it.
    fn visit(&mut self, schema: &mut Map<String, Value>, path: &str, is_combined: bool) {
        let is_combined = is_combined || self.is_all_combined || self.combined.contains(path);
        let n_others = OTHERS.iter().filter(|keyword| schema.contains_key(**keyword)).count();
        let are_combined = is_combined || n_others > 1 || (n_others == 1 && says_itself(schema));
        if let (true, Some(Value::String(target))) = (are_combined, schema.get("$ref")) {
            self.combined.insert(target.clone());
        }
        let is_combined = is_combined || n_others > 0;
        for keyword in MAPS {
            // A definition is combined where a reference to it is.
            let is_combined = is_combined && matches!(keyword, "properties" | "patternProperties");
            if let Some(Value::Object(named)) = schema.get_mut(keyword) {
                for (name, one) in named.iter_mut() {
                    let name = name.replace('~', "~0").replace('/', "~1");
                    self.visit_value(one, &format!("{path}/{keyword}/{name}"), is_combined);
                }
            }
        }
        for keyword in LISTS {
            if let Some(Value::Array(list)) = schema.get_mut(keyword) {
                let is_combined = match keyword {
                    "prefixItems" => is_combined,
                    "allOf" => are_combined || list.len() > 1,
                    _ => are_combined,
                };
                for (i, one) in list.iter_mut().enumerate() {
                    self.visit_value(one, &format!("{path}/{keyword}/{i}"), is_combined);
                }
            }
        }
        for keyword in ONE {
            if let Some(one) = schema.get_mut(keyword) {
                self.visit_value(one, &format!("{path}/{keyword}"), is_combined);
            }
        }
        if self.is_known && !schema.contains_key("const") && !schema.contains_key("enum") {
            // Its other bound may stand in the schema that it is combined with.
            let limits: &[i64] =
                if is_combined && self.is_far { &[FARTHEST] } else { &[GREATEST, FARTHEST] };
            bound(schema, limits);
            if !is_combined {
                close(schema);
            }
        }
    }

    /// A schema of any value gets the one that ends.
    fn visit_value(&mut self, schema: &mut Value, path: &str, is_combined: bool) {
        let says_nothing = match schema {
            Value::Bool(allows) => *allows,
            Value::Object(fields) => fields.keys().all(|name| is_annotation(name)),
            _ => false,
        };
        let is_combined = is_combined || self.is_all_combined || self.combined.contains(path);
        match schema {
            _ if says_nothing && self.is_known && !is_combined => *schema = any(),
            Value::Object(fields) => self.visit(fields, path, is_combined),
            _ => {}
        }
    }
}

/// Bounds a number where its schema does not, by the first of `limits` that leaves room between the two bounds.
fn bound(schema: &mut Map<String, Value>, limits: &[i64]) {
    if !has_type(schema, "number") && !has_type(schema, "integer") {
        return;
    }
    let number = |name: &str| schema.get(name).and_then(Value::as_f64);
    // So much room holds a multiple, or a whole number.
    let room = number("multipleOf").map_or(1.0, |step| step.abs().max(1.0));
    let least = [number("minimum"), number("exclusiveMinimum")].into_iter().flatten();
    let most = [number("maximum"), number("exclusiveMaximum")].into_iter().flatten();
    let (least, most) = (least.reduce(f64::max), most.reduce(f64::min));
    let beyond = |other: Option<f64>| {
        let other = other.unwrap_or(0.0);
        // Far out, doubles do not tell a number from the next one.
        let fits = |limit: &i64| other < *limit as f64 && other + room <= *limit as f64;
        limits.iter().copied().find(fits)
    };
    let (lower, upper) = (beyond(most.map(|most| -most)), beyond(least));
    for (name, exclusive, value) in [
        ("minimum", "exclusiveMinimum", lower.map(|limit| -limit)),
        ("maximum", "exclusiveMaximum", upper),
    ] {
        if let Some(value) = value
            && !schema.contains_key(name)
            && !schema.contains_key(exclusive)
        {
            schema.insert(name.to_owned(), value.into());
        }
    }
}

/// Says of an object and of an array what else they may hold, where the schema does not.
fn close(schema: &mut Map<String, Value>) {
    if has_type(schema, "object") && !schema.contains_key("additionalProperties") {
        let others = if lists_all(schema) { Value::Bool(false) } else { any() };
        schema.insert("additionalProperties".to_owned(), others);
    }
    if has_type(schema, "array") && !schema.contains_key("items") {
        schema.insert("items".to_owned(), any());
    }
}

/// Whether an object needs no other properties than its schema lists.
fn lists_all(schema: &Map<String, Value>) -> bool {
    if schema.contains_key("patternProperties") {
        return true;
    }
    let Some(Value::Object(listed)) = schema.get("properties") else { return false };
    let required = schema.get("required").and_then(Value::as_array);
    let is_listed = |name: &Value| name.as_str().is_none_or(|name| listed.contains_key(name));
    let least = schema.get("minProperties").and_then(Value::as_u64).unwrap_or(0);
    required.is_none_or(|names| names.iter().all(is_listed)) && least <= listed.len() as u64
}

/// Whether a schema says anything of a value besides what other schemas say of it.
fn says_itself(schema: &Map<String, Value>) -> bool {
    let is_silent = |name: &str| {
        is_annotation(name) || matches!(name, "$defs" | "definitions" | "$schema" | "$id")
    };
    schema.keys().any(|name| !is_silent(name) && !OTHERS.contains(&name.as_str()))
}

fn names_far_numbers(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.as_f64().is_none_or(|number| number.abs() > NEAR),
        Value::Array(list) => list.iter().any(names_far_numbers),
        Value::Object(fields) => fields.values().any(names_far_numbers),
        _ => false,
    }
}

fn is_annotation(keyword: &str) -> bool {
    matches!(keyword, "title" | "description" | "default" | "examples" | "$comment")
}

fn has_type(schema: &Map<String, Value>, name: &str) -> bool {
    match schema.get("type") {
        Some(Value::String(only)) => only == name,
        Some(Value::Array(several)) => several.iter().any(|one| one == name),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[track_caller]
    fn check(schema: Value, expect: Value) {
        let mut found = schema.as_object().cloned().unwrap_or_default();
        Narrowing::default().document(&mut found);
        assert_eq!(Value::Object(found), expect);
    }

    #[test]
    fn only_what_is_open_is_narrowed() {
        let (least, most) = (-GREATEST, GREATEST);
        check(
            json!({ "type": "object", "properties": { "a": { "type": "integer", "minimum": 3 } } }),
            json!({
                "type": "object",
                "properties": { "a": { "type": "integer", "minimum": 3, "maximum": most } },
                "additionalProperties": false,
            }),
        );
        check(
            json!({ "type": "object" }),
            json!({ "type": "object", "additionalProperties": any() }),
        );
        check(
            json!({ "anyOf": [{ "type": "number", "exclusiveMaximum": 1 }, { "enum": [1e300] }, {}] }),
            json!({ "anyOf": [
                { "type": "number", "exclusiveMaximum": 1, "minimum": least },
                { "enum": [1e300] },
                any(),
            ] }),
        );
        // A property may be called as a keyword is.
        check(
            json!({ "properties": { "items": { "type": "string" } } }),
            json!({ "properties": { "items": { "type": "string" } } }),
        );
    }

    #[test]
    fn a_bound_leaves_room_beside_the_schemas_own() {
        let number = |fields: Value| {
            let mut schema = json!({ "type": "integer" });
            schema.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            schema
        };
        let both = |given: Value, least: i64, most: i64| {
            let mut expect = number(given.clone());
            expect["minimum"] = given.get("minimum").cloned().unwrap_or(least.into());
            expect["maximum"] = given.get("maximum").cloned().unwrap_or(most.into());
            check(number(given), expect);
        };
        let far = 1_000_000_000_000_000_000_i64;
        both(json!({}), -GREATEST, GREATEST);
        both(json!({ "minimum": GREATEST - 1 }), 0, GREATEST);
        both(json!({ "minimum": GREATEST }), 0, FARTHEST);
        both(json!({ "minimum": far }), 0, FARTHEST);
        both(json!({ "maximum": -far }), -FARTHEST, 0);
        both(json!({ "multipleOf": far }), -FARTHEST, FARTHEST);
        let beyond = number(json!({ "exclusiveMinimum": 9e18 }));
        check(beyond.clone(), beyond);
    }

    #[test]
    fn what_is_combined_stays_open() {
        let object = |name: &str| json!({ "type": "object", "properties": { name: {} } });
        let closed = |name: &str| json!({ "type": "object", "properties": { name: any() }, "additionalProperties": false });
        let same = |schema: Value| check(schema.clone(), schema);
        same(json!({ "allOf": [object("a"), object("b")] }));
        for other in ["allOf", "anyOf", "oneOf"] {
            let mut schema = object("a");
            schema[other] = json!([object("b")]);
            same(schema);
        }
        let mut beside = object("a");
        beside["$ref"] = json!("#/$defs/b");
        beside["$defs"] = json!({ "b": { "$ref": "#/$defs/c~1d" }, "c/d": object("c") });
        same(beside.clone());
        // What nobody combines is closed as before, and so is what stands alone under a description.
        beside["$defs"]["e"] = object("e");
        let mut expect = beside.clone();
        expect["$defs"]["e"] = closed("e");
        check(beside, expect);
        check(
            json!({ "allOf": [object("a")], "description": "a" }),
            json!({ "allOf": [closed("a")], "description": "a" }),
        );
        check(json!({ "anyOf": [object("a")] }), json!({ "anyOf": [closed("a")] }));
        let number = json!({ "type": "number" });
        let bounded = json!({ "type": "number", "minimum": -GREATEST, "maximum": GREATEST });
        let two = |one: &Value, other: Value| json!({ "allOf": [one, other] });
        check(two(&number, json!({ "minimum": 5 })), two(&bounded, json!({ "minimum": 5 })));
        let far = json!({ "type": "number", "minimum": -FARTHEST, "maximum": FARTHEST });
        check(two(&number, json!({ "minimum": 1e18 })), two(&far, json!({ "minimum": 1e18 })));
    }

    #[test]
    fn an_object_that_must_have_more_than_it_lists_may() {
        for more in [json!({ "required": ["a", "b"] }), json!({ "minProperties": 2 })] {
            let mut schema =
                json!({ "type": "object", "properties": { "a": { "type": "string" } } });
            schema.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let mut expect = schema.clone();
            expect["additionalProperties"] = any();
            check(schema, expect);
        }
    }
}
