"""Bedrock Converse: requests, responses, and that event streams equal them."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any
from zlib import crc32

import botocore.session
import pytest
from botocore.eventstream import EventStreamBuffer
from botocore.serialize import create_serializer
from botocore.validate import ParamValidator
from hypothesis import given
from hypothesis import strategies as st

from llmhub.core.errors import (
    AuthFailed,
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
from llmhub.wire.bedrock_converse import EVENTS, FORMATS, WIRE, decode, decode_frame, encode
from llmhub.wire.bedrock_models import MODEL_FAMILIES

CASES = ("text", "tools", "thinking", "server_tool", "citations", "image")
CLAUDE = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
NOVA = "us.amazon.nova-2-lite-v1:0"
PNG = "iVBORw0KGgo="
WEATHER = Tool("weather", "Tell the weather.", {"type": "object", "properties": {"city": {"type": "string"}}})
OPERATION = botocore.session.get_session().get_service_model("bedrock-runtime").operation_model("Converse")
"""botocore's model of the operation."""


def build_request(*messages: Message, model: str = CLAUDE, **fields: Any) -> CompletionRequest:
    return CompletionRequest(model=model, messages=messages or (Message("user", "Hi"),), **fields)


def decode_blobs(value: Any) -> Any:
    """Return the parameters of the official client: bytes where the wire has base64."""
    if isinstance(value, dict):
        return {
            k: base64.b64decode(v) if k in BLOBS and isinstance(v, str) else decode_blobs(v) for k, v in value.items()
        }
    return [decode_blobs(item) for item in value] if isinstance(value, list) else value


BLOBS = {"bytes", "redactedContent"}


def encoded(*messages: Message, model: str = CLAUDE, **fields: Any) -> dict[str, Any]:
    """Return the encoded payload, validated against botocore's model of the service."""
    payload = encode(build_request(*messages, model=model, **fields)).unwrap()
    official = {"modelId": model, **decode_blobs(payload)}
    assert ParamValidator().validate(official, OPERATION.input_shape).generate_report() == ""
    body = create_serializer("rest-json").serialize_to_request(official, OPERATION)["body"]
    assert json.loads(body) == payload
    return payload


def encode_error(*messages: Message, model: str = CLAUDE, **fields: Any) -> Any:
    return encode(build_request(*messages, model=model, **fields)).failure()


def message(kind: str, name: str, payload: bytes) -> bytes:
    """Return one message of an event stream."""
    naming = {"event": ":event-type", "exception": ":exception-type", "error": ":error-code"}
    headers = [(":message-type", kind), (naming[kind], name)]
    block = b"".join(
        struct.pack("B", len(key)) + key.encode() + struct.pack(">BH", 7, len(value.encode())) + value.encode()
        for key, value in headers
    )
    prelude = struct.pack(">II", 16 + len(block) + len(payload), len(block))
    complete = prelude + struct.pack(">I", crc32(prelude)) + block + payload
    return complete + struct.pack(">I", crc32(complete))


def events(case: str, fixture_bytes: Any) -> bytes:
    """Return the event stream of a fixture, which has one ``name json`` a line."""
    lines = fixture_bytes(f"bedrock_converse/{case}.events.txt").splitlines()
    return b"".join(message("event", name.decode(), data) for name, _, data in (line.partition(b" ") for line in lines))


@pytest.fixture(scope="module")
def provider(make_provider: Any) -> Any:
    return make_provider(WIRE)


# Requests


def test_minimal_request() -> None:
    assert encoded() == {"messages": [{"role": "user", "content": [{"text": "Hi"}]}]}


def test_parameter_names() -> None:
    payload = encoded(temperature=0.5, top_p=0.9, top_k=40, max_tokens=17, stop=("END", "\n"))
    del payload["messages"]
    assert payload == {
        "inferenceConfig": {"temperature": 0.5, "topP": 0.9, "maxTokens": 17, "stopSequences": ["END", "\n"]},
        "additionalModelRequestFields": {"top_k": 40},
    }


