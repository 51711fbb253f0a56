//! Erasing everything of one subject, tenant or request, now.
//!
//! It must never leave a row behind that speaks of an erased request, in whichever table it stands.
//!
//! Start reading at [`erase`].

use std::path::Path;

use lm_types::{RequestId, TenantId};

use crate::mask::Mask;
use crate::sql::{self, Connection, ErrorKind, params};
use crate::write::tenant_text;
use crate::{erasing, schema};

/// Requests of one transaction.
const CHUNK: u32 = 500;

/// Whose rows are erased.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Erase {
    /// Of whom a client said that it asks on their behalf.
    Subject(String),
    /// Of a key; `ANONYMOUS` is who came without one.
    Tenant(TenantId),
    /// Of one request.
    Request(RequestId),
}

/// What was erased.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Erased {
    /// The requests, in their written form.
    pub request_ids: Vec<String>,
    /// Rows that spoke of them: answers, feedback and whatever else.
    pub rows: u64,
}

/// Erases what is stored of them; each chunk is a commit, so that the writers of other processes get their turn. Its requests
/// are in the file `list` before they are gone from here.
pub(crate) fn erase(
    connection: &Connection,
    what: &Erase,
    mask: &Mask,
    list: Option<&Path>,
) -> sql::Result<Erased> {
    let (filter, [first, second]) = match what {
        Erase::Subject(subject) => ("subject IN (?1, ?2)", mask.subject_forms(subject)),
        Erase::Tenant(tenant) => (
            "coalesce(tenant, '') IN (?1, ?2)",
            tenant_text(*tenant).map_or_else(Default::default, |t| [t.clone(), t]),
        ),
        Erase::Request(id) => ("id IN (?1, ?2)", [id.to_string(), id.to_string()]),
    };
    let select = format!("SELECT id FROM request WHERE {filter} LIMIT {CHUNK}");
    let tables = tables(connection)?;
    let mut erased = Erased::default();
    loop {
        // Takes the lock at once: another process may write, too.
        let transaction = connection.begin_write(true)?;
        let ids: Vec<String> = transaction
            .prepare_cached(&select)?
            .query_map(params![first, second], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        if ids.is_empty() {
            break;
        }
        // A copy says what its original said, on nobody's behalf.
        let mut copies = Vec::new();
        for id in &ids {
            let mut of = transaction.prepare_cached(
                "SELECT DISTINCT request_id FROM assignment WHERE shadow_of = ?1",
            )?;
            copies.extend(of.query_map([id], |row| row.get(0))?.collect::<Result<Vec<_>, _>>()?);
        }
        let ids: Vec<String> = ids.into_iter().chain(copies).collect();
        if let Some(list) = list {
            let noted = erasing::note(list, &ids);
            noted.map_err(|e| {
                sql::Error::new(
                    ErrorKind::Other,
                    format!("{} cannot be written: {e}", list.display()),
                )
            })?;
        }
        for id in &ids {
            for table in &tables {
                erased.rows += of_request(&transaction, table, id)?;
            }
            request(&transaction, id)?;
        }
        transaction.commit()?;
        erased.request_ids.extend(ids);
    }
    // What was erased also stands in the log, until it is folded into the file.
    connection.fold_log()?;
    Ok(erased)
}

/// Erases what one of [`tables`] says of a request; returns how many rows.
pub(crate) fn of_request(connection: &Connection, table: &str, id: &str) -> sql::Result<u64> {
    let sql = format!("DELETE FROM {table} WHERE request_id = ?1");
    Ok(connection.prepare_cached(&sql)?.execute([id])? as u64)
}

/// Erases the request itself.
pub(crate) fn request(connection: &Connection, id: &str) -> sql::Result<u64> {
    let sql = "DELETE FROM request WHERE id = ?1";
    Ok(connection.prepare_cached(sql)?.execute([id])? as u64)
}

/// Every table of the store that speaks of requests.
pub(crate) fn tables(connection: &Connection) -> sql::Result<Vec<String>> {
    let mut found = Vec::new();
    for table in schema::tables(connection)? {
        if connection.columns(&table)?.iter().any(|column| column == "request_id") {
            found.push(table);
        }
    }
    Ok(found)
}
