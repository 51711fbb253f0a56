//! Where overrides are kept: rules, the operator's switches, hits, what waits for a person, and who did what.
//!
//! A SQLite file of its own beside the store: people write to it at a terminal while a server runs, which sees by
//! [`Desk::generation`] that something changed.
//!
//! It must never be asked on the way of a request.
//!
//! Start reading at [`Desk::open`], then [`Desk::policy`].

use std::path::{Path, PathBuf};

use rusqlite::{Connection, Row, Transaction, TransactionBehavior, params};
use serde::{Deserialize, Serialize};

use crate::error::database;
use crate::{Operator, Policy, RolloutError, Rule, schema};

/// Rules that there may be.
const MAX_RULES: usize = 1000;

/// The file of overrides.
pub struct Desk {
    pub(crate) connection: Connection,
    path: PathBuf,
}

/// A rule, and how it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// The rule.
    pub rule: Rule,
    /// Unix milliseconds.
    pub added_at_ms: i64,
    /// Who added it.
    pub added_by: String,
    /// When it ends, in Unix milliseconds.
    pub expires_at_ms: i64,
    /// Since when it holds, in Unix milliseconds; `None` is a draft.
    pub published_at_ms: Option<i64>,
}

/// How things stood before a change.
#[derive(Serialize, Deserialize)]
pub(crate) struct Snapshot {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) operator: Option<Operator>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rules: Option<Vec<Standing>>,
}

/// What of it a change may change.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Changes {
    Rules,
    /// A rule that cannot be read is in the way of no switch.
    Operator,
    /// What was taken back is not taken back again.
    Back,
}

/// What the audit log says of a change.
pub(crate) struct Note {
    action: &'static str,
    target: String,
    detail: String,
}

impl Note {
    pub(crate) fn of(action: &'static str, target: &str, detail: String) -> Self {
        Note { action, target: target.to_owned(), detail }
    }
}

impl Standing {
    /// `draft`, `published` or `expired`.
    #[must_use]
    pub fn state(&self, now_ms: i64) -> &'static str {
        match self.published_at_ms {
            _ if self.expires_at_ms <= now_ms => "expired",
            None => "draft",
            Some(_) => "published",
        }
    }
}

impl Desk {
    /// Opens the file, and makes it and its folder when there are none.
    ///
    /// # Errors
    /// [`RolloutError::Foreign`] for another file, [`RolloutError::Database`].
    pub fn open(path: &Path) -> Result<Desk, RolloutError> {
        Ok(Desk { connection: schema::open(path)?, path: path.to_owned() })
    }

    /// The same file once more, for reads that take long.
    ///
    /// # Errors
    /// [`RolloutError::Database`].
    pub fn again(&self) -> Result<Desk, RolloutError> {
        Desk::open(&self.path)
    }

    /// Another number when somebody else wrote to the file.
    ///
    /// # Errors
    /// [`RolloutError::Database`].
    pub fn generation(&self) -> Result<i64, RolloutError> {
        let read = self.connection.pragma_query_value(None, "data_version", |row| row.get(0));
        read.map_err(self.wrap("read"))
    }

    /// What holds now, compiled.
    ///
    /// # Errors
    /// [`RolloutError::Database`], or a rule that this version cannot compile.
    pub fn policy(&self) -> Result<Policy, RolloutError> {
        let rules = self.rules()?;
        let published = rules.iter().filter(|standing| standing.published_at_ms.is_some());
        let published = published.map(|standing| (&standing.rule, standing.expires_at_ms));
        Policy::compile(published, self.operator()?)
    }

    /// Every rule, by id.
    ///
    /// # Errors
    /// [`RolloutError::Database`].
    pub fn rules(&self) -> Result<Vec<Standing>, RolloutError> {
        rules_of(&self.connection).map_err(self.wrap("read"))
    }

    /// One rule.
    ///
    /// # Errors
    /// [`RolloutError::Unknown`], [`RolloutError::Database`].
    pub fn rule(&self, id: &str) -> Result<Standing, RolloutError> {
        Ok(named(&self.rules()?, id)?.clone())
    }

