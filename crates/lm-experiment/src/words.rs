//! The words that an experiment is said with: how complex an arm is, who moves it, its stages, and its units.
//!
//! Start reading at [`Stage`].

use serde::{Deserialize, Serialize};

use crate::spec::is_name;

/// How complex an arm is: the simplest first.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// A rule answers.
    Rule,
    /// A cache answers.
    Cache,
    /// A small model.
    #[default]
    Small,
    /// A small model with retrieval.
    SmallRetrieval,
    /// A large model.
    Large,
    /// Several models.
    Ensemble,
}

/// Who moves an experiment on. Back it always moves by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Promote {
    /// A person.
    #[default]
    Manual,
    /// The evidence, where no gate needs a person.
    Automatic,
}

/// How many get the candidate.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum Stage {
    /// Nobody; it answers copies of requests in idle slots.
    #[default]
    #[serde(rename = "shadow")]
    Shadow,
    /// 1 %.
    #[serde(rename = "1")]
    One,
    /// 5 %.
    #[serde(rename = "5")]
    Five,
    /// 25 %.
    #[serde(rename = "25")]
    Quarter,
    /// 50 %.
    #[serde(rename = "50")]
    Half,
    /// Everybody, but for a holdback.
    #[serde(rename = "100")]
    All,
}

/// What keeps to its arm.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum UnitBy {
    /// The API key; without one, the request.
    Key,
    /// The `user` of the request, else its key, else the request.
    #[default]
    User,
    /// The conversation: key, user and first message of the user.
    Conversation,
    /// Each request alone.
    Request,
    /// A header of the request; without it, the request.
    Header(String),
}

impl Tier {
    /// A stable word for programs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Tier::Rule => "rule",
            Tier::Cache => "cache",
            Tier::Small => "small",
            Tier::SmallRetrieval => "small-retrieval",
            Tier::Large => "large",
            Tier::Ensemble => "ensemble",
        }
    }
}

impl Stage {
    /// All, the smallest first.
    pub const ALL: [Stage; 6] =
        [Stage::Shadow, Stage::One, Stage::Five, Stage::Quarter, Stage::Half, Stage::All];

    /// The candidate's share, in percent, where there is no holdback: see [`crate::Spec::percent_at`].
    #[must_use]
    pub fn percent(self) -> u8 {
        match self {
            Stage::Shadow => 0,
            Stage::One => 1,
            Stage::Five => 5,
            Stage::Quarter => 25,
            Stage::Half => 50,
            Stage::All => 100,
        }
    }

    /// The one after; `None` after all.
    #[must_use]
    pub fn next(self) -> Option<Stage> {
        Stage::ALL.into_iter().find(|stage| *stage > self)
    }
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Stage::Shadow => f.pad("shadow"),
            other => f.pad(&format!("{} %", other.percent())),
        }
    }
}

impl TryFrom<String> for UnitBy {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match (text.as_str(), text.strip_prefix("header:")) {
            ("key", _) => Ok(UnitBy::Key),
            ("user", _) => Ok(UnitBy::User),
            ("conversation", _) => Ok(UnitBy::Conversation),
            ("request", _) => Ok(UnitBy::Request),
            (_, Some(name)) if is_name(name) => Ok(UnitBy::Header(name.to_ascii_lowercase())),
            _ => Err(format!(
                "unit is {text:?}, but must be key, user, conversation, request or header:NAME"
            )),
        }
    }
}

impl From<UnitBy> for String {
    fn from(unit: UnitBy) -> String {
        match unit {
            UnitBy::Key => "key".to_owned(),
            UnitBy::User => "user".to_owned(),
            UnitBy::Conversation => "conversation".to_owned(),
            UnitBy::Request => "request".to_owned(),
            UnitBy::Header(name) => format!("header:{name}"),
        }
    }
}
