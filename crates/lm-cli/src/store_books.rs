//! Where a home's conclusions are, and whether some of them stayed in its file when its store went to a server.
//!
//! Start reading at [`book_places`].

use std::path::{Path, PathBuf};

use lm_feedback::{Book, FeedbackError};
use lm_ops::shown_place;

use crate::doctor::store_folder;

/// The file of conclusions of a home.
fn book_file(home: &Path) -> PathBuf {
    store_folder(home).join("feedback.db")
}

/// Where the conclusions from a store are: in a file of the home, or on the same server as the store.
pub(crate) fn book_place(home: &Path, store: &Path) -> PathBuf {
    Book::place(store, book_file(home))
}

/// All places that may have conclusions from a store, the one that is in use first: the file of the home may have them from
/// before the store was on a server.
pub(crate) fn book_places(home: &Path, store: &Path) -> Vec<PathBuf> {
    let (place, file) = (book_place(home, store), book_file(home));
    if place == file { vec![place] } else { vec![place, file] }
}

/// Erases what was concluded of requests, wherever it may be; returns how many rows.
pub(crate) fn forget_conclusions(
    home: &Path,
    store: &Path,
    request_ids: &[String],
) -> Result<u64, FeedbackError> {
    let places = book_places(home, store).into_iter().filter(|place| Book::may_be_at(place));
    places.map(|place| Book::open(&place)?.forget(request_ids)).sum()
}

/// Says on standard error when people wrote into the file of the home what nobody reads any more.
pub(crate) fn warn_of_left_behind(home: &Path, store: &Path) {
    let file = book_file(home);
    match Book::stays_behind(&book_place(home, store), &file) {
        Ok(false) => {}
        Ok(true) => eprintln!(
            "warning: {} has reviews and fixes that were not carried to {}, where the store is, and nothing but gates \
             is read there: `LASTMILE_STORE= lastmile store migrate --conclusions --to URL` carries them",
            file.display(),
            shown_place(store).display()
        ),
        Err(error) => eprintln!(
            "warning: whether reviews and fixes stayed behind in {} cannot be seen: {error}",
            file.display()
        ),
    }
}
