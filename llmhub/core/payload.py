"""JSON objects that are sent to providers and received from them: merging and parsing."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from returns.result import Failure, Result, Success

from llmhub.core.errors import LLMError, Malformed
from llmhub.core.types import Payload

EXCERPT_LENGTH: Final = 120
"""Characters of a body that an error message quotes."""
_DECODER: Final = msgspec.json.Decoder()


def deep_merge(payload: Payload, extra: Mapping[str, object]) -> Payload:
    """Return ``payload`` updated with ``extra``; objects are merged recursively, all other values are replaced.

    Examples
    --------
    >>> deep_merge({"a": {"b": 1}}, {"a": {"c": 2}, "d": 3})
    {'a': {'b': 1, 'c': 2}, 'd': 3}
    """
    merged = dict(payload)
    for key, value in extra.items():
        old = merged.get(key)
        merged[key] = deep_merge(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return merged


def parse_json_object(body: bytes) -> Result[Payload, LLMError]:
    r"""Parse a JSON object from untrusted bytes; anything else is `Malformed`.

    Invalid UTF-8 is replaced, and half of a surrogate pair is kept, since a response that holds one was paid for.

    Examples
    --------
    >>> parse_json_object(b"[1]").failure().message
    'the body is a JSON list, not an object'
    >>> parse_json_object(b'{"a": "\\ud83d"}').unwrap()
    {'a': '\ud83d'}
    """
    try:
        payload = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        payload = _parse_leniently(body)
        if payload is None:
            return Failure(Malformed(path="$", message=f"not JSON ({error}): {excerpt(body)}"))
    if not isinstance(payload, dict):
        return Failure(Malformed(path="$", message=f"the body is a JSON {type(payload).__name__}, not an object"))
    return Success(payload)


def excerpt(body: bytes) -> str:
    r"""Return the first words of a body, for an error message.

    Examples
    --------
    >>> excerpt(b"<html>\n  <title>Sign in</title>")
    '<html> <title>Sign in</title>'
    """
    words = " ".join(body[: 4 * EXCERPT_LENGTH].decode("utf-8", "replace").split())
    return words if len(words) <= EXCERPT_LENGTH else f"{words[:EXCERPT_LENGTH]}..."


def _parse_leniently(body: bytes) -> Any:
    """Parse JSON whose text is not valid Unicode; ``None`` if that is not all that is wrong with it."""
    try:
        return json.loads(body.decode("utf-8", "replace"), parse_constant=_reject_constant)
    except (ValueError, RecursionError):
        return None


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def is_html(body: bytes) -> bool:
    """Return whether a body is an HTML page.

    Examples
    --------
    >>> is_html(b"<!DOCTYPE html><p>Sign in"), is_html(b"{}")
    (True, False)
    """
    return HTML_START.match(body) is not None


def html_excerpt(body: bytes) -> str:
    """Return the first words of an HTML page, without its markup.

    Examples
    --------
    >>> html_excerpt(b"<html><head><title>Sign in</title><style>p {}</style></head><p>Welcome")
    'an HTML page (Sign in Welcome)'
    """
    text = HTML_MARKUP.sub(b" ", body[: 1 << 14])
    return f"an HTML page ({html.unescape(excerpt(text)) or 'without text'})"


HTML_START: Final = re.compile(rb"\s*<(!doctype\s+html|html|head|body)\b", re.IGNORECASE)
HTML_MARKUP: Final = re.compile(rb"(?is)<(script|style)\b.*?(</\1>|$)|<[^>]*>?")
"""Matches what is not text in an HTML page."""
