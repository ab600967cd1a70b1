"""Responses: requests, responses of OpenAI and compatible servers, and that streams equal them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from openai.types.responses.response_create_params import (
    ResponseCreateParamsNonStreaming,
    ResponseCreateParamsStreaming,
)
from pydantic import TypeAdapter
from returns.pipeline import is_successful

from llmhub.core import errors
from llmhub.core.framing import Frame
from llmhub.core.protocol import interpret, interpret_stream, prepare
from llmhub.core.provider import Endpoint, HttpReply, Provider
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
from llmhub.wire import openai_responses

PIXEL = "iVBORw0KGgo="
REQUEST_TYPE: TypeAdapter[Any] = TypeAdapter(ResponseCreateParamsNonStreaming)
STREAM_REQUEST_TYPE: TypeAdapter[Any] = TypeAdapter(ResponseCreateParamsStreaming)
EVENT_TYPE: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
build_request = partial(CompletionRequest, model="gpt-5-mini")


def text_request(text: str, **fields: Any) -> CompletionRequest:
    return build_request(messages=(Message("user", text),), **fields)


def consume(value: Any) -> Any:
    """Iterate over a validated value, since pydantic validates an ``Iterable`` only as it is consumed."""
    if isinstance(value, Mapping):
        return {key: consume(inner) for key, inner in value.items()}
    if isinstance(value, str | bytes | int | float) or value is None:
        return value
    return [consume(inner) for inner in value]


def with_id_and_status(item: dict[str, Any]) -> dict[str, Any]:
    """Add the id and status that the official types require and the API does not."""
    if item.get("role") == "assistant" and isinstance(item["content"], list):
        return {"type": "message", "id": "msg_1", "status": "completed", **item}
    return item


def encoded(request: CompletionRequest) -> dict[str, Any]:
    """Return the encoded payload, validated by the official SDK's types."""
    payload: dict[str, Any] = json.loads(json.dumps(openai_responses.encode(request).unwrap()))
    checked = {**payload, "input": [with_id_and_status(item) for item in payload["input"]]}
    assert consume(REQUEST_TYPE.validate_python(checked)) == checked
    return payload


def encode_error(request: CompletionRequest) -> errors.LLMError:
    return openai_responses.encode(request).failure()


