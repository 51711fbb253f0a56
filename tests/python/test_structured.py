"""Answers of a given form: whatever the model, what ends is of that form."""

import json
import math
import re
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import jsonschema
import openai
import pydantic
import pytest
from conftest import Server
from schemas import functions

N_SCHEMAS = 300
# The bytes of the placeholder's vocabulary and its ends: its words are so likely that no text would end.
BYTES = [0, 3, *range(256, 512)]


def ask(server, model, max_tokens=1500, **fields):
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Call the function."}],
        "max_tokens": max_tokens,
        "temperature": 1,
    }
    return server.post("/v1/chat/completions", body | fields)


def schema_format(schema):
    return {"type": "json_schema", "json_schema": {"name": "it", "schema": schema, "strict": True}}


def outcome(server, model, schema, **fields):
    """`refused`, `cut`, or `valid`; an answer that ended and does not validate is a failure."""
    answer = ask(server, model, response_format=schema_format(schema), **fields)
    if answer.status == 400:
        message = answer.json["error"]["message"]
        assert answer.json["error"]["param"] == "response_format"
        quoted = re.findall(r'"([^"]+)"', message)
        assert quoted or "Invalid type" in message or "format" in message, message
        return "refused"
    assert answer.status == 200, answer.body
    choice = answer.json["choices"][0]
    if choice["finish_reason"] == "length":
        return "cut"
    assert choice["finish_reason"] == "stop"
    jsonschema.validate(json.loads(choice["message"]["content"]), schema)
    return "valid"


def test_every_schema_of_real_functions_is_kept_or_refused_by_name(placeholder):
    schemas = [function["parameters"] for function in functions(N_SCHEMAS)]

    def one(indexed):
        seed, schema = indexed
        return outcome(placeholder, "placeholder", schema, seed=seed, allowed_token_ids=BYTES)

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(one, enumerate(schemas)))
    counts = {word: outcomes.count(word) for word in ["valid", "cut", "refused"]}
    print(f"\n{counts} of {N_SCHEMAS}")
    assert counts["refused"] <= N_SCHEMAS // 20
    assert counts["valid"] >= N_SCHEMAS // 2


def test_a_real_model_at_temperature_1_keeps_schemas_too(smollm2):
    schemas = [function["parameters"] for function in functions(N_SCHEMAS)[::10]]

    def one(indexed):
        seed, schema = indexed
        return outcome(smollm2, "smollm2-135m-instruct", schema, seed=seed, max_tokens=200)

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(one, enumerate(schemas)))
    counts = {word: outcomes.count(word) for word in ["valid", "cut", "refused"]}
    print(f"\n{counts} of {len(schemas)}")
    assert counts["valid"] >= len(schemas) // 2


def test_compiling_takes_little(smollm2):
    """All schemas in turn, three times: more than are kept, so that each is compiled each time. The best of three, less the
    best time of the same request when its grammar is kept, is what compiling takes without what else the machine does."""

    def ms(function):
        started = time.monotonic()
        form = schema_format(function["parameters"])
        answer = ask(smollm2, "smollm2-135m-instruct", max_tokens=1, response_format=form)
        return 1000 * (time.monotonic() - started) if answer.status == 200 else None

    compiled, kept = {}, {}
    for round_ in range(3):
        for function in functions(N_SCHEMAS):
            name, took = function["name"], ms(function)
            if took is not None:
                compiled[name] = min(took, compiled.get(name, took))
                if round_ < 2:
                    again = ms(function)
                    kept[name] = min(again, kept.get(name, again))
    took = sorted(compiled[name] - kept[name] for name in compiled)
    p99 = took[math.ceil(0.99 * len(took)) - 1]
    print(f"\ncompiling {len(took)}: median {statistics.median(took):.1f} ms, p99 {p99:.1f} ms, longest {took[-1]:.1f} ms")
    assert len(took) >= N_SCHEMAS - N_SCHEMAS // 20
    assert p99 < 50


class Step(pydantic.BaseModel):
    explanation: str
    output: int


class Reasoning(pydantic.BaseModel):
    steps: list[Step] = pydantic.Field(max_length=2)
    is_done: bool


def test_the_client_parses_what_it_asked_for(smollm2):
    completion = smollm2.client().chat.completions.parse(
        model="smollm2-135m-instruct",
        messages=[{"role": "user", "content": "What is 2 + 2? Think in steps."}],
        response_format=Reasoning,
        max_tokens=300,
        temperature=0,
    )
    parsed = completion.choices[0].message.parsed
    assert isinstance(parsed, Reasoning)


