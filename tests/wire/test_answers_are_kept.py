"""Replies of real servers that deviate from their format are decoded, and what they hold besides text is sent back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from returns.pipeline import is_successful

from llmhub.core import errors
from llmhub.core.protocol import StreamDecoder, interpret, interpret_stream, prepare
from llmhub.core.provider import Endpoint, HttpReply
from llmhub.core.serialization import decode_response, encode_response
from llmhub.core.stream import Fragment
from llmhub.core.types import (
    CompletionRequest,
    CompletionResponse,
    Document,
    Image,
    Message,
    Opaque,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
)
from llmhub.providers.registry import PROVIDERS

ENDPOINT = Endpoint(base_url="http://localhost", api_key="k", region="us-east-1", project="p")
SSE = HttpReply(200, {"content-type": "text/event-stream"})


def events(*payloads: Mapping[str, Any] | str) -> bytes:
    texts = [payload if isinstance(payload, str) else json.dumps(payload) for payload in payloads]
    return "".join(f"data: {text}\n\n" for text in texts).encode()


def chat_chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"id": "c1", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def chat_reply(message: Mapping[str, Any], finish: str = "stop", **more: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    return json.dumps({"id": "c1", "model": "m", "choices": [choice], **more}).encode()


def whole(body: bytes, name: str = "openai") -> CompletionResponse:
    return interpret(PROVIDERS[name], HttpReply(200, {}, body)).unwrap()


def streamed(body: bytes, name: str = "openai", size: int = 7) -> CompletionResponse:
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return interpret_stream(PROVIDERS[name], SSE, pieces).unwrap()


def sent(name: str, *messages: Message, **fields: Any) -> Any:
    request = CompletionRequest(model=fields.pop("model", "m"), messages=messages, **fields)
    prepared = prepare(PROVIDERS[name], ENDPOINT, request, 0.0)
    assert is_successful(prepared), prepared
    return json.loads(prepared.unwrap().body)


ANTHROPIC_STREAM = (
    {"type": "message_start", "message": {"model": "m", "id": "1", "usage": {"input_tokens": 3, "output_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 4}},
    {"type": "message_stop"},
)
GEMINI_STREAM = ({"candidates": [{"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP", "index": 0}]},)


@pytest.mark.parametrize(("name", "payloads"), [("anthropic", ANTHROPIC_STREAM), ("google", GEMINI_STREAM)])
def test_closing_done_of_a_compatible_server_adds_nothing(name: str, payloads: tuple[Any, ...]) -> None:
    assert streamed(events(*payloads, "[DONE]"), name) == streamed(events(*payloads), name)
    assert streamed(events(*payloads, "[DONE]"), name).text == "Hi"


def test_done_alone_is_no_answer() -> None:
    result = interpret_stream(PROVIDERS["openai"], SSE, [events("[DONE]")])
    assert isinstance(result.failure(), errors.Disconnected)


# Text that is cut by UTF-16 units, or is not valid UTF-8


@pytest.mark.parametrize("name", ["openai", "anthropic", "google"])
def test_halves_of_a_surrogate_pair_in_two_pieces_are_joined(name: str) -> None:
    halves = (r"nul ls \ud83d", r"\udc68 ok")
    piece = {
        "openai": '{"choices":[{"index":0,"delta":{"content":"%s"}}]}',
        "anthropic": '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"%s"}}',
        "google": '{"candidates":[{"content":{"parts":[{"text":"%s"}]}}]}',
    }[name]
    end = {"openai": chat_chunk("stop"), "anthropic": ANTHROPIC_STREAM[3], "google": GEMINI_STREAM[0]}[name]
    body = events(*(piece % half for half in halves), end)
    response = streamed(body, name)
    assert response.text.startswith("nul ls \N{MAN} ok")
    assert decode_response(encode_response(response)).unwrap() == response


def test_pieces_of_a_stream_are_valid_unicode() -> None:
    decoder = StreamDecoder(PROVIDERS["openai"], SSE)
    pieces = [r"a\ud83d", r"\udc68b\ud83d", "c"]
    texts = []
    for piece in pieces:
        deltas = decoder.feed(events('{"choices":[{"index":0,"delta":{"content":"' + piece + '"}}]}'))
        texts += [delta.part.text for delta in deltas if isinstance(delta, Fragment) and isinstance(delta.part, Text)]
    assert "".join(texts).encode() == "a\N{MAN}b\N{REPLACEMENT CHARACTER}c".encode()


@given(st.lists(st.sampled_from(["a", "\ud83d", "\udc68", "é", '"', "\\"]), min_size=1, max_size=6))
def test_any_text_streamed_equals_the_same_text_whole(units: list[str]) -> None:
    text = "".join(units)
    stream = events(*(chat_chunk(content=unit) for unit in units), chat_chunk("stop"), "[DONE]")
    assert streamed(stream).text == whole(chat_reply({"content": text})).text
    streamed(stream).text.encode()


@pytest.mark.parametrize("name", ["openai", "anthropic", "google"])
def test_invalid_utf8_in_a_reply_is_replaced(name: str) -> None:
    body = {
        "openai": b'{"choices":[{"message":{"content":"a\xffb"},"finish_reason":"stop"}]}',
        "anthropic": b'{"content":[{"type":"text","text":"a\xffb"}],"stop_reason":"end_turn"}',
        "google": b'{"candidates":[{"content":{"parts":[{"text":"a\xffb"}]},"finishReason":"STOP"}]}',
    }[name]
    assert whole(body, name).text == "a\N{REPLACEMENT CHARACTER}b"


def test_lone_surrogate_in_a_block_whose_input_is_streamed_is_kept_as_json() -> None:
    block = {"type": "server_tool_use", "id": "\ud800", "name": "web_search", "input": {}}
    stream = events(
        ANTHROPIC_STREAM[0],
        {"type": "content_block_start", "index": 0, "content_block": block},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": '{"q":1}'}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}},
        {"type": "message_stop"},
    )
    (part,) = streamed(stream, "anthropic").parts
    assert isinstance(part, Opaque)
    assert json.loads(part.data) == {**block, "input": {"q": 1}}


def test_lone_surrogate_in_the_arguments_of_a_call_is_kept_as_json() -> None:
    body = rb'{"content":[{"type":"tool_use","id":"1","name":"f","input":{"a":"\ud83d"}}],"stop_reason":"tool_use"}'
    (call,) = whole(body, "anthropic").tool_calls
    assert json.loads(call.arguments) == {"a": "\ud83d"}


# Errors within a stream


@pytest.mark.parametrize("name", ["openai", "anthropic", "google"])
def test_text_before_a_bad_event_of_the_same_read_is_delivered(name: str) -> None:
    first = {"openai": chat_chunk(content="Hi"), "anthropic": ANTHROPIC_STREAM[2], "google": GEMINI_STREAM[0]}[name]
    decoder = StreamDecoder(PROVIDERS[name], SSE)
    deltas = decoder.feed(events(first, "{{{", first))
    assert [delta.part for delta in deltas if isinstance(delta, Fragment)] == [Text("Hi")]
    assert isinstance(decoder.error, errors.Malformed)
    assert decoder.feed(events(first)) == ()
    assert decoder.close(deltas).failure() == decoder.error


# What was not asked for: a stream instead of a reply, and the reverse


def responses_events() -> bytes:
    item = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi"}]}
    done = {"id": "r1", "model": "m", "status": "completed", "output": [item], "usage": {"input_tokens": 1}}
    return events(
        {"type": "response.created", "response": {"id": "r1", "model": "m"}},
        {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "Hi"},
        {"type": "response.completed", "response": done},
    )


@pytest.mark.parametrize("content_type", ["text/event-stream", "application/json", ""])
def test_stream_that_was_not_requested_is_decoded(content_type: str) -> None:
    reply = HttpReply(200, {"content-type": content_type}, responses_events())
    assert interpret(PROVIDERS["openai-responses"], reply).unwrap().text == "Hi"


def test_stream_under_the_content_type_of_json_is_decoded() -> None:
    body = events(chat_chunk(content="Hi"), chat_chunk("stop"), "[DONE]")
    for size in (1, 3, 1000):
        pieces = [body[start : start + size] for start in range(0, len(body), size)]
        reply = HttpReply(200, {"content-type": "application/json"})
        assert interpret_stream(PROVIDERS["openai"], reply, pieces).unwrap().text == "Hi"


def test_html_page_is_named_with_its_content_type_and_first_words() -> None:
    page = b"<!doctype html>\n<title>Sign in</title>"
    reply = HttpReply(200, {"content-type": "text/html; charset=utf-8"}, page)
    for result in (
        interpret(PROVIDERS["openai"], reply),
        interpret_stream(PROVIDERS["openai"], reply, []),
        interpret_stream(PROVIDERS["anthropic"], HttpReply(200), [page]),
    ):
        error = result.failure()
        assert isinstance(error, errors.Malformed)
        assert "<!doctype html> <title>Sign in</title>" in error.message
    assert "text/html" in interpret(PROVIDERS["openai"], reply).failure().message
    assert "text/html" in interpret_stream(PROVIDERS["openai"], reply, []).failure().message


def test_another_text_than_a_stream_is_named_and_not_retried() -> None:
    result = interpret_stream(PROVIDERS["openai"], HttpReply(200, {"content-type": "text/plain"}), [b"try later"])
    assert isinstance(result.failure(), errors.Malformed)
    assert "not a stream: try later (content type text/plain)" in result.failure().message
    cut_off = interpret_stream(PROVIDERS["openai"], HttpReply(200, {"content-type": "text/event-stream"}), [b"dat"])
    assert isinstance(cut_off.failure(), errors.Disconnected)


@pytest.mark.parametrize("size", [1, 1000])
def test_json_in_place_of_a_stream_is_decoded_under_any_content_type(size: int) -> None:
    body = chat_reply({"content": "Hi"})
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    for content_type in ("text/plain", "", "text/event-stream"):
        reply = HttpReply(200, {"content-type": content_type})
        assert interpret_stream(PROVIDERS["openai"], reply, pieces).unwrap().text == "Hi"


def test_answer_that_its_server_broke_off_is_an_error_whole_and_streamed() -> None:
    """https://openrouter.ai/docs/api/reference/errors-and-debugging (read 2026-11-30): a choice may hold the error."""
    error = {"message": "Provider returned error", "code": 502, "metadata": {"raw": "died", "provider_name": "Atlas"}}
    choice = {"index": 0, "finish_reason": "error", "error": error}
    body = json.dumps({"id": "1", "choices": [{**choice, "message": {"content": "abc"}}]}).encode()
    stream = events(chat_chunk(content="abc"), {"choices": [{**choice, "delta": {"content": ""}}]})
    for result in (
        interpret(PROVIDERS["openrouter"], HttpReply(200, {}, body)),
        interpret_stream(PROVIDERS["openrouter"], SSE, [stream]),
    ):
        assert errors.is_transient(result.failure())
        assert "Atlas: died" in result.failure().message


