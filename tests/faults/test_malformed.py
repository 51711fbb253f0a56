"""Bytes that are not HTTP, or that two readers would understand differently."""

import contextlib
import json
import socket

import pytest
from bystander import (
    PATIENCE_S,
    completion,
    connect,
    expected,
    head,
    in_threads,
    message,
    nobody_notices,
    read_to_end,
    statuses,
    total,
    whole,
)
from conftest import Server

# How long nothing comes before a client says that it has sent all.
QUIET_S = 0.5
BODY = json.dumps(completion("malformed", 4)).encode()
VERSION = b"GET /version HTTP/1.1\r\nHost: localhost\r\n"
# Whoever executes it shows it: the route answers 404 and nobody else asks for it.
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"


def chunked(body, more=""):
    return head(None, "Transfer-Encoding: chunked" + more) + body


def post(headers, body=BODY):
    return head(None, headers) + body


# What is sent by clients that are broken or wish harm. Each is refused with 4xx or 5xx, or its
# connection is closed.
REFUSED = {
    "garbage": bytes(range(256)) * 4 + b"\r\n\r\n",
    "only NULs": b"\0" * 100 + b"\r\n\r\n",
    "a NUL in the path": b"GET /ver\0sion HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a NUL in a header": VERSION + b"X-A: b\0c\r\n\r\n",
    "a bad method": b"G@T\x01 /version HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "an unknown method": b"BREW /version HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no method": b" /version HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a bad version": b"GET /version HTTP/9.9\r\nHost: localhost\r\n\r\n",
    "HTTP/0.9": b"GET /version\r\n\r\n",
    "a target with a blank": b"GET /ver sion HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a target without a slash": b"GET version HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a target that climbs": b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a huge target": b"GET /" + b"a" * (64 << 10) + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "CONNECT": b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n",
    "another server's URL": b"GET http://example.org/version HTTP/1.1\r\nHost: example.org\r\n\r\n",
    "no Host": b"GET /version HTTP/1.1\r\n\r\n",
    "two Hosts": VERSION + b"Host: example.org\r\n\r\n",
    "two Hosts, the other first": VERSION.replace(b"Host", b"Host: example.org\r\nHost") + b"\r\n",
    "a header without a colon": VERSION + b"X-A b\r\n\r\n",
    "a blank before the colon": VERSION + b"X-A : b\r\n\r\n",
    "a header without a name": VERSION + b": b\r\n\r\n",
    "a folded header": VERSION + b"X-A: b\r\n c\r\n\r\n",
    "a lone CR in a header": VERSION + b"X-A: b\rX-C: d\r\n\r\n",
    "a huge header": VERSION + b"X-A: " + b"b" * (64 << 10) + b"\r\n\r\n",
    "too many headers": VERSION + b"X-A: b\r\n" * 500 + b"\r\n",
    "two lengths": post(f"Content-Length: {len(BODY)}\r\nContent-Length: {len(BODY) - 1}"),
    "two lengths in one": post(f"Content-Length: {len(BODY)}, {len(BODY) - 1}"),
    "a negative length": post("Content-Length: -1"),
    "a length with a plus": post(f"Content-Length: +{len(BODY)}"),
    "a length in hexadecimal": post("Content-Length: 0x10"),
    "a length over 64 bits": post("Content-Length: 99999999999999999999999"),
    "a giant length": post(f"Content-Length: {1 << 62}"),
    "an unknown transfer coding": post("Transfer-Encoding: gorgonzola"),
    "chunked that is not last": post("Transfer-Encoding: chunked, gzip"),
    "chunked in HTTP/1.0": chunked(b"0\r\n\r\n").replace(b"HTTP/1.1", b"HTTP/1.0"),
    "a chunk without a size": chunked(b"\r\n{}\r\n0\r\n\r\n"),
    "a chunk size that is none": chunked(b"xyz\r\n{}\r\n0\r\n\r\n"),
    "a negative chunk size": chunked(b"-2\r\n{}\r\n0\r\n\r\n"),
    "a chunk size over 64 bits": chunked(b"fffffffffffffffff\r\n{}\r\n0\r\n\r\n"),
    "a giant chunk size": chunked(b"7fffffffffffffff\r\n{}"),
    "a chunk that is longer than it says": chunked(b"1\r\n{}\r\n0\r\n\r\n"),
    "a giant chunk extension": chunked(b"2;" + b"a" * (64 << 10) + b"\r\n{}\r\n0\r\n\r\n"),
    "a TLS ClientHello": bytes.fromhex("16030100a5010000a10303") + b"\x55" * 160,
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0",
    "a SOCKS5 greeting": b"\x05\x01\x00",
    "an SSH banner": b"SSH-2.0-OpenSSH_9.6\r\n",
    "a body that is not JSON": head(4) + b"\xff\xfe\x00\x01",
    "deeply nested JSON": head(200_000) + b"[" * 200_000,
}

