//! What the process has spent so far.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

pub(crate) fn process_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}
