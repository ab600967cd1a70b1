"""Chat Completions: requests, responses of OpenAI and compatible servers, and that streams equal them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat.completion_create_params import (
    CompletionCreateParamsNonStreaming,
    CompletionCreateParamsStreaming,
)
from pydantic import TypeAdapter
from returns.pipeline import is_successful

from llmhub.core import errors
from llmhub.core.framing import Frame
from llmhub.core.protocol import interpret, interpret_stream, prepare
from llmhub.core.provider import Endpoint, HttpReply, Provider
from llmhub.core.stream import GENERATED_ID_PREFIX
from llmhub.core.types import (
    CompletionRequest,
    CompletionResponse,
    Document,
    Image,
    Message,
    Opaque,
    Reasoning,
    Refusal,
    Schema,
    Text,
    Tool,
    ToolCall,
    ToolResult,
    Usage,
)
from llmhub.wire import openai_chat

PIXEL = "iVBORw0KGgo="
REQUEST_TYPE: TypeAdapter[Any] = TypeAdapter(CompletionCreateParamsNonStreaming)
STREAM_REQUEST_TYPE: TypeAdapter[Any] = TypeAdapter(CompletionCreateParamsStreaming)
build_request = partial(CompletionRequest, model="gpt-4o-mini")


def text_request(text: str, **fields: Any) -> CompletionRequest:
    return build_request(messages=(Message("user", text),), **fields)


def consume(value: Any) -> Any:
    """Iterate over a validated value, since pydantic validates an ``Iterable`` only as it is consumed."""
    if isinstance(value, Mapping):
        return {key: consume(inner) for key, inner in value.items()}
    if isinstance(value, str | bytes | int | float) or value is None:
        return value
    return [consume(inner) for inner in value]


def encoded(request: CompletionRequest) -> dict[str, Any]:
    """Return the encoded payload, validated by the official SDK's types."""
    payload: dict[str, Any] = json.loads(json.dumps(openai_chat.encode(request).unwrap()))
    assert consume(REQUEST_TYPE.validate_python(payload)) == payload
    return payload


def encode_error(request: CompletionRequest) -> errors.LLMError:
    return openai_chat.encode(request).failure()


def response_body(*choices: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": "c1", "object": "chat.completion", "model": "gpt-4o", "created": 1, "choices": list(choices), **more}


def build_choice(message: Mapping[str, Any], finish: Any = "stop", index: int = 0) -> dict[str, Any]:
    return {"index": index, "message": {"role": "assistant", **message}, "finish_reason": finish}


def chunk_of_delta(delta: Mapping[str, Any], finish: Any = None, index: int = 0, **more: Any) -> dict[str, Any]:
    return response_body({"index": index, "delta": delta, "finish_reason": finish}, **more)


def sse_bytes(chunks: Iterable[Mapping[str, Any]], done: bool = True) -> bytes:
    lines = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)
    return lines + b"data: [DONE]\n\n" * done


def split_bytes(complete: bytes, size: int) -> list[bytes]:
    return [complete[start : start + size] for start in range(0, len(complete), size)]


@pytest.fixture(scope="module")
def provider(make_provider: Callable[..., Provider]) -> Provider:
    return make_provider(openai_chat.WIRE)


# Requests


def test_minimal_request() -> None:
    assert encoded(text_request("hi")) == {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}


def test_stream_fields(provider: Provider) -> None:
    sent = json.loads(prepare(provider, Endpoint(), text_request("hi"), 0.0, stream=True).unwrap().body)
    assert consume(STREAM_REQUEST_TYPE.validate_python(sent)) == sent
    assert sent["stream"] is True
    assert sent["stream_options"] == {"include_usage": True}


def test_parameter_names() -> None:
    request = text_request(
        "hi",
        temperature=2,
        top_p=0.5,
        max_tokens=7,
        stop=("a", "b"),
        seed=3,
        presence_penalty=1,
        frequency_penalty=-1,
        n=2,
        user="u",
        reasoning_effort="low",
        tools=(Tool("f", "does f", {"type": "object"}, strict=True),),
        tool_choice="f",
        response_schema=Schema({"type": "object"}, "s"),
    )
    payload = encoded(request)
    assert {name: payload[name] for name in payload if name not in {"messages", "model"}} == {
        "temperature": 2.0,
        "top_p": 0.5,
        "max_tokens": 7,
        "stop": ["a", "b"],
        "seed": 3,
        "presence_penalty": 1.0,
        "frequency_penalty": -1.0,
        "n": 2,
        "user": "u",
        "reasoning_effort": "low",
        "tools": [
            {
                "type": "function",
                "function": {"name": "f", "description": "does f", "parameters": {"type": "object"}, "strict": True},
            }
        ],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "s", "schema": {"type": "object"}, "strict": True},
        },
    }


