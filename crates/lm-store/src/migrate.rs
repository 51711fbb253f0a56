//! A store's rows in another store: from a file to a server, and back.
//!
//! It must never lose a row in silence: one that does not find its place is an error. Nor may it keep in silence what was
//! erased from the old store since an earlier copy.
//!
//! Start reading at [`migrate`].

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use crate::error::ErrorContext;
use crate::sql::{self, Connection, Value};
use crate::{StoreError, StoreOptions, erase, schema};

/// Rows of one transaction.
const CHUNK: i64 = 500;
/// The first columns of every table, which tell its rows apart.
const N_KEY_COLUMNS: usize = 2;
/// The one table whose rows have numbers that are never given again.
const NUMBERED: &str = "assignment";

/// What becomes of requests that the new store has and the old one does not have: they were erased there after an earlier
/// copy, or somebody wrote them to the new one. Nothing in them tells which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Missing {
    /// Nothing is copied.
    #[default]
    Refuse,
    /// They are erased from the new store, too.
    Erase,
    /// They stay.
    Keep,
}

/// One table that was copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Migrated {
    /// Its name.
    pub table: String,
    /// Rows in the old store, each of which is now in the new one, but for conclusions that were left out on purpose.
    pub rows: u64,
    /// Rows that the new store did not have yet.
    pub copied: u64,
    /// Rows of the new store that were erased, as by [`Missing::Erase`].
    pub erased: u64,
}

/// Copies all rows of the store at `from` into the one at `to`, whose tables are created when needed. What is there
/// already stays, so that a copy which was interrupted goes on, but for what `missing` says; a server that writes to `from`
/// meanwhile is left behind.
///
/// # Errors
/// Both are the same, either store cannot be opened, read or written, the new one has another row in a row's place, or
/// requests that the old one does not have.
pub fn migrate(from: &Path, to: &Path, missing: Missing) -> Result<Vec<Migrated>, StoreError> {
    let options = StoreOptions::default();
    let context = |place: &Path| ErrorContext::of_upgrade(place, options.max_bytes);
    let (from_context, to_context) = (context(from), context(to));
    if from == to {
        let value = to_context.path.display().to_string();
        let limit = "another store than the one that is read";
        return Err(StoreError::InvalidOption { field: "to", value, limit });
    }
    let old = schema::open_reader(from, &from_context)?;
    let new = schema::open_writer(to, &options, &to_context)?;
    let way = Way { old: &old, new: &new, from: &from_context, to: &to_context };
    // One state of the old store, however long it takes.
    let _state = old.begin_read().map_err(|e| way.from.wrap("read", &e))?;
    let tables = schema::tables(&old).map_err(|e| way.from.wrap("read", &e))?;
    let mut erased = match missing {
        Missing::Refuse => way.refuse_missing()?,
        Missing::Erase => way.erase_missing()?,
        Missing::Keep => BTreeMap::new(),
    };
    let mut migrated = Vec::new();
    for table in tables {
        let erased = erased.remove(&table).unwrap_or_default();
        migrated.push(Migrated { erased, ..way.copy(table)? });
    }
    way.carry_numbers()?;
    Ok(migrated)
}

struct Way<'a> {
    old: &'a Connection,
    new: &'a Connection,
    from: &'a ErrorContext,
    to: &'a ErrorContext,
}

/// The statements that copy one table. Names come from the schema, never from input.
struct Copying {
    first: String,
    next: String,
    insert: String,
    find: String,
}

impl Copying {
    fn of(table: &str, columns: &[String]) -> Copying {
        let names = columns.join(", ");
        let marks: Vec<String> = (1..=columns.len()).map(|i| format!("?{i}")).collect();
        let marks = marks.join(", ");
        let key = columns[..N_KEY_COLUMNS].join(", ");
        let page = format!("ORDER BY {key} LIMIT {CHUNK}");
        Copying {
            first: format!("SELECT {names} FROM {table} {page}"),
            next: format!("SELECT {names} FROM {table} WHERE ({key}) > (?1, ?2) {page}"),
            insert: format!("INSERT INTO {table}({names}) VALUES ({marks}) ON CONFLICT DO NOTHING"),
            find: format!("SELECT 1 FROM {table} WHERE ({key}) = (?1, ?2)"),
        }
    }
}

