"""JSON objects on their way out and in: read from untrusted bytes, laid one over another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
from returns.result import Failure, Result, Success

from llmhub.core.errors import LLMError, Malformed
from llmhub.core.types import Payload

_DECODER: Final = msgspec.json.Decoder()


def deep_merge(payload: Payload, extra: Mapping[str, object]) -> Payload:
    """Lay ``extra`` over ``payload``, object by object.

    Examples
    --------
    >>> deep_merge({"a": {"b": 1}}, {"a": {"c": 2}, "d": 3})
    {'a': {'b': 1, 'c': 2}, 'd': 3}
    """
    whole = dict(payload)
    for key, value in extra.items():
        old = whole.get(key)
        whole[key] = deep_merge(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return whole


def parse_json_object(body: bytes) -> Result[Payload, LLMError]:
    """Read a JSON object from untrusted bytes.

    Examples
    --------
    >>> parse_json_object(b"[1]").failure().message
    'the body is a JSON list, not an object'
    """
    try:
        payload = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as bad:
        return Failure(Malformed(path="$", message=f"the body is not JSON: {bad}"))
    if not isinstance(payload, dict):
        return Failure(Malformed(path="$", message=f"the body is a JSON {type(payload).__name__}, not an object"))
    return Success(payload)
