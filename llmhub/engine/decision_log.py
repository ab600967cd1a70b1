"""What the engine decided and why, in a bounded log that can be read while it runs and afterwards."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

MAX_DECISIONS: Final = 10_000
"""Decisions that are kept; the oldest go first."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision.

    Parameters
    ----------
    at
        When (epoch seconds).
    kind
        What was decided, in a word: ``retry``, ``give_up``, ``learn``, ``shrink``, ``pause``, ``fallback``...
    target
        About whom: ``provider/model``, or the provider where it concerns all its models.
    detail
        Why, for people.
    wait_s
        Seconds that it makes somebody wait; ``None`` where nobody does.
    """

    timestamp: float
    kind: str
    target: str
    detail: str = ""
    wait_s: float | None = None


class RecordDecision(Protocol):
    """Keeps a decision: what kind, about whom, and why."""

    def __call__(self, kind: str, target: str, detail: str = "", *, wait_s: float | None = None) -> None:
        """Keep it."""


class DecisionLog:
    """The log: anybody notes, anybody reads, from whatever thread.

    Examples
    --------
    >>> log = DecisionLog(lambda: 7.0, maxlen=1)
    >>> log.record("retry", "openai/m", "RateLimited", wait_s=1.0)
    >>> log.record("retry", "openai/m", "ServerError", wait_s=0.5)
    >>> log.read()
    (Decision(timestamp=7.0, kind='retry', target='openai/m', detail='ServerError', wait_s=0.5),)
    """

    def __init__(self, clock: Callable[[], float], maxlen: int = MAX_DECISIONS) -> None:
        self._clock = clock
        self._kept: deque[Decision] = deque(maxlen=maxlen)

    def record(self, kind: str, target: str, detail: str = "", *, wait_s: float | None = None) -> None:
        """Keep a decision."""
        self._kept.append(Decision(self._clock(), kind, target, detail, wait_s))

    def read(self) -> tuple[Decision, ...]:
        """Give what is kept, oldest first."""
        # A copy is one step for other threads; going through the log itself is not.
        return tuple(self._kept.copy())
