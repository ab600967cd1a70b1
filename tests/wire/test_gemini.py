"""Gemini's wire: requests, responses, and that a stream equals a response that is not streamed."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import pytest
from google.genai import types as sdk
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
    Refusal,
    Schema,
    Text,
    Tool,
    ToolCall,
    ToolResult,
    Usage,
)
from llmhub.wire import gemini

PIXEL = "iVBORw0KGgo="
build_request = partial(CompletionRequest, model="gemini-2.5-flash")


def text_request(text: str, **fields: Any) -> CompletionRequest:
    return build_request(messages=(Message("user", text),), **fields)


def encoded(request: CompletionRequest) -> dict[str, Any]:
    """Return the encoded payload, validated by the official SDK's types, which forbid unknown fields."""
    payload: dict[str, Any] = json.loads(json.dumps(gemini.encode(request).unwrap()))
    reads = {"systemInstruction": sdk.Content, "generationConfig": sdk.GenerationConfig, "toolConfig": sdk.ToolConfig}
    for name, value in payload.items():
        if name in reads:
            reads[name].model_validate(value)
        else:
            each = {"contents": sdk.Content, "tools": sdk.Tool}[name]
            for item in value:
                each.model_validate(item)
    return payload


def encode_error(request: CompletionRequest) -> errors.LLMError:
    return gemini.encode(request).failure()


def response_body(
    *parts: Mapping[str, Any], finish: Any = "STOP", usage: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """One response, or one chunk of a stream where ``finish`` is ``None``."""
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": list(parts)}, "index": 0}
    if finish is not None:
        candidate["finishReason"] = finish
    complete: dict[str, Any] = {"candidates": [candidate], "modelVersion": "gemini-2.5-flash", "responseId": "r1"}
    return {**complete, "usageMetadata": dict(usage)} if usage is not None else complete


def sse_bytes(chunks: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\r\n\r\n" for chunk in chunks)


def split_bytes(complete: bytes, size: int) -> list[bytes]:
    return [complete[start : start + size] for start in range(0, len(complete), size)]


@pytest.fixture(scope="module")
def provider(make_provider: Callable[..., Provider]) -> Provider:
    return make_provider(gemini.WIRE)


# Requests


def test_minimal_request() -> None:
    assert encoded(text_request("hi")) == {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}


def test_leading_system_messages_become_the_instruction() -> None:
    turns = (Message("system", "a"), Message("system", "b"), Message("user", "c"), Message("assistant", "d"))
    assert encoded(build_request(messages=turns)) == {
        "systemInstruction": {"parts": [{"text": "a"}, {"text": "b"}]},
        "contents": [{"role": "user", "parts": [{"text": "c"}]}, {"role": "model", "parts": [{"text": "d"}]}],
    }


def test_later_system_message_is_an_error() -> None:
    error = encode_error(build_request(messages=(Message("user", "a"), Message("system", "b"))))
    assert isinstance(error, errors.Unsupported)
    assert error.path == "$.messages[1].role"


def test_system_messages_alone_are_an_error() -> None:
    assert isinstance(encode_error(build_request(messages=(Message("system", "a"),))), errors.InvalidRequest)


def test_image_in_a_system_message_is_an_error() -> None:
    turn = Message("system", (Image(data=PIXEL, media_type="image/png"),))
    assert encode_error(build_request(messages=(turn, Message("user", "a")))).path == "$.messages[0].parts[0]"


def test_parameter_names() -> None:
    request = text_request(
        "hi",
        temperature=2,
        top_p=0.5,
        top_k=40,
        max_tokens=7,
        stop=("a", "b"),
        seed=-1,
        presence_penalty=1,
        frequency_penalty=-1,
        n=2,
    )
    assert encoded(request)["generationConfig"] == {
        "temperature": 2.0,
        "topP": 0.5,
        "topK": 40,
        "maxOutputTokens": 7,
        "stopSequences": ["a", "b"],
        "seed": -1,
        "presencePenalty": 1.0,
        "frequencyPenalty": -1.0,
        "candidateCount": 2,
    }


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"temperature": 2.1}, "$.temperature"),
        ({"stop": tuple("abcdef")}, "$.stop"),
        ({"n": 9}, "$.n"),
        ({"seed": 1 << 31}, "$.seed"),
        ({"max_tokens": 0}, "$.max_tokens"),
    ],
)
def test_out_of_range_parameter_is_an_error(fields: dict[str, Any], path: str) -> None:
    error = encode_error(text_request("hi", **fields))
    assert isinstance(error, errors.InvalidRequest)
    assert error.path == path


def test_user_is_unsupported_and_can_be_dropped(provider: Provider) -> None:
    assert isinstance(encode_error(text_request("hi", user="u1")), errors.Unsupported)
    sent = prepare(provider, Endpoint(), text_request("hi", user="u1", unsupported="drop"), 0.0).unwrap()
    assert sent.dropped == ("user",)
    assert b"u1" not in sent.body


