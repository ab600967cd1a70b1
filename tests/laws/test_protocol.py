from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from returns.pipeline import is_successful
from returns.result import Failure, Result, Success

from llmhub.core.errors import (
    BadRequestError,
    InvalidRequest,
    LLMError,
    Malformed,
    RateLimited,
    ServerError,
    Unsupported,
    to_exception,
)
from llmhub.core.messages import parse_messages
from llmhub.core.payload import deep_merge, parse_json_object
from llmhub.core.protocol import StreamDecoder, _completed, interpret, interpret_stream, prepare
from llmhub.core.provider import Endpoint, HttpReply, HttpRequest, Provider, RateLimitInfo, Wire
from llmhub.core.request_builder import builder
from llmhub.core.types import (
    CacheMark,
    Choice,
    CompletionRequest,
    CompletionResponse,
    Logprobs,
    Message,
    Part,
    Reasoning,
    Schema,
    Text,
    Tool,
    ToolResult,
    Usage,
)
from llmhub.core.validation import OPTIONAL_DEFAULTS, PART_PATH, validate_request
from llmhub.providers.registry import PROVIDERS

rows = st.sampled_from(list(PROVIDERS.values()))
ASK = CompletionRequest(model="m", messages=(Message("user", "hi"),))
HERE = Endpoint(base_url="http://localhost:8000")
NOW = 1_700_000_000.0


# Arbitrary requests