impl Way<'_> {
    /// Copies a table in the order of its key.
    fn copy(&self, table: String) -> Result<Migrated, StoreError> {
        let read = |e: sql::Error| self.from.wrap("read", &e);
        let columns = self.old.columns(&table).map_err(read)?;
        let copying = Copying::of(&table, &columns);
        let (mut n_rows, mut n_copied) = (0, 0);
        let mut rows = self.read(&copying.first, Vec::new()).map_err(read)?;
        while let Some(last) = rows.last().map(|row| row[..N_KEY_COLUMNS].to_vec()) {
            n_rows += rows.len() as u64;
            n_copied += self.write(&table, &copying, rows)?;
            rows = self.read(&copying.next, last).map_err(read)?;
        }
        Ok(Migrated { table, rows: n_rows, copied: n_copied, erased: 0 })
    }

    /// Requests that only the new store has, of a page behind `after`; the page's last, or `None` at the end.
    fn missing(&self, after: &str) -> Result<(Vec<String>, Option<String>), StoreError> {
        let page = format!("SELECT id FROM request WHERE id > ?1 ORDER BY id LIMIT {CHUNK}");
        let ids = self.new.prepare_cached(&page).and_then(|mut statement| {
            statement.query_map([after], |row| row.get(0))?.collect::<sql::Result<Vec<String>>>()
        });
        let ids = ids.map_err(|e| self.to.wrap("read", &e))?;
        let last = ids.last().cloned();
        let mut only_new = Vec::new();
        for id in ids {
            let find = self.old.prepare_cached("SELECT 1 FROM request WHERE id = ?1");
            let found = find.and_then(|mut statement| statement.exists([&id]));
            if !found.map_err(|e| self.from.wrap("read", &e))? {
                only_new.push(id);
            }
        }
        Ok((only_new, last))
    }

    fn refuse_missing(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        let (mut n, mut first, mut after) = (0, None, String::new());
        while let (ids, Some(last)) = self.missing(&after)? {
            n += ids.len() as u64;
            first = first.or_else(|| ids.into_iter().next());
            after = last;
        }
        match first {
            None => Ok(BTreeMap::new()),
            Some(first) => Err(StoreError::OnlyThere { path: self.to.path.clone(), n, first }),
        }
    }

    /// Rows by table.
    fn erase_missing(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        let erase = |e: sql::Error| self.to.wrap("erase from", &e);
        let tables = erase::tables(self.new).map_err(erase)?;
        let (mut erased, mut after) = (BTreeMap::new(), String::new());
        while let (ids, Some(last)) = self.missing(&after)? {
            let transaction = self.new.begin_write(true).map_err(erase)?;
            for id in &ids {
                for table in &tables {
                    let n_rows = erase::of_request(&transaction, table, id).map_err(erase)?;
                    *erased.entry(table.clone()).or_default() += n_rows;
                }
                let n_rows = erase::request(&transaction, id).map_err(erase)?;
                *erased.entry("request".to_owned()).or_default() += n_rows;
            }
            transaction.commit().map_err(erase)?;
            after = last;
        }
        self.new.fold_log().map_err(erase)?;
        Ok(erased)
    }

    /// Writes a page as one transaction; returns how many rows were new.
    fn write(
        &self,
        table: &str,
        copying: &Copying,
        rows: Vec<Vec<Value>>,
    ) -> Result<u64, StoreError> {
        let write = |e: sql::Error| self.to.wrap("write", &e);
        let transaction = self.new.begin_write(true).map_err(write)?;
        let mut n_copied = 0;
        for row in rows {
            let key = row[..N_KEY_COLUMNS].to_vec();
            let n_rows = transaction.execute(&copying.insert, row).map_err(write)?;
            n_copied += n_rows as u64;
            let mut find = transaction.prepare_cached(&copying.find).map_err(write)?;
            if n_rows == 0 && !find.exists(key.clone()).map_err(write)? {
                return Err(StoreError::Database {
                    path: self.to.path.clone(),
                    action: "take over all rows",
                    detail: format!("{table} has another row in the place of {key:?}"),
                });
            }
        }
        transaction.commit().map_err(write)?;
        Ok(n_copied)
    }

    /// A number that was given in the old store is not given again in the new one.
    fn carry_numbers(&self) -> Result<(), StoreError> {
        let last = self.old.last_number(NUMBERED).map_err(|e| self.from.wrap("read", &e))?;
        let carried = self.new.begin_write(true).and_then(|transaction| {
            transaction.number_in_order(NUMBERED)?;
            transaction.number_after(NUMBERED, last)?;
            transaction.commit()
        });
        carried.map_err(|e| self.to.wrap("write", &e))
    }

    fn read(&self, select: &str, after: Vec<Value>) -> sql::Result<Vec<Vec<Value>>> {
        let mut statement = self.old.prepare_cached(select)?;
        statement.query_map(after, |row| Ok(row.values().to_vec()))?.collect()
    }
}
