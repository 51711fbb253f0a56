//! Statements in PostgreSQL's words, from those of SQLite in which they are written.
//!
//! It must never know a table.
//!
//! Start reading at [`statement`].

/// A query or a change: parameters are `$1`, and a field of JSON text is read otherwise.
pub(super) fn statement(sql: &str) -> String {
    dollars(&json_fields(sql))
}

/// `?1` as `$1`.
fn dollars(sql: &str) -> String {
    let mut written = String::with_capacity(sql.len());
    let mut chars = sql.chars().peekable();
    while let Some(c) = chars.next() {
        let is_parameter = c == '?' && chars.peek().is_some_and(char::is_ascii_digit);
        written.push(if is_parameter { '$' } else { c });
    }
    written
}

/// `json_extract(column, '$.a.b')` as `(CAST(column AS JSON) #>> '{a,b}')`: text, or NULL.
fn json_fields(sql: &str) -> String {
    const CALL: &str = "json_extract(";
    let mut written = String::with_capacity(sql.len());
    let mut rest = sql;
    while let Some((before, call)) = rest.split_once(CALL) {
        let (arguments, after) =
            call.split_once(')').expect("a call in a fixed statement ends: this is a bug");
        let (column, path) = arguments
            .split_once(", '$.")
            .expect("json_extract has a column and a fixed path: this is a bug");
        let path = path.trim_end_matches('\'').replace('.', ",");
        written.push_str(&format!("{before}(CAST({column} AS JSON) #>> '{{{path}}}')"));
        rest = after;
    }
    written + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_the_same_in_other_words() {
        #[track_caller]
        fn check(sql: &str, expect: &str) {
            assert_eq!(statement(sql), expect);
        }
        check("SELECT a FROM t WHERE b = ?1 LIMIT ?12", "SELECT a FROM t WHERE b = $1 LIMIT $12");
        check("SELECT '?'", "SELECT '?'");
        check(
            "WHERE json_extract(t.a, '$.b.c') IS NULL AND json_extract(d, '$.e') = ?1",
            "WHERE (CAST(t.a AS JSON) #>> '{b,c}') IS NULL AND (CAST(d AS JSON) #>> '{e}') = $1",
        );
    }
}
