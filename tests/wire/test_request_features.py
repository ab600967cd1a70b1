"""What every wire is told alike, side by side: tools at once, marks, scores, errors of tools, and forced answers."""

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

HERE = Endpoint(base_url="http://localhost", api_key="k", project="p")


LOOK = Tool("look", "Looks.", {"type": "object", "properties": {}})


SCHEMA = Schema({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}, "thing")


MODELS = {
    "bedrock": "amazon.nova-lite-v1:0",
    "google": "gemini-2.5-flash",
    "anthropic": "claude-3-haiku-20240307",
    "openai-responses": "gpt-4o",
}


def ask(name: str, **fields: Any) -> CompletionRequest:
    model = MODELS.get(name, "m")
    return CompletionRequest(**{"model": model, "messages": (Message("user", "hi"),), **fields})


def body(name: str, **fields: Any) -> Any:
    return json.loads(prepare(PROVIDERS[name], HERE, ask(name, **fields), 0.0).unwrap().body)


def at(payload: Any, path: str) -> Any:
    """Look up ``a.0.b``; ``None`` where it is not there."""
    for step in path.split("."):
        if isinstance(payload, list):
            payload = payload[int(step)] if int(step) < len(payload) else None
        elif isinstance(payload, Mapping):
            payload = payload.get(step)
        else:
            return None
    return payload


@pytest.mark.parametrize(
    ("name", "path", "few", "many"),
    [
        ("openai", "parallel_tool_calls", False, True),
        ("openai-responses", "parallel_tool_calls", False, True),
        ("anthropic", "tool_choice.disable_parallel_tool_use", True, False),
        ("google", "", None, None),
        ("bedrock", "", None, None),
        ("ollama-native", "", None, None),
    ],
)
def test_whether_tools_are_called_at_once(name: str, path: str, few: Any, many: Any) -> None:
    for wish, said in ((False, few), (True, many)):
        fields = {"tools": (LOOK,), "parallel_tool_calls": wish}
        if path:
            assert at(body(name, **fields), path) is said
            continue
        error = prepare(PROVIDERS[name], HERE, ask(name, **fields), 0.0).failure()
        assert isinstance(error, Unsupported)
        assert error.path == "$.parallel_tool_calls"


def test_a_choice_of_tools_stays_beside_the_wish() -> None:
    def choice(**fields: Any) -> Any:
        return body("anthropic", tools=(LOOK,), parallel_tool_calls=False, **fields)["tool_choice"]

    assert choice(tool_choice="look") == {"type": "tool", "name": "look", "disable_parallel_tool_use": True}
    assert choice(tool_choice="none") == {"type": "none"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("openai", {"logprobs": True, "top_logprobs": 2}),
        ("openai-responses", {"top_logprobs": 2, "include": ["message.output_text.logprobs"]}),
        ("google", {"generationConfig": {"responseLogprobs": True, "logprobs": 2}}),
        ("ollama-native", {"logprobs": True, "top_logprobs": 2}),
    ],
)
def test_scores_are_asked_for(name: str, said: Mapping[str, Any]) -> None:
    made = body(name, logprobs=2)
    assert {key: made[key] for key in said} == said
    assert "options" not in made


@pytest.mark.parametrize("name", ["anthropic", "bedrock"])
def test_scores_that_a_wire_has_not_are_refused(name: str) -> None:
    assert prepare(PROVIDERS[name], HERE, ask(name, logprobs=0), 0.0).failure().path == "$.logprobs"