@pytest.mark.parametrize(
    ("fields", "error_type", "path"),
    [
        ({"temperature": 2.1}, errors.InvalidRequest, "$.temperature"),
        ({"stop": tuple("abcde")}, errors.InvalidRequest, "$.stop"),
        ({"top_k": 3}, errors.Unsupported, "$.top_k"),
        ({"reasoning_budget": 3}, errors.Unsupported, "$.reasoning_budget"),
    ],
)
def test_unsupported_parameter_is_an_error(
    fields: dict[str, Any], error_type: type[errors.LLMError], path: str
) -> None:
    error = encode_error(text_request("hi", **fields))
    assert isinstance(error, error_type)
    assert error.path == path


def test_conversation_with_tools_images_and_documents() -> None:
    turns = (
        Message("system", "s"),
        Message("user", (Text("a"), Image(data=PIXEL, media_type="image/png", detail="low"))),
        Message("user", (Text("b"), Document(data="AAAA", media_type="application/pdf", name="x.pdf"))),
        Message("assistant", (Text("one"), ToolCall("c1", "f", '{"a":1}'))),
        Message("tool", (ToolResult("c1", "1"), ToolResult("c2", (Text("2"), Text("3"))))),
        Message("assistant", (Refusal("no"),)),
    )
    assert encoded(build_request(messages=turns))["messages"] == [
        {"role": "system", "content": "s"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "a"},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}", "detail": "low"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "b"},
                {"type": "file", "file": {"filename": "x.pdf", "file_data": "data:application/pdf;base64,AAAA"}},
            ],
        },
        {
            "role": "assistant",
            "content": "one",
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "1"},
        {"role": "tool", "tool_call_id": "c2", "content": "23"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
    ]


def test_opaque_block_is_sent_back() -> None:
    marked = {"type": "text", "text": "a", "prompt_cache_breakpoint": {"mode": "explicit"}}
    turn = Message("user", (Opaque("text", json.dumps(marked)), Text("b")))
    assert encoded(build_request(messages=(turn,)))["messages"][0]["content"] == [marked, {"type": "text", "text": "b"}]
    alone = openai_chat.encode(build_request(messages=(Message("user", Opaque("text", json.dumps(marked))),))).unwrap()
    assert alone["messages"] == [{"role": "user", "content": [marked]}]


def test_earlier_reasoning() -> None:
    turn = Message("assistant", (Reasoning("h", "sig"), Reasoning("m"), Text("a")))
    assert openai_chat.encode(build_request(messages=(turn,))).unwrap()["messages"] == [
        {"role": "assistant", "content": "a", "reasoning_content": "hm"}
    ]
    silent = Message("assistant", (Reasoning("", "sig"), Text("a")))
    assert encoded(build_request(messages=(silent,)))["messages"] == [{"role": "assistant", "content": "a"}]


def test_calls_without_content() -> None:
    turn = encoded(build_request(messages=(Message("assistant", (ToolCall("c", "f"),)),)))["messages"][0]
    assert turn["content"] is None


@pytest.mark.parametrize(
    "part",
    [
        Opaque("server_tool_use", "{}"),
        Document(data="AAAA"),
    ],
)
def test_unsupported_part_is_an_error(part: Any) -> None:
    error = encode_error(build_request(messages=(Message("user", (Text("a"), part)),)))
    assert isinstance(error, errors.Unsupported)
    assert error.path == "$.messages[0].parts[1]"