def response_body(*output: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": "resp_1", "object": "response", "model": "gpt-5", "status": "completed", "output": output, **more}


def message(*content: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": content, **more}


def output(text: str, *annotations: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": annotations, "logprobs": []}


def call(arguments: str, name: str = "f", item_index: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "type": "function_call",
        "id": f"fc_{item_index}",
        "call_id": f"c{item_index}",
        "name": name,
        "arguments": arguments,
        **more,
    }


def events(values: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(b"event: %b\ndata: %b\n\n" % (each["type"].encode(), json.dumps(each).encode()) for each in values)


def split_bytes(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


@pytest.fixture(scope="module")
def provider(make_provider: Callable[..., Provider]) -> Provider:
    return make_provider(openai_responses.WIRE)


# Requests


def test_minimal_request() -> None:
    assert encoded(text_request("hi")) == {
        "model": "gpt-5-mini",
        "input": [{"role": "user", "content": "hi"}],
        "store": False,
        "include": ["reasoning.encrypted_content"],
    }


def test_stream_field(provider: Provider) -> None:
    sent = json.loads(prepare(provider, Endpoint(), text_request("hi"), 0.0, stream=True).unwrap().body)
    assert consume(STREAM_REQUEST_TYPE.validate_python(sent)) == sent
    assert sent["stream"] is True


def test_parameter_names() -> None:
    request = text_request(
        "hi",
        temperature=2,
        top_p=0.5,
        max_tokens=16,
        user="u",
        reasoning_effort="low",
        tools=(Tool("f", "does f", {"type": "object"}, strict=True), Tool("g")),
        tool_choice="f",
        response_schema=Schema({"type": "object"}, "s"),
    )
    payload = encoded(request)
    assert {name: payload[name] for name in payload if name not in {"input", "model", "store", "include"}} == {
        "temperature": 2.0,
        "top_p": 0.5,
        "max_output_tokens": 16,
        "safety_identifier": "u",
        "reasoning": {"effort": "low"},
        "tools": [
            {
                "type": "function",
                "name": "f",
                "description": "does f",
                "parameters": {"type": "object"},
                "strict": True,
            },
            {"type": "function", "name": "g", "parameters": {"type": "object", "properties": {}}, "strict": False},
        ],
        "tool_choice": {"type": "function", "name": "f"},
        "text": {"format": {"type": "json_schema", "name": "s", "schema": {"type": "object"}, "strict": True}},
    }


@pytest.mark.parametrize("choice", ["auto", "none", "required"])
def test_tool_choice_by_mode(choice: str) -> None:
    assert encoded(text_request("hi", tools=(Tool("f"),), tool_choice=choice))["tool_choice"] == choice


@pytest.mark.parametrize(
    ("fields", "error_type", "path"),
    [
        ({"temperature": 2.1}, errors.InvalidRequest, "$.temperature"),
        ({"max_tokens": 0}, errors.InvalidRequest, "$.max_tokens"),
        ({"top_k": 3}, errors.Unsupported, "$.top_k"),
        ({"stop": ("a",)}, errors.Unsupported, "$.stop"),
        ({"seed": 3}, errors.Unsupported, "$.seed"),
        ({"presence_penalty": 1}, errors.Unsupported, "$.presence_penalty"),
        ({"frequency_penalty": 1}, errors.Unsupported, "$.frequency_penalty"),
        ({"n": 2}, errors.Unsupported, "$.n"),
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
        Message("user", (Document(url="https://h/a.pdf"), Image(url="https://h/a.png"))),
        Message("assistant", (Text("one"), ToolCall("c1", "f", '{"a":1}'))),
        Message("tool", (ToolResult("c1", "1"), ToolResult("c2", (Text("2"), Text("3"))))),
        Message("tool", (ToolResult("c3", (Text("4"), Image(data=PIXEL, media_type="image/png"))), Text("look"))),
        Message("assistant", (Refusal("no"), Text("yes"))),
        Message("system", "t"),
    )
    picture = {"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}"}
    assert encoded(build_request(messages=turns))["input"] == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "input_text", "text": "a"}, {**picture, "detail": "low"}]},
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "b"},
                {"type": "input_file", "filename": "x.pdf", "file_data": "data:application/pdf;base64,AAAA"},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "input_file", "file_url": "https://h/a.pdf"},
                {"type": "input_image", "image_url": "https://h/a.png", "detail": "auto"},
            ],
        },
        {"type": "message", "role": "assistant", "content": "one"},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a":1}'},
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
        {"type": "function_call_output", "call_id": "c2", "output": "23"},
        {
            "type": "function_call_output",
            "call_id": "c3",
            "output": [{"type": "input_text", "text": "4"}, {**picture, "detail": "auto"}],
        },
        {"role": "user", "content": "look"},
        {
            "type": "message",
            "role": "assistant",
            "content": [
                {"type": "refusal", "refusal": "no"},
                {"type": "output_text", "text": "yes", "annotations": []},
            ],
        },
        {"role": "system", "content": "t"},
    ]


@pytest.mark.parametrize(
    ("role", "part", "path"),
    [
        ("assistant", Opaque("server_tool_use", '{"type":"server_tool_use"}'), ""),
        ("assistant", Opaque("web_search_call", "{}"), ""),
        ("assistant", Opaque("citation", "{}"), ""),
        ("assistant", Reasoning("hm", "another wire's"), ""),
        ("assistant", Reasoning("hm"), ""),
        ("assistant", Image(data=PIXEL, media_type="image/png"), ""),
        ("user", ToolCall("c", "f"), ""),
        ("user", Image(data=PIXEL), ".media_type"),
        ("user", Document(data="AAAA"), ".media_type"),
    ],
)
def test_unsupported_part_is_an_error(role: Any, part: Part, path: str) -> None:
    error = encode_error(build_request(messages=(Message(role, (part,)),)))
    assert isinstance(error, errors.InvalidRequest if path else errors.Unsupported)
    assert error.path == f"$.messages[0].parts[0]{path}"


def test_image_in_a_result_is_validated() -> None:
    error = encode_error(build_request(messages=(Message("tool", (ToolResult("c", (Image(data=PIXEL),)),)),)))
    assert error.path == "$.messages[0].parts[0].content[0].media_type"


NAMES = st.text("abcdefgh_", min_size=1, max_size=8)
TEXTS = st.text(max_size=30)
PICTURE = Image(data=PIXEL, media_type="image/png")
THOUGHT = Reasoning("hm", '{"type":"reasoning","id":"rs_1","summary":[],"encrypted_content":"x"}')
TURNS = st.one_of(
    st.builds(Message, st.just("system"), TEXTS),
    st.builds(Message, st.just("user"), st.lists(TEXTS.map(Text) | st.just(PICTURE), min_size=1, max_size=3)),
    st.builds(Message, st.just("tool"), st.lists(st.builds(ToolResult, NAMES, TEXTS), min_size=1, max_size=2)),
    st.builds(
        Message,
        st.just("assistant"),
        st.lists(
            TEXTS.map(Text) | TEXTS.map(Refusal) | st.builds(ToolCall, NAMES, NAMES, st.just("{}")) | st.just(THOUGHT),
            min_size=1,
            max_size=4,
        ),
    ),
)
REQUESTS = st.builds(
    CompletionRequest,
    model=NAMES,
    messages=st.lists(TURNS, min_size=1, max_size=4).map(tuple),
    temperature=st.none() | st.floats(0, 2),
    top_p=st.none() | st.floats(0, 1),
    max_tokens=st.none() | st.integers(16, 10_000),
    tools=st.lists(st.builds(Tool, NAMES, TEXTS, strict=st.none() | st.booleans()), max_size=2).map(tuple),
    tool_choice=st.none() | st.sampled_from(["auto", "none", "required", "f"]),
    response_schema=st.none() | st.just(Schema({"type": "object"})),
    reasoning_effort=st.none() | st.sampled_from(["none", "minimal", "low", "medium", "high", "xhigh", "max"]),
    user=st.none() | NAMES,
)


