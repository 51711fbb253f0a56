//! From files to records: which format a file has, where its records begin and end, and how a record of each
//! format becomes a JSON row.
//!
//! It must never know contracts, and never hold more than one record.
//!
//! Start reading at [`Format`], then [`Framer`](framer::Framer) and [`convert`](convert::convert).

pub(crate) mod convert;
mod csv_record;
pub(crate) mod format;
pub(crate) mod framer;
pub(crate) mod input;
mod mail;
pub(crate) mod opening;
pub(crate) mod parquet_rows;

pub use format::Format;