wild = st.text(st.characters()) | st.sampled_from(["", " ", "\ud800", "a/b", "..", "https://localhost", "{"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | wild,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(wild, inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(wild, json_values, max_size=3)
parts = st.from_type(Part) | st.builds(Text, wild)
messages = st.builds(
    Message, st.sampled_from(["system", "user", "assistant", "tool", "other"]), st.lists(parts, max_size=3)
)
requests = st.builds(
    CompletionRequest,
    model=wild | st.sampled_from(["gpt-4o", "claude-opus-4-7", "gemini-2.5-pro", "us.amazon.nova-lite-v1:0", "o3"]),
    messages=st.lists(messages, max_size=4).map(tuple),
    **dict.fromkeys(("temperature", "top_p", "presence_penalty", "frequency_penalty"), st.none() | st.floats()),
    **dict.fromkeys(("top_k", "max_tokens", "seed", "reasoning_budget", "logprobs"), st.none() | st.integers()),
    stop=st.lists(wild, max_size=5).map(tuple),
    tools=st.lists(st.builds(Tool, wild, wild, objects), max_size=2).map(tuple),
    tool_choice=st.none() | wild | st.sampled_from(["auto", "none", "required"]),
    response_schema=st.none() | st.builds(Schema, objects, via=st.sampled_from(["", "native", "tool"])),
    parallel_tool_calls=st.none() | st.booleans(),
    reasoning_effort=st.none() | wild | st.sampled_from(["none", "low", "high"]),
    n=st.integers(-1, 3),
    user=st.none() | wild,
    extra=objects | st.dictionaries(st.integers(), st.none(), max_size=1),  # type: ignore[arg-type]
    unsupported=st.sampled_from(["error", "drop"]),
)
plain = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=8)
endpoints = st.builds(
    Endpoint,
    **dict.fromkeys(("api_key", "api_version", "region", "access_key_id", "secret_access_key", "session_token"), plain),
    base_url=st.sampled_from(["", "http://localhost:8000", "https://host/openai/v1/", "nonsense"]),
    headers=st.dictionaries(plain, plain, max_size=2),
)


@given(rows, endpoints, requests, st.booleans())
def test_prepare_never_raises(provider: Provider, endpoint: Endpoint, request: CompletionRequest, stream: bool) -> None:
    result = prepare(provider, endpoint, request, NOW, stream=stream)
    if not is_successful(result):
        error = result.failure()
        assert isinstance(error, (InvalidRequest, Unsupported))
        assert error.provider == provider.name
        assert error.path.startswith("$.")
        assert error.message
        return
    sent = result.unwrap()
    assert isinstance(json.loads(sent.body), dict)
    assert set(sent.dropped) <= {*OPTIONAL_DEFAULTS, *ANNOTATIONS.values()}
    assert not sent.dropped or request.unsupported == "drop"
    assert result == prepare(provider, endpoint, request, NOW, stream=stream)


ANNOTATIONS: dict[type[Part], str] = {
    Reasoning: "messages.reasoning",
    CacheMark: "messages.cache_mark",
    ToolResult: "messages.is_error",
}
"""Names in ``dropped`` of what may be dropped of a message; of a tool's result it is a flag."""


def remove_parameters(provider: Provider, request: CompletionRequest, dropped: Sequence[str]) -> CompletionRequest:
    """Remove these parameters from a request, and of its messages what an error names, one part after another.

    A provider may take one part of a kind and refuse another: reasoning of its own, and that of another API.
    """
    unset = {name: OPTIONAL_DEFAULTS[name] for name in dropped if name not in ANNOTATIONS.values()}
    # The places in errors are those of a request without log probabilities, which no API takes back.
    turns = [[part for part in turn.parts if type(part) is not Logprobs] for turn in request.messages]
    messages = zip([turn.role for turn in request.messages], turns, request.messages, strict=True)
    kept = [Message(role, tuple(parts)) for role, parts, turn in messages if parts or not turn.parts]
    request = replace(request, messages=tuple(kept), unsupported="error", **unset)
    while not is_successful(result := prepare(provider, HERE, request, NOW)):
        place = PART_PATH.fullmatch(result.failure().path)
        assert place is not None, result
        index, part_index = int(place[1]), int(place[2])
        turn = request.messages[index]
        part = turn.parts[part_index]
        assert ANNOTATIONS[type(part)] in dropped
        left = [replace(part, is_error=False)] if isinstance(part, ToolResult) else []
        parts = (*turn.parts[:part_index], *left, *turn.parts[part_index + 1 :])
        turns_left = (Message(turn.role, parts),) if parts else ()
        request = replace(request, messages=(*request.messages[:index], *turns_left, *request.messages[index + 1 :]))
    return request


TWO_KINDS_OF_REASONING = CompletionRequest(
    model="m",
    messages=(Message("system", (Reasoning("of its own"), Reasoning(redacted="of another"))), Message("user", "hi")),
)


@given(rows, requests)
@example(PROVIDERS["groq"], TWO_KINDS_OF_REASONING)
@example(PROVIDERS["anthropic"], replace(TWO_KINDS_OF_REASONING, seed=1))
def test_dropping_equals_never_setting(provider: Provider, request: CompletionRequest) -> None:
    result = prepare(provider, HERE, replace(request, unsupported="drop"), NOW)
    if is_successful(result):
        without = remove_parameters(provider, request, result.unwrap().dropped)
        again = prepare(provider, HERE, without, NOW).unwrap()
        assert replace(again, dropped=result.unwrap().dropped) == result.unwrap()


def test_dropping_keeps_the_reasoning_that_a_provider_takes() -> None:
    request = replace(TWO_KINDS_OF_REASONING, unsupported="drop")
    sent = prepare(PROVIDERS["groq"], HERE, request, NOW).unwrap()
    assert sent.dropped == ("messages.reasoning",)
    assert json.loads(sent.body)["messages"] == [
        {"role": "system", "content": None, "reasoning": "of its own"},
        {"role": "user", "content": "hi"},
    ]


def test_dropping_never_leaves_an_empty_conversation() -> None:
    request = CompletionRequest(model="m", messages=(Message("user", CacheMark()),), unsupported="drop")
    error = prepare(PROVIDERS["openai"], HERE, request, NOW).failure()
    assert (type(error), error.path) == (Unsupported, "$.messages[0].parts[0]")


# Arbitrary replies

names = st.sampled_from(
    [
        *("content-type", "retry-after", "retry-after-ms", "x-should-retry", "date", "location"),
        *("x-ratelimit-reset-requests", "anthropic-ratelimit-requests-reset", "x-request-id", "request-id"),
        *("x-ratelimit-limit-tokens", "x-amzn-errortype", "x-amzn-requestid", "apim-request-id"),
    ]
)
texts = st.text(max_size=20) | st.sampled_from(
    ["application/json", "text/event-stream", "1e999", "nan", "-1", "1h", "\udcff"]
)
replies = st.builds(
    HttpReply,
    status=st.sampled_from([200, 201, 204, 302, 400, 401, 404, 429, 500, 503, 529]) | st.integers(0, 999),
    headers=st.dictionaries(names, texts, max_size=3),
    received_at=st.floats(0, 1e10),
)
documents = json_values.map(lambda value: json.dumps(value).encode())
KEYS = (
    *("choices", "message", "content", "delta", "tool_calls", "index", "function", "error", "usage", "type", "text"),
    *("candidates", "parts", "finishReason", "output", "stopReason", "contentBlockIndex", "code", "status", "details"),
    *("content_block", "promptFeedback", "usageMetadata", "finish_reason", "stop_reason", "id", "model", "reasoning"),
)
near = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1, 5)
    | st.floats(0, 2)
    | st.sampled_from(["", "text", "stop", "tool_use", "{}"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=12,
).map(lambda value: json.dumps(value).encode())
bodies = st.binary() | documents | near


def is_plain(outcome: Result[CompletionResponse, LLMError], provider: Provider) -> None:
    """Return whether all strings in a value can be encoded."""
    if is_successful(outcome):
        value = outcome.unwrap()
        assert isinstance(value, CompletionResponse)
        msgspec.json.encode(value)
    else:
        error = outcome.failure()
        assert error.provider == provider.name
        assert error.retry_after_s is None or error.retry_after_s >= 0
        f"{error}{error.request_id}".encode()


@given(rows, replies, bodies)
def test_interpret_never_raises(provider: Provider, reply: HttpReply, body: bytes) -> None:
    is_plain(interpret(provider, replace(reply, body=body)), provider)


@given(rows, replies, st.lists(bodies, max_size=5))
def test_interpret_stream_never_raises(provider: Provider, reply: HttpReply, chunks: list[bytes]) -> None:
    is_plain(interpret_stream(provider, reply, chunks), provider)


@given(rows, st.lists(near, max_size=5), st.integers(1, 30))
def test_any_split_of_a_stream_yields_the_same_response(provider: Provider, events: list[bytes], size: int) -> None:
    body = b"".join(b"data: %b\n\n" % event for event in events)
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    assert interpret_stream(provider, HttpReply(200), [body]) == interpret_stream(provider, HttpReply(200), pieces)


@pytest.mark.parametrize("provider", PROVIDERS.values(), ids=lambda provider: provider.name)
def test_deeply_nested_json_is_malformed(provider: Provider) -> None:
    for body in (b"[" * 10**5, b'{"a":' * 10**5):
        assert isinstance(interpret(provider, HttpReply(200, {}, body)).failure(), Malformed)
        assert not is_successful(interpret(provider, HttpReply(500, {}, body)))


@pytest.mark.parametrize("provider", PROVIDERS.values(), ids=lambda provider: provider.name)
def test_redirects_are_errors_with_their_location(provider: Provider) -> None:
    error = interpret(provider, HttpReply(307, {"Location": "https://elsewhere.example/v1"}, b"")).failure()
    assert isinstance(error, ServerError)
    assert "https://elsewhere.example/v1" in error.message
    assert error.should_retry is False
    assert (
        interpret_stream(provider, HttpReply(307, {"Location": "https://elsewhere.example/v1"}), []).failure() == error
    )


@pytest.mark.parametrize("provider", PROVIDERS.values(), ids=lambda provider: provider.name)
def test_empty_replies_are_errors(provider: Provider) -> None:
    assert isinstance(interpret(provider, HttpReply(200)).failure(), Malformed)
    assert interpret_stream(provider, HttpReply(200), []).failure().message == (
        "the stream ended before the response was complete"
    )


def test_undecodable_headers_are_ignored() -> None:
    """Headers that are not UTF-8 arrive as lone surrogates, which cannot be encoded."""
    body = b'{"choices":[{"message":{"content":"Hi"},"finish_reason":"stop"}]}'
    headers = {"x-request-id": "req_\udcff1"}
    answer = interpret(PROVIDERS["openai"], HttpReply(200, headers, body)).unwrap()
    assert answer.request_id == "req_?1"
    assert interpret(PROVIDERS["openai"], HttpReply(500, headers, b"")).failure().request_id == "req_?1"


# A minimal wire


def encode(*takes: str) -> Any:
    def encoded(request: CompletionRequest) -> Result[dict[str, object], LLMError]:
        payload: dict[str, object] = {"texts": [message.text for message in request.messages]}
        for name, unset in OPTIONAL_DEFAULTS.items():
            value = getattr(request, name)
            if value != unset and name not in {"extra", "unsupported"}:
                if name not in takes:
                    return Failure(Unsupported(path=f"$.{name}", message=f"no {name}"))
                payload[name] = value
        return Success(payload)

    return encoded


def make_provider(*takes: str, **more: Any) -> Provider:
    wire = Wire(
        name="w",
        encode=encode(*takes),
        decode=lambda _: Failure(Malformed(path="$.x", message="no")),
        decode_frame=lambda _: Success(()),
        decode_error=lambda reply: RateLimited(status=reply.status),
        stream_fields={"stream": True, "options": {"usage": True}},
    )
    return Provider(
        name="p",
        wire=wire,
        base_url="",
        locate=lambda endpoint, request, stream: f"{endpoint.base_url}/{request.model}{'?stream' if stream else ''}",
        authorize=lambda endpoint, request, now: replace(request, headers={**request.headers, "at": str(now)}),
        **more,
    )


def test_order_of_encoding_steps() -> None:
    provider = make_provider("temperature", adapt=lambda payload: {**payload, "adapted": 1, "texts": "adapted"})
    request = replace(ASK, temperature=1, extra={"texts": "extra", "options": {"more": 2}})
    prepared = prepare(provider, HERE, request, 5.0).unwrap()
    streamed = prepare(provider, HERE, request, 5.0, stream=True).unwrap()
    assert (prepared.method, prepared.url, prepared.dropped) == ("POST", "http://localhost:8000/m", ())
    assert prepared.headers == {"content-type": "application/json", "at": "5.0"}
    assert json.loads(prepared.body) == {"texts": "extra", "temperature": 1.0, "adapted": 1, "options": {"more": 2}}
    assert streamed.url == "http://localhost:8000/m?stream"
    assert json.loads(streamed.body) == {
        **json.loads(prepared.body),
        "stream": True,
        "options": {"usage": True, "more": 2},
    }


def test_unsupported_parameters_are_dropped_by_name() -> None:
    request = replace(ASK, temperature=0.5, seed=1, stop=("a",), unsupported="drop")
    result = prepare(make_provider("seed"), HERE, request, 0.0).unwrap()
    assert sorted(result.dropped) == ["stop", "temperature"]
    assert json.loads(result.body) == {"texts": ["hi"], "seed": 1}


def test_unsupported_parameters_are_errors_by_default() -> None:
    error = prepare(make_provider(), HERE, replace(ASK, seed=1), 0.0).failure()
    assert isinstance(error, Unsupported)
    assert (error.path, error.provider) == ("$.seed", "p")


@pytest.mark.parametrize(
    "unsupported",
    [
        InvalidRequest(path="$.temperature", message="out of range"),
        Unsupported(path="$.messages[0].parts[0]", message="no pictures"),
        Unsupported(path="$.model", message="no such model"),
    ],
)
def test_errors_and_content_are_never_dropped(unsupported: LLMError) -> None:
    provider = make_provider("temperature", unsupported=lambda _endpoint, _request: unsupported)
    error = prepare(provider, HERE, replace(ASK, temperature=9, unsupported="drop"), 0.0).failure()
    assert (type(error), error.path) == (type(unsupported), unsupported.path)


def test_parameters_unsupported_by_the_provider_are_dropped() -> None:
    def refuse(_endpoint: Endpoint, request: CompletionRequest) -> LLMError | None:
        return None if request.top_p is None else Unsupported(path="$.top_p", message="not this model")

    request = replace(ASK, top_p=0.5, seed=1, unsupported="drop")
    assert prepare(make_provider(unsupported=refuse), HERE, request, 0.0).unwrap().dropped == ("top_p", "seed")


def test_errors_have_context_from_headers() -> None:
    info = RateLimitInfo(retry_after_s=3.0, should_retry=False)
    error = interpret(make_provider(limits=lambda _: info), HttpReply(429, {"X-Request-Id": "r1"})).failure()
    assert error == RateLimited(provider="p", status=429, request_id="r1", retry_after_s=3.0, should_retry=False)


def test_unstreamed_reply_to_a_stream_request() -> None:
    body = b'{"choices":[{"message":{"content":"Hi"},"finish_reason":"stop"}]}'
    reply = HttpReply(200, {"Content-Type": "application/json; charset=utf-8"})
    decoder = StreamDecoder(PROVIDERS["openai"], reply)
    assert [decoder.feed(body[:9]), decoder.feed(body[9:])] == [(), ()]
    assert decoder.close(()).unwrap().text == "Hi"


# Validation


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"model": ""}, "$.model"),
        ({"model": "  "}, "$.model"),
        ({"messages": ()}, "$.messages"),
        ({"messages": (Message("user", "a"), Message("bot", "b"))}, "$.messages[1].role"),  # type: ignore[arg-type]
        (
            {"messages": (Message("user", "a"), Message("tool", (Text("b"), ToolResult("", "c"))))},
            "$.messages[1].parts[1].id",
        ),
        ({"n": 0}, "$.n"),
    ],
)
def test_invalid_requests_have_a_path(changes: dict[str, Any], path: str) -> None:
    request = replace(ASK, **changes)
    error = validate_request(request)
    assert error is not None
    assert (type(error), error.path) == (InvalidRequest, path)
    assert prepare(PROVIDERS["openai"], Endpoint(), request, 0.0).failure() == replace(error, provider="openai")


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", 2.1), ("temperature", float("nan")), ("top_p", -0.1), ("max_tokens", 0), ("n", 999)],
)
def test_out_of_range_errors_name_the_range(name: str, value: float) -> None:
    error = prepare(PROVIDERS["openai"], Endpoint(), replace(ASK, **{name: value}), 0.0).failure()
    assert isinstance(error, InvalidRequest)
    assert error.path == f"$.{name}"
    assert ".." in error.message


