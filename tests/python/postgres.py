"""A real PostgreSQL server in a folder of its own, of the system's programs."""

import os
import pwd
import shutil
import subprocess
from pathlib import Path
from urllib.parse import quote

# What a URL must write otherwise, so that whoever shows the URL shows it.
PASSWORD = "open:se/s@me?"


def programs():
    """Where the programs are; Debian keeps each version's out of the path."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = [folder for folder in folders if (folder / "initdb").is_file()]
    named = shutil.which("initdb")
    return found[0] if found else (Path(named).parent if named else None)


class Postgres:
    """Reached by a Unix socket in its folder, and where `options` say so."""

    def __init__(self, folder, options=""):
        self.folder, self.options = Path(folder), options
        self.data, self.log = self.folder / "data", self.folder / "log"
        # It refuses to run as root.
        self.user = pwd.getpwnam("postgres") if os.getuid() == 0 else None
        self.folder.mkdir()
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        if self.user:
            for path in [self.folder, secret]:
                os.chown(path, self.user.pw_uid, self.user.pw_gid)
        self._run("initdb", "-D", self.data, "-U", "lastmile", "-A", "scram-sha-256", "--pwfile", secret,
                  "-E", "UTF8", "--locale", "C.UTF-8", "--no-sync")
        self.start()

    def start(self):
        options = f"-k {self.folder} -c listen_addresses= -c fsync=off {self.options}"
        self._run("pg_ctl", "-D", self.data, "-w", "-l", self.log, "-o", options, "start")

    def stop(self, mode="fast"):
        self._run("pg_ctl", "-D", self.data, "-w", "-m", mode, "stop")

    def url(self, password=PASSWORD, database="postgres"):
        return f"postgres://lastmile:{quote(password, safe='')}@{quote(str(self.folder), safe='')}/{database}"

    def rows(self, sql):
        """What a query gives, as text: a list of rows of columns."""
        environment = os.environ | {"PGPASSWORD": PASSWORD}
        command = [programs() / "psql", "-h", self.folder, "-U", "lastmile", "-d", "postgres", "-AtF", "\t", "-c", sql]
        said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert said.returncode == 0, said.stderr
        return [line.split("\t") for line in said.stdout.splitlines()]

    def own(self, *names):
        """Files in its folder that it alone may read."""
        for path in [self.folder / name for name in names]:
            path.chmod(0o600)
            if self.user:
                os.chown(path, self.user.pw_uid, self.user.pw_gid)

    def _run(self, program, *arguments):
        identity = {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []} if self.user else {}
        # The server must not keep this process's pipes open.
        done = subprocess.run([programs() / program, *arguments], cwd=self.folder, stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120, **identity)
        assert done.returncode == 0, f"{program} ended with {done.returncode}"
