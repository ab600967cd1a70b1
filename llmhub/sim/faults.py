"""Injected faults: at random by rates, or scripted for one prompt or one request."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from typing import Final

NON_RATE_FIELDS: Final = frozenset({"retry_after_s", "drip_s"})
"""Fields of `Faults` that are not rates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Rates of injected faults, from 0 to 1; their sum is at most 1.

    Parameters
    ----------
    rate_429, rate_500, rate_529
        Rate limit error, internal error and overload, in the provider's form (overload is 529 at Anthropic, 503
        elsewhere).
    quota
        Quota or credit is exhausted: a retry does not help.
    reset
        The TCP connection is reset instead of a response.
    truncate
        The connection closes in the middle of the body or stream.
    cut
        A stream ends early, but without a transport error; a response without streaming is truncated.
    drip
        The response is sent in small pieces, ``drip_s`` apart.
    malformed
        A 200 with malformed JSON, or a stream with one malformed event.
    stream_error
        A stream reports an error after half of its events; a response without streaming fails with 500.
    hang
        No response is ever sent.
    retry_after_s
        Retry delay of a 429.
    drip_s
        Seconds between two pieces.

    Examples
    --------
    >>> Faults(rate_500=0.5, reset=0.75)
    Traceback (most recent call last):
    ValueError: the rates add up to 1.25; their sum must be at most 1
    """

    rate_429: float = 0.0
    rate_500: float = 0.0
    rate_529: float = 0.0
    quota: float = 0.0
    reset: float = 0.0
    truncate: float = 0.0
    cut: float = 0.0
    drip: float = 0.0
    malformed: float = 0.0
    stream_error: float = 0.0
    hang: float = 0.0
    retry_after_s: float = 1.0
    drip_s: float = 0.02

    def __post_init__(self) -> None:
        """Reject invalid rates."""
        for field in fields(self):
            value = getattr(self, field.name)
            highest = math.inf if field.name in NON_RATE_FIELDS else 1.0
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= highest:
                raise ValueError(f"{field.name}={value!r} is outside 0..{highest:g}")
        total = sum(rate for _, rate in self.rates())
        if total > 1 + 1e-9:
            raise ValueError(f"the rates add up to {total:g}; their sum must be at most 1")

    def rates(self) -> list[tuple[str, float]]:
        """Return pairs of fault and rate, for rates above 0."""
        return [(fault, rate) for name, fault in FAULT_BY_FIELD.items() if (rate := getattr(self, name))]


FAULT_BY_FIELD: Final = {
    field.name: field.name.removeprefix("rate_") for field in fields(Faults) if field.name not in NON_RATE_FIELDS
}
"""Names of faults, as scripts have them, by field."""
FAULT_NAMES: Final = tuple(FAULT_BY_FIELD.values())

SCRIPT_PATTERN: Final = re.compile(rf"({'|'.join(FAULT_NAMES)})(?:\s+(always|once|twice|\d+))?\s*")
FAULT_MARKER: Final = re.compile(rf"\[\[sim:{SCRIPT_PATTERN.pattern}\]\]")
REPEAT_COUNTS: Final = {"once": 1, "twice": 2}


def choose_fault(faults: Faults, quantile: float) -> str:
    """Return the fault at ``quantile`` (0 to 1), or an empty string.

    Examples
    --------
    >>> [choose_fault(Faults(rate_429=0.1, reset=0.1), drawn) for drawn in (0.05, 0.15, 0.25)]
    ['429', 'reset', '']
    """
    reached = 0.0
    for fault, rate in faults.rates():
        reached += rate
        if quantile < reached:
            return fault
    return ""


def scripted_fault(header: str, prompt: str, attempt: int) -> str:
    """Return the fault that a header or a marker in the prompt requests for this attempt (from 0), or an empty string.

    A script is a fault and how often it occurs: ``500 always`` (or ``500``), ``429 once``, ``reset twice``, ``drip 3``.

    Examples
    --------
    >>> [scripted_fault("", "Say hi. [[sim:429 once]]", attempt) for attempt in (0, 1)]
    ['429', '']
    >>> scripted_fault("reset", "Say hi.", 7)
    'reset'
    """
    match = (
        SCRIPT_PATTERN.fullmatch(header.strip())
        if header
        else FAULT_MARKER.search(prompt)
        if "[[sim:" in prompt
        else None
    )
    if match is None:
        return ""
    fault, times = match.groups()
    if times in {None, "always"}:
        return str(fault)
    return str(fault) if attempt < (REPEAT_COUNTS.get(times) or int(times)) else ""