def test_images_of_tools_and_addresses_of_documents() -> None:
    pixel, document = Image(data=PIXEL, media_type="image/png"), Document(url="https://example.org/a.pdf", name="a.pdf")
    messages = (Message("tool", (ToolResult("c", (Text("a"), pixel)),)), Message("user", (document,)))
    # OpenAI's own types have neither; OpenRouter takes both.
    encoded_messages: Any = openai_chat.encode(build_request(messages=messages)).unwrap()["messages"]
    assert encoded_messages[0]["content"] == [
        {"type": "text", "text": "a"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
    ]
    file = {"filename": "a.pdf", "file_data": "https://example.org/a.pdf"}
    assert encoded_messages[1]["content"] == [{"type": "file", "file": file}]


NAMES = st.text("abcdefgh_", min_size=1, max_size=8)
TEXTS = st.text(max_size=30)
TURNS = st.one_of(
    st.builds(Message, st.just("system"), TEXTS),
    st.builds(
        Message,
        st.just("user"),
        st.lists(TEXTS.map(Text) | st.just(Image(data=PIXEL, media_type="image/png")), min_size=1, max_size=3),
    ),
    st.builds(Message, st.just("tool"), st.lists(st.builds(ToolResult, NAMES, TEXTS), min_size=1, max_size=2)),
    st.builds(
        Message,
        st.just("assistant"),
        st.lists(TEXTS.map(Text) | st.builds(ToolCall, NAMES, NAMES, st.just("{}")), min_size=1, max_size=3),
    ),
)
REQUESTS = st.builds(
    CompletionRequest,
    model=NAMES,
    messages=st.lists(TURNS, min_size=1, max_size=4).map(tuple),
    temperature=st.none() | st.floats(0, 2),
    top_p=st.none() | st.floats(0, 1),
    max_tokens=st.none() | st.integers(1, 10_000),
    stop=st.lists(TEXTS, max_size=4).map(tuple),
    seed=st.none() | st.integers(0, 1 << 30),
    tools=st.lists(st.builds(Tool, NAMES, TEXTS, strict=st.none() | st.booleans()), max_size=2).map(tuple),
    tool_choice=st.none() | st.sampled_from(["auto", "none", "required", "f"]),
    response_schema=st.none() | st.just(Schema({"type": "object"})),
    reasoning_effort=st.none() | st.sampled_from(["minimal", "low", "medium", "high"]),
    n=st.integers(1, 8),
    user=st.none() | NAMES,
)


@settings(deadline=None)
@given(REQUESTS)
def test_every_request_matches_the_official_types(request_: CompletionRequest) -> None:
    payload = encoded(request_)
    results = [part for turn in request_.messages for part in turn.parts if isinstance(part, ToolResult)]
    content_text = [turn for turn in payload["messages"] if "tool_call_id" in turn]
    assert [(turn["tool_call_id"], turn["content"]) for turn in content_text] == [
        (part.id, part.content) for part in results
    ]
    others = [turn for turn in request_.messages if not any(isinstance(part, ToolResult) for part in turn.parts)]
    assert [turn["role"] for turn in payload["messages"] if "tool_call_id" not in turn] == [
        turn.role for turn in others
    ]


# Responses


def decode_payload(provider: Provider, payload: Mapping[str, Any]) -> CompletionResponse:
    return interpret(provider, HttpReply(200, body=json.dumps(payload).encode())).unwrap()


def test_answer(provider: Provider) -> None:
    counts = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    assert decode_payload(provider, response_body(build_choice({"content": "Hi"}), usage=counts)) == CompletionResponse(
        parts=(Text("Hi"),),
        usage=Usage(input_tokens=3, output_tokens=1),
        served_model="gpt-4o",
        request_id="c1",
    )


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("message", "parts", "finish"),
    [
        ({"content": None, "tool_calls": [CALL]}, (ToolCall("1", "f"),), "tool_calls"),
        ({"content": "", "tool_calls": [CALL]}, (ToolCall("1", "f"),), "tool_calls"),
        ({"tool_calls": [CALL]}, (ToolCall("1", "f"),), "tool_calls"),
        ({"content": "a", "tool_calls": [CALL]}, (Text("a"), ToolCall("1", "f")), "tool_calls"),
        ({"content": None, "refusal": "no"}, (Refusal("no"),), "refusal"),
        ({"content": "a", "reasoning_content": "hm"}, (Reasoning("hm"), Text("a")), "stop"),
        ({"content": "a", "reasoning": "hm", "reasoning_details": []}, (Reasoning("hm"), Text("a")), "stop"),
        (
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                    {"type": "text", "text": "a"},
                ]
            },
            (Reasoning("hm"), Text("a")),
            "stop",
        ),
        (
            {"function_call": {"name": "f", "arguments": "{}"}},
            (ToolCall("call_made_d38757ebfd4e1e09", "f"),),
            "tool_calls",
        ),
        ({"content": "a", "function_call": {"name": "", "arguments": ""}}, (Text("a"),), "stop"),
        ({"content": {"a": [1]}}, (Text('{"a":[1]}'),), "stop"),
        (
            {"tool_calls": [{"id": "1", "type": "custom", "custom": {"name": "f", "input": "4 + 4"}}]},
            (ToolCall("1", "f", "4 + 4"),),
            "tool_calls",
        ),
        (
            {"tool_calls": [{"id": "1", "function": {"name": "f", "arguments": {"a": 1}}}]},
            (ToolCall("1", "f", '{"a":1}'),),
            "tool_calls",
        ),
        (
            {"content": None, "audio": {"id": "a", "data": "AA==", "transcript": "Hi"}},
            (Text("Hi"), Document(data="AA==", media_type="audio/pcm", name="a")),
            "stop",
        ),
    ],
)
def test_message_variations(provider: Provider, message: dict[str, Any], parts: tuple[Any, ...], finish: str) -> None:
    answer = decode_payload(provider, response_body(build_choice(message)))
    assert answer.parts == parts
    assert answer.finish_reason == finish


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("stop", "stop"),
        ("eos", "stop"),
        ("length", "length"),
        ("content_filter", "content_filter"),
        ("function_call", "tool_calls"),
        ("something", "other"),
        (None, "other"),
    ],
)
def test_finish_reasons(provider: Provider, reason: object, expected: str) -> None:
    assert decode_payload(provider, response_body(build_choice({"content": "a"}, reason))).finish_reason == expected


