"""Calls of tools through the official client of OpenAI."""

import json

import jsonschema
import openai
import pytest
from conftest import Server

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20},
        "unit": {"enum": ["C", "F"]},
    },
    "required": ["city", "unit"],
}
TIME = {"type": "object", "properties": {"zone": {"type": "string", "maxLength": 10}}, "required": ["zone"]}
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "Weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "get_time", "description": "Time", "parameters": TIME}},
]
SCHEMAS = {"get_weather": WEATHER, "get_time": TIME}
QUESTION = [{"role": "user", "content": "What is the weather in Paris?"}]


@pytest.fixture(params=["placeholder", "smollm2-135m-instruct"])
def ask(request):
    fixture = "placeholder" if request.param == "placeholder" else "smollm2"
    client = request.getfixturevalue(fixture).client()

    def ask(messages=QUESTION, **options):
        options = {"max_tokens": 600, "temperature": 1, "tools": TOOLS, "seed": 1} | options
        if fixture == "placeholder":
            # Its words are so likely that no string would end.
            options["extra_body"] = {"allowed_token_ids": [0, 3, *range(256, 512)]}
        return client.chat.completions.create(model=request.param, messages=messages, **options)

    return ask


def check(call):
    assert call.type == "function" and call.id
    jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])


def test_required_and_named_calls_are_enforced(ask):
    for seed in range(3):
        named = {"type": "function", "function": {"name": "get_time"}}
        choice = ask(tool_choice=named, seed=seed).choices[0]
        assert choice.finish_reason == "tool_calls" and choice.message.content is None
        assert [call.function.name for call in choice.message.tool_calls] == ["get_time"]
        check(choice.message.tool_calls[0])
        choice = ask(tool_choice="required", parallel_tool_calls=False, seed=seed).choices[0]
        assert choice.finish_reason == "tool_calls" and len(choice.message.tool_calls) == 1
        check(choice.message.tool_calls[0])


def test_a_streamed_call_is_the_whole_one(ask):
    options = {"tool_choice": "required", "parallel_tool_calls": False}
    whole = ask(**options).choices[0].message.tool_calls
    calls, reason = {}, None
    for chunk in ask(**options, stream=True):
        for choice in chunk.choices:
            reason = choice.finish_reason or reason
            for piece in choice.delta.tool_calls or []:
                call = calls.setdefault(piece.index, {"id": piece.id, "name": piece.function.name, "pieces": []})
                call["pieces"].append(piece.function.arguments)
    assert reason == "tool_calls"
    streamed = [(call["name"], "".join(call["pieces"])) for call in calls.values()]
    assert streamed == [(call.function.name, call.function.arguments) for call in whole]
    assert all(call["id"] for call in calls.values())
    assert max(len(call["pieces"]) for call in calls.values()) > 2


def test_results_go_back_to_the_model(ask):
    call = ask(tool_choice="required", parallel_tool_calls=False).choices[0].message
    result = {"role": "tool", "tool_call_id": call.tool_calls[0].id, "content": "sunny"}
    answer = ask([*QUESTION, call, result], max_tokens=20)
    assert answer.choices[0].message.role == "assistant"
    without = ask([*QUESTION, call], max_tokens=20)
    assert answer.usage.prompt_tokens > without.usage.prompt_tokens


def test_a_template_without_tools_describes_them(smollm2):
    messages = [
        *QUESTION,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "get_time", "arguments": '{"zone": "CET"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": "12:00"},
    ]
    prompt = smollm2.post("/apply-template", {"messages": messages, "tools": TOOLS}).json["prompt"]
    assert '"name":"get_weather"' in prompt and "<tools>" in prompt
    assert '<tool_call>\n{"name":"get_time","arguments":{"zone":"CET"}}\n</tool_call>' in prompt
    assert "<tool_response>\n12:00\n</tool_response>" in prompt
    none = {"messages": messages, "tools": TOOLS, "tool_choice": "none"}
    assert "<tools>" not in smollm2.post("/apply-template", none).json["prompt"]


