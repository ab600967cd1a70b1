"""Split the bytes of a stream into frames: server-sent events, AWS event streams, lines of JSON.

``feed(rest, chunk)`` is a pure function of the bytes left over and the bytes received. Law: any split of the same bytes
yields the same frames. Arbitrary bytes never raise.

Sources: https://html.spec.whatwg.org/multipage/server-sent-events.html and
https://docs.aws.amazon.com/AmazonS3/latest/API/RESTSelectObjectAppendix.html (read 2026-11-22).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias
from zlib import crc32

from returns.result import Failure, Result, Success

from llmhub.core.errors import LLMError, Malformed

Framing: TypeAlias = Literal["sse", "aws_eventstream", "json_lines"]


@dataclass(frozen=True, slots=True)
class Frame:
    """One event: its name, its data, and (AWS) whether it is an ``event``, an ``exception`` or an ``error``."""

    event: str
    data: bytes
    kind: str = "event"


FeedResult: TypeAlias = Result[tuple[tuple[Frame, ...], bytes], LLMError]
"""Complete frames, and the bytes left over for the next call."""

FeedFunction: TypeAlias = Callable[[bytes, bytes], FeedResult]

MAX_EVENT_BYTES: Final = 32 << 20
"""Larger events are an error, so that memory is bounded."""


def feed_sse(rest: bytes, chunk: bytes) -> FeedResult:
    r"""Split server-sent events; comments and fields other than ``event`` and ``data`` are ignored.

    Examples
    --------
    >>> feed_sse(b"", b": hi\r\ndata: 1\r\n\r\ndata: 2").unwrap()
    ((Frame(event='', data=b'1', kind='event'),), b'data: 2')
    """
    buffer = rest + chunk
    # A line may end in CR LF, LF or CR, so a CR at the very end may yet turn out to be half of a CR LF.
    pending_cr = b"\r" if buffer.endswith(b"\r") else b""
    body = buffer[: len(buffer) - len(pending_cr)]
    if b"\r" in body:
        body = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    *events, last = blocks = body.split(b"\n\n")
    if len(body) > MAX_EVENT_BYTES and max(map(len, blocks)) > MAX_EVENT_BYTES:
        return Failure(Malformed(message=f"a server-sent event is larger than {MAX_EVENT_BYTES} bytes"))
    return Success((tuple(frame for event in events if (frame := _parse_event(event)) is not None), last + pending_cr))


def _parse_event(block: bytes) -> Frame | None:
    """Parse the lines of one event; ``None`` if it has no data."""
    name = ""
    data: list[bytes] = []
    for line in block.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        key, _, value = line.partition(b":")
        if key == b"data":
            data.append(value.removeprefix(b" "))
        elif key == b"event":
            name = value.removeprefix(b" ").decode("utf-8", "replace")
    return Frame(name, b"\n".join(data)) if data else None


PRELUDE: Final = struct.Struct(">III")
MESSAGE_OVERHEAD: Final = 16
"""Prelude (12 bytes) and the closing CRC (4)."""
MAX_HEADER_BYTES: Final = 128 << 10
MAX_MESSAGE_BYTES: Final = (24 << 20) + MAX_HEADER_BYTES + MESSAGE_OVERHEAD
FIXED_VALUE_SIZES: Final[Mapping[int, int]] = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Sizes of header values by type; types 6 and 7 carry their own length."""


