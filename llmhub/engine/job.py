"""What a run is to do, and what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from llmhub.cache.store import Store
from llmhub.engine.books import Books
from llmhub.engine.call import Send
from llmhub.engine.settled import Settled
from llmhub.engine.tally import Watch
from llmhub.engine.turns import Item, Others

if TYPE_CHECKING:
    from llmhub.engine.bulk import Block, Bulk

Landed: TypeAlias = "tuple[int, Settled, float] | Block"
"""An answer as it came: its position, the answer, the seconds it waited to be taken up; or many from the store."""
Told: TypeAlias = Callable[[Landed], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
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
        Names who may be asked in the place of whom an item names (see `llmhub.engine.turns.Turns`).
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
    chunks: Iterator[list[Item] | Bulk]
    send: Send
    in_flight: Collection[asyncio.Task[object]]
    store: Store | None = None
    strict: bool = False
    books: Books | None = None
    others: Others | None = None
    looked: set[bytes] = field(default_factory=set)
    since: float = 0.0
    run_id: bytes = b""
    concurrency: int = 64
    watch: Watch | None = None
    told: Told | None = None
    holds: Callable[[str], str] = lambda _: ""


@dataclass(frozen=True, slots=True)
class Ran:
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

    answers: list[Settled | None]
    queued_s: Sequence[float]
    blocks: Sequence[Block] = ()
    damaged: int = 0
    store_error: str = ""
    gave_up: bool = False
    report_error: str = ""
    unsure: int = 0