@pytest.mark.parametrize(
    ("counts", "usage"),
    [
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 7,
                "total_tokens": 17,
                "prompt_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 1},
                "completion_tokens_details": {"reasoning_tokens": 5},
            },
            Usage(input_tokens=10, output_tokens=7, cached_input_tokens=8, cache_write_tokens=1, reasoning_tokens=5),
        ),
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 2,
                "total_tokens": 17,
                "completion_tokens_details": {"reasoning_tokens": 5},
            },
            Usage(input_tokens=10, output_tokens=7, reasoning_tokens=5),
        ),
        ({"prompt_tokens": 66, "completion_tokens": 6, "total_tokens": 100}, Usage(input_tokens=66, output_tokens=34)),
        (
            {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6, "prompt_cache_hit_tokens": 4},
            Usage(input_tokens=5, output_tokens=1, cached_input_tokens=4),
        ),
        (
            {"prompt_tokens": 5, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 9}},
            Usage(input_tokens=5, output_tokens=1, cached_input_tokens=5),
        ),
        (
            {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9, "reasoning_tokens": 6},
            Usage(input_tokens=5, output_tokens=4, reasoning_tokens=4),
        ),
        ({"prompt_tokens": -1, "completion_tokens": "x"}, Usage()),
    ],
)
def test_usage(provider: Provider, counts: dict[str, Any], usage: Usage) -> None:
    assert decode_payload(provider, response_body(build_choice({"content": "a"}), usage=counts)).usage == usage


def test_filtered_answer_without_a_message(provider: Provider) -> None:
    answer = decode_payload(provider, response_body({"index": 0, "finish_reason": "content_filter"}))
    assert (answer.parts, answer.finish_reason) == ((), "content_filter")


def test_calls_without_ids_get_generated_ones(provider: Provider) -> None:
    call = {"id": "", "function": {"name": "f", "arguments": "{}"}}
    complete = decode_payload(provider, response_body(build_choice({"tool_calls": [call, call]})))
    first, second = complete.tool_calls
    assert first.id.startswith(GENERATED_ID_PREFIX)
    assert first.id != second.id
    streamed = interpret_stream(
        provider, HttpReply(200), [sse_bytes([chunk_of_delta({"tool_calls": [call, call]}, "stop")])]
    )
    assert streamed.unwrap() == complete


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        ({}, "$.choices"),
        ({"choices": []}, "$.choices"),
        ({"choices": None}, "$.choices"),
        ({"choices": [1]}, "$.choices[0].message"),
        ({"choices": [{}]}, "$.choices[0].message"),
        ({"choices": [{"message": {}}, {"message": 1}]}, "$.choices[1].message"),
    ],
)
def test_malformed_answer_names_the_path(provider: Provider, payload: dict[str, Any], path: str) -> None:
    error = interpret(provider, HttpReply(200, body=json.dumps(payload).encode())).failure()
    assert isinstance(error, errors.Malformed)
    assert error.path == path


