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

# An encoder of AWS messages that shares nothing with the decoder

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
    whole = start + struct.pack(">I", crc32(start)) + headers + payload
    return whole + struct.pack(">I", crc32(whole))


def event(name: str, payload: bytes) -> bytes:
    return message(header(":message-type", "event") + header(":event-type", name), payload)


def fed(framing_name: Framing, pieces: Iterable[bytes]) -> list[Frame] | None:
    """Feed pieces one by one, and the end; ``None`` where it is refused."""
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


def cut(whole: bytes, places: Sequence[int]) -> list[bytes]:
    at = sorted({0, len(whole), *(place % (len(whole) + 1) for place in places)})
    return [whole[start:end] for start, end in pairwise(at)]


places = st.lists(st.integers(0, 10**6), max_size=12)
ENDS = ["\n", "\r\n", "\r"]

# Server-sent events

lines = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=12)


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[Frame]]:
    """Make a stream of events, written in any of the ways there are, and the frames it means."""
    said: list[tuple[str, str]] = []
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
        said += [(line, draw(end)) for line in block]
        said += [("", draw(end)) for _ in range(draw(st.integers(1, 2)))]
        if data:
            frames.append(Frame(name, "\n".join(data).encode()))
    return (draw(st.sampled_from(["", "\ufeff"])) + written(said)).encode(), frames


def written(said: list[tuple[str, str]]) -> str:
    """Join lines and their ends, so that no CR that ends one meets the LF of an empty one after it."""
    whole = ""
    for line, end in said:
        whole += line + ("\r" if whole.endswith("\r") and not line and end == "\n" else end)
    return whole


@given(streams(), places)
def test_any_split_of_a_stream_gives_the_events_that_were_written(
    made: tuple[bytes, list[Frame]], where: list[int]
) -> None:
    stream, frames = made
    assert fed("sse", [stream]) == frames
    assert fed("sse", cut(stream, where)) == frames
    assert fed("sse", [bytes([byte]) for byte in stream]) == frames


@given(
    st.lists(st.sampled_from([b"data", b":", b" ", b"\r", b"\n", b"\r\n", b"x", b"event", b"\xef\xbb\xbf", b"\xff"]))
)
def test_any_split_of_a_wild_stream_gives_the_same_frames(pieces: list[bytes]) -> None:
    stream = b"".join(pieces)
    assert fed("sse", pieces) == fed("sse", [stream]) == fed("sse", [bytes([byte]) for byte in stream])


@pytest.mark.parametrize("end", ENDS)
def test_all_three_line_ends_are_line_ends(end: str) -> None:
    stream = f"\ufeffevent: a{end}data: 1{end}data: 2{end}{end}: note{end}{end}data:3{end}{end}".encode()
    assert fed("sse", [stream]) == [Frame("a", b"1\n2"), Frame("", b"3")]


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
def test_fields_are_read_as_the_standard_says(stream: bytes, data: bytes) -> None:
    assert fed("sse", [stream]) == [Frame("", data)]


def test_the_last_event_counts_though_its_blank_line_is_missing() -> None:
    assert fed("sse", [b"data: 1\n\ndata: 2"]) == [Frame("", b"1"), Frame("", b"2")]
    assert fed("sse", [b"data: 1\r"]) == [Frame("", b"1")]


@pytest.mark.parametrize("where", [[], [3], [9, 14]])
def test_an_event_without_end_is_refused_however_it_comes(where: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "MAX_EVENT_BYTES", 8)
    assert fed("sse", cut(b"data: 123456789\n\n", where)) is None
    assert fed("sse", cut(b"data: 1\n\n" * 4, where)) == [Frame("", b"1")] * 4


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
    said: list[bytes] = []
    frames: list[Frame] = []
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(["event", "exception"]))
        name, payload = draw(names), draw(st.binary(max_size=40))
        headers = [header(":message-type", kind), header(f":{kind}-type", name)]
        headers += [
            header(f"x{at}", value, type_) for at, (type_, value) in enumerate(draw(st.lists(others, max_size=3)))
        ]
        said.append(message(b"".join(draw(st.permutations(headers))), payload))
        frames.append(Frame(name, payload, kind))
    return b"".join(said), frames


