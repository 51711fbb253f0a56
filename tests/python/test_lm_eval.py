"""What lm-evaluation-harness asks of a completions API to score continuations, and how it reads the answer."""

import math

import pytest

PAIRS = [
    ("The capital of France is", " Paris"),
    ("The capital of France is", " banana"),
    ("Two plus two equals", " four"),
    ("Water is made of hydrogen and", " oxygen"),
]


def tokens_of(server, text):
    return server.post("/tokenize", {"prompt": text}).json["tokens"]


def score(server, pairs):
    """As `local-completions`: token ids in, echo, one token that is thrown away."""
    contexts = [tokens_of(server, context) for context, _ in pairs]
    wholes = [tokens_of(server, context + continuation) for context, continuation in pairs]
    body = {
        "prompt": wholes, "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True,
    }
    reply = server.post("/v1/completions", body)
    assert reply.status == 200, reply.body
    scores = []
    choices = sorted(reply.json["choices"], key=lambda choice: choice["index"])
    for choice, context, whole in zip(choices, contexts, wholes, strict=True):
        logprobs = choice["logprobs"]
        n = len(context)
        assert len(logprobs["tokens"]) == len(whole) + 1 == len(logprobs["text_offset"])
        own, tops = logprobs["token_logprobs"][n:-1], logprobs["top_logprobs"][n:-1]
        assert len(own) == len(whole) - n > 0
        is_greedy = all(logprob == max(top.values()) for logprob, top in zip(own, tops, strict=True))
        scores.append((sum(own), is_greedy))
    return scores


@pytest.mark.parametrize("name", ["placeholder", "smollm2"])
def test_continuations_are_scored(request, name):
    server = request.getfixturevalue(name)
    first = score(server, PAIRS)
    assert all(math.isfinite(logprob) and logprob < 0 for logprob, _ in first)
    # Alone, and from a warm prefix cache: to the last bit the same.
    assert [score(server, [pair])[0] for pair in PAIRS] == first
    if name == "smollm2":
        (paris, paris_is_greedy), (banana, _) = first[:2]
        assert paris > banana + 3 and paris_is_greedy


def test_a_score_is_what_generation_says(smollm2):
    prompt = tokens_of(smollm2, "Once upon a time")
    body = {"prompt": prompt, "temperature": 0, "max_tokens": 12, "logprobs": 1, "ignore_eos": True}
    drawn = smollm2.post("/v1/completions", body).json["choices"][0]
    whole = prompt + tokens_of(smollm2, drawn["text"])
    body = {"prompt": whole, "max_tokens": 0, "logprobs": 1, "echo": True}
    told = smollm2.post("/v1/completions", body).json["choices"][0]
    assert told["text"].endswith(drawn["text"])
    assert told["logprobs"]["token_logprobs"][len(prompt):] == drawn["logprobs"]["token_logprobs"]
