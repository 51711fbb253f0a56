//! Requests that wait for a person.
//!
//! It must never keep a prompt longer than somebody may answer it.
//!
//! Start reading at [`Desk::enqueue`].

use rusqlite::{OptionalExtension, Row, TransactionBehavior, params};
use serde::Serialize;
use serde_json::Value;

use crate::{Desk, RolloutError};

/// Requests that may wait at once.
const MAX_WAITING: u64 = 1000;
/// The same of one key.
const MAX_OF_TENANT: u64 = MAX_WAITING / 10;
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// A request for a person.
#[derive(Clone, Debug, PartialEq)]
pub struct NewItem {
    /// The request's id.
    pub id: String,
    /// Whose it is; `None` came without a key.
    pub tenant: Option<String>,
    /// The rule, or `user`.
    pub rule: String,
    /// What was asked.
    pub prompt: Value,
    /// Until when, in Unix milliseconds.
    pub deadline_ms: i64,
    /// What is answered when nobody did by then.
    pub canned: String,
}

/// A request that waits for a person, or no more.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Item {
    /// The request's id.
    pub id: String,
    /// Whose it is; `None` came without a key.
    pub tenant: Option<String>,
    /// The rule, or `user`.
    pub rule: String,
    /// What was asked; `None` once it is answered or late.
    pub prompt: Option<Value>,
    /// Unix milliseconds.
    pub queued_at_ms: i64,
    /// Until when, in Unix milliseconds.
    pub deadline_ms: i64,
    /// What became of it.
    pub state: ItemState,
    /// What is answered, once something is.
    pub answer: Option<String>,
    /// Who answered.
    pub answered_by: Option<String>,
}

/// What became of a request for a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ItemState {
    /// Nobody answered yet.
    Waiting,
    /// Somebody did.
    Answered,
    /// Nobody did in time: the canned answer holds.
    Late,
}

