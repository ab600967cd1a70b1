"""Total readers of untrusted JSON: each returns a value of its type, whatever it is given.

Where a wrong type must be an error rather than an absence, `require_list` reports its ``$.path``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import msgspec
from returns.pipeline import is_successful
from returns.result import Failure, Result, Success

from llmhub.core.errors import LLMError, Malformed
from llmhub.core.payload import html_excerpt, is_html, parse_json_object
from llmhub.core.types import AUDIO

_EMPTY: Final[Mapping[str, object]] = {}
_COMPACT: Final = msgspec.json.Encoder()
RAW_MARK: Final = "\0raw\0"
"""Stands for text that is JSON already while the rest is encoded; no provider sends it."""


def as_mapping(value: object) -> Mapping[str, object]:
    """Return ``value`` if it is an object, else an empty one.

    Examples
    --------
    >>> as_mapping(None)
    {}
    """
    return value if isinstance(value, dict) else _EMPTY


def as_list(value: object) -> list[object]:
    """Return ``value`` if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def iter_objects(value: object) -> Iterator[Mapping[str, object]]:
    """Iterate over the objects in a list, skipping other items."""
    return (item for item in as_list(value) if isinstance(item, dict))


def as_text(value: object) -> str:
    """Return ``value`` if it is a string, else an empty one."""
    return value if isinstance(value, str) else ""


def as_count(value: object) -> int | None:
    """Return ``value`` if it is a whole number in 0..2**63-1, else ``None``.

    Examples
    --------
    >>> as_count(3), as_count(3.0), as_count(-1), as_count(True), as_count("3")
    (3, 3, None, None, None)
    """
    if value is None:
        return None
    if type(value) is int:
        return value if 0 <= value < 1 << 63 else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if isinstance(value, float) and not (math.isfinite(value) and value.is_integer()):
        return None
    return int(value) if 0 <= value < 1 << 63 else None


def as_int64(value: object) -> int:
    """Return a count as protobuf's JSON writes it, in a string; 0 for anything else.

    Examples
    --------
    >>> as_int64("12"), as_int64(None)
    (12, 0)
    """
    return int(value) if isinstance(value, (str, int)) and str(value).isdecimal() else 0


def as_epoch(value: object) -> float:
    """Return a time in ISO 8601, or a number of seconds, as epoch seconds; 0 for anything else.

    Examples
    --------
    >>> as_epoch("1970-01-01T00:00:02Z"), as_epoch(2), as_epoch("soon")
    (2.0, 2.0, 0.0)
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    try:
        return datetime.fromisoformat(as_text(value)).timestamp()
    except (ValueError, OverflowError, OSError):
        return 0.0


def sum_counts(*counts: int | None) -> int | None:
    """Return the sum of the counts that are known, ``None`` if none is.

    Examples
    --------
    >>> sum_counts(1, None, 2), sum_counts(None)
    (3, None)
    """
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def capped_count(total: int | None, *values: object) -> int | None:
    """Return the first of ``values`` that is a count, but at most ``total``.

    Examples
    --------
    >>> capped_count(3, None, 5), capped_count(None, 5), capped_count(3)
    (3, 5, None)
    """
    for value in values:  # a loop, since this runs three times a response and a generator takes twice as long
        part = None if value is None else as_count(value)
        if part is not None:
            return part if total is None else min(part, total)
    return None


TICKS_PER_USD: Final = 10**10
"""Unit in which xAI reports costs."""
BILLED_TIERS: Final = frozenset({"flex", "priority", "batch"})
"""Service tiers with prices of their own."""


def as_usd(value: object) -> Decimal | None:
    """Return ``value`` as an amount if it is a finite number, or the text of one, not below 0.

    Examples
    --------
    >>> as_usd(0.00011), as_usd("0.5"), as_usd(-1), as_usd("n/a")
    (Decimal('0.00011'), Decimal('0.5'), None, None)
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        amount = Decimal(str(value))
    except ArithmeticError:
        return None
    return amount if amount.is_finite() and 0 <= amount < MAX_USD else None


MAX_USD: Final = Decimal(10**9)
"""Larger costs of one call are mistakes."""


