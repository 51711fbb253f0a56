"""Aborted requests on the real model: a short version of aborts.py."""

from aborts import STAGES, measure
from conftest import Server


def test_aborted_requests_leave_nothing_behind(home):
    server = Server(
        home, "--model", "smollm2-135m-instruct", "--offline", "--kv-memory", "128",
        "--max-num-seqs", "16",
    )  # fmt: skip
    found = measure(server, 300, n_clients=24)
    assert sum(found["left_at"].values()) == 300 and found["aborted_by_the_engine"] > 100, found
    assert all(found["left_at"][stage] > 0 for stage in STAGES), found
    before, after = found["before"], found["after"]
    assert after["free_blocks"] == before["free_blocks"], found
    assert after["files"] <= before["files"], found
    assert after["rss_kb"] <= before["rss_kb"] + (24 << 10), found
    assert server.stop() == 0