def test_an_answer_that_may_call_once_ends_with_its_call(tmp_path):
    server = Server(tmp_path, "--model", "placeholder:mode=echo")
    call = '<tool_call>\n{"name": "get_time", "arguments": {"zone": "CET"}}\n</tool_call>'
    messages = [{"role": "user", "content": f"I look.\n{call}\n{call}\nDone."}]
    body = {"messages": messages, "tools": TOOLS, "max_tokens": 400, "temperature": 0}

    def calls(**options):
        choice = server.post("/v1/chat/completions", body | options).json["choices"][0]
        assert choice["finish_reason"] == "tool_calls"
        return choice["message"]["content"], len(choice["message"]["tool_calls"])

    assert calls()[1] == 2
    assert calls(parallel_tool_calls=False) == ("I look.", 1)
    tools = [{"name": "get_time", "input_schema": TIME}]
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    body = {"model": "placeholder", "messages": messages, "tools": tools, "max_tokens": 400, "temperature": 0}
    message = server.post("/v1/messages", body | {"tool_choice": choice}).json
    assert message["stop_reason"] == "tool_use"
    assert [block["type"] for block in message["content"]] == ["text", "tool_use"]
    assert server.stop() == 0


def test_strict_arguments_follow_their_schema_where_the_model_decides(tmp_path):
    server = Server(tmp_path, "--model", "placeholder:mode=echo")
    call = '<tool_call>\n{"name": "get_time", "arguments": {"place": "CET"}}\n</tool_call>'
    messages = [{"role": "user", "content": call}]

    def arguments(strict):
        tool = {"type": "function", "function": {"name": "get_time", "parameters": TIME, "strict": strict}}
        body = {"messages": messages, "tools": [tool], "max_tokens": 400, "temperature": 0}
        (called,) = server.post("/v1/chat/completions", body).json["choices"][0]["message"]["tool_calls"]
        return json.loads(called["function"]["arguments"])

    assert arguments(strict=False) == {"place": "CET"}
    jsonschema.validate(arguments(strict=True), TIME)
    assert server.stop() == 0


def test_an_answer_calls_or_is_of_the_form_that_is_asked_for(ask):
    schema = {"type": "object", "properties": {"is_known": {"type": "boolean"}}, "required": ["is_known"]}
    schema["additionalProperties"] = False
    form = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}
    for seed in range(4):
        choice = ask(response_format=form, seed=seed).choices[0]
        if choice.finish_reason == "tool_calls":
            assert all(call.function.name in SCHEMAS for call in choice.message.tool_calls)
        elif choice.finish_reason == "stop":
            jsonschema.validate(json.loads(choice.message.content), schema)
        # Arguments that may be any object may also have no end.
        else:
            assert choice.finish_reason == "length"


def test_what_does_not_fit_is_refused(placeholder):
    client = placeholder.client()

    def refused(**options):
        options = {"tools": TOOLS} | options
        with pytest.raises(openai.BadRequestError) as raised:
            client.chat.completions.create(model="placeholder", messages=QUESTION, **options)
        return raised.value.param

    missing = {"type": "function", "function": {"name": "nothing"}}
    assert refused(tool_choice=missing) == "tool_choice"
    assert refused(tools=[], tool_choice="required") == "tools"
    assert refused(tools=[{"type": "function", "function": {"name": "a b"}}]) == "tools[0].function.name"
    assert refused(tools=[TOOLS[0], TOOLS[0]]) == "tools[1].function.name"
    form = {"type": "json_object"}
    assert refused(tool_choice="required", response_format=form) == "tool_choice"
    unsupported = json.loads(json.dumps(TOOLS[:1]))
    unsupported[0]["function"]["parameters"]["not"] = {}
    assert refused(tools=unsupported, tool_choice="required") == "tool_choice"
    unsupported[0]["function"]["strict"] = True
    assert refused(tools=unsupported) == "tools"
