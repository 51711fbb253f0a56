//! What an executor is to the engine.

use lm_types::BlockIdx;

use crate::{Batch, LogitsBuf};

/// Runs a decoder over a ragged batch. Owns weights and KV memory, knows no sequence.
pub trait Backend: Send {
    /// What the engine must know to schedule for this backend. Constant.
    fn spec(&self) -> &BackendSpec;

    /// Runs one step: writes K and V of every token of `batch` to its slot, then fills one row of
    /// `logits` for each of `batch.sample_rows`, `[n_sample_rows, vocab_size]` f32.
    ///
    /// A row's logits depend on the tokens that its block table leads to and on its sequence's adapter, and on
    /// nothing else.
    ///
    /// # Errors
    /// The step failed as a whole. The KV of its tokens is then undefined; older KV is intact.
    fn execute(&mut self, batch: &Batch, logits: &mut LogitsBuf) -> Result<(), BackendError>;

    /// Runs one step as [`Backend::execute`] does, as long as somebody wants what it computes: `is_wanted` is asked now and
    /// then, on this thread. A backend that never asks is right, too.
    ///
    /// # Errors
    /// `GivenUp` when nobody did any more; otherwise those of [`Backend::execute`]. The KV of the step's tokens is
    /// undefined after each of them.
    fn execute_while(
        &mut self,
        batch: &Batch,
        logits: &mut LogitsBuf,
        _is_wanted: &dyn Fn() -> bool,
    ) -> Result<(), BackendError> {
        self.execute(batch, logits)
    }

    /// Bytes of one KV block where blocks can be moved out and in; `None` where they cannot.
    fn movable_block_bytes(&self) -> Option<usize> {
        None
    }

    /// Copies the K and V of a block out. bytes: `[movable_block_bytes]`
    ///
    /// # Errors
    /// `NotMovable`, or another length.
    fn export_block(&self, _block: BlockIdx, _bytes: &mut [u8]) -> Result<(), BackendError> {
        Err(BackendError::NotMovable)
    }

    /// Copies the K and V of a block in, to the same bits that were computed. bytes: `[movable_block_bytes]`
    ///
    /// # Errors
    /// `NotMovable`, or another length.
    fn import_block(&mut self, _block: BlockIdx, _bytes: &[u8]) -> Result<(), BackendError> {
        Err(BackendError::NotMovable)
    }
}

/// The facts of a loaded backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendSpec {
    /// The executor and its numeric path, such as `candle-cpu-f32`. Part of the release.
    pub kernel_path: String,
    /// The type that K and V are stored in, such as `f32`. Part of the release.
    pub kv_type: &'static str,
    /// Whether a row's logits have the same bits whatever rows are beside it. Without that nothing is guessed ahead.
    pub rows_are_exact: bool,
    /// Entries of the vocabulary: the length of a row of logits.
    pub vocab_size: usize,
    /// Positions in one KV block.
    pub block_size: usize,
    /// KV blocks in the pool.
    pub n_blocks: usize,
    /// Longest sequence, prompt and answer together.
    pub max_model_len: usize,
    /// Bytes of resident weights.
    pub weights_bytes: u64,
    /// Bytes of the KV pool.
    pub kv_bytes: u64,
}

/// A step that failed as a whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// The compute library or device failed.
    #[error("{message}")]
    Compute {
        /// What it said.
        message: String,
    },
    /// The KV of this backend stays where it is.
    #[error("this backend cannot move KV blocks out of its cache and back")]
    NotMovable,
    /// The bytes of another kind of block.
    #[error("a KV block has {wanted} bytes, but {found} were given")]
    BlockLength {
        /// Bytes of a block here.
        wanted: usize,
        /// What was given.
        found: usize,
    },
    /// The step was not computed to its end.
    #[error("nobody wants what the step computes any more")]
    GivenUp,
    /// A failure that was asked for.
    #[error("failure injected at step {step}")]
    Injected {
        /// Counted from 1.
        step: u64,
    },
}

impl BackendError {
    /// # Errors
    /// `BlockLength` when they differ.
    pub fn check_block(wanted: usize, found: usize) -> Result<(), BackendError> {
        if wanted == found { Ok(()) } else { Err(BackendError::BlockLength { wanted, found }) }
    }
}
