//! What a database says of itself: its tables, the room that they take, and the numbers that it gave.
//!
//! It must never read or write a row of a table.
//!
//! Start reading at [`Connection::tables`].

use super::{Connection, OptionalExtension, Result, Value, params, sqlite};

impl Connection {
    /// Bytes that rows take of a file that has a limit.
    pub(crate) fn limited_bytes(&self) -> Result<Option<u64>> {
        match self {
            Connection::Sqlite(connection) => {
                sqlite::space(connection).map(|(free, all)| Some(all - free))
            }
            // How large it may be is for the server's operator to say.
            Connection::Postgres(_) => Ok(None),
        }
    }

    /// Bytes that are free for new rows, and bytes in all.
    pub(crate) fn space(&self) -> Result<(u64, u64)> {
        match self {
            Connection::Sqlite(connection) => sqlite::space(connection),
            Connection::Postgres(_) => {
                let sql = "SELECT CAST(coalesce(sum(pg_total_relation_size(c.oid)), 0) AS BIGINT) \
                     FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                     WHERE n.nspname = current_schema() AND c.relkind = 'r'";
                self.query_row(sql, (), |row| Ok((0, row.get::<_, i64>(0)?.cast_unsigned())))
            }
        }
    }

    /// From here to the end of the transaction, numbers of `table` are given in the order of commits: no other
    /// connection gives one meanwhile. SQLite has one writer at a time anyway.
    pub(crate) fn number_in_order(&self, table: &'static str) -> Result<()> {
        match self {
            Connection::Sqlite(_) => Ok(()),
            Connection::Postgres(server) => {
                let lock = "SELECT pg_advisory_xact_lock(CAST(CAST(CAST(?1 AS TEXT) AS REGCLASS) AS BIGINT))";
                server.execute(lock, &[Value::Text(table.to_owned())]).map(drop)
            }
        }
    }

    /// The number that `table` gave last, also where its row is gone; 0 when it gave none.
    pub(crate) fn last_number(&self, table: &'static str) -> Result<i64> {
        let sql = match self {
            Connection::Sqlite(_) => "SELECT seq FROM sqlite_sequence WHERE name = ?1",
            Connection::Postgres(_) => {
                "SELECT coalesce(pg_sequence_last_value(\
                 CAST(pg_get_serial_sequence(CAST(?1 AS TEXT), 'seq') AS REGCLASS)), 0)"
            }
        };
        self.query_row(sql, [table], |row| row.get(0)).optional().map(Option::unwrap_or_default)
    }

    /// From now on `table` gives greater numbers than this one.
    pub(crate) fn number_after(&self, table: &'static str, last: i64) -> Result<()> {
        if self.last_number(table)? >= last {
            return Ok(());
        }
        match self {
            Connection::Sqlite(_) => {
                let sql = "UPDATE sqlite_sequence SET seq = ?2 WHERE name = ?1";
                if self.execute(sql, params![table, last])? == 0 {
                    let sql = "INSERT INTO sqlite_sequence(name, seq) VALUES (?1, ?2)";
                    self.execute(sql, params![table, last])?;
                }
            }
            Connection::Postgres(_) => {
                let sql = "SELECT setval(CAST(pg_get_serial_sequence(CAST(?1 AS TEXT), 'seq') \
                           AS REGCLASS), CAST(?2 AS BIGINT))";
                self.execute(sql, params![table, last])?;
            }
        }
        Ok(())
    }

    /// Every table of the file, or of the schema that the server's search path begins with.
    pub(crate) fn tables(&self) -> Result<Vec<String>> {
        self.prepare_cached(match self {
            Connection::Sqlite(_) => {
                "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%' \
                 ORDER BY name"
            }
            Connection::Postgres(_) => {
                "SELECT CAST(table_name AS TEXT) FROM information_schema.tables \
                 WHERE table_schema = current_schema() AND table_name NOT IN ('lastmile_schema', 'lastmile_book') \
                 ORDER BY table_name"
            }
        })?
        .query_map((), |row| row.get(0))?
        .collect()
    }

    /// The columns of a table, in order.
    ///
    /// # Errors
    /// What the database says.
    pub fn columns(&self, table: &str) -> Result<Vec<String>> {
        self.prepare_cached(match self {
            Connection::Sqlite(_) => "SELECT name FROM pragma_table_info(?1) ORDER BY cid",
            Connection::Postgres(_) => {
                "SELECT CAST(column_name AS TEXT) FROM information_schema.columns \
                 WHERE table_schema = current_schema() AND table_name = CAST(?1 AS TEXT) \
                 ORDER BY ordinal_position"
            }
        })?
        .query_map([table], |row| row.get(0))?
        .collect()
    }
}