@pytest.mark.parametrize(
    ("model", "fields", "config"),
    [
        ("gemini-2.5-pro", {"reasoning_budget": 512}, {"thinkingBudget": 512}),
        ("gemini-2.5-flash", {"reasoning_effort": "none"}, {"thinkingBudget": 0}),
        ("models/gemini-2.5-flash", {"reasoning_effort": "high"}, {"thinkingBudget": 24576}),
        ("gemini-3.1-pro-preview", {"reasoning_effort": "low"}, {"thinkingLevel": "LOW"}),
        ("gemini-flash-latest", {"reasoning_effort": "xhigh"}, {"thinkingLevel": "XHIGH"}),
    ],
)
def test_reasoning_options_by_model(model: str, fields: dict[str, Any], config: dict[str, Any]) -> None:
    request = CompletionRequest(model=model, messages=(Message("user", "hi"),), **fields)
    assert encoded(request)["generationConfig"]["thinkingConfig"] == config


@pytest.mark.parametrize(
    "fields",
    [{"reasoning_effort": "none"}, {"reasoning_effort": "max"}, {"reasoning_effort": "low", "reasoning_budget": 1}],
)
def test_unsupported_effort_is_an_error(fields: dict[str, Any]) -> None:
    error = encode_error(CompletionRequest(model="gemini-3-pro", messages=(Message("user", "hi"),), **fields))
    assert isinstance(error, errors.Unsupported)
    assert error.path == "$.reasoning_effort"


def test_structured_output() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    assert encoded(text_request("hi", response_schema=Schema(schema)))["generationConfig"] == {
        "responseMimeType": "application/json",
        "responseJsonSchema": schema,
    }


def test_tools() -> None:
    tools = (Tool("f", "does f", {"type": "object", "properties": {}}), Tool("g"))
    payload = encoded(text_request("hi", tools=tools))
    assert payload["tools"] == [
        {
            "functionDeclarations": [
                {"name": "f", "description": "does f", "parametersJsonSchema": {"type": "object", "properties": {}}},
                {"name": "g"},
            ]
        }
    ]
    assert "toolConfig" not in payload


@pytest.mark.parametrize(
    ("choice", "strict", "config"),
    [
        ("auto", None, {"mode": "AUTO"}),
        ("none", None, {"mode": "NONE"}),
        ("required", None, {"mode": "ANY"}),
        ("f", None, {"mode": "ANY", "allowedFunctionNames": ["f"]}),
        (None, True, {"mode": "VALIDATED"}),
        ("auto", True, {"mode": "VALIDATED"}),
        ("required", True, {"mode": "ANY"}),
    ],
)
def test_tool_choice(choice: str | None, strict: bool | None, config: dict[str, Any]) -> None:
    payload = encoded(text_request("hi", tools=(Tool("f", strict=strict),), tool_choice=choice))
    assert payload["toolConfig"] == {"functionCallingConfig": config}


def test_conversation_with_tools() -> None:
    turns = (
        Message("user", "both"),
        Message("assistant", (ToolCall("c1", "f", '{"a": 1}', "sig"), ToolCall("c2", "g", ""))),
        Message("tool", (ToolResult("c1", "one"),)),
        Message("tool", (ToolResult("c2", "two", is_error=True),)),
        Message("user", "and?"),
    )
    assert encoded(build_request(messages=turns))["contents"][1:] == [
        {
            "role": "model",
            "parts": [
                {"functionCall": {"id": "c1", "name": "f", "args": {"a": 1}}, "thoughtSignature": "sig"},
                {"functionCall": {"id": "c2", "name": "g", "args": {}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"id": "c1", "name": "f", "response": {"output": "one"}}},
                {"functionResponse": {"id": "c2", "name": "g", "response": {"error": "two"}}},
            ],
        },
        {"role": "user", "parts": [{"text": "and?"}]},
    ]


def test_result_of_an_unknown_call_needs_a_name() -> None:
    error = encode_error(build_request(messages=(Message("tool", (ToolResult("c9", "x"),)),)))
    assert isinstance(error, errors.InvalidRequest)
    assert error.path == "$.messages[0].parts[0].name"
    named = encoded(build_request(messages=(Message("tool", (ToolResult("c9", "x", name="f"),)),)))
    assert named["contents"][0]["parts"][0]["functionResponse"]["name"] == "f"


def test_result_with_images() -> None:
    content = (Text("see "), Image(data=PIXEL, media_type="image/png"), Text("this"))
    part = encoded(build_request(messages=(Message("tool", (ToolResult("c", content, "f"),)),)))["contents"][0][
        "parts"
    ][0]
    assert part["functionResponse"]["response"] == {"output": "see this"}
    assert part["functionResponse"]["parts"] == [{"inlineData": {"mimeType": "image/png", "data": PIXEL}}]


