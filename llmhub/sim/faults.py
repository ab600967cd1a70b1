"""What goes wrong on purpose: by rates, decided by hash, or by script, for one prompt or one request."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from typing import Final

NON_RATE_FIELDS: Final = frozenset({"retry_after_s", "drip_s"})
"""Fields of `Faults` that are no rates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """The share of requests that meet each fault, from 0 to 1; together at most 1.

    Parameters
    ----------
    rate_429, rate_500, rate_529
        A refusal for coming too often, an internal error, and overload, each as the provider says it
        (overload is 529 at Anthropic, 503 elsewhere).
    quota
        Money or quota is gone: trying again does not help.
    reset
        The TCP connection is reset instead of an answer.
    truncate
        The connection closes in the middle of the body or stream.
    cut
        A stream ends early, but in good form; an answer that is no stream is truncated.
    drip
        The answer comes in small pieces, ``drip_s`` apart.
    malformed
        A 200 with broken JSON, or a stream with one broken event.
    stream_error
        A stream reports an error after a good beginning; an answer that is no stream fails with 500.
    hang
        No answer ever comes.
    retry_after_s
        When a 429 says to come again.
    drip_s
        Pause between two pieces.

    Examples
    --------
    >>> Faults(rate_500=0.5, reset=0.75)
    Traceback (most recent call last):
    ValueError: the rates add up to 1.25; together they are at most 1
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
        """Refuse what are no rates."""
        for each in fields(self):
            value = getattr(self, each.name)
            highest = math.inf if each.name in NON_RATE_FIELDS else 1.0
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= highest:
                raise ValueError(f"{each.name}={value!r} is outside 0..{highest:g}")
        whole = sum(rate for _, rate in self.rates())
        if whole > 1 + 1e-9:
            raise ValueError(f"the rates add up to {whole:g}; together they are at most 1")

    def rates(self) -> list[tuple[str, float]]:
        """Give each fault by its name with its rate, without those that never happen."""
        return [(fault, rate) for name, fault in FAULT_BY_FIELD.items() if (rate := getattr(self, name))]


FAULT_BY_FIELD: Final = {
    each.name: each.name.removeprefix("rate_") for each in fields(Faults) if each.name not in NON_RATE_FIELDS
}
"""Each rate's field and the name of its fault, as scripts write it."""
FAULT_NAMES: Final = tuple(FAULT_BY_FIELD.values())

SCRIPT_PATTERN: Final = re.compile(rf"({'|'.join(FAULT_NAMES)})(?:\s+(always|once|twice|\d+))?\s*")
FAULT_MARKER: Final = re.compile(rf"\[\[sim:{SCRIPT_PATTERN.pattern}\]\]")
REPEAT_COUNTS: Final = {"once": 1, "twice": 2}


def choose_fault(faults: Faults, quantile: float) -> str:
    """Name the fault at ``quantile`` (0 to 1), or nothing.

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
    """Name the fault that a header or a marker in the prompt asks for on this attempt (from 0), or nothing.

    A script is a fault and how often: ``500 always`` (or just ``500``), ``429 once``, ``reset twice``, ``drip 3``.

    Examples
    --------
    >>> [scripted_fault("", "Say hi. [[sim:429 once]]", attempt) for attempt in (0, 1)]
    ['429', '']
    >>> scripted_fault("reset", "Say hi.", 7)
    'reset'
    """
    found = (
        SCRIPT_PATTERN.fullmatch(header.strip())
        if header
        else FAULT_MARKER.search(prompt)
        if "[[sim:" in prompt
        else None
    )
    if found is None:
        return ""
    fault, often = found.groups()
    if often in {None, "always"}:
        return str(fault)
    return str(fault) if attempt < (REPEAT_COUNTS.get(often) or int(often)) else ""
