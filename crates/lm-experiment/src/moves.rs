//! Where an experiment goes: on, back, or to its end.
//!
//! It must never move without an entry in the audit log.
//!
//! Start reading at [`Book::promote`].

use rusqlite::params;

use crate::book::{json_at, json_of, word};
use crate::{Advice, Book, Experiment, ExperimentError, Forced, Report, Stage, Status, Tally};

impl Book {
    /// Moves an experiment to its next stage, when the evidence carries that and `gate` is no obstacle.
    ///
    /// # Errors
    /// [`ExperimentError::Refused`] with the numbers, unless forced; [`ExperimentError::WrongState`].
    pub fn promote(
        &mut self,
        name: &str,
        gate: Result<(), String>,
        forced: Option<&Forced>,
        who: &str,
        now_ms: i64,
    ) -> Result<Experiment, ExperimentError> {
        let found = self.running(name)?;
        let wanted = "it has no next stage".to_owned();
        let state = || format!("at {}", found.stage);
        let next = found.stage.next().ok_or_else(|| ExperimentError::WrongState {
            name: name.to_owned(),
            state: state(),
            wanted,
        })?;
        forced.map_or(Ok(()), |forced| given("reason", &forced.reason))?;
        let report = Report::of(&found, &self.tally(name)?);
        let obstacle = match (&report.advice, gate) {
            (_, Err(why)) => Some(why),
            (Advice::Promote { .. }, Ok(())) => None,
            (Advice::Hold { why } | Advice::Rollback { why }, Ok(())) => Some(why.clone()),
        };
        let why = match (obstacle, forced) {
            (None, None) => report.advice.why().to_owned(),
            (None, Some(forced)) => format!("{}; {}", report.advice.why(), forced.reason),
            (Some(obstacle), Some(forced)) => format!("forced: {}; {obstacle}", forced.reason),
            (Some(why), None) => {
                return Err(ExperimentError::Refused { name: name.to_owned(), why });
            }
        };
        let detail = format!("{} to {next}: {why}", found.stage);
        self.move_to("promote", &found, next, Status::Running, &why, &detail, who, now_ms)
    }

    /// Lets the primary answer everything again, from now on. What runs is not ended.
    ///
    /// # Errors
    /// [`ExperimentError::WrongState`] when it does not run.
    pub fn rollback(
        &mut self,
        name: &str,
        why: &str,
        who: &str,
        now_ms: i64,
    ) -> Result<Experiment, ExperimentError> {
        let found = self.running(name)?;
        given("reason", why)?;
        let detail = format!("from {}: {why}", found.stage);
        let (stage, status) = (found.stage, Status::RolledBack);
        self.move_to("rollback", &found, stage, status, why, &detail, who, now_ms)
    }

    /// Ends an experiment: requests are answered as without it.
    ///
    /// # Errors
    /// [`ExperimentError::WrongState`] when it does not run.
    pub fn stop(
        &mut self,
        name: &str,
        why: &str,
        who: &str,
        now_ms: i64,
    ) -> Result<Experiment, ExperimentError> {
        let found = self.running(name)?;
        given("reason", why)?;
        let (stage, status) = (found.stage, Status::Stopped);
        self.move_to("stop", &found, stage, status, why, why, who, now_ms)
    }

    fn running(&self, name: &str) -> Result<Experiment, ExperimentError> {
        let found = self.experiment(name)?;
        if found.status == Status::Running {
            return Ok(found);
        }
        let (name, state) = (name.to_owned(), found.status.as_str().replace('_', " "));
        Err(ExperimentError::WrongState { name, state, wanted: "it must be running".to_owned() })
    }

    #[expect(clippy::too_many_arguments, reason = "each is a column")]
    fn move_to(
        &mut self,
        action: &str,
        found: &Experiment,
        stage: Stage,
        status: Status,
        why: &str,
        detail: &str,
        who: &str,
        now_ms: i64,
    ) -> Result<Experiment, ExperimentError> {
        let name = &found.spec.name;
        // A person who takes it back need not know where it is by now.
        let before = (status == Status::Running).then(|| word(&found.stage));
        let mut was_moved = false;
        let changed = self.change(action, name, detail, who, now_ms, |t| {
            // Another process may have moved it meanwhile.
            let n = t.execute(
                "UPDATE experiment SET stage = ?2, status = ?3, why = ?4, stage_at_ms = ?5 \
                 WHERE name = ?1 AND (?6 IS NULL OR stage = ?6) AND status = 'running'",
                params![name, word(&stage), status.as_str(), why, now_ms, before],
            )?;
            if n == 0 {
                was_moved = true;
                return Err(rusqlite::Error::StatementChangedRows(0));
            }
            let sql = "SELECT tally FROM evidence WHERE experiment = ?1";
            let mut tally: Tally = t.query_row(sql, [name], |row| json_at(row, 0))?;
            tally.begin_stage();
            t.execute(
                "UPDATE evidence SET tally = ?2 WHERE experiment = ?1",
                params![name, json_of(&tally)],
            )?;
            if status != Status::Running {
                t.execute("DELETE FROM unit WHERE experiment = ?1", [name])?;
                t.execute("DELETE FROM counted WHERE experiment = ?1", [name])?;
            }
            Ok(())
        });
        if was_moved {
            let (name, state) = (name.clone(), "moved by somebody else".to_owned());
            let wanted = format!("it must be running at {}", found.stage);
            return Err(ExperimentError::WrongState { name, state, wanted });
        }
        changed?;
        self.experiment(name)
    }
}

fn given(field: &str, text: &str) -> Result<(), ExperimentError> {
    match text.trim().is_empty() {
        true => Err(ExperimentError::invalid(field, "empty", "why this is done")),
        false => Ok(()),
    }
}
