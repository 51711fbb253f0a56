"""Calls of tools through the official client of OpenAI."""

import json

import jsonschema
import openai
import pytest

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
