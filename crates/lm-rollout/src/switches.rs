//! The operator's switches: what holds for everybody, whatever rules say.
//!
//! It must never decide by what was read before: others switch, too.
//!
//! Start reading at [`Desk::kill`].

use rusqlite::{OptionalExtension, Transaction};

use crate::audit::{Switched, reason_ok};
use crate::desk::{Changes, Note, Snapshot, insert_rule, json_of, operator_of, put_operator};
use crate::{Desk, Operator, RolloutError};

/// Routes that may answer nothing at once.
const MAX_KILLED: usize = 64;

/// A change that was taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undone {
    /// What was done, and to what.
    pub what: String,
    /// Whether rules are others now.
    pub of_rules: bool,
}

impl Desk {
    /// Lets a route answer nothing from now on. The reason may be empty; it goes into the audit log.
    ///
    /// # Errors
    /// [`RolloutError::Invalid`].
    pub fn kill(
        &mut self,
        route: &str,
        reason: &str,
        who: &str,
        now_ms: i64,
    ) -> Result<Operator, RolloutError> {
        if !route.starts_with('/') || route.len() > 128 {
            let wanted = "a route such as /v1/chat/completions";
            return Err(RolloutError::invalid("route", format!("{route:?}"), wanted));
        }
        self.switch(("kill", route), reason, who, now_ms, |operator| {
            if !operator.killed.iter().any(|killed| killed == route) {
                operator.killed.push(route.to_owned());
            }
            if operator.killed.len() > MAX_KILLED {
                let wanted = format!("at most {MAX_KILLED} routes");
                return Err(RolloutError::invalid("killed", operator.killed.len(), wanted));
            }
            Ok(())
        })
    }

    /// Lets one model or release answer everything from now on. The reason may be empty; it goes into the audit log.
    ///
    /// # Errors
    /// [`RolloutError::Invalid`].
    pub fn pin(
        &mut self,
        target: &str,
        reason: &str,
        who: &str,
        now_ms: i64,
    ) -> Result<Operator, RolloutError> {
        if !(1..=256).contains(&target.len()) {
            let value = format!("{} bytes long", target.len());
            return Err(RolloutError::invalid("pin", value, "a model's name or a release's hash"));
        }
        self.switch(("pin", target), reason, who, now_ms, |operator| {
            operator.pin = Some(target.to_owned());
            Ok(())
        })
    }

    /// Takes the last change back that was not taken back, and those before it one by one when called again. Says which.
    /// The reason may be empty; it goes into the audit log.
    ///
    /// # Errors
    /// [`RolloutError::WrongState`] when there is nothing to take back, [`RolloutError::Invalid`].
    pub fn rollback(
        &mut self,
        reason: &str,
        who: &str,
        now_ms: i64,
    ) -> Result<Undone, RolloutError> {
        reason_ok(reason)?;
        let (read, write) = (self.wrap("read"), self.wrap("write"));
        self.change(who, now_ms, Changes::Back, |t| {
            let last = last_change(t).map_err(read)?.ok_or_else(|| RolloutError::WrongState {
                what: "override",
                id: "history".to_owned(),
                state: "empty".to_owned(),
                wanted: "there is no change to take back",
            })?;
            let before: Snapshot = serde_json::from_str(&last.before)
                .map_err(|error| RolloutError::Unreadable { what: error.to_string() })?;
            restore(t, &before).map_err(write)?;
            let (what, of_rules) = (last.what, before.rules.is_some());
            let detail = if reason.is_empty() { what.clone() } else { format!("{what}: {reason}") };
            let note = Note::of("rollback", &last.id.to_string(), detail);
            Ok((note, Undone { what, of_rules }))
        })
    }

    fn switch(
        &mut self,
        (action, target): (&'static str, &str),
        reason: &str,
        who: &str,
        now_ms: i64,
        change: impl FnOnce(&mut Operator) -> Result<(), RolloutError>,
    ) -> Result<Operator, RolloutError> {
        reason_ok(reason)?;
        let (read, write) = (self.wrap("read"), self.wrap("write"));
        self.change(who, now_ms, Changes::Operator, |t| {
            let mut operator = operator_of(t).map_err(read)?;
            change(&mut operator)?;
            put_operator(t, &operator).map_err(write)?;
            let detail = json_of(&Switched { operator: &operator, reason });
            Ok((Note::of(action, target, detail), operator))
        })
    }
}

/// A change that can be taken back.
struct Last {
    id: i64,
    /// What was done, and to what.
    what: String,
    before: String,
}

/// What was taken back once is not taken back again.
fn last_change(t: &Transaction<'_>) -> rusqlite::Result<Option<Last>> {
    t.query_row(
        "SELECT id, action, target, before FROM audit WHERE before IS NOT NULL AND action <> 'rollback' \
         AND id NOT IN (SELECT CAST(target AS INTEGER) FROM audit WHERE action = 'rollback') \
         ORDER BY id DESC LIMIT 1",
        [],
        |row| {
            let (action, target): (String, String) = (row.get(1)?, row.get(2)?);
            let what = format!("{action} {target}");
            Ok(Last { id: row.get(0)?, what, before: row.get(3)? })
        },
    )
    .optional()
}

fn restore(t: &Transaction<'_>, before: &Snapshot) -> rusqlite::Result<()> {
    if let Some(rules) = &before.rules {
        t.execute("DELETE FROM rule", [])?;
        rules.iter().try_for_each(|standing| insert_rule(t, standing))?;
    }
    before.operator.iter().try_for_each(|operator| put_operator(t, operator))
}
