from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st
from returns.pipeline import is_successful

from llmhub.core import framing
from llmhub.core.errors import Malformed
from llmhub.core.framing import FEEDS, MAX_MESSAGE_BYTES, Frame, Framing, feed_aws, feed_sse, flush

# An encoder of AWS messages that shares no code with the decoder

HEADER_TYPES: dict[int, Callable[[object], bytes]] = {
    0: lambda _: b"",
    1: lambda _: b"",
    2: lambda value: struct.pack(">b", value),
    3: lambda value: struct.pack(">h", value),
    4: lambda value: struct.pack(">i", value),
    5: lambda value: struct.pack(">q", value),
    6: lambda value: struct.pack(">H", len(value)) + value,  # type: ignore[arg-type]
    7: lambda value: struct.pack(">H", len(value)) + value,  # type: ignore[arg-type]
    8: lambda value: struct.pack(">q", value),
    9: lambda value: value,  # type: ignore[return-value]
}


def header(name: str, value: object, kind: int = 7) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return bytes([len(name.encode())]) + name.encode() + bytes([kind]) + HEADER_TYPES[kind](raw)


def message(headers: bytes, payload: bytes) -> bytes:
    start = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    body = start + struct.pack(">I", crc32(start)) + headers + payload
    return body + struct.pack(">I", crc32(body))


def event(name: str, payload: bytes) -> bytes:
    return message(header(":message-type", "event") + header(":event-type", name), payload)


def feed_all(framing_name: Framing, pieces: Iterable[bytes]) -> list[Frame] | None:
    """Return the frames of chunks and flush; ``None`` on an error."""
    rest = b""
    frames: list[Frame] = []
    for piece in pieces:
        read = FEEDS[framing_name](rest, piece)
        if not is_successful(read):
            return None
        new, rest = read.unwrap()
        frames.extend(new)
    last = flush(framing_name, rest)
    if not is_successful(last):
        return None
    return [*frames, *last.unwrap()[0]]


def cut(stream: bytes, places: Sequence[int]) -> list[bytes]:
    bounds = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    return [stream[start:end] for start, end in pairwise(bounds)]


places = st.lists(st.integers(0, 10**6), max_size=12)
ENDS = ["\n", "\r\n", "\r"]

# Server-sent events

lines = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=12)


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[Frame]]:
    """Draw a stream of events in any notation, and its frames."""
    terminated: list[tuple[str, str]] = []
    frames: list[Frame] = []
    end = st.sampled_from(ENDS)
    for _ in range(draw(st.integers(0, 5))):
        name = draw(lines)
        data = draw(st.lists(lines, max_size=3))
        block = [f"event:{draw(st.sampled_from(['', ' ']))}{name}"] if name.strip() == name and name else []
        name = name if block else ""
        block += [f"data: {line}" for line in data]
        for noise in draw(st.lists(st.sampled_from([":", ": ping", "id: 7", "retry: 100", "unknown"]), max_size=2)):
            block.insert(draw(st.integers(0, len(block))), noise)
        terminated += [(line, draw(end)) for line in block]
        terminated += [("", draw(end)) for _ in range(draw(st.integers(1, 2)))]
        if data:
            frames.append(Frame(name, "\n".join(data).encode()))
    return (draw(st.sampled_from(["", "\ufeff"])) + join_lines(terminated)).encode(), frames


def join_lines(lines: list[tuple[str, str]]) -> str:
    """Join lines and terminators, so that a CR is never followed by the LF of an empty line."""
    text = ""
    for line, end in lines:
        text += line + ("\r" if text.endswith("\r") and not line and end == "\n" else end)
    return text


@given(streams(), places)
def test_any_split_of_a_stream_yields_its_events(stream_and_frames: tuple[bytes, list[Frame]], cuts: list[int]) -> None:
    stream, frames = stream_and_frames
    assert feed_all("sse", [stream]) == frames
    assert feed_all("sse", cut(stream, cuts)) == frames
    assert feed_all("sse", [bytes([byte]) for byte in stream]) == frames


