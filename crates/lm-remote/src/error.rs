//! Every way in which a place can refuse: which key, which status, and what to do.
//!
//! It must never hold a secret, nor a row.
//!
//! Start reading at [`RemoteError`].

use lm_data::DataError;

/// Why versions could not be moved.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The home could not do its part.
    #[error(transparent)]
    Data(#[from] DataError),
    /// No place, as it is written.
    #[error(
        "{place:?} is no place for datasets ({detail}): write s3://BUCKET or s3://BUCKET/PREFIX"
    )]
    InvalidPlace {
        /// What was given.
        place: String,
        /// What is wrong.
        detail: String,
    },
    /// A variable of the environment that cannot be used.
    #[error("{variable} is {value:?}: {detail}")]
    InvalidSetting {
        /// The variable.
        variable: &'static str,
        /// Its value.
        value: String,
        /// What is wrong, and what may be.
        detail: String,
    },
    /// The settings as a whole give no access, or this machine has no thread for it.
    #[error("{place} cannot be used: {detail}")]
    Unusable {
        /// The place.
        place: String,
        /// What is wrong.
        detail: String,
    },
    /// The store refused, failed or could not be reached.
    #[error("cannot {action} {key}: {detail}{advice}")]
    Store {
        /// What was tried.
        action: &'static str,
        /// The object.
        key: String,
        /// HTTP's, when there was an answer.
        status: Option<u16>,
        /// What the store or the connection says.
        detail: String,
        /// What to do, with what separates it; empty when nothing is known.
        advice: &'static str,
    },
    /// No version of this dataset was ever pushed there.
    #[error(
        "there is no dataset {name} in {place}: `lastmile data push {name} {place}` puts it there"
    )]
    UnknownDataset {
        /// The dataset.
        name: String,
        /// The place.
        place: String,
    },
    /// No version there has this id, or several begin with it.
    #[error(
        "{n_matches} versions of dataset {name} in {place} begin with {version:?}, and 1 is needed"
    )]
    UnknownVersion {
        /// The dataset.
        name: String,
        /// The place.
        place: String,
        /// The id or its beginning.
        version: String,
        /// How many fit.
        n_matches: usize,
    },
    /// An object that a version has is not there.
    #[error("{key} is missing: push its version again from a home that has it")]
    Missing {
        /// The object.
        key: String,
    },
    /// An object is not what its version says.
    #[error(
        "{key} is damaged: {detail}; remove it, and push its version again from a home that has it"
    )]
    Damaged {
        /// The object.
        key: String,
        /// What is wrong.
        detail: String,
    },
    /// A catalog cannot be understood.
    #[error(
        "{key} is damaged: {detail}. It says which versions count, so do not remove it: put an \
         earlier state of it in its place, or push to another prefix"
    )]
    DamagedCatalog {
        /// The catalog.
        key: String,
        /// What is wrong.
        detail: String,
    },
    /// A newer version of this program wrote a catalog.
    #[error("{key} is of format {format}, and this program knows {known}: update lastmile")]
    Newer {
        /// The catalog.
        key: String,
        /// Its format.
        format: u32,
        /// The newest that this program reads.
        known: u32,
    },
    /// An object that is read as a whole is larger than that.
    #[error(
        "{key} has {size_bytes} bytes, of which this program reads at most {max_bytes}: update \
         lastmile, or push to another prefix"
    )]
    TooLarge {
        /// The object.
        key: String,
        /// Its size.
        size_bytes: u64,
        /// What is read at most.
        max_bytes: u64,
    },
    /// What nobody could read would have to be written.
    #[error("{key} cannot be written: {detail}; the version was not published")]
    Unlistable {
        /// The object.
        key: String,
        /// Why nobody could.
        detail: String,
    },
    /// What the catalog lists is not what the version's id stands for.
    #[error(
        "{key} is not what the id of its version stands for: {detail}; nothing was taken in, and a \
         push does not mend it. See who may write there, and push to another prefix from a home \
         that has the version"
    )]
    Untrue {
        /// The object.
        key: String,
        /// What is wrong.
        detail: String,
    },
    /// The version does not follow those that are there.
    #[error(
        "version {sequence} of {name} ({version:.12}) does not belong to the line of versions in \
         {place}, whose version {there_sequence} is {there:.12}: the two were made apart from each \
         other; nothing was pushed. Push it under another prefix, or pull that line into another \
         home and ingest there"
    )]
    Diverged {
        /// The dataset.
        name: String,
        /// The place.
        place: String,
        /// The number of the version to push.
        sequence: u64,
        /// Its id.
        version: String,
        /// The number of the version there that it cannot stand beside.
        there_sequence: u64,
        /// Its id.
        there: String,
    },
    /// Another push of the same version, of other sources, came first and did not end.
    #[error(
        "{key} belongs to another push of the same version that has not ended: let it end; when it \
         never will, remove the key and push again"
    )]
    Claimed {
        /// The object.
        key: String,
    },
    /// The store takes a put whose condition does not hold.
    #[error(
        "{place} ignores {header}, without which two that push at once could destroy each other's \
         work: nothing was published. Another store, or a newer version of this one, is needed"
    )]
    NoConditions {
        /// The place.
        place: String,
        /// What it ignores.
        header: &'static str,
    },
    /// Others replaced the catalog again and again.
    #[error("{key} was replaced by others {tries} times in a row: push again")]
    Busy {
        /// The catalog.
        key: String,
        /// How often it was tried.
        tries: u32,
    },
}