@pytest.mark.parametrize(
    "fields", [{"temperature": 1.01}, {"top_p": 1.5}, {"top_k": -1}, {"max_tokens": 0}, {"stop": ("x",) * 2501}]
)
def test_out_of_range_parameter_is_an_error(fields: dict[str, Any]) -> None:
    error = encode_error(**fields)
    assert isinstance(error, InvalidRequest)
    assert error.path == f"$.{next(iter(fields))}"


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"seed": 1},
        {"presence_penalty": 0.5},
        {"frequency_penalty": 0.5},
        {"user": "u"},
        {"reasoning_effort": "minimal"},
        {"tool_choice": "none", "tools": (WEATHER,)},
        {"tool_choice": "auto"},
        {"top_k": 3, "model": "meta.llama3-2-1b-instruct-v1:0"},
        {"reasoning_effort": "low", "model": "meta.llama3-2-1b-instruct-v1:0"},
        {"reasoning_effort": "xhigh", "model": NOVA},
        {"reasoning_effort": "low", "model": "us.amazon.nova-lite-v1:0"},
        {"reasoning_budget": 2000, "model": NOVA},
    ],
)
def test_unsupported_parameter_is_an_error(fields: dict[str, Any]) -> None:
    error = encode_error(**fields)
    assert isinstance(error, Unsupported)
    assert error.path == f"$.{next(iter(fields))}"


def test_unsupported_parameters_can_be_dropped(provider: Any) -> None:
    request = build_request(
        seed=1, top_k=3, tool_choice="none", model="meta.llama3", temperature=0.5, unsupported="drop"
    )
    prepared = prepare(provider, Endpoint(), request, 0.0, stream=True).unwrap()
    assert set(prepared.dropped) == {"seed", "top_k", "tool_choice"}
    assert json.loads(prepared.body) == {
        "messages": [{"role": "user", "content": [{"text": "Hi"}]}],
        "inferenceConfig": {"temperature": 0.5},
    }


@pytest.mark.parametrize(
    ("model", "fields", "expected"),
    [
        (CLAUDE, {"top_k": 5}, {"additionalModelRequestFields": {"top_k": 5}}),
        (
            CLAUDE,
            {"reasoning_budget": 2000},
            {"additionalModelRequestFields": {"thinking": {"type": "enabled", "budget_tokens": 2000}}},
        ),
        (CLAUDE, {"reasoning_budget": 0}, {"additionalModelRequestFields": {"thinking": {"type": "disabled"}}}),
        (CLAUDE, {"reasoning_effort": "none"}, {"additionalModelRequestFields": {"thinking": {"type": "disabled"}}}),
        (
            f"arn:aws:bedrock:us-east-1:123456789012:inference-profile/{CLAUDE}",
            {"reasoning_effort": "high", "top_k": 5},
            {
                "additionalModelRequestFields": {"top_k": 5, "thinking": {"type": "adaptive"}},
                "outputConfig": {"effort": "high"},
            },
        ),
        (
            CLAUDE,
            {"reasoning_effort": "high", "reasoning_budget": 2000},
            {
                "additionalModelRequestFields": {"thinking": {"type": "enabled", "budget_tokens": 2000}},
                "outputConfig": {"effort": "high"},
            },
        ),
        (
            NOVA,
            {"top_k": 5, "reasoning_effort": "low"},
            {
                "additionalModelRequestFields": {
                    "inferenceConfig": {"topK": 5},
                    "reasoningConfig": {"type": "enabled", "maxReasoningEffort": "low"},
                }
            },
        ),
        (
            NOVA,
            {"reasoning_effort": "none"},
            {"additionalModelRequestFields": {"reasoningConfig": {"type": "disabled"}}},
        ),
        (
            "openai.gpt-oss-120b-1:0",
            {"reasoning_effort": "medium"},
            {"additionalModelRequestFields": {"reasoning_effort": "medium"}},
        ),
        (
            "moonshot.kimi-k2-thinking",
            {"reasoning_effort": "high"},
            {"additionalModelRequestFields": {"reasoning_effort": "high"}},
        ),
    ],
)
def test_model_specific_fields(model: str, fields: dict[str, Any], expected: dict[str, Any]) -> None:
    payload = encoded(model=model, **fields)
    del payload["messages"]
    assert payload == expected


