"""Clients that leave, stand still, say nothing, or come all at once."""

import asyncio
import contextlib
import itertools
import json
import re
import threading
import time

import pytest
from bystander import (
    PATIENCE_S,
    at_rest,
    completion,
    connect,
    expected,
    is_back_to,
    leave,
    message,
    n_files,
    nobody_notices,
    open_connections,
    port_of,
    read_to_end,
    read_until,
    status_kb,
    statuses,
    stream,
    total,
    until,
    whole,
)
from conftest import Server

# A prompt of 4,000 tokens takes half a second to its first token; a token takes 2 ms.
MODEL = "placeholder:delay_us=2000,delay_per_token_us=100"
# The server's limit for a request head.
HEAD_TIMEOUT_S = 15
LONG_PROMPT = [300 + i % 200 for i in range(4000)]
FRESH = itertools.count(300)
SMALL = completion("one of many", 8)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("clients"), "--model", MODEL, "--write-timeout", "1")
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="module", autouse=True)
def silent(tmp_path_factory):
    """Clients that began to be silent before the first of these tests; the last one looks at them."""
    server = Server(tmp_path_factory.mktemp("silent"), "--model", MODEL)
    assert stream(server, SMALL) == expected(SMALL)
    n_before = at_rest(server)
    begun = {
        "nothing": b"",
        "half of the request line": b"GET /ver",
        "half of the headers": b"GET /version HTTP/1.1\r\nHost: local",
        "all but the last byte": b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r",
        "a whole request": b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n",
    }
    clients = {}
    for name, data in begun.items():
        for i in range(4):
            clients[name, i] = connect(server)
            clients[name, i].sendall(data)
    dripping = Dripping(server)
    dripping.start()
    yield server, clients, n_before, dripping
    assert server.stop() == 0


class Dripping(threading.Thread):
    """A head that never ends, four bytes a second: `lasted_s` is how long the server bore it."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.client, self.began, self.lasted_s = connect(server), time.monotonic(), None

    def run(self):
        self.client.sendall(b"GET /version HTTP/1.1\r\nHost: localhost\r\nX-Drip: ")
        self.client.settimeout(0.25)
        is_open = True
        while is_open and time.monotonic() < self.began + 2 * HEAD_TIMEOUT_S:
            try:
                self.client.sendall(b"a")
                is_open = bool(self.client.recv(1000))
            except TimeoutError:
                pass
            except ConnectionError:
                is_open = False
        self.client.close()
        self.lasted_s = time.monotonic() - self.began


def nothing(client, server):
    pass


def half_a_request_line(client, server):
    client.sendall(b"POST /v1/comp")


def half_the_headers(client, server):
    client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-")


def half_the_body(client, server):
    client.sendall(message(SMALL)[:-10])


def wait_until_it_runs(server):
    def it_runs_beside_the_bystander():
        return total(server, "lastmile_requests_running") == 2

    until(PATIENCE_S, it_runs_beside_the_bystander)


def all_but_the_first_token(client, server):
    # Another prompt each time, so that none of it is in the prefix cache, and an answer that does not end meanwhile.
    prompt = [next(FRESH), *LONG_PROMPT]
    client.sendall(message(completion(prompt, 4000, stream=True)))
    wait_until_it_runs(server)


def half_a_whole_answer(client, server):
    client.sendall(message(completion("whole", 4000)))
    wait_until_it_runs(server)


def half_a_stream(client, server):
    client.sendall(message(completion("stream", 4000, stream=True)))
    [read_until(client, b"\n\n") for _ in range(5)]


def all_but_the_last_byte(client, server):
    client.sendall(message(completion("short", 5, stream=True)))
    read_until(client, b"[DONE]\n\n\r\n0\r\n\r")


STAGES = [
    nothing, half_a_request_line, half_the_headers, half_the_body, all_but_the_first_token,
    half_a_whole_answer, half_a_stream, all_but_the_last_byte,
]  # fmt: skip
COMPUTED = {all_but_the_first_token, half_a_whole_answer, half_a_stream}


@pytest.mark.parametrize("how", ["FIN", "RST"])
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__)
def test_a_client_leaves_after(server, stage, how):
    def n_aborted():
        return total(server, "lastmile_requests_finished_total", finished_reason="abort")

    with nobody_notices(server):
        for _ in range(3):
            before = n_aborted()
            client = connect(server)
            stage(client, server)
            leave(client, how)

            def it_is_aborted(before=before):
                return n_aborted() == before + 1

            if stage in COMPUTED:
                until(PATIENCE_S, it_is_aborted)


def test_a_client_that_reads_nothing_is_left_at_the_write_timeout(server):
    route = {"route": "/v1/completions", "status": "499"}
    before = total(server, "lastmile_http_requests_total", **route)
    body = completion("read this", 4000, stream=True, logprobs=5)
    with nobody_notices(server):
        clients = [connect(server, receive_buffer=1024) for _ in range(8)]
        for client in clients:
            client.sendall(message(body))

        def all_are_left():
            return total(server, "lastmile_http_requests_total", **route) == before + 8

        until(10, all_are_left)
        for client in clients:
            found = read_to_end(client)
            assert statuses(found) == [200] and b"[DONE]" not in found
            client.close()


def test_idle_clients_that_vanish_leave_nothing_behind(server):
    with nobody_notices(server):
        clients = [connect(server) for _ in range(100)]

        def all_are_taken_in():
            return open_connections(server) >= 100

        until(PATIENCE_S, all_are_taken_in)
        for client in clients:
            leave(client, "RST")


def test_500_idle_connections_are_in_nobodys_way(server):
    with nobody_notices(server):
        n_before = n_files(server)
        clients = [connect(server) for _ in range(500)]

        def all_are_taken_in():
            return n_files(server) >= n_before + 490

        until(PATIENCE_S, all_are_taken_in)
        began = time.monotonic()
        for _ in range(10):
            status, _, answer = whole(server, SMALL)
            assert (status, answer["choices"][0]["text"]) == (200, expected(SMALL))
        assert time.monotonic() - began < 10
        for client in clients:
            client.close()


async def ask(port, body):
    """Status, headers in lower case, and body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(message(body, "Connection: close"))
    found = await asyncio.wait_for(reader.read(), 60)
    writer.close()
    headers, _, content = found.partition(b"\r\n\r\n")
    return statuses(headers)[0], headers.decode().lower(), json.loads(content)


