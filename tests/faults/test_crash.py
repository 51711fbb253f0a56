"""A server that is killed under load, again and again, in one home."""

import contextlib
import http.client
import json
import random
import signal
import sqlite3
import threading

from bystander import (
    Broken,
    completion,
    expected,
    stream,
    total,
    until,
    whole,
)
from conftest import Server, run

N_CLIENTS = 6
N_KILLS = 3
# The most rows that the store's writer commits at once.
MAX_GROUP = 512


class Load(threading.Thread):
    """A client that asks until the server is gone. `answered` is what it got whole."""

    def __init__(self, server, number, answered):
        super().__init__(daemon=True)
        self.server, self.number, self.answered, self.wrong = server, number, answered, []

    def run(self):
        i = 0
        with contextlib.suppress(OSError):
            while True:
                body = completion(f"client {self.number} asks {i % 5}", 20)
                status, headers, answer = whole(self.server, body)
                text = answer["choices"][0]["text"] if status == 200 else None
                if text != expected(body):
                    self.wrong.append((status, answer))
                self.answered.append(headers["x-request-id"])
                i += 1


def stored(server):
    path = server.home / "store" / "lastmile.db"
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as store:
        assert store.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return {row[0] for row in store.execute("SELECT request_id FROM attempt")}


def test_killed_at_random_points_it_starts_again_in_the_same_home(tmp_path):
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    print(f"seed {seed}")
    bystander = completion("before and after", 30)
    # Their answers are known before the load, which is then nothing but load.
    bodies = [completion(f"client {c} asks {i}", 20) for c in range(N_CLIENTS) for i in range(5)]
    [expected(body) for body in bodies]
    acknowledged = set()
    for kill in range(N_KILLS):
        server = Server(tmp_path, "--model", "placeholder:delay_us=1000")
        assert stream(server, bystander) == expected(bystander)
        answered = []
        load = [Load(server, number, answered) for number in range(N_CLIENTS)]
        [client.start() for client in load]
        n_first, n_more = rng.randrange(20, 60), rng.randrange(60)

        def some_are_stored(n=n_first):
            return total(server, "lastmile_store_recorded_total") > n and len(answered) >= n

        until(20, some_are_stored)
        # These were answered and, by the server's own count, stored. What is answered from here on
        # may wait for the writer when the kill comes.
        known = answered[:n_first]

        def all_known_are_stored(known=known):
            return set(known) <= stored(server)

        until(20, all_known_are_stored)
        n_now = len(answered)

        def the_random_point_has_come(n=n_now + n_more):
            return len(answered) >= n

        until(20, the_random_point_has_come)
        broken = []
        victim = threading.Thread(target=cut_off, args=(server, bystander, broken))
        victim.start()
        assert server.stop(signal.SIGKILL) == -signal.SIGKILL
        victim.join(timeout=20)
        assert broken == ["told"], "a client cannot take a cut answer for a whole one"
        [client.join(timeout=20) for client in load]
        assert not [wrong for client in load for wrong in client.wrong]
        acknowledged |= set(known)

        doctor = run(tmp_path, "doctor", "--json")
        assert doctor.returncode in (0, 1), doctor.stderr
        runs = json.loads(doctor.stdout)["runs"]
        assert [one["state"] for one in runs] == ["crashed"] * (kill + 1)
        assert acknowledged <= stored(server)
        # What the writer had not committed is lost: the newest answers, and no more than a group of them. Of those
        # noted behind the first lost one, each other client may have got one before it.
        there = stored(server)
        lost = [i for i, one in enumerate(answered) if one not in there]
        later = [one for one in answered[lost[0] :] if one in there] if lost else []
        assert len(lost) <= MAX_GROUP and len(later) < N_CLIENTS, (len(answered), lost)

    server = Server(tmp_path, "--model", "placeholder:delay_us=1000")
    assert stream(server, bystander) == expected(bystander)
    runs = json.loads(run(tmp_path, "doctor", "--json").stdout)["runs"]
    assert [one["state"] for one in runs] == ["running"] + ["crashed"] * N_KILLS
    assert acknowledged <= stored(server)
    assert server.stop() == 0
    assert "CRASHED" in run(tmp_path, "doctor").stdout


def cut_off(server, body, told):
    """Notes that a client learns of the server's end: the text alone would look whole."""
    try:
        while True:
            stream(server, body | {"max_tokens": 2000})
    except (Broken, OSError, http.client.HTTPException) as error:
        assert not isinstance(error, Broken) or error.error is None, error
        told.append("told")