# Tool calls


def test_streamed_call_without_an_id_gets_that_of_the_whole_reply() -> None:
    call = {"function": {"name": "f", "arguments": '{"a": 1}'}}
    pieces = [{"index": 0, "function": {"name": "f", "arguments": ""}}, {"index": 0, "function": {"arguments": '{"a"'}}]
    pieces += [{"index": 0, "function": {"arguments": ": 1}"}}]
    stream = events(*(chat_chunk(tool_calls=[piece]) for piece in pieces), chat_chunk("tool_calls"))
    (expected,) = whole(chat_reply({"tool_calls": [call]})).tool_calls
    assert streamed(stream).tool_calls == (expected,)
    assert expected.id


def test_legacy_call_gets_an_id_and_an_empty_one_is_none() -> None:
    legacy = {"name": "f", "arguments": "{}"}
    stream = events(chat_chunk(function_call=legacy), chat_chunk("function_call"))
    assert streamed(stream).tool_calls == whole(chat_reply({"function_call": legacy})).tool_calls
    empty: dict[str, Any] = {"content": "Hi", "function_call": {"name": "", "arguments": ""}}
    assert whole(chat_reply(empty)).parts == (Text("Hi"),)
    assert streamed(events(chat_chunk(**empty), chat_chunk("stop"))).parts == (Text("Hi"),)