impl Desk {
    /// Lets the requests of one sender wait, all or none.
    ///
    /// # Errors
    /// [`RolloutError::QueueFull`], [`RolloutError::Database`].
    pub fn enqueue(&mut self, new: &[NewItem], now_ms: i64) -> Result<(), RolloutError> {
        let wrap = self.wrap("write");
        let Some(tenant) = new.first().map(|item| &item.tenant) else { return Ok(()) };
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(&wrap)?;
        let (waiting, own): (i64, i64) = transaction
            .query_row(
                "SELECT count(*), count(*) FILTER (WHERE tenant IS ?2) FROM queue \
                 WHERE answered_at_ms IS NULL AND deadline_ms > ?1",
                params![now_ms, tenant],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .map_err(&wrap)?;
        let n_new = new.len() as u64;
        let is_over = |waiting: i64, limit| waiting.cast_unsigned() + n_new > limit;
        if tenant.is_some() && is_over(own, MAX_OF_TENANT) {
            let (waiting, limit) = (own.cast_unsigned(), MAX_OF_TENANT);
            return Err(RolloutError::QueueFull { waiting, limit });
        }
        if is_over(waiting, MAX_WAITING) {
            let (waiting, limit) = (waiting.cast_unsigned(), MAX_WAITING);
            return Err(RolloutError::QueueFull { waiting, limit });
        }
        let sql = "UPDATE queue SET prompt = NULL WHERE prompt IS NOT NULL AND deadline_ms <= ?1";
        transaction.execute(sql, [now_ms]).map_err(&wrap)?;
        for new in new {
            let prompt = new.prompt.to_string();
            let NewItem { id, tenant, rule, deadline_ms, canned, .. } = new;
            transaction
                .execute(
                    "INSERT INTO queue(id, tenant, rule, prompt, queued_at_ms, deadline_ms, canned) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                    params![id, tenant, rule, prompt, now_ms, deadline_ms, canned],
                )
                .map_err(&wrap)?;
        }
        transaction.commit().map_err(&wrap)
    }

    /// A request for a person.
    ///
    /// # Errors
    /// [`RolloutError::Unknown`], [`RolloutError::Database`].
    pub fn item(&self, id: &str, now_ms: i64) -> Result<Item, RolloutError> {
        let sql = format!("{SELECT} WHERE id = ?1");
        let found = self.connection.query_row(&sql, [id], |row| item_row(row, now_ms)).optional();
        let found = found.map_err(self.wrap("read"))?;
        found.ok_or_else(|| RolloutError::Unknown { what: "queue item", id: id.to_owned() })
    }

    /// What waits, what is due first first.
    ///
    /// # Errors
    /// [`RolloutError::Database`].
    pub fn waiting(&self, now_ms: i64) -> Result<Vec<Item>, RolloutError> {
        let sql = format!(
            "{SELECT} WHERE answered_at_ms IS NULL AND deadline_ms > ?1 ORDER BY deadline_ms, id"
        );
        let read = || -> rusqlite::Result<Vec<Item>> {
            self.connection
                .prepare_cached(&sql)?
                .query_map([now_ms], |row| item_row(row, now_ms))?
                .collect()
        };
        read().map_err(self.wrap("read"))
    }

    /// Answers a request that waits, by its id or the beginning of it.
    ///
    /// # Errors
    /// [`RolloutError::Unknown`], [`RolloutError::WrongState`] when it is answered or late.
    pub fn answer(
        &mut self,
        id: &str,
        text: &str,
        who: &str,
        now_ms: i64,
    ) -> Result<Item, RolloutError> {
        if !(1..=MAX_ANSWER_BYTES).contains(&text.len()) {
            let value = format!("{} bytes long", text.len());
            let wanted = format!("1 to {MAX_ANSWER_BYTES} bytes long");
            return Err(RolloutError::invalid("text", value, wanted));
        }
        let n_rows = self
            .connection
            .execute(
                "UPDATE queue SET answered_at_ms = ?2, answered_by = ?3, answer = ?4, prompt = NULL \
                 WHERE id = ?1 AND answered_at_ms IS NULL AND deadline_ms > ?2",
                params![id, now_ms, who, text],
            )
            .map_err(self.wrap("write"))?;
        let item = self.item(id, now_ms)?;
        if n_rows == 0 {
            let state = match item.state {
                ItemState::Late => "late: its canned answer holds",
                _ => "answered already",
            };
            let (id, wanted) = (id.to_owned(), "only what waits can be answered");
            return Err(RolloutError::WrongState {
                what: "queue item",
                id,
                state: state.to_owned(),
                wanted,
            });
        }
        self.connection
            .execute(
                "INSERT INTO audit(at_ms, who, action, target, detail) VALUES (?1, ?2, 'answer', ?3, '')",
                params![now_ms, who, id],
            )
            .map_err(self.wrap("write"))?;
        Ok(item)
    }
}

const SELECT: &str = "SELECT id, tenant, rule, prompt, queued_at_ms, deadline_ms, canned, answer, \
                      answered_by FROM queue";

fn item_row(row: &Row<'_>, now_ms: i64) -> rusqlite::Result<Item> {
    let (deadline_ms, canned, answer): (i64, String, Option<String>) =
        (row.get(5)?, row.get(6)?, row.get(7)?);
    let state = match &answer {
        Some(_) => ItemState::Answered,
        None if deadline_ms <= now_ms => ItemState::Late,
        None => ItemState::Waiting,
    };
    let prompt: Option<String> = row.get(3)?;
    let prompt = prompt.filter(|_| state == ItemState::Waiting);
    Ok(Item {
        id: row.get(0)?,
        tenant: row.get(1)?,
        rule: row.get(2)?,
        prompt: prompt.and_then(|text| serde_json::from_str(&text).ok()),
        queued_at_ms: row.get(4)?,
        deadline_ms,
        state,
        answer: answer.or_else(|| (state == ItemState::Late).then_some(canned)),
        answered_by: row.get(8)?,
    })
}
