"""Anthropic Messages: requests, responses, and that streams equal them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic.types import (
    ContentBlockParam,
    MetadataParam,
    OutputConfigParam,
    RawMessageStreamEvent,
    ThinkingConfigParam,
    ToolChoiceParam,
    ToolParam,
)
from anthropic.types import Message as OfficialMessage
from anthropic.types.message_create_params import MessageCreateParamsBase, MessageCreateParamsNonStreaming
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from llmhub.core.errors import (
    AuthFailed,
    ContentFiltered,
    ContextTooLong,
    Disconnected,
    InvalidRequest,
    Malformed,
    NotFound,
    Overloaded,
    PermissionDenied,
    QuotaExhausted,
    RateLimited,
    ServerError,
    TimedOut,
    Unsupported,
)
from llmhub.core.framing import Frame
from llmhub.core.protocol import interpret, interpret_stream, prepare
from llmhub.core.provider import Endpoint, HttpReply
from llmhub.core.types import (
    CompletionRequest,
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
from llmhub.wire.anthropic import DEFAULT_MAX_TOKENS, EVENTS, WIRE, decode, decode_frame, encode

CASES = ("text", "tools", "thinking", "server_tool", "citations", "refusal")
WEATHER = Tool("weather", "Tell the weather.", {"type": "object", "properties": {"city": {"type": "string"}}})
PNG = "iVBORw0KGgo="


def build_request(*messages: Message, **fields: Any) -> CompletionRequest:
    return CompletionRequest(model="claude-haiku-4-5", messages=messages or (Message("user", "Hi"),), **fields)


def encoded(*messages: Message, **fields: Any) -> dict[str, Any]:
    return encode(build_request(*messages, **fields)).unwrap()


def encode_error(*messages: Message, **fields: Any) -> Any:
    return encode(build_request(*messages, **fields)).failure()


@pytest.fixture(scope="module")
def provider(make_provider: Any) -> Any:
    return make_provider(WIRE)


# Requests


def test_minimal_request() -> None:
    assert encoded() == {
        "model": "claude-haiku-4-5",
        "max_tokens": DEFAULT_MAX_TOKENS,
        "messages": [{"role": "user", "content": "Hi"}],
    }


def test_parameter_names() -> None:
    payload = encoded(temperature=0.5, top_p=0.9, top_k=40, max_tokens=17, stop=("END", "\n"), user="u1")
    del payload["model"], payload["messages"]
    assert payload == {
        "max_tokens": 17,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "stop_sequences": ["END", "\n"],
        "metadata": {"user_id": "u1"},
    }


def test_zero_is_sent() -> None:
    payload = encoded(temperature=0, top_k=0, max_tokens=0)
    assert (payload["temperature"], payload["top_k"], payload["max_tokens"]) == (0.0, 0, 0)


@pytest.mark.parametrize(
    "fields", [{"temperature": 1.01}, {"temperature": -0.1}, {"top_p": 1.5}, {"top_k": -1}, {"max_tokens": -1}]
)
def test_out_of_range_parameter_is_an_error(fields: dict[str, Any]) -> None:
    error = encode_error(**fields)
    assert isinstance(error, InvalidRequest)
    assert error.path == f"$.{next(iter(fields))}"


@pytest.mark.parametrize(
    "fields",
    [{"n": 2}, {"seed": 1}, {"presence_penalty": 0.5}, {"frequency_penalty": 0.5}, {"reasoning_effort": "minimal"}],
)
def test_unsupported_parameter_is_an_error(fields: dict[str, Any]) -> None:
    error = encode_error(**fields)
    assert isinstance(error, Unsupported)
    assert error.path == f"$.{next(iter(fields))}"


def test_unsupported_parameters_can_be_dropped(provider: Any) -> None:
    request = build_request(seed=1, n=3, reasoning_effort="minimal", temperature=0.5, unsupported="drop")
    prepared = prepare(provider, Endpoint(), request, 0.0).unwrap()
    assert set(prepared.dropped) == {"seed", "n", "reasoning_effort"}
    assert json.loads(prepared.body)["temperature"] == 0.5


def test_system_messages_are_gathered_in_order() -> None:
    turns = (Message("system", "A"), Message("user", "Hi"), Message("system", "B"), Message("user", "Ho"))
    payload = encoded(*turns)
    assert payload["system"] == [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}]
    assert payload["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "Ho"}]}
    ]
    assert encoded(*turns[:2])["system"] == "A"


def test_empty_texts_are_omitted() -> None:
    turns = (Message("user", "a"), Message("assistant", [Text(""), Text("b")]), Message("user", "c"))
    assert encoded(*turns)["messages"] == [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]


def test_results_of_parallel_calls_share_one_message() -> None:
    calls = Message("assistant", [ToolCall("t1", "weather", '{"city": "Paris"}'), ToolCall("t2", "now", "")])
    results = (
        Message("tool", ToolResult("t1", "sunny", name="weather")),
        Message("tool", ToolResult("t2", (Text("see"), Image(data=PNG, media_type="image/png")), is_error=True)),
    )
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    assert encoded(Message("user", "Hi"), calls, *results, Message("user", "And?"))["messages"][1:] == [
        {
            "role": "assistant",
            "content": [
                {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Paris"}},
                {"type": "tool_use", "id": "t2", "name": "now", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "sunny"},
                {
                    "type": "tool_result",
                    "tool_use_id": "t2",
                    "content": [{"type": "text", "text": "see"}, picture],
                    "is_error": True,
                },
                {"type": "text", "text": "And?"},
            ],
        },
    ]


@pytest.mark.parametrize("arguments", ['{"city": ', "[1]", "\ud800"])
def test_arguments_must_be_an_object(arguments: str) -> None:
    error = encode_error(Message("user", "Hi"), Message("assistant", [Text("a"), ToolCall("t", "f", arguments)]))
    assert isinstance(error, InvalidRequest)
    assert error.path == "$.messages[1].parts[1].arguments"


@pytest.mark.parametrize(
    ("part", "source"),
    [
        (Image(url="https://example.org/a.png"), {"type": "url", "url": "https://example.org/a.png"}),
        (Image(url=f"data:image/gif;base64,{PNG}"), {"type": "base64", "media_type": "image/gif", "data": PNG}),
        (Image(data=PNG, media_type="image/webp"), {"type": "base64", "media_type": "image/webp", "data": PNG}),
        (Document(url="https://example.org/a.pdf"), {"type": "url", "url": "https://example.org/a.pdf"}),
        (Document(data=PNG, media_type="application/pdf"), None),
        (
            Document(data="ZsO8cg==", media_type="text/markdown"),
            {"type": "text", "media_type": "text/plain", "data": "für"},
        ),
    ],
)
def test_images_and_documents_by_url_or_inline(part: Image | Document, source: Any) -> None:
    block = encoded(Message("user", [Text("See"), part]))["messages"][0]["content"][1]
    assert block["type"] == type(part).__name__.lower()
    assert block["source"] == (source or {"type": "base64", "media_type": "application/pdf", "data": PNG})


def test_document_name_is_sent() -> None:
    block = encoded(Message("user", Document(url="https://example.org/a.pdf", name="A")))["messages"][0]["content"][0]
    assert block["title"] == "A"


@pytest.mark.parametrize(
    ("part", "error_type", "path"),
    [
        (Image(data=PNG, media_type="image/tiff"), Unsupported, ""),
        (Image(data=PNG), InvalidRequest, ".media_type"),
        (Image(url="https://example.org/a.png", detail="high"), Unsupported, ""),
        (Document(data=PNG, media_type="application/zip"), Unsupported, ""),
        (Document(data="***", media_type="text/plain"), InvalidRequest, ".data"),
        (Document(data="/w==", media_type="text/plain"), InvalidRequest, ".data"),
        (Reasoning("hm"), Unsupported, ""),
        (ToolCall("t", "f"), Unsupported, ""),
        (Opaque("executableCode", '{"executableCode": {}}'), Unsupported, ""),
        (Opaque("other", '{"type": "mark"}'), Unsupported, ""),
        (Opaque("mark", "no json"), Unsupported, ""),
        (Opaque("mark", '{"type": ["mark"]}'), Unsupported, ""),
        (Opaque("citation", '{"type": "char_location"}'), Unsupported, ""),
        (ToolResult("t", (Image(data=PNG),)), InvalidRequest, ".content[0].media_type"),
    ],
)
def test_unsupported_part_is_an_error(part: Any, error_type: type, path: str) -> None:
    error = encode_error(Message("user", "Hi"), Message("user", [part]))
    assert type(error) is error_type
    assert error.path == f"$.messages[1].parts[0]{path}"


@pytest.mark.parametrize("part", [ToolResult("t", "x"), Image(data=PNG, media_type="image/png"), Document(url="x:y")])
def test_assistant_message_rejects_results_images_and_documents(part: Any) -> None:
    error = encode_error(Message("user", "Hi"), Message("assistant", [Text("a"), part]))
    assert isinstance(error, Unsupported)
    assert error.path == "$.messages[1].parts[1]"


def test_system_message_holds_text_and_cache_marks() -> None:
    mark = '{"type": "text", "text": "A", "cache_control": {"type": "ephemeral"}}'
    assert encoded(Message("system", Opaque("text", mark)), Message("user", "Hi"))["system"] == [json.loads(mark)]
    error = encode_error(Message("system", Image(url="https://example.org/a.png")), Message("user", "Hi"))
    assert error.path == "$.messages[0].parts[0]"


def test_reasoning_is_sent_back_verbatim() -> None:
    thoughts = [Reasoning("why", "sig"), Reasoning("", "sig2"), Reasoning(redacted="blob"), Refusal("no")]
    assert encoded(Message("user", "Hi"), Message("assistant", thoughts))["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "why", "signature": "sig"},
        {"type": "thinking", "thinking": "", "signature": "sig2"},
        {"type": "redacted_thinking", "data": "blob"},
        {"type": "text", "text": "no"},
    ]


def test_tools() -> None:
    payload = encoded(tools=(WEATHER, Tool("now", strict=True)))
    assert payload["tools"] == [
        {"name": "weather", "description": "Tell the weather.", "input_schema": WEATHER.parameters},
        {"name": "now", "input_schema": {"type": "object"}, "strict": True},
    ]
    assert "tool_choice" not in payload


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", {"type": "auto"}),
        ("none", {"type": "none"}),
        ("required", {"type": "any"}),
        ("weather", {"type": "tool", "name": "weather"}),
    ],
)
def test_tool_choice(choice: str, expected: dict[str, str]) -> None:
    assert encoded(tools=(WEATHER,), tool_choice=choice)["tool_choice"] == expected


def test_structured_output_and_effort_share_a_field() -> None:
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    payload = encoded(response_schema=Schema(schema), reasoning_effort="max")
    assert payload["output_config"] == {"effort": "max", "format": {"type": "json_schema", "schema": schema}}
    assert payload["thinking"] == {"type": "adaptive"}


@pytest.mark.parametrize(
    ("fields", "thinking", "effort"),
    [
        ({"reasoning_effort": "low"}, {"type": "adaptive"}, "low"),
        ({"reasoning_effort": "none"}, {"type": "disabled"}, None),
        ({"reasoning_budget": 2000}, {"type": "enabled", "budget_tokens": 2000}, None),
        ({"reasoning_budget": 0}, {"type": "disabled"}, None),
        ({"reasoning_budget": 2000, "reasoning_effort": "high"}, {"type": "enabled", "budget_tokens": 2000}, "high"),
    ],
)
def test_reasoning_options(fields: dict[str, Any], thinking: Any, effort: str | None) -> None:
    payload = encoded(**fields)
    assert payload["thinking"] == thinking
    assert payload.get("output_config", {}).get("effort") == effort


def test_reasoning_budget_is_added_to_max_tokens() -> None:
    assert encoded(reasoning_budget=8000)["max_tokens"] == 8000 + DEFAULT_MAX_TOKENS
    assert encoded(reasoning_budget=8000, max_tokens=9000)["max_tokens"] == 9000


@pytest.mark.parametrize("fields", [{"reasoning_budget": 1023}, {"reasoning_budget": 2000, "max_tokens": 2000}])
def test_reasoning_budget_bounds(fields: dict[str, Any]) -> None:
    error = encode_error(**fields)
    assert isinstance(error, InvalidRequest)
    assert error.path == "$.reasoning_budget"


def everything() -> CompletionRequest:
    return build_request(
        Message("system", "Be brief."),
        Message("user", [Text("See"), Image(data=PNG, media_type="image/png"), Image(url="https://example.org/a")]),
        Message("user", [Document(data=PNG, media_type="application/pdf", name="A"), Document(url="https://e.org/b")]),
        Message("user", Document(data="YQ==", media_type="text/plain")),
        Message("assistant", [Reasoning("why", "sig"), Reasoning(redacted="blob"), Text("So"), ToolCall("t", "f")]),
        Message("tool", ToolResult("t", (Text("x"), Image(url="https://example.org/a")), is_error=True)),
        Message(
            "assistant",
            [Opaque("server_tool_use", '{"type":"server_tool_use","id":"s","name":"web_search","input":{}}')],
        ),
        temperature=0.5,
        top_p=0.9,
        top_k=3,
        max_tokens=9000,
        stop=("END",),
        user="u1",
        tools=(WEATHER, Tool("now", strict=True)),
        tool_choice="weather",
        response_schema=Schema({"type": "object"}),
        reasoning_effort="high",
        reasoning_budget=2000,
    )


def test_full_request_matches_the_official_types() -> None:
    """The parts are validated one by one, since the official types validate lists lazily and omit unknown fields."""
    payload = encode(everything()).unwrap()
    TypeAdapter(MessageCreateParamsNonStreaming).validate_python(payload)
    assert payload.keys() - {"temperature", "top_p", "top_k"} <= MessageCreateParamsBase.__annotations__.keys()
    pieces: list[tuple[Any, Any]] = [(ToolParam, tool) for tool in payload["tools"]]  # type: ignore[attr-defined]
    pieces += [(OutputConfigParam, payload["output_config"]), (MetadataParam, payload["metadata"])]
    pieces += [(ThinkingConfigParam, payload["thinking"]), (ToolChoiceParam, payload["tool_choice"])]
    for message in payload["messages"]:  # type: ignore[attr-defined]
        assert message.keys() == {"role", "content"}
        for block in message["content"]:
            inner = block.get("content", ())
            pieces += [(ContentBlockParam, {**block, "content": "x"} if inner else block)]
            pieces += [(ContentBlockParam, piece) for piece in inner]
    assert len(pieces) == 20
    for type_, piece in pieces:
        assert TypeAdapter(type_).validate_python(piece) == piece


# Responses


@pytest.mark.parametrize("case", CASES)
def test_fixtures_match_the_official_types(case: str, fixture_bytes: Any) -> None:
    complete = OfficialMessage.model_validate_json(fixture_bytes(f"anthropic/{case}.reply.json"), strict=False)
    assert complete.type == "message"
    event = TypeAdapter(RawMessageStreamEvent)
    lines = [line for line in fixture_bytes(f"anthropic/{case}.events.txt").split(b"\n") if line.startswith(b"data:")]
    read = [event.validate_json(line[5:]) for line in lines if b'"ping"' not in line]
    assert read[0].type == "message_start"
    assert read[-1].type == "message_stop"


@pytest.mark.parametrize("case", CASES)
def test_streamed_equals_unstreamed(case: str, provider: Any, fixture_bytes: Any) -> None:
    complete = interpret(provider, HttpReply(200, body=fixture_bytes(f"anthropic/{case}.reply.json"))).unwrap()
    events = fixture_bytes(f"anthropic/{case}.events.txt")
    for chunks in ([events], [events[:37], events[37:]], [bytes([byte]) for byte in events]):
        assert interpret_stream(provider, HttpReply(200), chunks).unwrap() == complete


def answer(case: str, provider: Any, fixture_bytes: Any) -> Any:
    return interpret(provider, HttpReply(200, body=fixture_bytes(f"anthropic/{case}.reply.json"))).unwrap()


def test_text(provider: Any, fixture_bytes: Any) -> None:
    response = answer("text", provider, fixture_bytes)
    assert response.text == "Hello, wörld."
    assert (response.finish_reason, response.served_model) == ("stop", "claude-haiku-4-5")
    assert response.request_id == "msg_01"
    assert response.usage == Usage(input_tokens=12, output_tokens=7, cached_input_tokens=0, cache_write_tokens=0)


def test_tool_calls_and_cached_input(provider: Any, fixture_bytes: Any) -> None:
    response = answer("tools", provider, fixture_bytes)
    assert response.finish_reason == "tool_calls"
    assert response.tool_calls == (
        ToolCall("toolu_1", "weather", '{"city":"Paris","days":[1,2]}'),
        ToolCall("toolu_2", "now", "{}"),
        ToolCall("toolu_3", "add", '{"a":1}', '{"caller":{"type":"code_execution_20250825","tool_id":"srvtoolu_9"}}'),
    )
    assert response.usage.input_tokens == 1140
    assert (response.usage.cached_input_tokens, response.usage.cache_write_tokens) == (1000, 100)


def test_reasoning(provider: Any, fixture_bytes: Any) -> None:
    response = answer("thinking", provider, fixture_bytes)
    assert response.parts == (
        Reasoning("Two and two.", "c2ln"),
        Reasoning("", "b21pdHRlZA=="),
        Reasoning(redacted="cmVkYWN0ZWQ="),
        Text("4"),
    )
    assert (response.usage.output_tokens, response.usage.reasoning_tokens) == (25, 20)


def test_server_tools_are_opaque(provider: Any, fixture_bytes: Any) -> None:
    response = answer("server_tool", provider, fixture_bytes)
    assert response.text == "I look.Found."
    assert response.tool_calls == ()
    assert response.finish_reason == "other"
    opaque_parts = [part for part in response.parts if isinstance(part, Opaque)]
    assert [part.kind for part in opaque_parts] == ["server_tool_use", "web_search_tool_result", "server_tool_use"]
    assert json.loads(opaque_parts[0].data)["input"] == {"query": "two words", "max": 3}
    assert json.loads(opaque_parts[2].data)["input"] == {}


def test_refusal_explanation(provider: Any, fixture_bytes: Any) -> None:
    response = answer("refusal", provider, fixture_bytes)
    assert (response.finish_reason, response.refusal) == ("refusal", "This could do harm.")


def content(case: str, fixture_bytes: Any) -> list[dict[str, Any]]:
    return json.loads(fixture_bytes(f"anthropic/{case}.reply.json"))["content"]


def without_response_fields(blocks: Any) -> list[dict[str, Any]]:
    """Return blocks without empty fields and without those of a response that a request must not repeat."""
    blocks = [{"type": "text", "text": blocks}] if isinstance(blocks, str) else blocks
    filled = [{k: v for k, v in block.items() if v not in (None, {"type": "direct"})} for block in blocks]
    return [block for block in filled if block.get("text") != ""]


@pytest.mark.parametrize("case", [case for case in CASES if case != "refusal"])
def test_answer_is_sent_back_verbatim(case: str, provider: Any, fixture_bytes: Any) -> None:
    parts = answer(case, provider, fixture_bytes).parts
    again = encoded(Message("user", "Hi"), Message("assistant", parts))["messages"][1]["content"]
    assert without_response_fields(again) == without_response_fields(content(case, fixture_bytes))


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "refusal"),
        ("pause_turn", "other"),
        ("a new one", "other"),
        (None, "other"),
    ],
)
def test_finish_reasons(reason: str | None, finish: str) -> None:
    assert decode({"content": [], "stop_reason": reason}).unwrap().finish_reason == finish


def test_malformed_answer_names_the_path() -> None:
    assert decode({"content": "Hi"}).failure().path == "$.content"
    assert decode({"content": [{"type": "text"}, 3]}).failure().path == "$.content[1]"


def event(**payload: Any) -> Frame:
    return Frame(payload["type"], json.dumps(payload).encode())


def test_delta_without_input_counts_keeps_them(provider: Any, fixture_bytes: Any) -> None:
    usage = answer("thinking", provider, fixture_bytes).usage
    assert (usage.input_tokens, usage.output_tokens) == (9, 25)
    deltas = decode_frame(event(type="message_delta", delta={}, usage={"output_tokens": 5})).unwrap()
    assert deltas[0].usage == Usage(output_tokens=5)  # type: ignore[union-attr]


def test_compaction_is_opaque() -> None:
    opening = event(type="content_block_start", index=0, content_block={"type": "compaction", "content": None})
    complete = event(type="content_block_delta", index=0, delta={"type": "compaction_delta", "content": "So far."})
    (first,), (second,) = decode_frame(opening).unwrap(), decode_frame(complete).unwrap()
    assert (first.index, first.key) == (second.index, second.key)  # type: ignore[union-attr]
    assert json.loads(second.part.data) == {"type": "compaction", "content": "So far."}  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["ping", "message_stop", "content_block_stop", "a new one"])
def test_events_without_content(name: str) -> None:
    assert decode_frame(event(type=name)).unwrap() == ()


def test_interrupted_stream_is_an_error(provider: Any, fixture_bytes: Any) -> None:
    events = fixture_bytes("anthropic/text.events.txt").partition(b"event: message_delta")[0]
    assert isinstance(interpret_stream(provider, HttpReply(200), [events]).failure(), Disconnected)


def test_error_inside_a_stream(provider: Any, fixture_bytes: Any) -> None:
    events = fixture_bytes("anthropic/text.events.txt").partition(b"event: message_delta")[0]
    events += b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n'
    error = interpret_stream(provider, HttpReply(200), [events]).failure()
    assert isinstance(error, Overloaded)
    assert (error.message, error.status) == ("Overloaded", None)


# Errors


@pytest.mark.parametrize(
    ("status", "type_", "message", "error_type"),
    [
        (400, "invalid_request_error", "temperature: range", InvalidRequest),
        (400, "invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum", ContextTooLong),
        (400, "invalid_request_error", "input length and `max_tokens` exceed context limit: 1 + 2 > 2", ContextTooLong),
        (400, "invalid_request_error", "Your credit balance is too low to access the Anthropic API.", QuotaExhausted),
        (400, "invalid_request_error", "You have reached your specified API usage limits.", QuotaExhausted),
        (400, "invalid_request_error", "Output blocked by content filtering policy", ContentFiltered),
        (401, "authentication_error", "invalid x-api-key", AuthFailed),
        (402, "billing_error", "pay", QuotaExhausted),
        (403, "permission_error", "no", PermissionDenied),
        (404, "not_found_error", "model: x", NotFound),
        (413, "request_too_large", "big", ContextTooLong),
        (429, "rate_limit_error", "slow", RateLimited),
        (500, "api_error", "oh", ServerError),
        (504, "timeout_error", "late", TimedOut),
        (529, "overloaded_error", "Overloaded", Overloaded),
        (503, "a_new_error", "oh", Overloaded),
    ],
)
def test_error_types(status: int, type_: str, message: str, error_type: type, provider: Any) -> None:
    body = {"type": "error", "error": {"type": type_, "message": message}, "request_id": "req_1"}
    error = interpret(provider, HttpReply(status, body=json.dumps(body).encode())).failure()
    assert type(error) is error_type
    assert (error.message, error.status, error.code, error.request_id) == (message, status, type_, "req_1")


def test_spend_limit_is_quota_exhausted(provider: Any) -> None:
    details = {
        "type": "rate_limit_error",
        "message": "spent",
        "details": {"error_code": "enforced_spend_limit_reached"},
    }
    error = interpret(provider, HttpReply(429, body=json.dumps({"error": details}).encode())).failure()
    assert isinstance(error, QuotaExhausted)


def test_invalid_request_inside_a_stream() -> None:
    frame = event(type="error", error={"type": "invalid_request_error", "message": "bad"})
    assert isinstance(decode_frame(frame).failure(), InvalidRequest)


def test_foreign_errors(provider: Any) -> None:
    page = interpret(provider, HttpReply(502, body=b"<html>Bad Gateway</html>")).failure()
    assert (type(page), page.message) == (ServerError, "an HTML page (Bad Gateway)")
    google = {"error": {"code": 429, "message": "Quota exceeded", "status": "RESOURCE_EXHAUSTED"}}
    vertex = interpret(provider, HttpReply(429, body=json.dumps(google).encode())).failure()
    assert (type(vertex), vertex.code) == (RateLimited, "RESOURCE_EXHAUSTED")
    assert isinstance(interpret(provider, HttpReply(200, body=json.dumps(google).encode())).failure(), ServerError)


# Arbitrary input

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "content", "text", "input", "usage", "delta", "index", "error", "citations", "id"])
            | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_arbitrary_json_never_raises(value: Any) -> None:
    payload = value if isinstance(value, dict) else {"content": value}
    decode(payload)
    decode({"content": [payload], "usage": value, "stop_reason": value, "stop_details": value})
    WIRE.decode_error(HttpReply(400, body=json.dumps(value).encode()))
    for name in EVENTS:
        decode_frame(event(type=name, message=value, content_block=value, delta=value, usage=value, index=value))
        decode_frame(Frame(name, json.dumps(value).encode()))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_never_raise(make_provider: Any, body: bytes) -> None:
    provider = make_provider(WIRE)
    for status in (200, 429):
        assert interpret(provider, HttpReply(status, body=body)) is not None
        assert interpret_stream(provider, HttpReply(status), [b"data: ", body, b"\n\n"]) is not None


def test_deeply_nested_answers(provider: Any) -> None:
    for depth in range(880, 1010):
        nested = b"[" * depth + b"]" * depth
        body = b'{"content":[{"type":"x","input":%b},{"type":"tool_use","input":%b}]}' % (nested, nested)
        assert interpret(provider, HttpReply(200, body=body)) is not None


PARTS = st.lists(
    st.builds(Text, st.text(min_size=1))
    | st.builds(Reasoning, st.text(), st.text(min_size=1))
    | st.builds(lambda data: Reasoning(redacted=data), st.text(min_size=1))
    | st.builds(
        ToolCall,
        st.text(min_size=1),
        st.text(),
        st.dictionaries(st.text(), st.integers() | st.text(), max_size=3).map(
            lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        ),
    ),
    min_size=1,
)


@given(PARTS)
def test_encoded_parts_are_decoded_unchanged(parts: list[Any]) -> None:
    blocks = encoded(Message("user", "Hi"), Message("assistant", parts))["messages"][1]["content"]
    blocks = [{"type": "text", "text": blocks}] if isinstance(blocks, str) else blocks
    assert decode({"content": blocks, "stop_reason": "tool_use"}).unwrap().parts == tuple(parts)


# Recorded exchanges

APIS = ("anthropic-messages", "vertex_anthropic-messages")
FINISHES = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "tool_use": "tool_calls"}


def append_delta(block: dict[str, Any], delta: dict[str, Any]) -> None:
    for key in {"text", "thinking", "signature"} & delta.keys():
        block[key] += delta[key]
    block["partial"] += delta.get("partial_json", "")
    if "citation" in delta:
        block["citations"].append(delta["citation"])


def decode_stream_reference(body: bytes) -> dict[str, Any]:
    """Return the body that a recorded stream adds up to, decoded without llmhub."""
    blocks: dict[int, dict[str, Any]] = {}
    complete: dict[str, Any] = {}
    for data in (json.loads(line[5:]) for line in body.split(b"\n") if line.startswith(b"data:")):
        match data["type"]:
            case "message_start":
                complete = data["message"]
            case "content_block_start":
                blocks[data["index"]] = {**data["content_block"], "partial": ""}
            case "content_block_delta":
                append_delta(blocks[data["index"]], data["delta"])
            case "message_delta":
                complete["stop_reason"] = data["delta"]["stop_reason"]
                complete["usage"] |= data["usage"]
    for block in blocks.values():
        partial = block.pop("partial")
        if partial:
            block["input"] = json.loads(partial)
    return {**complete, "content": [blocks[index] for index in sorted(blocks)]}


@pytest.mark.corpus
@pytest.mark.parametrize("api", APIS)
def test_recorded_answers_equal_a_reference_decoding(api: str, corpus: Any, provider: Any) -> None:
    seen = 0
    for exchange in corpus(api):
        if not exchange.ok:
            continue
        if exchange.streaming:
            response = interpret_stream(provider, exchange.head, [exchange.body]).unwrap()
            raw = decode_stream_reference(exchange.body)
        else:
            response = interpret(provider, exchange.reply).unwrap()
            raw = json.loads(exchange.body)
        blocks, usage = raw["content"], raw["usage"]
        assert response.text == "".join(b["text"] for b in blocks if b["type"] == "text"), exchange.id
        assert response.reasoning == "".join(b["thinking"] for b in blocks if b["type"] == "thinking"), exchange.id
        calls = [(b["id"], b["name"], b["input"]) for b in blocks if b["type"] == "tool_use"]
        assert [(c.id, c.name, json.loads(c.arguments)) for c in response.tool_calls] == calls, exchange.id
        assert response.finish_reason == FINISHES[raw["stop_reason"]], exchange.id
        assert response.served_model == raw["model"], exchange.id
        cached, stored = usage.get("cache_read_input_tokens"), usage.get("cache_creation_input_tokens")
        assert response.usage == Usage(
            input_tokens=usage["input_tokens"] + (cached or 0) + (stored or 0),
            output_tokens=usage["output_tokens"],
            cached_input_tokens=cached,
            cache_write_tokens=stored,
            reasoning_tokens=usage.get("output_tokens_details", {}).get("thinking_tokens"),
        ), exchange.id
        again = encoded(Message("user", "Hi"), Message("assistant", response.parts))["messages"][1]["content"]
        assert without_response_fields(again) == without_response_fields(blocks), exchange.id
        seen += 1
    assert seen >= 4


ERROR_TYPES = {400: InvalidRequest, 401: AuthFailed, 404: NotFound}


@pytest.mark.corpus
def test_recorded_errors(corpus: Any, provider: Any) -> None:
    errors = [exchange for exchange in corpus("anthropic-messages") if not exchange.ok]
    for exchange in errors:
        error = interpret(provider, exchange.reply).failure()
        assert type(error) is ERROR_TYPES[exchange.status], exchange.id
        assert error.message == json.loads(exchange.body)["error"]["message"], exchange.id
        assert interpret_stream(provider, exchange.head, [exchange.body]).failure() == error, exchange.id
    assert {exchange.status for exchange in errors} == ERROR_TYPES.keys()


def test_malformed_answer_is_not_retried(provider: Any) -> None:
    assert isinstance(interpret(provider, HttpReply(200, body=b"{}")).failure(), Malformed)