def test_calls_end_an_answer_whatever_its_finish_reason_says() -> None:
    call = {"index": 0, "id": "1", "function": {"name": "f", "arguments": "{}"}}
    assert streamed(events(chat_chunk(tool_calls=[call]), "[DONE]")).finish_reason == "tool_calls"
    parts = [{"functionCall": {"name": "f", "args": {}}}]
    body = json.dumps({"candidates": [{"content": {"parts": parts}, "finishReason": "FUNCTION_CALL"}]}).encode()
    assert whole(body, "google").finish_reason == "tool_calls"


def test_failed_response_keeps_its_text() -> None:
    item = {"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}
    body = {"id": "r", "status": "failed", "error": None, "output": [item]}
    response = whole(json.dumps(body).encode(), "openai-responses")
    assert (response.text, response.finish_reason) == ("Hi", "other")
    stream = events(
        {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "Hi"},
        {"type": "response.failed", "response": body},
    )
    assert streamed(stream, "openai-responses").text == "Hi"


def test_answer_that_comes_with_the_end_of_a_stream_alone_is_kept() -> None:
    items = [
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    ]
    body = {"id": "r", "model": "m", "status": "completed", "output": items}
    end = {"type": "response.completed", "response": body}
    done = {"type": "response.output_item.done", "output_index": 0, "item": items[0]}
    created = {"type": "response.created", "response": {**body, "status": "in_progress", "output": []}}
    expected = whole(json.dumps(body).encode(), "openai-responses")
    for stream in ((end,), (created, done, end)):
        assert streamed(events(*stream), "openai-responses") == expected
    delta = {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "Hi"}
    assert streamed(events(created, delta, done, end), "openai-responses").text == "Hi"


# Reasoning details, citations, grounding

DETAILS = [
    {"type": "reasoning.text", "text": "hm", "signature": "s", "format": "anthropic-claude-v1", "index": 0},
    {"type": "reasoning.encrypted", "data": "x", "id": "call_1", "format": "google-gemini-v1", "index": 1},
]


@pytest.mark.parametrize("name", ["openrouter", "vercel", "snowflake", "avian", "compatible"])
def test_reasoning_details_are_kept_and_sent_back(name: str) -> None:
    response = whole(chat_reply({"content": "Hi", "reasoning": "hm", "reasoning_details": DETAILS}), name)
    assert (response.text, response.reasoning) == ("Hi", "hm")
    turns = (Message("user", "q"), Message("assistant", response.parts), Message("user", "more"))
    turn = sent(name, *turns)["messages"][1]
    assert turn == {"role": "assistant", "content": "Hi", "reasoning_details": DETAILS}
    assert decode_response(encode_response(response)).unwrap() == response


def test_streamed_reasoning_details_equal_those_of_the_whole_reply() -> None:
    pieces = [
        {"type": "reasoning.text", "text": "h", "format": "anthropic-claude-v1", "index": 0},
        {"type": "reasoning.text", "text": "m", "format": "anthropic-claude-v1", "index": 0},
        {"type": "reasoning.text", "signature": "s", "format": "anthropic-claude-v1", "index": 0},
        DETAILS[1],
    ]
    chunks = [chat_chunk(reasoning=piece.get("text"), reasoning_details=[piece]) for piece in pieces]
    stream = events(*chunks, chat_chunk(content="Hi"), chat_chunk("stop"))
    response = streamed(stream, "openrouter")
    expected = whole(chat_reply({"content": "Hi", "reasoning": "hm", "reasoning_details": DETAILS}), "openrouter")
    kept = [part for part in response.parts if isinstance(part, Opaque)]
    assert [json.loads(part.data.removesuffix(",").join("[]")) for part in kept] == [DETAILS]
    assert [type(part) for part in response.parts] == [type(part) for part in expected.parts]


@pytest.mark.parametrize("name", ["openai", "groq"])
def test_reasoning_details_are_refused_elsewhere_like_reasoning(name: str) -> None:
    part = Opaque("reasoning_details", json.dumps(DETAILS[0]) + ",")
    turns = (Message("user", "q"), Message("assistant", (part, Text("Hi"))), Message("user", "more"))
    request = CompletionRequest(model="m", messages=turns)
    assert isinstance(prepare(PROVIDERS[name], ENDPOINT, request, 0.0).failure(), errors.Unsupported)
    assert sent(name, *turns, unsupported="drop")["messages"][1] == {"role": "assistant", "content": "Hi"}


SOURCES = [{"title": "t", "url": "https://h/1"}, {"title": "u", "url": "https://h/2"}]


def test_sources_of_an_answer_are_kept_once_and_never_hinder_the_next_turn() -> None:
    body = chat_reply({"content": "Hi"}, citations=["https://h/1"], search_results=SOURCES, images=[{"url": "i"}])
    response = whole(body, "perplexity")
    assert [part.kind for part in response.parts[1:] if isinstance(part, Opaque)] == [
        "search_result",
        "search_result",
        "search_image",
    ]
    more = {"search_results": SOURCES, "images": [{"url": "i"}]}
    stream = events(*({**chat_chunk(content=text), **more} for text in "Hi"), {**chat_chunk("stop"), **more})
    assert streamed(stream, "perplexity").parts == response.parts
    for name in ("perplexity", "anthropic", "google", "openai-responses", "bedrock", "ollama-native"):
        assert sent(name, Message("user", "q"), Message("assistant", response.parts), Message("user", "more"))


def test_citations_without_results_and_annotations_are_kept() -> None:
    response = whole(chat_reply({"content": "Hi"}, citations=["https://h/1"]), "perplexity")
    assert response.parts[1:] == (Opaque("search_result", '{"url":"https://h/1"}'),)
    note = {"type": "url_citation", "url_citation": {"url": "https://h/1"}}
    assert whole(chat_reply({"content": "Hi", "annotations": [note]})).parts[1:] == (
        Opaque("annotation", json.dumps(note, separators=(",", ":"))),
    )
    assert whole(chat_reply({"content": "Hi", "annotations": []})).parts == (Text("Hi"),)


@pytest.mark.parametrize("field", ["groundingMetadata", "urlContextMetadata", "citationMetadata"])
def test_grounding_of_gemini_is_kept(field: str) -> None:
    candidate = {"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP", field: {"webSearchQueries": ["q"]}}
    response = whole(json.dumps({"candidates": [candidate]}).encode(), "google")
    assert response.parts == (Text("Hi"), Opaque(field, '{"webSearchQueries":["q"]}'))
    assert streamed(events({"candidates": [candidate]}), "google").parts == response.parts
    assert sent("google", Message("user", "q"), Message("assistant", response.parts), Message("user", "more"))


# Turns that go back as they came


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("groq", "reasoning"),
        ("cerebras", "reasoning"),
        ("together", "reasoning"),
        ("huggingface", "reasoning"),
        ("deepseek", "reasoning_content"),
        ("openrouter", "reasoning"),
    ],
)
def test_reasoning_is_sent_back_so_that_a_tool_loop_goes_on(name: str, field: str) -> None:
    answer = Message("assistant", (Reasoning("hm"), ToolCall("1", "f")))
    turn = sent(name, Message("user", "q"), answer, Message("user", "more"))["messages"][1]
    assert turn[field] == "hm"
    assert turn["tool_calls"][0]["id"] == "1"


