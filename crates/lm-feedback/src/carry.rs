//! Conclusions in another place: from a file to a server, and back.
//!
//! It must never take away in silence what people wrote: verdicts, tags, fixes and what belongs to them.
//!
//! Start reading at [`Carrying::begin`], then at [`Carrying::run`].

use std::collections::{HashMap, HashSet};
use std::path::Path;

use lm_store::sql::{self, Connection, Row, Value};
use lm_store::{Migrated, Missing, Reader};

use crate::behind::{mark, newest_ms};
use crate::schema::{TABLES, Table};
use crate::{Book, FeedbackError, batch, only_there};

/// Conclusions that are to be in another place as well.
pub struct Carrying {
    old: Book,
    new: Book,
    missing: Missing,
    /// Whose requests alone count.
    store: Option<Reader>,
}

/// A row, or its key, in a form in which both places have the same.
type Digest = [u8; 32];

/// Rows that are read at once.
const CHUNK: usize = 500;
/// The number of a row, in the order in which rows were written.
const SEQ: &str = "seq";
/// What a row that both places have takes over from the old one: its table, what is read there, and what is written here.
const MERGED: [(&str, &str, &str); 3] = [
    (
        "cluster",
        "SELECT id, effort_days FROM cluster WHERE effort_days <> 1.0",
        "UPDATE cluster SET effort_days = ?2 WHERE id = ?1 AND effort_days = 1.0",
    ),
    (
        "fix",
        "SELECT id, gate FROM fix WHERE gate IS NOT NULL",
        "UPDATE fix SET gate = ?2 WHERE id = ?1 AND gate IS NULL",
    ),
    (
        "fix",
        "SELECT id, verified_at_ms FROM fix WHERE verified_at_ms IS NOT NULL",
        "UPDATE fix SET verified_at_ms = ?2 WHERE id = ?1 \
         AND (verified_at_ms IS NULL OR verified_at_ms > ?2)",
    ),
];

impl Carrying {
    /// Opens both places; `None` when both are one, or the old one has no conclusions.
    ///
    /// # Errors
    /// [`FeedbackError::OnlyThere`] when people wrote something into the new place that the old one does not have, and
    /// `missing` does not say what becomes of it; what opening a book says.
    pub fn begin(
        from: &Path,
        to: &Path,
        missing: Missing,
    ) -> Result<Option<Carrying>, FeedbackError> {
        if from == to || !Book::may_be_at(from) {
            return Ok(None);
        }
        let (old, new) = (Book::open(from)?, Book::open(to)?);
        if missing == Missing::Refuse {
            only_there::refuse(&old, &new.connection, &new.shown())?;
        }
        Ok(Some(Carrying { old, new, missing, store: None }))
    }

    /// Leaves out what is about requests that a store does not have, such as those that were erased from it.
    #[must_use]
    pub fn known_to(self, store: Reader) -> Carrying {
        Carrying { store: Some(store), ..self }
    }

