//! Rows that are written many at once: a server may be far away, and others wait meanwhile.
//!
//! It must never know a table.
//!
//! Start reading at [`insert`].

use lm_store::sql::{self, Connection, Value};

/// Rows of one statement, the most first. Few, because databases keep each number of rows as a statement of its own.
const SIZES: [usize; 3] = [100, 10, 1];

/// Writes rows; `into` is a table with its columns, and `on_conflict` says what becomes of a row that is there. Both come from
/// the schema, never from input. Returns how many rows were written.
pub(crate) fn insert(
    connection: &Connection,
    into: &str,
    on_conflict: &str,
    rows: Vec<Vec<Value>>,
) -> sql::Result<u64> {
    let mut n_written = 0;
    let mut rest = rows.into_iter();
    for size in SIZES {
        while rest.len() >= size {
            let some: Vec<Vec<Value>> = rest.by_ref().take(size).collect();
            let rows = marked(size, some.first().map_or(0, Vec::len));
            let sql = format!("INSERT INTO {into} VALUES {rows} ON CONFLICT {on_conflict}");
            let values: Vec<Value> = some.into_iter().flatten().collect();
            n_written += connection.prepare_cached(&sql)?.execute(values)? as u64;
        }
    }
    Ok(n_written)
}

/// `(?1, ?2), (?3, ?4)` and so on.
fn marked(n_rows: usize, n_columns: usize) -> String {
    let row = |i: usize| {
        let columns = i * n_columns + 1..=(i + 1) * n_columns;
        let marks: Vec<String> = columns.map(|n| format!("?{n}")).collect();
        format!("({})", marks.join(", "))
    };
    (0..n_rows).map(row).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use lm_store::sql::params;

    use super::*;

    #[test]
    fn each_row_is_written_once_whatever_their_number() {
        assert_eq!(marked(2, 3), "(?1, ?2, ?3), (?4, ?5, ?6)");
        for n in [0_i64, 1, 9, 10, 11, 99, 100, 101, 321] {
            let connection = Connection::Sqlite(rusqlite::Connection::open_in_memory().unwrap());
            connection.execute_batch("CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT)").unwrap();
            connection.execute("INSERT INTO t VALUES (5, 'there')", ()).unwrap();
            let rows = (0..n).map(|a| params![a, format!("row {a}")]).collect();
            let written = insert(&connection, "t(a, b)", "DO NOTHING", rows).unwrap();
            let (own, there) = if n > 5 { (n - 1, n) } else { (n, n + 1) };
            assert_eq!(written, own.cast_unsigned());
            let sql = "SELECT count(*), max(b) FILTER (WHERE a = 5) FROM t";
            let found: (i64, String) =
                connection.query_row(sql, (), |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
            assert_eq!(found, (there, "there".to_owned()));
        }
    }
}
