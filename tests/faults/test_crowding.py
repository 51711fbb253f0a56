"""One address with too many connections, and bodies that would fill the memory."""

import contextlib
import http.client
import json
import resource
import socket
import time

import pytest
from bystander import (
    at_rest,
    completion,
    connect,
    expected,
    head,
    is_back_to,
    port_of,
    read_to_end,
    status_kb,
    statuses,
    total,
    until,
    whole,
)
from conftest import Server

SMALL = completion("hello", 8)
MIB = 1 << 20


def health_ms(server):
    """How long `/health` takes on a new connection from this machine's usual address."""
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port_of(server), timeout=20)
    connection.request("GET", "/health")
    assert connection.getresponse().status == 200
    connection.close()
    return 1000 * (time.monotonic() - began)


def half_a_head(server, address):
    client = socket.socket()
    client.settimeout(20)
    client.bind((address, 0))
    client.connect(("127.0.0.1", port_of(server)))
    # Who was refused already may not be able to send.
    with contextlib.suppress(ConnectionError):
        client.sendall(b"GET /version HTTP/1.1\r\nHost: local")
    return client


def test_one_address_with_half_sent_heads_locks_nobody_out(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 20_000 if hard == resource.RLIM_INFINITY else min(hard, 20_000)
    if most < 4300:
        pytest.skip(f"a process may open {most} files here: too few for the crowd")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    server = Server(tmp_path, "--model", "placeholder")
    assert whole(server, SMALL)[0] == 200
    n_before = at_rest(server)
    # Another address of this machine, so that a proxy's or a stranger's crowd is told from others.
    crowd = [half_a_head(server, "127.0.0.2") for _ in range(4150)]

    def some_are_refused():
        return total(server, "lastmile_connections_refused_total") >= 4150 - 3072

    until(10, some_are_refused)
    # One or two may meet a slow moment of the machine.
    took = sorted(health_ms(server) for _ in range(20))
    assert took[-3] < 1000, f"/health took {took} ms"
    assert whole(server, SMALL)[2]["choices"][0]["text"] == expected(SMALL)
    # One more of the crowd's address hears at once that it has too many.
    began = time.monotonic()
    found = read_to_end(half_a_head(server, "127.0.0.2"))
    assert statuses(found) in ([503], []) and time.monotonic() - began < 5, found
    for client in crowd:
        client.close()
    is_back_to(server, n_before)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert server.stop() == 0


def test_open_bodies_take_no_more_memory_than_is_set_aside(tmp_path):
    server = Server(tmp_path, "--model", "placeholder", "--max-open-body-bytes", str(8 * MIB))
    assert whole(server, SMALL)[0] == 200
    n_before, kb_before = at_rest(server), status_kb(server, "VmRSS")
    body = json.dumps(SMALL | {"prompt": "a " * (MIB // 2 - 200)}).encode()
    clients = [connect(server) for _ in range(100)]
    for client in clients:
        with contextlib.suppress(ConnectionError):
            client.sendall(head(len(body), "Connection: close") + body[:-1])

    def the_room_is_taken():
        return total(server, "lastmile_open_body_bytes") > 6 * MIB

    until(10, the_room_is_taken)
    assert total(server, "lastmile_open_body_bytes") <= 8 * MIB
    grown = status_kb(server, "VmRSS") - kb_before
    assert grown < 48 << 10, f"{grown} kB for 100 bodies of 1 MiB, of which 8 MiB are kept"
    assert health_ms(server) < 1000
    # Whoever has no room is told so, once it has sent all that it wanted to.
    said = []
    for client in clients:
        with contextlib.suppress(ConnectionError):
            client.sendall(body[-1:])
        said += statuses(read_to_end(client))
        client.close()
    assert said.count(429) >= 85 and set(said) <= {429, 400, 200}, said

    def the_room_is_free():
        return total(server, "lastmile_open_body_bytes") == 0

    until(10, the_room_is_free)
    assert whole(server, SMALL)[2]["choices"][0]["text"] == expected(SMALL)
    is_back_to(server, n_before)
    assert server.stop() == 0
