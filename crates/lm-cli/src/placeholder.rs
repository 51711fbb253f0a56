//! From what was said of a placeholder on the command line to its options, with the answers that it is to tell.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use lastmile::{
    ChatMessage, PlaceholderMode, PlaceholderOptions, PlaceholderScript, Prompt, Role,
    ScriptedAnswer,
};
use serde_json::Value;

use crate::calibrate::read_costs;
use crate::outcome::WrongUse;
use crate::schema_answers::schema_answers;
use crate::traffic::recorded;

/// Recorded answers that `mode=replay` tells.
const MAX_RECORDED: usize = 10_000;
/// Documents that `mode=schema` chooses from.
const N_DOCUMENTS: usize = 256;

/// What a placeholder needs besides the text after `placeholder:`.
#[derive(Clone, Debug, Args)]
pub(crate) struct PlaceholderFiles {
    /// A placeholder's steps take as long as this file says; `placeholder calibrate` writes it.
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    pub(crate) placeholder_costs: Option<PathBuf>,
    /// The JSON Schema of what `placeholder:mode=schema` answers.
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    pub(crate) placeholder_schema: Option<PathBuf>,
}

impl PlaceholderFiles {
    pub(crate) fn is_given(&self) -> bool {
        self.placeholder_costs.is_some() || self.placeholder_schema.is_some()
    }
}

/// The options of `text`, such as `mode=echo,delay_us=200`.
pub(crate) fn placeholder_options(
    text: &str,
    files: &PlaceholderFiles,
) -> anyhow::Result<PlaceholderOptions> {
    let wrong = |what: String| anyhow::Error::from(WrongUse(what));
    let options = text.parse::<PlaceholderOptions>();
    let mut options = options.map_err(|error| wrong(error.to_string()))?;
    if let Some(path) = &files.placeholder_costs {
        if !options.costs.is_zero() {
            let what = "costs are given both by --placeholder-costs and behind placeholder:";
            return Err(wrong(what.to_owned()));
        }
        options.costs = read_costs(path)?;
    }
    let answers = match (options.mode, &files.placeholder_schema) {
        (PlaceholderMode::Replay, _) => replayed()?,
        (PlaceholderMode::Schema, Some(path)) => schema_answers(path, N_DOCUMENTS, options.seed)?,
        (PlaceholderMode::Schema, None) => {
            let what = "--placeholder-schema is absent, but placeholder:mode=schema needs it";
            return Err(wrong(what.to_owned()));
        }
        (_, Some(_)) => {
            let what =
                "--placeholder-schema is given, but the model is not placeholder:mode=schema";
            return Err(wrong(what.to_owned()));
        }
        (_, None) => vec![],
    };
    options.script = PlaceholderScript(Arc::new(answers));
    Ok(options)
}

/// What this home's store recorded.
fn replayed() -> anyhow::Result<Vec<ScriptedAnswer>> {
    let all = recorded(MAX_RECORDED)?;
    let answer = |traffic: &lm_ops::Traffic| {
        Ok(ScriptedAnswer { prompt: prompt(&traffic.prompt)?, answer: traffic.output_text.clone() })
    };
    all.iter().map(answer).collect()
}

/// A prompt as the store keeps it; `None` for token ids, which are of another vocabulary.
fn prompt(stored: &Value) -> anyhow::Result<Option<Prompt>> {
    if let Some(text) = stored["text"].as_str() {
        return Ok(Some(Prompt::Text(text.to_owned())));
    }
    let Some(messages) = stored["messages"].as_array() else { return Ok(None) };
    let message = |message: &Value| {
        let roles = [Role::System, Role::User, Role::Assistant, Role::Tool, Role::Developer];
        let role = message["role"].as_str()?;
        let role = roles.into_iter().find(|known| known.as_str() == role)?;
        Some(ChatMessage { role, content: message["content"].as_str()?.to_owned() })
    };
    let messages: Option<Vec<ChatMessage>> = messages.iter().map(message).collect();
    let messages = messages.context("a recorded message has no role or content that is known")?;
    Ok(Some(Prompt::Chat(messages)))
}