@pytest.mark.parametrize("extra", [{"x": object()}, {"x": {1, 2}.__iter__()}, {"x": "\ud800"}, {"x": [[]]}])
def test_extra_that_is_not_json_is_rejected(extra: Any) -> None:
    if extra == {"x": [[]]}:
        for _ in range(10_000):
            extra = {"x": [extra]}
    error = prepare(PROVIDERS["openai"], Endpoint(), replace(ASK, extra=extra), 0.0).failure()
    assert isinstance(error, InvalidRequest)
    assert error.path == "$.extra"


def test_lone_surrogates_are_rejected() -> None:
    error = prepare(
        PROVIDERS["openai"], Endpoint(), replace(ASK, messages=(Message("user", "a\ud800"),)), 0.0
    ).failure()
    assert isinstance(error, InvalidRequest)
    assert "surrogates" in error.message
    assert error.path == "$.messages"


def forgets(b: dict[str, Any], c: dict[str, Any]) -> bool:
    """Return whether ``c`` has an object where ``b`` has another value, which replaces that of ``a``."""
    return any(
        isinstance(c.get(name), dict) and (not isinstance(value, dict) or forgets(value, c[name]))
        for name, value in b.items()
    )


@given(objects, objects, objects)
def test_deep_merge_is_associative_and_the_later_wins(a: dict[str, Any], b: dict[str, Any], c: dict[str, Any]) -> None:
    if not forgets(b, c):
        assert repr(deep_merge(deep_merge(a, b), c)) == repr(deep_merge(a, deep_merge(b, c)))
    assert set(deep_merge(a, b)) == {*a, *b}
    assert repr({name: deep_merge(a, b)[name] for name in b if not isinstance(b[name], dict)}) == repr(
        {name: value for name, value in b.items() if not isinstance(value, dict)}
    )


