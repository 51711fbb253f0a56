//! Whether another process may have written to a file: by its date, which costs a hundredth of asking the database.
//!
//! It must never miss a write for longer than a second, whatever a file system makes of dates.
//!
//! Start reading at [`BookWatch::may_have_changed`].

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Two writes within this may leave one date, on the coarsest of file systems.
const SETTLED_AFTER: Duration = Duration::from_secs(3);
/// Dates are not believed for longer than this.
const AT_LEAST_EVERY: Duration = Duration::from_secs(1);

/// Watches one file that keeps its changes in itself, as one with [`Journal::Rollback`](crate::Journal::Rollback) does.
#[derive(Debug)]
pub struct BookWatch {
    path: PathBuf,
    /// Its date and size.
    seen: Option<(SystemTime, u64)>,
    told: Option<Instant>,
}

impl BookWatch {
    /// Watches the file at `path`.
    #[must_use]
    pub fn new(path: &Path) -> BookWatch {
        BookWatch { path: path.to_owned(), seen: None, told: None }
    }

    /// Whether the file may have been written since the last call; true if in doubt.
    pub fn may_have_changed(&mut self) -> bool {
        let found = std::fs::metadata(&self.path);
        let found = found.and_then(|data| Ok((data.modified()?, data.len()))).ok();
        let is_settled =
            found.is_some_and(|(date, _)| date.elapsed().is_ok_and(|age| age > SETTLED_AFTER));
        let is_fresh = self.told.is_some_and(|told| told.elapsed() < AT_LEAST_EVERY);
        if is_settled && is_fresh && found == self.seen {
            return false;
        }
        (self.seen, self.told) = (found, Some(Instant::now()));
        true
    }

    /// Has the next call say yes: what it said the last time could not be acted on.
    pub fn doubt(&mut self) {
        self.told = None;
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn only_a_file_that_lies_still_is_believed_and_not_for_long() {
        let folder = tempfile::tempdir().expect("there is a folder for tests");
        let path = folder.path().join("book");
        let mut watch = BookWatch::new(&path);
        assert!(watch.may_have_changed() && watch.may_have_changed(), "there is none");
        let file = File::create(&path).expect("it can be made");
        assert!(watch.may_have_changed() && watch.may_have_changed(), "it was just written");
        let date = |seconds| SystemTime::now() - Duration::from_secs(seconds);
        let set = |date| file.set_modified(date).expect("its date can be set");
        let old = date(100);
        set(old);
        assert!(watch.may_have_changed(), "another date");
        let began = Instant::now();
        assert!(!watch.may_have_changed() || began.elapsed() >= AT_LEAST_EVERY, "nothing new");
        set(date(50));
        assert!(watch.may_have_changed(), "an older date than now, and another one");
        file.set_len(10).expect("there is room");
        set(date(50));
        assert!(watch.may_have_changed(), "another size");
        watch.doubt();
        assert!(watch.may_have_changed(), "it could not be read");
        std::thread::sleep(AT_LEAST_EVERY);
        assert!(watch.may_have_changed(), "a second later");
        set(SystemTime::now() + Duration::from_secs(100));
        assert!(watch.may_have_changed() && watch.may_have_changed(), "a clock that is ahead");
    }
}