MARKED = (
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
def test_a_mark_stands_on_what_is_before_it(name: str, places: Mapping[str, Any]) -> None:
    made = body(name, messages=MARKED)
    assert {path: at(made, path) for path in places} == places


@pytest.mark.parametrize("name", ["google", "ollama-native", "groq", "compatible", "azure"])
def test_a_mark_that_cannot_be_said_is_refused_or_let_go_of(name: str) -> None:
    error = prepare(PROVIDERS[name], HERE, ask(name, messages=MARKED), 0.0).failure()
    assert isinstance(error, Unsupported)
    assert error.path == "$.messages[0].parts[1]"
    loose = prepare(PROVIDERS[name], HERE, ask(name, messages=MARKED, unsupported="drop"), 0.0).unwrap()
    assert loose.dropped == ("messages.cache_mark",)


@pytest.mark.parametrize("name", ["anthropic", "openai", "openai-responses"])
def test_a_mark_needs_something_before_it(name: str) -> None:
    error = prepare(PROVIDERS[name], HERE, ask(name, messages=(Message("user", (CacheMark(), Text("a"))),)), 0.0)
    assert error.failure().path == "$.messages[0].parts[0]"


FAILED = (
    Message("user", "look"),
    Message("assistant", ToolCall("c1", "look")),
    Message("tool", ToolResult("c1", "gone", is_error=True)),
)


@pytest.mark.parametrize("name", ["openai", "openai-responses", "ollama-native", "groq"])
def test_that_a_tool_failed_is_refused_or_let_go_of(name: str) -> None:
    error = prepare(PROVIDERS[name], HERE, ask(name, messages=FAILED), 0.0).failure()
    assert isinstance(error, Unsupported)
    assert error.path == "$.messages[2].parts[0].is_error"
    loose = prepare(PROVIDERS[name], HERE, ask(name, messages=FAILED, unsupported="drop"), 0.0).unwrap()
    assert loose.dropped == ("messages.is_error",)
    assert b"gone" in loose.body


@pytest.mark.parametrize("name", ["google", "openai", "openai-responses", "ollama-native", "deepseek"])
def test_redacted_reasoning_is_refused_or_let_go_of(name: str) -> None:
    turns = (Message("user", "a"), Message("assistant", Reasoning(redacted="xyz")), Message("user", "b"))
    error = prepare(PROVIDERS[name], HERE, ask(name, messages=turns), 0.0).failure()
    assert isinstance(error, Unsupported)
    assert error.path == "$.messages[1].parts[0]"
    loose = prepare(PROVIDERS[name], HERE, ask(name, messages=turns, unsupported="drop"), 0.0).unwrap()
    assert loose.dropped == ("messages.reasoning",)
    assert b"xyz" not in loose.body


@pytest.mark.parametrize("name", sorted(PROVIDERS))
def test_scores_of_an_earlier_answer_are_no_part_of_a_question(name: str) -> None:
    turns = (Message("user", "a"), Message("assistant", (Text("b"), Logprobs('["b",-1,[]],'))), Message("user", "c"))
    made = prepare(PROVIDERS[name], HERE, ask(name, messages=turns), 0.0).unwrap()
    assert made.dropped == ()
    bare = (turns[0], Message("assistant", "b"), turns[2])
    assert made.body == prepare(PROVIDERS[name], HERE, ask(name, messages=bare), 0.0).unwrap().body


# Forced answers: the same question on every wire, and the same answer, streamed or not


@pytest.mark.parametrize("name", sorted(PROVIDERS))
def test_a_schema_may_be_held_to_by_a_tool_of_any_provider(name: str) -> None:
    wanted = Schema(SCHEMA.schema, via="tool")
    done = prepare(PROVIDERS[name], HERE, ask(name, response_schema=wanted), 0.0)
    if name == "ollama-native":
        assert done.failure().path == "$.response_schema"
        assert prepare(
            PROVIDERS[name], HERE, ask(name, response_schema=wanted, unsupported="drop"), 0.0
        ).unwrap().dropped == ("response_schema",)
        return
    assert FORCED_TOOL_NAME.encode() in done.unwrap().body
    assert b"json_schema" not in done.unwrap().body


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
def test_beside_other_tools_one_of_them_must_be_called(choice: str | None, forced: Any) -> None:
    made = body("anthropic", response_schema=SCHEMA, tools=(LOOK,), tool_choice=choice)
    assert made["tool_choice"] == forced
    assert [tool["name"] for tool in made["tools"]] == ["look", FORCED_TOOL_NAME]


def test_a_tool_of_that_name_is_refused() -> None:
    error = prepare(PROVIDERS["openai"], HERE, ask("openai", tools=(Tool(FORCED_TOOL_NAME),)), 0.0).failure()
    assert isinstance(error, InvalidRequest)
    assert error.path == "$.tools"


def test_claude_is_not_asked_to_reason_while_it_must_call_a_tool() -> None:
    request = ask("anthropic", response_schema=SCHEMA, reasoning_budget=2048)
    assert prepare(PROVIDERS["anthropic"], HERE, request, 0.0).failure().path == "$.reasoning_budget"


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
def test_a_forced_call_is_the_answer_streamed_or_not(name: str, size: int) -> None:
    whole, events = ANSWERS[name]
    answer = interpret(PROVIDERS[name], HttpReply(200, body=json.dumps(whole).encode())).unwrap()
    assert answer.text == '{"a":1}'
    assert answer.forced_tool
    assert answer.reasoning == "Well."
    assert (answer.tool_calls, answer.finish_reason) == ((), "stop")
    assert streamed(name, events, size) == answer


@pytest.mark.parametrize("name", sorted(ANSWERS))
def test_who_watches_sees_the_answer_come_as_text(name: str) -> None:
    decoder = StreamDecoder(PROVIDERS[name], HttpReply(200))
    chunks = [
        chunk
        for event in ANSWERS[name][1].split(b"\n\n")
        if (chunk := to_stream_chunk(decoder.feed(event + b"\n\n").unwrap())) is not None
    ]
    assert "".join(chunk.text for chunk in chunks).replace(" ", "") == 'Well.{"a":1}'
    assert not any(chunk.tool_calls for chunk in chunks)


def test_of_two_forced_calls_the_last_is_the_answer_and_others_stay() -> None:
    parts = [
        ToolCall("1", FORCED_TOOL_NAME, "{}"),
        ToolCall("2", "look", "{}"),
        ToolCall("3", FORCED_TOOL_NAME, '{"a":1}'),
    ]
    assert unwrap_forced_call(parts, "tool_calls") == (
        [Reasoning("{}"), ToolCall("2", "look", "{}"), Text('{"a":1}')],
        "tool_calls",
    )


# Scores: the same tokens on every wire that tells them, streamed or not

TOKENS = (TokenLogprob("H", -0.5, (("H", -0.5), ("J", -1.0))), TokenLogprob("i", -0.25, ()))


def plain_scores(name: str = "logprob", tops: str = "top_logprobs") -> list[Any]:
    return [
        {"token": it.token, name: it.logprob, tops: [{"token": other, name: its} for other, its in it.top]}
        for it in TOKENS
    ]


def responses_item(text: str, scores: list[Any]) -> Any:
    content = {"type": "output_text", "text": text, "annotations": [], "logprobs": scores}
    return {"type": "message", "role": "assistant", "content": [content]}


def gemini_scores(*tokens: Any) -> Any:
    return {
        "chosenCandidates": [{"token": it["token"], "logProbability": it["logProbability"]} for it in tokens],
        "topCandidates": [{"candidates": it["top"]} for it in tokens],
    }


def scored(name: str) -> tuple[Any, bytes]:
    rows = plain_scores()
    match name:
        case "openai":
            whole = chat({"content": "Hi"}, "stop")
            whole["choices"][0]["logprobs"] = {"content": rows}
            pieces = [chat({"content": it["token"]}, None, "delta") for it in rows]
            for piece, row in zip(pieces, rows, strict=True):
                piece["choices"][0]["logprobs"] = {"content": [row]}
            return {**whole, "usage": {"prompt_tokens": 1}}, sse(
                *pieces, chat({}, "stop", "delta"), {"usage": {"prompt_tokens": 1}}
            )
        case "openai-responses":
            done = {"id": "r", "model": "m", "status": "completed", "output": [responses_item("Hi", rows)]}
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
            closing = {"type": "response.output_item.done", "output_index": 0, "item": done["output"][0]}  # type: ignore[index]
            return done, sse(*deltas, closing, {"type": "response.completed", "response": done})
        case "google":
            told = plain_scores("logProbability", "top")
            one = {
                "content": {"parts": [{"text": "Hi"}]},
                "finishReason": "STOP",
                "logprobsResult": gemini_scores(*told),
            }
            parts = [
                {"candidates": [{"content": {"parts": [{"text": it["token"]}]}, "logprobsResult": gemini_scores(it)}]}
                for it in told
            ]
            return {"candidates": [one]}, sse(*parts, {"candidates": [{"finishReason": "STOP"}]})
        case _:
            whole = {"model": "m", "message": {"content": "Hi"}, "done": True, "done_reason": "stop", "logprobs": rows}
            lines = [{"model": "m", "message": {"content": it["token"]}, "logprobs": [it]} for it in rows]
            last = {"model": "m", "message": {"content": ""}, "done": True, "done_reason": "stop"}
            return whole, b"".join(json.dumps(line).encode() + b"\n" for line in (*lines, last))


@pytest.mark.parametrize("name", ["openai", "openai-responses", "google", "ollama-native"])
def test_scores_are_read_streamed_or_not(name: str) -> None:
    whole, events = scored(name)
    answer = interpret(PROVIDERS[name], HttpReply(200, body=json.dumps(whole).encode())).unwrap()
    assert (answer.text, answer.logprobs) == ("Hi", TOKENS)
    assert streamed(name, events, 7) == answer


@given(st.recursive(st.none() | st.floats(allow_nan=False) | st.text(max_size=3), lambda x: st.lists(x, max_size=3)))
def test_odd_scores_are_read_as_what_they_can_be(odd: Any) -> None:
    whole = chat({"content": "Hi"}, "stop")
    whole["choices"][0]["logprobs"] = {"content": [{"token": odd, "logprob": odd, "top_logprobs": [odd]}, odd]}
    try:
        data = json.dumps(whole, allow_nan=False).encode()
    except ValueError:
        return
    answer = interpret(PROVIDERS["openai"], HttpReply(200, body=data))
    assert is_successful(answer)
    assert all(isinstance(token.logprob, float | int) for token in answer.unwrap().logprobs)
