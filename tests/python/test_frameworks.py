"""Libraries that people build on, with nothing but another base URL."""

import os

# It would ask the network for prices.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
import pydantic
import pytest
from conftest import Server
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

MODEL, ENCODER = "smollm2-135m-instruct", "all-minilm-l6-v2"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


class Capital(pydantic.BaseModel):
    country: str
    capital: str


@pytest.fixture(scope="module")
def server(home):
    server = Server(home, "--model", MODEL, "--model", ENCODER, "--strict")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def expect(server):
    answer = server.client().chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, max_tokens=24)
    return answer.choices[0].message.content


def test_litellm(server, expect):
    options = {"api_base": server.url + "/v1", "api_key": "none"}
    chat = {"model": f"openai/{MODEL}", "messages": QUESTION, "temperature": 0, "max_tokens": 24}
    answer = litellm.completion(**chat, **options)
    assert answer.choices[0].message.content == expect and answer.usage.prompt_tokens > 0
    chunks = litellm.completion(**chat, stream=True, **options)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expect
    vectors = litellm.embedding(model=f"openai/{ENCODER}", input=["a", "b"], encoding_format="float", **options)
    assert [len(item["embedding"]) for item in vectors.data] == [384, 384]


def test_langchain(server, expect):
    options = {"base_url": server.url + "/v1", "api_key": "none", "max_retries": 0}
    chat = ChatOpenAI(model=MODEL, temperature=0, max_tokens=24, **options)
    assert chat.invoke(QUESTION).content == expect
    assert "".join(chunk.content for chunk in chat.stream(QUESTION)) == expect
    typed = ChatOpenAI(model=MODEL, temperature=0, max_tokens=200, **options).with_structured_output(Capital)
    assert isinstance(typed.invoke("Name the capital of France as JSON."), Capital)
    # Without this it counts tokens by OpenAI's vocabulary, and sends those.
    embeddings = OpenAIEmbeddings(model=ENCODER, check_embedding_ctx_length=False, **options)
    near, far = embeddings.embed_documents(["A man plays the guitar.", "The invoice is due."])
    query = embeddings.embed_query("someone plays guitar")
    dot = lambda a, b: sum(x * y for x, y in zip(a, b))
    assert len(query) == 384 and dot(query, near) > 0.7 > dot(query, far)