@pytest.mark.parametrize(
    ("status", "payload", "error_type", "code"),
    [
        (401, {"error": {"message": "x", "code": "invalid_api_key"}}, errors.AuthFailed, "invalid_api_key"),
        (401, {"error": {"code": "401", "message": "Access denied"}}, errors.AuthFailed, "401"),
        (401, {"error": {"message": "You have insufficient permissions"}}, errors.PermissionDenied, ""),
        (401, {"detail": "Unauthorized"}, errors.AuthFailed, ""),
        (429, {"error": {"message": "x", "code": "insufficient_quota"}}, errors.QuotaExhausted, "insufficient_quota"),
        (429, {"error": {"message": "x", "code": "RateLimitReached"}}, errors.RateLimited, "RateLimitReached"),
        (429, {"message": "Requests rate limit exceeded"}, errors.RateLimited, ""),
        (404, {"error": {"message": "x", "code": "DeploymentNotFound"}}, errors.NotFound, "DeploymentNotFound"),
        (400, {"error": {"message": "x", "code": "content_filter"}}, errors.ContentFiltered, "content_filter"),
        (
            400,
            {"error": {"message": "x", "code": "context_length_exceeded"}},
            errors.ContextTooLong,
            "context_length_exceeded",
        ),
        (400, {"error": {"message": "exceeds the available context size"}}, errors.ContextTooLong, ""),
        (400, {"error": "plain words"}, errors.InvalidRequest, ""),
        (402, {"error": {"message": "pay", "code": 402}}, errors.QuotaExhausted, "402"),
        (422, {"detail": [{"msg": "bad"}]}, errors.InvalidRequest, ""),
        (500, {"object": "error", "message": "x", "type": "internal", "code": "1000"}, errors.ServerError, "1000"),
        (503, {"error": {"message": "busy"}}, errors.Overloaded, ""),
        (529, {}, errors.Overloaded, ""),
    ],
)
def test_errors(
    provider: Provider, status: int, payload: dict[str, Any], error_type: type[errors.LLMError], code: str
) -> None:
    error = interpret(provider, HttpReply(status, body=json.dumps(payload).encode())).failure()
    assert type(error) is error_type
    assert error.code == code
    assert error.status == status


# Streams


@pytest.mark.parametrize(
    ("error_payload", "error_type"),
    [
        ({"code": 429, "message": "x"}, errors.RateLimited),
        ({"code": None, "type": "invalid_request_error", "message": "x"}, errors.InvalidRequest),
        ({"code": "invalid_parameter_error", "message": "x"}, errors.InvalidRequest),
        ({"type": "server_error", "message": "x"}, errors.ServerError),
    ],
)
def test_error_inside_a_stream(
    provider: Provider, error_payload: dict[str, Any], error_type: type[errors.LLMError]
) -> None:
    raw = sse_bytes([chunk_of_delta({"content": "a"}), {"error": error_payload}])
    assert type(interpret_stream(provider, HttpReply(200), [raw]).failure()) is error_type


def test_stream_ends_with_finish_reason_or_done(provider: Provider) -> None:
    reasoned = sse_bytes([chunk_of_delta({"content": "a"}, "length")], done=False)
    marked = sse_bytes([chunk_of_delta({"content": "a"})])
    neither = sse_bytes([chunk_of_delta({"content": "a"})], done=False)
    assert interpret_stream(provider, HttpReply(200), [reasoned]).unwrap().finish_reason == "length"
    assert interpret_stream(provider, HttpReply(200), [marked]).unwrap().finish_reason == "other"
    assert isinstance(interpret_stream(provider, HttpReply(200), [neither]).failure(), errors.Disconnected)
    both = sse_bytes([chunk_of_delta({"content": "a"}, "length")])
    assert interpret_stream(provider, HttpReply(200), [both]).unwrap().finish_reason == "length"


@pytest.mark.parametrize(
    "chunks",
    [
        [chunk_of_delta({"content": "a"}, "stop"), response_body(usage={"prompt_tokens": 3, "completion_tokens": 1})],
        [chunk_of_delta({"content": "a"}, "stop", usage={"prompt_tokens": 3, "completion_tokens": 1})],
        [chunk_of_delta({"content": "a"}, "stop", x_groq={"usage": {"prompt_tokens": 3, "completion_tokens": 1}})],
        [
            chunk_of_delta({"content": "a"}, usage={"prompt_tokens": 3, "completion_tokens": 0}),
            chunk_of_delta({}, "stop", usage={"prompt_tokens": 3, "completion_tokens": 1}),
        ],
        [
            response_body(
                {
                    "index": 0,
                    "delta": {"content": "a"},
                    "finish_reason": "stop",
                    "usage": {"prompt_tokens": 3, "completion_tokens": 1},
                }
            )
        ],
    ],
)
def test_usage_in_every_place(provider: Provider, chunks: list[dict[str, Any]]) -> None:
    answer = interpret_stream(provider, HttpReply(200), [b": comment\n\n" + sse_bytes(chunks)]).unwrap()
    assert answer.usage == Usage(input_tokens=3, output_tokens=1)