def words(item: Mapping[str, Any]) -> str:
    """Return the texts of one item of any type."""
    content = item.get("content", item.get("output", ""))
    if isinstance(content, str):
        return content
    return "".join(block.get("text", block.get("refusal", "")) for block in content)


@settings(deadline=None)
@given(REQUESTS)
def test_every_request_matches_the_official_types(request_: CompletionRequest) -> None:
    result = encoded(request_)["input"]
    assert "".join(words(item) for item in result) == "".join(
        part.content if isinstance(part, ToolResult) else part.text if isinstance(part, Text | Refusal) else ""
        for turn in request_.messages
        for part in turn.parts
    )
    kinds = {ToolCall: "function_call", ToolResult: "function_call_output", Reasoning: "reasoning"}
    assert [item["type"] for item in result if item.get("type", "message") != "message"] == [
        kinds[type(part)] for turn in request_.messages for part in turn.parts if type(part) in kinds
    ]


# Responses


def decode_payload(provider: Provider, payload: Mapping[str, Any]) -> CompletionResponse:
    return interpret(provider, HttpReply(200, body=json.dumps(payload).encode())).unwrap()


COUNTS = {
    "input_tokens": 10,
    "input_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 1},
    "output_tokens": 7,
    "output_tokens_details": {"reasoning_tokens": 5},
    "total_tokens": 17,
}
COUNTED = Usage(input_tokens=10, output_tokens=7, cached_input_tokens=8, cache_write_tokens=1, reasoning_tokens=5)


def test_answer(provider: Provider) -> None:
    assert decode_payload(provider, response_body(message(output("Hi")), usage=COUNTS)) == CompletionResponse(
        parts=(Text("Hi"),), usage=COUNTED, served_model="gpt-5", request_id="resp_1"
    )


THINKING = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}
NOTE = {"type": "url_citation", "url": "https://h", "title": "t", "start_index": 0, "end_index": 1}


def compact_json(item: Mapping[str, Any]) -> str:
    return json.dumps(item, separators=(",", ":"))


@pytest.mark.parametrize(
    ("items", "parts", "finish"),
    [
        ([call('{"a": 1}')], (ToolCall("c1", "f", '{"a":1}'),), "tool_calls"),
        ([THINKING, message(output("a"))], (Reasoning("", compact_json(THINKING)), Text("a")), "stop"),
        ([message({"type": "refusal", "refusal": "no"})], (Refusal("no"),), "refusal"),
        (
            [message(output("a", NOTE), output("b"))],
            (Text("a"), Opaque("citation", compact_json(NOTE)), Text("b")),
            "stop",
        ),
        (
            [message(output("a"), phase="commentary"), call(""), message(output("b"), phase="final_answer")],
            (Text("a"), Opaque("message", '{"phase":"commentary"}'), ToolCall("c1", "f"), Text("b")),
            "tool_calls",
        ),
        (
            [{"type": "web_search_call", "id": "ws_1", "status": "completed"}],
            (Opaque("web_search_call", '{"type":"web_search_call","id":"ws_1","status":"completed"}'),),
            "stop",
        ),
        (
            [{"type": "custom_tool_call", "id": "ctc_1", "call_id": "c1", "name": "m", "input": "4 + 4"}],
            (ToolCall("c1", "m", "4 + 4", '{"type":"custom_tool_call"}'),),
            "tool_calls",
        ),
        (
            [call("{}", namespace="n", caller={"type": "direct"})],
            (ToolCall("c1", "f", "{}", '{"type":"function_call","namespace":"n"}'),),
            "tool_calls",
        ),
    ],
)
def test_item_variations(provider: Provider, items: list[dict[str, Any]], parts: tuple[Part, ...], finish: str) -> None:
    answer = decode_payload(provider, response_body(*items))
    assert answer.parts == parts
    assert answer.finish_reason == finish