@given(
    st.lists(st.sampled_from([b"data", b":", b" ", b"\r", b"\n", b"\r\n", b"x", b"event", b"\xef\xbb\xbf", b"\xff"]))
)
def test_any_split_of_arbitrary_bytes_yields_the_same_frames(pieces: list[bytes]) -> None:
    stream = b"".join(pieces)
    assert feed_all("sse", pieces) == feed_all("sse", [stream]) == feed_all("sse", [bytes([byte]) for byte in stream])


@pytest.mark.parametrize("end", ENDS)
def test_line_terminators(end: str) -> None:
    stream = f"\ufeffevent: a{end}data: 1{end}data: 2{end}{end}: note{end}{end}data:3{end}{end}".encode()
    assert feed_all("sse", [stream]) == [Frame("a", b"1\n2"), Frame("", b"3")]


@pytest.mark.parametrize(
    ("stream", "data"),
    [
        (b"data:  two blanks\n\n", b" two blanks"),
        (b"data\n\n", b""),
        (b"data: \n\n", b""),
        (b"data: a\ndata:\ndata: b\n\n", b"a\n\nb"),
        (b"data: a: b\n\n", b"a: b"),
        (b"Data: no\ndatum: no\ndata: yes\n\n", b"yes"),
        (b"data: \xff\xfe\n\n", b"\xff\xfe"),
    ],
)
def test_fields_are_parsed_by_the_standard(stream: bytes, data: bytes) -> None:
    assert feed_all("sse", [stream]) == [Frame("", data)]


def test_last_event_without_blank_line_is_complete() -> None:
    assert feed_all("sse", [b"data: 1\n\ndata: 2"]) == [Frame("", b"1"), Frame("", b"2")]
    assert feed_all("sse", [b"data: 1\r"]) == [Frame("", b"1")]


@pytest.mark.parametrize("cuts", [[], [3], [9, 14]])
def test_too_large_events_are_an_error(cuts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "MAX_EVENT_BYTES", 8)
    assert feed_all("sse", cut(b"data: 123456789\n\n", cuts)) is None
    assert feed_all("sse", cut(b"data: 1\n\n" * 4, cuts)) == [Frame("", b"1")] * 4


# AWS event streams

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
others = st.one_of(
    st.tuples(st.sampled_from([0, 1]), st.none()),
    st.tuples(st.just(2), st.integers(-128, 127)),
    st.tuples(st.just(3), st.integers(-(2**15), 2**15 - 1)),
    st.tuples(st.just(4), st.integers(-(2**31), 2**31 - 1)),
    st.tuples(st.sampled_from([5, 8]), st.integers(-(2**63), 2**63 - 1)),
    st.tuples(st.sampled_from([6, 7]), st.binary(max_size=9)),
    st.tuples(st.just(9), st.binary(min_size=16, max_size=16)),
)


@st.composite
def aws_streams(draw: st.DrawFn) -> tuple[bytes, list[Frame]]:
    messages: list[bytes] = []
    frames: list[Frame] = []
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(["event", "exception"]))
        name, payload = draw(names), draw(st.binary(max_size=40))
        headers = [header(":message-type", kind), header(f":{kind}-type", name)]
        headers += [
            header(f"x{index}", value, type_) for index, (type_, value) in enumerate(draw(st.lists(others, max_size=3)))
        ]
        messages.append(message(b"".join(draw(st.permutations(headers))), payload))
        frames.append(Frame(name, payload, kind))
    return b"".join(messages), frames


@given(aws_streams(), places)
def test_any_split_of_an_aws_stream_yields_its_messages(
    stream_and_frames: tuple[bytes, list[Frame]], cuts: list[int]
) -> None:
    stream, frames = stream_and_frames
    assert feed_all("aws_eventstream", [stream]) == frames
    assert feed_all("aws_eventstream", cut(stream, cuts)) == frames
    assert feed_all("aws_eventstream", [bytes([byte]) for byte in stream]) == frames