@pytest.mark.parametrize(
    ("limits", "are_refused"),
    [([], False), (["--max-num-seqs", "4", "--max-queued-requests", "32"], True)],
    ids=["all in the queue", "a short queue"],
)
def test_500_requests_at_once_are_all_answered(tmp_path, limits, are_refused):
    server = Server(tmp_path, "--model", "placeholder:delay_us=2000", *limits)

    async def crowd():
        return await asyncio.gather(*(ask(port_of(server), SMALL) for _ in range(500)))

    assert whole(server, SMALL)[0] == 200
    n_before = at_rest(server)
    # With a short queue a bystander is one of the crowd, and may be refused as any other. With a long one it waits
    # for its turn behind all of them.
    with contextlib.nullcontext() if are_refused else nobody_notices(server, max_gap_s=10):
        answers = asyncio.run(crowd())
    refused = [headers for status, headers, _ in answers if status == 429]
    served = [answer for status, _, answer in answers if status == 200]
    assert len(refused) + len(served) == 500
    assert {answer["choices"][0]["text"] for answer in served} == {expected(SMALL)}
    assert bool(refused) == are_refused, f"{len(refused)} were refused"
    for headers in refused:
        assert 1 <= int(re.search(r"\r\nretry-after: (\d+)", headers).group(1)) <= 60
    assert whole(server, SMALL)[2]["choices"][0]["text"] == expected(SMALL)
    is_back_to(server, n_before)
    assert server.stop() == 0


def test_10000_aborted_streams_leave_nothing_behind(tmp_path):
    server = Server(tmp_path, "--model", "placeholder:delay_us=1000")
    data = message(completion("abort this", 500, stream=True))

    async def abort(how):
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        writer.write(data)
        await asyncio.wait_for(reader.readuntil(b"data: "), 60)
        if how == "RST":
            writer.transport.abort()
        writer.close()

    async def abort_all(n):
        left = iter(range(n))

        async def client():
            for i in left:
                # Without RST each would hold a port of this machine for a minute.
                await abort("FIN" if i % 10 == 0 else "RST")

        await asyncio.gather(*(client() for _ in range(100)))

    # The allocator and the recorder's buffers reach their level within the first ones.
    asyncio.run(abort_all(10_000))
    n_before, kb_before = at_rest(server), status_kb(server, "VmRSS")
    with nobody_notices(server):
        asyncio.run(abort_all(10_000))
    is_back_to(server, n_before)

    def all_are_stored():
        return total(server, "lastmile_store_queue_len") == 0

    until(PATIENCE_S, all_are_stored)

    def memory_is_given_back():
        return status_kb(server, "VmRSS") - kb_before <= 16 << 10

    until(PATIENCE_S, memory_is_given_back)
    print(f"resident memory: {kb_before} kB, grown by {status_kb(server, 'VmRSS') - kb_before} kB")
    assert total(server, "lastmile_requests_finished_total", finished_reason="abort") >= 10_900
    assert stream(server, SMALL) == expected(SMALL)
    assert server.stop() == 0


def test_silent_clients_are_left_when_their_time_is_over(silent):
    server, clients, n_before, dripping = silent
    began = dripping.began
    for (name, _), client in clients.items():
        client.settimeout(max(1, began + HEAD_TIMEOUT_S + 5 - time.monotonic()))
        found = read_to_end(client)
        # Whoever got half of a head may be told; nobody is answered what was not asked.
        allowed = [[200]] if name == "a whole request" else [[], [408]]
        assert statuses(found) in allowed, (name, found)
        client.close()
    assert time.monotonic() - began >= HEAD_TIMEOUT_S - 1, "they were left too early"
    dripping.join(timeout=HEAD_TIMEOUT_S)
    # Bytes that come now and then do not make a head's time longer.
    assert HEAD_TIMEOUT_S - 1 <= dripping.lasted_s <= HEAD_TIMEOUT_S + 5
    assert stream(server, SMALL) == expected(SMALL)
    is_back_to(server, n_before)
