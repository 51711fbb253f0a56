"""What a model thinks, through the clients of all APIs. The placeholder repeats what it is told."""

import anthropic
import ollama
import pytest
from conftest import Server

MODEL = "placeholder"
SAID = [{"role": "user", "content": "<think>\nhm, so\n</think>\n\nyes"}]
TEMPLATE = """{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and not enable_thinking -%}
{{ '<think>\\n\\n</think>\\n\\n' }}
{%- endif -%}
{%- endif -%}
"""


@pytest.fixture(scope="module")
def server(home, tmp_path_factory):
    template = tmp_path_factory.mktemp("template") / "thinks.jinja"
    template.write_text(TEMPLATE)
    server = Server(home, "--model", "placeholder:mode=echo", "--chat-template", str(template))
    yield server
    server.stop()


def test_chats(server):
    client = server.client()
    options = {"model": MODEL, "messages": SAID, "reasoning_effort": "high"}
    answer = client.chat.completions.create(**options)
    message = answer.choices[0].message
    assert (message.reasoning_content, message.content) == ("hm, so", "yes")
    assert answer.usage.completion_tokens_details.reasoning_tokens > 0
    thought, said = "", ""
    for chunk in client.chat.completions.create(**options, stream=True):
        delta = chunk.choices[0].delta
        thought += getattr(delta, "reasoning_content", None) or ""
        said += delta.content or ""
    assert (thought, said) == ("hm, so", "yes")


def test_responses(server):
    client = server.client()
    options = {"model": MODEL, "input": SAID, "reasoning": {"effort": "high"}}
    answer = client.responses.create(**options)
    assert [item.type for item in answer.output] == ["reasoning", "message"]
    assert (answer.output[0].content[0].text, answer.output_text) == ("hm, so", "yes")
    assert answer.usage.output_tokens_details.reasoning_tokens > 0
    events = list(client.responses.create(**options, stream=True))
    deltas = [event.delta for event in events if event.type == "response.reasoning_text.delta"]
    assert "".join(deltas) == "hm, so"
    assert events[-1].type == "response.completed"
    # What was thought goes back as it came.
    items = [item.model_dump(exclude_none=True) for item in answer.output]
    assert client.responses.create(model=MODEL, input=[*SAID, *items, *SAID]).output_text == "yes"


def test_messages(server):
    claude = anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0)
    options = {"model": MODEL, "max_tokens": 2000, "messages": SAID}
    thinking = {"type": "enabled", "budget_tokens": 1024}
    message = claude.messages.create(**options, thinking=thinking)
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert (message.content[0].thinking, message.content[1].text) == ("hm, so", "yes")
    with claude.messages.stream(**options, thinking=thinking) as stream:
        final = stream.get_final_message()
    assert [(block.type, getattr(block, block.type)) for block in final.content] == [
        (block.type, getattr(block, block.type)) for block in message.content
    ]
    more = [*SAID, {"role": "assistant", "content": message.content}, *SAID]
    again = claude.messages.create(**options | {"messages": more}, thinking=thinking)
    assert again.content == message.content
    # The placeholder takes the tags that the template wrote for the beginning of its answer.
    off = [{"role": "user", "content": "<think>\n\n</think>\n\nyes"}]
    plain = claude.messages.create(**options | {"messages": off})
    assert [block.type for block in plain.content] == ["text"]


def test_ollama(server):
    llama = ollama.Client(host=server.url)
    assert "thinking" in llama.show(MODEL).capabilities
    answer = llama.chat(model=MODEL, messages=SAID, think=True)
    assert (answer.message.thinking, answer.message.content) == ("hm, so", "yes")
    pieces = list(llama.chat(model=MODEL, messages=SAID, think=True, stream=True))
    assert "".join(piece.message.thinking or "" for piece in pieces) == "hm, so"
    assert "".join(piece.message.content or "" for piece in pieces) == "yes"
