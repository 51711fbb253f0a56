//! Where experiments are kept: what was said, how far each is, the evidence, system prompts, and who did what.
//!
//! A SQLite file of its own beside the store: people write to it at a terminal while a server runs, which sees by
//! [`Book::generation`] that something changed.
//!
//! It must never be asked on the way of a request.
//!
//! Start reading at [`Book::start`]; `moves` has what follows.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, Row, Transaction, TransactionBehavior, params};
use serde::{Deserialize, Serialize};

use crate::error::database;
use crate::{ExperimentError, Live, Report, Spec, Stage, Tally, Variant, schema};

/// Experiments that may run at once.
const MAX_RUNNING: usize = 64;
const MAX_ENTRIES: u32 = 10_000;

/// The file of experiments.
pub struct Book {
    pub(crate) connection: Connection,
    path: PathBuf,
}

/// An experiment, and how it stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Experiment {
    /// What was said; prompts with their versions.
    pub spec: Spec,
    /// How many get the candidate.
    pub stage: Stage,
    /// Whether it goes on.
    pub status: Status,
    /// Why it is where it is.
    pub why: String,
    /// Unix milliseconds.
    pub started_at_ms: i64,
    /// Since when it is in this stage, in Unix milliseconds.
    pub stage_at_ms: i64,
    #[serde(skip)]
    pub(crate) salt: String,
    #[serde(skip)]
    pub(crate) systems: [Option<String>; 2],
}

/// Whether an experiment goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It decides who answers.
    Running,
    /// The primary answers: a guardrail, or a person, took it back.
    RolledBack,
    /// A person ended it.
    Stopped,
}

/// One entry of the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditEntry {
    /// Counted up from 1.
    pub id: i64,
    /// Unix milliseconds.
    pub at_ms: i64,
    /// Who did it.
    pub who: String,
    /// What was done.
    pub action: String,
    /// To which experiment, or prompt.
    pub experiment: String,
    /// What else there is to know.
    pub detail: String,
}

/// A promotion against the evidence, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forced {
    /// Not empty.
    pub reason: String,
}

impl Status {
    /// A stable word for programs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Running => "running",
            Status::RolledBack => "rolled_back",
            Status::Stopped => "stopped",
        }
    }
}

impl Experiment {
    /// As a server needs it; `None` when it does not run.
    #[must_use]
    pub fn live(&self) -> Option<Live> {
        let digest = |variant: &Variant, system: &Option<String>| {
            let text = json_of(&(
                &variant.model,
                &variant.adapter,
                &self.spec.model,
                &variant.params,
                system,
            ));
            blake3::hash(text.as_bytes()).to_hex()[..16].to_owned()
        };
        (self.status == Status::Running).then(|| Live {
            stage: self.stage,
            salt: self.salt.clone(),
            digests: [
                digest(&self.spec.primary, &self.systems[0]),
                digest(&self.spec.candidate, &self.systems[1]),
            ],
            systems: self.systems.clone(),
            spec: self.spec.clone(),
        })
    }
}

impl Book {
    /// Opens the file, and makes it and its folder when there are none.
    ///
    /// # Errors
    /// [`ExperimentError::Foreign`] for another file, [`ExperimentError::Database`].
    pub fn open(path: &Path) -> Result<Book, ExperimentError> {
        Ok(Book { connection: schema::open(path)?, path: path.to_owned() })
    }

    /// Another number when somebody else wrote to the file.
    ///
    /// # Errors
    /// [`ExperimentError::Database`].
    pub fn generation(&self) -> Result<i64, ExperimentError> {
        let read = self.connection.pragma_query_value(None, "data_version", |row| row.get(0));
        read.map_err(self.wrap("read"))
    }

