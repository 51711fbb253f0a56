"""Vectors and ranks through clients that users have."""

import math

import ollama
import pytest
from conftest import Server

MODEL = "all-minilm-l6-v2"
TEXTS = ["A man is playing a guitar.", "Someone plays the guitar.", "The invoice is due in May."]


@pytest.fixture(scope="module")
def server(home):
    server = Server(home, "--model", MODEL)
    yield server
    server.stop()


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def test_openai(server):
    client = server.client()
    # The client asks for base64 by itself.
    vectors = [item.embedding for item in client.embeddings.create(model=MODEL, input=TEXTS).data]
    plain = client.embeddings.create(model=MODEL, input=TEXTS, encoding_format="float")
    assert [len(v) for v in vectors] == [384] * 3
    assert all(cosine(v, item.embedding) > 0.999999 for v, item in zip(vectors, plain.data))
    assert cosine(vectors[0], vectors[1]) > 0.8 > 0.3 > cosine(vectors[0], vectors[2])
    assert plain.usage.prompt_tokens == plain.usage.total_tokens > 10
    short = client.embeddings.create(model=MODEL, input=TEXTS[0], dimensions=64)
    assert len(short.data[0].embedding) == 64


def test_ollama(server):
    client = ollama.Client(host=server.url)
    answer = client.embed(model=MODEL, input=TEXTS)
    assert len(answer.embeddings) == 3 and len(answer.embeddings[0]) == 384
    assert cosine(answer.embeddings[0], answer.embeddings[1]) > 0.8
    assert len(client.embeddings(model=MODEL, prompt="hello").embedding) == 384


def test_rerank(server):
    body = {"model": MODEL, "query": "music", "documents": TEXTS[1:], "return_documents": True}
    answer = server.post("/v1/rerank", body).json
    assert answer["results"][0]["document"]["text"] == TEXTS[1]
    assert answer["scored_by"] == "cosine"