def test_aws_errors_are_named_by_their_code() -> None:
    lines = (
        header(":message-type", "error") + header(":error-code", "Throttled") + header(":error-message", "Slow down")
    )
    assert feed_all("aws_eventstream", [message(lines, b"")]) == [Frame("Throttled", b"Slow down", "error")]


@given(st.integers(0, 10**6), st.integers(1, 255), places)
def test_any_corrupt_byte_is_an_error(position: int, change: int, cuts: list[int]) -> None:
    stream = bytearray(event("contentBlockDelta", b'{"delta":{"text":"Hi"}}'))
    stream[position % len(stream)] ^= change
    assert feed_all("aws_eventstream", cut(bytes(stream), cuts)) is None


def test_checksum_errors_name_the_checksum() -> None:
    message_bytes = event("e", b"payload")
    prelude = message_bytes[:8] + b"\0\0\0\0" + message_bytes[12:]
    body = message_bytes[:-4] + b"\0\0\0\0"
    assert feed_aws(b"", prelude).failure().message == "AWS event stream: prelude checksum mismatch"
    assert feed_aws(b"", body).failure().message == "AWS event stream: message checksum mismatch"


def test_impossible_lengths_are_an_error_at_once() -> None:
    start = struct.pack(">II", MAX_MESSAGE_BYTES + 1, 0)
    failed = feed_aws(b"", start + struct.pack(">I", crc32(start))).failure()
    assert isinstance(failed, Malformed)
    assert str(MAX_MESSAGE_BYTES + 1) in failed.message


def test_truncated_aws_stream_is_an_error() -> None:
    assert feed_all("aws_eventstream", [event("e", b"payload")[:-1]]) is None


@given(st.binary(max_size=60))
def test_headers_beyond_their_block_are_an_error(headers: bytes) -> None:
    read = feed_aws(b"", message(headers, b"x"))
    assert is_successful(read) or isinstance(read.failure(), Malformed)


@pytest.mark.parametrize("headers", [b"\x05ab", b"\x01a", b"\x01a\x07\x00", b"\x01a\x07\x00\x05abc", b"\x01a\x0a"])
def test_truncated_headers_are_an_error(headers: bytes) -> None:
    assert feed_all("aws_eventstream", [message(headers, b"x")]) is None


# Lines of JSON


@given(st.lists(st.sampled_from([b'{"a":1}', b"[]", b"", b" "])), st.sampled_from([b"\n", b"\r\n"]), places)
def test_any_split_of_lines_yields_the_lines(lines: list[bytes], end: bytes, cuts: list[int]) -> None:
    stream = b"".join(line + end for line in lines)
    frames = [Frame("", line) for line in lines if line.strip()]
    assert feed_all("json_lines", cut(stream, cuts)) == frames
    assert feed_all("json_lines", [bytes([byte]) for byte in stream.removesuffix(end)]) == frames


@pytest.mark.parametrize("cuts", [[], [3], [9, 14]])
def test_too_long_lines_are_an_error(cuts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "MAX_EVENT_BYTES", 12)
    assert feed_all("json_lines", cut(b'{"a":123456789}\n', cuts)) is None
    assert feed_all("json_lines", cut(b'{"a":1}\n' * 4, cuts)) == [Frame("", b'{"a":1}')] * 4


@given(st.sampled_from(sorted(FEEDS)), st.lists(st.binary(max_size=64), max_size=8))
def test_arbitrary_bytes_never_raise(name: Framing, pieces: list[bytes]) -> None:
    frames = feed_all(name, pieces)
    assert frames is None or all(isinstance(frame, Frame) for frame in frames)


def test_empty_chunks_change_nothing() -> None:
    assert feed_sse(b"data: 1\r", b"").unwrap() == ((), b"data: 1\r")
    half = event("e", b"payload")[:9]
    assert feed_aws(half, b"").unwrap() == ((), half)