def test_reasoning_item_is_kept_as_signature(provider: Provider) -> None:
    pieces = [{"type": "summary_text", "text": "a"}, {"type": "summary_text", "text": "b"}]
    raw = [{"type": "reasoning_text", "text": "r"}]
    summed = {"type": "reasoning", "id": "rs_1", "summary": pieces}
    thought = {"type": "reasoning", "id": "rs_2", "summary": [], "content": raw}
    both = {"type": "reasoning", "id": "rs_3", "summary": pieces[:1], "content": raw}
    status = {"status": "completed", "encrypted_content": None}
    answer = decode_payload(provider, response_body({**summed, **status}, thought, both))
    assert answer.parts == (
        Reasoning("a\n\nb", compact_json(summed)),
        Reasoning("r", compact_json(thought)),
        Reasoning("a", compact_json(both)),
        Reasoning("r"),
    )
    assert encoded(build_request(messages=(Message("assistant", answer.parts),)))["input"] == [summed, thought, both]


def test_answer_is_sent_back(provider: Provider) -> None:
    search = {
        "type": "web_search_call",
        "id": "ws_1",
        "status": "completed",
        "action": {"type": "search", "query": "q"},
    }
    custom = {"type": "custom_tool_call", "call_id": "c2", "name": "m", "input": "4 + 4"}
    items = [
        THINKING,
        search,
        message(output("a", NOTE), phase="commentary"),
        call('{"a":1}', namespace="n"),
        {"id": "ctc_1", **custom},
    ]
    turns = (
        Message("user", "q"),
        Message("assistant", decode_payload(provider, response_body(*items)).parts),
        Message("tool", (ToolResult("c1", "1"), ToolResult("c2", "8"))),
    )
    assert encoded(build_request(messages=turns))["input"][1:] == [
        THINKING,
        search,
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "a", "annotations": [NOTE]}],
            "phase": "commentary",
        },
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a":1}', "namespace": "n"},
        custom,
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": "8"},
    ]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "stop"),
        ({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, "length"),
        ({"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}, "content_filter"),
        ({"status": "incomplete", "incomplete_details": {"reason": "steered"}}, "other"),
        ({"status": "incomplete"}, "other"),
        ({"status": None}, "other"),
    ],
)
def test_finish_reasons(provider: Provider, fields: dict[str, Any], expected: str) -> None:
    assert decode_payload(provider, response_body(message(output("a")), **fields)).finish_reason == expected


@pytest.mark.parametrize(
    ("counts", "usage"),
    [
        (COUNTS, COUNTED),
        (
            {"input_tokens": 5, "output_tokens": 1, "input_tokens_details": {"cached_tokens": 9}},
            Usage(input_tokens=5, output_tokens=1, cached_input_tokens=5),
        ),
        ({"input_tokens": -1, "output_tokens": "x"}, Usage()),
        (None, Usage()),
    ],
)
def test_usage(provider: Provider, counts: Any, usage: Usage) -> None:
    assert decode_payload(provider, response_body(message(output("a")), usage=counts)).usage == usage


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        ({}, "$.output"),
        ({"output": None}, "$.output"),
        ({"output": [1]}, "$.output[0]"),
        ({"status": "queued", "output": []}, "$.status"),
        ({"status": "in_progress", "output": []}, "$.status"),
    ],
)
def test_malformed_answer_names_the_path(provider: Provider, payload: dict[str, Any], path: str) -> None:
    error = interpret(provider, HttpReply(200, body=json.dumps(payload).encode())).failure()
    assert isinstance(error, errors.Malformed)
    assert error.path == path


@pytest.mark.parametrize(
    ("error_payload", "error_type"),
    [
        ({"code": "server_error", "message": "x"}, errors.ServerError),
        ({"code": "rate_limit_exceeded", "message": "x"}, errors.RateLimited),
        ({"code": "invalid_image_url", "message": "x"}, errors.InvalidRequest),
        ({"code": "image_too_large", "message": "x"}, errors.InvalidRequest),
        ({"code": "bio_policy", "message": "x"}, errors.ContentFiltered),
        (
            {"code": "invalid_prompt", "message": "flagged as potentially violating our usage policy"},
            errors.ContentFiltered,
        ),
        ({"code": 429, "message": "x"}, errors.RateLimited),
        ({"code": "unheard_of", "message": "x"}, errors.ServerError),
        (None, errors.ServerError),
    ],
)
def test_failed_response_is_an_error(
    provider: Provider, error_payload: dict[str, Any] | None, error_type: type[errors.LLMError]
) -> None:
    response = response_body(status="failed", error=error_payload)
    answers = [interpret(provider, HttpReply(200, body=json.dumps(response).encode()))]
    stream_ends: list[dict[str, Any]] = [{"type": "response.failed", "response": response}]
    if error_payload is not None:
        stream_ends += [
            {"type": "error", **error_payload},
            {"type": "error", "error": error_payload},
            {"type": "error", "error": error_payload},
        ]
    begun = {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "a"}
    answers += [interpret_stream(provider, HttpReply(200), [events([begun, end])]) for end in stream_ends]
    assert [type(answer.failure()) for answer in answers] == [error_type] * (1 + len(stream_ends))