def test_streams_choices_and_logprobs_keep_the_form(placeholder):
    client = placeholder.client()
    texts, reasons = {}, {}
    stream = client.chat.completions.create(
        model="placeholder",
        messages=[{"role": "user", "content": "yes?"}],
        n=3,
        stream=True,
        logprobs=True,
        top_logprobs=2,
        extra_body={"guided_choice": ["yes", "no", "perhaps so"]},
    )
    for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
            reasons[choice.index] = choice.finish_reason or reasons.get(choice.index)
    assert len(texts) == 3 and set(texts.values()) <= {"yes", "no", "perhaps so"}
    assert set(reasons.values()) == {"stop"}


@pytest.mark.parametrize(
    "fields, is_right",
    [
        ({"guided_regex": "[0-9]{3}-[0-9]{4}"}, re.compile("[0-9]{3}-[0-9]{4}").fullmatch),
        ({"structured_outputs": {"choice": ["a", "b"]}}, lambda text: text in ("a", "b")),
        ({"structured_outputs": {"grammar": 'start: "<" /[a-c]{2}/ ">"'}}, re.compile("<[a-c]{2}>").fullmatch),
        ({"structured_outputs": {"json": {"enum": [1, "x"]}}}, lambda text: json.loads(text) in (1, "x")),
    ],
)
def test_other_forms(placeholder, fields, is_right):
    for path, prompt in [("/v1/completions", {"prompt": "x"}), ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]})]:
        for temperature in [0, 1]:
            body = {"max_tokens": 400, "temperature": temperature} | prompt | fields
            choice = placeholder.post(path, body).json["choices"][0]
            text = choice["text"] if "text" in choice else choice["message"]["content"]
            assert choice["finish_reason"] == "stop" and is_right(text), text


def test_what_cannot_be_enforced_is_refused_by_name(placeholder):
    def refusal(**fields):
        answer = ask(placeholder, "placeholder", **fields)
        assert answer.status == 400, answer.body
        return answer.json["error"]["param"], answer.json["error"]["message"]

    schema = {"type": "array", "uniqueItems": True, "items": {"type": "integer"}}
    param, message = refusal(response_format=schema_format(schema))
    assert param == "response_format" and "uniqueItems" in message
    param, message = refusal(guided_regex="(")
    assert param == "guided_regex"
    param, message = refusal(guided_regex="a", guided_choice=["b"])
    assert param == "guided_choice"
    param, message = refusal(guided_regex="a", min_tokens=3)
    assert param == "min_tokens"
    param, message = refusal(response_format={"type": "yaml"})
    assert param == "response_format.type"


def test_masks_cost_little(smollm2):
    """Decode throughput of eight answers at once, with and without a form, in turns. What else the machine does slows either:
    the best rounds of both are compared, and the two of each turn, as a machine that is fast for a moment would favour one. Where
    they differ by too much, there are more rounds."""

    def throughput(form):
        body = {
            "model": "smollm2-135m-instruct",
            "messages": [{"role": "user", "content": "Write."}],
            "n": 8,
            "max_tokens": 100,
            "temperature": 1,
            "top_k": 0,
        }
        started = time.monotonic()
        answer = smollm2.post("/v1/chat/completions", body | form).json
        return answer["usage"]["completion_tokens"] / (time.monotonic() - started)

    # Neither ends before its limit, and little of the text is decided: guesses do not make up for the masks.
    texts = {"type": "array", "items": {"type": "string", "maxLength": 60}, "minItems": 60, "maxItems": 60}
    free, held = {"ignore_eos": True}, {"guided_json": texts}
    throughput(free), throughput(held)
    rounds = []
    for round_ in range(20):
        rounds.append((throughput(free), throughput(held)))
        best = [max(side) for side in zip(*rounds)]
        ratio = max(best[1] / best[0], statistics.median(b / a for a, b in rounds))
        if round_ >= 4 and ratio > 0.9:
            break
    print(f"\nthroughput with masks: {ratio:.3f} of that without, after {round_ + 1} rounds")
    assert ratio > 0.9


def test_an_answer_that_is_aborted_says_so(tmp_path):
    # Its 8000 tokens take 8 s: it still runs when it is aborted.
    server = Server(tmp_path, "--model", "placeholder:delay_us=1000")
    client = server.client()
    stream = client.chat.completions.create(
        model="placeholder",
        messages=[{"role": "user", "content": "x"}],
        stream=True,
        max_tokens=8000,
        extra_body={"ignore_eos": True},
    )
    reasons = []
    for i, chunk in enumerate(stream):
        if i == 0:
            assert server.post("/abort", {"request_id": chunk.id}).json == {"aborted": 1}
        reasons += [choice.finish_reason for choice in chunk.choices]
    assert reasons[-1] == "abort"
    assert server.post("/abort", {"request_id": chunk.id}).status == 404
    assert server.stop() == 0