def test_arguments_must_be_an_object() -> None:
    error = encode_error(build_request(messages=(Message("assistant", (ToolCall("c", "f", "[1"),)),)))
    assert isinstance(error, errors.InvalidRequest)
    assert error.path == "$.messages[0].parts[0].arguments"


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (Image(url=f"data:image/png;base64,{PIXEL}"), {"inlineData": {"mimeType": "image/png", "data": PIXEL}}),
        (Image(data=PIXEL, media_type="image/png"), {"inlineData": {"mimeType": "image/png", "data": PIXEL}}),
        (Image(url="https://example.org/a.png"), {"fileData": {"fileUri": "https://example.org/a.png"}}),
        (
            Image(url="gs://b/a.png", media_type="image/png", detail="low"),
            {
                "fileData": {"fileUri": "gs://b/a.png", "mimeType": "image/png"},
                "mediaResolution": {"level": "MEDIA_RESOLUTION_LOW"},
            },
        ),
        (
            Document(url="data:text/plain,a%20b", name="n"),
            {"inlineData": {"mimeType": "text/plain", "data": base64.b64encode(b"a b").decode()}},
        ),
        (
            Document(url="https://example.org/a.pdf", media_type="application/pdf"),
            {"fileData": {"fileUri": "https://example.org/a.pdf", "mimeType": "application/pdf"}},
        ),
    ],
)
def test_images_and_documents(part: Part, expected: dict[str, Any]) -> None:
    assert encoded(build_request(messages=(Message("user", (part,)),)))["contents"][0]["parts"] == [expected]


def test_inline_data_needs_a_media_type() -> None:
    error = encode_error(build_request(messages=(Message("user", (Image(data=PIXEL),)),)))
    assert error.path == "$.messages[0].parts[0].media_type"


def test_foreign_part_is_an_error() -> None:
    other = Opaque("server_tool_use", '{"type": "server_tool_use"}')
    assert isinstance(encode_error(build_request(messages=(Message("assistant", (other,)),))), errors.Unsupported)


@pytest.mark.parametrize(
    "parts",
    [
        [{"text": "hm", "thought": True}, {"text": "yes", "thoughtSignature": "c2ln"}],
        [{"text": "hm", "thought": True, "thoughtSignature": "c2ln"}, {"text": "yes"}],
        [{"functionCall": {"id": "1", "name": "f", "args": {"a": 1}}, "thoughtSignature": "c2ln"}],
        [{"text": "a", "thoughtSignature": "czE="}, {"text": "b", "thoughtSignature": "czI="}],
        [
            {"executableCode": {"language": "PYTHON", "code": "1"}, "thoughtSignature": "czE="},
            {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "1"}},
            {"text": "1", "thoughtSignature": "czI="},
        ],
        [{"inlineData": {"mimeType": "image/png", "data": PIXEL}, "thoughtSignature": "c2ln"}],
        [{"inlineData": {"mimeType": "image/png", "data": PIXEL}}, {"text": "there"}],
        [{"functionCall": {"id": "1", "name": "f", "args": {}}}, {"text": "", "thoughtSignature": "c2ln"}],
    ],
)
def test_answer_is_sent_back_verbatim(provider: Provider, parts: list[dict[str, Any]]) -> None:
    answer = interpret(provider, HttpReply(200, body=json.dumps(response_body(*parts)).encode())).unwrap()
    turn = encoded(build_request(messages=(Message("user", "hi"), Message("assistant", answer.parts))))["contents"][1]
    assert turn == {"role": "model", "parts": parts}


def test_refusal_is_sent_as_text() -> None:
    turn = Message("assistant", Refusal("no"))
    assert encoded(build_request(messages=(Message("user", "a"), turn)))["contents"][1]["parts"] == [{"text": "no"}]


NAMES = st.text("abcdefgh_", min_size=1, max_size=8)
TEXTS = st.text(max_size=30)
PARTS = st.one_of(
    TEXTS.map(Text),
    st.just(Image(data=PIXEL, media_type="image/png")),
    st.just(Document(data=PIXEL, media_type="application/pdf", name="x")),
    st.builds(ToolResult, id=NAMES, content=TEXTS, name=NAMES, is_error=st.booleans()),
)
ANSWERS = st.one_of(
    TEXTS.map(Text),
    st.builds(Reasoning, TEXTS, st.sampled_from(["", "c2ln"])),
    st.builds(ToolCall, NAMES, NAMES, st.dictionaries(NAMES, st.integers(-9, 9), max_size=2).map(json.dumps)),
)
TURNS = st.one_of(
    st.builds(Message, st.just("user"), st.lists(PARTS, min_size=1, max_size=3)),
    st.builds(Message, st.just("assistant"), st.lists(ANSWERS, min_size=1, max_size=3)),
)
REQUESTS = st.builds(
    CompletionRequest,
    model=st.sampled_from(["gemini-2.5-flash", "gemini-3-pro"]),
    messages=st.tuples(st.lists(TEXTS.map(partial(Message, "system")), max_size=2), st.lists(TURNS, min_size=1)).map(
        lambda both: (*both[0], *both[1])
    ),
    temperature=st.none() | st.floats(0, 2),
    top_p=st.none() | st.floats(0, 1),
    top_k=st.none() | st.integers(1, 100),
    max_tokens=st.none() | st.integers(1, 10_000),
    stop=st.lists(TEXTS, max_size=5).map(tuple),
    seed=st.none() | st.integers(0, 1 << 30),
    tools=st.lists(st.builds(Tool, NAMES, TEXTS, strict=st.none() | st.booleans()), max_size=2).map(tuple),
    tool_choice=st.none() | st.sampled_from(["auto", "none", "required", "f"]),
    response_schema=st.none() | st.just(Schema({"type": "object"})),
    reasoning_effort=st.none() | st.sampled_from(["minimal", "low", "medium", "high"]),
    n=st.integers(1, 8),
)


