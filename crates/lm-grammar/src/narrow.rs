//! A schema made a little narrower, so that a small or random model ends and every reader can read what it wrote.
//! Each answer still validates against the schema that was given.
//!
//! - Numbers lie within ±(10^15 - 1), unless the schema bounds them itself: what is longer, doubles cannot hold.
//! - An object has the properties that its schema lists, unless `additionalProperties` says otherwise.
//!
//! It must never know llguidance.
//!
//! Start reading at [`narrow`].

use serde_json::{Map, Value, json};

/// The greatest magnitude of a number that the schema does not bound.
const GREATEST: i64 = 999_999_999_999_999;
/// The definition of any value, among the document's own.
const ANY: &str = "lastmile_any_value";
/// Keywords whose value is a schema.
const ONE: [&str; 3] = ["items", "additionalItems", "additionalProperties"];
/// Keywords whose value is a list of schemas.
const LISTS: [&str; 4] = ["anyOf", "allOf", "oneOf", "prefixItems"];
/// Keywords whose value maps names to schemas.
const MAPS: [&str; 4] = ["properties", "patternProperties", "$defs", "definitions"];

/// Narrows a whole document.
pub(crate) fn narrow(document: &mut Map<String, Value>) {
    visit(document);
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

fn visit(schema: &mut Map<String, Value>) {
    for keyword in MAPS {
        if let Some(Value::Object(named)) = schema.get_mut(keyword) {
            named.values_mut().for_each(visit_value);
        }
    }
    for keyword in LISTS {
        if let Some(Value::Array(list)) = schema.get_mut(keyword) {
            list.iter_mut().for_each(visit_value);
        }
    }
    for keyword in ONE {
        schema.get_mut(keyword).into_iter().for_each(visit_value);
    }
    if schema.contains_key("const") || schema.contains_key("enum") {
        return;
    }
    if has_type(schema, "number") || has_type(schema, "integer") {
        for (bound, exclusive, value) in
            [("minimum", "exclusiveMinimum", -GREATEST), ("maximum", "exclusiveMaximum", GREATEST)]
        {
            if !schema.contains_key(bound) && !schema.contains_key(exclusive) {
                schema.insert(bound.to_owned(), value.into());
            }
        }
    }
    if has_type(schema, "object") && !schema.contains_key("additionalProperties") {
        let is_listed =
            schema.contains_key("properties") || schema.contains_key("patternProperties");
        let others = if is_listed { Value::Bool(false) } else { any() };
        schema.insert("additionalProperties".to_owned(), others);
    }
    if has_type(schema, "array") && !schema.contains_key("items") {
        schema.insert("items".to_owned(), any());
    }
}

/// A schema of any value gets the one that ends.
fn visit_value(schema: &mut Value) {
    match schema {
        Value::Bool(true) => *schema = any(),
        Value::Object(fields) if fields.keys().all(|name| is_annotation(name)) => *schema = any(),
        Value::Object(fields) => visit(fields),
        _ => {}
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
    use super::*;

    #[track_caller]
    fn check(schema: Value, expect: Value) {
        let mut found = schema.as_object().cloned().unwrap_or_default();
        visit(&mut found);
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
}