@given(st.binary())
def test_parsing_arbitrary_bytes_never_raises(body: bytes) -> None:
    result = parse_json_object(body)
    assert isinstance(result.unwrap(), dict) if is_successful(result) else isinstance(result.failure(), Malformed)


# Builder


def test_builder_builds_the_request() -> None:
    built = builder().model("openai/gpt-4o").messages("hi", Message("assistant", "yes")).options(temperature=0).build()
    assert built == CompletionRequest(
        model="openai/gpt-4o", messages=(Message("user", "hi"), Message("assistant", "yes")), temperature=0.0
    )


def test_build_names_the_missing_step() -> None:
    early: Any = builder()
    with pytest.raises(BadRequestError, match=r"call \.model\(\.\.\.\) before \.build\(\)"):
        early.build()
    with pytest.raises(BadRequestError, match=r"call \.messages\(\.\.\.\) before \.build\(\)"):
        early.model("openai/gpt-4o").build()
    with pytest.raises(BadRequestError, match=r"call \.messages"):
        early.model("openai/gpt-4o").messages().build()


def test_builder_rejects_unknown_parameters() -> None:
    with pytest.raises(BadRequestError, match=r"no such parameter.*temperature.* at \$\.temprature"):
        builder().options(temprature=1)


def test_builder_steps_are_immutable() -> None:
    first = builder().model("openai/a")
    left, right = first.messages("1"), first.messages("2")
    assert (left.build().messages[0].text, right.build().messages[0].text) == ("1", "2")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("hi", [("user", "hi")]),
        (["a", "b"], [("user", "a"), ("user", "b")]),
        ([{"role": "system", "content": "be brief"}, "hi"], [("system", "be brief"), ("user", "hi")]),
        ({"role": "user", "content": "hi"}, [("user", "hi")]),
        (Message("user", "hi"), [("user", "hi")]),
        ([{"role": "user", "content": [Text("a"), Text("b")]}], [("user", "ab")]),
        ((message for message in ["a"]), [("user", "a")]),
    ],
)
def test_messages_are_parsed_from_common_forms(written: Any, read: Sequence[tuple[str, str]]) -> None:
    assert [(message.role, message.text) for message in parse_messages(written)] == read


