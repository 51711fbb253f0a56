//! CPU time: of this process, and of another one on the same Linux machine.

#[cfg(target_os = "linux")]
use crate::BenchError;

/// Seconds of CPU that this process has used; 0 where the system does not say.
pub(crate) fn own_seconds() -> f64 {
    #[cfg(unix)]
    {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
    }
    #[cfg(not(unix))]
    0.0
}

/// Seconds of CPU that process `pid` has used, in user and kernel mode, all threads together.
///
/// # Errors
/// There is no such process, or it may not be looked at.
#[cfg(target_os = "linux")]
pub(crate) fn seconds_of(pid: u32) -> Result<f64, BenchError> {
    let path = std::path::PathBuf::from(format!("/proc/{pid}/stat"));
    let text = std::fs::read_to_string(&path)
        .map_err(|source| BenchError::Read { path: path.clone(), source })?;
    // The name in parentheses may hold anything; utime and stime are the 12th and 13th after it.
    let after = text.rsplit_once(')').map_or("", |(_, after)| after);
    let ticks: Vec<u64> =
        after.split_whitespace().skip(11).take(2).filter_map(|text| text.parse().ok()).collect();
    let [user, system] = ticks[..] else {
        let problem = "holds no CPU times".to_owned();
        return Err(BenchError::Server { url: path.display().to_string(), problem });
    };
    Ok((user + system) as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Only Linux says what another process used.
///
/// # Errors
/// Always.
#[cfg(not(target_os = "linux"))]
pub(crate) fn seconds_of(pid: u32) -> Result<f64, crate::BenchError> {
    Err(crate::error::invalid("server_pid", pid, "left out: only Linux says what a process used"))
}
