"""Long-running work of a service as its page shows it, whatever kind of work it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, Protocol, TypeAlias

RunKind: TypeAlias = Literal["run", "batch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """A run of a table, or a batch.

    Parameters
    ----------
    id, kind
        What it is.
    team, key_id
        Whose it is.
    models
        The models that it calls.
    state
        What it is doing, in a word.
    rows, done, failed
        Rows in all, with a result, and of those the failed ones.
    billed_usd, forecast_usd
        What it has cost so far, and what it was expected to cost; ``None`` where that is unknown.
    created_at, ended_at
        Times in epoch seconds; ``ended_at`` is ``None`` until it ends.
    remaining_s
        How long it will still take; ``None`` if that is unknown.
    waits_for
        What holds it back, if anything does.
    """

    id: str
    kind: RunKind
    team: str
    key_id: str = ""
    models: tuple[str, ...] = ()
    state: str = "running"
    rows: int = 0
    done: int = 0
    failed: int = 0
    billed_usd: Decimal | None = None
    forecast_usd: Decimal | None = None
    created_at: float = 0.0
    ended_at: float | None = None
    remaining_s: float | None = None
    waits_for: str = ""


class RunSource(Protocol):
    """A route group's work in progress and its latest results: one value in `Service.run_sources`."""

    def list_runs(self, team: str | None, limit: int) -> Sequence[RunView]:
        """Return the work of a team, or of all teams, the newest first. It is called in a thread, and may block."""