@settings(deadline=None)
@given(REQUESTS)
def test_every_request_matches_the_official_types(request_: CompletionRequest) -> None:
    payload = encoded(request_)
    turns = [turn for turn in request_.messages if turn.role != "system"]
    assert [turn["role"] for turn in payload["contents"]] == [
        "model" if turn.role == "assistant" else "user" for turn in turns
    ]
    for turn, wrote in zip(turns, payload["contents"], strict=True):
        plain = [part["text"] for part in wrote["parts"] if "text" in part and not part.get("thought")]
        assert "".join(plain) == turn.text


# Responses


def decode_payload(provider: Provider, payload: Mapping[str, Any], status: int = 200) -> CompletionResponse:
    return interpret(provider, HttpReply(status, body=json.dumps(payload).encode())).unwrap()


def test_answer(provider: Provider) -> None:
    counts = {"promptTokenCount": 3, "candidatesTokenCount": 1, "totalTokenCount": 4}
    assert decode_payload(provider, response_body({"text": "Hi"}, usage=counts)) == CompletionResponse(
        parts=(Text("Hi"),),
        finish_reason="stop",
        usage=Usage(input_tokens=3, output_tokens=1),
        served_model="gemini-2.5-flash",
        request_id="r1",
    )


def test_neighbouring_thoughts_are_joined(provider: Provider) -> None:
    answer = decode_payload(
        provider,
        response_body({"text": "h", "thought": True}, {"text": "m", "thought": True}, {"text": "a"}, {"text": "b"}),
    )
    assert answer.parts == (Reasoning("hm"), Text("ab"))
    assert answer.text == "ab"


def test_signature_of_text_follows_it(provider: Provider) -> None:
    assert decode_payload(provider, response_body({"text": "a", "thoughtSignature": "s"})).parts == (
        Text("a"),
        Reasoning("", "s"),
    )


def test_call_without_id_gets_a_generated_one(provider: Provider) -> None:
    call = {"functionCall": {"name": "f", "args": {"a": 1}}}
    answer = decode_payload(provider, response_body(call, call))
    first, second = answer.tool_calls
    assert answer.finish_reason == "tool_calls"
    assert first.arguments == '{"a":1}'
    assert first.id.startswith(GENERATED_ID_PREFIX)
    assert first.id != second.id
    assert decode_payload(provider, response_body(call, call)) == answer
    assert decode_payload(provider, {**response_body(call), "responseId": "r2"}).tool_calls[0].id != first.id


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("SAFETY", "content_filter"),
        ("RECITATION", "content_filter"),
        ("MODEL_ARMOR", "content_filter"),
        ("MALFORMED_FUNCTION_CALL", "other"),
        ("SOMETHING_NEW", "other"),
        (1, "stop"),
        (2, "length"),
        (3, "content_filter"),
        (9, "other"),
    ],
)
def test_finish_reasons_by_name_and_number(provider: Provider, reason: object, expected: str) -> None:
    assert decode_payload(provider, response_body({"text": "a"}, finish=reason)).finish_reason == expected


def test_official_finish_reasons_are_known_or_other() -> None:
    named = {reason.value for reason in sdk.FinishReason} & gemini.FINISH.keys()
    assert len(named) >= 12
    assert set(gemini.FINISH) - {reason.value for reason in sdk.FinishReason} <= set("1234 78")


def test_candidate_without_parts(provider: Provider) -> None:
    assert (
        decode_payload(provider, {"candidates": [{"content": {"role": "model"}, "finishReason": "MAX_TOKENS"}]}).parts
        == ()
    )
    assert decode_payload(provider, {"candidates": [{"finishReason": "SAFETY"}]}).finish_reason == "content_filter"


