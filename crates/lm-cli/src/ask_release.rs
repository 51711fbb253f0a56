//! Which release answers: by its digest, by the name of a model or an adapter, or as an arm of an experiment.
//!
//! It must never ask another one than the one that was named.

use serde_json::{Value, json};

use crate::ask::Asker;
use crate::loop_args::AskArgs;
use crate::outcome::WrongUse;

/// The arms that answer clients.
const ARMS: [&str; 2] = ["primary", "candidate"];
/// A shorter beginning of a digest could be a name.
const MIN_DIGITS: usize = 8;

impl<'a> Asker<'a> {
    /// Has a release answer, which the server must serve: the beginning of its digest, the name of a model or an adapter, or
    /// `EXPERIMENT/ARM`.
    pub(crate) fn of_release(args: &'a AskArgs, release: &str) -> anyhow::Result<Asker<'a>> {
        if is_arm(release) {
            let mut asker = Asker::new(args)?;
            asker.arm = Some(release.to_owned());
            asker.must_answer(release)?;
            return Ok(asker);
        }
        let mut asker = Asker::of(args);
        let served = asker.served()?;
        let Some(found) = find(&served, release, args.model.as_deref()) else {
            let names: Vec<String> = served.iter().map(shown).collect();
            return Err(WrongUse(format!(
                "--release is {release}, which {} does not serve; it serves {}",
                args.base_url,
                names.join(", ")
            ))
            .into());
        };
        asker.model = found["id"].as_str().unwrap_or_default().to_owned();
        asker.release = found["release"].as_str().map(str::to_owned);
        Ok(asker)
    }

    /// Asks the arm for one token, so that one that cannot answer is no release that fails.
    fn must_answer(&self, release: &str) -> anyhow::Result<()> {
        let body = json!({
            "model": self.model,
            "messages": [{ "role": "user", "content": "Hello" }],
            "temperature": 0,
            "max_tokens": 1,
        });
        match self.post("/v1/chat/completions", self.arm.as_deref(), &body) {
            Ok(_) => Ok(()),
            Err(error) => {
                let text = format!("--release is {release}, which does not answer: {error}");
                Err(WrongUse(text).into())
            }
        }
    }
}

/// Whether it names an arm; a model's name may have a `/`, too.
pub(crate) fn is_arm(release: &str) -> bool {
    release.rsplit_once('/').is_some_and(|(_, arm)| ARMS.contains(&arm))
}

/// What is served under a name, or else by a release whose digest begins so; of one model only, where one is named.
fn find<'v>(served: &'v [Value], release: &str, model: Option<&str>) -> Option<&'v Value> {
    let mut of_model = served.iter().filter(|one| model.is_none_or(|model| has_name(one, model)));
    let is_by = |one: &&Value| {
        let digest = one["release"].as_str().filter(|_| release.len() >= MIN_DIGITS);
        digest.is_some_and(|digest| digest.starts_with(release))
    };
    of_model.clone().find(|one| has_name(one, release)).or_else(|| of_model.find(is_by))
}

fn has_name(one: &Value, name: &str) -> bool {
    let mut aliases = one["aliases"].as_array().into_iter().flatten();
    one["id"] == name || aliases.any(|alias| alias == name)
}

fn shown(one: &Value) -> String {
    let id = one["id"].as_str().unwrap_or_default();
    match one["release"].as_str() {
        Some(release) => format!("{id} ({release})"),
        None => format!("{id} (not loaded)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_found_by_name_and_by_the_beginning_of_its_digest() {
        let served = [
            json!({ "id": "org/b", "aliases": ["small"], "release": "0123456789abcdef" }),
            json!({ "id": "big", "aliases": [], "release": null }),
        ];
        let found = |release: &str, model| find(&served, release, model).map(|one| &one["id"]);
        let (small, big) = (&served[0]["id"], &served[1]["id"]);
        for name in ["org/b", "small", "01234567", "0123456789abcdef"] {
            assert_eq!(found(name, None), Some(small), "{name}");
        }
        assert_eq!(found("big", None), Some(big));
        for name in ["0123", "0123456789abcdee", "org", ""] {
            assert_eq!(found(name, None), None, "{name}");
        }
        assert_eq!(found("01234567", Some("big")), None);
        assert_eq!(found("01234567", Some("small")), Some(small));
        assert_eq!(served.iter().map(shown).collect::<Vec<_>>()[1], "big (not loaded)");
        assert!(is_arm("polite/candidate") && is_arm("a/b/primary"));
        assert!(!is_arm("org/b") && !is_arm("polite/shadow") && !is_arm("candidate"));
    }
}