    /// Every experiment, the newest first.
    ///
    /// # Errors
    /// [`ExperimentError::Database`].
    pub fn experiments(&self) -> Result<Vec<Experiment>, ExperimentError> {
        let read = || -> rusqlite::Result<Vec<Experiment>> {
            self.connection
                .prepare_cached(
                    "SELECT spec, salt, stage, status, why, started_at_ms, stage_at_ms, systems \
                     FROM experiment ORDER BY started_at_ms DESC, name",
                )?
                .query_map([], experiment_row)?
                .collect()
        };
        read().map_err(self.wrap("read"))
    }

    /// One experiment.
    ///
    /// # Errors
    /// [`ExperimentError::Unknown`], [`ExperimentError::Database`].
    pub fn experiment(&self, name: &str) -> Result<Experiment, ExperimentError> {
        let found = self.experiments()?.into_iter().find(|one| one.spec.name == name);
        found.ok_or_else(|| ExperimentError::Unknown { what: "experiment", name: name.to_owned() })
    }

    /// What decides who answers now.
    ///
    /// # Errors
    /// [`ExperimentError::Database`].
    pub fn live(&self) -> Result<Vec<Live>, ExperimentError> {
        Ok(self.experiments()?.iter().filter_map(Experiment::live).collect())
    }

    /// Begins an experiment in its first stage. Prompts without a version are taken with their newest.
    ///
    /// # Errors
    /// [`ExperimentError::Invalid`], [`ExperimentError::Unknown`] for a prompt, [`ExperimentError::WrongState`] when
    /// another one is about the same requests.
    pub fn start(
        &mut self,
        spec: &Spec,
        who: &str,
        now_ms: i64,
    ) -> Result<Experiment, ExperimentError> {
        spec.validate()?;
        let mut spec = spec.clone();
        let mut systems = [None, None];
        for (variant, text) in
            [&mut spec.primary, &mut spec.candidate].into_iter().zip(&mut systems)
        {
            if let Some(name) = &variant.system {
                let prompt = self.prompt(name)?;
                variant.system = Some(format!("{}@{}", prompt.name, prompt.version));
                *text = Some(prompt.text);
            }
        }
        let all = self.experiments()?;
        let conflict = |name: &str, state: &str, wanted: &str| ExperimentError::WrongState {
            name: name.to_owned(),
            state: state.to_owned(),
            wanted: wanted.to_owned(),
        };
        if all.iter().any(|other| other.spec.name == spec.name) {
            return Err(conflict(&spec.name, "there", "choose another name; evidence is kept"));
        }
        let running = || all.iter().filter(|other| other.status == Status::Running);
        let shares = |other: &&Experiment| {
            let routes = &other.spec.routes;
            other.spec.model == spec.model && spec.routes.iter().any(|r| routes.contains(r))
        };
        if let Some(other) = running().find(shares) {
            let wanted = "it is about the same requests; stop it first, or choose other routes";
            return Err(conflict(&other.spec.name, "running", wanted));
        }
        if running().count() >= MAX_RUNNING {
            let wanted = format!("below {MAX_RUNNING}: stop some");
            return Err(ExperimentError::invalid("experiments", MAX_RUNNING, wanted));
        }
        let salt = blake3::hash(format!("{} {now_ms} {who}", spec.name).as_bytes()).to_hex();
        let (why, detail) = (spec.reason.clone(), json_of(&spec));
        let evidence = json_of(&Tally::new(&spec));
        self.change("start", &spec.name, &detail, who, now_ms, |t| {
            t.execute(
                "INSERT INTO experiment VALUES (?1, ?2, ?3, ?4, 'running', ?5, ?6, ?6, ?7)",
                params![
                    spec.name,
                    detail,
                    salt.as_str(),
                    word(&spec.from),
                    why,
                    now_ms,
                    json_of(&systems)
                ],
            )?;
            t.execute(
                "INSERT INTO evidence VALUES (?1, 0, ?2, ?3)",
                params![spec.name, now_ms, evidence],
            )
            .map(drop)
        })?;
        self.experiment(&spec.name)
    }