def test_mistral_takes_its_reasoning_back_as_a_block_of_content() -> None:
    answer = Message("assistant", (Reasoning("hm"), Text("Hi"), ToolCall("1", "f")))
    turn = sent("mistral", Message("user", "q"), answer, Message("user", "more"))["messages"][1]
    assert turn["content"] == [
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
        {"type": "text", "text": "Hi"},
    ]
    assert "reasoning_content" not in turn


def test_compaction_item_is_sent_back() -> None:
    item = {"type": "compaction", "id": "cmp_1", "encrypted_content": "x"}
    body = {"id": "r", "status": "completed", "output": [item]}
    parts = whole(json.dumps(body).encode(), "openai-responses").parts
    assert sent("openai-responses", Message("assistant", parts), Message("user", "more"))["input"][0] == item


RECORDING = {"id": "audio_1", "data": "UklGRgA=", "transcript": "Hello", "expires_at": 1}


def test_recording_is_kept_with_its_media_type_and_sent_back_by_its_id() -> None:
    response = whole(chat_reply({"content": None, "audio": RECORDING}))
    assert response.parts == (Text("Hello"), Document(data="UklGRgA=", media_type="audio/wav", name="audio_1"))
    assert decode_response(encode_response(response)).unwrap().parts == response.parts
    assert '<audio controls src="data:audio/wav;base64,UklGRgA=">' in response._repr_html_()
    assert "a recording" in repr(response)
    turns = Message("user", "q"), Message("assistant", response.parts), Message("user", "more")
    assert sent("openai", *turns)["messages"][1] == {"role": "assistant", "content": None, "audio": {"id": "audio_1"}}
    assert sent("azure", *turns)["messages"][1]["audio"] == {"id": "audio_1"}


