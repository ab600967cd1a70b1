"""Batches of simulated providers: their rows, their course in simulated time, and their results.

A batch is a value of what was submitted; its state follows from the clock. The clock can be set forward, so that a
batch of a day takes no time. `llmhub.sim.servers.batch_endpoints` has the paths and payloads of each provider.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Literal, TypeAlias

from llmhub.core.provider import HttpReply

Phase: TypeAlias = Literal["validating", "in_progress", "finalizing", "ended"]
Outcome: TypeAlias = Literal["completed", "failed", "expired", "cancelled"]
RowReason: TypeAlias = Literal["", "expired", "cancelled"]
AnswerRow: TypeAlias = Callable[[str, str, str, Mapping[str, Any], float], HttpReply]
"""Answers a row: provider, path of its request, model, payload and time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimBatches:
    """How batches of a simulator behave. Times are seconds of the simulated clock.

    Parameters
    ----------
    duration_s
        From the creation of a batch to its last row.
    finalizing_s
        From the last row to the results.
    window_s
        After which a batch expires.
    stuck
        Share of the rows that are never processed, so that their batch expires.
    keeps_results_of_expired
        Whether the other rows of an expired batch have results.
    shuffle
        Whether results come in another order than rows.
    refuse
        Error code with which every batch is refused after it was created; empty for none.
    max_enqueued_tokens
        Estimated tokens of all open batches of a provider, beyond which a new one is refused after it was created.
    """

    duration_s: float = 0.0
    finalizing_s: float = 0.0
    window_s: float = 86_400.0
    stuck: float = 0.0
    keeps_results_of_expired: bool = True
    shuffle: bool = True
    refuse: str = ""
    max_enqueued_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class SimRow:
    """A row of a batch: its id, the path of its request, and its payload."""

    custom_id: str
    path: str
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SimResult:
    """The result of a row: its reply, or why it has none."""

    custom_id: str
    reply: HttpReply | None
    reason: RowReason = ""

    @property
    def succeeded(self) -> bool:
        """Whether the row was answered."""
        return self.reply is not None and self.reply.status < 400  # noqa: PLR2004 - HTTP errors


@dataclass(slots=True)
class SimBatch:
    """A batch.

    ``info`` is what the provider returns of its creation: metadata, names, files.
    """

    id: str
    provider: str
    model: str
    rows: Sequence[SimRow]
    created: float
    info: Mapping[str, Any] = field(default_factory=dict)
    refusal: str = ""
    cancelled: float | None = None
    results: list[SimResult] | None = None


@dataclass(frozen=True, slots=True)
class BatchView:
    """A batch at one moment."""

    phase: Phase
    outcome: Outcome
    results: Sequence[SimResult]
    processed: int

    @property
    def succeeded(self) -> int:
        """Rows with an answer."""
        return sum(result.succeeded for result in self.results) if self.phase == "ended" else self.processed

    @property
    def failed(self) -> int:
        """Rows with an error, which include late ones."""
        return len(self.results) - self.succeeded if self.phase == "ended" else 0