@pytest.mark.parametrize(
    "written", [5, None, [5], [{"role": "user"}], [{"content": "a"}], [{"role": "user", "content": [1]}], [b"a"], {}]
)
def test_invalid_messages_are_rejected_with_their_path(written: Any) -> None:
    with pytest.raises(BadRequestError, match=r"\$\.messages"):
        parse_messages(written)


def test_repr_has_no_credentials() -> None:
    assert "secret" not in repr(HttpRequest("POST", "http://localhost", {"authorization": "secret"}))
    assert "secret" not in repr(Endpoint("", "secret", "", "", "secret", "secret", "secret", headers={"x": "secret"}))
    assert "secret" not in str(to_exception(RateLimited()))


def test_the_request_id_of_a_header_is_the_only_field_that_changes() -> None:
    other: dict[str, Any] = {
        "parts": (Text("a"),), "finish_reason": "length", "usage": Usage(input_tokens=1), "served_model": "m",
        "request_id": "b", "others": (Choice((Text("c"),), "stop"),), "forced_tool": True,
    }  # fmt: skip
    assert set(other) == {each.name for each in fields(CompletionResponse)}
    reply, response = HttpReply(200, {"x-request-id": "r"}, b""), CompletionResponse(**other)
    assert _completed(PROVIDERS["openai"], reply, response) == replace(response, request_id="r")
