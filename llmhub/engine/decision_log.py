"""A bounded log of what the engine decided and why, readable during a run and afterwards."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

MAX_DECISIONS: Final = 10_000
"""Number of decisions kept; the oldest are dropped first."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision of the engine.

    Parameters
    ----------
    timestamp
        Time of the decision (epoch seconds).
    kind
        Kind of decision: ``retry``, ``give_up``, ``learn``, ``shrink``, ``pause``, ``fallback``...
    target
        The ``provider/model`` concerned, or the provider if all its models are.
    detail
        The reason, as a text.
    wait_s
        Seconds a call has to wait because of it; ``None`` if none has to.
    """

    timestamp: float
    kind: str
    target: str
    detail: str = ""
    wait_s: float | None = None


class RecordDecision(Protocol):
    """Records a decision (see `Decision`)."""

    def __call__(self, kind: str, target: str, detail: str = "", *, wait_s: float | None = None) -> None:
        """Record a decision made now."""


class DecisionLog:
    """The decision log. Any thread may record and read.

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
        self._decisions: deque[Decision] = deque(maxlen=maxlen)

    def record(self, kind: str, target: str, detail: str = "", *, wait_s: float | None = None) -> None:
        """Record a decision made now."""
        self._decisions.append(Decision(self._clock(), kind, target, detail, wait_s))

    def read(self) -> tuple[Decision, ...]:
        """Return all decisions kept, oldest first."""
        # Copying is atomic; iterating over the deque while another thread appends to it raises.
        return tuple(self._decisions.copy())
