from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmhub.engine.http1 import (
    MAX_INTERIM_REPLIES,
    InvalidReplyError,
    Origin,
    Reply,
    ReplyParser,
    ReplyTooLargeError,
    RequestEncoder,
)

OK = b"HTTP/1.1 200 OK\r\n"
BODY = b'{"text": "Hello"}'
GZIP = gzip.compress(BODY)
SIZED = OK + b"content-length: %d\r\n\r\n%b" % (len(BODY), BODY)
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"


def parse(pieces: Iterable[bytes], limit: int = 1000, *, closed: bool = False) -> ReplyParser:
    parser = ReplyParser(limit)
    for piece in pieces:
        parser.feed(piece)
    if closed:
        parser.feed_eof()
    return parser


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    """Return ``data`` cut at the given places, modulo its length."""
    places = [0, *sorted(cut % len(data) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places) if start < end]


# Replies that are read: bytes, whether the server closes afterwards, body, whether the connection is used again

REPLIES = {
    "length": (SIZED, False, BODY, True),
    "no body": (OK + b"content-length: 0\r\n\r\n", False, b"", True),
    "repeated equal length": (OK + b"content-length: 2\r\ncontent-length: 2\r\n\r\nhi", False, b"hi", True),
    "close": (OK + b"connection: Close\r\ncontent-length: 2\r\n\r\nhi", False, b"hi", False),
    "keep-alive": (OK + b"Connection: keep-alive\r\ncontent-length: 2\r\n\r\nhi", False, b"hi", True),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi", False, b"hi", False),
    "HTTP/1.0 keep-alive": (
        b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nhi", False, b"hi", True,
    ),
    "until the end": (OK + b"\r\nhi", True, b"hi", False),
    "no reason": (b"HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nhi", False, b"hi", True),
    "line feeds alone": (b"HTTP/1.1 200 OK\ncontent-length: 2\n\nhi", False, b"hi", True),
    "line feeds alone, and an empty line in the body": (
        b"HTTP/1.1 200 OK\ncontent-length: 6\n\nh\r\n\r\ni", False, b"h\r\n\r\ni", True,
    ),
    "chunks": (CHUNKED + b"2\r\nhi\r\nA;x=y\r\n 123456789\r\n0\r\n\r\n", False, b"hi 123456789", True),
    "chunks with trailers": (CHUNKED + b"2\r\nhi\r\n00\r\na: b\r\nc: d\r\n\r\n", False, b"hi", True),
    "chunks and a length": (
        OK + b"content-length: 9\r\ntransfer-encoding: Chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", False, b"hi", False,
    ),
    "interim replies": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + SIZED, False, BODY, True,
    ),
    "204 has no body": (b"HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n", False, b"", True),
    "more than the reply": (SIZED + b"HTTP", False, BODY, False),
    "gzip": (
        OK + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n%b" % (len(GZIP), GZIP),
        False, BODY, True,
    ),
    "gzip of two members": (
        OK + b"content-encoding: x-gzip\r\n\r\n" + gzip.compress(b"h") + gzip.compress(b"i"), True, b"hi", False,
    ),
    "deflate": (OK + b"content-encoding: deflate\r\n\r\n" + zlib.compress(BODY), True, BODY, False),
    "deflate without a header": (
        OK + b"content-encoding: deflate\r\n\r\n" + zlib.compress(BODY)[2:-4], True, BODY, False,
    ),
    "unknown encoding": (OK + b"content-encoding: br\r\ncontent-length: 2\r\n\r\nhi", False, b"hi", True),
}  # fmt: skip


@pytest.mark.parametrize("name", REPLIES)
@given(cuts=st.lists(st.integers(0, 400), max_size=6))
def test_any_split_of_a_reply_gives_the_same(name: str, cuts: list[int]) -> None:
    data, closed, body, reusable = REPLIES[name]
    for pieces in (split(data, cuts), [bytes([byte]) for byte in data]):
        parser = parse(pieces, closed=closed)
        assert parser.reply is not None
        assert (parser.reply.body, parser.is_reusable) == (body, reusable)


