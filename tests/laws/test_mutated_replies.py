"""Mutated recordings are decoded to a response or an error, with consistent token counts."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from returns.pipeline import is_successful
from returns.result import Result

from llmhub.core.errors import LLMError
from llmhub.core.protocol import interpret, interpret_stream
from llmhub.core.provider import HttpReply, Provider
from llmhub.core.types import TOKEN_CLASSES, CompletionResponse, Usage
from llmhub.providers.registry import PROVIDERS

FOLDER = Path(__file__).parents[1] / "fixtures/conformance"
ROWS = {
    "chat_completions": "openai",
    "responses": "openai-responses",
    "messages": "anthropic",
    "generate_content": "google",
    "stream_generate_content": "google",
    "converse": "bedrock",
    "converse_stream": "bedrock",
}
ODD = (None, True, 0, -1, 7, 9_999, 1 << 70, 0.5, "", "x", "\ud800", [], {}, [None], {"type": "text"}, [{}], [[]])
"""Replacement values."""
pytestmark = [
    pytest.mark.corpus,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="the recorded exchanges are not here"),
]


@dataclass(frozen=True)
class Recorded:
    """A recorded reply, and its framing: ``""`` for a single document."""

    provider: Provider
    reply: HttpReply
    framing: str

    def __repr__(self) -> str:
        return f"{self.provider.name}: {self.reply.status}, {self.framing or 'whole'}, {len(self.reply.body)} bytes"


def read(row: Any) -> Recorded:
    response = row["response"]
    headers = response["headers"]
    provider = PROVIDERS[ROWS[row["api"]]]
    if "body_b64" in response:
        return Recorded(provider, HttpReply(response["status"], headers, base64.b64decode(response["body_b64"])), "aws")
    if "body_text" in response:
        body = response["body_text"].encode()
        return Recorded(provider, HttpReply(response["status"], headers, body), "sse" if row["streaming"] else "")
    return Recorded(provider, HttpReply(response["status"], headers, json.dumps(response.get("body")).encode()), "")


@cache
def recorded() -> list[Recorded]:
    lines = [line for path in sorted(FOLDER.glob("*.jsonl")) for line in path.read_text("utf-8").split("\n") if line]
    rows = [row for row in map(json.loads, lines) if ROWS.get(row["api"], "") in PROVIDERS]
    return [read(row) for row in rows if row["response"].get("body", row["response"].get("body_text", "x"))]


def frames(body: bytes, framing: str) -> list[bytes]:
    if framing == "sse":
        return [frame + b"\n\n" for frame in body.replace(b"\r\n", b"\n").split(b"\n\n") if frame]
    messages = []
    while len(body) >= 16:
        size = struct.unpack_from(">I", body)[0]
        messages.append(body[:size])
        body = body[size:] if size else b""
    return messages


def rewrite(frame: bytes, framing: str, change: Callable[[Any], Any]) -> bytes:
    """Change the JSON in one frame; other frames are returned unchanged."""
    if framing == "sse":
        head, mark, data = frame.partition(b"data:")
        try:
            document = json.loads(data)
        except ValueError:
            return frame
        return head + mark + to_json(change(document)) + b"\n\n" if mark else frame
    _, headers = struct.unpack_from(">II", frame)
    payload = to_json(change(json.loads(frame[12 + headers : -4] or b"{}")))
    prelude = struct.pack(">II", 16 + headers + len(payload), headers)
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + frame[12 : 12 + headers] + payload
    return message + struct.pack(">I", zlib.crc32(message))


def to_json(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


def paths_in(value: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Return the paths of all values within a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in inner:
        yield (*keys, key)
        yield from paths_in(below, (*keys, key))


def replace_at(value: Any, keys: tuple[Any, ...], new: Callable[[], Any] | None) -> Any:
    """Replace the value at a path, or remove it if there is no ``new``."""
    copy = dict(value) if isinstance(value, dict) else list(value)
    if len(keys) > 1:
        copy[keys[0]] = replace_at(copy[keys[0]], keys[1:], new)
    elif new is None:
        del copy[keys[0]]
    else:
        copy[keys[0]] = new()
    return copy


def mutation(data: st.DataObject) -> Callable[[Any], Any]:
    """Draw mutations of a document: removed or replaced values."""

    def change(value: Any) -> Any:
        for _ in range(data.draw(st.integers(1, 3))):
            paths = list(paths_in(value))
            if not paths:
                return data.draw(st.sampled_from(ODD))
            count_paths = [keys for keys in paths if any("sage" in str(key) for key in keys[:-1])]
            paths = count_paths if count_paths and data.draw(st.booleans()) else paths
            new = None if data.draw(st.booleans()) else lambda: data.draw(st.sampled_from(ODD))
            value = replace_at(value, data.draw(st.sampled_from(paths)), new)
        return value

    return change


def broken_stream(recording: Recorded, data: st.DataObject) -> bytes:
    """Draw mutations of a stream: changed, lost or repeated frames, or truncation."""
    pieces = frames(recording.reply.body, recording.framing)
    for _ in range(data.draw(st.integers(0, 3))):
        keys = data.draw(st.integers(0, len(pieces) - 1))
        match data.draw(st.sampled_from(["change", "twice", "lose"])):
            case "change":
                pieces[keys] = rewrite(pieces[keys], recording.framing, mutation(data))
            case "twice":
                pieces.insert(data.draw(st.integers(0, len(pieces))), pieces[keys])
            case _ if len(pieces) > 1:
                del pieces[keys]
    body = b"".join(pieces)
    return body[: data.draw(st.integers(0, len(body)))] if data.draw(st.booleans()) else body


def sound(read: Result[CompletionResponse, LLMError]) -> None:
    """Check that a reply is a response or an error, and that token classes are bounded."""
    if not is_successful(read):
        assert isinstance(read.failure(), LLMError)
        return
    answer = read.unwrap()
    assert isinstance(answer, CompletionResponse)
    counts(answer.usage)


def counts(usage: Usage) -> None:
    every = [getattr(usage, name) for name in (*TOKEN_CLASSES, "cache_write_1h_tokens")]
    assert all(value is None or (type(value) is int and value >= 0) for value in every)
    if usage.input_tokens is not None:
        assert (usage.cached_input_tokens or 0) + (usage.cache_write_tokens or 0) <= usage.input_tokens
    if usage.output_tokens is not None:
        assert (usage.reasoning_tokens or 0) <= usage.output_tokens


def draw_recording(data: st.DataObject, streamed: bool) -> Recorded:
    return data.draw(st.sampled_from([recording for recording in recorded() if bool(recording.framing) is streamed]))


steady = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@given(st.data())
@steady
def test_mutated_documents(data: st.DataObject) -> None:
    recording = draw_recording(data, streamed=False)
    try:
        document = json.loads(recording.reply.body)
    except ValueError:
        document = {}
    body = to_json(mutation(data)(document))
    body = body[: data.draw(st.integers(0, len(body)))] if data.draw(st.integers(0, 9)) == 0 else body
    sound(interpret(recording.provider, HttpReply(recording.reply.status, recording.reply.headers, body)))


@given(st.data())
@steady
def test_mutated_streams(data: st.DataObject) -> None:
    recording = draw_recording(data, streamed=True)
    body = broken_stream(recording, data)
    cut = data.draw(st.integers(0, len(body)))
    head = HttpReply(recording.reply.status, recording.reply.headers)
    split = interpret_stream(recording.provider, head, [body[:cut], body[cut:]])
    sound(split)
    assert interpret_stream(recording.provider, head, [body]) == split


def test_recorded_replies_have_consistent_counts() -> None:
    assert len(recorded()) > 300
    for recording in recorded():
        head = HttpReply(recording.reply.status, recording.reply.headers)
        sound(
            interpret_stream(recording.provider, head, [recording.reply.body])
            if recording.framing
            else interpret(recording.provider, recording.reply)
        )


@pytest.mark.parametrize("count", [0, 9_999_999, None])
def test_any_single_count_may_be_wrong(count: int | None) -> None:
    tried = 0
    for recording in recorded():
        head = HttpReply(recording.reply.status, recording.reply.headers)
        for body in miscounted(recording, count):
            tried += 1
            sound(
                interpret_stream(recording.provider, head, [body])
                if recording.framing
                else interpret(recording.provider, HttpReply(recording.reply.status, recording.reply.headers, body))
            )
    assert tried > 1_000


def miscounted(recording: Recorded, count: int | None) -> Iterator[bytes]:
    """Yield the reply with each of its token counts changed."""
    pieces = frames(recording.reply.body, recording.framing) if recording.framing else [recording.reply.body]
    for index, piece in enumerate(pieces):
        for keys in counted_in(piece, recording.framing):

            def change(document: Any, keys: tuple[Any, ...] = keys) -> Any:
                return replace_at(document, keys, lambda: count)

            new = rewrite(piece, recording.framing, change) if recording.framing else to_json(change(json.loads(piece)))
            yield b"".join([*pieces[:index], new, *pieces[index + 1 :]])


def counted_in(piece: bytes, framing: str) -> list[tuple[Any, ...]]:
    paths: list[tuple[Any, ...]] = []

    def note(document: Any) -> Any:
        paths.extend(
            keys
            for keys in paths_in(document)
            if "oken" in str(keys[-1]) and any("sage" in str(key) for key in keys[:-1])
        )
        return document

    if framing:
        rewrite(piece, framing, note)
    elif piece.lstrip().startswith(b"{"):
        note(json.loads(piece))
    return paths
