"""Cohere's wire: requests, responses, and that a stream of events equals a response that is not streamed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from returns.pipeline import is_successful

import llmhub
from llmhub.config import Settings
from llmhub.core import errors
from llmhub.core.protocol import interpret, interpret_stream, prepare
from llmhub.core.provider import Endpoint, HttpReply
from llmhub.core.types import (
    CompletionRequest,
    Image,
    Message,
    Opaque,
    Reasoning,
    Schema,
    Text,
    Tool,
    ToolCall,
    ToolResult,
    Usage,
)
from llmhub.providers.registry import PROVIDERS
from llmhub.sim import SimulatorThread
from llmhub.wire import cohere_chat

PROVIDER = PROVIDERS["cohere-native"]
MODEL = "command-a-03-2025"
HI = (Message("user", "Hi"),)


def encoded(messages: tuple[Message, ...] = HI, **fields: Any) -> dict[str, Any]:
    payload: dict[str, Any] = cohere_chat.encode(CompletionRequest(model=MODEL, messages=messages, **fields)).unwrap()
    return payload


def refused(messages: tuple[Message, ...] = HI, **fields: Any) -> errors.LLMError:
    return cohere_chat.encode(CompletionRequest(model=MODEL, messages=messages, **fields)).failure()


def pieces(body: bytes) -> list[bytes]:
    return [body[start : start + 13] for start in range(0, len(body), 13)]


@pytest.mark.corpus
def test_recorded_answers_equal_a_reference_decoding(corpus: Callable[[str], list[Any]]) -> None:
    answers = failures = 0
    for exchange in corpus("cohere-chat"):
        result = (
            interpret_stream(PROVIDER, exchange.head, pieces(exchange.body))
            if exchange.streaming
            else interpret(PROVIDER, exchange.reply)
        )
        if not exchange.ok:
            kinds = {401: errors.AuthFailed, 404: errors.NotFound, 422: errors.InvalidRequest}
            assert type(result.failure()) is kinds[exchange.status], exchange.id
            failures += 1
            continue
        answers += 1
        answer = result.unwrap()
        if exchange.streaming:
            events = [json.loads(line[6:]) for line in exchange.body.decode().splitlines() if line[:7] == "data: {"]
            contents = [event["delta"]["message"]["content"] for event in events if event["type"] == "content-delta"]
            text = "".join(content.get("text", "") for content in contents)
            thinking = "".join(content.get("thinking", "") for content in contents)
            calls = [event["delta"]["message"]["tool_calls"] for event in events if event["type"] == "tool-call-start"]
            end = next(event["delta"] for event in events if event["type"] == "message-end")
        else:
            end = json.loads(exchange.body)
            blocks = end["message"].get("content", [])
            text = "".join(block.get("text", "") for block in blocks)
            thinking = "".join(block.get("thinking", "") for block in blocks)
            calls = end["message"].get("tool_calls", [])
            citations = [part for part in answer.parts if isinstance(part, Opaque)]
            assert [json.loads(part.data) for part in citations] == end["message"].get("citations", [])
        assert (answer.text, answer.reasoning) == (text, thinking), exchange.id
        assert [(call.id, call.name) for call in answer.tool_calls] == [
            (call["id"], call["function"]["name"]) for call in calls
        ], exchange.id
        assert answer.finish_reason == cohere_chat.FINISH[end["finish_reason"]], exchange.id
        billed = end["usage"]["billed_units"]
        assert answer.usage == Usage(input_tokens=billed["input_tokens"], output_tokens=billed["output_tokens"])
    assert (answers, failures) == (5, 3)


@pytest.mark.corpus
def test_recorded_request_is_encoded_identically(corpus: Callable[[str], list[Any]]) -> None:
    recorded = next(each.request for each in corpus("cohere-chat") if each.id.endswith("0a24898deebd"))
    (tool,) = [tool["function"] for tool in recorded["body"]["tools"]]
    request = CompletionRequest(
        model=recorded["body"]["model"],
        messages=(Message("user", recorded["body"]["messages"][0]["content"][0]["text"]),),
        tools=(Tool(tool["name"], tool["description"], tool["parameters"], strict=True),),
        tool_choice="required",
        extra={"stream": False},
    )
    sent = prepare(PROVIDER, Endpoint(api_key="k"), request, 0.0).unwrap()
    body = json.loads(sent.body)
    body["tool_choice"] = body["tool_choice"].lower()  # as it was recorded; the documentation has capitals
    body["messages"][0]["content"] = [{"type": "text", "text": body["messages"][0]["content"]}]
    assert (sent.url, body) == (recorded["url"], recorded["body"])


def test_parameters_have_their_own_names() -> None:
    payload = encoded(temperature=0.5, top_p=0.9, top_k=40, max_tokens=9, stop=("x",), seed=1, frequency_penalty=0.5)
    expected = {"temperature": 0.5, "p": 0.9, "k": 40, "max_tokens": 9, "stop_sequences": ["x"], "seed": 1}
    assert {**expected, "frequency_penalty": 0.5}.items() <= payload.items()
    for name, value in (("n", 2), ("user", "u"), ("logprobs", 1), ("parallel_tool_calls", True)):
        assert refused(**{name: value}).path == f"$.{name}"
    assert refused(temperature=1.5).path == "$.temperature"


def test_features() -> None:
    assert encoded(reasoning_effort="none")["thinking"] == {"type": "disabled"}
    assert encoded(reasoning_budget=0)["thinking"] == {"type": "disabled"}
    assert encoded(reasoning_budget=100)["thinking"] == {"type": "enabled", "token_budget": 100}
    assert refused(reasoning_effort="low").path == "$.reasoning_effort"
    schema = Schema({"type": "object"})
    assert encoded(response_schema=schema)["response_format"] == {
        "type": "json_object",
        "json_schema": {"type": "object"},
    }
    tools = (Tool("look"),)
    assert "tool_choice" not in encoded(tools=tools, tool_choice="auto")
    assert encoded(tools=tools, tool_choice="none")["tool_choice"] == "NONE"
    assert encoded(tools=tools, tool_choice="look")["tool_choice"] == "REQUIRED"
    assert refused(tools=(*tools, Tool("wait")), tool_choice="look").path == "$.tool_choice"


def test_conversations_round_trip() -> None:
    citation = Opaque("citation", '{"start":0,"end":2,"text":"Hi"}')
    messages = (
        Message("system", "Be brief."),
        Message("user", (Text("What is it?"), Image(url="https://example.org/a.png"))),
        Message("assistant", (Reasoning("hm"), Text("Hi"), citation, ToolCall("c1", "look", '{"a":1}'))),
        Message("tool", (ToolResult("c1", "a cat"),)),
    )
    system, user, assistant, tool = encoded(messages)["messages"]
    assert system == {"role": "system", "content": "Be brief."}
    assert user["content"][1] == {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    assert assistant == {
        "role": "assistant",
        "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "Hi"}],
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"a":1}'}}],
        "citations": [json.loads(citation.data)],
    }
    assert tool == {"role": "tool", "tool_call_id": "c1", "content": "a cat"}
    answer = {"message": assistant, "finish_reason": "TOOL_CALL", "usage": {}}
    decoded = cohere_chat.decode(answer).unwrap()
    assert set(decoded.parts) == set(messages[2].parts)


@pytest.mark.parametrize("model", [MODEL, "command-a-reasoning-08-2025"])
def test_a_stream_equals_a_response(model: str, simulator: SimulatorThread) -> None:
    tools = (Tool("look", "", {"type": "object", "properties": {"where": {"type": "string"}}}),)
    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings()) as hub:
        for options in ({}, {"tools": tools, "tool_choice": "required"}, {"max_tokens": 3}, {"temperature": 0.3}):
            whole = llmhub.complete("Say hi to the harbour.", model=f"cohere-native/{model}", hub=hub, **options)
            *_, last = llmhub.stream("Say hi to the harbour.", model=f"cohere-native/{model}", hub=hub, **options)
            assert last.response is not None
            assert last.response.parts == whole.parts
            assert (last.response.usage, last.response.finish_reason) == (whole.usage, whole.finish_reason)


def test_errors_within_a_stream() -> None:
    body = b'data: {"type":"message-end","delta":{"finish_reason":"ERROR","error":"too many tokens"}}\n\n'
    error = interpret_stream(PROVIDER, HttpReply(200), [body]).failure()
    assert isinstance(error, errors.ContextTooLong)


@given(st.binary())
def test_arbitrary_bytes_return(body: bytes) -> None:
    assert not is_successful(interpret(PROVIDER, HttpReply(200, {}, body)))
    assert not is_successful(interpret_stream(PROVIDER, HttpReply(200), [body]))
    assert not is_successful(interpret(PROVIDER, HttpReply(500, {}, body)))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(("message", "content", "delta", "type", "tool_calls", "function", "usage", "text")),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_arbitrary_objects_return(value: Any) -> None:
    cohere_chat.decode({"message": value})
    for kind in ("message-end", "content-delta", None):
        data = json.dumps({"type": kind, "delta": value, "message": value}).encode()
        interpret_stream(PROVIDER, HttpReply(200), [b"data: " + data + b"\n\n"])