@pytest.mark.parametrize(
    ("counts", "usage"),
    [
        (
            {"promptTokenCount": 10, "candidatesTokenCount": 2, "thoughtsTokenCount": 5, "totalTokenCount": 17},
            Usage(input_tokens=10, output_tokens=7, reasoning_tokens=5),
        ),
        (
            {"promptTokenCount": 10, "candidatesTokenCount": 7, "thoughtsTokenCount": 5, "totalTokenCount": 17},
            Usage(input_tokens=10, output_tokens=7, reasoning_tokens=5),
        ),
        (
            {
                "promptTokenCount": 10,
                "toolUsePromptTokenCount": 4,
                "candidatesTokenCount": 2,
                "thoughtsTokenCount": 5,
                "cachedContentTokenCount": 8,
                "totalTokenCount": 21,
            },
            Usage(input_tokens=14, output_tokens=7, cached_input_tokens=8, reasoning_tokens=5),
        ),
        ({"promptTokenCount": 14, "totalTokenCount": 14}, Usage(input_tokens=14, output_tokens=0)),
        (
            {"candidatesTokenCount": 1, "thoughtsTokenCount": 104, "totalTokenCount": 680},
            Usage(input_tokens=575, output_tokens=105, reasoning_tokens=104),
        ),
        ({"trafficType": 1}, Usage()),
        ({"promptTokenCount": "x", "totalTokenCount": -1}, Usage()),
    ],
)
def test_usage(provider: Provider, counts: dict[str, int], usage: Usage) -> None:
    assert decode_payload(provider, response_body({"text": "a"}, usage=counts)).usage == usage


def test_several_answers_keep_their_order(provider: Provider) -> None:
    answers = [
        {"index": 1, "content": {"parts": [{"text": "b"}]}, "finishReason": "STOP"},
        {"index": 0, "content": {"parts": [{"text": "a"}]}, "finishReason": "MAX_TOKENS"},
    ]
    complete = decode_payload(provider, {"candidates": answers})
    assert (complete.text, complete.finish_reason) == ("a", "length")
    assert [(choice.text, choice.finish_reason) for choice in complete.others] == [("b", "stop")]
    chunks = [{"candidates": [answers[0]]}, {"candidates": [answers[1]]}]
    assert interpret_stream(provider, HttpReply(200), [sse_bytes(chunks)]).unwrap() == complete


def test_blocked_prompt_is_an_error(provider: Provider) -> None:
    blocked = {"promptFeedback": {"blockReason": "SAFETY", "blockReasonMessage": "no"}, "usageMetadata": {}}
    for result in (
        interpret(provider, HttpReply(200, body=json.dumps(blocked).encode())),
        interpret_stream(provider, HttpReply(200), [sse_bytes([blocked])]),
    ):
        error = result.failure()
        assert isinstance(error, errors.ContentFiltered)
        assert (error.code, error.message, error.path) == ("SAFETY", "no", "$.promptFeedback")


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        ({}, "$.candidates"),
        ({"candidates": []}, "$.candidates"),
        ({"candidates": {}}, "$.candidates"),
        ({"candidates": [1]}, "$.candidates"),
    ],
)
def test_malformed_answer_names_the_path(provider: Provider, payload: dict[str, Any], path: str) -> None:
    error = interpret(provider, HttpReply(200, body=json.dumps(payload).encode())).failure()
    assert isinstance(error, errors.Malformed)
    assert error.path == path


def quota(*ids: str, delay: str | None = "34.07s") -> list[dict[str, Any]]:
    failure = {
        "@type": "type.googleapis.com/google.rpc.QuotaFailure",
        "violations": [{"quotaId": name} for name in ids],
    }
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}
    return [failure, info] if delay else [failure]


REASON = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}]


@pytest.mark.parametrize(
    ("status", "name", "message", "details", "kind", "wait"),
    [
        (400, "INVALID_ARGUMENT", "API key not valid.", REASON, errors.AuthFailed, None),
        (400, "INVALID_ARGUMENT", "bad", [], errors.InvalidRequest, None),
        (
            400,
            "INVALID_ARGUMENT",
            "The input token count (9) exceeds the maximum number of tokens allowed (8).",
            [],
            errors.ContextTooLong,
            None,
        ),
        (401, "UNAUTHENTICATED", "who?", [], errors.AuthFailed, None),
        (403, "PERMISSION_DENIED", "no", [], errors.PermissionDenied, None),
        (404, "NOT_FOUND", "no model", [], errors.NotFound, None),
        (429, "RESOURCE_EXHAUSTED", "slow", quota("GenerateRequestsPerMinutePerProject"), errors.RateLimited, 34.07),
        (429, "RESOURCE_EXHAUSTED", "slow", quota("PerMinute", delay="34s"), errors.RateLimited, 34.0),
        (429, "RESOURCE_EXHAUSTED", "slow", quota("PerMinute", delay=None), errors.RateLimited, None),
        (429, "RESOURCE_EXHAUSTED", "slow", quota("PerMinute", delay="-1s"), errors.RateLimited, None),
        (
            429,
            "RESOURCE_EXHAUSTED",
            "slow",
            quota("GenerateRequestsPerMinute", "GenerateRequestsPerDayPerProject-FreeTier"),
            errors.QuotaExhausted,
            34.07,
        ),
        (499, "CANCELLED", "cancelled", [], errors.ServerError, None),
        (500, "INTERNAL", "oops", [], errors.ServerError, None),
        (503, "UNAVAILABLE", "The model is overloaded.", [], errors.Overloaded, None),
        (504, "DEADLINE_EXCEEDED", "late", [], errors.TimedOut, None),
    ],
)
def test_errors(
    provider: Provider,
    status: int,
    name: str,
    message: str,
    details: list[dict[str, Any]],
    kind: type[errors.LLMError],
    wait: float | None,
) -> None:
    error_payload = {"error": {"code": status, "message": message, "status": name, "details": details}}
    alone, in_list = json.dumps(error_payload).encode(), json.dumps([error_payload]).encode()
    found = [
        interpret(provider, HttpReply(status, body=alone)).failure(),
        interpret(provider, HttpReply(status, body=in_list)).failure(),
        interpret_stream(provider, HttpReply(status), [in_list]).failure(),
        interpret_stream(provider, HttpReply(200), [sse_bytes([error_payload])]).failure(),
        interpret(provider, HttpReply(200, body=alone)).failure(),
    ]
    assert {type(error) for error in found} == {kind}
    assert {error.retry_after_s for error in found} == {wait}
    assert {error.message for error in found} == {message}