# Two messages in which a proxy before the server may see one. Whatever becomes of the first, the
# second is not executed.
SMUGGLING = {
    "a length, then chunked": f"Content-Length: {5 + len(SMUGGLED)}\r\nTransfer-Encoding: chunked",
    "chunked, then a length": f"Transfer-Encoding: chunked\r\nContent-Length: {5 + len(SMUGGLED)}",
    "a short length and chunked": "Content-Length: 5\r\nTransfer-Encoding: chunked",
    "chunked and a length of 0": "Transfer-Encoding: chunked\r\nContent-Length: 0",
    "chunked twice": "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    "chunked in disguise": "Transfer-Encoding: xchunked\r\nContent-Length: 5",
    "a blank before the colon": "Transfer-Encoding : chunked\r\nContent-Length: 5",
    "a tab in the coding": "Transfer-Encoding:\x0bchunked\r\nContent-Length: 5",
    "two lengths": f"Content-Length: 5\r\nContent-Length: {5 + len(SMUGGLED)}",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("malformed"), "--model", "placeholder:delay_us=2000")
    yield server
    assert server.stop() == 0


def send(server, data, n_expected=0):
    """All that comes back: of these bytes, and then of their end. So many answers are waited for in any case."""
    client, found = connect(server), b""
    with client, contextlib.suppress(ConnectionError):
        client.sendall(data)
        while len(statuses(found)) < n_expected and (part := client.recv(65536)):
            found += part
        client.settimeout(QUIET_S)
        with contextlib.suppress(TimeoutError):
            while part := client.recv(65536):
                found += part
        client.settimeout(PATIENCE_S)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_WR)
        # Its timeout is a hang, and raises.
        found += read_to_end(client)
    return found


def send_all(server, messages):
    names = list(messages)
    found = in_threads(len(names), lambda i: send(server, messages[names[i]]))
    assert None not in found, [name for name, one in zip(names, found, strict=True) if one is None]
    return dict(zip(names, found, strict=True))


def test_what_is_malformed_is_refused_or_its_connection_closed(server):
    assert len(REFUSED) >= 25
    with nobody_notices(server):
        answers = send_all(server, REFUSED)
    for name, found in answers.items():
        assert all(400 <= status < 600 for status in statuses(found)), (name, found)
        assert not found or statuses(found), (name, found)
    assert not any("panicked" in line for line in server.lines)


def test_no_request_is_smuggled_in(server):
    def n_smuggled():
        return total(server, "lastmile_http_requests_total", route="none")

    before = n_smuggled()
    with nobody_notices(server):
        messages = {n: post(h, b"0\r\n\r\n" + SMUGGLED) for n, h in SMUGGLING.items()}
        answers = send_all(server, messages)
    for name, found in answers.items():
        assert len(statuses(found)) <= 1, (name, found)
        assert all(400 <= status < 600 for status in statuses(found)), (name, found)
    assert n_smuggled() == before
    # One that is not hidden is seen: this test can fail.
    assert statuses(send(server, message(completion("good", 4)) + SMUGGLED, 2)) == [200, 404]
    assert n_smuggled() == before + 1


def test_lines_that_end_in_lf_alone_are_the_same_request(server):
    """RFC 9112, 2.2: a recipient may take a single LF for a line's end."""
    found = send(server, b"GET /version HTTP/1.1\nHost: localhost\nConnection: close\n\n")
    assert statuses(found) == [200] and b'"version"' in found


def test_pipelined_requests_are_answered_in_order(server):
    bodies = [completion(f"pipelined {i}", 4 + i) for i in range(8)]
    with nobody_notices(server), connect(server) as client:
        parts = [message(body) for body in bodies[:-1]] + [message(bodies[-1], "Connection: close")]
        client.sendall(b"".join(parts))
        found = read_to_end(client)
    assert statuses(found) == [200] * len(bodies)
    # Behind each body comes the next head.
    contents = [part[: part.rindex(b"}") + 1] for part in found.split(b"\r\n\r\n")[1:]]
    texts = [json.loads(content)["choices"][0]["text"] for content in contents]
    assert texts == [expected(body) for body in bodies]


def test_a_malformed_request_behind_a_good_one_costs_only_itself(server):
    good = message(completion("good", 4))
    with nobody_notices(server), connect(server) as client:
        client.sendall(good + b"\x16\x03\x01garbage\r\n\r\n" + good)
        found = read_to_end(client)
    assert statuses(found) in ([200], [200, 400]), found
    assert whole(server, completion("good", 4))[0] == 200
