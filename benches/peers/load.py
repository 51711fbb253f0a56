"""A closed loop of streamed completions on any server that speaks OpenAI's API."""

import asyncio
import json
import random
import statistics
import time
import urllib.request
from dataclasses import dataclass
from urllib.parse import urlsplit

WORDS = (
    "the of and a to in is you that it he was for on are as with his they at be this have from or "
    "one had by word but not what all were we when your can said there use an each which she do "
    "how their if will up other about out many then them these so some her would make like him "
    "into time has look two more write go see number way could people than first water been call "
    "who oil its now find long down day did get come made may part"
).split()
# A prompt begins with a random number that no cache has seen; a digit is a token in most models.
NUMBER_TOKENS = 18
TIMEOUT_S = 600


@dataclass
class Answer:
    """What one request took; times are in seconds from when it was sent."""

    first_token_s: float
    last_token_s: float
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int

    @property
    def decode_tokens_per_s(self) -> float:
        """Tokens after the first per second between the first and the last."""
        decode_s = self.last_token_s - self.first_token_s
        return (self.completion_tokens - 1) / decode_s if decode_s > 0 else 0.0


class RequestFailed(Exception):
    """A server answered with an error, or with a stream that says too little."""


def prompts(seed: str, count: int, n_words: int) -> list[str]:
    """Prompts that no other seed gives."""
    rng = random.Random(seed)
    digits = f"0{NUMBER_TOKENS}d"
    return [
        f"{rng.randrange(10**NUMBER_TOKENS):{digits}} " + " ".join(rng.choices(WORDS, k=n_words))
        for _ in range(count)
    ]


def model_id(url: str) -> str:
    """The id of the one model that a server has."""
    with urllib.request.urlopen(f"{url}/v1/models", timeout=10) as response:
        return json.load(response)["data"][0]["id"]


def closed_loop(
    url: str, model: str, texts: list[str], streams: int, max_tokens: int
) -> dict[str, float]:
    """Sends every text, `streams` of them at a time, and sums up the answers."""
    started = time.perf_counter()
    answers = asyncio.run(_run(url, model, texts, streams, max_tokens))
    wall_s = time.perf_counter() - started
    output_tokens = sum(answer.completion_tokens for answer in answers)
    prompt_tokens = sum(answer.prompt_tokens for answer in answers)
    ttft_ms = sorted(answer.first_token_s * 1e3 for answer in answers)
    return {
        "requests": len(answers),
        "wall_s": wall_s,
        "output_tokens": output_tokens,
        "prompt_tokens": prompt_tokens,
        "cached_tokens": sum(answer.cached_tokens for answer in answers),
        "output_tokens_per_s": output_tokens / wall_s,
        "ttft_ms_p50": statistics.median(ttft_ms),
        "ttft_ms_max": ttft_ms[-1],
        "prompt_tokens_per_s": prompt_tokens / wall_s,
        "decode_tokens_per_s": statistics.median(a.decode_tokens_per_s for a in answers),
    }


async def _run(
    url: str, model: str, texts: list[str], streams: int, max_tokens: int
) -> list[Answer]:
    waiting = list(reversed(texts))
    answers = []

    async def stream() -> None:
        while waiting:
            body = {
                "model": model,
                "prompt": waiting.pop(),
                "max_tokens": max_tokens,
                "temperature": 0,
                "ignore_eos": True,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
            answers.append(await asyncio.wait_for(complete(url, body), TIMEOUT_S))

    await asyncio.gather(*(stream() for _ in range(streams)))
    return answers


async def complete(url: str, body: dict) -> Answer:
    """Sends one streamed completion and reads it to its end."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        data = json.dumps(body).encode()
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: {address.netloc}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
            "Connection: close\r\n\r\n"
        )
        sent_s = time.perf_counter()
        writer.write(head.encode() + data)
        await writer.drain()
        return summary(await read_events(reader), sent_s)
    finally:
        writer.close()


async def read_events(reader: asyncio.StreamReader) -> list[tuple[float, bytes]]:
    """The data of each server-sent event of an HTTP response, and when it came.

    They are parsed when all are there, so that parsing takes no time from the server.
    """
    status = (await reader.readline()).split(b" ")
    headers = {}
    while line := (await reader.readline()).strip():
        name, _, value = line.partition(b":")
        headers[name.lower()] = value.strip().lower()
    if status[1:2] != [b"200"]:
        raise RequestFailed(b" ".join(status).decode() + (await reader.read(2000)).decode())
    is_chunked = headers.get(b"transfer-encoding") == b"chunked"
    events = []
    rest = b""
    while piece := await (_chunk(reader) if is_chunked else reader.read(1 << 16)):
        now_s = time.perf_counter()
        *lines, rest = (rest + piece).split(b"\n")
        events += [(now_s, line[5:].strip()) for line in lines if line.startswith(b"data:")]
    return events


async def _chunk(reader: asyncio.StreamReader) -> bytes:
    """One chunk of a chunked body; the last is empty."""
    size = int((await reader.readline()).split(b";")[0], 16)
    chunk = await reader.readexactly(size)
    await reader.readline()
    return chunk


def summary(events: list[tuple[float, bytes]], sent_s: float) -> Answer:
    """What the events of one streamed completion say."""
    token_times = []
    usage = None
    for at_s, data in events:
        if data == b"[DONE]":
            continue
        event = json.loads(data)
        if "error" in event:
            raise RequestFailed(str(event["error"]))
        if any(choice.get("text") for choice in event.get("choices", [])):
            token_times.append(at_s - sent_s)
        usage = event.get("usage") or usage
    if not token_times or usage is None:
        raise RequestFailed("the stream ended without text or without usage")
    details = usage.get("prompt_tokens_details") or {}
    return Answer(
        first_token_s=token_times[0],
        last_token_s=token_times[-1],
        prompt_tokens=usage["prompt_tokens"],
        completion_tokens=usage["completion_tokens"],
        cached_tokens=details.get("cached_tokens") or 0,
    )
