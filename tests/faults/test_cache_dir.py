"""The prefix cache on disk: killed while it writes, and without room."""

import random
import signal
import threading
import time

import pytest
from bystander import completion, expected, total, until, whole
from conftest import Server
from test_resources import SmallDisk, SmallFiles

MODEL = "placeholder"


def long_body(i):
    return completion(f"{i} " + "a long prompt that is shared " * 60, 8)


def blocks(folder, end="kv"):
    return [path for path in folder.glob("*/*") if path.name.endswith(end)]


def test_killed_again_and_again_while_it_writes(tmp_path):
    folder, rng = tmp_path / "cache", random.Random(3)
    for round in range(6):
        server = Server(tmp_path / "home", "--model", MODEL, "--cache-dir", str(folder))
        stop = threading.Event()

        def load(server=server, round=round, stop=stop):
            i = 1000 * round
            while not stop.is_set():
                i += 1
                try:
                    status, _, answer = whole(server, long_body(i))
                except OSError:
                    return
                assert answer["choices"][0]["text"] == expected(long_body(i))

        threads = [threading.Thread(target=load) for _ in range(4)]
        [thread.start() for thread in threads]

        def it_writes(server=server):
            return total(server, "lastmile_disk_cache_written_blocks_total") > 20

        until(20, it_writes)
        # The moment of the kill is what is tested.
        time.sleep(rng.uniform(0, 0.2))
        server.process.send_signal(signal.SIGKILL)
        server.process.wait(timeout=20)
        stop.set()
        [thread.join(timeout=30) for thread in threads]
    assert blocks(folder), "nothing was kept"
    # One half of a block, as a kill may leave it behind under any name.
    torn = blocks(folder)[0]
    torn.write_bytes(torn.read_bytes()[:200])
    server = Server(tmp_path / "home", "--model", MODEL, "--cache-dir", str(folder))
    assert not blocks(folder, "tmp"), "what killed writers left is removed"
    # What is read from a slow disk too late is computed: then some more are asked for.
    for n, i in enumerate([1, 2, 1001, 2001, 5001, 3, 4, 1002, 1003, 2002, 2003, 5002]):
        if n >= 5 and total(server, "lastmile_disk_cache_hits_total") > 10:
            break
        status, _, answer = whole(server, long_body(i))
        assert (status, answer["choices"][0]["text"]) == (200, expected(long_body(i)))
    assert total(server, "lastmile_disk_cache_hits_total") > 10
    assert server.stop() == 0


@pytest.fixture(params=[SmallDisk, SmallFiles], ids=["tmpfs", "rlimit"])
def disk(request, tmp_path):
    disk = request.param(tmp_path / "disk")
    yield disk
    disk.close()


def test_the_disk_of_the_cache_is_full(disk, tmp_path):
    folder = disk.home / "cache"
    server = Server(
        tmp_path / "home", "--model", MODEL, "--cache-dir", str(folder), limits=disk.limits
    )
    before = whole(server, long_body(0))[2]

    def it_writes():
        return total(server, "lastmile_disk_cache_written_blocks_total") > 5

    until(10, it_writes)
    disk.fill(server.process)
    for i in range(1, 20):
        status, _, answer = whole(server, long_body(i))
        assert (status, answer["choices"][0]["text"]) == (200, expected(long_body(i)))

    def it_is_counted():
        return total(server, "lastmile_disk_cache_dropped_blocks_total", reason="disk_full") > 5

    until(10, it_is_counted)
    said = [line for line in server.lines if "cannot write to disk; blocks are dropped" in line]
    assert len(said) == 1, "an operator hears of it once"
    disk.free(server.process)
    n_before = total(server, "lastmile_disk_cache_written_blocks_total")

    def it_writes_again():
        whole(server, completion(f"again {time.monotonic()} " + "words " * 200, 1))
        return total(server, "lastmile_disk_cache_written_blocks_total") > n_before

    until(10, it_writes_again)
    assert server.stop() == 0
    server = Server(tmp_path / "home", "--model", MODEL, "--cache-dir", str(folder))
    again = whole(server, long_body(0))[2]
    assert again["choices"] == before["choices"]
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    assert server.stop() == 0