def test_error_that_is_not_json(provider: Provider) -> None:
    error = interpret(provider, HttpReply(502, body=b"<html>bad gateway")).failure()
    assert isinstance(error, errors.ServerError)
    assert error.message == "an HTML page (bad gateway)"


# Streams


def test_stream_without_finish_reason_is_an_error(provider: Provider) -> None:
    cut = interpret_stream(provider, HttpReply(200), [sse_bytes([response_body({"text": "a"}, finish=None)])])
    assert isinstance(cut.failure(), errors.Disconnected)


def test_parts_are_in_order_of_first_appearance(provider: Provider) -> None:
    chunks = [
        response_body({"executableCode": {"language": "PYTHON", "code": "1"}}, {"text": ""}, finish=None),
        response_body({"codeExecutionResult": {"outcome": "OUTCOME_OK"}}, finish=None),
        response_body({"text": "on"}, finish=None),
        response_body({"text": "e"}, finish=None),
        response_body({"text": "", "thoughtSignature": "s"}),
    ]
    answer = interpret_stream(provider, HttpReply(200), [sse_bytes(chunks)]).unwrap()
    assert [type(part) for part in answer.parts] == [Opaque, Opaque, Text, Reasoning]
    assert answer.text == "one"


def test_equal_calls_of_two_chunks_are_both_kept(provider: Provider) -> None:
    call = {"functionCall": {"name": "roll", "args": {}}}
    chunks = [
        response_body(call, finish=None, usage={"promptTokenCount": 1, "totalTokenCount": 2}),
        response_body(call, usage={"promptTokenCount": 1, "totalTokenCount": 3}),
    ]
    calls = interpret_stream(provider, HttpReply(200), [sse_bytes(chunks)]).unwrap().tool_calls
    assert [(call.name, call.arguments) for call in calls] == [("roll", "{}")] * 2


def test_stream_as_one_json_array(provider: Provider) -> None:
    chunks = [response_body({"text": "a"}, finish=None), response_body({"text": "b"})]
    head = HttpReply(200, {"content-type": "application/json; charset=UTF-8"})
    answer = interpret_stream(provider, head, split_bytes(json.dumps(chunks).encode(), 5))
    assert answer.unwrap().text == "ab"


