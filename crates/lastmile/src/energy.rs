//! What the machine draws, as its processors' own counters say (RAPL, read by Linux' powercap).
//!
//! It must never guess: what cannot be read is `None`.
//!
//! Start reading at [`EnergyMeter::open`].

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use lm_engine::TakeJoules;

/// Where the kernel shows its counters, unless [`POWERCAP_VARIABLE`] says otherwise.
const POWERCAP: &str = "/sys/class/powercap";
/// Another place, such as the host's counters in a container.
const POWERCAP_VARIABLE: &str = "LASTMILE_POWERCAP";

/// Reads the energy counters of a machine's processor packages and memory.
#[derive(Debug)]
pub struct EnergyMeter(Mutex<Vec<Zone>>);

/// One counter.
#[derive(Debug)]
struct Zone {
    file: File,
    last_uj: u64,
    /// The counter's greatest value; then it begins at 0 again.
    range_uj: u64,
}

/// Why energy cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum EnergyError {
    /// No counter of a package or of memory.
    #[error("{} has no energy counter of a processor package", .path.display())]
    NoCounter {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A counter is there, but cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    Unreadable {
        /// The counter.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl EnergyMeter {
    /// The meter that all engines of this process share; `None` where energy cannot be read.
    #[must_use]
    pub fn of_this_machine() -> Option<Arc<Self>> {
        static METER: LazyLock<Option<Arc<EnergyMeter>>> = LazyLock::new(|| {
            let path = std::env::var_os(POWERCAP_VARIABLE).map_or(POWERCAP.into(), PathBuf::from);
            match EnergyMeter::open(&path) {
                Ok(meter) => Some(Arc::new(meter)),
                Err(error) => {
                    tracing::debug!(%error, "joules are unavailable");
                    None
                }
            }
        });
        METER.clone()
    }

    /// The meter as engines take it.
    pub(crate) fn taken_by_engines(meter: Arc<Self>) -> TakeJoules {
        Arc::new(move || meter.take())
    }

    /// Opens the counters below `powercap`. All of them must be readable, or sums would be wrong.
    ///
    /// # Errors
    /// There is none, or one cannot be read, as is usual without privileges.
    pub fn open(powercap: &Path) -> Result<Self, EnergyError> {
        let unreadable =
            |path: &Path, source| EnergyError::Unreadable { path: path.to_owned(), source };
        let none = || EnergyError::NoCounter { path: powercap.to_owned() };
        let mut zones = Vec::new();
        for entry in fs::read_dir(powercap).map_err(|_| none())?.flatten() {
            let folder = entry.path();
            // `intel-rapl-mmio:0` counts again what `intel-rapl:0` does.
            let is_rapl = entry.file_name().to_string_lossy().starts_with("intel-rapl:");
            let name = fs::read_to_string(folder.join("name")).unwrap_or_default();
            if !is_rapl || !(name.starts_with("package") || name.trim() == "dram") {
                continue;
            }
            let range_path = folder.join("max_energy_range_uj");
            let range = fs::read_to_string(&range_path).and_then(|text| number(&text));
            let path = folder.join("energy_uj");
            let opened = File::open(&path).and_then(|file| Ok((read(&file)?, file)));
            let (last_uj, file) = opened.map_err(|error| unreadable(&path, error))?;
            let range_uj = range.map_err(|error| unreadable(&range_path, error))?;
            zones.push(Zone { file, last_uj, range_uj });
        }
        if zones.is_empty() { Err(none()) } else { Ok(EnergyMeter(Mutex::new(zones))) }
    }

    /// Joules since the last call, or since the meter was opened; `None` when a counter could not be read.
    #[must_use]
    pub fn take(&self) -> Option<f64> {
        let mut zones = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sum_uj = Some(0);
        for zone in zones.iter_mut() {
            let spent = read(&zone.file).ok().map(|now_uj| zone.advance(now_uj));
            sum_uj = sum_uj.zip(spent).map(|(sum, spent)| sum + spent);
        }
        sum_uj.map(|sum_uj| sum_uj as f64 / 1e6)
    }
}

impl Zone {
    fn advance(&mut self, now_uj: u64) -> u64 {
        let before_uj = std::mem::replace(&mut self.last_uj, now_uj);
        match now_uj.checked_sub(before_uj) {
            Some(spent_uj) => spent_uj,
            None => self.range_uj.saturating_sub(before_uj) + now_uj,
        }
    }
}

#[cfg(unix)]
fn read(file: &File) -> io::Result<u64> {
    let mut bytes = [0; 32];
    let n_bytes = std::os::unix::fs::FileExt::read_at(file, &mut bytes, 0)?;
    number(&String::from_utf8_lossy(&bytes[..n_bytes]))
}

#[cfg(not(unix))]
fn read(_file: &File) -> io::Result<u64> {
    Err(io::ErrorKind::Unsupported.into())
}

fn number(text: &str) -> io::Result<u64> {
    text.trim().parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    /// A zone as the kernel shows it.
    fn zone(root: &Path, folder: &str, name: &str, energy_uj: u64) {
        let folder = root.join(folder);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("name"), format!("{name}\n")).unwrap();
        fs::write(folder.join("max_energy_range_uj"), "1000000\n").unwrap();
        fs::write(folder.join("energy_uj"), format!("{energy_uj}\n")).unwrap();
    }

    #[test]
    fn packages_and_memory_are_summed_and_counters_begin_again() {
        let root = tempfile::tempdir().unwrap();
        zone(root.path(), "intel-rapl:0", "package-0", 900_000);
        zone(root.path(), "intel-rapl:0:0", "core", 5);
        zone(root.path(), "intel-rapl:0:1", "dram", 10);
        zone(root.path(), "intel-rapl-mmio:0", "package-0", 900_000);
        let meter = EnergyMeter::open(root.path()).unwrap();
        assert_eq!(meter.take(), Some(0.0));
        zone(root.path(), "intel-rapl:0", "package-0", 950_000);
        zone(root.path(), "intel-rapl:0:0", "core", 40_000);
        zone(root.path(), "intel-rapl:0:1", "dram", 1_010);
        assert_eq!(meter.take(), Some(0.051));
        zone(root.path(), "intel-rapl:0", "package-0", 20_000);
        assert_eq!(meter.take(), Some(0.07));
        assert_eq!(meter.take(), Some(0.0));
        fs::write(root.path().join("intel-rapl:0/energy_uj"), "what?").unwrap();
        assert_eq!(meter.take(), None);
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let root = tempfile::tempdir().unwrap();
        zone(root.path(), "intel-rapl:0:0", "core", 5);
        for path in [root.path().to_owned(), root.path().join("gone")] {
            assert!(matches!(EnergyMeter::open(&path), Err(EnergyError::NoCounter { .. })));
        }
        zone(root.path(), "intel-rapl:0", "package-0", 5);
        fs::remove_file(root.path().join("intel-rapl:0/energy_uj")).unwrap();
        assert!(matches!(EnergyMeter::open(root.path()), Err(EnergyError::Unreadable { .. })));
    }
}