    /// Copies all or nothing. The new place is as the old one afterwards. With [`Missing::Keep`] all stays that it has: what it
    /// does not have is added, and of two verdicts on one answer the later one holds.
    ///
    /// # Errors
    /// [`FeedbackError::OnlyThere`] when people wrote into the new place since [`Carrying::begin`],
    /// [`FeedbackError::Database`], [`FeedbackError::Store`].
    pub fn run(self) -> Result<Vec<Migrated>, FeedbackError> {
        let Carrying { mut old, mut new, missing, store } = self;
        let (read, write, place) = (old.wrap("read"), new.wrap("write"), new.shown());
        let mark = mark(old.identity()?);
        // One state of the old place, however long it takes.
        let _state = old.connection.begin_read().map_err(&read)?;
        let transaction = new.begin()?;
        if missing == Missing::Refuse {
            // The store's rows may have taken hours; from here on nobody else writes.
            only_there::refuse(&old, &transaction, &place)?;
        }
        let way =
            Way { old: &old, new: &transaction, store: store.as_ref(), read: &read, write: &write };
        let mut migrated = Vec::new();
        for table in &TABLES {
            let columns = old.connection.columns(table.name).map_err(&read)?;
            let copying = Copying::of(table, columns);
            migrated.push(match missing {
                Missing::Keep => way.add(&copying)?,
                Missing::Refuse | Missing::Erase => way.copy(&copying)?,
            });
        }
        if missing == Missing::Keep && store.is_none() {
            // How far one place was read says nothing of the other one's answers: all of them are read again.
            let sql = "DELETE FROM state WHERE name = 'collected_ms'";
            transaction.execute(sql, ()).map_err(&write)?;
        }
        let newest_ms = newest_ms(&old.connection).map_err(&read)?.unwrap_or(0);
        let sql = "INSERT INTO state(name, value) VALUES (?1, ?2) \
                   ON CONFLICT (name) DO UPDATE SET value = excluded.value";
        transaction.execute(sql, sql::params![mark, newest_ms]).map_err(&write)?;
        transaction.commit().map_err(&write)?;
        new.connection.fold_log().map_err(&write)?;
        Ok(migrated)
    }
}

/// The statements for one table. Names come from the schema, never from input.
struct Copying {
    table: &'static str,
    columns: Vec<String>,
    /// Where the columns stand that tell rows apart.
    key: Vec<usize>,
    /// The same, where a number alone says nothing: another book gave it to another row.
    likeness: Vec<usize>,
    /// Where the number stands, in a table that has one.
    seq: Option<usize>,
    first: String,
    next: String,
    clear: String,
    into: String,
}

impl Copying {
    fn of(table: &Table, columns: Vec<String>) -> Copying {
        let Table { name, key } = *table;
        let chosen = |is_wanted: &dyn Fn(&str) -> bool| -> Vec<usize> {
            (0..columns.len()).filter(|i| is_wanted(&columns[*i])).collect()
        };
        let key_columns = chosen(&|column| key.contains(&column));
        let likeness = match key.contains(&SEQ) {
            true => chosen(&|column| column != SEQ),
            false => key_columns.clone(),
        };
        // Each book has versions, a name and marks of its own.
        let condition = match name {
            "state" => "name NOT IN ('version', 'id') AND name NOT LIKE 'carried %'",
            _ => "1 = 1",
        };
        let rows = format!("{name} WHERE {condition}");
        let (all, key) = (columns.join(", "), key.join(", "));
        let marks: Vec<String> = (1..=key_columns.len()).map(|i| format!("?{i}")).collect();
        let (page, marks) = (format!("ORDER BY {key} LIMIT {CHUNK}"), marks.join(", "));
        Copying {
            table: name,
            first: format!("SELECT {all} FROM {rows} {page}"),
            next: format!("SELECT {all} FROM {rows} AND ({key}) > ({marks}) {page}"),
            clear: format!("DELETE FROM {rows}"),
            into: format!("{name}({all})"),
            seq: columns.iter().position(|column| column == SEQ),
            key: key_columns,
            likeness,
            columns,
        }
    }

    /// Hands each page of a place's rows over, in the order of their key there; returns how many rows they are.
    fn pages(
        &self,
        place: &Connection,
        wrap: &Wrap<'_>,
        mut take: impl FnMut(Vec<Vec<Value>>) -> Result<(), FeedbackError>,
    ) -> Result<u64, FeedbackError> {
        let read = |sql: &str, after: Vec<Value>| -> Result<Vec<Vec<Value>>, FeedbackError> {
            let rows = place.prepare_cached(sql).and_then(|mut statement| {
                statement.query_map(after, values)?.collect::<sql::Result<Vec<_>>>()
            });
            rows.map_err(wrap)
        };
        let mut n_rows = 0;
        let mut page = read(&self.first, Vec::new())?;
        while let Some(last) = page.last() {
            let last = self.key.iter().map(|i| last[*i].clone()).collect();
            n_rows += page.len() as u64;
            take(page)?;
            page = read(&self.next, last)?;
        }
        Ok(n_rows)
    }

