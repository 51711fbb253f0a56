//! What the system may tell a server: stop, and read again.
//!
//! It must never be installed by a library.
//!
//! Start reading at [`stop`].

use std::sync::Arc;

use lm_server::Access;

/// The status of a server that was told to stop twice: it could not finish what ran.
const STOPPED_TWICE: i32 = 3;

/// Resolves at SIGTERM or Ctrl-C; a second one ends the process at once. The handlers are in place when
/// this returns.
#[cfg(unix)]
pub(crate) fn stop() -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (first, is_first) = tokio::sync::oneshot::channel::<()>();
    tokio::spawn(async move {
        let mut any = async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        any().await;
        drop(first);
        any().await;
        eprintln!("lastmile: told to stop twice: what runs is given up");
        std::process::exit(STOPPED_TWICE);
    });
    Ok(async {
        // The sender says nothing; it is dropped.
        drop(is_first.await);
    })
}

#[cfg(not(unix))]
pub(crate) fn stop() -> anyhow::Result<impl Future<Output = ()>> {
    Ok(async {
        if tokio::signal::ctrl_c().await.is_err() {
            // Without a handler the system ends the process itself.
            std::future::pending::<()>().await;
        }
        tokio::spawn(async {
            if tokio::signal::ctrl_c().await.is_ok() {
                std::process::exit(STOPPED_TWICE);
            }
        });
    })
}

/// From now on SIGHUP reads keys and certificate again.
#[cfg(unix)]
pub(crate) fn reload_at_hangup(access: &Access) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangup = signal(SignalKind::hangup())?;
    let reload = Arc::clone(&access.reload);
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            reload.notify_one();
        }
    });
    Ok(())
}

#[cfg(not(unix))]
pub(crate) fn reload_at_hangup(_access: &Access) -> anyhow::Result<()> {
    Ok(())
}
