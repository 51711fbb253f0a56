"""Other APIs through their own clients: Anthropic's, Ollama's, and OpenAI's Responses."""

import json

import anthropic
import ollama
import pydantic
import pytest
from test_tools import TIME, TOOLS

MODEL = "smollm2-135m-instruct"
# The client has no name for it any more.
GREEDY = {"temperature": 0}
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def claude(smollm2):
    return anthropic.Anthropic(base_url=smollm2.url, api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def llama(smollm2):
    return ollama.Client(host=smollm2.url)


@pytest.fixture(scope="module")
def client(smollm2):
    return smollm2.client()


def chat_text(client, **options):
    options = {"temperature": 0, "max_tokens": 24} | options
    answer = client.chat.completions.create(model=MODEL, messages=QUESTION, **options)
    return answer.choices[0].message.content


def test_messages(claude, client):
    options = {"model": MODEL, "max_tokens": 24, "messages": QUESTION, "extra_body": GREEDY}
    message = claude.messages.create(**options)
    assert message.content[0].text == chat_text(client)
    assert message.stop_reason in ("end_turn", "max_tokens") and message.usage.output_tokens > 0
    counted = claude.messages.count_tokens(model=MODEL, messages=QUESTION)
    usage = message.usage
    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)
    with claude.messages.stream(**options) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == message.content[0].text == final.content[0].text
    assert final.stop_reason == message.stop_reason
    assert final.usage.output_tokens == usage.output_tokens


def test_messages_stop_and_go_on(claude):
    base = {"model": MODEL, "max_tokens": 60, "extra_body": GREEDY}
    stopped = claude.messages.create(**base, messages=QUESTION, stop_sequences=["France"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "France")
    stopped = claude.messages.create(**base, messages=QUESTION, stop_sequences=["zzz", "France"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "France")
    prefill = [*QUESTION, {"role": "assistant", "content": "The capital of"}]
    assert claude.messages.create(**base, messages=prefill).content[0].text.startswith(" France")


def test_messages_call_tools(claude):
    tools = [{"name": "get_time", "description": "Time", "input_schema": TIME}]
    options = {
        "model": MODEL,
        "max_tokens": 200,
        "extra_body": GREEDY,
        "tools": tools,
        "tool_choice": {"type": "tool", "name": "get_time"},
    }
    message = claude.messages.create(**options, messages=QUESTION)
    assert message.stop_reason == "tool_use"
    call = message.content[0]
    assert call.name == "get_time" and list(call.input) == ["zone"]
    with claude.messages.stream(**options, messages=QUESTION) as stream:
        streamed = stream.get_final_message()
    assert streamed.content[0].input == call.input and streamed.stop_reason == "tool_use"
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "12:00"}
    more = [
        *QUESTION,
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [result]},
    ]
    options["tool_choice"] = {"type": "none"}
    assert claude.messages.create(**options, messages=more).content


def test_messages_refuse_in_their_own_words(claude):
    with pytest.raises(anthropic.BadRequestError) as refused:
        claude.messages.create(
            model=MODEL,
            max_tokens=2000,
            messages=QUESTION,
            thinking={"type": "enabled", "budget_tokens": 1024},
        )
    assert refused.value.body["error"]["type"] == "invalid_request_error"
    assert refused.value.body["error"]["param"] == "thinking"
    unknown = {"type": "text", "text": "hi", "bogus": 1}
    warned = claude.messages.create(model=MODEL, max_tokens=1, messages=[{"role": "user", "content": [unknown]}])
    assert warned.warnings == ["unknown field 'messages[0].content[0].bogus' was ignored"]
    with pytest.raises(anthropic.NotFoundError):
        claude.messages.create(model="nobody", max_tokens=1, messages=QUESTION)


def test_ollama(llama, client):
    options = {"temperature": 0, "num_predict": 24}
    answer = llama.chat(MODEL, QUESTION, options=options)
    assert answer.message.content == chat_text(client)
    assert answer.done and answer.eval_count > 0 and answer.prompt_eval_count > 0
    pieces = list(llama.chat(MODEL + ":latest", QUESTION, options=options, stream=True))
    assert "".join(piece.message.content for piece in pieces) == answer.message.content
    assert pieces[-1].done_reason == answer.done_reason
    generated = llama.generate(MODEL, QUESTION[0]["content"], options=options)
    assert generated.response == answer.message.content
    raw = llama.generate(MODEL, "The capital of France is", raw=True, options=options)
    assert "Paris" in raw.response


class City(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=30)
    is_capital: bool


def test_ollama_forms_and_tools(llama):
    options = {"temperature": 0, "num_predict": 200}
    schema = City.model_json_schema()
    answer = llama.chat(MODEL, QUESTION, options=options, format=schema)
    assert City.model_validate_json(answer.message.content)
    # Nothing requires a call here, so only that the answer is told matters.
    assert llama.chat(MODEL, QUESTION, options=options, tools=TOOLS).done


def test_ollama_models(llama):
    assert [model.model for model in llama.list().models] == [MODEL]
    assert [model.model for model in llama.ps().models] == [MODEL]
    assert llama.generate(MODEL).done_reason == llama.chat(MODEL).done_reason == "load"
    assert "completion" in llama.show(MODEL).capabilities
    with pytest.raises(ollama.ResponseError) as refused:
        llama.chat("nobody", QUESTION)
    assert refused.value.status_code == 404


def test_responses(client):
    options = {"model": MODEL, "temperature": 0, "max_output_tokens": 24}
    response = client.responses.create(**options, input=QUESTION[0]["content"])
    assert response.output_text == chat_text(client)
    assert response.usage.output_tokens > 0
    deltas, final = [], None
    for event in client.responses.create(**options, input=QUESTION, stream=True):
        if event.type == "response.output_text.delta":
            deltas.append(event.delta)
        if event.type in ("response.completed", "response.incomplete"):
            final = event.response
    assert "".join(deltas) == response.output_text == final.output_text
    assert final.status == response.status


def test_responses_parse_and_call(client):
    parsed = client.responses.parse(
        model=MODEL, input="Name a city.", text_format=City, temperature=0, max_output_tokens=200
    )
    assert isinstance(parsed.output_parsed, City)
    tool = {"type": "function", "name": "get_time", "parameters": TIME, "strict": True}
    options = {"model": MODEL, "tools": [tool], "temperature": 0, "max_output_tokens": 200}
    items = [{"role": "user", "content": "What time is it?"}]
    response = client.responses.create(**options, input=items, tool_choice="required", parallel_tool_calls=False)
    call = response.output[0]
    assert call.type == "function_call" and list(json.loads(call.arguments)) == ["zone"]
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "12:00"}
    again = client.responses.create(**options, input=[*items, call.model_dump(), output], tool_choice="none")
    assert again.output_text
    pieces, done = [], None
    stream = client.responses.create(**options, input=items, tool_choice="required", parallel_tool_calls=False, stream=True)
    for event in stream:
        if event.type == "response.function_call_arguments.delta":
            pieces.append(event.delta)
        if event.type == "response.function_call_arguments.done":
            done = event.arguments
    assert "".join(pieces) == done == call.arguments