    /// What is known of an experiment.
    ///
    /// # Errors
    /// [`ExperimentError::Unknown`], [`ExperimentError::Database`].
    pub fn report(&self, name: &str) -> Result<Report, ExperimentError> {
        Ok(Report::of(&self.experiment(name)?, &self.tally(name)?))
    }

    /// The audit log, newest first; of one experiment when it is given. At most 10,000 entries.
    ///
    /// # Errors
    /// [`ExperimentError::Database`].
    pub fn audit(
        &self,
        experiment: Option<&str>,
        limit: u32,
    ) -> Result<Vec<AuditEntry>, ExperimentError> {
        let read = || -> rusqlite::Result<Vec<AuditEntry>> {
            self.connection
                .prepare_cached(
                    "SELECT id, at_ms, who, action, experiment, detail FROM audit \
                     WHERE ?1 IS NULL OR experiment = ?1 ORDER BY id DESC LIMIT ?2",
                )?
                .query_map(params![experiment, limit.min(MAX_ENTRIES)], |row| {
                    Ok(AuditEntry {
                        id: row.get(0)?,
                        at_ms: row.get(1)?,
                        who: row.get(2)?,
                        action: row.get(3)?,
                        experiment: row.get(4)?,
                        detail: row.get(5)?,
                    })
                })?
                .collect()
        };
        read().map_err(self.wrap("read"))
    }

    pub(crate) fn tally(&self, name: &str) -> Result<Tally, ExperimentError> {
        let sql = "SELECT tally FROM evidence WHERE experiment = ?1";
        let read = self.connection.query_row(sql, [name], |row| json_at(row, 0));
        read.map_err(self.wrap("read"))
    }

    /// Changes something and notes it, or neither.
    pub(crate) fn change(
        &mut self,
        action: &str,
        experiment: &str,
        detail: &str,
        who: &str,
        now_ms: i64,
        apply: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()>,
    ) -> Result<(), ExperimentError> {
        let wrap = self.wrap("write");
        let done = || {
            let transaction =
                self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            apply(&transaction)?;
            transaction.execute(
                "INSERT INTO audit(at_ms, who, action, experiment, detail) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![now_ms, who, action, experiment, detail],
            )?;
            transaction.commit()
        };
        done().map_err(wrap)
    }

    /// For `map_err`.
    pub(crate) fn wrap(
        &self,
        action: &'static str,
    ) -> impl Fn(rusqlite::Error) -> ExperimentError + use<> {
        database(action, &self.path)
    }
}

fn experiment_row(row: &Row<'_>) -> rusqlite::Result<Experiment> {
    let of_word = |column: usize| -> rusqlite::Result<serde_json::Value> {
        Ok(serde_json::Value::String(row.get(column)?))
    };
    let unknown = |column: usize, error: serde_json::Error| {
        rusqlite::Error::FromSqlConversionFailure(
            column,
            rusqlite::types::Type::Text,
            Box::new(error),
        )
    };
    Ok(Experiment {
        spec: json_at(row, 0)?,
        salt: row.get(1)?,
        stage: serde_json::from_value(of_word(2)?).map_err(|error| unknown(2, error))?,
        status: serde_json::from_value(of_word(3)?).map_err(|error| unknown(3, error))?,
        why: row.get(4)?,
        started_at_ms: row.get(5)?,
        stage_at_ms: row.get(6)?,
        systems: json_at(row, 7)?,
    })
}

/// A stage's stable word.
pub(crate) fn word(stage: &Stage) -> String {
    json_of(stage).trim_matches('"').to_owned()
}

pub(crate) fn json_of(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain data serialises: this is a bug")
}

pub(crate) fn json_at<T: for<'de> Deserialize<'de>>(
    row: &Row<'_>,
    column: usize,
) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(
            column,
            rusqlite::types::Type::Text,
            Box::new(error),
        )
    })
}
