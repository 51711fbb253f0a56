//! What this machine gives the executor: the bandwidth of memory, and products by storage type.

use lm_kernels::{Isa, Pool, probe};
use lm_models::TensorType;

use crate::matrix::stored_type;

use crate::arena::Arena;
use crate::backend::default_n_threads;
use crate::{CpuOptions, LoadError};

/// Bytes that are scanned: several times the caches of most machines.
const SCANNED_BYTES: usize = 256 << 20;
/// Rows of activations at which a product runs at its full rate.
const ROWS: [usize; 2] = [8, 32];

/// Measures the rates that bound a step, with the threads, the instruction set and the kind of memory
/// that [`crate::CpuBackend`] has under the same options.
#[derive(Debug)]
pub struct MachineProbe {
    isa: Isa,
    pool: Pool,
    memory: Arena<u8>,
}

impl MachineProbe {
    /// Starts the threads, and takes 256 MiB for the scan.
    ///
    /// # Errors
    /// An unknown instruction set, or no room.
    pub fn new(options: &CpuOptions) -> Result<Self, LoadError> {
        let isa = Isa::detect_capped(options.isa_cap.as_deref()).map_err(LoadError::Isa)?;
        let pool = Pool::new(options.n_threads.unwrap_or_else(default_n_threads));
        let mut memory = Arena::new(SCANNED_BYTES)?;
        // A page that was never written to is not memory yet.
        memory.fill(1);
        Ok(MachineProbe { isa, pool, memory })
    }

    /// Threads that measure, and that the executor has.
    #[must_use]
    pub fn n_threads(&self) -> usize {
        self.pool.n_threads()
    }

    /// GB/s of a scan of 256 MiB on huge pages, by all threads.
    pub fn bandwidth_gb_per_s(&mut self) -> f64 {
        probe::scan_rate(&mut self.pool, &self.memory)
    }

    /// GMAC/s of products with weights of a storage type, in cache, by all threads at once: the better
    /// of 8 and 32 rows. `None` for a type without a kernel.
    pub fn gmac_per_s(&mut self, dtype: TensorType) -> Option<f64> {
        let weight = stored_type(dtype)?.packed();
        let (pool, isa) = (&mut self.pool, self.isa);
        Some(ROWS.map(|m| probe::gemm_rate(pool, isa, weight, m)).into_iter().fold(0.0, f64::max))
    }
}