    /// The operator's switches.
    ///
    /// # Errors
    /// [`RolloutError::Database`].
    pub fn operator(&self) -> Result<Operator, RolloutError> {
        operator_of(&self.connection).map_err(self.wrap("read"))
    }

    /// Adds a rule as a draft.
    ///
    /// # Errors
    /// [`RolloutError::Invalid`], [`RolloutError::WrongState`] when there is one of this id.
    pub fn add(&mut self, rule: &Rule, who: &str, now_ms: i64) -> Result<Standing, RolloutError> {
        rule.validate()?;
        let standing = Standing {
            rule: rule.clone(),
            added_at_ms: now_ms,
            added_by: who.to_owned(),
            expires_at_ms: now_ms + rule.span_ms()?,
            published_at_ms: None,
        };
        // A rule that would be one too many is refused before it is kept.
        drop(Policy::compile([(rule, i64::MAX)], Operator::default())?);
        let (read, write) = (self.wrap("read"), self.wrap("write"));
        self.change(who, now_ms, Changes::Rules, |t| {
            let all = rules_of(t).map_err(read)?;
            if all.iter().any(|other| other.rule.id == rule.id) {
                let (id, state) = (rule.id.clone(), "there".to_owned());
                let wanted = "remove it first, or choose another id";
                return Err(RolloutError::WrongState { what: "rule", id, state, wanted });
            }
            if all.len() >= MAX_RULES {
                let wanted = format!("below {MAX_RULES}: remove some");
                return Err(RolloutError::invalid("rules", all.len(), wanted));
            }
            insert_rule(t, &standing).map_err(write)?;
            Ok((Note::of("add", &rule.id, json_of(rule)), ()))
        })?;
        Ok(standing)
    }

    /// Lets a draft hold from now on.
    ///
    /// # Errors
    /// [`RolloutError::Unknown`], [`RolloutError::WrongState`].
    pub fn publish(&mut self, id: &str, who: &str, now_ms: i64) -> Result<Standing, RolloutError> {
        let (read, write) = (self.wrap("read"), self.wrap("write"));
        let all = self.rules()?;
        let refused = |state: &str, wanted| RolloutError::WrongState {
            what: "rule",
            id: id.to_owned(),
            state: state.to_owned(),
            wanted,
        };
        let state = named(&all, id)?.state(now_ms);
        if state != "draft" {
            return Err(refused(state, "only a draft can be published"));
        }
        let holds = |other: &&Standing| other.published_at_ms.is_some() || other.rule.id == id;
        let together = all.iter().filter(holds);
        let together = together.map(|other| (&other.rule, other.expires_at_ms));
        // It may take long, and nobody waits for it who switches.
        drop(Policy::compile(together, Operator::default())?);
        self.change(who, now_ms, Changes::Rules, |t| {
            if rules_of(t).map_err(read)? != all {
                return Err(refused("changed", "somebody changed rules meanwhile: try again"));
            }
            let sql = "UPDATE rule SET published_at_ms = ?2 WHERE id = ?1";
            t.execute(sql, params![id, now_ms]).map_err(write)?;
            Ok((Note::of("publish", id, String::new()), ()))
        })?;
        self.rule(id)
    }

    /// Ends a rule now.
    ///
    /// # Errors
    /// [`RolloutError::Unknown`].
    pub fn expire(&mut self, id: &str, who: &str, now_ms: i64) -> Result<Standing, RolloutError> {
        let (read, write) = (self.wrap("read"), self.wrap("write"));
        self.change(who, now_ms, Changes::Rules, |t| {
            named(&rules_of(t).map_err(read)?, id)?;
            let sql = "UPDATE rule SET expires_at_ms = min(expires_at_ms, ?2) WHERE id = ?1";
            t.execute(sql, params![id, now_ms]).map_err(write)?;
            Ok((Note::of("expire", id, String::new()), ()))
        })?;
        self.rule(id)
    }

