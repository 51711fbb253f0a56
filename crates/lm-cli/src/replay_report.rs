//! What `lastmile replay` says of each answer, and of all.

use std::fmt::{self, Display, Formatter};

use lastmile::{Runtime, TokenId};
use lm_ops::{Factor, Recorded, Verdict};
use serde::Serialize;

use crate::outcome::error_text;
use crate::restore::Because;

/// Characters of a fact that are shown.
const MAX_FACT_CHARS: usize = 60;
/// Identical answers that are listed one by one.
const MAX_LISTED: usize = 20;

/// One answer.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    id: String,
    choice: u32,
    /// `identical`, `diverged` or `failed`.
    verdict: &'static str,
    /// Tokens that were the same.
    n_tokens: usize,
    /// The first token that differs, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<Token>,
    #[serde(skip_serializing_if = "Option::is_none")]
    got: Option<Token>,
    /// What is not as it was.
    differs: Vec<Factor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    because: Option<Because>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct Token {
    /// `None` where the answer ended.
    id: Option<TokenId>,
    text: String,
}

/// All answers.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    pub(crate) n: usize,
    pub(crate) n_identical: usize,
    pub(crate) n_diverged: usize,
    pub(crate) n_failed: usize,
    answers: Vec<Report>,
}

impl Report {
    pub(crate) fn of(
        runtime: &Runtime,
        recorded: &Recorded,
        verdict: Verdict,
        differs: Vec<Factor>,
        because: Option<Because>,
    ) -> Self {
        let vocab_size = runtime.info().backend.vocab_size;
        let token = |id: Option<TokenId>| Token {
            id,
            text: match id {
                Some(id) if (id as usize) < vocab_size => runtime.token_text(id),
                Some(_) => "(not in the vocabulary)".to_owned(),
                None => "(the end)".to_owned(),
            },
        };
        let (word, n_tokens, at, expected, got) = match verdict {
            Verdict::Identical { n_tokens } => ("identical", n_tokens, None, None, None),
            Verdict::Diverged { at, expected, got } => {
                ("diverged", at, Some(at), Some(token(expected)), Some(token(got)))
            }
        };
        Report {
            id: recorded.id.to_string(),
            choice: recorded.choice,
            verdict: word,
            n_tokens,
            at,
            expected,
            got,
            differs,
            because,
            error: None,
        }
    }

    pub(crate) fn failed(id: impl Display, choice: u32, error: &anyhow::Error) -> Self {
        Report {
            id: id.to_string(),
            choice,
            verdict: "failed",
            n_tokens: 0,
            at: None,
            expected: None,
            got: None,
            differs: Vec::new(),
            because: None,
            error: Some(error_text(error)),
        }
    }
}

impl Summary {
    pub(crate) fn of(answers: Vec<Report>) -> Self {
        let count = |word| answers.iter().filter(|report| report.verdict == word).count();
        Summary {
            n: answers.len(),
            n_identical: count("identical"),
            n_diverged: count("diverged"),
            n_failed: count("failed"),
            answers,
        }
    }
}

impl Display for Summary {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for report in &self.answers {
            if report.verdict != "identical" || self.n <= MAX_LISTED {
                write!(f, "{report}")?;
            }
        }
        if self.n > 1 {
            let Summary { n, n_identical, n_diverged, n_failed, .. } = self;
            writeln!(
                f,
                "{n} answers: {n_identical} identical, {n_diverged} diverged, {n_failed} could not be computed"
            )?;
        }
        Ok(())
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (id, choice) = (&self.id, self.choice);
        match (&self.at, &self.expected, &self.got) {
            (Some(at), Some(expected), Some(got)) => {
                writeln!(
                    f,
                    "diverged at token {at}: expected {expected}, got {got}  ({id}/{choice})"
                )?;
            }
            _ if self.verdict == "failed" => {
                let error = self.error.as_deref().unwrap_or_default();
                writeln!(f, "could not  {id}/{choice}: {error}")?;
            }
            _ => writeln!(f, "identical  {id}/{choice}: {} tokens", self.n_tokens)?,
        }
        for Factor { name, recorded, here } in &self.differs {
            writeln!(f, "  differs  {name}: was {}, is {}", short(recorded), short(here))?;
        }
        self.because.as_ref().map_or(Ok(()), |because| write_because(f, because, &self.differs))
    }
}

fn write_because(f: &mut Formatter<'_>, because: &Because, differs: &[Factor]) -> fmt::Result {
    if !because.repeatable {
        writeln!(f, "  because  the computation is not repeatable here: it drew otherwise twice")?;
    }
    if because.together {
        let causes = because.causes.join(", ");
        writeln!(f, "  because  {causes}: only together as they were make it identical")?;
    }
    for cause in because.causes.iter().filter(|_| !because.together) {
        writeln!(f, "  because  {cause}: as it was, and nothing else changed, it is identical")?;
    }
    if !because.not_restorable.is_empty() {
        let names = because.not_restorable.join(", ");
        writeln!(f, "  unknown  {names} cannot be as it was on this machine")?;
    }
    if because.causes.is_empty() && differs.is_empty() && because.repeatable {
        writeln!(
            f,
            "  because  nothing that is recorded differs, and twice the same was drawn: the record is wrong"
        )?;
    }
    Ok(())
}

impl Display for Token {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.id {
            Some(id) => write!(f, "{id} {:?}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

fn short(fact: &str) -> String {
    let text: String = fact.chars().take(MAX_FACT_CHARS).collect();
    if text.len() < fact.len() { format!("{text:?}…") } else { format!("{text:?}") }
}