class SimBatchStore:
    """Files and batches of all providers of one simulator.

    Parameters
    ----------
    settings
        How batches behave.
    answer
        Answers a row.
    seed
        Determines ids, stuck rows and the order of results.
    """

    def __init__(self, settings: SimBatches, answer: AnswerRow, seed: int = 0) -> None:
        self.settings = settings
        self.offset_s = 0.0
        self.files: dict[str, tuple[str, bytes]] = {}
        self.batches: dict[str, SimBatch] = {}
        self._answer = answer
        self._seed = seed
        self._serial = 0

    def advance(self, seconds: float) -> None:
        """Set the clock forward."""
        self.offset_s += seconds

    def new_id(self) -> str:
        """Return 24 hexadecimal digits, different in each call."""
        self._serial += 1
        return blake2b(b"batch %d %d" % (self._seed, self._serial), digest_size=12).hexdigest()

    def add_file(self, name: str, content: bytes, prefix: str = "file-") -> str:
        """Store a file and return its id."""
        file_id = prefix + self.new_id()
        self.files[file_id] = name, content
        return file_id

    def create(
        self, batch_id: str, provider: str, model: str, rows: Sequence[SimRow], info: Mapping[str, Any], now: float
    ) -> SimBatch:
        """Create a batch. One that exceeds the limit of enqueued tokens is created, and refused afterwards."""
        refusal = self.settings.refuse
        limit = self.settings.max_enqueued_tokens
        if limit is not None and not refusal:
            enqueued = sum(
                _tokens(batch.rows)
                for batch in self.batches.values()
                if batch.provider == provider and self.view(batch, now).phase != "ended"
            )
            refusal = "token_limit_exceeded" if enqueued + _tokens(rows) > limit else ""
        batch = SimBatch(batch_id, provider, model, rows, now + self.offset_s, info, refusal)
        self.batches[batch_id] = batch
        return batch

    def cancel(self, batch: SimBatch, now: float) -> None:
        """Cancel a batch that has not ended."""
        if self.view(batch, now).phase != "ended" and batch.cancelled is None:
            batch.cancelled = now + self.offset_s

    def newest_first(self, provider: str) -> list[SimBatch]:
        """Return the batches of a provider."""
        return [batch for batch in reversed(self.batches.values()) if batch.provider == provider]

    def view(self, batch: SimBatch, now: float) -> BatchView:  # noqa: PLR0911 - one case each
        """Return a batch as it is at the time ``now`` (epoch seconds) of this computer."""
        if batch.refusal:
            return BatchView("ended", "failed", (), 0)
        settings, age = self.settings, now + self.offset_s - batch.created
        stuck = [self._is_stuck(row) for row in batch.rows]
        if batch.cancelled is not None:
            until = batch.cancelled - batch.created
            done = _share(until, settings.duration_s)
            return BatchView("ended", "cancelled", self._results(batch, stuck, done, "cancelled", now), 0)
        if any(stuck) and age < settings.window_s:
            return BatchView("in_progress", "completed", (), int(_share(age, settings.duration_s) * stuck.count(False)))
        if any(stuck):
            kept = 1.0 if settings.keeps_results_of_expired else 0.0
            return BatchView("ended", "expired", self._results(batch, stuck, kept, "expired", now), 0)
        if age < settings.duration_s:
            processed = int(_share(age, settings.duration_s) * len(batch.rows))
            return BatchView("in_progress" if processed else "validating", "completed", (), processed)
        if age < settings.duration_s + settings.finalizing_s:
            return BatchView("finalizing", "completed", (), len(batch.rows))
        return BatchView("ended", "completed", self._results(batch, stuck, 1.0, "expired", now), len(batch.rows))

    def rows_in_live_batches(self) -> Counter[str]:
        """Return how many batches that were neither refused nor cancelled hold each row."""
        live = (batch for batch in self.batches.values() if not batch.refusal and batch.cancelled is None)
        return Counter(row.custom_id for batch in live for row in batch.rows)

    def _is_stuck(self, row: SimRow) -> bool:
        if not self.settings.stuck:
            return False
        digest = blake2b(f"{self._seed} {row.custom_id}".encode(), digest_size=4).digest()
        return int.from_bytes(digest) < self.settings.stuck * 2**32

    def _results(
        self, batch: SimBatch, stuck: Sequence[bool], done: float, reason: RowReason, now: float
    ) -> list[SimResult]:
        """Return the results, made once: the first ``done`` share of the rows that are not stuck is answered."""
        if batch.results is None:
            processed = int(done * len(batch.rows) + 1e-9)
            batch.results = [
                SimResult(row.custom_id, self._answer(batch.provider, row.path, batch.model, row.payload, now))
                if not is_stuck and index < processed
                else SimResult(row.custom_id, None, reason)
                for index, (row, is_stuck) in enumerate(zip(batch.rows, stuck, strict=True))
            ]
            if self.settings.shuffle:
                random.Random(f"{self._seed} {batch.id}").shuffle(batch.results)  # noqa: S311 - reproducible
        return batch.results


def _share(age: float, duration_s: float) -> float:
    return 1.0 if duration_s <= 0 else min(1.0, max(0.0, age / duration_s))


def _tokens(rows: Sequence[SimRow]) -> int:
    return sum(len(str(row.payload)) // 4 for row in rows)