def test_every_effort_of_every_family() -> None:
    for family in MODEL_FAMILIES:
        for effort in family.efforts:
            encoded(model=f"{family.id_fragment}x", reasoning_effort=effort)


def test_system_messages_are_gathered_and_neighbours_merged() -> None:
    turns = (
        Message("system", "A"),
        Message("user", "Hi"),
        Message("system", "B"),
        Message("user", [Text(""), Text("Ho")]),
    )
    assert encoded(*turns) == {
        "system": [{"text": "A"}, {"text": "B"}],
        "messages": [{"role": "user", "content": [{"text": "Hi"}, {"text": "Ho"}]}],
    }


def test_results_of_parallel_calls_share_one_message() -> None:
    calls = Message("assistant", [ToolCall("t1", "weather", '{"city": "Paris"}'), ToolCall("t2", "now", "")])
    results = (
        Message("tool", ToolResult("t1", "sunny", name="weather")),
        Message("tool", ToolResult("t2", (Text("see"), Image(data=PNG, media_type="image/png")), is_error=True)),
    )
    assert encoded(Message("user", "Hi"), calls, *results, Message("user", "And?"))["messages"][1:] == [
        {
            "role": "assistant",
            "content": [
                {"toolUse": {"toolUseId": "t1", "name": "weather", "input": {"city": "Paris"}}},
                {"toolUse": {"toolUseId": "t2", "name": "now", "input": {}}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"toolResult": {"toolUseId": "t1", "content": [{"text": "sunny"}]}},
                {
                    "toolResult": {
                        "toolUseId": "t2",
                        "content": [{"text": "see"}, {"image": {"format": "png", "source": {"bytes": PNG}}}],
                        "status": "error",
                    }
                },
                {"text": "And?"},
            ],
        },
    ]


def test_reasoning_is_sent_back_verbatim() -> None:
    thoughts = [Reasoning("why", "sig"), Reasoning("how"), Reasoning(redacted=PNG), Refusal("no")]
    assert encoded(Message("user", "Hi"), Message("assistant", thoughts))["messages"][1]["content"] == [
        {"reasoningContent": {"reasoningText": {"text": "why", "signature": "sig"}}},
        {"reasoningContent": {"reasoningText": {"text": "how"}}},
        {"reasoningContent": {"redactedContent": PNG}},
        {"text": "no"},
    ]


@pytest.mark.parametrize(
    ("part", "block"),
    [
        (Image(data=PNG, media_type="image/jpeg"), {"image": {"format": "jpeg", "source": {"bytes": PNG}}}),
        (Image(url=f"data:image/gif;base64,{PNG}"), {"image": {"format": "gif", "source": {"bytes": PNG}}}),
        (
            Image(url="s3://bucket/a.webp", media_type="image/webp"),
            {"image": {"format": "webp", "source": {"s3Location": {"uri": "s3://bucket/a.webp"}}}},
        ),
        (
            Document(data=PNG, media_type="application/pdf", name="Q3 report.v2  (final).pdf"),
            {"document": {"format": "pdf", "name": "Q3 report-v2-(final)-pdf", "source": {"bytes": PNG}}},
        ),
        (
            Document(data=PNG, media_type="text/csv"),
            {"document": {"format": "csv", "name": "document-messages[0]-parts[1]", "source": {"bytes": PNG}}},
        ),
    ],
)
def test_images_and_documents_inline_or_in_s3(part: Any, block: dict[str, Any]) -> None:
    assert encoded(Message("user", [Text("See"), part]))["messages"][0]["content"][1] == block