def test_json_reply_to_a_stream_request(provider: Provider) -> None:
    complete = json.dumps(response_body(build_choice({"content": "a"}))).encode()
    head = HttpReply(200, {"content-type": "application/json"})
    assert interpret_stream(provider, head, split_bytes(complete, 3)).unwrap().text == "a"


PIECES = st.lists(st.text(min_size=1, max_size=9), max_size=4)
CALLS = st.lists(st.tuples(NAMES, st.dictionaries(NAMES, st.integers(), max_size=2)), max_size=3)
THOUGHTS = st.sampled_from(["reasoning", "reasoning_content"])


@settings(deadline=None)
@given(PIECES, PIECES, PIECES, CALLS, THOUGHTS, st.sampled_from(["stop", "length", "content_filter"]), st.data())
def test_streamed_equals_unstreamed(
    provider: Provider,
    thoughts: list[str],
    texts: list[str],
    refusals: list[str],
    calls: list[tuple[str, dict[str, int]]],
    reasoning_text: str,
    finish: str,
    data: st.DataObject,
) -> None:
    deltas: list[dict[str, Any]] = [{reasoning_text: text_request} for text_request in thoughts]
    deltas += [{"content": text_request} for text_request in texts] + [
        {"refusal": text_request} for text_request in refusals
    ]
    whole_calls = []
    for index, (name, args) in enumerate(calls):
        arguments = json.dumps(args)
        cut = data.draw(st.integers(0, len(arguments)))
        head = {"index": index, "id": f"c{index}", "function": {"name": name, "arguments": arguments[:cut]}}
        deltas += [
            {"tool_calls": [head]},
            {"tool_calls": [{"index": index, "function": {"arguments": arguments[cut:]}}]},
        ]
        whole_calls.append({"id": f"c{index}", "function": {"name": name, "arguments": arguments}})
    message = {
        reasoning_text: "".join(thoughts) or None,
        "content": "".join(texts) or None,
        "refusal": "".join(refusals) or None,
        "tool_calls": whole_calls,
    }
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    chunks = [*(chunk_of_delta(delta) for delta in deltas), chunk_of_delta({}, finish), response_body(usage=usage)]
    raw = sse_bytes(chunks)
    answer = interpret_stream(provider, HttpReply(200), split_bytes(raw, data.draw(st.integers(1, len(raw)))))
    assert answer.unwrap() == decode_payload(provider, response_body(build_choice(message, finish), usage=usage))


# Arbitrary input

WORDS = st.sampled_from(
    [
        *("choices", "message", "delta", "content", "type", "text", "thinking", "reasoning", "reasoning_content"),
        *("refusal", "tool_calls", "index", "id", "function", "custom", "name", "arguments", "input", "function_call"),
        *("finish_reason", "usage", "prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details"),
        *("completion_tokens_details", "reasoning_tokens", "cached_tokens", "x_groq", "audio", "transcript", "model"),
        *("error", "code", "status", "detail", "stop", "summary", "signature"),
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=5),
    max_leaves=25,
)
ALMOST = st.fixed_dictionaries(
    {"choices": st.lists(st.dictionaries(WORDS, JSON, max_size=4) | JSON, max_size=3)}, optional={"usage": JSON}
)


@settings(max_examples=300, deadline=None)
@given(
    st.binary() | (JSON | ALMOST).map(lambda value: json.dumps(value).encode()), st.sampled_from([200, 400, 429, 503])
)
def test_arbitrary_replies_never_raise(provider: Provider, raw: bytes, status: int) -> None:
    for result in (
        interpret(provider, HttpReply(status, body=raw)),
        interpret_stream(provider, HttpReply(status), [b"data: ", raw, b"\n\n"]),
        interpret_stream(provider, HttpReply(status, {"content-type": "application/json"}), [raw]),
        openai_chat.decode_frame(Frame("", raw)),
    ):
        error = None if is_successful(result) else result.failure()
        assert error is None or isinstance(error, errors.LLMError)