@given(aws_streams(), places)
def test_any_split_of_an_aws_stream_gives_the_messages_that_were_written(
    made: tuple[bytes, list[Frame]], where: list[int]
) -> None:
    stream, frames = made
    assert fed("aws_eventstream", [stream]) == frames
    assert fed("aws_eventstream", cut(stream, where)) == frames
    assert fed("aws_eventstream", [bytes([byte]) for byte in stream]) == frames


def test_an_error_message_is_named_by_its_code() -> None:
    said = header(":message-type", "error") + header(":error-code", "Throttled") + header(":error-message", "Slow down")
    assert fed("aws_eventstream", [message(said, b"")]) == [Frame("Throttled", b"Slow down", "error")]


@given(st.integers(0, 10**6), st.integers(1, 255), places)
def test_one_wrong_byte_anywhere_is_an_error(at: int, change: int, where: list[int]) -> None:
    stream = bytearray(event("contentBlockDelta", b'{"delta":{"text":"Hi"}}'))
    stream[at % len(stream)] ^= change
    assert fed("aws_eventstream", cut(bytes(stream), where)) is None


def test_the_checksum_that_is_wrong_is_named() -> None:
    whole = event("e", b"payload")
    prelude = whole[:8] + b"\0\0\0\0" + whole[12:]
    body = whole[:-4] + b"\0\0\0\0"
    assert feed_aws(b"", prelude).failure().message == "AWS event stream: prelude checksum mismatch"
    assert feed_aws(b"", body).failure().message == "AWS event stream: message checksum mismatch"


def test_a_length_that_cannot_be_is_an_error_before_anything_is_waited_for() -> None:
    start = struct.pack(">II", MAX_MESSAGE_BYTES + 1, 0)
    failed = feed_aws(b"", start + struct.pack(">I", crc32(start))).failure()
    assert isinstance(failed, Malformed)
    assert str(MAX_MESSAGE_BYTES + 1) in failed.message


def test_a_stream_that_ends_inside_a_message_is_an_error() -> None:
    assert fed("aws_eventstream", [event("e", b"payload")[:-1]]) is None


@given(st.binary(max_size=60))
def test_headers_that_run_past_their_end_are_an_error_and_never_raise(headers: bytes) -> None:
    read = feed_aws(b"", message(headers, b"x"))
    assert is_successful(read) or isinstance(read.failure(), Malformed)


@pytest.mark.parametrize("headers", [b"\x05ab", b"\x01a", b"\x01a\x07\x00", b"\x01a\x07\x00\x05abc", b"\x01a\x0a"])
def test_headers_cut_short_are_an_error(headers: bytes) -> None:
    assert fed("aws_eventstream", [message(headers, b"x")]) is None


# Both


# Lines of JSON


@given(st.lists(st.sampled_from([b'{"a":1}', b"[]", b"", b" "])), st.sampled_from([b"\n", b"\r\n"]), places)
def test_any_split_of_lines_gives_the_lines_that_were_written(said: list[bytes], end: bytes, where: list[int]) -> None:
    stream = b"".join(line + end for line in said)
    frames = [Frame("", line) for line in said if line.strip()]
    assert fed("json_lines", cut(stream, where)) == frames
    assert fed("json_lines", [bytes([byte]) for byte in stream.removesuffix(end)]) == frames


@pytest.mark.parametrize("where", [[], [3], [9, 14]])
def test_a_line_without_end_is_refused_however_it_comes(where: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "MAX_EVENT_BYTES", 12)
    assert fed("json_lines", cut(b'{"a":123456789}\n', where)) is None
    assert fed("json_lines", cut(b'{"a":1}\n' * 4, where)) == [Frame("", b'{"a":1}')] * 4


@given(st.sampled_from(sorted(FEEDS)), st.lists(st.binary(max_size=64), max_size=8))
def test_arbitrary_bytes_never_raise(name: Framing, pieces: list[bytes]) -> None:
    frames = fed(name, pieces)
    assert frames is None or all(isinstance(frame, Frame) for frame in frames)


def test_feeding_nothing_changes_nothing() -> None:
    assert feed_sse(b"data: 1\r", b"").unwrap() == ((), b"data: 1\r")
    half = event("e", b"payload")[:9]
    assert feed_aws(half, b"").unwrap() == ((), half)
