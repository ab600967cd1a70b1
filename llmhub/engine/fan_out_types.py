"""What a run is to do, and what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from llmhub.cache.store import Store
from llmhub.engine.call import Send
from llmhub.engine.progress import ProgressSink
from llmhub.engine.row_outcome import RowOutcome
from llmhub.engine.write_ahead import WriteAheadLog

if TYPE_CHECKING:
    from llmhub.engine.block_lookup import PlannedBlock, StoredBlock
from typing import TYPE_CHECKING, Any, Final

from llmhub.engine.call import Call, Target

if TYPE_CHECKING:
    from llmhub.engine.block_lookup import PlannedBlock, StoredBlock


ResultEvent: TypeAlias = "tuple[int, RowOutcome, float] | StoredBlock"
"""An answer as it came: its position, the answer, the seconds it waited to be taken up; or many from the store."""


OnResult: TypeAlias = Callable[[ResultEvent], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class FanOutSpec:
    """What a run is to do.

    Parameters
    ----------
    size
        Rows of the answer list; rows that no item names stay unanswered.
    chunks
        Items, lazily; positions may come in any order.
    send
        The whole chain.
    in_flight
        Tasks whose request is on the wire right now (the transport's).
    store
        Where answers are looked up and filed.
    strict
        Whether to stop when the store fails, instead of going on without it.
    books
        Where the requests are entered, and who else asks on the same store; made of ``store`` unless given.
    others
        Names who may be asked in the place of whom an item names (see `llmhub.engine.single_flight.SingleFlight`).
    looked
        Where the run notes the keys of what it has looked up by all of them, and is about to ask.
    since
        What anybody asked before (epoch seconds) is no answer for this run.
    run_id
        Names the run in the ledger (16 bytes).
    concurrency
        Calls under way at once, at most.
    watch
        Who is told how far it is, a few times a second, on the loop's thread.
    told
        Told each answer as it comes, on the loop's thread.
    holds
        Says what makes the calls to a target wait, by its name; nothing where nothing does.
    """

    size: int
    chunks: Iterator[list[PlannedItem] | PlannedBlock]
    send: Send
    in_flight: Collection[asyncio.Task[object]]
    store: Store | None = None
    strict: bool = False
    write_ahead: WriteAheadLog | None = None
    alternatives: Alternatives | None = None
    looked_up_keys: set[bytes] = field(default_factory=set)
    not_before: float = 0.0
    run_id: bytes = b""
    concurrency: int = 64
    progress_sink: ProgressSink | None = None
    on_result: OnResult | None = None
    blocked_by: Callable[[str], str] = lambda _: ""


@dataclass(frozen=True, slots=True)
class FanOutResult:
    """What came of a run.

    Parameters
    ----------
    answers
        By position; ``None`` where no item named it, and where it is in a block.
    queued_s
        By position: seconds before being taken up.
    blocks
        What a store answered by the hundred, in the order of positions.
    damaged
        Values of the store that were damaged, and so counted as misses.
    store_error
        What went wrong with the store, if anything did.
    gave_up
        Whether the run was stopped for it.
    report_error
        Why nothing more was reported, if so.
    unsure
        Questions that somebody had sent who was gone before the answer came.
    """

    outcomes: list[RowOutcome | None]
    queue_s: Sequence[float]
    blocks: Sequence[StoredBlock] = ()
    damaged_values: int = 0
    store_error: str = ""
    stopped_by_store_failure: bool = False
    progress_error: str = ""
    ambiguous_count: int = 0


CHUNK_SIZE: Final = 4096
"""Items planned and looked up at a time, at most."""


FIRST_CHUNK_SIZE: Final = 512
"""Items of the first chunk: the first call need not wait for more."""


PlannedItem: TypeAlias = tuple[int, bytes, Callable[[Any, bytes], Call], Any]
"""Position of the row, key of the question, how to make its call once that is needed, and what to make it of.

The call is made of what is asked, a text for the most part, and the key."""


Alternatives: TypeAlias = Callable[[PlannedItem], Sequence[tuple[Target, bytes]]]
"""Names who else may answer an item, and the key of its question as it would be put to them."""
