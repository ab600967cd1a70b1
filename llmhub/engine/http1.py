"""Encode HTTP/1.1 requests and parse their replies, as pure functions of bytes.

The parser is strict: a reply whose end is not certain is an error, and a connection may be used again only after a
reply that ended where it said. Source: RFC 9112, https://www.rfc-editor.org/rfc/rfc9112 (read 2026-11-30).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

MAX_HEAD_BYTES: Final = 64 << 10
"""Maximum size of a reply's head, and of its trailers."""
MAX_INTERIM_REPLIES: Final = 32
"""Maximum number of interim replies (status 1xx) before the final one; a server can send them for ever."""
MAX_CHUNK_LINE_BYTES: Final = 4 << 10
"""Maximum size of the line before a chunk."""
MIN_PART_BYTES: Final = 16 << 10
"""Parts of a body that are smaller are gathered in one array: an object for each could take more than they do."""
MAX_CACHED_HEADS: Final = 64
"""Request heads kept for one URL: one for each combination of headers."""

FIELD_NAME: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
"""A header name (RFC 9110, section 5.6.2)."""
HEADER_NAME: Final = re.compile(FIELD_NAME)
INVALID_IN_VALUE: Final = re.compile(r"[\x00\r\n]")
END_OF_HEAD: Final = re.compile(rb"\n\r?\n")
"""Some servers end lines with a line feed alone."""
REPLY_HEAD: Final = re.compile(
    rf"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: [^\r\n\x00]*)?((?:\r?\n{FIELD_NAME}:[^\r\n\x00]*)*)\r?".encode()
)
CONTENT_LENGTH: Final = re.compile(r"([0-9]{1,18})(?:[ \t]*,[ \t]*\1)*", re.ASCII)
CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n\x00]*)?\r?\n")
LINE_END: Final = re.compile(rb"\r?\n")
TRAILER_LINE: Final = re.compile(rf"(?:{FIELD_NAME}:[^\r\n\x00]*)?\r?\n".encode())
CONNECTION_HEADERS: Final = frozenset(
    {"host", "connection", "content-length", "transfer-encoding", "expect", "upgrade", "te", "trailer", "keep-alive"}
)
"""Headers that change how a message is sent; requests with one of them are left to aiohttp."""
NO_CONTENT, NOT_MODIFIED, SWITCHING_PROTOCOLS, FIRST_FINAL = 204, 304, 101, 200
HTTP_PORT, HTTPS_PORT = 80, 443
CLOSED_TOO_SOON: Final = "the server closed the connection before the reply was complete"


class InvalidReplyError(ConnectionError):
    """The bytes of a reply are not HTTP, or end too early."""


class ReplyTooLargeError(ValueError):
    """A reply exceeds the size limit."""


