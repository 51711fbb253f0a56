//! What systemd is told: that the server is ready, stops, and lives.
//!
//! It must never wait, and never fail the server: where nobody listens, nothing is said.
//!
//! Start reading at [`ServiceManager::from_env`]. Source of the protocol: sd_notify(3).

use std::time::Duration;

/// The service manager that started this process; often nobody.
#[derive(Debug, Default)]
pub struct ServiceManager {
    #[cfg(unix)]
    socket: Option<(std::os::unix::net::UnixDatagram, std::os::unix::net::SocketAddr)>,
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// The one of `NOTIFY_SOCKET`, with the patience of `WATCHDOG_USEC` where that is meant for this
    /// process.
    #[must_use]
    pub fn from_env() -> Self {
        let own = std::process::id().to_string();
        let is_meant = std::env::var("WATCHDOG_PID").map_or(true, |pid| pid == own);
        let micros = std::env::var("WATCHDOG_USEC").ok().filter(|_| is_meant);
        let micros = micros.and_then(|text| text.parse().ok()).filter(|&micros| micros > 0);
        let watchdog = micros.map(Duration::from_micros);
        match std::env::var_os("NOTIFY_SOCKET") {
            Some(name) => ServiceManager::at(&name, watchdog),
            None => ServiceManager::default(),
        }
    }

    /// How long it waits for a sign of life; `None` when it does not.
    pub(crate) fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    pub(crate) fn say_ready(&self) {
        self.say("READY=1");
    }

    pub(crate) fn say_stopping(&self) {
        self.say("STOPPING=1");
    }

    pub(crate) fn say_alive(&self) {
        self.say("WATCHDOG=1");
    }

    /// [`ServiceManager::say_ready`] must follow.
    pub(crate) fn say_reloading(&self) {
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_micros()));
    }
}

#[cfg(unix)]
impl ServiceManager {
    /// The one that listens at a path, or at a name that begins with `@`.
    pub(crate) fn at(name: &std::ffi::OsStr, watchdog: Option<Duration>) -> Self {
        use std::os::unix::net::UnixDatagram;
        let opened = address(name).and_then(|address| {
            let socket = UnixDatagram::unbound()?;
            socket.set_nonblocking(true)?;
            Ok((socket, address))
        });
        let socket = opened
            .inspect_err(|error| tracing::warn!(%error, "the service manager cannot be told"))
            .ok();
        ServiceManager { socket, watchdog }
    }

    fn say(&self, state: &str) {
        let Some((socket, address)) = &self.socket else { return };
        if let Err(error) = socket.send_to_addr(state.as_bytes(), address) {
            tracing::warn!(%error, state, "the service manager was not told");
        }
    }
}

#[cfg(unix)]
fn address(name: &std::ffi::OsStr) -> std::io::Result<std::os::unix::net::SocketAddr> {
    use std::os::unix::net::SocketAddr;
    #[cfg(target_os = "linux")]
    if let Some(rest) = std::os::unix::ffi::OsStrExt::as_bytes(name).strip_prefix(b"@") {
        return <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(rest);
    }
    SocketAddr::from_pathname(name)
}

#[cfg(unix)]
fn monotonic_micros() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec.unsigned_abs() * 1_000_000 + time.tv_nsec.unsigned_abs() / 1000
}

#[cfg(not(unix))]
impl ServiceManager {
    fn at(_name: &std::ffi::OsStr, _watchdog: Option<Duration>) -> Self {
        ServiceManager::default()
    }

    fn say(&self, _state: &str) {}
}

#[cfg(not(unix))]
fn monotonic_micros() -> u64 {
    0
}
