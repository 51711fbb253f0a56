//! Conclusions in another place: from a file to a server, and back.
//!
//! It must never take away in silence what people wrote: verdicts, tags and fixes.
//!
//! Start reading at [`Carrying::begin`], then at [`Carrying::run`].

use std::path::Path;

use lm_store::sql::{self, Connection, OptionalExtension, Row, Value};
use lm_store::{Migrated, Missing};

use crate::answer::name;
use crate::schema::{TABLES, Table};
use crate::{Book, FeedbackError};

/// Conclusions that are to be in another place as well.
pub struct Carrying {
    old: Book,
    new: Book,
    missing: Missing,
}

/// Rows that are read at once.
const CHUNK: usize = 500;
/// The number of a row, in the order in which rows were written.
const SEQ: &str = "seq";

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
        let carrying = Carrying { old: Book::open(from)?, new: Book::open(to)?, missing };
        if missing == Missing::Refuse {
            carrying.refuse_missing()?;
        }
        Ok(Some(carrying))
    }

    /// Copies all or nothing. The new place is as the old one afterwards. With [`Missing::Keep`] all stays that it has: what it
    /// does not have is added, and of two verdicts on one answer the later one holds.
    ///
    /// # Errors
    /// [`FeedbackError::Database`].
    pub fn run(self) -> Result<Vec<Migrated>, FeedbackError> {
        let Carrying { old, mut new, missing } = self;
        let (read, write) = (old.wrap("read"), new.wrap("write"));
        // One state of the old place, however long it takes.
        let _state = old.connection.begin_read().map_err(&read)?;
        let transaction = new.begin()?;
        let way = Way { old: &old, new: &transaction, write: &write };
        let mut migrated = Vec::new();
        for table in &TABLES {
            let columns = old.connection.columns(table.name).map_err(&read)?;
            let copying = Copying::of(table, &columns);
            migrated.push(match missing {
                Missing::Keep => way.add(table, &copying)?,
                Missing::Refuse | Missing::Erase => way.copy(table, &copying)?,
            });
        }
        if missing == Missing::Keep {
            // How far one place was read says nothing of the other one's answers: all of them are read again.
            let sql = "DELETE FROM state WHERE name = 'collected_ms'";
            transaction.execute(sql, ()).map_err(&write)?;
        }
        transaction.commit().map_err(&write)?;
        new.connection.fold_log().map_err(&write)?;
        Ok(migrated)
    }

    fn refuse_missing(&self) -> Result<(), FeedbackError> {
        let mut missing = Vec::new();
        let sql = "SELECT request_id, choice, reviewed_at_ms FROM failure \
                   WHERE reviewed_at_ms IS NOT NULL ORDER BY request_id, choice";
        let verdicts: Vec<(String, u32, i64)> =
            self.new.query(sql, (), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        for (request_id, choice, at_ms) in verdicts {
            let answer = name(&request_id, choice);
            let sql = "SELECT 1 FROM failure WHERE request_id = ?1 AND choice = ?2 \
                       AND reviewed_at_ms >= ?3";
            if !self.has(sql, sql::params![request_id, choice, at_ms])? {
                missing.push(format!("the verdict on {answer}"));
            }
        }
        let sql = "SELECT request_id, choice, tag FROM tag ORDER BY request_id, choice, tag";
        let tags: Vec<(String, u32, String)> =
            self.new.query(sql, (), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        for (request_id, choice, tag) in tags {
            let sql = "SELECT 1 FROM tag WHERE request_id = ?1 AND choice = ?2 AND tag = ?3";
            if !self.has(sql, sql::params![request_id, choice, tag])? {
                missing.push(format!("a tag on {}", name(&request_id, choice)));
            }
        }
        for fix in self.new.fixes()? {
            if !self.has("SELECT 1 FROM fix WHERE id = ?1", sql::params![fix.id])? {
                missing.push(format!("fix {}", fix.id));
            }
        }
        let n = missing.len() as u64;
        match missing.into_iter().next() {
            None => Ok(()),
            Some(first) => Err(FeedbackError::OnlyThere { path: self.new.shown(), n, first }),
        }
    }

    /// Whether the old place has such a row.
    fn has(&self, sql: &str, key: Vec<Value>) -> Result<bool, FeedbackError> {
        Ok(!self.old.query(sql, key, values)?.is_empty())
    }
}

/// The statements for one table. Names come from the schema, never from input.
struct Copying {
    /// Where the columns stand that tell rows apart.
    key: Vec<usize>,
    /// The same, where a number alone says nothing: another book gave it to another row.
    likeness: Vec<usize>,
    /// All columns but the number.
    facts: Vec<usize>,
    first: String,
    next: String,
    find: String,
    find_like: String,
    count: String,
    clear: String,
    insert: String,
    insert_anew: String,
}

impl Copying {
    fn of(table: &Table, columns: &[String]) -> Copying {
        let Table { name, key } = *table;
        let all: Vec<usize> = (0..columns.len()).collect();
        let key_columns = chosen(&all, |i| key.contains(&columns[i].as_str()));
        let facts = chosen(&all, |i| columns[i] != SEQ);
        // A number that another book gave says nothing.
        let (likeness, operator) = match key.contains(&SEQ) {
            true => (facts.clone(), "IS NOT DISTINCT FROM"),
            false => (key_columns.clone(), "="),
        };
        let names = |of: &[usize]| -> String {
            of.iter().map(|i| columns[*i].as_str()).collect::<Vec<_>>().join(", ")
        };
        let equal = |of: &[usize], operator: &str| -> String {
            let marked = of.iter().enumerate();
            let each = marked.map(|(n, i)| format!("{} {operator} ?{}", columns[*i], n + 1));
            each.collect::<Vec<_>>().join(" AND ")
        };
        // Each book has versions of its own.
        let condition = if name == "state" { "name <> 'version'" } else { "1 = 1" };
        let rows = format!("{name} WHERE {condition}");
        let (columns_text, key_text) = (names(&all), names(&key_columns));
        let page = format!("ORDER BY {key_text} LIMIT {CHUNK}");
        let behind = format!("({key_text}) > ({})", marks(key_columns.len()));
        let number = match facts.len() < all.len() {
            true => format!(", (SELECT coalesce(max({SEQ}), 0) + 1 FROM {name})"),
            false => String::new(),
        };
        let named_number = if number.is_empty() { "" } else { ", seq" };
        Copying {
            first: format!("SELECT {columns_text} FROM {rows} {page}"),
            next: format!("SELECT {columns_text} FROM {rows} AND {behind} {page}"),
            find: format!("SELECT {columns_text} FROM {name} WHERE {}", equal(&key_columns, "=")),
            find_like: format!("SELECT 1 FROM {name} WHERE {}", equal(&likeness, operator)),
            count: format!("SELECT count(*) FROM {rows}"),
            clear: format!("DELETE FROM {rows}"),
            insert: format!(
                "INSERT INTO {name}({columns_text}) VALUES ({}) ON CONFLICT DO NOTHING",
                marks(all.len())
            ),
            insert_anew: format!(
                "INSERT INTO {name}({}{named_number}) VALUES ({}{number}) ON CONFLICT DO NOTHING",
                names(&facts),
                marks(facts.len())
            ),
            key: key_columns,
            likeness,
            facts,
        }
    }
}

fn chosen(all: &[usize], is_wanted: impl Fn(usize) -> bool) -> Vec<usize> {
    all.iter().copied().filter(|i| is_wanted(*i)).collect()
}

/// `?1, ?2` and so on.
fn marks(n: usize) -> String {
    (1..=n).map(|i| format!("?{i}")).collect::<Vec<_>>().join(", ")
}

struct Way<'a> {
    old: &'a Book,
    new: &'a Connection,
    write: &'a dyn Fn(sql::Error) -> FeedbackError,
}

