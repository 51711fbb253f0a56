//! A real PostgreSQL server for tests, of the system's programs. `lm-feedback`'s tests have this file, too: `sql` is the
//! seam, as whoever has it calls it.

use std::io::Write;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::sql::{Connection, Patience};

/// Nobody may read it anywhere. It has what a URL must write otherwise.
pub(super) const PASSWORD: &str = "open:se/s@me?";
const PASSWORD_IN_URL: &str = "open%3Ase%2Fs%40me%3F";

/// A server in a folder of its own, on a Unix socket there.
pub(super) struct Server {
    folder: tempfile::TempDir,
    programs: PathBuf,
    /// Whom it runs as, where the tests run as root, which it refuses.
    user: Option<(u32, u32)>,
}

impl Server {
    /// `None`, and a loud word, where there are no programs.
    pub(super) fn start() -> Option<Server> {
        let Some(programs) = programs() else {
            let mut out = std::io::stderr();
            writeln!(out, "SKIPPED: PostgreSQL is not installed, so nothing was tested on it")
                .unwrap();
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let password = folder.path().join("password");
        std::fs::write(&password, PASSWORD).unwrap();
        let user = is_root().then(|| user("postgres").or_else(|| user("nobody")).unwrap());
        if let Some((uid, gid)) = user {
            chown(folder.path(), Some(uid), Some(gid)).unwrap();
            chown(&password, Some(uid), Some(gid)).unwrap();
        }
        let server = Server { folder, programs, user };
        let (data, file) = (server.data(), password.display().to_string());
        let fixed = ["-U", "lastmile", "-A", "scram-sha-256", "--no-sync", "-E", "UTF8"];
        let locale = ["--locale", "C.UTF-8", "-D", data.as_str(), "--pwfile", file.as_str()];
        server.run("initdb", &[fixed.as_slice(), locale.as_slice()].concat());
        server.start_again();
        Some(server)
    }

    fn data(&self) -> String {
        self.folder.path().join("data").display().to_string()
    }

    pub(super) fn start_again(&self) {
        let options =
            format!("-k {} -c listen_addresses= -c fsync=off", self.folder.path().display());
        let log = self.folder.path().join("log").display().to_string();
        self.run("pg_ctl", &["-D", &self.data(), "-w", "-l", &log, "-o", &options, "start"]);
    }

    pub(super) fn stop(&self) {
        // In order: what a crash may take from telemetry is its last moments, as on a file.
        self.run("pg_ctl", &["-D", &self.data(), "-w", "-m", "fast", "stop"]);
    }

    /// Sends a signal to the process that serves a connection.
    pub(super) fn signal(&self, pid: i64, signal: &str) {
        let status = Command::new("kill").args([signal, &pid.to_string()]).status().unwrap();
        assert!(status.success(), "{signal} did not reach {pid}");
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.current_dir(self.folder.path());
        // The server must not keep the test's pipes open.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let status = self.command(program).args(arguments).status().unwrap();
        assert!(status.success(), "{program} ended with {status}");
    }

    /// Everything that it wrote into its log.
    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// The URL of a database, with a password and parameters.
    pub(super) fn place(&self, password: &str, database: &str) -> String {
        let socket = self.folder.path().display().to_string().replace('/', "%2F");
        format!("postgres://lastmile:{password}@{socket}/{database}")
    }

    pub(super) fn admin(&self) -> Connection {
        connect(&self.place(PASSWORD_IN_URL, "postgres"), Duration::from_secs(60))
    }

    /// The URL of a schema of its own.
    pub(super) fn url(&self, schema: &str) -> PathBuf {
        self.admin().execute_batch(&format!("CREATE SCHEMA IF NOT EXISTS {schema}")).unwrap();
        let admin = self.place(PASSWORD_IN_URL, "postgres");
        PathBuf::from(format!("{admin}?options=-c%20search_path%3D{schema}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A test that failed may have stopped it already.
        let _ =
            self.command("pg_ctl").args(["-D", &self.data(), "-m", "immediate", "stop"]).status();
    }
}

pub(super) fn connect(url: &str, statement: Duration) -> Connection {
    Connection::open_server(url, Patience { statement, lock: statement }).unwrap()
}

/// Debian keeps each version's programs in a folder of its own, out of the path.
fn programs() -> Option<PathBuf> {
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let folders = debian.map(|version| version.path().join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut all = folders.chain(std::env::split_paths(&path));
    all.find(|folder| folder.join("initdb").is_file())
}

fn is_root() -> bool {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0
}

fn user(name: &str) -> Option<(u32, u32)> {
    let users = std::fs::read_to_string(Path::new("/etc/passwd")).unwrap();
    let fields = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let found = fields.into_iter().find(|fields| fields[0] == name)?;
    Some((found[2].parse().ok()?, found[3].parse().ok()?))
}