def test_deep_nesting_never_raises(provider: Provider) -> None:
    for depth in (*range(600, 1010), 5000):  # the recursion limit is in this range
        args = b'{"a":' * depth + b"1" + b"}" * depth
        for raw in (
            b'{"choices":[{"message":{"tool_calls":[{"function":{"name":"f","arguments":' + args + b"}}]}}]}",
            b'{"error":' + args + b"}",
        ):
            for status in (200, 400):
                result = interpret(provider, HttpReply(status, body=raw))
                assert is_successful(result) or isinstance(result.failure(), errors.LLMError)


# Recorded exchanges

RECORDED = {
    "alibaba": (2, 1),
    "azure_openai": (15, 4),
    "bedrock_mantle": (1, 0),
    "cerebras": (2, 1),
    "cloudflare": (2, 0),
    "crusoe": (3, 0),
    "databricks": (3, 0),
    "deepseek": (7, 3),
    "gemini_openai": (4, 0),
    "gpustack": (3, 0),
    "groq": (8, 4),
    "heroku": (1, 0),
    "huggingface": (2, 1),
    "litellm_proxy": (2, 0),
    "llamacpp": (3, 0),
    "mistral": (9, 5),
    "ollama": (5, 1),
    "openai": (37, 15),
    "openrouter": (8, 5),
    "perplexity": (2, 1),
    "together": (3, 1),
    "vercel_gateway": (3, 0),
    "vllm": (2, 0),
    "xai": (5, 0),
    "zai": (3, 0),
}
"""The number of recorded answers and errors of each provider."""


def recorded_chunks(exchange: Any) -> list[dict[str, Any]]:
    if not exchange.streaming or exchange.body.lstrip().startswith(b"{"):
        return [json.loads(exchange.body)]
    lines = [
        line.removeprefix("data:").strip() for line in exchange.body.decode().splitlines() if line.startswith("data:")
    ]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def content_text(content: Any) -> str:
    """Return the visible text of a content, a string or a list."""
    if isinstance(content, list):
        return "".join(block.get("text", "") for block in content if block["type"] == "text")
    return content or ""


def reasoning_text(message: Mapping[str, Any]) -> str:
    """Return the reasoning of a message, in any of its fields or in a content list."""
    blocks = message["content"] if isinstance(message.get("content"), list) else []
    inner = [inner["text"] for block in blocks if block["type"] == "thinking" for inner in block["thinking"]]
    return message.get("reasoning_content") or message.get("reasoning") or "".join(inner)


