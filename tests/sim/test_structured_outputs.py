"""Structured outputs and tool calls of the simulator, on every wire."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import anthropic
import botocore.session
import openai
import pytest
from google import genai
from google.genai import types
from jsonschema import Draft202012Validator
from openai.types.chat import ChatCompletion
from openai.types.responses import Response

import llmhub
from llmhub.config import Settings
from llmhub.core.types import CompletionResponse, Message, Schema, Tool, ToolCall, ToolResult
from llmhub.sim import FAKE_PROVIDERS, SimulatorThread

MODELS = {
    "openai": "gpt-4o-mini",
    "openai-responses": "gpt-4o-mini",
    "azure": "gpt-4o-mini",
    "azure-responses": "gpt-4o-mini",
    "compatible": "llama-3.3-70b-instruct",
    "anthropic": "claude-haiku-4-5",
    "vertex-anthropic": "claude-haiku-4-5@20251001",
    "google": "gemini-2.5-flash",
    "vertex": "gemini-2.5-flash",
    "bedrock": "us.anthropic.claude-haiku-4-5-20251001-v1:0",
    "ollama-native": "llama3.2",
    "cohere-native": "command-a-03-2025",
}
PLACE = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "kind": {"enum": ["harbour", "hill"]},
        "depth": {"type": "integer", "minimum": 3, "maximum": 9},
        "boats": {"type": "array", "items": {"$ref": "#/$defs/boat"}},
        "owner": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    },
    "required": ["name", "kind", "depth", "boats", "owner"],
    "additionalProperties": False,
    "$defs": {
        "boat": {
            "type": "object",
            "properties": {"mast": {"type": "number"}, "sails": {"type": "boolean"}},
            "required": ["mast", "sails"],
            "additionalProperties": False,
        }
    },
}
FITS = Draft202012Validator(PLACE)
LOOK = Tool("look", "Looks.", PLACE)
WAIT = Tool("wait", "Waits.", {"type": "object", "properties": {}})
PROMPT = "Describe the harbour of Genoa."


@pytest.fixture(scope="module")
def hub(simulator: SimulatorThread) -> Iterator[llmhub.Hub]:
    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), retry=llmhub.Retry(attempts=1)) as client:
        yield client


def both(hub: llmhub.Hub, provider: str, prompt: Any = PROMPT, **options: Any) -> CompletionResponse:
    """Request a completion and a stream, and compare them."""
    options = {"model": f"{provider}/{MODELS[provider]}", "hub": hub, **options}
    response = llmhub.complete(prompt, **options)
    streamed = list(llmhub.stream(prompt, **options))[-1].response
    assert streamed is not None
    assert _content(streamed) == _content(response)
    assert streamed.usage == response.usage
    return response


def _content(response: CompletionResponse) -> Any:
    """Return the content of a response without generated ids."""
    calls = [(call.name, json.loads(call.arguments)) for call in response.tool_calls]
    return response.text, calls, response.finish_reason, response.forced_tool


def test_all_providers_are_covered() -> None:
    assert set(MODELS) == set(FAKE_PROVIDERS) - {"openai-completions"}  # base models have no schemas and tools


@pytest.mark.parametrize("provider", MODELS)
def test_responses_match_their_schema(hub: llmhub.Hub, provider: str) -> None:
    answer = both(hub, provider, response_schema=PLACE)
    FITS.validate(llmhub.parse(answer, PLACE))
    assert (answer.finish_reason, answer.forced_tool, answer.tool_calls) == ("stop", False, ())
    prompts = {"t": [f"{PROMPT} {index}" for index in range(9)]}
    table = llmhub.complete_table(
        prompts, "{t}", model=f"{provider}/{MODELS[provider]}", hub=hub, response_schema=PLACE
    )
    parsed = [json.loads(text) for text in table.column("parsed").to_pylist()]
    assert all(FITS.is_valid(item) for item in parsed)
    assert {item["kind"] for item in parsed} == {"harbour", "hill"}


@pytest.mark.parametrize("provider", [name for name in MODELS if name != "ollama-native"])
def test_required_tools_are_called(hub: llmhub.Hub, provider: str) -> None:
    forced = both(hub, provider, response_schema=Schema(PLACE, via="tool"))
    FITS.validate(json.loads(forced.text))
    assert (forced.finish_reason, forced.forced_tool) == ("stop", True)
    for choice in ("look", "required"):
        answer = both(hub, provider, tools=(LOOK,), tool_choice=choice)
        assert [call.name for call in answer.tool_calls] == ["look"]
        FITS.validate(json.loads(answer.tool_calls[0].arguments))
        assert answer.text == ""
        assert answer.finish_reason == "tool_calls"


@pytest.mark.parametrize("provider", MODELS)
def test_marked_tools_are_called(hub: llmhub.Hub, provider: str) -> None:
    tools = (LOOK, WAIT)
    assert both(hub, provider, tools=tools).tool_calls == ()
    marked = f"{PROMPT} [[sim:tool look]] [[sim:tool wait]]"
    answer = both(hub, provider, marked, tools=tools)
    assert [call.name for call in answer.tool_calls] == ["look", "wait"]
    assert len({call.id for call in answer.tool_calls}) == 2
    assert json.loads(answer.tool_calls[1].arguments) == {}
    assert answer.finish_reason == "tool_calls"
    results = [ToolResult(call.id, "seen", call.name) for call in answer.tool_calls]
    messages = [
        Message("user", marked),
        Message("assistant", answer.parts),
        *[Message("tool", item) for item in results],
    ]
    last = both(hub, provider, messages, tools=tools)
    assert last.text
    assert last.tool_calls == ()


@pytest.mark.parametrize("provider", [name for name in MODELS if name != "ollama-native"])
def test_tool_calls_beyond_max_tokens_are_cut(hub: llmhub.Hub, provider: str) -> None:
    room = 16 if "responses" in provider else 3
    answer = both(hub, provider, tools=(LOOK,), tool_choice="required", max_tokens=room)
    assert (answer.finish_reason, answer.tool_calls) == ("length", ())


def test_choices_are_independent(hub: llmhub.Hub) -> None:
    for provider in ("openai", "google"):
        answer = both(hub, provider, response_schema=PLACE, n=3)
        texts = [answer.text, *(other.text for other in answer.others)]
        assert len(set(texts)) == 3
        assert all(FITS.is_valid(json.loads(text)) for text in texts)


def test_custom_models_provide_arguments(simulate: Callable[..., SimulatorThread]) -> None:
    text = {"yes": '{"name": "Genoa"}', "no": "Sorry."}
    served = simulate(respond=lambda prompt: text[prompt])
    with llmhub.Hub(endpoints=served.endpoints(), settings=Settings()) as hub:
        response = llmhub.complete("yes", model="openai/gpt-4o-mini", hub=hub, tools=(LOOK,), tool_choice="look")
        assert [call.arguments for call in response.tool_calls] == ['{"name":"Genoa"}']
        plain = llmhub.complete("no", model="openai/gpt-4o-mini", hub=hub, tools=(LOOK,), tool_choice="look")
        assert (plain.text, plain.tool_calls) == ("Sorry.", ())


def test_labels_and_fields(hub: llmhub.Hub) -> None:
    frame = llmhub.llm({"t": [f"Ship {index}" for index in range(8)]})
    labels = frame.classify("{t}", labels=["fast", "slow"], model="anthropic/claude-haiku-4-5", hub=hub, progress=False)
    assert "fast" in str(labels)
    fields = frame.extract("{t}", schema=PLACE, model="bedrock/amazon.nova-lite-v1:0", hub=hub, progress=False)
    assert "harbour" in str(fields)


# What the providers' own clients read.

CHAT_TOOL = {"type": "function", "function": {"name": "look", "parameters": PLACE}}
CHAT: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": PROMPT}]}


@pytest.fixture(scope="module")
def gpt(simulator: SimulatorThread) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=simulator.base_url("openai"), api_key="k", max_retries=0) as client:
        yield client


def test_openai_client_parses_chat_completions(gpt: openai.OpenAI) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": PLACE, "strict": True}}
    answer = gpt.chat.completions.create(**CHAT, response_format=form)
    FITS.validate(json.loads(answer.choices[0].message.content))
    loose = gpt.chat.completions.create(**CHAT, response_format={"type": "json_object"})
    assert isinstance(json.loads(loose.choices[0].message.content), dict)
    called = gpt.chat.completions.create(**CHAT, tools=[CHAT_TOOL], tool_choice="required")
    ChatCompletion.model_validate(called.model_dump(), strict=False)
    assert (called.choices[0].finish_reason, called.choices[0].message.content) == ("tool_calls", None)
    [call] = called.choices[0].message.tool_calls
    FITS.validate(json.loads(call.function.arguments))
    with gpt.chat.completions.stream(**CHAT, tools=[CHAT_TOOL], tool_choice="required") as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion().choices[0]
    assert kinds.count("tool_calls.function.arguments.delta") > 3
    assert final.message.tool_calls[0].function.arguments == call.function.arguments
    assert (final.finish_reason, final.message.tool_calls[0].id) == ("tool_calls", call.id)
    named = {"type": "function", "function": {"name": "look"}}
    silent = gpt.chat.completions.create(**CHAT, tools=[CHAT_TOOL], tool_choice=named).choices[0]
    # As recorded: the end of a call asked for by name is told as that of a text.
    assert (silent.finish_reason, len(silent.message.tool_calls)) == ("stop", 1)
    among = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [CHAT_TOOL]}}
    other = {"type": "function", "function": {"name": "wait", "parameters": {"type": "object"}}}
    picked = gpt.chat.completions.create(**CHAT, tools=[other, CHAT_TOOL], tool_choice=among)
    assert picked.choices[0].message.tool_calls[0].function.name == "look"


def test_openai_client_parses_responses(gpt: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": "gpt-4o-mini", "input": PROMPT}
    form = {"format": {"type": "json_schema", "name": "place", "schema": PLACE, "strict": True}}
    FITS.validate(json.loads(gpt.responses.create(**options, text=form).output_text))
    tool = {"type": "function", "name": "look", "parameters": PLACE, "strict": True}
    choice = {"type": "function", "name": "look"}
    called = gpt.responses.create(**options, tools=[tool], tool_choice=choice)
    Response.model_validate(called.model_dump(), strict=False)
    [item] = called.output
    assert (item.type, item.name, called.status) == ("function_call", "look", "completed")
    FITS.validate(json.loads(item.arguments))
    with gpt.responses.stream(**options, tools=[tool], tool_choice=choice) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds.count("response.function_call_arguments.delta") > 3
    assert (final.output[0].arguments, final.output[0].call_id) == (item.arguments, item.call_id)


def test_anthropic_client_parses_messages(simulator: SimulatorThread) -> None:
    options: dict[str, Any] = {"model": "claude-haiku-4-5", "max_tokens": 900}
    options["messages"] = [{"role": "user", "content": PROMPT}]
    headers = {"anthropic-version": "2023-06-01"}
    with anthropic.Anthropic(
        base_url=simulator.base_url("anthropic"), api_key="k", max_retries=0, default_headers=headers
    ) as client:
        form = {"format": {"type": "json_schema", "schema": PLACE}}
        FITS.validate(json.loads(client.messages.create(**options, output_config=form).content[0].text))
        tools: dict[str, Any] = {"tools": [{"name": "look", "input_schema": PLACE}], "tool_choice": {"type": "any"}}
        called = client.messages.create(**options, **tools)
        assert (called.stop_reason, [block.type for block in called.content]) == ("tool_use", ["tool_use"])
        FITS.validate(called.content[0].input)
        with client.messages.stream(**options, **tools) as stream:
            kinds = [event.type for event in stream]
            final = stream.get_final_message()
        assert kinds.count("input_json") > 3
        assert (final.content[0].input, final.content[0].id) == (called.content[0].input, called.content[0].id)


def test_google_client_parses_gemini(simulator: SimulatorThread) -> None:
    options: dict[str, Any] = {"model": "gemini-2.5-flash", "contents": PROMPT}
    with genai.Client(api_key="k", http_options=types.HttpOptions(base_url=simulator.base_url("google"))) as client:
        form = types.GenerateContentConfig(response_mime_type="application/json", response_json_schema=PLACE)
        FITS.validate(client.models.generate_content(**options, config=form).parsed)
        typed = types.Schema(
            type=types.Type.ARRAY, min_items=2, max_items=2, items=types.Schema(type=types.Type.INTEGER)
        )
        google = types.GenerateContentConfig(response_mime_type="application/json", response_schema=typed)
        assert len(json.loads(client.models.generate_content(**options, config=google).text)) == 2
        look = types.FunctionDeclaration(name="look", parameters_json_schema=PLACE)
        calling = types.FunctionCallingConfig(mode=types.FunctionCallingConfigMode.ANY, allowed_function_names=["look"])
        config = types.GenerateContentConfig(
            tools=[types.Tool(function_declarations=[look])],
            tool_config=types.ToolConfig(function_calling_config=calling),
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
        )
        called = client.models.generate_content(**options, config=config)
        [call] = called.function_calls
        FITS.validate(call.args)
        assert called.candidates[0].finish_reason is types.FinishReason.STOP
        chunks = list(client.models.generate_content_stream(**options, config=config))
        assert [call.args for chunk in chunks for call in chunk.function_calls or ()] == [call.args]


def test_botocore_parses_converse(simulator: SimulatorThread) -> None:
    endpoint = simulator.endpoints()["bedrock"]
    client = botocore.session.Session().create_client(
        "bedrock-runtime",
        region_name=endpoint.region,
        endpoint_url=endpoint.base_url,
        aws_access_key_id=endpoint.access_key_id.reveal(),
        aws_secret_access_key=endpoint.secret_access_key.reveal(),
    )
    options: dict[str, Any] = {"modelId": "amazon.nova-lite-v1:0"}
    options["messages"] = [{"role": "user", "content": [{"text": PROMPT}]}]
    structure = {"jsonSchema": {"name": "place", "schema": json.dumps(PLACE)}}
    tool = {"toolSpec": {"name": "look", "inputSchema": {"json": PLACE}}}
    tools = {"tools": [tool], "toolChoice": {"tool": {"name": "look"}}}
    with closing(client):
        form = {"textFormat": {"type": "json_schema", "structure": structure}}
        answer = client.converse(**options, outputConfig=form)
        FITS.validate(json.loads(answer["output"]["message"]["content"][0]["text"]))
        called = client.converse(**options, toolConfig=tools)
        [block] = called["output"]["message"]["content"]
        FITS.validate(block["toolUse"]["input"])
        assert called["stopReason"] == "tool_use"
        with closing(client.converse_stream(**options, toolConfig=tools)["stream"]) as stream:
            events = list(stream)
    starts = [event["contentBlockStart"]["start"] for event in events if "contentBlockStart" in event]
    deltas = [event["contentBlockDelta"]["delta"] for event in events if "contentBlockDelta" in event]
    text = "".join(delta["toolUse"]["input"] for delta in deltas)
    assert starts == [{"toolUse": {"toolUseId": block["toolUse"]["toolUseId"], "name": "look"}}]
    assert len(deltas) > 3
    assert json.loads(text) == block["toolUse"]["input"]


def test_earlier_calls_keep_their_id_and_are_not_repeated(hub: llmhub.Hub) -> None:
    """A tool call in the history keeps its id and is not called again."""
    call = ToolCall("call_1", "look", '{"name":"Genoa"}')
    messages = [
        Message("user", PROMPT),
        Message("assistant", call),
        Message("tool", ToolResult("call_1", "deep", "look")),
    ]
    assert both(hub, "anthropic", messages, tools=(LOOK,)).text
