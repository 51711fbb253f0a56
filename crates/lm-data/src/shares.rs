//! How often rules were broken, as people read it.
//!
//! Start reading at [`failures_text`].

use std::fmt::Write as _;

use crate::RuleShare;

/// Each rule over its limit, and what lets the rest through.
pub(crate) fn failures_text(failures: &[RuleShare]) -> String {
    let mut text = String::new();
    for (i, RuleShare { rule, rows, rows_in, limit }) in failures.iter().enumerate() {
        let separator = if i == 0 { "" } else { ", " };
        let percent = 100.0 * *rows as f64 / *rows_in as f64;
        let limit = 100.0 * limit;
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "{separator}rule {rule} is broken by {rows} of {rows_in} rows ({percent:.2} %, limit \
             {limit:.2} %; --allow {rule} publishes the rest)"
        );
    }
    text
}
