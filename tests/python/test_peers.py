"""What benches/peers makes of a server's stream, and of its own figures."""

import asyncio
import sys
import xml.etree.ElementTree
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benches" / "peers"))

import chart  # noqa: E402
import load  # noqa: E402
import peers  # noqa: E402

EVENTS = (
    b'data: {"choices": [{"text": ""}]}\n\n'
    b": a comment\n\n"
    b'data: {"choices": [{"text": "a\\n"}]}\r\n\r\n'
    b'data: {"choices": [{"text": "b"}], "usage": null}\n\n'
    b'data: {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3,'
    b' "prompt_tokens_details": {"cached_tokens": 2}}}\n\ndata: [DONE]\n\n'
)


def read(response):
    """The events of a response, with the whole of it there at once."""

    async def run():
        reader = asyncio.StreamReader()
        reader.feed_data(response)
        reader.feed_eof()
        return await load.read_events(reader)

    return asyncio.run(run())


def chunked(body, size):
    pieces = [body[at : at + size] for at in range(0, len(body), size)] + [b""]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)


@pytest.mark.parametrize("size", [1, 7, 64, 4096])
def test_events_are_read_wherever_chunks_end(size):
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    whole = [data for _, data in read(b"HTTP/1.1 200 OK\r\n\r\n" + EVENTS)]
    assert [data for _, data in read(head + chunked(EVENTS, size))] == whole
    assert whole[-1] == b"[DONE]" and len(whole) == 5


def test_a_stream_is_summed_up_from_its_first_text():
    data = [data for _, data in read(b"HTTP/1.1 200 OK\r\n\r\n" + EVENTS)]
    answer = load.summary([(10.0 + at, event) for at, event in enumerate(data)], sent_s=9.0)
    assert answer == load.Answer(2.0, 3.0, prompt_tokens=7, completion_tokens=3, cached_tokens=2)
    assert answer.decode_tokens_per_s == 2.0


@pytest.mark.parametrize(
    ("response", "part"),
    [
        (b"HTTP/1.1 429 Too Many Requests\r\n\r\nqueue full", "429"),
        (b'HTTP/1.1 200 OK\r\n\r\ndata: {"error": {"code": "gone"}}\n\n', "gone"),
        (b"HTTP/1.1 200 OK\r\n\r\ndata: [DONE]\n\n", "without text"),
    ],
)
def test_a_failure_is_told(response, part):
    with pytest.raises(load.RequestFailed, match=part):
        load.summary(read(response), sent_s=0.0)


def test_prompts_are_the_same_for_a_seed_and_share_nothing_else():
    first = load.prompts("a", 20, 5)
    assert first == load.prompts("a", 20, 5)
    numbers = {text.split()[0] for text in first + load.prompts("b", 20, 5)}
    assert len(numbers) == 40 and all(len(text.split()) == 6 for text in first)


def measured(number, server, busy, tokens_per_s):
    facts = {"kind": "closed_loop", "round": number, "server": server, "streams": 8, "busy": busy}
    found = {"output_tokens_per_s": tokens_per_s, "ttft_ms_p50": 1000 / tokens_per_s}
    return facts | found | {"prompt_tokens": 118, "cached_tokens": 0}


def test_ratios_are_of_the_same_round():
    rounds = [
        measured(number, server, busy, tokens_per_s)
        for number, server, busy, tokens_per_s in [
            (1, "lastmile", 0, 40.0),
            (1, "lastmile", 1, 30.0),
            (1, "llama.cpp", 0, 20.0),
            (1, "llama.cpp", 1, 5.0),
            (2, "lastmile", 0, 90.0),
            (2, "lastmile", 1, 45.0),
            (2, "llama.cpp", 0, 30.0),
            (2, "llama.cpp", 1, 15.0),
        ]
    ]
    quiet, busy = peers.summary(rounds)
    assert quiet["tokens_per_s_ratio"] == 2.5
    assert quiet["servers"]["lastmile"]["tokens_per_s"] == 65.0
    assert busy["servers"]["lastmile"]["of_quiet"] == 0.625
    assert busy["servers"]["llama.cpp"]["of_quiet"] == 0.375
    result = {
        "name": "a <b>",
        "date": "2026-01-02T03:04:05",
        "machine": {"cpu": "c", "cores": 2},
        "models": {name: {"file": "m & n.gguf"} for name in ("lastmile", "llama.cpp")},
        "settings": {"rounds": 2},
        "summary": [quiet, busy],
    }
    drawn = xml.etree.ElementTree.fromstring(chart.svg(result))
    texts = [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert {"8 streams", "8 streams, 1 busy", "65.0  (2.50 x)", "25.0"} <= set(texts)