def decode_stream_reference(chunks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the first answer of a response, or the chunks of one, contain, decoded without llmhub."""
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice.get("index", 0) == 0]
    messages = [choice.get("message") or choice.get("delta") or {} for choice in choices]
    calls: dict[Any, list[str]] = {}
    for message in messages:
        for position, call in enumerate(message.get("tool_calls") or []):
            function = call.get("function") or {"name": call["custom"]["name"], "arguments": call["custom"]["input"]}
            entry = calls.setdefault(call.get("index", position), ["", ""])
            entry[0] = entry[0] or function.get("name") or ""
            entry[1] += function.get("arguments") or ""
        if message.get("function_call"):
            calls["legacy"] = [message["function_call"]["name"], message["function_call"]["arguments"]]
    reasons = [choice["finish_reason"] for choice in choices if choice.get("finish_reason")]
    return {
        "text": "".join(content_text(message.get("content")) for message in messages)
        + "".join((message.get("audio") or {}).get("transcript", "") for message in messages),
        "refusal": "".join(message.get("refusal") or "" for message in messages),
        "reasoning": "".join(reasoning_text(message) for message in messages),
        "calls": [tuple(call) for call in calls.values()],
        "finish": reasons[-1] if reasons else None,
        "usage": next((chunk["usage"] for chunk in reversed(chunks) if chunk.get("usage")), None),
    }


def parse_arguments(arguments: str) -> object:
    """Return parsed arguments, or the string if it is not JSON."""
    try:
        return json.loads(arguments or "{}")
    except ValueError:
        return arguments


def expected_finish(plain: Mapping[str, Any]) -> str:
    reason = openai_chat.FINISH.get(plain["finish"], "other")
    if plain["calls"] and reason in {"stop", "other"}:
        return "tool_calls"
    return "refusal" if plain["refusal"] and reason == "stop" else reason


@pytest.mark.corpus
@pytest.mark.parametrize("name", RECORDED)
def test_recorded_answers_equal_a_reference_decoding(
    corpus: Callable[[str], list[Any]], provider: Provider, name: str
) -> None:
    answers = failures = 0
    for exchange in corpus(f"{name}-chat_completions"):
        result = (
            interpret_stream(provider, exchange.head, split_bytes(exchange.body, 13))
            if exchange.streaming
            else interpret(provider, exchange.reply)
        )
        if not exchange.ok or any(chunk.get("error") for chunk in recorded_chunks(exchange)):
            assert not isinstance(result.failure(), errors.Malformed | errors.Disconnected), exchange.id
            failures += 1
            continue
        answers += 1
        answer, plain = result.unwrap(), decode_stream_reference(recorded_chunks(exchange))
        assert answer.text == plain["text"], exchange.id
        assert answer.refusal == plain["refusal"], exchange.id
        assert answer.reasoning == plain["reasoning"], exchange.id
        assert [(c.name, parse_arguments(c.arguments)) for c in answer.tool_calls] == [
            (called, parse_arguments(arguments)) for called, arguments in plain["calls"]
        ], exchange.id
        assert answer.finish_reason == expected_finish(plain), exchange.id
        usage = plain["usage"] or {}
        assert answer.usage.input_tokens == usage.get("prompt_tokens"), exchange.id
        total, prompt = usage.get("total_tokens"), usage.get("prompt_tokens")
        expected = total - prompt if total is not None and prompt is not None else usage.get("completion_tokens")
        assert answer.usage.output_tokens == expected, exchange.id
    assert (answers, failures) == RECORDED[name]


@pytest.mark.corpus
def test_recorded_answers_equal_the_official_types(corpus: Callable[[str], list[Any]], provider: Provider) -> None:
    compared = 0
    for exchange in corpus("openai-chat_completions"):
        if not exchange.ok or exchange.streaming:
            continue
        answer, other = interpret(provider, exchange.reply).unwrap(), json.loads(exchange.body)
        if "finish_reason" not in other["choices"][0]:
            continue
        for choice in other["choices"]:
            choice.setdefault("logprobs", None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            message = ChatCompletion.model_validate({"created": 0, **other}).choices[0].message
        transcript = message.audio.transcript if message.audio else ""
        assert answer.text == (message.content or transcript), exchange.id
        assert answer.refusal == (message.refusal or ""), exchange.id
        given = [call.id for call in answer.tool_calls if not call.id.startswith(GENERATED_ID_PREFIX)]
        assert given == [call.id for call in message.tool_calls or []]
        compared += 1
    assert compared == 27


@pytest.mark.corpus
def test_recorded_streams_equal_the_official_types(corpus: Callable[[str], list[Any]], provider: Provider) -> None:
    compared = 0
    for exchange in corpus("openai-chat_completions"):
        if not exchange.ok or not exchange.streaming or any(chunk.get("error") for chunk in recorded_chunks(exchange)):
            continue
        chunks = [ChatCompletionChunk.model_validate(chunk) for chunk in recorded_chunks(exchange)]
        contents = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices if choice.index == 0]
        assert interpret_stream(provider, exchange.reply, []).unwrap().text == "".join(contents), exchange.id
        compared += 1
    assert compared == 9


CHUNK = {"id": "r", "model": "m", "choices": [{"index": 0, "delta": {"content": "a"}}]}
BESIDE = ("refusal", "tool_calls", "function_call", "reasoning", "reasoning_content", "audio", "content", "role")
ODD = st.none() | st.text(max_size=2) | st.integers() | st.lists(st.none(), max_size=1) | st.just({"usage": {}})


@given(
    st.dictionaries(st.sampled_from(["id", "model", "usage", "error", "x_groq", "choices", "object"]), ODD, max_size=3),
    st.dictionaries(
        st.sampled_from(["index", "finish_reason", "logprobs", "usage", "delta", "message"]), ODD, max_size=3
    ),
    st.dictionaries(st.sampled_from(BESIDE), ODD, max_size=3),
)
def test_fast_path_equals_general_path(top: Any, choice: Any, delta: Any) -> None:
    complete = {**CHUNK, "choices": [{"index": 0, "delta": {"content": "a", **delta}, **choice}], **top}
    frame = Frame("", json.dumps(complete).encode())
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(openai_chat, "parse_plain_chat_chunk", lambda _: None)
        long = openai_chat.decode_frame(frame)
    assert openai_chat.decode_frame(frame) == long
