//! What a URL asks for.
//!
//! It must never ignore what it does not know.
//!
//! Start reading at [`Params`].

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use axum::extract::Query;
use axum::http::Uri;
use lm_api::ApiError;

/// Characters of a value that an error shows.
const MAX_SHOWN: usize = 80;

/// The parameters of a URL, each of which is taken once.
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    pub(crate) fn of(uri: &Uri) -> Result<Self, ApiError> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|error| invalid("query", &error.to_string(), "name=value pairs".to_owned()))?;
        Ok(Params(pairs))
    }

    /// The value of `name`, which may be given once; nothing is as if it were not given.
    pub(crate) fn text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        let mut found = None;
        while let Some(i) = self.0.iter().position(|(other, _)| other == name) {
            let value = self.0.swap_remove(i).1;
            if found.replace(value).is_some() {
                return Err(invalid(name, "given twice", "given once".to_owned()));
            }
        }
        Ok(found.filter(|value| !value.is_empty()))
    }

    pub(crate) fn number<T>(
        &mut self,
        name: &str,
        range: RangeInclusive<T>,
    ) -> Result<Option<T>, ApiError>
    where
        T: FromStr + PartialOrd + Display,
    {
        let Some(text) = self.text(name)? else { return Ok(None) };
        match text.parse() {
            Ok(value) if range.contains(&value) => Ok(Some(value)),
            _ => {
                let (least, most) = range.into_inner();
                Err(invalid(name, &text, format!("a number from {least} to {most}")))
            }
        }
    }

    /// Refuses what nobody took.
    pub(crate) fn end(self) -> Result<(), ApiError> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => {
                Err(invalid(name, "given", "left out: nothing has this name".to_owned()))
            }
        }
    }
}

pub(crate) fn invalid(name: &str, found: &str, wanted: String) -> ApiError {
    let short = |text: &str| text.chars().take(MAX_SHOWN).collect::<String>();
    ApiError::Invalid { param: short(name), found: short(found), wanted }
}
