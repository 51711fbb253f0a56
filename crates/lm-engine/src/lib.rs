//! The only loop: one thread that takes requests in, runs steps, and hands answers out.
//!
//! It must never know HTTP, JSON, files, model families or tensors, and links neither executor.
//!
//! Start reading at [`Engine::step`]; it is the table of contents of the whole runtime. Models that only read
//! have a loop of their own: [`EncodeHandle`].

mod account;
mod active;
mod adapter;
mod block_store;
mod chronicle;
mod cpu_time;
mod draw;
mod draw_room;
mod encode;
mod engine;
mod exchange;
mod guard;
mod histogram;
mod masks;
mod output;
mod siblings;
mod snapshot;
mod stats;
mod submit;
mod thinking;
mod thread;
mod want;

#[cfg(test)]
mod tests;

pub use active::ServedBy;
pub use adapter::ServedAdapter;
pub use block_store::{
    BlockKeeper, BlockStore, BlockStoreCounters, BlockStoreSnapshot, MovedBlock, NotKept,
    StoreOrder, StoreReport, Unusable, block_store, blocks_on_their_way,
};
pub use encode::{
    EncodeHandle, EncodeLimits, EncodeParts, EncodeReply, EncodeSubmission, EncodeText, Encoded,
};
pub use engine::{Engine, EngineParts, TakeJoules};
pub use histogram::{Histogram, HistogramSnapshot};
pub use output::{Aborter, OutputReader, OutputWriter, output_pair, told};
pub use snapshot::StatsSnapshot;
pub use stats::EngineStats;
pub use submit::NewSubmission;
pub use thinking::ThinkingPlan;
pub use thread::{EngineHandle, EngineOptions};
