"""The specification, the means and the result of a fan-out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from llmhub.engine.call import Call, Middleware, Send, Target
from llmhub.engine.observer import Observers
from llmhub.engine.progress import ProgressSink
from llmhub.engine.row_outcome import RowOutcome
from llmhub.engine.store_access import StoreAccess

if TYPE_CHECKING:
    from llmhub.engine.block_lookup import PlannedBlock, StoredBlock
    from llmhub.engine.packed_answers import PackedAnswers
    from llmhub.engine.scheduling import SlotGroup, TargetQueues

CHUNK_SIZE: Final = 4096
"""Maximum number of items planned and looked up at a time."""
FIRST_CHUNK_SIZE: Final = 512
"""Number of items in the first chunk, so that the first call starts early."""

PlannedItem: TypeAlias = tuple[int, bytes, Callable[[Any, bytes], Call], Any]
"""A planned request: position, key (32 bytes), a function that builds the call, and the prompt to pass to it with the
key. A plain tuple, since a run over a million rows creates a million of them."""
Alternatives: TypeAlias = Callable[[PlannedItem], Sequence[tuple[Target | None, bytes]]]
"""Returns the other candidate targets of an item, and the key of its request to each."""
ResultEvent: TypeAlias = "tuple[int, RowOutcome, float] | StoredBlock"
"""A new result: position, outcome and queue time in seconds; or a block of responses."""
OnResult: TypeAlias = Callable[[ResultEvent], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class FanOutSpec:
    """The work of a fan-out.

    Parameters
    ----------
    size
        Number of positions. Positions without an item get no outcome.
    chunks
        Chunks of items, drawn lazily. Positions may come in any order.
    concurrency
        Maximum number of concurrent calls.
    run_id
        The run's id in the ledger (16 bytes).
    progress_sink
        Where progress is reported, a few times a second, on the loop's thread; ``None`` for nowhere.
    on_result
        Called with each new result, on the loop's thread.
    on_stored
        Called with those results only that were answered without a call.
    draws_in_thread
        Whether drawing a chunk may block, so that it happens in a thread: files are read.
    slots
        Slots that this run shares with others; its own ones if omitted.
    around_send
        Wraps every call of this run, outside of the client's middleware; ``None`` for nothing.
    make_again
        Returns the call of a position and its key again, so that its prompt need not be kept while a batch has it;
        ``None`` if it has to be kept.
    reports_blocks
        Whether ``on_result`` gets answers of batches in blocks, which it may keep, instead of one object for each.
    """

    size: int
    chunks: Iterator[list[PlannedItem] | PlannedBlock]
    concurrency: int = 64
    run_id: bytes = b""
    progress_sink: ProgressSink | None = None
    on_result: OnResult | None = None
    on_stored: OnResult | None = None
    draws_in_thread: bool = False
    slots: SlotGroup | None = None
    around_send: Middleware | None = None
    make_again: Callable[[int, bytes], Call] | None = None
    reports_blocks: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """How a fan-out looks items up and sends them.

    Parameters
    ----------
    send
        The middleware chain.
    in_flight
        Tasks whose request is on the wire right now.
    access
        Access to the store.
    alternatives
        The candidates of routes; ``None`` without routes.
    blocked_by
        Returns the reason why calls to a target have to wait, by the target's name; empty if there is none.
    queues
        The queues of the runs of this client, for its state.
    refused_by
        Returns what a target's provider says while it refuses every request, by the target's name; else empty.
    observers
        Returns who observes the calls; ``None`` if ``send`` observes them.
    """

    send: Send
    in_flight: Collection[asyncio.Task[object]]
    access: StoreAccess = field(default_factory=StoreAccess)
    alternatives: Alternatives | None = None
    blocked_by: Callable[[str], str] = lambda _: ""
    queues: set[TargetQueues] = field(default_factory=set)
    refused_by: Callable[[str], str] = lambda _: ""
    observers: Observers | None = None


@dataclass(frozen=True, slots=True)
class FanOutResult:
    """The result of a fan-out.

    Parameters
    ----------
    outcomes
        Outcomes by position; ``None`` where there was no item, or the response is in a block or among ``packed``.
    queue_s
        Seconds each position waited for a worker.
    blocks
        Blocks of responses from the store, in order of their positions.
    packed
        Answers of batches; ``None`` in a run without.
    damaged_values
        Number of values in the store that were corrupt and counted as misses.
    store_error
        The failure of the store; empty if there was none.
    stopped_by_store_failure
        Whether the run was stopped because of it.
    progress_error
        The exception that ended progress reports; empty if there was none.
    ambiguous_count
        Number of requests that an earlier process had sent without recording an answer.
    error
        The exception that ended the run early. The caller raises it once it has saved the outcomes.
    """

    outcomes: list[RowOutcome | None]
    queue_s: Sequence[float]
    blocks: Sequence[StoredBlock] = ()
    packed: PackedAnswers | None = None
    damaged_values: int = 0
    store_error: str = ""
    stopped_by_store_failure: bool = False
    progress_error: str = ""
    ambiguous_count: int = 0
    error: BaseException | None = None

    def outcome(self, position: int, key: bytes) -> RowOutcome | None:
        """Return the outcome of a position with this key, as an object; ``None`` if it has none, or is in a block."""
        outcome = self.outcomes[position]
        if outcome is None and self.packed is not None and position in self.packed:
            return self.packed.answer(position, key)
        return outcome