COUNTS = st.fixed_dictionaries(
    {"promptTokenCount": st.integers(1, 99), "candidatesTokenCount": st.integers(1, 99)},
    optional={"thoughtsTokenCount": st.integers(1, 99), "cachedContentTokenCount": st.integers(0, 9)},
).map(
    lambda counts: {
        **counts,
        "totalTokenCount": sum(counts.get(name, 0) for name in ("promptTokenCount", "candidatesTokenCount"))
        + counts.get("thoughtsTokenCount", 0),
    }
)
PIECES = st.lists(st.text(min_size=1, max_size=9), max_size=4)
CALLS = st.lists(
    st.tuples(NAMES, st.dictionaries(NAMES, st.integers(), max_size=2), st.booleans(), st.sampled_from(["", "s"])),
    max_size=3,
    unique_by=lambda call: call[0],
)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the parts of an answer as chunks and as one response: thoughts, then text, then calls."""
    streamed: list[dict[str, Any]] = []
    thoughts, texts = draw(PIECES), draw(PIECES)
    streamed.extend({"text": piece, "thought": True} for piece in thoughts)
    streamed.extend({"text": piece} for piece in texts)
    complete: list[dict[str, Any]] = []
    if thoughts:
        complete.append({"text": "".join(thoughts), "thought": True})
    if texts:
        complete.append({"text": "".join(texts)})
        signature = draw(st.sampled_from(["", "sig"]))
        if signature:
            streamed.append({"text": "", "thoughtSignature": signature})
            complete[-1]["thoughtSignature"] = signature
    for name, args, with_id, signature in draw(CALLS):
        call: dict[str, Any] = {"functionCall": {"name": name, "args": args, **({"id": f"i{name}"} if with_id else {})}}
        call |= {"thoughtSignature": signature} if signature else {}
        streamed.append(call)
        complete.append(call)
    return streamed, complete


@settings(deadline=None)
@given(conversations(), COUNTS, st.sampled_from(["STOP", "MAX_TOKENS", 1, "SAFETY"]), st.data())
def test_streamed_equals_unstreamed(
    provider: Provider,
    parts: tuple[list[dict[str, Any]], list[dict[str, Any]]],
    counts: dict[str, int],
    finish: object,
    data: st.DataObject,
) -> None:
    streamed, complete = parts
    groups: list[list[dict[str, Any]]] = [[]]
    for part in streamed:
        if data.draw(st.booleans()):
            groups.append([])
        groups[-1].append(part)
    chunks = [
        response_body(*group, finish=None, usage={"promptTokenCount": counts["promptTokenCount"]}) for group in groups
    ]
    chunks[-1] = response_body(*groups[-1], finish=finish, usage=counts)
    raw = sse_bytes(chunks)
    answer = interpret_stream(provider, HttpReply(200), split_bytes(raw, data.draw(st.integers(1, len(raw)))))
    assert answer.unwrap() == decode_payload(provider, response_body(*complete, finish=finish, usage=counts))


# Arbitrary input

WORDS = st.sampled_from(
    [
        *(
            "candidates",
            "content",
            "parts",
            "text",
            "thought",
            "thoughtSignature",
            "functionCall",
            "name",
            "args",
            "id",
        ),
        *("finishReason", "index", "usageMetadata", "promptTokenCount", "candidatesTokenCount", "totalTokenCount"),
        *("thoughtsTokenCount", "promptFeedback", "blockReason", "error", "code", "status", "message", "details"),
        *(
            "reason",
            "retryDelay",
            "violations",
            "quotaId",
            "inlineData",
            "mimeType",
            "data",
            "modelVersion",
            "responseId",
        ),
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=5),
    max_leaves=25,
)
CANDIDATES = st.fixed_dictionaries(
    {"candidates": st.lists(st.dictionaries(WORDS, JSON, max_size=4) | JSON, max_size=3)},
    optional={"usageMetadata": JSON, "promptFeedback": JSON},
)


@settings(max_examples=300, deadline=None)
@given(
    st.binary() | (JSON | CANDIDATES).map(lambda value: json.dumps(value).encode()),
    st.sampled_from([200, 400, 429, 503]),
)
def test_arbitrary_replies_never_raise(provider: Provider, raw: bytes, status: int) -> None:
    for result in (
        interpret(provider, HttpReply(status, body=raw)),
        interpret_stream(provider, HttpReply(status), [b"data: ", raw, b"\n\n"]),
        interpret_stream(provider, HttpReply(status, {"content-type": "application/json"}), [raw]),
        gemini.decode_frame(Frame("", raw)),
    ):
        error = None if is_successful(result) else result.failure()
        assert error is None or isinstance(error, errors.LLMError)


def test_deep_nesting_never_raises(provider: Provider) -> None:
    for depth in (*range(600, 1010), 5000):  # the recursion limit is in this range
        args = b'{"a":' * depth + b"1" + b"}" * depth
        for raw in (
            b'{"candidates":[{"content":{"parts":[{"functionCall":{"name":"f","args":' + args + b"}}]}}]}",
            b'{"error":' + args + b"}",
        ):
            for status in (200, 400):
                result = interpret(provider, HttpReply(status, body=raw))
                assert is_successful(result) or isinstance(result.failure(), errors.LLMError)


# Recorded exchanges

RECORDED = {
    "gemini-generate_content": 39,
    "gemini-stream_generate_content": 19,
    "vertex-generate_content": 16,
    "vertex-stream_generate_content": 7,
}


def decode_stream_reference(chunks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a response, or the chunks of one, contain, decoded without llmhub."""
    parts = [
        part
        for chunk in chunks
        for candidate in chunk["candidates"][:1]
        for part in candidate.get("content", {}).get("parts", [])
    ]
    counts = chunks[-1].get("usageMetadata", {})
    reasons = [c["candidates"][0]["finishReason"] for c in chunks if "finishReason" in c["candidates"][0]]
    return {
        "text": "".join(part["text"] for part in parts if "text" in part and not part.get("thought")),
        "reasoning": "".join(part["text"] for part in parts if part.get("thought")),
        "calls": [(p["functionCall"]["name"], p["functionCall"]["args"]) for p in parts if "functionCall" in p],
        "signatures": [part["thoughtSignature"] for part in parts if "thoughtSignature" in part],
        "finish": reasons[-1],
        "model": chunks[-1].get("modelVersion"),
        "output": counts.get("candidatesTokenCount", 0) + counts.get("thoughtsTokenCount", 0),
        "input": counts.get("promptTokenCount", 0) + counts.get("toolUsePromptTokenCount", 0),
        "total": counts.get("totalTokenCount"),
    }


