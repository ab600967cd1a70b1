"""Reading of untrusted payloads that the dialects share: typed fields, media, and addresses that may be fetched."""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from llmhub.core.errors import DROP_HINT, ConnectorError, Unsupported, invalid, to_exception
from llmhub.core.types import Document, Image, Opaque, Payload

T = TypeVar("T")

PRIVATE_SUFFIXES: Final = (".localhost", ".local", ".internal", ".lan", ".home.arpa", ".svc", ".intranet", ".corp")
"""Ends of host names that no public DNS answers for."""
URL_FIELD: Final = re.compile(r"ur[il]", re.IGNORECASE)
"""Names of fields that hold an address which the provider fetches."""
_NUMBER: Final = re.compile(r"(0x[0-9a-f]*|\d+)", re.IGNORECASE)
_encode: Final = msgspec.json.Encoder().encode


def read_as(payload: Payload, type_: type[T]) -> T:
    """Convert a payload to a typed record; fields that the record does not have are ignored.

    Raises
    ------
    BadRequestError
        A field has another type; the path is its place.
    """
    try:
        return msgspec.convert(payload, type=type_)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `")
        missing = re.fullmatch(r"Object missing required field `(.*)`", message)
        path = place.strip("`") or "$"
        if missing:
            raise invalid(f"{path}.{missing[1]}", "is missing") from None
        raise invalid(path, message[:1].lower() + message[1:]) from None
    except RecursionError:
        raise invalid("$", "the body is nested too deeply") from None


def other_fields(
    payload: Mapping[str, Any], known: Collection[str], *, native: bool, path: str = "$"
) -> dict[str, Any]:
    """Return the fields without a counterpart in llmhub, for a target of the same API.

    Raises
    ------
    UnsupportedParameterError
        There are some, and the target has another API.
    """
    others = {name: value for name, value in payload.items() if name not in known and value is not None}
    if others and not native:
        raise unsupported(f"{path}.{next(iter(others))}", "has no counterpart in the API of this model", droppable=True)
    check_urls(others, path)
    return others


def unsupported(path: str, message: str, *, droppable: bool = False) -> ConnectorError:
    """Return the exception for something that cannot be expressed, to be raised."""
    return to_exception(Unsupported(path=path, message=message, hint=DROP_HINT if droppable else None))


def opaque(kind: object, block: Mapping[str, Any], path: str, *, native: bool) -> Opaque:
    """Return a block as it is, for a target of the same API.

    Raises
    ------
    UnsupportedParameterError
        The target has another API.
    """
    if not isinstance(kind, str) or not kind:
        raise invalid(f"{path}.type", "is missing")
    if not native:
        raise unsupported(path, f"a block of type {kind!r:.80} has no counterpart in the API of this model")
    check_urls(block, path)
    return Opaque(kind, _encode(block).decode())


def compact(value: object) -> str:
    """Return a value as compact JSON."""
    return _encode(value).decode()


def has_only(block: Mapping[str, Any], *names: str) -> bool:
    """Return whether every field of a block that is set is one of ``names``."""
    return all(name in names for name, value in block.items() if value is not None)


# Media and addresses


def image(path: str, *, url: str = "", data: str = "", media_type: str = "", detail: str = "") -> Image:
    """Return an image; an address has to be a public one."""
    if url:
        check_url(url, path)
    return Image(url, data, media_type, detail)


def document(path: str, *, url: str = "", data: str = "", media_type: str = "", name: str = "") -> Document:
    """Return a document; an address has to be a public one."""
    if url:
        check_url(url, path)
    return Document(url, data, media_type, name)


def check_urls(value: object, path: str) -> None:
    """Check every address in a value that is passed on as it is.

    Raises
    ------
    BadRequestError
        One is not public.
    """
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if isinstance(inner, str) and URL_FIELD.search(str(name)):
                check_url(inner, f"{path}.{name}")
            else:
                check_urls(inner, f"{path}.{name}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            check_urls(inner, f"{path}[{index}]")


def check_url(url: str, path: str) -> None:
    """Check that an address is ``data:``, or of a public host over HTTP.

    Nothing is fetched here: the provider does, and it may stand in a private network.

    Raises
    ------
    BadRequestError
        It is a path, an address of a private network, or of another scheme.

    Examples
    --------
    >>> check_url("https://example.com/a.png", "$.url")
    >>> check_url("http://169.254.169.254/latest", "$.url")
    Traceback (most recent call last):
    llmhub.core.errors.BadRequestError: an address of a private network is not fetched; send the content itself...
    """
    if url[:5].lower() == "data:":
        return
    try:
        parts = urlsplit(url.strip())
        host = unicodedata.normalize("NFKC", parts.hostname or "").replace("\N{IDEOGRAPHIC FULL STOP}", ".").rstrip(".")
        has_user = parts.username is not None or parts.password is not None
    except ValueError:
        raise invalid(path, "is not a valid address") from None
    if parts.scheme.lower() not in {"http", "https"} or not host:
        raise invalid(path, "must be an https: or data: address; files of the service's machine are not read")
    if has_user or not is_public_host(host):
        raise invalid(path, "an address of a private network is not fetched; send the content itself as a data: URL")


def is_public_host(host: str) -> bool:
    """Return whether a host name or address can be one of the public internet.

    Examples
    --------
    >>> [is_public_host(host) for host in ("example.com", "8.8.8.8", "db", "127.0.0.1", "2130706433", "::1")]
    [True, True, False, False, False, False]
    """
    host = host.lower()
    if ":" in host or _NUMBER.fullmatch(host.rpartition(".")[2]):
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False  # a shortened, octal or hexadecimal form
        mapped = getattr(address, "ipv4_mapped", None)
        return (mapped or address).is_global and not (mapped or address).is_multicast
    return "." in host and not host.endswith(PRIVATE_SUFFIXES)


def texts_of(blocks: Iterable[Mapping[str, Any]], path: str, kinds: Collection[str] = ("text",)) -> str:
    """Return the joined text of blocks that hold nothing else.

    Raises
    ------
    BadRequestError
        A block is of another type.
    """
    texts = []
    for index, block in enumerate(blocks):
        text = block.get("text")
        if block.get("type") not in kinds or not isinstance(text, str):
            raise invalid(f"{path}[{index}]", f"must be a block of type {' or '.join(sorted(kinds))}")
        texts.append(text)
    return "".join(texts)
