"""The outcomes of one run by position, with what is told of them while the run goes on."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from llmhub.core.serialization import StoredResponse
from llmhub.engine.call import Answer
from llmhub.engine.fan_out_types import FanOutSpec, PlannedItem, ResultEvent
from llmhub.engine.progress import ProgressReporter
from llmhub.engine.row_outcome import RowOutcome, cancelled_outcome, for_duplicate

if TYPE_CHECKING:
    from llmhub.engine.block_lookup import StoredBlock
    from llmhub.engine.packed_answers import PackedAnswers


class ResultCollector:
    """The outcomes of one run by position. A duplicate item gets the outcome of the first item with its key.

    Parameters
    ----------
    spec
        The work.
    reporter
        Counts the outcomes.
    fail
        Ends the run with an exception.
    packed
        Keeps the answers of batches, in a run with batches.
    """

    def __init__(
        self,
        spec: FanOutSpec,
        reporter: ProgressReporter | None,
        fail: Callable[[BaseException], None],
        packed: PackedAnswers | None = None,
    ) -> None:
        self.outcomes: list[RowOutcome | None] = [None] * spec.size
        self.queue_s = array("d", bytes(8 * spec.size))
        self.blocks: list[StoredBlock] = []
        self.packed = packed
        self._on_result = spec.on_result
        self._on_stored = spec.on_stored
        self._reports_blocks = spec.reports_blocks
        self._reporter = reporter
        self._fail = fail
        self.first_positions: dict[bytes, int] = {}
        self._duplicates: dict[int, list[int]] = {}

    def settle(self, position: int, outcome: RowOutcome) -> None:
        """Set the outcome of a position and of its duplicates."""
        self.outcomes[position] = outcome
        if self._reporter is not None:
            self._reporter.add(position, outcome)
        if self._on_result is not None:
            self._pass_on((position, outcome, self.queue_s[position]))
        if self._on_stored is not None and type(outcome) is StoredResponse:
            self._on_stored((position, outcome, 0.0))
        self._settle_duplicates(position, outcome)

    def is_settled(self, position: int) -> bool:
        """Return whether a position that had to be sent has an outcome."""
        return self.outcomes[position] is not None or (self.packed is not None and position in self.packed)

    def settle_packed(self, positions: Sequence[int], values: Sequence[bytes], answers: Sequence[Answer]) -> None:
        """Set the outcomes of positions to answers of batches, of which the values in the store are kept."""
        packed = self.packed
        if packed is None or not positions:
            return
        packed.add(positions, values, [answer.attempts for answer in answers])
        others = set(positions) if self._on_result is not None else set()
        if others and self._reports_blocks:
            block = packed.block(positions)
            self._pass_on(block)
            others.difference_update(block.positions.tolist())
        for position, answer in zip(positions, answers, strict=True):
            if self._reporter is not None:
                self._reporter.add(position, answer)
            if position in others:
                self._pass_on((position, answer, self.queue_s[position]))
            self._settle_duplicates(position, answer)

    def answer_of(self, position: int, key: bytes) -> RowOutcome | None:
        """Return the outcome of a position with this key, as an object; ``None`` if it has none."""
        outcome = self.outcomes[position]
        if outcome is None and self.packed is not None and position in self.packed:
            return self.packed.answer(position, key)
        return outcome

    def _settle_duplicates(self, position: int, outcome: RowOutcome) -> None:
        duplicates = self._duplicates.pop(position, None)
        if duplicates:
            shared = for_duplicate(outcome)
            for duplicate in duplicates:
                self.settle(duplicate, shared)

    def add_block(self, block: StoredBlock) -> None:
        """Add a block of responses from the store."""
        if not len(block.positions):
            return
        self.blocks.append(block)
        if self._on_result is not None:
            self._pass_on(block)
        if self._on_stored is not None:
            self._on_stored(block)
        if self._reporter is not None:
            self._reporter.add_stored_block(block.positions)

    def _pass_on(self, event: ResultEvent) -> None:
        """Call ``on_result``; after an exception it is not called again, and the run ends."""
        try:
            if self._on_result is not None:
                self._on_result(event)
        except Exception as error:  # noqa: BLE001 - the other rows of an outcome are still to be settled
            self._on_result = None
            self._fail(error)

    def without_duplicates(self, items: Iterable[PlannedItem]) -> list[PlannedItem]:
        """Return the items with a new key; the others get the outcome of the first item with their key."""
        unique: list[PlannedItem] = []
        for item in items:
            position = item[0]
            first = self.first_positions.setdefault(item[1], position)
            if first == position:
                unique.append(item)
            elif (outcome := self.answer_of(first, item[1])) is not None:
                self.settle(position, for_duplicate(outcome))
            else:
                self._duplicates.setdefault(first, []).append(position)
        return unique

    async def cancel_missing(self, remaining: Iterable[Iterable[PlannedItem]]) -> None:
        """Set the outcome of all items without one to `Cancelled`, including those of the ``remaining`` chunks."""
        for chunk in remaining:
            self.without_duplicates(chunk)
            # Computing the keys of the remaining rows may take long; other tasks go on meanwhile.
            await asyncio.sleep(0)
        for position in self.first_positions.values():
            if not self.is_settled(position):
                self.settle(position, cancelled_outcome())