def recorded_chunks(exchange: Any) -> list[Mapping[str, Any]]:
    if not exchange.streaming:
        return [json.loads(exchange.body)]
    if exchange.body.lstrip().startswith(b"["):
        return list(json.loads(exchange.body))
    lines = exchange.body.decode().splitlines()
    return [json.loads(line.removeprefix("data:")) for line in lines if line.startswith("data:")]


def signatures(parts: Sequence[Part]) -> list[str]:
    found = []
    for part in parts:
        match part:
            case Reasoning(signature=signature) | ToolCall(signature=signature) if signature:
                found.append(signature)
            case Opaque(data=data) if "thoughtSignature" in json.loads(data):
                found.append(json.loads(data)["thoughtSignature"])
    return found


@pytest.mark.corpus
@pytest.mark.parametrize("name", RECORDED)
def test_recorded_answers_equal_a_reference_decoding(
    corpus: Callable[[str], list[Any]], provider: Provider, name: str
) -> None:
    exchanges = corpus(name)
    assert len(exchanges) == RECORDED[name]
    for exchange in exchanges:
        result = (
            interpret_stream(provider, exchange.head, split_bytes(exchange.body, 11))
            if exchange.streaming
            else interpret(provider, exchange.reply)
        )
        chunks = recorded_chunks(exchange)
        if not exchange.ok:
            assert type(result.failure()) is not errors.Malformed, exchange.id
            continue
        if not chunks[0].get("candidates"):
            assert isinstance(result.failure(), errors.ContentFiltered), exchange.id
            continue
        answer, plain = result.unwrap(), decode_stream_reference(chunks)
        assert answer.text == plain["text"], exchange.id
        assert answer.reasoning == plain["reasoning"], exchange.id
        assert [(c.name, json.loads(c.arguments)) for c in answer.tool_calls] == plain["calls"], exchange.id
        assert signatures(answer.parts) == plain["signatures"], exchange.id
        assert answer.served_model == plain["model"], exchange.id
        expected = gemini.FINISH.get(str(plain["finish"]), "other")
        assert answer.finish_reason == ("tool_calls" if plain["calls"] else expected)
        assert (answer.usage.output_tokens or 0) == plain["output"], exchange.id
        if plain["total"] is not None:
            assert (answer.usage.input_tokens or 0) + (answer.usage.output_tokens or 0) == plain["total"], exchange.id
        if plain["input"]:
            assert answer.usage.input_tokens == plain["input"], exchange.id


ERRORS = {
    "gemini.generate_content.2563b5a98be0": errors.NotFound,
    "gemini.generate_content.60fa9cd3f5a9": errors.NotFound,
    "gemini.generate_content.41db32e9f0b3": errors.InvalidRequest,
    "gemini.generate_content.d6bb32428898": errors.AuthFailed,
    "vertex.generate_content.882000779caa": errors.ContentFiltered,
    "vertex.generate_content.a53630df7808": errors.NotFound,
    "vertex.generate_content.d8c64a549f67": errors.InvalidRequest,
    "vertex.generate_content.ff3ebbbfc641": errors.InvalidRequest,
}


@pytest.mark.corpus
def test_recorded_errors(corpus: Callable[[str], list[Any]], provider: Provider) -> None:
    found = {}
    for name in ("gemini-generate_content", "vertex-generate_content"):
        for exchange in corpus(name):
            result = interpret(provider, exchange.reply)
            if not is_successful(result):
                found[exchange.id] = type(result.failure())
    assert found == ERRORS


PLAIN = {"responseId": "r", "modelVersion": "m", "usageMetadata": {"promptTokenCount": 3, "totalTokenCount": 4}}
ODD = (
    st.none()
    | st.text(max_size=2)
    | st.integers()
    | st.booleans()
    | st.lists(st.none(), max_size=1)
    | st.just({"a": 1})
)
TOP = ("responseId", "modelVersion", "usageMetadata", "error", "promptFeedback", "candidates", "createTime")
OF_CANDIDATE = ("index", "finishReason", "logprobsResult", "content", "safetyRatings")


@given(
    st.dictionaries(st.sampled_from(TOP), ODD, max_size=2),
    st.dictionaries(st.sampled_from(OF_CANDIDATE), ODD, max_size=2),
    st.dictionaries(st.sampled_from(["text", "thought", "thoughtSignature", "functionCall"]), ODD, max_size=2),
)
def test_fast_path_equals_general_path(top: Any, candidate: Any, part: Any) -> None:
    content = {"role": "model", "parts": [{"text": "a", **part}]}
    complete = {**PLAIN, "candidates": [{"index": 0, "content": content, **candidate}], **top}
    frame = Frame("", json.dumps(complete).encode())
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(gemini, "parse_plain_gemini_chunk", lambda _: None)
        long = gemini.decode_frame(frame)
    assert gemini.decode_frame(frame) == long
