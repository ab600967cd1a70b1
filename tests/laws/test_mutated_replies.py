"""Recorded replies with something wrong in them are read all the same: an answer or an error, and sound counts."""

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
from llmhub.core.types import CompletionResponse, Usage
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
"""What is put where something else was."""
pytestmark = [
    pytest.mark.corpus,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="the recorded exchanges are not here"),
]


@dataclass(frozen=True)
class Recorded:
    """A reply as it came, and how its body is cut: ``""`` where it is one document."""

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
    found = []
    while len(body) >= 16:
        size = struct.unpack_from(">I", body)[0]
        found.append(body[:size])
        body = body[size:] if size else b""
    return found


def rewrite(frame: bytes, framing: str, change: Callable[[Any], Any]) -> bytes:
    """Change the JSON in one frame; one that holds none stays."""
    if framing == "sse":
        head, mark, data = frame.partition(b"data:")
        try:
            said = json.loads(data)
        except ValueError:
            return frame
        return head + mark + dumped(change(said)) + b"\n\n" if mark else frame
    _, headers = struct.unpack_from(">II", frame)
    payload = dumped(change(json.loads(frame[12 + headers : -4] or b"{}")))
    prelude = struct.pack(">II", 16 + headers + len(payload), headers)
    whole = prelude + struct.pack(">I", zlib.crc32(prelude)) + frame[12 : 12 + headers] + payload
    return whole + struct.pack(">I", zlib.crc32(whole))


def dumped(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Give the address of everything inside a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in inner:
        yield (*at, key)
        yield from places(below, (*at, key))


def changed(value: Any, at: tuple[Any, ...], new: Callable[[], Any] | None) -> Any:
    """Put something else at an address, or, without ``new``, take it away."""
    copy = dict(value) if isinstance(value, dict) else list(value)
    if len(at) > 1:
        copy[at[0]] = changed(copy[at[0]], at[1:], new)
    elif new is None:
        del copy[at[0]]
    else:
        copy[at[0]] = new()
    return copy


def mutation(data: st.DataObject) -> Callable[[Any], Any]:
    """Draw what happens to a document: a key goes, or something else stands there; once or a few times."""

    def change(value: Any) -> Any:
        for _ in range(data.draw(st.integers(1, 3))):
            found = list(places(value))
            if not found:
                return data.draw(st.sampled_from(ODD))
            counted = [at for at in found if any("sage" in str(key) for key in at[:-1])]
            found = counted if counted and data.draw(st.booleans()) else found
            new = None if data.draw(st.booleans()) else lambda: data.draw(st.sampled_from(ODD))
            value = changed(value, data.draw(st.sampled_from(found)), new)
        return value

    return change


def broken(one: Recorded, data: st.DataObject) -> bytes:
    """Draw what happens to a stream: a frame changes, is lost or comes twice; it may be cut anywhere."""
    pieces = frames(one.reply.body, one.framing)
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(pieces) - 1))
        match data.draw(st.sampled_from(["change", "twice", "lose"])):
            case "change":
                pieces[at] = rewrite(pieces[at], one.framing, mutation(data))
            case "twice":
                pieces.insert(data.draw(st.integers(0, len(pieces))), pieces[at])
            case _ if len(pieces) > 1:
                del pieces[at]
    body = b"".join(pieces)
    return body[: data.draw(st.integers(0, len(body)))] if data.draw(st.booleans()) else body


def sound(read: Result[CompletionResponse, LLMError]) -> None:
    """Every reply is an answer or an error, and no class of tokens exceeds what it is a part of."""
    if not is_successful(read):
        assert isinstance(read.failure(), LLMError)
        return
    answer = read.unwrap()
    assert isinstance(answer, CompletionResponse)
    counts(answer.usage)


def counts(usage: Usage) -> None:
    every = [getattr(usage, name) for name in Usage.__slots__]
    assert all(value is None or (type(value) is int and value >= 0) for value in every)
    if usage.input_tokens is not None:
        assert (usage.cached_input_tokens or 0) + (usage.cache_write_tokens or 0) <= usage.input_tokens
    if usage.output_tokens is not None:
        assert (usage.reasoning_tokens or 0) <= usage.output_tokens


def drawn(data: st.DataObject, streamed: bool) -> Recorded:
    return data.draw(st.sampled_from([one for one in recorded() if bool(one.framing) is streamed]))


steady = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@given(st.data())
@steady
def test_a_changed_document_is_read(data: st.DataObject) -> None:
    one = drawn(data, streamed=False)
    try:
        said = json.loads(one.reply.body)
    except ValueError:
        said = {}
    body = dumped(mutation(data)(said))
    body = body[: data.draw(st.integers(0, len(body)))] if data.draw(st.integers(0, 9)) == 0 else body
    sound(interpret(one.provider, HttpReply(one.reply.status, one.reply.headers, body)))


@given(st.data())
@steady
def test_a_changed_stream_is_read(data: st.DataObject) -> None:
    one = drawn(data, streamed=True)
    body = broken(one, data)
    cut = data.draw(st.integers(0, len(body)))
    head = HttpReply(one.reply.status, one.reply.headers)
    split = interpret_stream(one.provider, head, [body[:cut], body[cut:]])
    sound(split)
    assert interpret_stream(one.provider, head, [body]) == split


def test_replies_as_they_were_recorded_have_sound_counts() -> None:
    assert len(recorded()) > 300
    for one in recorded():
        head = HttpReply(one.reply.status, one.reply.headers)
        sound(
            interpret_stream(one.provider, head, [one.reply.body])
            if one.framing
            else interpret(one.provider, one.reply)
        )


@pytest.mark.parametrize("wrong", [0, 9_999_999, None])
def test_any_one_count_may_be_wrong(wrong: int | None) -> None:
    tried = 0
    for one in recorded():
        head = HttpReply(one.reply.status, one.reply.headers)
        for body in miscounted(one, wrong):
            tried += 1
            sound(
                interpret_stream(one.provider, head, [body])
                if one.framing
                else interpret(one.provider, HttpReply(one.reply.status, one.reply.headers, body))
            )
    assert tried > 1_000


def miscounted(one: Recorded, wrong: int | None) -> Iterator[bytes]:
    """Give the reply once for each count of tokens in it, with that count wrong."""
    pieces = frames(one.reply.body, one.framing) if one.framing else [one.reply.body]
    for index, piece in enumerate(pieces):
        for at in counted_in(piece, one.framing):

            def change(said: Any, at: tuple[Any, ...] = at) -> Any:
                return changed(said, at, lambda: wrong)

            new = rewrite(piece, one.framing, change) if one.framing else dumped(change(json.loads(piece)))
            yield b"".join([*pieces[:index], new, *pieces[index + 1 :]])


def counted_in(piece: bytes, framing: str) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []

    def note(said: Any) -> Any:
        found.extend(at for at in places(said) if "oken" in str(at[-1]) and any("sage" in str(key) for key in at[:-1]))
        return said

    if framing:
        rewrite(piece, framing, note)
    elif piece.lstrip().startswith(b"{"):
        note(json.loads(piece))
    return found
