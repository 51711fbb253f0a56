//! Places in a JSON document: `$.a.b[0].c[*]`.
//!
//! It must never be slower than the document is large.
//!
//! Start reading at [`Path::select`].

use serde_json::Value;

use crate::RolloutError;

/// A place, or several, in a JSON document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Path(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Key(String),
    Index(usize),
    All,
}

const MAX_PARTS: usize = 16;

impl Path {
    pub(crate) fn parse(text: &str) -> Result<Path, RolloutError> {
        let refuse = || {
            let wanted = format!(
                "such as $.messages[0].role or $.messages[*].content, of at most {MAX_PARTS} parts"
            );
            RolloutError::invalid("when.json.path", format!("{text:?}"), wanted)
        };
        let mut rest = text.strip_prefix('$').ok_or_else(refuse)?;
        let mut parts = Vec::new();
        while !rest.is_empty() {
            if parts.len() == MAX_PARTS {
                return Err(refuse());
            }
            if let Some(after) = rest.strip_prefix('.') {
                let end = after.find(['.', '[']).unwrap_or(after.len());
                let key = &after[..end];
                parts.push(match key {
                    "" => return Err(refuse()),
                    "*" => Part::All,
                    key => Part::Key(key.to_owned()),
                });
                rest = &after[end..];
            } else if let Some(after) = rest.strip_prefix('[') {
                let (index, after) = after.split_once(']').ok_or_else(refuse)?;
                parts.push(match index {
                    "*" => Part::All,
                    index => Part::Index(index.parse().map_err(|_| refuse())?),
                });
                rest = after;
            } else {
                return Err(refuse());
            }
        }
        Ok(Path(parts))
    }

    /// What stands there.
    pub(crate) fn select<'a>(&self, document: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![document];
        for part in &self.0 {
            let mut next = Vec::new();
            for value in found {
                match (part, value) {
                    (Part::Key(key), value) => next.extend(value.get(key)),
                    (Part::Index(index), value) => next.extend(value.get(index)),
                    (Part::All, Value::Array(all)) => next.extend(all),
                    (Part::All, Value::Object(all)) => next.extend(all.values()),
                    (Part::All, _) => {}
                }
            }
            found = next;
        }
        found
    }
}
