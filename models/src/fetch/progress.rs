//! How long work is told to whoever waits for it.
//!
//! It must never draw: the command line does.
//!
//! Start reading at [`Progress`].

/// Told of each part of the work, from one thread.
pub trait Progress: Send + Sync {
    /// A part begins. `total_bytes` is known for downloads and joins, not for package installers.
    fn begin(&self, what: &str, total_bytes: Option<u64>);
    /// So many bytes of the part are done, in all.
    fn advance(&self, done_bytes: u64);
    /// Something worth a line: a source was passed over, another pull is waited for.
    fn note(&self, line: &str);
    /// The part is over, well or not.
    fn end(&self);
}

/// Tells nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn begin(&self, _what: &str, _total_bytes: Option<u64>) {}
    fn advance(&self, _done_bytes: u64) {}
    fn note(&self, _line: &str) {}
    fn end(&self) {}
}
