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
    /// Its date and size when it was looked at last.
    found: Option<(SystemTime, u64)>,
    /// The same, and when, of the last look that led to something.
    read: Option<(Option<(SystemTime, u64)>, Instant)>,
}

impl BookWatch {
    /// Watches the file at `path`.
    #[must_use]
    pub fn new(path: &Path) -> BookWatch {
        BookWatch { path: path.to_owned(), found: None, read: None }
    }

    /// Whether the file may have been written since it was read last; true if in doubt.
    pub fn may_have_changed(&mut self) -> bool {
        let found = std::fs::metadata(&self.path);
        self.found = found.and_then(|data| Ok((data.modified()?, data.len()))).ok();
        let Some((read, at)) = self.read else { return true };
        let is_settled =
            self.found.is_some_and(|(date, _)| date.elapsed().is_ok_and(|age| age > SETTLED_AFTER));
        !is_settled || at.elapsed() >= AT_LEAST_EVERY || self.found != read
    }

    /// What was found there is read, and acted on.
    pub fn note_read(&mut self) {
        self.read = Some((self.found, Instant::now()));
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
        let mut may_have_changed = || {
            let may = watch.may_have_changed();
            watch.note_read();
            may
        };
        assert!(may_have_changed() && may_have_changed(), "there is none");
        let file = File::create(&path).expect("it can be made");
        assert!(may_have_changed() && may_have_changed(), "it was just written");
        let date = |seconds| SystemTime::now() - Duration::from_secs(seconds);
        let set = |date| file.set_modified(date).expect("its date can be set");
        set(date(100));
        assert!(may_have_changed(), "another date");
        let began = Instant::now();
        assert!(!may_have_changed() || began.elapsed() >= AT_LEAST_EVERY, "nothing new");
        set(date(50));
        assert!(may_have_changed(), "an older date than now, and another one");
        let same = file.metadata().and_then(|data| data.modified()).expect("it has a date");
        file.set_len(10).expect("there is room");
        set(same);
        assert!(may_have_changed(), "another size");
        std::thread::sleep(AT_LEAST_EVERY);
        assert!(may_have_changed(), "a second later");
        set(SystemTime::now() + Duration::from_secs(100));
        assert!(may_have_changed() && may_have_changed(), "a clock that is ahead");
        set(date(50));
        assert!(watch.may_have_changed() && watch.may_have_changed(), "nobody read it");
    }
}
