//! Where a store may lie: a file, or a PostgreSQL server's database.
//!
//! It must never show a password.

use std::path::{Path, PathBuf};

use super::pg;

/// A place that names a server rather than a file.
#[must_use]
pub fn server_url(place: &Path) -> Option<&str> {
    let text = place.to_str()?;
    (text.starts_with("postgres://") || text.starts_with("postgresql://")).then_some(text)
}

/// A store's place as it may be shown: without a password and parameters.
#[must_use]
pub fn shown(place: &Path) -> PathBuf {
    match server_url(place) {
        // What cannot be read may have its password anywhere.
        Some(url) => PathBuf::from(pg::shown_url(url).unwrap_or_else(|| "postgres://…".to_owned())),
        None => place.to_owned(),
    }
}