def reported_cost(counts: Mapping[str, object]) -> Decimal | None:
    """Return the cost in USD that a usage object states, in any of the forms that are known.

    A gateway that uses the caller's own key (``is_byok``) charges its fee beside the upstream cost.

    Examples
    --------
    >>> reported_cost({"cost": 0.002}), reported_cost({"cost": {"total_cost": 0.006}})
    (Decimal('0.002'), Decimal('0.006'))
    >>> reported_cost({"cost_in_usd_ticks": 2071250}), reported_cost({})
    (Decimal('0.000207125'), None)
    """
    if "cost" not in counts and "cost_in_usd_ticks" not in counts:  # most providers state none
        return None
    ticks = as_count(counts.get("cost_in_usd_ticks"))
    if ticks:
        return Decimal(ticks) / TICKS_PER_USD
    stated = counts.get("cost")
    cost = as_usd(as_mapping(stated).get("total_cost") if isinstance(stated, dict) else stated)
    upstream = as_usd(as_mapping(counts.get("cost_details")).get("upstream_inference_cost"))
    return cost + upstream if cost is not None and upstream and counts.get("is_byok") is True else cost


def billed_tier(*values: object) -> str:
    """Return the first of ``values`` that is a service tier with a price of its own, else an empty string."""
    for value in values:  # a loop, as in `capped_count`
        if isinstance(value, str) and value in BILLED_TIERS:
            return value
    return ""


AUDIO_INPUT: Final = f"{AUDIO}:input_tokens"
AUDIO_CACHED: Final = f"{AUDIO}:cached_tokens"
AUDIO_OUTPUT: Final = f"{AUDIO}:output_tokens"


def billed_units(*units: tuple[str, object]) -> tuple[tuple[str, int], ...]:
    """Return the units of which there are any.

    Examples
    --------
    >>> billed_units(("web_search:requests", 2), ("file_search:requests", 0), ("audio:input_tokens", None))
    (('web_search:requests', 2),)
    """
    return tuple((name, count) for name, value in units if (count := as_count(value)))


def encode_compact(value: object) -> str:
    """Return ``value`` as JSON without white space, the form of a tool call's arguments.

    Examples
    --------
    >>> encode_compact({"a": [1, 2]})
    '{"a":[1,2]}'
    """
    try:
        return _COMPACT.encode(value).decode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return _encode_escaped(value)
    except RecursionError:  # JSON that was just shallow enough to decode may be too deep to encode
        return '"nested too deeply"'


def _encode_escaped(value: object) -> str:
    """Return ``value`` as JSON in ASCII; `msgspec.Raw` is put in as it is, as msgspec does."""
    raw_texts: list[str] = []

    def mark_raw(raw: Any) -> str:
        raw_texts.append(bytes(raw).decode())
        return RAW_MARK

    text = json.dumps(value, separators=(",", ":"), default=mark_raw)
    for raw_text in raw_texts:
        text = text.replace(json.dumps(RAW_MARK), raw_text, 1)
    return text


def require_list(payload: Mapping[str, object], name: str) -> Result[list[object], LLMError]:
    """Return the list under ``name``, or `Malformed` with its path."""
    value = payload.get(name)
    if isinstance(value, list):
        return Success(value)
    found = "nothing" if value is None else f"a {type(value).__name__}"
    return Failure(Malformed(path=f"$.{name}", message=f"expected a list, found {found}"))


def error_body(body: bytes, field: str = "message") -> Mapping[str, object]:
    """Return the object of an error reply, or of its first server-sent event; any other text under ``field``.

    Examples
    --------
    >>> error_body(b"<html><h1>Bad gateway")
    {'message': 'an HTML page (Bad gateway)'}
    >>> error_body(b'data: {"error": "no"}')
    {'error': 'no'}
    """
    if is_html(body):
        return {field: html_excerpt(body)}
    event = body.lstrip().partition(b"\n")[0].removeprefix(b"data:") if body.lstrip().startswith(b"data:") else body
    parsed = parse_json_object(event)
    return parsed.unwrap() if is_successful(parsed) else {field: body.decode("utf-8", "replace")}


def error_message(message: object, error: Mapping[str, object]) -> str:
    """Return ``message``, or FastAPI's ``detail``, if it is text; else it, or without it the ``error``, as JSON."""
    message = message or error.get("detail")
    return message if isinstance(message, str) else encode_compact(message or dict(error))
