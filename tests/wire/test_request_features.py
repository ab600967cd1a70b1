"""Features of requests on all wires: parallel tools, cache marks, log probabilities, tool errors, forced tools."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from returns.pipeline import is_successful

from llmhub.core.errors import InvalidRequest, Unsupported
from llmhub.core.forced_tool import FORCED_TOOL_NAME, unwrap_forced_call
from llmhub.core.protocol import StreamDecoder, interpret, interpret_stream, prepare
from llmhub.core.provider import Endpoint, HttpReply
from llmhub.core.stream import to_stream_chunk
from llmhub.core.types import (
    CacheMark,
    CompletionRequest,
    CompletionResponse,
    Logprobs,
    Message,
    Reasoning,
    Schema,
    Text,
    TokenLogprob,
    Tool,
    ToolCall,
    ToolResult,
)
from llmhub.providers.registry import PROVIDERS

ENDPOINT = Endpoint(base_url="http://localhost", api_key="k", project="p")
LOOK_TOOL = Tool("look", "Looks.", {"type": "object", "properties": {}})
SCHEMA = Schema({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}, "thing")

MODELS = {
    "bedrock": "amazon.nova-lite-v1:0",
    "google": "gemini-2.5-flash",
    "anthropic": "claude-3-haiku-20240307",
    "openai-responses": "gpt-4o",
}
CHAT_PROVIDERS = [name for name in sorted(PROVIDERS) if not name.endswith("-completions")]
"""Providers that accept conversations and tools; base models complete one text."""


def build_request(name: str, **fields: Any) -> CompletionRequest:
    model = MODELS.get(name, "m")
    return CompletionRequest(**{"model": model, "messages": (Message("user", "hi"),), **fields})


def body(name: str, **fields: Any) -> Any:
    return json.loads(prepare(PROVIDERS[name], ENDPOINT, build_request(name, **fields), 0.0).unwrap().body)


def look_up(payload: Any, path: str) -> Any:
    """Return the value at a path such as ``a.0.b``, or ``None``."""
    for step in path.split("."):
        if isinstance(payload, list):
            payload = payload[int(step)] if int(step) < len(payload) else None
        elif isinstance(payload, Mapping):
            payload = payload.get(step)
        else:
            return None
    return payload


@pytest.mark.parametrize(
    ("name", "path", "when_false", "when_true"),
    [
        ("openai", "parallel_tool_calls", False, True),
        ("openai-responses", "parallel_tool_calls", False, True),
        ("anthropic", "tool_choice.disable_parallel_tool_use", True, False),
        ("google", "", None, None),
        ("bedrock", "", None, None),
        ("ollama-native", "", None, None),
    ],
)
def test_parallel_tool_calls(name: str, path: str, when_false: Any, when_true: Any) -> None:
    for wish, expected in ((False, when_false), (True, when_true)):
        fields = {"tools": (LOOK_TOOL,), "parallel_tool_calls": wish}
        if path:
            assert look_up(body(name, **fields), path) is expected
            continue
        error = prepare(PROVIDERS[name], ENDPOINT, build_request(name, **fields), 0.0).failure()
        assert isinstance(error, Unsupported)
        assert error.path == "$.parallel_tool_calls"


def test_tool_choice_with_parallel_tool_calls() -> None:
    def choice(**fields: Any) -> Any:
        return body("anthropic", tools=(LOOK_TOOL,), parallel_tool_calls=False, **fields)["tool_choice"]

    assert choice(tool_choice="look") == {"type": "tool", "name": "look", "disable_parallel_tool_use": True}
    assert choice(tool_choice="none") == {"type": "none"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("openai", {"logprobs": True, "top_logprobs": 2}),
        ("openai-responses", {"top_logprobs": 2, "include": ["message.output_text.logprobs"]}),
        ("google", {"generationConfig": {"responseLogprobs": True, "logprobs": 2}}),
        ("ollama-native", {"logprobs": True, "top_logprobs": 2}),
    ],
)
def test_logprobs_are_requested(name: str, expected: Mapping[str, Any]) -> None:
    encoded = body(name, logprobs=2)
    assert {key: encoded[key] for key in expected} == expected
    assert "options" not in encoded


@pytest.mark.parametrize("name", ["anthropic", "bedrock"])
def test_unsupported_logprobs_are_an_error(name: str) -> None:
    assert prepare(PROVIDERS[name], ENDPOINT, build_request(name, logprobs=0), 0.0).failure().path == "$.logprobs"


CACHE_MARKED = (
    Message("system", (Text("long"), CacheMark("1h"))),
    Message("user", (Text("a"), CacheMark(), Text("b"))),
)


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("anthropic", {"system.0.cache_control": {"type": "ephemeral", "ttl": "1h"}}),
        ("anthropic", {"messages.0.content.0.cache_control": {"type": "ephemeral"}, "messages.0.content.2": None}),
        ("bedrock", {"system.1.cachePoint": {"type": "default", "ttl": "1h"}}),
        ("bedrock", {"messages.0.content.1.cachePoint": {"type": "default"}}),
        ("openai", {"messages.0.content.0.prompt_cache_breakpoint": {"mode": "explicit", "ttl": "1h"}}),
        ("openai", {"messages.1.content.0.prompt_cache_breakpoint": {"mode": "explicit"}}),
        ("openai-responses", {"input.0.content.0.prompt_cache_breakpoint": {"mode": "explicit", "ttl": "1h"}}),
        ("openai-responses", {"input.1.content.0.prompt_cache_breakpoint": {"mode": "explicit"}}),
    ],
)
def test_cache_mark_is_on_the_content_before_it(name: str, places: Mapping[str, Any]) -> None:
    encoded = body(name, messages=CACHE_MARKED)
    assert {path: look_up(encoded, path) for path in places} == places


@pytest.mark.parametrize("name", ["google", "ollama-native", "groq", "compatible", "azure"])
def test_unsupported_cache_mark_is_refused_or_dropped(name: str) -> None:
    error = prepare(PROVIDERS[name], ENDPOINT, build_request(name, messages=CACHE_MARKED), 0.0).failure()
    assert isinstance(error, Unsupported)
    assert error.path == "$.messages[0].parts[1]"
    loose = prepare(
        PROVIDERS[name], ENDPOINT, build_request(name, messages=CACHE_MARKED, unsupported="drop"), 0.0
    ).unwrap()
    assert loose.dropped == ("messages.cache_mark",)


@pytest.mark.parametrize("name", ["anthropic", "openai", "openai-responses"])
def test_cache_mark_needs_content_before_it(name: str) -> None:
    error = prepare(
        PROVIDERS[name], ENDPOINT, build_request(name, messages=(Message("user", (CacheMark(), Text("a"))),)), 0.0
    )
    assert error.failure().path == "$.messages[0].parts[0]"


FAILED = (
    Message("user", "look"),
    Message("assistant", ToolCall("c1", "look")),
    Message("tool", ToolResult("c1", "gone", is_error=True)),
)


@pytest.mark.parametrize("name", ["openai", "openai-responses", "ollama-native", "groq"])
def test_unsupported_error_flag_is_refused_or_dropped(name: str) -> None:
    error = prepare(PROVIDERS[name], ENDPOINT, build_request(name, messages=FAILED), 0.0).failure()
    assert isinstance(error, Unsupported)
    assert error.path == "$.messages[2].parts[0].is_error"
    loose = prepare(PROVIDERS[name], ENDPOINT, build_request(name, messages=FAILED, unsupported="drop"), 0.0).unwrap()
    assert loose.dropped == ("messages.is_error",)
    assert b"gone" in loose.body


@pytest.mark.parametrize("name", ["google", "openai", "openai-responses", "ollama-native", "deepseek"])
def test_redacted_reasoning_is_refused_or_dropped(name: str) -> None:
    turns = (Message("user", "a"), Message("assistant", Reasoning(redacted="xyz")), Message("user", "b"))
    error = prepare(PROVIDERS[name], ENDPOINT, build_request(name, messages=turns), 0.0).failure()
    assert isinstance(error, Unsupported)
    assert error.path == "$.messages[1].parts[0]"
    loose = prepare(PROVIDERS[name], ENDPOINT, build_request(name, messages=turns, unsupported="drop"), 0.0).unwrap()
    assert loose.dropped == ("messages.reasoning",)
    assert b"xyz" not in loose.body


@pytest.mark.parametrize("name", CHAT_PROVIDERS)
def test_logprobs_of_an_earlier_answer_are_not_sent(name: str) -> None:
    turns = (Message("user", "a"), Message("assistant", (Text("b"), Logprobs('["b",-1,[]],'))), Message("user", "c"))
    encoded = prepare(PROVIDERS[name], ENDPOINT, build_request(name, messages=turns), 0.0).unwrap()
    assert encoded.dropped == ()
    bare = (turns[0], Message("assistant", "b"), turns[2])
    assert encoded.body == prepare(PROVIDERS[name], ENDPOINT, build_request(name, messages=bare), 0.0).unwrap().body


# Forced tools: the same request on every wire, and the same answer, streamed or not


@pytest.mark.parametrize("name", CHAT_PROVIDERS)
def test_schema_can_be_enforced_by_a_tool(name: str) -> None:
    tool_schema = Schema(SCHEMA.schema, via="tool")
    prepared = prepare(PROVIDERS[name], ENDPOINT, build_request(name, response_schema=tool_schema), 0.0)
    if name == "ollama-native":
        assert prepared.failure().path == "$.response_schema"
        assert prepare(
            PROVIDERS[name], ENDPOINT, build_request(name, response_schema=tool_schema, unsupported="drop"), 0.0
        ).unwrap().dropped == ("response_schema",)
        return
    assert FORCED_TOOL_NAME.encode() in prepared.unwrap().body
    assert b"json_schema" not in prepared.unwrap().body


@pytest.mark.parametrize(
    ("choice", "forced"),
    [
        (None, {"type": "any"}),
        ("auto", {"type": "any"}),
        ("required", {"type": "any"}),
        ("none", {"type": "tool", "name": FORCED_TOOL_NAME}),
        ("look", {"type": "tool", "name": "look"}),
    ],
)
def test_tool_choice_with_forced_and_other_tools(choice: str | None, forced: Any) -> None:
    encoded = body("anthropic", response_schema=SCHEMA, tools=(LOOK_TOOL,), tool_choice=choice)
    assert encoded["tool_choice"] == forced
    assert [tool["name"] for tool in encoded["tools"]] == ["look", FORCED_TOOL_NAME]


def test_tool_with_the_forced_name_is_refused() -> None:
    error = prepare(
        PROVIDERS["openai"], ENDPOINT, build_request("openai", tools=(Tool(FORCED_TOOL_NAME),)), 0.0
    ).failure()
    assert isinstance(error, InvalidRequest)
    assert error.path == "$.tools"


def test_claude_does_not_reason_with_a_forced_tool() -> None:
    request = build_request("anthropic", response_schema=SCHEMA, reasoning_budget=2048)
    assert prepare(PROVIDERS["anthropic"], ENDPOINT, request, 0.0).failure().path == "$.reasoning_budget"


def sse(*events: Any) -> bytes:
    return b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in events)


def chat(message: Any, finish: str | None = "tool_calls", kind: str = "message") -> Any:
    return {"id": "r", "model": "m", "choices": [{"index": 0, kind: message, "finish_reason": finish}]}


def call(arguments: str, **head: Any) -> Any:
    return {
        "tool_calls": [
            {"index": 0, **head, "function": {"arguments": arguments, **({"name": FORCED_TOOL_NAME} if head else {})}}
        ]
    }


ANSWERS = {
    "deepseek": (
        chat({"content": "Well.", **call('{"a": 1}', id="c1")}),
        sse(
            chat({"content": "Well."}, None, "delta"),
            chat(call("", id="c1"), None, "delta"),
            chat(call('{"a"'), None, "delta"),
            chat(call(": 1}"), "tool_calls", "delta"),
        ),
    ),
    "anthropic": (
        {
            "id": "r",
            "model": "m",
            "content": [
                {"type": "text", "text": "Well."},
                {"type": "tool_use", "id": "c1", "name": FORCED_TOOL_NAME, "input": {"a": 1}},
            ],
            "stop_reason": "tool_use",
            "usage": {},
        },
        sse(
            {"type": "message_start", "message": {"id": "r", "model": "m", "usage": {}}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Well."}},
            {
                "type": "content_block_start",
                "index": 1,
                "content_block": {"type": "tool_use", "id": "c1", "name": FORCED_TOOL_NAME, "input": {}},
            },
            {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"a"'}},
            {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": ": 1}"}},
            {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {}},
            {"type": "message_stop"},
        ),
    ),
    "google": (
        {
            "responseId": "r",
            "modelVersion": "m",
            "candidates": [
                {
                    "content": {
                        "parts": [{"text": "Well."}, {"functionCall": {"name": FORCED_TOOL_NAME, "args": {"a": 1}}}]
                    },
                    "finishReason": "STOP",
                }
            ],
        },
        sse(
            {
                "responseId": "r",
                "modelVersion": "m",
                "candidates": [{"content": {"parts": [{"text": "Well."}]}}],
            },
            {
                "responseId": "r",
                "modelVersion": "m",
                "candidates": [
                    {
                        "content": {"parts": [{"functionCall": {"name": FORCED_TOOL_NAME, "args": {"a": 1}}}]},
                        "finishReason": "STOP",
                    }
                ],
            },
        ),
    ),
}


def streamed(name: str, data: bytes, size: int) -> CompletionResponse:
    chunks: Iterable[bytes] = (data[start : start + size] for start in range(0, len(data), size))
    return interpret_stream(PROVIDERS[name], HttpReply(200), chunks).unwrap()


@given(st.sampled_from(sorted(ANSWERS)), st.integers(1, 400))
def test_forced_call_is_the_answer(name: str, size: int) -> None:
    complete, events = ANSWERS[name]
    answer = interpret(PROVIDERS[name], HttpReply(200, body=json.dumps(complete).encode())).unwrap()
    assert answer.text == '{"a":1}'
    assert answer.forced_tool
    assert answer.reasoning == "Well."
    assert (answer.tool_calls, answer.finish_reason) == ((), "stop")
    assert streamed(name, events, size) == answer


@pytest.mark.parametrize("name", sorted(ANSWERS))
def test_stream_chunks_show_the_forced_answer_as_text(name: str) -> None:
    decoder = StreamDecoder(PROVIDERS[name], HttpReply(200))
    chunks = [
        chunk
        for event in ANSWERS[name][1].split(b"\n\n")
        if (chunk := to_stream_chunk(decoder.feed(event + b"\n\n"))) is not None
    ]
    assert "".join(chunk.text for chunk in chunks).replace(" ", "") == 'Well.{"a":1}'
    assert not any(chunk.tool_calls for chunk in chunks)


def test_last_of_two_forced_calls_is_the_answer() -> None:
    parts = [
        ToolCall("1", FORCED_TOOL_NAME, "{}"),
        ToolCall("2", "look", "{}"),
        ToolCall("3", FORCED_TOOL_NAME, '{"a":1}'),
    ]
    assert unwrap_forced_call(parts, "tool_calls") == (
        [Reasoning("{}"), ToolCall("2", "look", "{}"), Text('{"a":1}')],
        "tool_calls",
    )


# Log probabilities: the same tokens on every wire that has them, streamed or not

TOKENS = (TokenLogprob("H", -0.5, (("H", -0.5), ("J", -1.0))), TokenLogprob("i", -0.25, ()))


def logprob_rows(name: str = "logprob", tops: str = "top_logprobs") -> list[Any]:
    return [
        {"token": it.token, name: it.logprob, tops: [{"token": other, name: its} for other, its in it.top]}
        for it in TOKENS
    ]


def responses_item(text: str, scores: list[Any]) -> Any:
    content = {"type": "output_text", "text": text, "annotations": [], "logprobs": scores}
    return {"type": "message", "role": "assistant", "content": [content]}


def gemini_logprobs(*tokens: Any) -> Any:
    return {
        "chosenCandidates": [{"token": it["token"], "logProbability": it["logProbability"]} for it in tokens],
        "topCandidates": [{"candidates": it["top"]} for it in tokens],
    }


def logprob_replies(name: str) -> tuple[Any, bytes]:
    rows = logprob_rows()
    match name:
        case "openai":
            complete = chat({"content": "Hi"}, "stop")
            complete["choices"][0]["logprobs"] = {"content": rows}
            pieces = [chat({"content": it["token"]}, None, "delta") for it in rows]
            for piece, row in zip(pieces, rows, strict=True):
                piece["choices"][0]["logprobs"] = {"content": [row]}
            return {**complete, "usage": {"prompt_tokens": 1}}, sse(
                *pieces, chat({}, "stop", "delta"), {"usage": {"prompt_tokens": 1}}
            )
        case "openai-responses":
            prepared = {"id": "r", "model": "m", "status": "completed", "output": [responses_item("Hi", rows)]}
            deltas = [
                {
                    "type": "response.output_text.delta",
                    "output_index": 0,
                    "content_index": 0,
                    "delta": it["token"],
                    "logprobs": [it],
                }
                for it in rows
            ]
            closing = {"type": "response.output_item.done", "output_index": 0, "item": prepared["output"][0]}  # type: ignore[index]
            return prepared, sse(*deltas, closing, {"type": "response.completed", "response": prepared})
        case "google":
            gemini_rows = logprob_rows("logProbability", "top")
            one = {
                "content": {"parts": [{"text": "Hi"}]},
                "finishReason": "STOP",
                "logprobsResult": gemini_logprobs(*gemini_rows),
            }
            parts = [
                {"candidates": [{"content": {"parts": [{"text": it["token"]}]}, "logprobsResult": gemini_logprobs(it)}]}
                for it in gemini_rows
            ]
            return {"candidates": [one]}, sse(*parts, {"candidates": [{"finishReason": "STOP"}]})
        case _:
            complete = {
                "model": "m",
                "message": {"content": "Hi"},
                "done": True,
                "done_reason": "stop",
                "logprobs": rows,
            }
            lines = [{"model": "m", "message": {"content": it["token"]}, "logprobs": [it]} for it in rows]
            last = {"model": "m", "message": {"content": ""}, "done": True, "done_reason": "stop"}
            return complete, b"".join(json.dumps(line).encode() + b"\n" for line in (*lines, last))


@pytest.mark.parametrize("name", ["openai", "openai-responses", "google", "ollama-native"])
def test_logprobs_are_decoded(name: str) -> None:
    complete, events = logprob_replies(name)
    answer = interpret(PROVIDERS[name], HttpReply(200, body=json.dumps(complete).encode())).unwrap()
    assert (answer.text, answer.logprobs) == ("Hi", TOKENS)
    assert streamed(name, events, 7) == answer


@given(st.recursive(st.none() | st.floats(allow_nan=False) | st.text(max_size=3), lambda x: st.lists(x, max_size=3)))
def test_malformed_logprobs_never_raise(value: Any) -> None:
    complete = chat({"content": "Hi"}, "stop")
    complete["choices"][0]["logprobs"] = {
        "content": [{"token": value, "logprob": value, "top_logprobs": [value]}, value]
    }
    try:
        data = json.dumps(complete, allow_nan=False).encode()
    except ValueError:
        return
    answer = interpret(PROVIDERS["openai"], HttpReply(200, body=data))
    assert is_successful(answer)
    assert all(isinstance(token.logprob, float | int) for token in answer.unwrap().logprobs)