class Reply(NamedTuple):
    """A complete reply.

    Parameters
    ----------
    status
        Status code.
    headers
        Values by lower-case name; those of a repeated name are joined by commas.
    body
        The body, decompressed.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


class Origin(NamedTuple):
    """Where a connection leads."""

    host: str
    port: int
    is_tls: bool


class RequestEncoder:
    """Encodes requests to one URL.

    Parameters
    ----------
    origin
        Where to connect.
    request_target
        Path and query, as sent in the request line.
    defaults
        Headers added to every request that does not have them, by lower-case name.
    """

    __slots__ = ("_heads", "_start", "defaults", "origin")

    def __init__(self, origin: Origin, request_target: str, defaults: Mapping[str, str]) -> None:
        host = f"[{origin.host}]" if ":" in origin.host else origin.host
        if origin.port != (HTTPS_PORT if origin.is_tls else HTTP_PORT):
            host = f"{host}:{origin.port}"
        self.origin = origin
        self.defaults = defaults
        self._start = f" {request_target} HTTP/1.1\r\nhost: {host}\r\n"
        self._heads: dict[tuple[object, ...], bytes | None] = {}

    def encode(
        self, method: str, headers: Mapping[str, str], body: bytes, added: Mapping[str, str] | None = None
    ) -> bytes | None:
        """Return the bytes of a request; ``None`` if it has a header that changes how it is sent.

        Raises
        ------
        ValueError
            A header cannot be sent, because it has a line break for example.
        """
        fields = (method, *headers.items())
        head = self._heads.get(fields, b"")
        if head == b"":
            if len(self._heads) >= MAX_CACHED_HEADS:
                self._heads.clear()
            head = self._heads[fields] = self._encode_head(method, headers)
        if head is None or not added:
            return None if head is None else b"%b%d\r\n\r\n%b" % (head, len(body), body)
        # Headers that differ from request to request are not part of the head that requests share.
        lines = "".join([f"{name}: {value}\r\n" for name, value in added.items()]).encode()
        return b"%b%d\r\n%b\r\n%b" % (head, len(body), lines, body)

    def _encode_head(self, method: str, headers: Mapping[str, str]) -> bytes | None:
        fields = {name.lower(): value for name, value in headers.items()}
        if not CONNECTION_HEADERS.isdisjoint(fields):
            return None
        for name, value in fields.items():
            if HEADER_NAME.fullmatch(name) is None or INVALID_IN_VALUE.search(value):
                raise ValueError(f"the name or value of the header {name!r} has a character that headers cannot have")
        lines = [f"{name}: {value}\r\n" for name, value in {**self.defaults, **fields}.items()]
        return "".join([method, self._start, *lines, "content-length: "]).encode()


class ReplyParser:
    r"""Incremental parser of one reply. Pure: bytes go in, and ``reply`` is set when it is complete.

    Parameters
    ----------
    max_body_bytes
        Maximum size of the body, compressed and decompressed.

    Examples
    --------
    >>> parser = ReplyParser(1000)
    >>> parser.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh")
    >>> parser.reply is None
    True
    >>> parser.feed(b"i")
    >>> parser.reply.body, parser.is_reusable
    (b'hi', True)
    """

    __slots__ = (
        "_buffer", "_headers", "_interim_replies", "_max_body_bytes", "_missing", "_parts", "_position", "_read",
        "_searched", "_size", "_status", "is_reusable", "reply",
    )  # fmt: skip

    def __init__(self, max_body_bytes: int) -> None:
        self.reply: Reply | None = None
        self.is_reusable = False
        """Whether the connection can be used again, once the reply is complete."""
        self._max_body_bytes = max_body_bytes
        self._buffer = b""
        self._position = 0
        """Where the unread part of the buffer starts; cutting it off for each chunk would copy the rest each time."""
        self._searched = 0
        """Up to where the buffer has no end of the head."""
        self._parts: list[bytes | bytearray] = []
        self._size = 0
        self._missing = 0
        self._interim_replies = 0
        self._status = 0
        self._headers: dict[str, str] = {}
        self._read: Callable[[], bool] = self._read_head

    def feed(self, data: bytes) -> None:
        """Parse the next bytes.

        Raises
        ------
        InvalidReplyError, ReplyTooLargeError
            The connection must be closed.
        """
        self._buffer = self._buffer + data if self._buffer else data
        while self.reply is None and self._read():
            pass
        if self._position:
            self._buffer = self._buffer[self._position :]
            self._searched, self._position = max(0, self._searched - self._position), 0
        if self.reply is not None and self._buffer:
            self.is_reusable = False  # bytes that nobody asked for

    def feed_eof(self) -> None:
        """Parse the end of the connection: it completes a body without a length, and is an error anywhere else."""
        if self.reply is not None:
            return
        if self._read == self._read_until_eof:
            self._complete(b"".join(self._parts))
        elif self._status or self._buffer:
            raise InvalidReplyError(CLOSED_TOO_SOON)
        else:
            raise InvalidReplyError("the server closed the connection without a reply")

    # Each of these reads what it can from the buffer, and returns whether to go on with what follows.

    def _read_head(self) -> bool:
        start = self._position
        end = END_OF_HEAD.search(self._buffer, max(start, self._searched))
        if (len(self._buffer) if end is None else end.start()) - start > MAX_HEAD_BYTES:
            raise InvalidReplyError(f"the head of the reply is longer than {MAX_HEAD_BYTES} bytes")
        if end is None:
            self._searched = max(start, len(self._buffer) - 2)
            return False
        head = REPLY_HEAD.fullmatch(self._buffer, start, end.start())
        if head is None:
            raise InvalidReplyError("the head of the reply is not HTTP/1.1")
        version, status, fields = head.groups()
        self._position = self._searched = end.end()
        self._status = int(status)
        if self._status == SWITCHING_PROTOCOLS:
            raise InvalidReplyError("the server switched protocols without being asked")
        if self._status < FIRST_FINAL:
            self._interim_replies += 1
            if self._interim_replies > MAX_INTERIM_REPLIES:
                raise InvalidReplyError(f"more than {MAX_INTERIM_REPLIES} interim replies and no final one")
            self._status = 0
            return True  # an interim reply; the final one follows
        headers = self._headers
        for line in fields.decode("utf-8", "surrogateescape").split("\n")[1:]:
            name, _, value = line.partition(":")
            name, value = name.lower(), value.strip(" \t\r")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        is_persistent = version == b"1" and "connection" not in headers
        if not is_persistent:
            options = {option.strip() for option in headers.get("connection", "").lower().split(",")}
            is_persistent = "close" not in options if version == b"1" else "keep-alive" in options
        self.is_reusable = is_persistent
        return self._start_body()

    def _start_body(self) -> bool:
        headers, length = self._headers, self._headers.get("content-length")
        if self._status in {NO_CONTENT, NOT_MODIFIED}:
            self._complete(b"")
        elif "transfer-encoding" in headers:
            if headers["transfer-encoding"].lower() != "chunked":
                raise InvalidReplyError(f"unsupported transfer encoding {headers['transfer-encoding']!r}")
            # With a length besides, intermediaries may disagree about the end (RFC 9112, section 6.1).
            self.is_reusable = self.is_reusable and length is None
            self._read = self._read_chunk_line
        elif length is not None:
            match = CONTENT_LENGTH.fullmatch(length)
            if match is None:
                raise InvalidReplyError(f"invalid content length {length!r}")
            self._missing = int(match[1])
            self._check_size(self._missing)
            self._read = self._read_sized_body
        else:
            self.is_reusable = False
            self._read = self._read_until_eof
        return True

    def _take(self) -> bool:
        """Move what is missing of the body, or of a chunk, from the buffer; return whether nothing is missing."""
        part = self._buffer[self._position : self._position + self._missing]
        self._position += len(part)
        self._missing -= len(part)
        self._size += len(part)
        last = self._parts[-1] if self._parts else b""
        if len(part) >= MIN_PART_BYTES:
            self._parts.append(part)  # joined once at the end; an array that grows would be copied again and again
        elif isinstance(last, bytearray):
            last += part
        else:
            self._parts.append(bytearray(part))
        return not self._missing

    def _read_sized_body(self) -> bool:
        if not self._size and len(self._buffer) - self._position >= self._missing:
            end = self._position + self._missing
            self._position, body = end, self._buffer[self._position : end]
            self._complete(body)  # all at once, as most replies come
        elif self._take():
            self._complete(b"".join(self._parts))
        return False

    def _read_until_eof(self) -> bool:
        self._missing = len(self._buffer) - self._position
        self._take()
        self._check_size(self._size)
        return False

    def _read_chunk_line(self) -> bool:
        line = CHUNK_LINE.match(self._buffer, self._position)
        if line is None:
            self._check_line("chunk size", MAX_CHUNK_LINE_BYTES)
            return False
        self._position = line.end()
        self._missing = int(line[1], 16)
        self._check_size(self._size + self._missing)
        self._read = self._read_chunk if self._missing else self._read_trailers
        return True

    def _read_chunk(self) -> bool:
        if not self._take():
            return False
        self._read = self._read_chunk_end
        return True

    def _read_chunk_end(self) -> bool:
        end = LINE_END.match(self._buffer, self._position)
        if end is None:
            if self._buffer[self._position :] not in {b"", b"\r"}:
                raise InvalidReplyError("a chunk is longer than its size")
            return False
        self._position = end.end()
        self._read = self._read_chunk_line
        return True

    def _read_trailers(self) -> bool:
        line = TRAILER_LINE.match(self._buffer, self._position)
        if line is None:
            self._check_line("trailer", MAX_HEAD_BYTES)
            return False
        self._missing += line.end() - self._position  # counts the bytes of the trailers
        if self._missing > MAX_HEAD_BYTES:
            raise InvalidReplyError(f"the trailers are longer than {MAX_HEAD_BYTES} bytes")
        self._position = line.end()
        if line[0] in {b"\r\n", b"\n"}:
            self._complete(b"".join(self._parts))
        return True

    def _check_line(self, noun: str, max_bytes: int) -> None:
        """Raise if a line that does not match is complete, or longer than it may be."""
        if self._buffer.find(b"\n", self._position) >= 0 or len(self._buffer) - self._position > max_bytes:
            raise InvalidReplyError(f"invalid {noun}")

    def _check_size(self, size: int) -> None:
        if size > self._max_body_bytes:
            raise ReplyTooLargeError(f"the reply is longer than {self._max_body_bytes} bytes")

    def _complete(self, body: bytes) -> None:
        encoding = self._headers.get("content-encoding")
        if encoding is not None and body:
            body = decompress(body, encoding.lower(), self._max_body_bytes)
        self.reply = Reply(self._status, self._headers, body)
        self._read = _read_nothing  # a bound method would keep the parser until the garbage collector runs


def _read_nothing() -> bool:
    return False


def decompress(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Return a decompressed body; one in an encoding that was not asked for is returned as it is.

    Raises
    ------
    InvalidReplyError
        The body is not in its encoding, or ends too early.
    ReplyTooLargeError
        It is longer than ``max_bytes``.

    Examples
    --------
    >>> import gzip
    >>> decompress(gzip.compress(b"text"), "gzip", 10)
    b'text'
    """
    if encoding in {"gzip", "x-gzip"}:
        window_bits = zlib.MAX_WBITS | 16
    elif encoding == "deflate":
        # Some servers send the deflate format without the zlib header that the encoding of that name has.
        window_bits = zlib.MAX_WBITS if body[0] & 0xF == zlib.DEFLATED else -zlib.MAX_WBITS
    else:
        return body
    parts: list[bytes] = []
    size = 0
    while body:
        decompressor = zlib.decompressobj(window_bits)
        try:
            part = decompressor.decompress(body, max_bytes - size + 1)
        except zlib.error as error:
            raise InvalidReplyError(f"the body is not {encoding}: {error}") from error
        size += len(part)
        if size > max_bytes:
            raise ReplyTooLargeError(f"the reply is longer than {max_bytes} bytes")
        if not decompressor.eof:
            raise InvalidReplyError(f"the {encoding} body ends too early")
        parts.append(part)
        body = decompressor.unused_data  # gzip permits several members
    return parts[0] if len(parts) == 1 else b"".join(parts)