@pytest.mark.parametrize("name", ["groq", "anthropic", "openai-responses", "bedrock", "ollama-native", "cohere-native"])
def test_transcript_of_a_recording_is_sent_to_other_servers(name: str) -> None:
    response = whole(chat_reply({"content": None, "audio": RECORDING}))
    turns = Message("user", "q"), Message("assistant", response.parts), Message("user", "more")
    body = json.dumps(sent(name, *turns))
    assert "Hello" in body
    assert "audio" not in body


def test_streamed_recording_is_that_of_the_whole_reply() -> None:
    """Each piece is base64 of its own, so the pieces may be padded."""
    deltas = [{"id": "audio_1"}, {"transcript": "He"}, {"data": "UklGRg=="}, {"transcript": "llo"}, {"data": "AA=="}]
    chunks = [chat_chunk(audio=delta) for delta in deltas]
    response = streamed(events(*chunks, chat_chunk("stop"), "[DONE]"))
    assert response.parts == whole(chat_reply({"content": None, "audio": RECORDING})).parts


def test_recording_of_gemini_is_kept_whole_and_streamed() -> None:
    def reply(data: str, **more: str) -> dict[str, Any]:
        part = {"inlineData": {"mimeType": "audio/L16;rate=24000", "data": data}}
        return {"candidates": [{"content": {"parts": [part]}, "index": 0, **more}]}

    response = whole(json.dumps(reply("AAE=", finishReason="STOP")).encode(), "google")
    assert response.parts == (Document(data="AAE=", media_type="audio/L16;rate=24000"),)
    assert streamed(events(reply("AA=="), reply("AQ==", finishReason="STOP")), "google").parts == response.parts
    turn = sent("google", Message("user", "q"), Message("assistant", response.parts), Message("user", "r"))["contents"][
        1
    ]
    assert turn["parts"] == [{"inlineData": {"mimeType": "audio/L16;rate=24000", "data": "AAE="}}]


