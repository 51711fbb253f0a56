//! The rules of columns, made ready for many rows.
//!
//! It must never look at more than one row.
//!
//! Start reading at [`Columns::check`].

use regex::Regex;
use serde_json::Value;

use crate::check::Violation;
use crate::check::contract::{ColumnTerms, Terms};
use crate::check::language;
use crate::ingest::CountTokens;
use lm_privacy::Kind;

/// The rules of all columns.
pub(crate) struct Columns {
    columns: Vec<Column>,
    pub(crate) personal: Vec<Kind>,
}

struct Column {
    name: String,
    terms: ColumnTerms,
    pattern: Option<Regex>,
}

impl Columns {
    /// The field and what is wrong with it, when a rule cannot be understood.
    pub(crate) fn new(terms: &Terms) -> Result<Columns, (String, String)> {
        let mut columns = Vec::with_capacity(terms.columns.len());
        for (name, terms) in &terms.columns {
            let field = |field: &str| format!("columns.{name}.{field}");
            let pattern = terms.pattern.as_deref().map(Regex::new).transpose();
            let pattern = pattern.map_err(|error| (field("pattern"), error.to_string()))?;
            if terms.min > terms.max && terms.max.is_some() {
                return Err((field("min"), "is over max".to_owned()));
            }
            columns.push(Column { name: name.clone(), terms: terms.clone(), pattern });
        }
        let mut personal = Vec::new();
        for name in &terms.text.personal_data {
            let kind = Kind::of(name).ok_or_else(|| {
                let detail = format!("has {name:?}, but knows email, phone, iban and credit_card");
                ("text.personal_data".to_owned(), detail)
            })?;
            personal.push(kind);
        }
        for code in &terms.text.languages {
            language::must_exist(code).map_err(|detail| ("text.languages".to_owned(), detail))?;
        }
        Ok(Columns { columns, personal })
    }

    /// The columns that may be null in some share of the rows: name and share.
    pub(crate) fn null_limits(&self) -> impl Iterator<Item = (usize, &str, f64)> {
        self.columns.iter().enumerate().filter_map(|(i, column)| {
            column.terms.max_null_share.map(|share| (i, column.name.as_str(), share))
        })
    }

    /// Calls `count` with the number of each column that is missing or null.
    pub(crate) fn nulls(&self, row: &Value, mut count: impl FnMut(usize)) {
        for (i, column) in self.columns.iter().enumerate() {
            if column.terms.max_null_share.is_some() && get(row, &column.name).is_none() {
                count(i);
            }
        }
    }

    /// The first rule of a column that the row breaks. A column that is missing breaks none but the schema's.
    pub(crate) fn check(
        &self,
        row: &Value,
        count_tokens: Option<&CountTokens>,
    ) -> Result<(), Violation> {
        for column in &self.columns {
            if let Some(value) = get(row, &column.name) {
                column.check(value, count_tokens)?;
            }
        }
        Ok(())
    }
}

impl Column {
    fn check(&self, value: &Value, count_tokens: Option<&CountTokens>) -> Result<(), Violation> {
        let (name, terms) = (&self.name, &self.terms);
        let refuse = |rule: &str, detail: String| {
            Err(Violation::new(format!("{rule}:{name}"), format!("{name} {detail}")))
        };
        if let Some(number) = value.as_f64() {
            if let Some(min) = terms.min.filter(|min| number < *min) {
                return refuse("range", format!("is under the least, {min}"));
            }
            if let Some(max) = terms.max.filter(|max| number > *max) {
                return refuse("range", format!("is over the most, {max}"));
            }
        }
        if let Some(one_of) = &terms.one_of
            && !one_of.contains(value)
        {
            return refuse("one_of", format!("is none of the {} that may be", one_of.len()));
        }
        let Some(text) = value.as_str() else { return Ok(()) };
        if terms.min_chars.is_some() || terms.max_chars.is_some() {
            let n = text.chars().count() as u64;
            if !within(n, terms.min_chars, terms.max_chars) {
                return refuse("length", format!("has {n} characters"));
            }
        }
        if let Some(count_tokens) = count_tokens
            && (terms.min_tokens.is_some() || terms.max_tokens.is_some())
        {
            let n = count_tokens.count(text);
            if !within(n, terms.min_tokens, terms.max_tokens) {
                return refuse("tokens", format!("has {n} tokens"));
            }
        }
        match &self.pattern {
            Some(pattern) if !pattern.is_match(text) => {
                refuse("pattern", format!("does not match {pattern}"))
            }
            _ => Ok(()),
        }
    }
}

fn within(n: u64, min: Option<u64>, max: Option<u64>) -> bool {
    min.is_none_or(|min| n >= min) && max.is_none_or(|max| n <= max)
}

/// A column's value, unless it is missing or null. A name that begins with `/` is a JSON pointer.
pub(crate) fn get<'a>(row: &'a Value, name: &str) -> Option<&'a Value> {
    let value = if name.starts_with('/') { row.pointer(name) } else { row.get(name) };
    value.filter(|value| !value.is_null())
}
