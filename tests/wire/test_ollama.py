"""Ollama's wire: requests, responses, and that a stream of lines equals a response that is not streamed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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
    Part,
    Reasoning,
    Schema,
    Text,
    Tool,
    ToolCall,
    ToolResult,
    Usage,
)
from llmhub.wire import ollama

PIXEL = "iVBORw0KGgo="
build_request = partial(CompletionRequest, model="gemma4:e2b")


def text_request(text: str, **fields: Any) -> CompletionRequest:
    return build_request(messages=(Message("user", text),), **fields)


def encoded(request: CompletionRequest) -> dict[str, Any]:
    payload: dict[str, Any] = json.loads(json.dumps(ollama.encode(request).unwrap()))
    return payload


def response_body(message: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    counts = {"prompt_eval_count": 3, "eval_count": 1}
    ended = {"done": True, "done_reason": "stop", **counts}
    return {"model": "gemma4:e2b", "message": {"role": "assistant", **message}, **ended, **more}


def json_lines(values: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in values)


def split_bytes(complete: bytes, size: int) -> list[bytes]:
    return [complete[start : start + size] for start in range(0, len(complete), size)]


@pytest.fixture(scope="module")
def provider(make_provider: Callable[..., Provider]) -> Provider:
    return make_provider(ollama.WIRE)


# Requests


def test_minimal_request() -> None:
    turn = {"role": "user", "content": "hi"}
    assert encoded(text_request("hi")) == {"model": "gemma4:e2b", "messages": [turn], "stream": False}


def test_stream_field(provider: Provider) -> None:
    assert (
        json.loads(prepare(provider, Endpoint(), text_request("hi"), 0.0, stream=True).unwrap().body)["stream"] is True
    )


def test_parameter_names() -> None:
    payload = encoded(
        text_request(
            "hi",
            temperature=0,
            top_p=0.5,
            top_k=3,
            max_tokens=7,
            stop=("a",),
            seed=3,
            presence_penalty=1,
            frequency_penalty=-1,
            reasoning_effort="low",
            tools=(Tool("f", "does f", {"type": "object"}),),
            tool_choice="auto",
            response_schema=Schema({"type": "object"}),
        )
    )
    function = {"name": "f", "description": "does f", "parameters": {"type": "object"}}
    assert {name: payload[name] for name in payload if name not in {"messages", "model", "stream"}} == {
        "options": {
            "temperature": 0.0,
            "top_p": 0.5,
            "top_k": 3,
            "num_predict": 7,
            "stop": ["a"],
            "seed": 3,
            "presence_penalty": 1.0,
            "frequency_penalty": -1.0,
        },
        "think": "low",
        "tools": [{"type": "function", "function": function}],
        "format": {"type": "object"},
    }
    assert encoded(text_request("hi", reasoning_effort="none"))["think"] is False


@pytest.mark.parametrize(
    ("fields", "error_type", "path"),
    [
        ({"temperature": -1}, errors.InvalidRequest, "$.temperature"),
        ({"n": 2}, errors.Unsupported, "$.n"),
        ({"user": "u"}, errors.Unsupported, "$.user"),
        ({"tool_choice": "required"}, errors.Unsupported, "$.tool_choice"),
        ({"reasoning_budget": 3}, errors.Unsupported, "$.reasoning_budget"),
        ({"reasoning_effort": "xhigh"}, errors.Unsupported, "$.reasoning_effort"),
    ],
)
def test_unsupported_parameter_is_an_error(
    fields: dict[str, Any], error_type: type[errors.LLMError], path: str
) -> None:
    error = ollama.encode(text_request("hi", **fields)).failure()
    assert isinstance(error, error_type)
    assert error.path == path


def test_conversation_with_tools_and_images() -> None:
    turns = (
        Message("system", "s"),
        Message("user", (Text("a"), Image(url=f"data:image/png;base64,{PIXEL}"), Text("b"))),
        Message("assistant", (Reasoning("hm"), ToolCall("c1", "f", '{"a":1}'))),
        Message("tool", (ToolResult("c1", "1"), ToolResult("c2", (Text("2"), Text("3")), "g"))),
    )
    assert encoded(build_request(messages=turns))["messages"] == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "ab", "images": [PIXEL]},
        {
            "role": "assistant",
            "content": "",
            "thinking": "hm",
            "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": {"a": 1}}}],
        },
        {"role": "tool", "content": "1", "tool_call_id": "c1", "tool_name": "f"},
        {"role": "tool", "content": "23", "tool_call_id": "c2", "tool_name": "g"},
    ]


@pytest.mark.parametrize(
    ("role", "part", "path"),
    [
        ("user", Image(url="https://h/a.png"), ""),
        ("user", Document(data="AAAA", media_type="application/pdf"), ""),
        ("user", ToolResult("c", (Image(url="https://h/a.png"),)), ""),
        ("user", ToolCall("c", "f"), ""),
        ("assistant", Opaque("x", "{}"), ""),
        ("assistant", ToolCall("c", "f", "[]"), ".arguments"),
    ],
)
def test_unsupported_part_is_an_error(role: Any, part: Part, path: str) -> None:
    error = ollama.encode(build_request(messages=(Message(role, (Text("a"), part)),))).failure()
    assert isinstance(error, errors.InvalidRequest if path else errors.Unsupported)
    assert error.path == f"$.messages[0].parts[1]{path}"


def test_images_of_a_tools_result() -> None:
    message = Message("tool", (ToolResult("c", (Text("a plot"), Image(data=PIXEL)), "draw"),))
    payload = ollama.encode(build_request(messages=(message,))).unwrap()
    expected = {"role": "tool", "content": "a plot", "images": [PIXEL], "tool_call_id": "c", "tool_name": "draw"}
    assert payload["messages"] == [expected]


# Responses


def decode_payload(provider: Provider, payload: Mapping[str, Any]) -> CompletionResponse:
    return interpret(provider, HttpReply(200, body=json.dumps(payload).encode())).unwrap()


def test_answer(provider: Provider) -> None:
    assert decode_payload(provider, response_body({"content": "Hi"})) == CompletionResponse(
        parts=(Text("Hi"),), usage=Usage(input_tokens=3, output_tokens=1), served_model="gemma4:e2b"
    )


def test_calls_without_ids_get_generated_ones(provider: Provider) -> None:
    call = {"function": {"name": "f", "arguments": {"a": 1}}}
    complete = decode_payload(provider, response_body({"content": "", "tool_calls": [call, call]}))
    first, second = complete.tool_calls
    assert complete.finish_reason == "tool_calls"
    assert (first.name, first.arguments) == ("f", '{"a":1}')
    assert first.id.startswith(GENERATED_ID_PREFIX)
    assert first.id != second.id
    apart = [{**response_body({"tool_calls": [call]}), "done": False, "created_at": str(time)} for time in range(2)]
    streamed = interpret_stream(provider, HttpReply(200), [json_lines([*apart, response_body({})])]).unwrap()
    assert [(call.name, call.arguments) for call in streamed.tool_calls] == [("f", '{"a":1}')] * 2


@pytest.mark.parametrize(("reason", "expected"), [("stop", "stop"), ("length", "length"), ("load", "other")])
def test_finish_reasons(provider: Provider, reason: str, expected: str) -> None:
    assert decode_payload(provider, response_body({"content": "a"}, done_reason=reason)).finish_reason == expected


@pytest.mark.parametrize("payload", [{}, {"message": None}, {"message": "hi"}])
def test_malformed_answer_names_the_path(provider: Provider, payload: dict[str, Any]) -> None:
    error = interpret(provider, HttpReply(200, body=json.dumps(payload).encode())).failure()
    assert isinstance(error, errors.Malformed)
    assert error.path == "$.message"


@pytest.mark.parametrize(
    ("status", "raw", "error_type"),
    [
        (404, b'{"error":"model \'x\' not found"}', errors.NotFound),
        (400, b'{"error":"input exceeds the context length"}', errors.ContextTooLong),
        (401, b'{"error":"unauthorized"}', errors.AuthFailed),
        (503, b"busy", errors.Overloaded),
        (200, b'{"error":"the runner stopped"}', errors.ServerError),
    ],
)
def test_errors(provider: Provider, status: int, raw: bytes, error_type: type[errors.LLMError]) -> None:
    error = interpret(provider, HttpReply(status, body=raw)).failure()
    assert type(error) is error_type
    streamed = interpret_stream(provider, HttpReply(status), [raw]).failure()
    assert type(streamed) is error_type


# Streams

PIECES = st.lists(st.text(min_size=1, max_size=9), max_size=4)
CALLS = st.lists(
    st.tuples(st.text("fgh", min_size=1), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2)), max_size=3
)


@settings(deadline=None)
@given(PIECES, PIECES, CALLS, st.booleans(), st.sampled_from(["stop", "length"]), st.integers(1, 99))
def test_streamed_equals_unstreamed(
    provider: Provider,
    thoughts: list[str],
    texts: list[str],
    calls: list[tuple[str, dict[str, int]]],
    named: bool,
    finish: str,
    size: int,
) -> None:
    tool_calls = [
        {**({"id": f"c{index}"} if named else {}), "function": {"index": index, "name": name, "arguments": arguments}}
        for index, (name, arguments) in enumerate(calls)
    ]
    messages = [{"thinking": piece} for piece in thoughts] + [{"content": piece} for piece in texts]
    messages += [{"content": "", "tool_calls": [call]} for call in tool_calls]
    chunks = [{"model": "gemma4:e2b", "message": message, "done": False, "created_at": "t"} for message in messages]
    ended = response_body({"content": ""}, done_reason=finish)
    answer = interpret_stream(provider, HttpReply(200), split_bytes(json_lines([*chunks, ended]), size))
    complete = {"thinking": "".join(thoughts), "content": "".join(texts), "tool_calls": tool_calls}
    assert answer.unwrap() == decode_payload(provider, response_body(complete, done_reason=finish))


def test_stream_without_end_is_an_error(provider: Provider) -> None:
    chunk = {**response_body({"content": "a"}), "done": False}
    error = interpret_stream(provider, HttpReply(200), [json_lines([chunk])]).failure()
    assert isinstance(error, errors.Disconnected)
    unended = json_lines([chunk, response_body({"content": "b"})]).removesuffix(b"\n")
    assert interpret_stream(provider, HttpReply(200), [unended]).unwrap().text == "ab"


# Arbitrary input

WORDS = st.sampled_from(
    ["message", "content", "thinking", "tool_calls", "function", "index", "name", "arguments", "id", "error", "done"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=5),
    max_leaves=25,
)
ALMOST = st.fixed_dictionaries({"message": st.dictionaries(WORDS, JSON, max_size=4), "done": JSON | st.just(True)})


@settings(max_examples=200, deadline=None)
@given(st.binary() | (JSON | ALMOST).map(lambda value: json.dumps(value).encode()), st.sampled_from([200, 400, 429]))
def test_arbitrary_replies_never_raise(provider: Provider, raw: bytes, status: int) -> None:
    for result in (
        interpret(provider, HttpReply(status, body=raw)),
        interpret_stream(provider, HttpReply(status), [raw, b"\n"]),
        interpret_stream(provider, HttpReply(status, {"content-type": "application/json"}), [raw]),
        ollama.decode_frame(Frame("", raw)),
    ):
        error = None if is_successful(result) else result.failure()
        assert error is None or isinstance(error, errors.LLMError)


# Recorded exchanges


@pytest.mark.corpus
def test_recorded_answers_equal_a_reference_decoding(corpus: Callable[[str], list[Any]], provider: Provider) -> None:
    answers = failures = 0
    for exchange in corpus("ollama-chat"):
        result = (
            interpret_stream(provider, exchange.head, split_bytes(exchange.body, 13))
            if exchange.streaming
            else interpret(provider, exchange.reply)
        )
        if not exchange.ok:
            assert type(result.failure()) is errors.NotFound, exchange.id
            failures += 1
            continue
        answers += 1
        answer = result.unwrap()
        chunks = [json.loads(line) for line in exchange.body.splitlines()]
        messages = [chunk["message"] for chunk in chunks]
        calls = [call for message in messages for call in message.get("tool_calls", ())]
        assert answer.text == "".join(message["content"] for message in messages), exchange.id
        assert answer.reasoning == "".join(message.get("thinking", "") for message in messages), exchange.id
        assert [(call.id, call.name, json.loads(call.arguments)) for call in answer.tool_calls] == [
            (call["id"], call["function"]["name"], call["function"]["arguments"]) for call in calls
        ], exchange.id
        assert answer.finish_reason == ("tool_calls" if calls else chunks[-1]["done_reason"]), exchange.id
        assert answer.usage == Usage(
            input_tokens=chunks[-1]["prompt_eval_count"], output_tokens=chunks[-1]["eval_count"]
        ), exchange.id
    assert (answers, failures) == (6, 2)


@pytest.mark.corpus
def test_recorded_request_is_encoded_identically(corpus: Callable[[str], list[Any]], provider: Provider) -> None:
    """The request has a call, its result, and a schema with the URL of its dialect."""
    recorded = next(each.request["body"] for each in corpus("ollama-chat") if each.id.endswith("79d163cfd6a9"))
    user_message, called, answered = recorded["messages"]
    (call,) = called["tool_calls"]
    (tool,) = [tool["function"] for tool in recorded["tools"]]
    request = build_request(
        messages=(
            Message("user", user_message["content"]),
            Message("assistant", ToolCall(call["id"], "square_root", json.dumps(call["function"]["arguments"]))),
            Message("tool", ToolResult(answered["tool_call_id"], answered["content"])),
        ),
        tools=(Tool(tool["name"], tool["description"], tool["parameters"]),),
    )
    sent = json.loads(prepare(provider, Endpoint(), request, 0.0, stream=True).unwrap().body)
    sent["messages"][1].pop("content")  # empty beside a call, and omitted in the recording
    assert sent == recorded


ODD = (
    st.none()
    | st.text(max_size=2)
    | st.integers()
    | st.booleans()
    | st.lists(st.none(), max_size=1)
    | st.just({"a": 1})
)


@given(
    st.dictionaries(st.sampled_from(["model", "done", "error", "message", "logprobs", "created_at"]), ODD, max_size=2),
    st.dictionaries(st.sampled_from(["content", "thinking", "tool_calls", "role"]), ODD, max_size=2),
)
def test_fast_path_equals_general_path(top: Any, message: Any) -> None:
    complete = {"model": "m", "message": {"role": "assistant", "content": "a", **message}, "done": False, **top}
    frame = Frame("", json.dumps(complete).encode())
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ollama, "parse_plain_ollama_line", lambda _: None)
        long = ollama.decode_frame(frame)
    assert ollama.decode_frame(frame) == long