def test_formats_equal_the_service_model() -> None:
    for kind, forms in FORMATS.items():
        for media_type in forms:
            encoded(Message("user", [Text("See"), kind(data=PNG, media_type=media_type)]))  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("part", "kind", "path"),
    [
        (Image(url="https://example.org/a.png"), Unsupported, ""),
        (Image(url="s3://bucket/a"), InvalidRequest, ".media_type"),
        (Image(data=PNG, media_type="image/tiff"), Unsupported, ""),
        (Image(data=PNG), InvalidRequest, ".media_type"),
        (Image(data=PNG, media_type="image/png", detail="high"), Unsupported, ""),
        (Document(url="https://example.org/a.pdf"), Unsupported, ""),
        (Document(data=PNG, media_type="application/zip"), Unsupported, ""),
        (Reasoning("hm"), Unsupported, ""),
        (ToolCall("t", "f"), Unsupported, ""),
        (Opaque("mark", '{"type": "mark"}'), Unsupported, ""),
        (Opaque("mark", '{"other": {}}'), Unsupported, ""),
        (Opaque("mark", "no json"), Unsupported, ""),
        (Opaque("citation", '{"title": "a"}'), Unsupported, ""),
        (ToolResult("t", (Image(data=PNG),)), InvalidRequest, ".content[0].media_type"),
    ],
)
def test_unsupported_part_is_an_error(part: Any, kind: type, path: str) -> None:
    error = encode_error(Message("user", "Hi"), Message("user", [part]))
    assert type(error) is kind
    assert error.path == f"$.messages[1].parts[0]{path}"


@pytest.mark.parametrize("part", [ToolResult("t", "x"), Image(data=PNG, media_type="image/png"), Document(url="x:y")])
def test_assistant_message_rejects_results_images_and_documents(part: Any) -> None:
    error = encode_error(Message("user", "Hi"), Message("assistant", [Text("a"), part]))
    assert isinstance(error, Unsupported)
    assert error.path == "$.messages[1].parts[1]"


def test_cache_marks_keep_their_position() -> None:
    mark = Opaque("cachePoint", '{"cachePoint": {"type": "default"}}')
    payload = encoded(Message("system", [Text("A"), mark]), Message("user", [Text("Hi"), mark]))
    assert payload["system"][1] == payload["messages"][0]["content"][1] == {"cachePoint": {"type": "default"}}


@pytest.mark.parametrize("arguments", ['{"city": ', "[1]", "\ud800"])
def test_arguments_must_be_an_object(arguments: str) -> None:
    error = encode_error(Message("user", "Hi"), Message("assistant", [Text("a"), ToolCall("t", "f", arguments)]))
    assert isinstance(error, InvalidRequest)
    assert error.path == "$.messages[1].parts[1].arguments"


@pytest.mark.parametrize(
    ("choice", "expected"),
    [("auto", {"auto": {}}), ("required", {"any": {}}), ("weather", {"tool": {"name": "weather"}})],
)
def test_tools_and_tool_choice(choice: str, expected: dict[str, Any]) -> None:
    config = encoded(tools=(WEATHER, Tool("now", strict=True)), tool_choice=choice)["toolConfig"]
    spec = {"name": "weather", "description": "Tell the weather.", "inputSchema": {"json": WEATHER.parameters}}
    assert config["tools"] == [
        {"toolSpec": spec},
        {"toolSpec": {"name": "now", "inputSchema": {"json": {"type": "object"}}, "strict": True}},
    ]
    assert config["toolChoice"] == expected
    assert "toolChoice" not in encoded(tools=(WEATHER,))["toolConfig"]


def test_structured_output_and_effort() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    output = encoded(response_schema=Schema(schema, name="A"), reasoning_effort="low")["outputConfig"]
    definition = output["textFormat"]["structure"]["jsonSchema"]
    assert (output["effort"], output["textFormat"]["type"], definition["name"]) == ("low", "json_schema", "A")
    assert json.loads(definition["schema"]) == schema


def test_schema_must_be_json() -> None:
    error = encode_error(response_schema=Schema({"a": object()}))  # type: ignore[dict-item]
    assert isinstance(error, InvalidRequest)
    assert error.path == "$.response_schema.schema"


