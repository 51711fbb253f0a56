//! One message to a program of the operator's, once: on its standard input, without a shell.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::sinks::{Delivery, Later, Message};

/// How often a program is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// By sysexits.h: a failure that may pass.
const EX_TEMPFAIL: i32 = 75;

/// A program.
pub(crate) struct CommandSink(pub(crate) PathBuf);

impl CommandSink {
    /// Its group is killed after `timeout`, or when `is_over`.
    pub(crate) fn run(
        &self,
        message: &Message,
        timeout: Duration,
        is_over: &dyn Fn() -> bool,
    ) -> Delivery {
        let later = |why: String| Delivery::Later(Later { why, ..Later::default() });
        let mut child = match self.spawn(message) {
            Ok(child) => child,
            Err(error) => return later(format!("it cannot be started: {error}")),
        };
        let deadline = Instant::now() + timeout;
        if let Some(mut stdin) = child.stdin.take() {
            let body = message.body.clone();
            // A program that does not read keeps this thread until its group is killed, and nobody else; it is
            // asked for its exit status all the same.
            std::thread::spawn(move || _ = stdin.write_all(body.as_bytes()));
        }
        loop {
            match child.try_wait() {
                Ok(Some(status)) => return self.ended(status, message),
                Ok(None) if Instant::now() < deadline && !is_over() => {
                    std::thread::sleep(LOOK_EVERY);
                }
                Ok(None) => {
                    kill_group(&mut child);
                    return later(match is_over() {
                        true => "it was killed, as the server ends".to_owned(),
                        false => format!("it was killed after {:.1} s", timeout.as_secs_f64()),
                    });
                }
                Err(error) => {
                    kill_group(&mut child);
                    return later(format!("it cannot be waited for: {error}"));
                }
            }
        }
    }

    /// A program gets the environment without what is this server's alone: that holds keys.
    fn spawn(&self, message: &Message) -> std::io::Result<Child> {
        let mut command = Command::new(&self.0);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"LASTMILE_") {
                command.env_remove(name);
            }
        }
        command.env("LASTMILE_ALERT_ID", &message.id);
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.spawn()
    }

    fn ended(&self, status: ExitStatus, message: &Message) -> Delivery {
        let (program, id) = (self.0.display(), &message.id);
        tracing::info!(%program, id, %status, "an alert's program ended");
        match status.code() {
            Some(0) => Delivery::Taken,
            // None: a signal killed it.
            Some(EX_TEMPFAIL) | None => Delivery::Later(Later {
                why: format!("it ended with {status}"),
                ..Later::default()
            }),
            Some(_) => Delivery::Refused { why: format!("it ended with {status}") },
        }
    }
}

/// Whoever is gone already cannot be killed, and that is well.
fn kill_group(child: &mut Child) {
    #[cfg(unix)]
    {
        use rustix::process::{Pid, Signal, kill_process_group};
        // It leads a group of its own, and is not waited for yet, so that its number is nobody else's.
        let _killed = kill_process_group(Pid::from_child(child), Signal::KILL);
    }
    let _killed = child.kill();
    let _waited = child.wait();
}
