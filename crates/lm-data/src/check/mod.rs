//! What makes a row bad: the contract, its rules, and what each wants.
//!
//! It must never change a row, and never do I/O but for reading the contract.
//!
//! Start reading at [`row::check`], then [`contract::Contract`].

mod column;
pub(crate) mod contract;
pub(crate) mod json;
pub(crate) mod language;
pub(crate) mod minhash;
pub(crate) mod row;
pub(crate) mod rule;
pub(crate) mod text;

pub(crate) use column::get as column_value;
pub(crate) use contract::Contract;
pub use contract::tokenizer_of;
pub(crate) use rule::{Repair, Violation};