SIGNED_CALL = {
    "id": "1",
    "type": "function",
    "function": {"name": "f", "arguments": "{}"},
    "extra_content": {"google": {"thought_signature": "AVSoXO4="}},
}


def test_signature_of_a_call_of_gemini_is_sent_back_where_it_is_taken() -> None:
    """https://ai.google.dev/gemini-api/docs/thought-signatures (read 2026-11-30): without it the next turn is a 400."""
    response = whole(chat_reply({"content": None, "tool_calls": [SIGNED_CALL]}, "tool_calls"), "compatible")
    assert response.tool_calls == (ToolCall("1", "f", "{}", "AVSoXO4="),)
    chunk = chat_chunk(tool_calls=[{**SIGNED_CALL, "index": 0}])
    assert streamed(events(chunk, chat_chunk("tool_calls"), "[DONE]"), "compatible").parts == response.parts
    turns = Message("user", "q"), Message("assistant", response.parts), Message("tool", ToolResult("1", "x"))
    assert sent("compatible", *turns)["messages"][1]["tool_calls"] == [SIGNED_CALL]
    for other in ("openai", "groq"):
        assert "extra_content" not in sent(other, *turns)["messages"][1]["tool_calls"][0]
    foreign = Message("assistant", ToolCall("1", "f", "{}", '{"type":"custom_tool_call"}'))
    assert "extra_content" not in sent("compatible", turns[0], foreign)["messages"][1]["tool_calls"][0]


PNG = "iVBORw0KGgo="
PICTURE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}, "index": 0}
"""A picture as OpenRouter, Vercel and LiteLLM have it (https://openrouter.ai/docs/features/multimodal/image-generation,
read 2026-11-30)."""
PICTURES = (Image(data=PNG, media_type="image/png"), Image(url="https://h/a.webp"))
LINK = {"type": "image_url", "image_url": {"url": "https://h/a.webp"}, "index": 0}


@pytest.mark.parametrize("content", ["Here it is.", "", None])
def test_pictures_of_a_chat_reply_are_kept(content: str | None) -> None:
    response = whole(chat_reply({"content": content, "images": [PICTURE, LINK]}), "openrouter")
    assert response.parts == (*([Text(content)] if content else []), *PICTURES)
    assert response.images == PICTURES
    assert response.images[0].to_bytes() == b"\x89PNG\r\n\x1a\n"
    assert decode_response(encode_response(response)).unwrap() == response
    assert "2 images" in repr(response)
    assert f'src="data:image/png;base64,{PNG}"' in response._repr_html_()


def test_pictures_in_the_content_of_a_chat_reply_are_kept() -> None:
    content = [PICTURE, {"type": "text", "text": "Here."}, LINK]
    expected = (Text("Here."), *PICTURES)
    assert whole(chat_reply({"content": content})).parts == expected
    chunks = [chat_chunk(content=[block]) for block in content]
    assert streamed(events(*chunks, chat_chunk("stop"), "[DONE]")).parts == expected


def test_streamed_pictures_are_those_of_the_whole_reply() -> None:
    """Every chunk may number its pictures from 0, and the last one may repeat them."""
    chunks = [chat_chunk(content="Hi", images=[]), chat_chunk(images=[PICTURE]), chat_chunk(content="", images=[LINK])]
    body = events(*chunks, chat_chunk("stop", images=[PICTURE, LINK]), "[DONE]")
    assert streamed(body, "openrouter").parts == (Text("Hi"), *PICTURES)
    message = {"content": "Hi", "images": [PICTURE, LINK, PICTURE]}
    assert whole(chat_reply(message), "openrouter").parts == (Text("Hi"), *PICTURES)


