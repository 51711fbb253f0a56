"""Aborted requests on the real model: a short version of aborts.py."""

from aborts import STAGES, measure
from bystander import is_back_to, status_kb, until
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
    is_back_to(server, before["files"])

    def memory_is_given_back():
        return status_kb(server, "VmRSS") <= before["rss_kb"] + (24 << 10)

    until(20, memory_is_given_back)
    assert server.stop() == 0
