//! Versions of datasets in an object store: the files of a home's `data/` under the same names, with the same bytes, in
//! a bucket of S3 or of a server that speaks its protocol.
//!
//! It must never show half a version, nor take in a file whose digest is another one, nor change or remove what lies in
//! a bucket: only the catalog is ever replaced, by a put on condition that it is the one that was read.
//!
//! ```text
//! PREFIX/datasets/NAME/objects/HASH.parquet    as at home
//! PREFIX/datasets/NAME/objects/HASH.jsonl      as at home
//! PREFIX/datasets/NAME/versions/N-ID/          as at home; manifest.json is the last
//! PREFIX/datasets/NAME/catalog.json            the versions that count, with the digests of their files
//! ```
//!
//! Start reading at [`push`] and [`pull`], then `catalog` (what counts), `shelf` (one dataset's files) and [`Place`]
//! (where they lie). Everything but `wire` is plain functions, of which each thread runs its requests to their end.

mod catalog;
mod crew;
mod disk;
mod error;
mod place;
mod pull;
mod push;
mod shelf;
mod told;
mod wire;

pub use crew::{OnProgress, Transferred};
pub use error::RemoteError;
pub use place::Place;
pub use pull::{checkout, log, pull, show};
pub use push::push;
pub use shelf::{Moved, MovedVersion};

#[cfg(test)]
mod tests;