@pytest.mark.parametrize("name", ["openrouter", "vercel", "litellm", "compatible"])
def test_pictures_are_sent_back_to_gateways_as_they_came(name: str) -> None:
    turns = Message("user", "q"), Message("assistant", (Text("Hi"), *PICTURES)), Message("user", "more")
    turn = sent(name, *turns)["messages"][1]
    assert turn["content"] == "Hi"
    assert [image["image_url"]["url"] for image in turn["images"]] == [PICTURE["image_url"]["url"], "https://h/a.webp"]


def test_pictures_of_an_answer_are_refused_where_no_server_takes_them() -> None:
    """OpenAI answers 400: https://github.com/openai/openai-node/issues/1030 (read 2026-11-30)."""
    turns = Message("user", "q"), Message("assistant", PICTURES[0]), Message("user", "more")
    for name in ("openai", "groq"):
        result = prepare(PROVIDERS[name], ENDPOINT, CompletionRequest(model="m", messages=turns), 0.0)
        assert result.failure().path == "$.messages[1].parts[0]"
        assert "pass it in a user message" in result.failure().message


def test_picture_of_gemini_is_kept_whole_and_streamed_and_sent_back() -> None:
    def reply(*data: str, **more: str) -> dict[str, Any]:
        parts = [{"inlineData": {"mimeType": "image/png", "data": each}} for each in data]
        return {"candidates": [{"content": {"parts": parts}, "index": 0, **more}]}

    expected = (Image(data=PNG, media_type="image/png"), Image(data="iVBORw0KGgoA", media_type="image/png"))
    body = json.dumps(reply(PNG, "iVBORw0KGgoA", finishReason="STOP")).encode()
    assert whole(body, "google").parts == expected
    assert streamed(events(reply(PNG), reply("iVBORw0KGgoA", finishReason="STOP")), "google").parts == expected
    turns = Message("user", "q"), Message("assistant", expected), Message("user", "more")
    assert sent("google", *turns)["contents"][1]["parts"][0] == {"inlineData": {"mimeType": "image/png", "data": PNG}}


GENERATED = {
    "type": "image_generation_call",
    "id": "ig_1",
    "status": "completed",
    "output_format": "webp",
    "revised_prompt": "a cat",
    "result": "UklGRg==",
}
"""As in the types of openai 3.57.0 (read 2026-11-30); the documentation names png as the default format."""


@pytest.mark.parametrize(("form", "media_type"), [("webp", "image/webp"), ("png", "image/png"), (None, "image/png")])
def test_picture_of_the_responses_api_is_kept_and_its_item_sent_back(form: str | None, media_type: str) -> None:
    item = {name: value for name, value in {**GENERATED, "output_format": form}.items() if value}
    body = {"id": "r", "model": "m", "status": "completed", "output": [item]}
    response = whole(json.dumps(body).encode(), "openai-responses")
    assert response.images == (Image(data="UklGRg==", media_type=media_type),)
    assert "UklGRg" not in next(part.data for part in response.parts if isinstance(part, Opaque))
    preview = {"type": "response.image_generation_call.partial_image", "output_index": 0, "partial_image_b64": "AA=="}
    done = {"type": "response.output_item.done", "output_index": 0, "item": item}
    stream = events(preview, done, {"type": "response.completed", "response": body})
    assert streamed(stream, "openai-responses").parts == response.parts
    turns = Message("assistant", response.parts), Message("user", "more")
    assert sent("openai-responses", *turns)["input"][0] == item


def test_picture_of_the_responses_api_without_its_item_is_refused() -> None:
    turns = Message("assistant", PICTURES[0]), Message("user", "more")
    result = prepare(PROVIDERS["openai-responses"], ENDPOINT, CompletionRequest(model="m", messages=turns), 0.0)
    assert isinstance(result.failure(), errors.Unsupported)


def test_tools_that_the_server_ran_are_kept_beside_a_plain_text() -> None:
    parts = (Text("x"), Opaque("executed_tool", '{"type":"search"}'))
    assert (
        whole(chat_reply({"content": "x", "executed_tools": [{"type": "search"}]}, usage={"total_tokens": 1})).parts
        == parts
    )
    chunk = chat_chunk(content="x", executed_tools=[{"type": "search"}])
    assert streamed(events(chunk, chat_chunk("stop"), "[DONE]")).parts == parts


