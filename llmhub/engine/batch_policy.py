"""How a run through Batch APIs treats its batches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias, get_args

from llmhub.engine.event_loop import StopSignal

LatePolicy: TypeAlias = Literal["wait", "live", "error"]
"""What happens to rows that a batch did not answer: sent in another batch, sent by themselves, or an error."""
LATE_POLICIES: Final = get_args(LatePolicy)
DEFAULT_POLL_S: Final = 30.0
"""Seconds between the first two polls of a batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPolicy:
    """How a run through Batch APIs treats its batches.

    Parameters
    ----------
    late
        What happens to rows that were not answered in time.
    deadline_s
        Seconds after a batch was created from which its rows are late; ``None`` for the provider's own limit.
    poll_s
        Seconds between the first two polls; the time grows to five minutes.
    cancel
        Requests that open batches are cancelled and collected.
    max_tokens
        Estimated prompt tokens of one batch, at most; ``None`` for no limit of our own.
    storage, role
        Object storage and role, for providers that need them.
    """

    late: LatePolicy = "wait"
    deadline_s: float | None = None
    poll_s: float = DEFAULT_POLL_S
    cancel: StopSignal = field(default_factory=StopSignal)
    max_tokens: int | None = None
    storage: str = ""
    role: str = ""
