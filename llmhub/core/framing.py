"""Bytes as they come off a socket, cut into frames: server-sent events, the AWS event stream, lines of JSON.

``feed(rest, chunk)`` is a pure function of what was left over and what just came. Any split of the same
bytes gives the same frames. Arbitrary bytes never raise.

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
"""The frames that are whole, and the bytes left over for next time."""

FeedFunction: TypeAlias = Callable[[bytes, bytes], FeedResult]

MAX_EVENT_BYTES: Final = 32 << 20
"""An event larger than this is not one."""


def feed_sse(rest: bytes, chunk: bytes) -> FeedResult:
    r"""Cut server-sent events; comments and fields other than ``event`` and ``data`` are passed over.

    Examples
    --------
    >>> feed_sse(b"", b": hi\r\ndata: 1\r\n\r\ndata: 2").unwrap()
    ((Frame(event='', data=b'1', kind='event'),), b'data: 2')
    """
    whole = rest + chunk
    # A line may end in CR LF, LF or CR, so a CR at the very end may yet turn out to be half of a CR LF.
    held = b"\r" if whole.endswith(b"\r") else b""
    body = whole[: len(whole) - len(held)]
    if b"\r" in body:
        body = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    *events, last = blocks = body.split(b"\n\n")
    if len(body) > MAX_EVENT_BYTES and max(map(len, blocks)) > MAX_EVENT_BYTES:
        return Failure(Malformed(message=f"a server-sent event is larger than {MAX_EVENT_BYTES} bytes"))
    return Success((tuple(frame for event in events if (frame := _parse_event(event)) is not None), last + held))


def _parse_event(block: bytes) -> Frame | None:
    """Read the lines of one event; ``None`` where it has no data."""
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
    """Cut AWS event-stream messages, checking the prelude's CRC and the message's.

    Examples
    --------
    >>> feed_aws(b"", bytes(12)).failure().message
    'AWS event stream: impossible message length 0'
    """
    whole = rest + chunk
    frames: list[Frame] = []
    known: dict[bytes, dict[str, str] | None] = {}  # the headers of most messages are the same
    start = 0
    while len(whole) - start >= PRELUDE.size:
        total, header_length, prelude_crc = PRELUDE.unpack_from(whole, start)
        wrong = _prelude_error(whole[start : start + 8], total, header_length, prelude_crc)
        if wrong:
            return Failure(Malformed(message=f"AWS event stream: {wrong}"))
        if len(whole) - start < total:
            break
        message = whole[start : start + total]
        if crc32(message[:-4]) != int.from_bytes(message[-4:], "big"):
            return Failure(Malformed(message="AWS event stream: message checksum mismatch"))
        block = message[PRELUDE.size : PRELUDE.size + header_length]
        headers = known[block] if block in known else known.setdefault(block, _parse_headers(block))
        if headers is None:
            return Failure(Malformed(message="AWS event stream: unreadable headers"))
        frames.append(_message_frame(headers, message[PRELUDE.size + header_length : -4]))
        start += total
    return Success((tuple(frames), whole[start:]))


def _prelude_error(prelude: bytes, total: int, header_length: int, checksum: int) -> str:
    """Say what is wrong with a prelude, or nothing."""
    if not MESSAGE_OVERHEAD <= total <= MAX_MESSAGE_BYTES:
        return f"impossible message length {total}"
    if header_length > min(MAX_HEADER_BYTES, total - MESSAGE_OVERHEAD):
        return f"impossible header length {header_length}"
    return "" if crc32(prelude) == checksum else "prelude checksum mismatch"


def _message_frame(headers: Mapping[str, str], payload: bytes) -> Frame:
    """Name a message by its event, exception or error."""
    kind = headers.get(":message-type", "event")
    if kind == "error":
        return Frame(headers.get(":error-code", ""), headers.get(":error-message", "").encode(), kind)
    return Frame(headers.get(f":{kind}-type", ""), payload, kind)


def _parse_headers(block: bytes) -> dict[str, str] | None:
    """Read typed headers, keeping the text ones; ``None`` where they run past their end."""
    headers: dict[str, str] = {}
    at = 0
    while at < len(block):
        name_end = at + 1 + block[at]
        if name_end >= len(block):
            return None
        name = block[at + 1 : name_end].decode("utf-8", "replace")
        type_, at = block[name_end], name_end + 1
        if type_ in {6, 7}:
            size = int.from_bytes(block[at : at + 2], "big")
            at += 2
        elif type_ in FIXED_VALUE_SIZES:
            size = FIXED_VALUE_SIZES[type_]
        else:
            return None
        if at + size > len(block):
            return None
        if type_ == 7:  # noqa: PLR2004 - the type code of a string
            headers[name] = block[at : at + size].decode("utf-8", "replace")
        at += size
    return headers


def feed_lines(rest: bytes, chunk: bytes) -> FeedResult:
    r"""Cut lines, passing over blank ones.

    Examples
    --------
    >>> feed_lines(b'{"a"', b':1}\r\n\n{').unwrap()
    ((Frame(event='', data=b'{"a":1}', kind='event'),), b'{')
    """
    *lines, last = whole = (rest + chunk).split(b"\n")
    if max(map(len, whole)) > MAX_EVENT_BYTES:
        return Failure(Malformed(message=f"a line of JSON is larger than {MAX_EVENT_BYTES} bytes"))
    return Success((tuple(Frame("", line.strip()) for line in lines if line.strip()), last))


FEEDS: Final[Mapping[Framing, FeedFunction]] = {"sse": feed_sse, "aws_eventstream": feed_aws, "json_lines": feed_lines}


TERMINATORS: Final[Mapping[Framing, bytes]] = {"sse": b"\n\n", "json_lines": b"\n"}
"""What ends an event, where the end of the connection may do so too."""


def flush(framing: Framing, rest: bytes) -> FeedResult:
    r"""Read what is left when the connection closed: an event that lacks only its blank line still counts.

    Examples
    --------
    >>> flush("sse", b"data: [DONE]").unwrap()[0][0].data
    b'[DONE]'
    """
    if framing in TERMINATORS:
        return FEEDS[framing](rest, TERMINATORS[framing]) if rest.strip() else Success(((), b""))
    if rest:
        return Failure(Malformed(message="AWS event stream: it ended inside a message"))
    return Success(((), b""))