# Responses


@pytest.mark.parametrize("case", CASES)
def test_fixtures_match_the_official_event_stream_parser(case: str, fixture_bytes: Any) -> None:
    buffer = EventStreamBuffer()
    buffer.add_data(events(case, fixture_bytes))
    lines = fixture_bytes(f"bedrock_converse/{case}.events.txt").decode().splitlines()
    cut = [f"{event.headers[':event-type']} {event.payload.decode()}" for event in buffer]
    assert cut == lines


@pytest.mark.parametrize("case", CASES)
def test_streamed_equals_unstreamed(case: str, provider: Any, fixture_bytes: Any) -> None:
    complete = answer(case, provider, fixture_bytes)
    stream = events(case, fixture_bytes)
    for chunks in ([stream], [stream[:37], stream[37:]], [bytes([byte]) for byte in stream]):
        assert interpret_stream(provider, HttpReply(200), chunks).unwrap() == complete


def answer(case: str, provider: Any, fixture_bytes: Any) -> Any:
    return interpret(provider, HttpReply(200, body=fixture_bytes(f"bedrock_converse/{case}.reply.json"))).unwrap()


def test_text(provider: Any, fixture_bytes: Any) -> None:
    response = answer("text", provider, fixture_bytes)
    assert (response.text, response.finish_reason, response.served_model) == ("Hello, wörld.", "stop", "")
    assert response.usage == Usage(input_tokens=12, output_tokens=7)


def test_tool_calls_and_cached_input(provider: Any, fixture_bytes: Any) -> None:
    response = answer("tools", provider, fixture_bytes)
    assert response.finish_reason == "tool_calls"
    assert response.tool_calls == (
        ToolCall("tooluse_1", "weather", '{"city":"Paris","days":[1,2]}'),
        ToolCall("tooluse_2", "now", "{}"),
    )
    assert response.usage == Usage(
        input_tokens=1140, output_tokens=30, cached_input_tokens=1000, cache_write_tokens=100
    )


def test_input_that_includes_cached_tokens() -> None:
    usage = {"inputTokens": 1140, "outputTokens": 30, "cacheReadInputTokens": 1000, "totalTokens": 1170}
    assert decode({"output": {"message": {"content": []}}, "usage": usage}).unwrap().usage.input_tokens == 1140


def test_reasoning_and_routed_model(provider: Any, fixture_bytes: Any) -> None:
    response = answer("thinking", provider, fixture_bytes)
    assert response.parts == (Reasoning("Two and two.", "c2ln"), Reasoning(redacted="cmVkYWN0ZWQ="), Text("4"))
    assert response.served_model.endswith("anthropic.claude-3-haiku")


def test_server_tools_are_opaque(provider: Any, fixture_bytes: Any) -> None:
    response = answer("server_tool", provider, fixture_bytes)
    assert (response.text, response.tool_calls, response.finish_reason) == ("It is 2.", (), "stop")
    opaque_parts = [part for part in response.parts if isinstance(part, Opaque)]
    assert [part.kind for part in opaque_parts] == ["toolUse", "toolResult", "toolUse", "toolResult"]
    assert json.loads(opaque_parts[1].data)["toolResult"]["content"] == [
        {"text": "two"},
        {"json": {"stdOut": "2", "exitCode": 0}},
    ]


def test_image(provider: Any, fixture_bytes: Any) -> None:
    assert answer("image", provider, fixture_bytes).parts == (Image(data=PNG, media_type="image/png"),)