@pytest.mark.parametrize(
    ("status", "payload", "error_type", "code"),
    [
        (401, {"error": {"message": "x", "code": "invalid_api_key"}}, errors.AuthFailed, "invalid_api_key"),
        (401, {"error": {"code": "401", "message": "Access denied"}}, errors.AuthFailed, "401"),
        (429, {"error": {"message": "x", "code": "insufficient_quota"}}, errors.QuotaExhausted, "insufficient_quota"),
        (
            400,
            {"error": {"message": "x", "code": "model_not_found", "type": "invalid_request_error"}},
            errors.NotFound,
            "model_not_found",
        ),
        (
            400,
            {"error": {"message": "x", "code": "context_length_exceeded"}},
            errors.ContextTooLong,
            "context_length_exceeded",
        ),
        (
            400,
            {"error": {"message": "no", "type": "invalid_request_error"}},
            errors.InvalidRequest,
            "invalid_request_error",
        ),
        (422, {"detail": [{"msg": "bad"}]}, errors.InvalidRequest, ""),
        (500, {"error": "plain words"}, errors.ServerError, ""),
        (503, {}, errors.Overloaded, ""),
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


def delta_events(kind: str, name: str, text: str, item_index: int, cut: int, **position: int) -> list[dict[str, Any]]:
    """Return the events of a text: two deltas and the complete text."""
    where = {"item_id": "i", "output_index": item_index, **position}
    pieces = [{"type": f"response.{kind}.delta", "delta": piece, **where} for piece in (text[:cut], text[cut:])]
    return [*pieces, {"type": f"response.{kind}.done", name: text, **where}]


def contents(item: Mapping[str, Any], item_index: int, cut: int) -> list[dict[str, Any]]:
    """Return the events of the contents of a message or of raw reasoning."""
    grows = {
        "output_text": ("output_text", "text"),
        "refusal": ("refusal", "refusal"),
        "reasoning_text": ("reasoning_text", "text"),
    }
    content_events: list[dict[str, Any]] = []
    for position, block in enumerate(item.get("content") or ()):
        kind, name = grows[block["type"]]
        where = {"item_id": "i", "output_index": item_index, "content_index": position}
        content_events.append(
            {"type": "response.content_part.added", "part": {"type": block["type"], name: ""}, **where}
        )
        content_events += delta_events(kind, name, block[name], item_index, cut, content_index=position)
        content_events.append({"type": "response.content_part.done", "part": block, **where})
    return content_events


def streamed(response: Mapping[str, Any], cut: int) -> list[dict[str, Any]]:
    """Return the events that stream an answer."""
    begun = {**response, "status": "in_progress", "output": [], "usage": None}
    stream: list[dict[str, Any]] = [
        {"type": f"response.{kind}", "response": begun} for kind in ("created", "in_progress")
    ]
    for item_index, item in enumerate(response["output"]):
        blank = {
            name: [] if name in {"content", "summary"} else ""
            for name in item
            if name in {"content", "summary", "arguments", "input", "encrypted_content"}
        }
        stream.append({"type": "response.output_item.added", "output_index": item_index, "item": {**item, **blank}})
        for position, piece in enumerate(item.get("summary", ())):
            where = {"item_id": "i", "output_index": item_index, "summary_index": position}
            part = {"type": "summary_text", "text": ""}
            stream.append({"type": "response.reasoning_summary_part.added", "part": part, **where})
            stream += delta_events(
                "reasoning_summary_text", "text", piece["text"], item_index, cut, summary_index=position
            )
        stream += contents(item, item_index, cut)
        if "arguments" in item:
            stream += delta_events("function_call_arguments", "arguments", item["arguments"], item_index, cut)
        if "input" in item:
            stream += delta_events("custom_tool_call_input", "input", item["input"], item_index, cut)
        stream.append({"type": "response.output_item.done", "output_index": item_index, "item": item})
    return [*stream, {"type": f"response.{response['status']}", "response": response}]


NOTES = st.lists(st.sampled_from([NOTE, {"type": "file_path", "file_id": "f", "index": 0}]), max_size=3)
ITEMS = st.lists(
    st.one_of(
        st.builds(
            lambda blocks, phase: message(*blocks, **({"phase": phase} if phase else {})),
            st.lists(
                st.builds(lambda text, notes: output(text, *notes), st.text(max_size=9), NOTES)
                | st.text(max_size=9).map(lambda text: {"type": "refusal", "refusal": text}),
                max_size=3,
            ),
            st.none() | st.sampled_from(["commentary", "final_answer"]),
        ),
        st.builds(
            lambda summary, content, secret: {
                "type": "reasoning",
                "id": "rs_1",
                "summary": [{"type": "summary_text", "text": text} for text in summary],
                **({"content": [{"type": "reasoning_text", "text": text} for text in content]} if content else {}),
                **({"encrypted_content": secret} if secret else {}),
            },
            st.lists(st.text(max_size=9), max_size=3),
            st.lists(st.text(max_size=9), max_size=3),
            st.sampled_from(["", "gAAA"]),
        ),
        st.builds(
            lambda name, arguments, more: call(json.dumps(arguments), name, **more),
            NAMES,
            st.dictionaries(NAMES, st.integers(), max_size=2),
            st.sampled_from([{}, {"namespace": "n"}, {"caller": {"type": "direct"}}, {"status": "completed"}]),
        ),
        st.builds(
            lambda name, text_request: {
                "type": "custom_tool_call",
                "id": "x",
                "call_id": "c",
                "name": name,
                "input": text_request,
            },
            NAMES,
            st.text("ab +", max_size=9),
        ),
        st.just({"type": "web_search_call", "id": "ws_1", "status": "completed"}),
    ),
    max_size=5,
)
ENDS = st.sampled_from(
    [
        {"status": "completed"},
        {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
        {"status": "incomplete", "incomplete_details": {"reason": "content_filter"}},
    ]
)


@settings(deadline=None)
@given(ITEMS, ENDS, st.integers(0, 9), st.integers(1, 400))
@example([message(phase="commentary")], {"status": "completed"}, 0, 1)
def test_streamed_equals_unstreamed(
    provider: Provider, items: list[dict[str, Any]], end: dict[str, Any], cut: int, size: int
) -> None:
    response = response_body(*items, usage=COUNTS, **end)
    answer = interpret_stream(provider, HttpReply(200), split_bytes(events(streamed(response, cut)), size))
    assert answer.unwrap() == decode_payload(provider, response)


def test_stream_without_end_is_an_error(provider: Provider) -> None:
    response = streamed(response_body(message(output("a"))), 0)
    for end in (response[:-1], []):
        error = interpret_stream(provider, HttpReply(200), [events(end)]).failure()
        assert isinstance(error, errors.Disconnected)
    closed = events(response) + b"data: [DONE]\n\n"
    assert interpret_stream(provider, HttpReply(200), [b": PROCESSING\n\n" + closed]).unwrap().text == "a"


# Arbitrary input

WORDS = st.sampled_from(
    [
        *(
            "type",
            "message",
            "output",
            "content",
            "text",
            "output_text",
            "refusal",
            "annotations",
            "phase",
            "reasoning",
        ),
        *(
            "summary",
            "summary_text",
            "reasoning_text",
            "encrypted_content",
            "function_call",
            "custom_tool_call",
            "input",
        ),
        *(
            "call_id",
            "id",
            "name",
            "arguments",
            "namespace",
            "caller",
            "status",
            "completed",
            "incomplete",
            "error_payload",
        ),
        *("incomplete_details", "reason", "usage", "input_tokens", "output_tokens", "input_tokens_details"),
        *("output_tokens_details", "cached_tokens", "reasoning_tokens", "error", "code", "response", "item", "delta"),
        *("output_index", "content_index", "summary_index", "part", "model"),
        *openai_responses.EVENTS,
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=5),
    max_leaves=25,
)
TYPED = st.fixed_dictionaries(
    {"type": st.sampled_from(["message", "reasoning", "function_call", "custom_tool_call", "x"]) | JSON},
    optional=dict.fromkeys(("content", "summary", "arguments", "input", "phase", "caller", "call_id"), JSON),
)
ALMOST = st.fixed_dictionaries({"output": st.lists(TYPED | JSON, max_size=3)}, optional={"usage": JSON, "status": JSON})
EVENTFUL = st.fixed_dictionaries(
    {"type": st.sampled_from([*openai_responses.EVENTS, "error", "response.failed"])},
    optional={
        "response": ALMOST | JSON,
        "item": TYPED | JSON,
        **dict.fromkeys(("delta", "part", "output_index", "content_index", "summary_index", "error"), JSON),
    },
)


@settings(max_examples=300, deadline=None)
@given(
    st.binary() | (JSON | ALMOST | EVENTFUL).map(lambda value: json.dumps(value).encode()),
    st.sampled_from([200, 400, 429, 503]),
)
def test_arbitrary_replies_never_raise(provider: Provider, raw: bytes, status: int) -> None:
    ended = events([{"type": "response.completed", "response": {"status": "completed"}}])
    for result in (
        interpret(provider, HttpReply(status, body=raw)),
        interpret_stream(provider, HttpReply(status), [b"data: ", raw, b"\n\n", ended]),
        interpret_stream(provider, HttpReply(status, {"content-type": "application/json"}), [raw]),
        openai_responses.decode_frame(Frame("", raw)),
    ):
        error = None if is_successful(result) else result.failure()
        assert error is None or isinstance(error, errors.LLMError)


@given(TEXTS | JSON.map(json.dumps), TEXTS | JSON.map(json.dumps), NAMES | WORDS)
def test_arbitrary_opaque_parts_are_encoded_or_refused(data: str, signature: str, kind: str) -> None:
    parts = (Text("a"), Reasoning("hm", signature), ToolCall("c", "f", data, signature), Opaque(kind, data))
    for part in parts:
        result = openai_responses.encode(build_request(messages=(Message("assistant", (Text("a"), part)),)))
        assert is_successful(result) or isinstance(result.failure(), errors.Unsupported)


# Recorded exchanges

RECORDED = {
    "azure_openai": (4, 0),
    "bedrock_mantle": (3, 0),
    "deepseek": (3, 0),
    "openai": (26, 7),
    "openrouter": (1, 0),
    "xai": (3, 0),
}
"""The number of recorded answers and errors of each provider."""


def recorded_events(exchange: Any) -> list[dict[str, Any]]:
    lines = [line for line in exchange.body.decode().splitlines() if line.startswith("data:")]
    payloads = [line.removeprefix("data:").strip() for line in lines]
    return [json.loads(line) for line in payloads if line != "[DONE]"]


def recorded_response(exchange: Any) -> dict[str, Any]:
    """Return the response, which the last event of a stream holds."""
    response: dict[str, Any] = (
        recorded_events(exchange)[-1]["response"] if exchange.streaming else json.loads(exchange.body)
    )
    return response


def reference_decoding(response: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a response contains, decoded without llmhub."""
    blocks = [block for item in response["output"] if item["type"] == "message" for block in item["content"]]
    thoughts = [item for item in response["output"] if item["type"] == "reasoning"]
    cut = response.get("incomplete_details")
    return {
        "text": "".join(block["text"] for block in blocks if block["type"] == "output_text"),
        "refusal": "".join(block["refusal"] for block in blocks if block["type"] == "refusal"),
        "reasoning": [
            "\n\n".join(piece["text"] for piece in item.get("summary") or item.get("content") or ())
            for item in thoughts
        ],
        "calls": [
            (item["call_id"], item["name"], item.get("arguments", item.get("input")))
            for item in response["output"]
            if item["type"] in {"function_call", "custom_tool_call"}
        ],
        "finish": cut["reason"] if cut else response["status"],
        "usage": response["usage"],
    }


def parse_arguments(arguments: str) -> object:
    """Return parsed arguments, or the string if it is not JSON."""
    try:
        return json.loads(arguments or "{}")
    except ValueError:
        return arguments


def expected_finish(plain: Mapping[str, Any]) -> str:
    reason = openai_responses.FINISH[plain["finish"]]
    if reason == "stop":
        return "tool_calls" if plain["calls"] else "refusal" if plain["refusal"] else reason
    return reason


def expected_usage(usage: Mapping[str, Any]) -> Usage:
    inputs, outputs = usage["input_tokens_details"], usage["output_tokens_details"]
    return Usage(
        input_tokens=usage["input_tokens"],
        output_tokens=usage["total_tokens"] - usage["input_tokens"],
        cached_input_tokens=inputs.get("cached_tokens"),
        cache_write_tokens=inputs.get("cache_write_tokens"),
        reasoning_tokens=outputs["reasoning_tokens"],
    )


@pytest.mark.corpus
@pytest.mark.parametrize("name", RECORDED)
def test_recorded_answers_equal_a_reference_decoding(
    corpus: Callable[[str], list[Any]], provider: Provider, name: str
) -> None:
    answers = failures = 0
    for exchange in corpus(f"{name}-responses"):
        result = (
            interpret_stream(provider, exchange.head, split_bytes(exchange.body, 13))
            if exchange.streaming
            else interpret(provider, exchange.reply)
        )
        if not exchange.ok:
            failures += 1
            continue
        answers += 1
        answer, plain = result.unwrap(), reference_decoding(recorded_response(exchange))
        assert answer.text == plain["text"], exchange.id
        assert answer.refusal == plain["refusal"], exchange.id
        assert [part.text for part in answer.parts if isinstance(part, Reasoning)] == plain["reasoning"], exchange.id
        assert [(c.id, c.name, parse_arguments(c.arguments)) for c in answer.tool_calls] == [
            (id_, called, parse_arguments(arguments)) for id_, called, arguments in plain["calls"]
        ], exchange.id
        assert answer.finish_reason == expected_finish(plain), exchange.id
        counted = replace(answer.usage, service_tier="", reported_cost_usd=None, billed_units=())
        assert counted == expected_usage(plain["usage"]), exchange.id
    assert (answers, failures) == RECORDED[name]


@pytest.mark.corpus
def test_recorded_errors(corpus: Callable[[str], list[Any]], provider: Provider) -> None:
    kinds = [
        type(interpret(provider, exchange.reply).failure())
        for exchange in corpus("openai-responses")
        if not exchange.ok
    ]
    assert sorted(error_type.__name__ for error_type in kinds) == [
        *["AuthFailed"] * 3,
        "ContextTooLong",
        "InvalidRequest",
        *["NotFound"] * 2,
    ]


def without_signatures(answer: CompletionResponse) -> CompletionResponse:
    """Remove ids and encrypted content of reasoning, which some servers regenerate for a stream's last event."""

    def bare(part: Part) -> Part:
        if not isinstance(part, Reasoning):
            return part
        item = {**json.loads(part.signature), "id": "", "encrypted_content": ""}
        return Reasoning(part.text, json.dumps(item, sort_keys=True))

    return replace(answer, parts=tuple(map(bare, answer.parts)))


@pytest.mark.corpus
@pytest.mark.parametrize("name", sorted(set(RECORDED) - {"xai"}))
def test_recorded_streams_equal_their_last_event(
    corpus: Callable[[str], list[Any]], provider: Provider, name: str
) -> None:
    streams = [exchange for exchange in corpus(f"{name}-responses") if exchange.ok and exchange.streaming]
    assert streams
    for exchange in streams:
        answer = interpret_stream(provider, HttpReply(200), split_bytes(exchange.body, 13)).unwrap()
        assert without_signatures(answer) == without_signatures(
            decode_payload(provider, recorded_response(exchange))
        ), exchange.id


@pytest.mark.corpus
@pytest.mark.parametrize("name", RECORDED)
def test_recorded_answers_are_sent_back(corpus: Callable[[str], list[Any]], provider: Provider, name: str) -> None:
    """Every item is encoded again: reasoning and server tools verbatim, calls equivalently."""
    for exchange in corpus(f"{name}-responses"):
        if not exchange.ok:
            continue
        response = recorded_response(exchange)
        back = openai_responses.encode(
            build_request(messages=(Message("assistant", decode_payload(provider, response).parts),))
        ).unwrap()
        result = json.loads(json.dumps(back["input"]))
        expected_items = [item for item in response["output"] if item["type"] != "message"]
        assert [item for item in result if "role" not in item] == [expected_item(item) for item in expected_items], (
            exchange.id
        )
        assert len(result) == len(response["output"]), exchange.id


def expected_item(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return the item as the API takes it back."""
    if item["type"] == "reasoning":
        return {name: value for name, value in item.items() if name != "status" and value is not None}
    if item["type"] not in openai_responses.CALL_ARGUMENTS_FIELDS:
        return dict(item)
    fields = {name: item[name] for name in ("type", "call_id", "name", "namespace", "input") if name in item}
    if "input" in item:
        return fields
    return {**fields, "arguments": json.dumps(json.loads(item["arguments"]), separators=(",", ":"), ensure_ascii=False)}


@pytest.mark.corpus
def test_recorded_answers_equal_the_official_types(corpus: Callable[[str], list[Any]], provider: Provider) -> None:
    compared = 0
    for exchange in corpus("openai-responses"):
        if not exchange.ok or exchange.streaming:
            continue
        answer, other = interpret(provider, exchange.reply).unwrap(), json.loads(exchange.body)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            official = Response.construct(**other)
        assert answer.text == official.output_text, exchange.id
        compared += 1
    assert compared == 21


@pytest.mark.corpus
def test_recorded_streams_equal_the_official_types(corpus: Callable[[str], list[Any]], provider: Provider) -> None:
    compared = 0
    for exchange in corpus("openai-responses"):
        if not exchange.ok or not exchange.streaming:
            continue
        deltas: Sequence[dict[str, Any]] = [
            event for event in recorded_events(exchange) if event["type"] == "response.output_text.delta"
        ]
        text = "".join(EVENT_TYPE.validate_python(event).delta for event in deltas)
        assert interpret_stream(provider, exchange.reply, []).unwrap().text == text, exchange.id
        compared += 1
    assert compared == 5