def feed_aws(rest: bytes, chunk: bytes) -> FeedResult:
    """Split AWS event-stream messages; the checksums of prelude and message are verified.

    Examples
    --------
    >>> feed_aws(b"", bytes(12)).failure().message
    'AWS event stream: impossible message length 0'
    """
    buffer = rest + chunk
    frames: list[Frame] = []
    headers_by_block: dict[bytes, dict[str, str] | None] = {}  # most messages have the same headers
    start = 0
    while len(buffer) - start >= PRELUDE.size:
        total, header_length, prelude_crc = PRELUDE.unpack_from(buffer, start)
        error = _prelude_error(buffer[start : start + 8], total, header_length, prelude_crc)
        if error:
            return Failure(Malformed(message=f"AWS event stream: {error}"))
        if len(buffer) - start < total:
            break
        message = buffer[start : start + total]
        if crc32(message[:-4]) != int.from_bytes(message[-4:], "big"):
            return Failure(Malformed(message="AWS event stream: message checksum mismatch"))
        block = message[PRELUDE.size : PRELUDE.size + header_length]
        headers = (
            headers_by_block[block]
            if block in headers_by_block
            else headers_by_block.setdefault(block, _parse_headers(block))
        )
        if headers is None:
            return Failure(Malformed(message="AWS event stream: unreadable headers"))
        frames.append(_message_frame(headers, message[PRELUDE.size + header_length : -4]))
        start += total
    return Success((tuple(frames), buffer[start:]))


def _prelude_error(prelude: bytes, total: int, header_length: int, checksum: int) -> str:
    """Return what is wrong with a prelude, or an empty string."""
    if not MESSAGE_OVERHEAD <= total <= MAX_MESSAGE_BYTES:
        return f"impossible message length {total}"
    if header_length > min(MAX_HEADER_BYTES, total - MESSAGE_OVERHEAD):
        return f"impossible header length {header_length}"
    return "" if crc32(prelude) == checksum else "prelude checksum mismatch"


def _message_frame(headers: Mapping[str, str], payload: bytes) -> Frame:
    """Return a message as a frame named by its event, exception or error."""
    kind = headers.get(":message-type", "event")
    if kind == "error":
        return Frame(headers.get(":error-code", ""), headers.get(":error-message", "").encode(), kind)
    return Frame(headers.get(f":{kind}-type", ""), payload, kind)


def _parse_headers(block: bytes) -> dict[str, str] | None:
    """Parse typed headers, keeping strings; ``None`` if they exceed their block."""
    headers: dict[str, str] = {}
    position = 0
    while position < len(block):
        name_end = position + 1 + block[position]
        if name_end >= len(block):
            return None
        name = block[position + 1 : name_end].decode("utf-8", "replace")
        type_, position = block[name_end], name_end + 1
        if type_ in {6, 7}:
            size = int.from_bytes(block[position : position + 2], "big")
            position += 2
        elif type_ in FIXED_VALUE_SIZES:
            size = FIXED_VALUE_SIZES[type_]
        else:
            return None
        if position + size > len(block):
            return None
        if type_ == 7:  # noqa: PLR2004 - the type code of a string
            headers[name] = block[position : position + size].decode("utf-8", "replace")
        position += size
    return headers


def feed_lines(rest: bytes, chunk: bytes) -> FeedResult:
    r"""Split lines of JSON; blank lines are ignored.

    Examples
    --------
    >>> feed_lines(b'{"a"', b':1}\r\n\n{').unwrap()
    ((Frame(event='', data=b'{"a":1}', kind='event'),), b'{')
    """
    *lines, last = parts = (rest + chunk).split(b"\n")
    if max(map(len, parts)) > MAX_EVENT_BYTES:
        return Failure(Malformed(message=f"a line of JSON is larger than {MAX_EVENT_BYTES} bytes"))
    return Success((tuple(Frame("", line.strip()) for line in lines if line.strip()), last))


FEEDS: Final[Mapping[Framing, FeedFunction]] = {"sse": feed_sse, "aws_eventstream": feed_aws, "json_lines": feed_lines}
TERMINATORS: Final[Mapping[Framing, bytes]] = {"sse": b"\n\n", "json_lines": b"\n"}
"""Terminators that may be missing at the end of a stream."""


def flush(framing: Framing, rest: bytes) -> FeedResult:
    r"""Parse the bytes left over at the end of a stream; an event that lacks only its terminator is complete.

    Examples
    --------
    >>> flush("sse", b"data: [DONE]").unwrap()[0][0].data
    b'[DONE]'
    """
    if framing in TERMINATORS:
        return FEEDS[framing](rest, TERMINATORS[framing]) if rest.strip() else Success(((), b""))
    if rest:
        return Failure(Malformed(message="AWS event stream: it ended within a message"))
    return Success(((), b""))