def without_response_fields(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return blocks without empty texts and without the type of a tool call."""
    filled = [block for block in blocks if block.get("text") != ""]
    for block in filled:
        if block.get("toolUse", {}).get("type") == "tool_use":
            block["toolUse"] = {key: value for key, value in block["toolUse"].items() if key != "type"}
    return filled


@pytest.mark.parametrize("case", [case for case in CASES if case != "image"])
def test_answer_is_sent_back_verbatim(case: str, provider: Any, fixture_bytes: Any) -> None:
    blocks = json.loads(fixture_bytes(f"bedrock_converse/{case}.reply.json"))["output"]["message"]["content"]
    parts = answer(case, provider, fixture_bytes).parts
    assert encoded(Message("user", "Hi"), Message("assistant", parts))["messages"][1][
        "content"
    ] == without_response_fields(blocks)


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("guardrail_intervened", "content_filter"),
        ("content_filtered", "content_filter"),
        ("malformed_model_output", "other"),
        ("malformed_tool_use", "other"),
        (None, "other"),
    ],
)
def test_finish_reasons(reason: str | None, finish: str) -> None:
    payload = {"output": {"message": {"content": []}}, "stopReason": reason}
    assert decode(payload).unwrap().finish_reason == finish


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        ({"message": "Hi"}, "$.output.message.content"),
        ({"output": {"message": {"content": "Hi"}}}, "$.output.message.content"),
        ({"output": {"message": {"content": [{"text": "a"}, 3]}}}, "$.output.message.content[1]"),
    ],
)
def test_malformed_answer_names_the_path(payload: dict[str, Any], path: str) -> None:
    error = decode(payload).failure()
    assert (type(error), error.path) == (Malformed, path)


def test_interrupted_stream_is_an_error(provider: Any) -> None:
    stream = message("event", "contentBlockDelta", b'{"contentBlockIndex":0,"delta":{"text":"H"}}')
    assert isinstance(interpret_stream(provider, HttpReply(200), [stream]).failure(), Disconnected)
    assert isinstance(interpret_stream(provider, HttpReply(200), [stream[:-1]]).failure(), Malformed)


# Errors

NAMES = [
    ("ThrottlingException", "Too many tokens, please wait before trying again.", RateLimited),
    ("ThrottlingException", "Too many tokens per day, please wait before trying again.", QuotaExhausted),
    ("ModelNotReadyException", "warming up", Overloaded),
    ("ServiceUnavailableException", "busy", Overloaded),
    ("ServiceQuotaExceededException", "quota", QuotaExhausted),
    ("InternalServerException", "oh", ServerError),
    ("ModelErrorException", "oh", ServerError),
    ("ModelStreamErrorException", "oh", ServerError),
    ("ModelTimeoutException", "late", TimedOut),
    ("AccessDeniedException", "no", PermissionDenied),
    ("ResourceNotFoundException", "where", NotFound),
    ("ExpiredTokenException", "The security token included in the request is expired", AuthFailed),
    ("UnrecognizedClientException", "who", AuthFailed),
    ("InvalidSignatureException", "what", AuthFailed),
    ("ValidationException", "1 validation error detected", InvalidRequest),
    ("ValidationException", "Input is too long for requested model.", ContextTooLong),
    ("ValidationException", "The model returned: too many tokens: 9 > 8", ContextTooLong),
    ("ValidationException", "The provided model identifier is invalid.", NotFound),
]


@pytest.mark.parametrize(("name", "text", "kind"), NAMES)
def test_error_classes_in_the_header(name: str, text: str, kind: type, provider: Any) -> None:
    headers = {"X-Amzn-ErrorType": f"{name}:http://internal.amazon.com/coral/com.amazon.bedrock/"}
    error = interpret(provider, HttpReply(400, headers, json.dumps({"message": text}).encode())).failure()
    assert (type(error), error.message, error.status) == (kind, text, 400)


@pytest.mark.parametrize(("name", "text", "kind"), NAMES)
def test_error_classes_in_the_body(name: str, text: str, kind: type, provider: Any) -> None:
    body = {"__type": f"com.amazon.coral.service#{name}", "Message": text}
    error = interpret(provider, HttpReply(400, body=json.dumps(body).encode())).failure()
    assert (type(error), error.message) == (kind, text)
    assert type(interpret(provider, HttpReply(200, body=json.dumps(body).encode())).failure()) is kind


@pytest.mark.parametrize(("name", "text", "kind"), NAMES)
def test_error_classes_inside_a_stream(name: str, text: str, kind: type, provider: Any) -> None:
    begun = message("event", "messageStart", b'{"role":"assistant"}')
    name = name[0].lower() + name[1:]
    exception_event = message("exception", name, json.dumps({"message": text}).encode())
    error = interpret_stream(provider, HttpReply(200), [begun + exception_event]).failure()
    assert (type(error), error.message) == (kind, text)


def test_error_message_inside_a_stream() -> None:
    error = decode_frame(Frame("InternalFailure", b"it broke", "error")).failure()
    assert (type(error), error.message, error.code) == (ServerError, "it broke", "InternalFailure")


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (403, "Authentication failed: Please make sure your API Key is valid.", AuthFailed),
        (403, "User is not authorized to perform: bedrock:InvokeModel", PermissionDenied),
        (429, "Too many tokens, please wait before trying again.", RateLimited),
        (503, "<html>", Overloaded),
    ],
)
def test_errors_without_a_class(status: int, text: str, kind: type, provider: Any) -> None:
    assert type(interpret(provider, HttpReply(status, body=text.encode())).failure()) is kind


# Arbitrary input

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["toolUse", "toolResult", "text", "input", "image", "source", "citation", "content"])
            | st.sampled_from(["reasoningContent", "citationsContent", "format", "type", "citations"])
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
    decode({"output": {"message": {"content": [payload]}}, "usage": value, "stopReason": value, "trace": value})
    WIRE.decode_error(HttpReply(400, body=json.dumps(value).encode()))
    shapes = (
        {"delta": value, "contentBlockIndex": value},
        {"start": value, "usage": value, "stopReason": value},
        value,
    )
    for name in EVENTS:
        for kind in ("event", "exception", "error"):
            for shape in shapes:
                decode_frame(Frame(name, json.dumps(shape).encode(), kind))


@given(st.binary(max_size=200), st.sampled_from(sorted(EVENTS)))
def test_arbitrary_bytes_never_raise(make_provider: Any, body: bytes, name: str) -> None:
    provider = make_provider(WIRE)
    for status in (200, 429):
        assert interpret(provider, HttpReply(status, body=body)) is not None
        assert interpret_stream(provider, HttpReply(status), [body]) is not None
        for kind in ("event", "exception", "error"):
            assert interpret_stream(provider, HttpReply(status), [message(kind, name, body), body]) is not None


def test_deeply_nested_answers(provider: Any) -> None:
    for depth in range(880, 1010):
        nested = b"[" * depth + b"]" * depth
        blocks = b'{"toolUse":{"type":"server_tool_use","input":%b}},{"toolUse":{"input":%b}}' % (nested, nested)
        body = b'{"output":{"message":{"content":[%b]}}}' % blocks
        assert interpret(provider, HttpReply(200, body=body)) is not None


PARTS = st.lists(
    st.builds(Text, st.text(min_size=1))
    | st.builds(Reasoning, st.text(min_size=1), st.text())
    | st.builds(lambda data: Reasoning(redacted=base64.b64encode(data).decode()), st.binary(min_size=1))
    | st.builds(
        ToolCall,
        st.from_regex("[a-z0-9_]{1,9}", fullmatch=True),
        st.from_regex("[a-z0-9_]{1,9}", fullmatch=True),
        st.dictionaries(st.text(), st.integers(-(10**9), 10**9) | st.text(), max_size=3).map(
            lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        ),
    ),
    min_size=1,
)


@given(PARTS)
def test_encoded_parts_are_decoded_unchanged(parts: list[Any]) -> None:
    blocks = encoded(Message("user", "Hi"), Message("assistant", parts))["messages"][1]["content"]
    payload = {"output": {"message": {"content": blocks}}, "stopReason": "tool_use"}
    assert decode(payload).unwrap().parts == tuple(parts)


# Recorded exchanges

APIS = ("bedrock-converse", "bedrock-converse_stream")
FINISHES = {
    "end_turn": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
    "guardrail_intervened": "content_filter",
}


def append_delta(blocks: dict[int, dict[str, Any]], data: dict[str, Any]) -> None:
    block = blocks.setdefault(data["contentBlockIndex"], {})
    for key, value in data["delta"].items():
        if key == "text":
            block["text"] = block.get("text", "") + value
        elif key == "toolUse":
            block["toolUse"]["input"] = block["toolUse"].get("input", "") + value["input"]
        elif key == "toolResult":
            block["toolResult"].setdefault("content", []).extend(value)
        elif key == "citation":
            block.setdefault("citations", []).append(value)
        elif "redactedContent" in value:
            block["reasoningContent"] = value
        else:
            thought = block.setdefault("reasoningContent", {"reasoningText": {}})["reasoningText"]
            thought |= {name: thought.get(name, "") + piece for name, piece in value.items()}


def decode_stream_reference(body: bytes) -> dict[str, Any]:
    """Return the body that a recorded stream adds up to, parsed by botocore."""
    buffer = EventStreamBuffer()
    buffer.add_data(body)
    blocks: dict[int, dict[str, Any]] = {}
    complete: dict[str, Any] = {}
    for event in buffer:
        data = json.loads(event.payload)
        match event.headers[":event-type"]:
            case "contentBlockStart":
                blocks[data["contentBlockIndex"]] = data["start"]
            case "contentBlockDelta":
                append_delta(blocks, data)
            case "messageStop" | "metadata":
                complete |= data
    content = []
    for _, block in sorted(blocks.items()):
        if "toolUse" in block:
            block["toolUse"]["input"] = json.loads(block["toolUse"].get("input") or "{}")
        if "citations" in block:
            cited = {"content": [{"text": block["text"]}], "citations": block["citations"]}
            content.append({"citationsContent": cited})
        else:
            content.append(block)
    return {**complete, "output": {"message": {"content": content}}}


def plain_text(block: dict[str, Any]) -> str:
    return block.get("text", "") + "".join(
        piece["text"] for piece in block.get("citationsContent", {}).get("content", [])
    )


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
        blocks, usage = raw["output"]["message"]["content"], raw["usage"]
        assert response.text == "".join(plain_text(block) for block in blocks), exchange.id
        calls = [block["toolUse"] for block in blocks if "toolUse" in block]
        calls = [call for call in calls if call.get("type") != "server_tool_use"]
        assert [(c.id, c.name, json.loads(c.arguments)) for c in response.tool_calls] == [
            (call["toolUseId"], call["name"], call["input"]) for call in calls
        ], exchange.id
        assert response.finish_reason == FINISHES[raw["stopReason"]], exchange.id
        assert response.usage == Usage(
            input_tokens=usage["totalTokens"] - usage["outputTokens"],
            output_tokens=usage["outputTokens"],
            cached_input_tokens=usage.get("cacheReadInputTokens"),
            cache_write_tokens=usage.get("cacheWriteInputTokens"),
        ), exchange.id
        again = encode(build_request(Message("user", "Hi"), Message("assistant", response.parts))).unwrap()
        assert again["messages"][1]["content"] == without_response_fields(blocks), exchange.id  # type: ignore[index]
        seen += 1
    assert seen >= 19


ERROR_TYPES = {
    "The provided model identifier is invalid.": NotFound,
    "The security token included in the request is expired": AuthFailed,
}


@pytest.mark.corpus
@pytest.mark.parametrize("api", APIS)
def test_recorded_errors(api: str, corpus: Any, provider: Any) -> None:
    errors = [exchange for exchange in corpus(api) if not exchange.ok]
    for exchange in errors:
        error = interpret(provider, exchange.reply).failure()
        text = json.loads(exchange.body)["message"]
        assert (type(error), error.message) == (ERROR_TYPES.get(text, InvalidRequest), text), exchange.id
        assert interpret_stream(provider, exchange.head, [exchange.body]).failure() == error, exchange.id
    assert errors
