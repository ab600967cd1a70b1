"""Requests of other protocols in the form of HTTP requests, so that one `Access` authenticates all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

from aiohttp import web
from aiohttp.http import HttpVersion11, RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

METHOD: Final = "POST"


class _NoConnection:
    """Stands for the connection, of which a request needs nothing once it was read."""

    transport = None
    ssl_context = None
    peername = None
    sockname = None


def foreign_request(
    path: str,
    headers: Iterable[tuple[str, str]],
    body: bytes = b"",
    *,
    host: str,
    remote: str = "",
    scheme: str = "http",
) -> web.Request:
    """Return a request that was read already: ``POST`` to a path, with the metadata of a call as its headers.

    Use it on the event loop only.

    Parameters
    ----------
    path
        Path of the method, such as ``/llmhub.v1.LLMConnectorService/SendCompletion``.
    headers
        Names and values; a name may be repeated.
    body
        The message as it was sent.
    host
        Address of the service, as far as the client names none.
    remote
        Address of the client's host.
    scheme
        ``https`` if the connection is encrypted.
    """
    fields = CIMultiDict(headers)
    raw = tuple((name.encode(), value.encode("utf-8", "surrogateescape")) for name, value in fields.items())
    message = RawRequestMessage(
        METHOD,
        path,
        HttpVersion11,
        CIMultiDictProxy(fields),
        raw,
        False,
        None,
        False,
        False,
        URL(path),
    )
    nothing: Any = None
    connection: Any = _NoConnection()
    loop = asyncio.get_running_loop()
    request = web.Request(
        message,
        EMPTY_PAYLOAD,
        connection,
        nothing,
        nothing,
        loop,
        scheme=scheme,
        host=fields.get("host", host),
        remote=remote or None,
    )
    request._read_bytes = body  # noqa: SLF001 - what ``read`` returns
    return request