    /// Removes a rule. Its hits and its place in the audit log stay.
    ///
    /// # Errors
    /// [`RolloutError::Unknown`].
    pub fn remove(&mut self, id: &str, who: &str, now_ms: i64) -> Result<Standing, RolloutError> {
        let (read, write) = (self.wrap("read"), self.wrap("write"));
        self.change(who, now_ms, Changes::Rules, |t| {
            let standing = named(&rules_of(t).map_err(read)?, id)?.clone();
            t.execute("DELETE FROM rule WHERE id = ?1", [id]).map_err(write)?;
            Ok((Note::of("remove", id, json_of(&standing.rule)), standing))
        })
    }

    /// Changes something and notes it, or neither. What is decided by how things stand is decided in `apply`: others
    /// write to the file, too.
    pub(crate) fn change<T>(
        &mut self,
        who: &str,
        now_ms: i64,
        changes: Changes,
        apply: impl FnOnce(&Transaction<'_>) -> Result<(Note, T), RolloutError>,
    ) -> Result<T, RolloutError> {
        let wrap = self.wrap("write");
        let began = self.connection.transaction_with_behavior(TransactionBehavior::Immediate);
        let transaction = began.map_err(&wrap)?;
        let before = || -> rusqlite::Result<Option<Snapshot>> {
            let nothing = Snapshot { operator: None, rules: None };
            Ok(match changes {
                Changes::Rules => {
                    Some(Snapshot { rules: Some(rules_of(&transaction)?), ..nothing })
                }
                Changes::Operator => {
                    Some(Snapshot { operator: Some(operator_of(&transaction)?), ..nothing })
                }
                Changes::Back => None,
            })
        };
        let before = before().map_err(&wrap)?;
        let (Note { action, target, detail }, done) = apply(&transaction)?;
        let noted = transaction.execute(
            "INSERT INTO audit(at_ms, who, action, target, detail, before) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![now_ms, who, action, target, detail, before.as_ref().map(json_of)],
        );
        noted.and_then(|_| transaction.commit()).map_err(wrap)?;
        Ok(done)
    }

    /// For `map_err`.
    pub(crate) fn wrap(
        &self,
        action: &'static str,
    ) -> impl Fn(rusqlite::Error) -> RolloutError + use<> {
        database(action, &self.path)
    }
}

/// The rule of an id.
fn named<'a>(rules: &'a [Standing], id: &str) -> Result<&'a Standing, RolloutError> {
    let found = rules.iter().find(|standing| standing.rule.id == id);
    found.ok_or_else(|| RolloutError::Unknown { what: "rule", id: id.to_owned() })
}

pub(crate) fn insert_rule(connection: &Connection, standing: &Standing) -> rusqlite::Result<()> {
    let Standing { rule, added_at_ms, added_by, expires_at_ms, published_at_ms } = standing;
    let sql = "INSERT INTO rule(id, body, added_at_ms, added_by, expires_at_ms, published_at_ms) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let row =
        params![rule.id, json_of(rule), added_at_ms, added_by, expires_at_ms, published_at_ms];
    connection.execute(sql, row).map(drop)
}

pub(crate) fn put_operator(connection: &Connection, operator: &Operator) -> rusqlite::Result<()> {
    connection.execute("UPDATE operator SET body = ?1", [json_of(operator)]).map(drop)
}

pub(crate) fn operator_of(connection: &Connection) -> rusqlite::Result<Operator> {
    connection.query_row("SELECT body FROM operator", [], |row| json_at(row, 0))
}

fn rules_of(connection: &Connection) -> rusqlite::Result<Vec<Standing>> {
    connection
        .prepare_cached(
            "SELECT body, added_at_ms, added_by, expires_at_ms, published_at_ms FROM rule ORDER BY id",
        )?
        .query_map([], |row| {
            Ok(Standing {
                rule: json_at(row, 0)?,
                added_at_ms: row.get(1)?,
                added_by: row.get(2)?,
                expires_at_ms: row.get(3)?,
                published_at_ms: row.get(4)?,
            })
        })?
        .collect()
}

pub(crate) fn json_of(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain data serialises: this is a bug")
}

fn json_at<T: for<'de> Deserialize<'de>>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(
            column,
            rusqlite::types::Type::Text,
            Box::new(error),
        )
    })
}