@pytest.mark.parametrize("name", REPLIES)
def test_no_part_of_a_reply_is_a_reply(name: str) -> None:
    data, closed, _, _ = REPLIES[name]
    if closed or name == "more than the reply":
        return
    for end in range(len(data)):
        parser = parse([data[:end]])
        assert parser.reply is None
        with pytest.raises(InvalidReplyError):
            parser.feed_eof()


def test_headers_are_text_by_lower_case_name() -> None:
    reply = parse(
        [OK + b"X-Id:  a \r\nSet-Cookie: a\r\nset-cookie: b\r\nX-Odd: \xff\r\ncontent-length: 0\r\n\r\n"]
    ).reply
    assert reply is not None
    assert reply.headers == {"x-id": "a", "set-cookie": "a, b", "x-odd": "\udcff", "content-length": "0"}


# Replies that are refused

INVALID = {
    "not HTTP": b"\x00\xff\x16\x03\x01 no http at all\r\n\r\n",
    "HTTP/2": b"HTTP/2 200 OK\r\n\r\n",
    "a status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "a space before the colon": OK + b"content-length : 2\r\n\r\nhi",
    "a folded line": OK + b"a: b\r\n c\r\ncontent-length: 2\r\n\r\nhi",
    "a line without a colon": OK + b"nonsense\r\n\r\n",
    "an empty name": OK + b": b\r\n\r\n",
    "NUL in a value": OK + b"a: \x00\r\n\r\n",
    "a carriage return in a value": OK + b"a: b\rc\r\n\r\n",
    "different lengths": OK + b"content-length: 2\r\ncontent-length: 3\r\n\r\nhi",
    "a negative length": OK + b"content-length: -2\r\n\r\nhi",
    "a length with a sign": OK + b"content-length: +2\r\n\r\nhi",
    "a length in hexadecimal": OK + b"content-length: 0x2\r\n\r\nhi",
    "an empty length": OK + b"content-length: \r\n\r\nhi",
    "a length of other digits": OK + "content-length: \u0662\r\n\r\nhi".encode(),
    "an unknown transfer encoding": OK + b"transfer-encoding: gzip, chunked\r\n\r\n",
    "chunked twice": OK + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a chunk without its size": CHUNKED + b"\r\nhi\r\n",
    "a chunk size that is no number": CHUNKED + b"zz\r\n{}\r\n",
    "a negative chunk size": CHUNKED + b"-2\r\nhi\r\n",
    "an enormous chunk size": CHUNKED + b"f" * 17 + b"\r\n",
    "an endless chunk line": CHUNKED + b"2;" + b"x" * 5000,
    "a chunk longer than its size": CHUNKED + b"2\r\nhiho\r\n",
    "an invalid trailer": CHUNKED + b"0\r\nno trailer\r\n\r\n",
    "endless trailers": CHUNKED + b"0\r\n" + b"a: b\r\n" * 20_000,
    "an endless head": OK + b"a: b\r\n" * 20_000,
    "an endless line": b"HTTP/1.1 200 " + b"x" * 70_000,
    "an unasked switch of protocols": b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\n\r\n",
    "no gzip": OK + b"content-encoding: gzip\r\ncontent-length: 5\r\n\r\nplain",
    "half a gzip": OK + b"content-encoding: gzip\r\ncontent-length: 20\r\n\r\n" + gzip.compress(BODY)[:20],
}


@pytest.mark.parametrize("name", INVALID)
def test_invalid_reply_is_refused(name: str) -> None:
    for pieces in ([INVALID[name]], [INVALID[name][i : i + 7] for i in range(0, len(INVALID[name]), 7)]):
        with pytest.raises(InvalidReplyError):
            parse(pieces)


