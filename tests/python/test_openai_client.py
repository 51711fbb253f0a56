"""A real model through the official client of OpenAI."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

MODEL = "smollm2-135m-instruct"
WORDS = set((Path(__file__).parent / "common_words.txt").read_text().split())
MAX_TOKENS = 32

QUESTIONS = [
    "What is the capital of France?",
    "Why is the sky blue?",
    "Write one sentence about a dog.",
    "What do bees make?",
    "How many days are in a week?",
    "Say hello to a new friend.",
    "What is water made of?",
    "Why do people sleep?",
    "What colour is grass?",
    "Give me one tip to learn faster.",
    "What is a computer?",
    "Tell me about the moon.",
    "Why should I read books?",
    "What is the largest ocean?",
    "How do I make tea?",
    "What is the opposite of hot?",
]


@pytest.fixture(scope="module")
def client(smollm2):
    return smollm2.client()


def ask(client, text, **options):
    options = {"temperature": 0, "max_tokens": MAX_TOKENS} | options
    messages = [{"role": "user", "content": text}]
    return client.chat.completions.create(model=MODEL, messages=messages, **options)


def text_of(answer, choice=0):
    return answer.choices[choice].message.content


def streamed(client, text, **options):
    """The texts of each choice, the finish reasons, and the usage if there was one."""
    texts, reasons, usage = {}, {}, None
    for chunk in ask(client, text, stream=True, **options):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
            reasons[choice.index] = choice.finish_reason or reasons.get(choice.index)
    return texts, reasons, usage


def unknown_words(answer, prompt):
    """How many words there are, and those that are neither common nor in the prompt."""

    def words(text):
        found = re.findall(r"[a-z']+", text.lower().replace("’", "'"))
        return [word.strip("'").removesuffix("'s") for word in found]

    known = WORDS | set(words(prompt))
    found = [word for word in words(answer) if word]
    return len(found), [word for word in found if word not in known]


@pytest.fixture(scope="module")
def crowd(client):
    """All questions at once."""
    with ThreadPoolExecutor(len(QUESTIONS)) as pool:
        return list(pool.map(lambda question: ask(client, question), QUESTIONS))


def test_sixteen_at_once_answer_in_english(crowd):
    n_words, n_unknown = 0, 0
    for question, answer in zip(QUESTIONS, crowd, strict=True):
        n_found, unknown = unknown_words(text_of(answer), question)
        print(f"{question} {text_of(answer)!r} {unknown}")
        assert n_found >= 2, text_of(answer)
        assert len(unknown) <= 0.25 * n_found, (question, text_of(answer), unknown)
        n_words, n_unknown = n_words + n_found, n_unknown + len(unknown)
    assert n_unknown <= 0.1 * n_words, f"{n_unknown} of {n_words} words are unknown"
    assert "Paris" in text_of(crowd[0])


@pytest.mark.parametrize("i", [0, 5, 10, 15])
def test_greedy_answers_do_not_depend_on_company(client, crowd, i):
    assert text_of(ask(client, QUESTIONS[i])) == text_of(crowd[i])


def test_a_completion_goes_on_where_the_prompt_ends(client):
    prompt = "The capital of France is"
    answer = client.completions.create(model=MODEL, prompt=prompt, temperature=0, max_tokens=8)
    assert "Paris" in answer.choices[0].text
    assert answer.usage.completion_tokens <= 8


@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": 1, "seed": 11}])
def test_a_stream_says_what_the_whole_answer_says(client, options):
    whole = ask(client, QUESTIONS[1], **options)
    texts, reasons, usage = streamed(
        client, QUESTIONS[1], stream_options={"include_usage": True}, **options
    )
    assert texts == {0: text_of(whole)}
    assert reasons == {0: whole.choices[0].finish_reason}
    assert usage.prompt_tokens == whole.usage.prompt_tokens
    assert usage.completion_tokens == whole.usage.completion_tokens


def test_usage_counts_the_tokens(client):
    short, long = ask(client, "Hi", max_tokens=1), ask(client, "Hi " * 100, max_tokens=1)
    assert short.usage.completion_tokens == 1
    assert short.usage.total_tokens == short.usage.prompt_tokens + 1
    assert 95 <= long.usage.prompt_tokens - short.usage.prompt_tokens <= 205
    again = ask(client, "Hi " * 100, max_tokens=1)
    cached = again.usage.prompt_tokens_details.cached_tokens
    assert 0 < cached < again.usage.prompt_tokens


def test_max_tokens_ends_an_answer(client):
    answer = ask(client, "Count from one to one hundred.", max_tokens=7)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 7
    newer = ask(client, "Count from one to one hundred.", max_tokens=None, max_completion_tokens=7)
    assert text_of(newer) == text_of(answer)


def test_a_stop_string_ends_an_answer_and_is_not_in_it(client):
    whole = text_of(ask(client, QUESTIONS[1]))
    words = whole.split(" ")
    stop = " ".join(words[4:6])
    answer = ask(client, QUESTIONS[1], stop=[stop])
    assert text_of(answer) == whole[: whole.index(stop)]
    assert answer.choices[0].finish_reason == "stop"
    texts, reasons, _ = streamed(client, QUESTIONS[1], stop=[stop])
    assert (texts, reasons) == ({0: text_of(answer)}, {0: "stop"})


def test_logprobs_have_openai_s_shape(client):
    answer = ask(client, QUESTIONS[0], max_tokens=5, logprobs=True, top_logprobs=3)
    content = answer.choices[0].logprobs.content
    assert len(content) == 5
    assert "".join(entry.token for entry in content) == text_of(answer)
    for entry in content:
        assert entry.logprob <= 0
        assert len(entry.top_logprobs) == 3
        best = [top.logprob for top in entry.top_logprobs]
        assert best == sorted(best, reverse=True)
        # Greedy: the token that was taken is the most likely one.
        assert entry.logprob == pytest.approx(best[0])
        assert bytes(entry.bytes).decode(errors="replace") == entry.token


def test_two_choices_differ_and_a_seed_repeats_them(client):
    options = {"n": 2, "temperature": 1, "seed": 3}
    first, again = ask(client, QUESTIONS[11], **options), ask(client, QUESTIONS[11], **options)
    assert [choice.index for choice in first.choices] == [0, 1]
    assert text_of(first, 0) != text_of(first, 1)
    assert [text_of(again, i) for i in (0, 1)] == [text_of(first, i) for i in (0, 1)]
    assert streamed(client, QUESTIONS[11], **options)[0] == {i: text_of(first, i) for i in (0, 1)}
    other = ask(client, QUESTIONS[11], **(options | {"seed": 4}))
    assert text_of(other) != text_of(first)


def test_a_conversation_is_remembered(client):
    messages = [
        {"role": "user", "content": "My name is Alice."},
        {"role": "assistant", "content": "Hello Alice!"},
        {"role": "user", "content": "What is my name?"},
    ]
    answer = client.chat.completions.create(
        model=MODEL, messages=messages, temperature=0, max_tokens=16
    )
    assert "Alice" in text_of(answer)


def test_the_model_is_listed(client):
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")


def test_errors_are_those_of_the_client(client):
    messages = [{"role": "user", "content": "Hi"}]
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="gpt-9", messages=messages)
    assert unknown.value.code == "model_not_found"
    assert "gpt-9" in str(unknown.value)
    with pytest.raises(openai.BadRequestError) as warm:
        ask(client, "Hi", temperature=9)
    assert (warm.value.param, warm.value.code) == ("temperature", "invalid_value")
    with pytest.raises(openai.BadRequestError) as long:
        ask(client, "word " * 20_000)
    assert long.value.param == "messages"
    assert re.search(r"\d{4,}", str(long.value)), "the error says how long and how long it may be"
    with pytest.raises(openai.BadRequestError) as empty:
        client.chat.completions.create(model=MODEL, messages=[])
    assert empty.value.param == "messages"
    # Nobody else noticed.
    assert "Paris" in text_of(ask(client, QUESTIONS[0]))