def test_moderation_of_an_answer_is_kept_and_not_sent_back() -> None:
    moderation = {"input": {"results": [{"flagged": False}]}}
    body = chat_reply({"content": "x"}, moderation=moderation)
    parts = whole(body).parts
    assert parts == (Text("x"), Opaque("moderation", json.dumps(moderation, separators=(",", ":"))))
    chunk = {**chat_chunk("stop", content="x"), "moderation": moderation}
    assert streamed(events(chunk, "[DONE]")).parts == parts
    assert sent("openai", Message("assistant", parts), Message("user", "more"))["messages"][0]["content"] == "x"


def test_moderation_in_the_responses_api_is_kept() -> None:
    item = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "x"}]}
    body = {
        "id": "r",
        "model": "m",
        "status": "completed",
        "output": [item],
        "moderation": {"input": {"flagged": True}},
    }
    parts = whole(json.dumps(body).encode(), "openai-responses").parts
    assert parts == (Text("x"), Opaque("moderation", '{"input":{"flagged":true}}'))
    delta = {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "x"}
    done = {"type": "response.completed", "response": body}
    assert streamed(events(delta, done), "openai-responses").parts == parts
    turns = Message("user", "q"), Message("assistant", parts), Message("user", "more")
    assert "moderation" not in json.dumps(sent("openai-responses", *turns))


def test_log_probabilities_in_parallel_lists_are_read() -> None:
    logprobs = {"tokens": ["a", "b"], "token_logprobs": [-0.5, None]}
    choice = {"index": 0, "message": {"role": "assistant", "content": "ab"}, "finish_reason": "stop"}
    body = json.dumps({"id": "c1", "model": "m", "choices": [{**choice, "logprobs": logprobs}]}).encode()
    assert [token.token for token in whole(body, "together").logprobs] == ["a", "b"]


def test_call_of_a_custom_tool_is_sent_back_as_one() -> None:
    call = {"id": "1", "type": "custom", "custom": {"name": "sql", "input": "SELECT 1"}}
    parts = whole(chat_reply({"content": None, "tool_calls": [call]}, "tool_calls")).parts
    tools = [{"type": "custom", "custom": {"name": "sql"}}]
    turns = Message("user", "q"), Message("assistant", (*parts, ToolCall("2", "other")))
    payload = sent("openai", *turns, extra={"tools": tools})
    assert payload["messages"][1]["tool_calls"][0] == call
    assert payload["messages"][1]["tool_calls"][1]["type"] == "function"


def test_ollama_takes_a_picture_in_the_result_of_a_tool() -> None:
    picture = Image(data="iVBORw0KGgo=", media_type="image/png")
    turns = Message("assistant", ToolCall("1", "f")), Message("tool", ToolResult("1", (Text("a"), picture)))
    content = sent("ollama", Message("user", "q"), *turns)["messages"][2]["content"]
    assert [block["type"] for block in content] == ["text", "image_url"]


@pytest.mark.parametrize("model", ["claude-opus-4-8", "claude-fable-5", "claude-mythos-5-2", "claude-sonnet-5"])
def test_system_turn_stays_in_its_place_where_claude_takes_it(model: str) -> None:
    turns = (Message("system", "a"), Message("user", "q"), Message("system", "b"), Message("user", "r"))
    payload = sent("anthropic", *turns, model=model)
    assert payload["system"] == "a"
    assert payload["messages"] == [
        {"role": "user", "content": "q"},
        {"role": "system", "content": "b"},
        {"role": "user", "content": "r"},
    ]
    assert sent("anthropic", *turns, model="claude-haiku-4-5")["system"] == [
        {"type": "text", "text": "a"},
        {"type": "text", "text": "b"},
    ]


@pytest.mark.corpus
def test_recorded_answers_with_reasoning_details_keep_them(corpus: Callable[[str], list[Any]]) -> None:
    kept = 0
    for exchange in corpus("openrouter-chat_completions"):
        if not exchange.ok or b'"reasoning_details":[{' not in exchange.body.replace(b" ", b""):
            continue
        provider = PROVIDERS["openrouter"]
        result = (
            interpret_stream(provider, exchange.reply, [])
            if exchange.streaming
            else interpret(provider, exchange.reply)
        )
        parts = result.unwrap().parts if is_successful(result) else ()
        kept += any(isinstance(part, Opaque) and part.kind == "reasoning_details" for part in parts)
    assert kept > 0