impl Way<'_> {
    /// Makes a table as the old one is. One that differs is written anew, so that no number is in the way of another.
    fn copy(&self, table: &Table, copying: &Copying) -> Result<Migrated, FeedbackError> {
        let (mut n_found, mut copied) = (0, 0);
        let rows = self.each(copying, |row| {
            let mut find = self.new.prepare_cached(&copying.find).map_err(self.write)?;
            let there = find.query_row(picked(&row, &copying.key), values).optional();
            let there = there.map_err(self.write)?;
            n_found += u64::from(there.is_some());
            copied += u64::from(there.is_none_or(|there| !is_same(&there, &row)));
            Ok(())
        })?;
        let n_there: i64 =
            self.new.query_row(&copying.count, (), |row| row.get(0)).map_err(self.write)?;
        let erased = n_there.cast_unsigned().saturating_sub(n_found);
        if copied + erased > 0 {
            self.new.execute(&copying.clear, ()).map_err(self.write)?;
            self.each(copying, |row| self.insert(&copying.insert, row).map(drop))?;
        }
        Ok(Migrated { table: table.name.to_owned(), rows, copied, erased })
    }

    /// Adds what a table does not have.
    fn add(&self, table: &Table, copying: &Copying) -> Result<Migrated, FeedbackError> {
        let mut copied = 0;
        let rows = self.each(copying, |row| {
            let mut find = self.new.prepare_cached(&copying.find_like).map_err(self.write)?;
            if !find.exists(picked(&row, &copying.likeness)).map_err(self.write)? {
                copied += self.insert(&copying.insert_anew, picked(&row, &copying.facts))?;
            }
            Ok(())
        })?;
        if table.name == "failure" {
            copied += self.add_verdicts()?;
        }
        Ok(Migrated { table: table.name.to_owned(), rows, copied, erased: 0 })
    }

    fn add_verdicts(&self) -> Result<u64, FeedbackError> {
        let sql = "SELECT request_id, choice, verdict, correction, reviewed_by, reviewed_at_ms \
                   FROM failure WHERE reviewed_at_ms IS NOT NULL";
        let mut n_rows = 0;
        for verdict in self.old.query(sql, (), values)? {
            let sql = "UPDATE failure SET verdict = ?3, correction = ?4, reviewed_by = ?5, \
                       reviewed_at_ms = ?6, leased_by = NULL, leased_until_ms = NULL \
                       WHERE request_id = ?1 AND choice = ?2 \
                       AND (reviewed_at_ms IS NULL OR reviewed_at_ms < ?6)";
            n_rows += self.insert(sql, verdict)?;
        }
        Ok(n_rows)
    }

    /// Returns how many rows it wrote.
    fn insert(&self, sql: &str, row: Vec<Value>) -> Result<u64, FeedbackError> {
        Ok(self.new.execute(sql, row).map_err(self.write)? as u64)
    }

    /// Hands each row of the old table over, in the order of its key; returns how many they are.
    fn each(
        &self,
        copying: &Copying,
        mut take: impl FnMut(Vec<Value>) -> Result<(), FeedbackError>,
    ) -> Result<u64, FeedbackError> {
        let mut n_rows = 0;
        let mut page = self.old.query(&copying.first, (), values)?;
        while let Some(last) = page.last().map(|row| picked(row, &copying.key)) {
            n_rows += page.len() as u64;
            page.into_iter().try_for_each(&mut take)?;
            page = self.old.query(&copying.next, last, values)?;
        }
        Ok(n_rows)
    }
}

fn values(row: &Row) -> sql::Result<Vec<Value>> {
    Ok(row.values().to_vec())
}

fn picked(row: &[Value], columns: &[usize]) -> Vec<Value> {
    columns.iter().map(|i| row[*i].clone()).collect()
}

/// A server cannot hold U+0000, and has U+FFFD in its place.
fn is_same(there: &[Value], row: &[Value]) -> bool {
    let is_equal = |(there, own): (&Value, &Value)| match (there, own) {
        (Value::Text(there), Value::Text(own)) => {
            there == own || *there == own.replace('\0', "\u{fffd}")
        }
        _ => there == own,
    };
    there.len() == row.len() && there.iter().zip(row).all(is_equal)
}