def test_texts_and_tokens(placeholder):
    tokens = placeholder.post("/tokenize", {"prompt": "hello world"}).json
    assert tokens["count"] == len(tokens["tokens"]) and tokens["max_model_len"] == 8192
    plain = placeholder.post("/tokenize", {"prompt": "hello", "add_special_tokens": False}).json
    assert placeholder.post("/detokenize", {"tokens": plain["tokens"]}).json == {"prompt": "hello"}
    messages = [{"role": "user", "content": "hi"}]
    rendered = placeholder.post("/apply-template", {"messages": messages}).json["prompt"]
    assert rendered == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    continued = messages + [{"role": "assistant", "content": "Well,"}]
    body = {"messages": continued, "continue_final_message": True}
    assert placeholder.post("/apply-template", body).json["prompt"].endswith("assistant\nWell,")
    assert placeholder.post("/detokenize", {"tokens": [99999]}).json["error"]["param"] == "tokens"


def test_samplers_do_what_they_say(placeholder):
    def text(**fields):
        body = {"prompt": "x", "max_tokens": 20, "temperature": 1, "seed": 5, "ignore_eos": True}
        answer = placeholder.post("/v1/completions", body | fields)
        assert answer.status == 200, answer.body
        return answer.json["choices"][0]["text"]

    def token(text):
        return placeholder.post("/tokenize", {"prompt": text, "add_special_tokens": False}).json["tokens"][0]

    assert text(allowed_token_ids=[token(" you"), token(" me")]).replace(" you", "").replace(" me", "") == ""
    assert text(logit_bias={str(token(" hello")): 100}) == " hello" * 20
    assert text(logit_bias={str(token(" hello")): 100}, bad_words=["hello"]).count("hello") == 0
    assert text(logit_bias={str(token(" hello")): 20}, dry_multiplier=100, dry_allowed_length=1) != " hello" * 20
    likely, free = text(top_n_sigma=0.1), text()
    assert likely != free
    assert text(typical_p=0.2) != free
    # What is not named does not apply.
    assert text(samplers=["temperature"], top_k=1) == free
    assert text(samplers=["top_k"], top_k=1) == text(temperature=0)
    answer = placeholder.post("/v1/completions", {"prompt": "x", "samplers": ["mirostat"]})
    assert answer.status == 400 and answer.json["error"]["param"] == "samplers[0]"
    answer = placeholder.post("/v1/completions", {"prompt": "x", "logit_bias": {"700": 1}})
    assert answer.status == 400 and answer.json["error"]["param"] == "logit_bias"


def told(answer):
    """What a stream said of each choice: its text, its end, its log-probabilities."""
    assert answer.status == 200, answer.body
    choices = {}
    for line in answer.body.splitlines():
        if line.startswith("data: {"):
            for choice in json.loads(line.removeprefix("data: "))["choices"]:
                text, ends, logprobs = choices.setdefault(choice["index"], [[], [], []])
                text.append(choice["delta"].get("content") or "")
                ends += [choice["finish_reason"]] if choice["finish_reason"] else []
                logprobs += (choice.get("logprobs") or {}).get("content") or []
    return {index: ("".join(text), ends, logprobs) for index, (text, ends, logprobs) in choices.items()}


def test_what_a_form_decides_is_guessed_and_no_answer_differs(tmp_path_factory):
    schema = {
        "type": "object",
        "properties": {
            "first_name": {"type": "string", "maxLength": 6},
            "occupation": {"enum": ["teacher", "gardener"]},
            "is_retired": {"type": "boolean"},
        },
        "required": ["first_name", "occupation", "is_retired"],
        "additionalProperties": False,
    }
    ways = [
        {"temperature": 0},
        {"temperature": 1},
        {"temperature": 1, "n": 3, "top_p": 0.9},
        {"temperature": 0.8, "logprobs": True, "top_logprobs": 2},
        {"temperature": 0, "stop": ['retired": ']},
        {"temperature": 1, "max_tokens": 11},
        {"temperature": 1, "allowed_token_ids": BYTES},
    ]

    def run(speculate):
        home = tmp_path_factory.mktemp(speculate)
        server = Server(home, "--model", "placeholder:delay_us=1000", "--speculate", speculate)
        try:
            def one(i):
                more = {"seed": i, "stream": True, "max_tokens": 120} | ways[i % len(ways)]
                return told(ask(server, "placeholder", response_format=schema_format(schema), **more))

            alone = [one(i) for i in range(2 * len(ways))]
            with ThreadPoolExecutor(7) as pool:
                crowd = list(pool.map(one, range(2 * len(ways))))
            metrics = server.metrics()
            names = ["draft_tokens", "accepted_tokens"]
            counts = [metrics[f"lastmile_spec_decode_form_{name}_total"][0][1] for name in names]
            return alone, crowd, counts
        finally:
            server.stop()

    (alone, crowd, (drafted, accepted)), (plain, _, none) = run("auto"), run("off")
    assert alone == plain and crowd == plain
    assert none == [0, 0] and 0 < accepted <= drafted
