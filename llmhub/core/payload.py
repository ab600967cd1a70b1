"""JSON objects that are sent to providers and received from them: merging and parsing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
from returns.result import Failure, Result, Success

from llmhub.core.errors import LLMError, Malformed
from llmhub.core.types import Payload

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
    """Parse a JSON object from untrusted bytes; anything else is `Malformed`.

    Examples
    --------
    >>> parse_json_object(b"[1]").failure().message
    'the body is a JSON list, not an object'
    """
    try:
        payload = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Failure(Malformed(path="$", message=f"the body is not JSON: {error}"))
    if not isinstance(payload, dict):
        return Failure(Malformed(path="$", message=f"the body is a JSON {type(payload).__name__}, not an object"))
    return Success(payload)
