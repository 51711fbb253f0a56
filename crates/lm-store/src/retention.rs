//! What is erased, when, and in which portions.
//!
//! It must never hold the write lock for long: each statement erases at most one chunk.
//!
//! Start reading at [`prune_chunk`].

use std::time::{Duration, SystemTime};

use crate::Retention;
use crate::record::unix_ms;
use crate::sql::{self, Connection};

/// Each takes the latest time that is too old, in Unix milliseconds, and erases at most 500 rows.
const ERASE_BODIES: [&str; 2] = [
    "UPDATE request SET prompt = NULL, recipe = NULL, prompt_tokens = NULL WHERE id IN (SELECT id FROM request \
     WHERE prompt IS NOT NULL AND arrived_at_ms < ?1 LIMIT 500)",
    "UPDATE attempt SET output_text = NULL, output_tokens = NULL WHERE (request_id, choice) IN \
     (SELECT request_id, choice FROM attempt WHERE output_text IS NOT NULL AND arrived_at_ms < ?1 LIMIT 500)",
];
const ERASE_ROWS: [&str; 5] = [
    "DELETE FROM assignment WHERE seq IN \
     (SELECT seq FROM assignment WHERE arrived_at_ms < ?1 LIMIT 500)",
    "DELETE FROM attempt WHERE (request_id, choice) IN \
     (SELECT request_id, choice FROM attempt WHERE arrived_at_ms < ?1 LIMIT 500)",
    "DELETE FROM request WHERE id IN \
     (SELECT id FROM request WHERE arrived_at_ms < ?1 LIMIT 500)",
    "DELETE FROM feedback WHERE id IN \
     (SELECT id FROM feedback WHERE created_at_ms < ?1 LIMIT 500)",
    "DELETE FROM process_run WHERE id IN \
     (SELECT id FROM process_run WHERE last_heartbeat_ms < ?1 LIMIT 500)",
];

const OLDEST_BODIES: [&str; 2] = [
    "UPDATE request SET prompt = NULL, recipe = NULL, prompt_tokens = NULL \
     WHERE id IN (SELECT id FROM request \
     WHERE prompt IS NOT NULL ORDER BY arrived_at_ms LIMIT 100)",
    "UPDATE attempt SET output_text = NULL, output_tokens = NULL WHERE (request_id, choice) IN \
     (SELECT request_id, choice FROM attempt \
     WHERE output_text IS NOT NULL ORDER BY arrived_at_ms LIMIT 100)",
];

/// Erases at most one chunk of the oldest texts when the file is nearly as large as it may be, so that what is new
/// still finds room; returns how many rows changed.
pub(crate) fn make_room(connection: &Connection, max_bytes: u64) -> sql::Result<usize> {
    let Some(used_bytes) = connection.limited_bytes()? else { return Ok(0) };
    if used_bytes < max_bytes / 10 * 9 {
        return Ok(0);
    }
    let mut n_rows = 0;
    for sql in OLDEST_BODIES {
        n_rows += connection.prepare_cached(sql)?.execute(())?;
    }
    Ok(n_rows)
}

/// Erases at most one chunk of each kind; returns how many rows changed. 0 means that all is done.
pub(crate) fn prune_chunk(
    connection: &Connection,
    retention: Retention,
    now: SystemTime,
) -> sql::Result<usize> {
    let before = |age: Duration| now.checked_sub(age).map_or(i64::MIN, unix_ms);
    let mut n_rows = 0;
    for (statements, cutoff_ms) in [
        (ERASE_BODIES.as_slice(), before(retention.bodies)),
        (ERASE_ROWS.as_slice(), before(retention.metadata)),
    ] {
        for sql in statements {
            n_rows += connection.prepare_cached(sql)?.execute([cutoff_ms])?;
        }
    }
    Ok(n_rows)
}
