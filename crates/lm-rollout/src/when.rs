//! Whether a rule is about a request.
//!
//! It must never allocate for a rule whose route, model or key is another.
//!
//! Start reading at [`Condition::holds`].

use regex::{Regex, RegexBuilder};
use serde_json::Value;

use crate::path::Path;
use crate::subject::Subject;
use crate::{RolloutError, When};

/// Bytes that a compiled regular expression may take.
const MAX_REGEX_BYTES: usize = 1 << 20;
const MAX_ENTRIES: usize = 256;

/// What a rule is about, compiled.
#[derive(Debug)]
pub(crate) struct Condition {
    routes: Vec<String>,
    models: Vec<String>,
    tenants: Vec<String>,
    prompt: Option<Regex>,
    language: Option<String>,
    json: Vec<Test>,
    pub(crate) asked: bool,
}

#[derive(Debug)]
struct Test {
    path: Path,
    equals: Option<Value>,
    matches: Option<Regex>,
}

impl Condition {
    pub(crate) fn compile(when: &When) -> Result<Condition, RolloutError> {
        let lists = [
            ("when.routes", when.routes.len()),
            ("when.models", when.models.len()),
            ("when.tenants", when.tenants.len()),
            ("when.json", when.json.len()),
        ];
        if let Some((field, n)) = lists.into_iter().find(|(_, n)| *n > MAX_ENTRIES) {
            let wanted = format!("at most {MAX_ENTRIES} entries");
            return Err(RolloutError::invalid(field, n, wanted));
        }
        if let Some(route) = when.routes.iter().find(|route| !route.starts_with('/')) {
            let wanted = "routes such as /v1/chat/completions";
            return Err(RolloutError::invalid("when.routes", format!("{route:?}"), wanted));
        }
        if let Some(language) = &when.language {
            lm_data::language_must_exist(language).map_err(|wanted| RolloutError::Unreadable {
                what: format!("when.language {wanted}"),
            })?;
        }
        let regex = |field: &str, pattern: &String| {
            RegexBuilder::new(pattern).size_limit(MAX_REGEX_BYTES).build().map_err(|error| {
                let what = error.to_string().lines().last().unwrap_or_default().to_owned();
                RolloutError::invalid(
                    field,
                    format!("{pattern:?}"),
                    format!("a regular expression ({what})"),
                )
            })
        };
        let test = |test: &crate::JsonTest| {
            if test.equals.is_some() == test.matches.is_some() {
                let wanted = "given with either equals or matches";
                return Err(RolloutError::invalid(
                    "when.json.path",
                    format!("{:?}", test.path),
                    wanted,
                ));
            }
            let matches = test.matches.as_ref().map(|pattern| regex("when.json.matches", pattern));
            Ok(Test {
                path: Path::parse(&test.path)?,
                equals: test.equals.clone(),
                matches: matches.transpose()?,
            })
        };
        Ok(Condition {
            routes: when.routes.clone(),
            models: when.models.clone(),
            tenants: when.tenants.clone(),
            prompt: when
                .prompt
                .as_ref()
                .map(|pattern| regex("when.prompt", pattern))
                .transpose()?,
            language: when.language.clone(),
            json: when.json.iter().map(test).collect::<Result<_, _>>()?,
            asked: when.asked,
        })
    }

    /// Whether all that is given holds, cheap things first. Who asked is not looked at.
    pub(crate) fn holds(&self, subject: &Subject<'_>) -> bool {
        let tenant = subject.tenant.as_deref().unwrap_or("anonymous");
        let is_in =
            |list: &[String], value: &str| list.is_empty() || list.iter().any(|one| one == value);
        let is_by = |route: &&str| !route.is_empty() && is_in(&self.routes, route);
        (self.routes.is_empty() || subject.routes.iter().any(is_by))
            && is_in(&self.models, subject.model)
            && is_in(&self.tenants, tenant)
            && self
                .prompt
                .as_ref()
                .is_none_or(|regex| subject.texts.iter().any(|text| regex.is_match(text)))
            && self.json.iter().all(|test| test.holds(subject.document()))
            && self.language.as_deref().is_none_or(|language| subject.is_in(language))
    }
}

impl Test {
    fn holds(&self, document: &Value) -> bool {
        let holds = |value: &Value| match (&self.equals, &self.matches) {
            (Some(wanted), _) => same(value, wanted),
            (None, Some(regex)) => value.as_str().is_some_and(|text| regex.is_match(text)),
            (None, None) => false,
        };
        self.path.select(document).into_iter().any(holds)
    }
}

/// Whether two values are the same; numbers by their value, as a parameter is kept in fewer digits than it was written in.
fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        #[expect(clippy::float_cmp, reason = "both were rounded the same way")]
        (Some(a), Some(b)) => a as f32 == b as f32,
        _ => a == b,
    }
}