    /// The text of a row in a column.
    fn text<'r>(&self, row: &'r [Value], column: &str) -> Option<&'r str> {
        let i = self.columns.iter().position(|name| name == column)?;
        if let Value::Text(text) = row.get(i)? { Some(text) } else { None }
    }
}

/// For `map_err`.
type Wrap<'a> = dyn Fn(sql::Error) -> FeedbackError + 'a;

struct Way<'a> {
    old: &'a Book,
    new: &'a Connection,
    store: Option<&'a Reader>,
    read: &'a Wrap<'a>,
    write: &'a Wrap<'a>,
}

impl Way<'_> {
    /// Makes a table as the old one is. One that differs is written anew, so that no number is in the way of another.
    fn copy(&self, copying: &Copying) -> Result<Migrated, FeedbackError> {
        let mut there = self.there(copying, &copying.key)?;
        let mut copied = 0;
        let rows = copying.pages(&self.old.connection, self.read, |page| {
            for row in &page {
                let found = there.remove(&part(row, &copying.key));
                copied += u64::from(found != Some(digest(row)));
            }
            Ok(())
        })?;
        // What no row of the old place was found for.
        let erased = there.len() as u64;
        if copied + erased > 0 {
            self.new.execute(&copying.clear, ()).map_err(self.write)?;
            copying.pages(&self.old.connection, self.read, |page| {
                self.insert(copying, page).map(drop)
            })?;
        }
        Ok(Migrated { table: copying.table.to_owned(), rows, copied, erased })
    }

    /// Adds what a table does not have.
    fn add(&self, copying: &Copying) -> Result<Migrated, FeedbackError> {
        let there = self.there(copying, &copying.likeness)?;
        let mut last: i64 = match copying.seq {
            None => 0,
            Some(_) => {
                let sql = format!("SELECT coalesce(max({SEQ}), 0) FROM {}", copying.table);
                self.new.query_row(&sql, (), |row| row.get(0)).map_err(self.write)?
            }
        };
        let mut copied = 0;
        let rows = copying.pages(&self.old.connection, self.read, |page| {
            let mut added = self.wanted(copying, page)?;
            added.retain(|row| !there.contains_key(&part(row, &copying.likeness)));
            for row in &mut added {
                if let Some(seq) = copying.seq {
                    last += 1;
                    row[seq] = Value::Int(last);
                }
            }
            copied += self.insert(copying, added)?;
            Ok(())
        })?;
        copied += self.merge(copying.table)?;
        Ok(Migrated { table: copying.table.to_owned(), rows, copied, erased: 0 })
    }

    /// Rows of the new place, by some of their columns. All at once, because two databases have two orders of texts.
    fn there(
        &self,
        copying: &Copying,
        columns: &[usize],
    ) -> Result<HashMap<Digest, Digest>, FeedbackError> {
        let mut there = HashMap::new();
        copying.pages(self.new, self.write, |page| {
            there.extend(page.iter().map(|row| (part(row, columns), digest(row))));
            Ok(())
        })?;
        Ok(there)
    }

    /// The rows of a page that are not about requests which the store does not have. What a cluster was shown by needs a failure
    /// that is there already.
    fn wanted(
        &self,
        copying: &Copying,
        mut page: Vec<Vec<Value>>,
    ) -> Result<Vec<Vec<Value>>, FeedbackError> {
        let Some(store) = self.store else { return Ok(page) };
        let (column, known) = match copying.table {
            // How far the old place was read says nothing of the store.
            "state" => return Ok(Vec::new()),
            "failure" | "tag" => {
                let ids = page.iter().filter_map(|row| copying.text(row, "request_id"));
                let ids: Vec<String> = ids.map(str::to_owned).collect();
                ("request_id", store.known(&ids)?)
            }
            "sample" => {
                let sql = "SELECT DISTINCT cluster_id FROM failure";
                let ids = self.new.prepare_cached(sql).and_then(|mut statement| {
                    let ids = statement.query_map((), |row| row.get(0))?;
                    ids.collect::<sql::Result<HashSet<String>>>()
                });
                ("cluster_id", ids.map_err(self.write)?)
            }
            _ => return Ok(page),
        };
        page.retain(|row| copying.text(row, column).is_some_and(|id| known.contains(id)));
        Ok(page)
    }

    /// What rows that both places have take over; returns how many changed.
    fn merge(&self, table: &str) -> Result<u64, FeedbackError> {
        let mut n_rows = if table == "failure" { self.add_verdicts()? } else { 0 };
        for (_, select, update) in MERGED.iter().filter(|(of, ..)| *of == table) {
            for row in self.old.query(select, (), values)? {
                n_rows += self.new.execute(update, row).map_err(self.write)? as u64;
            }
        }
        Ok(n_rows)
    }

    /// Verdicts that are later than what was last said or taken back in the new place.
    fn add_verdicts(&self) -> Result<u64, FeedbackError> {
        let sql = "SELECT request_id, choice, reviewed_at_ms, taken_back_at_ms FROM failure \
                   WHERE reviewed_at_ms IS NOT NULL OR taken_back_at_ms IS NOT NULL";
        let times = self.new.prepare_cached(sql).and_then(|mut statement| {
            let times = statement.query_map((), |row| {
                let (given, back): (Option<i64>, Option<i64>) = (row.get(2)?, row.get(3)?);
                Ok((part(row.values(), &[0, 1]), given.max(back)))
            })?;
            times.collect::<sql::Result<HashMap<Digest, Option<i64>>>>()
        });
        let times = times.map_err(self.write)?;
        let sql = "SELECT request_id, choice, verdict, correction, reviewed_by, reviewed_at_ms \
                   FROM failure WHERE reviewed_at_ms IS NOT NULL";
        let mut n_rows = 0;
        for verdict in self.old.query(sql, (), values)? {
            let last_ms = times.get(&part(&verdict, &[0, 1])).copied().flatten();
            let is_later = match verdict.last() {
                Some(Value::Int(at_ms)) => last_ms.is_none_or(|last_ms| last_ms < *at_ms),
                _ => false,
            };
            if is_later {
                let sql = "UPDATE failure SET verdict = ?3, correction = ?4, reviewed_by = ?5, \
                           reviewed_at_ms = ?6, leased_by = NULL, leased_until_ms = NULL \
                           WHERE request_id = ?1 AND choice = ?2";
                n_rows += self.new.execute(sql, verdict).map_err(self.write)? as u64;
            }
        }
        Ok(n_rows)
    }

    /// Returns how many rows it wrote.
    fn insert(&self, copying: &Copying, rows: Vec<Vec<Value>>) -> Result<u64, FeedbackError> {
        batch::insert(self.new, &copying.into, "DO NOTHING", rows).map_err(self.write)
    }
}

fn values(row: &Row) -> sql::Result<Vec<Value>> {
    Ok(row.values().to_vec())
}

/// The digest of some columns.
fn part(row: &[Value], columns: &[usize]) -> Digest {
    digest(columns.iter().map(|i| &row[*i]))
}

/// Of a row or a part of one, equal where the values are. A server cannot hold U+0000, and has U+FFFD in its place.
pub(crate) fn digest<'v>(values: impl IntoIterator<Item = &'v Value>) -> Digest {
    let mut hasher = blake3::Hasher::new();
    let mut add = |kind: u8, bytes: &[u8]| {
        hasher.update(&[kind]);
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    for value in values {
        match value {
            Value::Null => add(0, &[]),
            Value::Int(number) => add(1, &number.to_le_bytes()),
            Value::Real(number) => add(2, &number.to_bits().to_le_bytes()),
            Value::Text(text) => add(3, text.replace('\0', "\u{fffd}").as_bytes()),
            Value::Blob(bytes) => add(4, bytes),
        }
    }
    *hasher.finalize().as_bytes()
}