@given(st.binary(max_size=200), st.sampled_from([b"", OK, CHUNKED, OK + b"content-length: 9\r\n", b"HTTP/1.1 "]))
def test_arbitrary_bytes_are_a_reply_or_an_error(data: bytes, start: bytes) -> None:
    try:
        parser = parse([start + data], closed=True)
    except (InvalidReplyError, ReplyTooLargeError):
        return
    assert isinstance(parser.reply, Reply)


@pytest.mark.parametrize(
    "data",
    [
        OK + b"content-length: 1001\r\n\r\n",
        OK + b"\r\n" + b"x" * 1001,
        CHUNKED + b"3E8\r\n" + b"x" * 1000 + b"\r\n1\r\n",
        CHUNKED + b"fffffff\r\n",
        OK + b"content-encoding: gzip\r\n\r\n" + gzip.compress(b" " * 1001, mtime=0),
        OK + b"content-encoding: gzip\r\n\r\n" + gzip.compress(b" " * 600, mtime=0) * 2,
    ],
)
def test_reply_above_the_limit_is_refused(data: bytes) -> None:
    with pytest.raises(ReplyTooLargeError, match="1000 bytes"):
        parse([data], closed=True)


@pytest.mark.parametrize("pieces", [1, 1000])
def test_time_is_proportional_to_the_number_of_chunks(pieces: int) -> None:
    """Ten times as many chunks would take a hundred times as long if each copied what follows."""
    data = CHUNKED + b"1\r\nx\r\n" * 200_000 + b"0\r\n\r\n"
    size = len(data) // pieces + 1
    parser = parse((data[start : start + size] for start in range(0, len(data), size)), limit=1_000_000)
    assert parser.reply is not None
    assert parser.reply.body == b"x" * 200_000


# Requests


def encoder(url_path: str = "/v1?a=b", host: str = "example.com", port: int = 443) -> RequestEncoder:
    return RequestEncoder(Origin(host, port, is_tls=True), url_path, {"user-agent": "llmhub"})


def test_request_bytes() -> None:
    headers = {"Content-Type": "application/json"}
    one = encoder()
    expected = (
        b"POST /v1?a=b HTTP/1.1\r\nhost: example.com\r\nuser-agent: llmhub\r\ncontent-type: application/json\r\n"
        b"content-length: 2\r\n\r\n{}"
    )
    assert one.encode("POST", headers, b"{}") == expected
    assert one.encode("POST", headers, b"{}") == expected
    assert one.encode("POST", {"User-Agent": "mine"}, b"") == (
        b"POST /v1?a=b HTTP/1.1\r\nhost: example.com\r\nuser-agent: mine\r\ncontent-length: 0\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("host", "port", "expected"), [("example.com", 8443, b"example.com:8443"), ("::1", 443, b"[::1]")]
)
def test_host_header(host: str, port: int, expected: bytes) -> None:
    message = encoder(host=host, port=port).encode("POST", {}, b"")
    assert message is not None
    assert b"\r\nhost: " + expected + b"\r\n" in message


@pytest.mark.parametrize(
    "headers", [{"a": "b\r\nc: d"}, {"a": "b\nc"}, {"a\r\nb": "c"}, {"a b": "c"}, {"a": "\x00"}, {"": "c"}]
)
def test_header_that_cannot_be_sent_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="header"):
        encoder().encode("POST", headers, b"")


@pytest.mark.parametrize("name", ["Host", "Connection", "Transfer-Encoding", "content-length", "Expect", "Upgrade"])
def test_request_with_a_header_of_the_connection_is_not_encoded(name: str) -> None:
    assert encoder().encode("POST", {name: "x"}, b"") is None


def test_interim_replies_do_not_go_on_for_ever() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    assert parse([interim * MAX_INTERIM_REPLIES + SIZED]).reply is not None
    with pytest.raises(InvalidReplyError, match="interim replies"):
        parse([interim * (MAX_INTERIM_REPLIES + 1)])
