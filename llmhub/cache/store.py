"""The one record every store is: bytes by key, looked up and written in bulk.

What a store may offer besides keeping answers: claims on keys, and a ledger of every request.

A key is claimed before it is asked, so that no two processes ask the same at once, and each request is written down
before it is sent. What a process that died leaves behind is then known: what it had only reserved was never sent; what
it had sent and has no answer may have been charged.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from llmhub.core.errors import BadRequestError, InvalidRequest

if TYPE_CHECKING:
    pass  # merged
from dataclasses import field
from typing import Literal, TypeAlias

KEY_BYTES: Final = 32
"""Length of the keys that are looked up in a block."""


ABSENT: Final = -1


class Entry(NamedTuple):
    """What is filed: the key (32 bytes), the value, who answered, and when (epoch seconds)."""

    key: bytes
    value: bytes
    model: str = ""
    created_at: float = 0.0


class BlockValues(NamedTuple):
    """What a block of keys has: the values together in some order, and for each key where its own begins, and its size.

    The size is `ABSENT` where there is none. Both are arrays of 64-bit integers, of Python's or numpy's.
    """

    values: bytes
    starts: Any
    sizes: Any


class GetMany(Protocol):
    """Keys to the values that are there; what was filed before ``since`` (epoch seconds) is not."""

    def __call__(self, keys: Sequence[bytes], since: float = 0.0, /) -> Mapping[bytes, bytes]:
        """Look up."""
        ...


class GetEntries(Protocol):
    """Keys to the whole entries that are there (see `GetMany`)."""

    def __call__(self, keys: Sequence[bytes], since: float = 0.0, /) -> Sequence[Entry]:
        """Look up."""
        ...


class GetBlock(Protocol):
    """Keys of 32 bytes, one after another, to their values (see `GetMany`)."""

    def __call__(self, keys: bytes, since: float = 0.0, /) -> BlockValues:
        """Look up."""
        ...


class NonblockingPut(NamedTuple):
    """Files entries as ``of`` does, a ``put_many``, but so that it may be called where nothing may wait.

    It says no where somebody else is writing, or where it would take long. A store that is given another ``put_many``
    has none any more.
    """

    blocking_put: Callable[[Iterable[Entry]], None]
    try_put: Callable[[Sequence[Entry]], bool]


def _empty_scan() -> Iterator[Entry]:
    return iter(())


def _no_op() -> None:
    """Have nothing to give back."""


def _no_entries(_keys: Sequence[bytes], _since: float = 0.0, /) -> Sequence[Entry]:
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStats:
    """What a store holds, and what came of asking it since it was opened."""

    entries: int = 0
    size_bytes: int = 0
    hits: int = 0
    misses: int = 0
    evictions: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """An open store. Its functions block and may be called from any thread.

    Parameters
    ----------
    get_many
        Keys to the values that are there.
    get_entries
        Keys to the entries that are there, with who answered and when.
    put_many
        Files entries; a later one of the same key stands.
    delete
        Takes keys out; absent ones do not matter.
    clear
        Takes everything out.
    stats
        What it holds.
    close
        Frees what it has open; the store is not used after it.
    scan
        Gives everything, one by one.
    compact
        Gives back the room of what was taken out, where it can.
    get_block
        Looks up a block of keys, where a store can do that faster than by ``get_many``.
    beside
        Whether a block is looked up while other threads of Python go on.
    at_once
        How a few entries are filed without waiting, of a store that can.
    ttl_s
        How long an answer counts, if not for ever.
    claims
        Claims on keys across processes (`llmhub.cache.store`), of a store that can give them. A store made of others
        passes on those of the one that is shared most widely; one that is not to be read or written has none.
    ledger
        Where every request is written down before it is sent, of a store that has such a place.
    """

    get_many: GetMany
    put_many: Callable[[Iterable[Entry]], None]
    delete: Callable[[Sequence[bytes]], None]
    clear: Callable[[], None]
    stats: Callable[[], StoreStats]
    close: Callable[[], None]
    scan: Callable[[], Iterator[Entry]] = _empty_scan
    compact: Callable[[], None] = _no_op
    get_entries: GetEntries = _no_entries
    get_block: GetBlock | None = None
    releases_gil: bool = False
    nonblocking_put: NonblockingPut | None = None
    ttl_s: float | None = None
    claims: Claims | None = None
    ledger: Ledger | None = None

    def try_put(self, entries: Sequence[Entry]) -> bool:
        """File entries, where that takes no waiting; say whether it did."""
        return (
            self.nonblocking_put is not None
            and self.nonblocking_put.blocking_put == self.put_many
            and self.nonblocking_put.try_put(entries)
        )


def lookup_block(store: Store, keys: bytes) -> BlockValues:
    """Look up keys of 32 bytes that lie one after another, whatever the store."""
    return store.get_block(keys) if store.get_block is not None else block_from_many(store.get_many, keys)


def block_from_many(get_many: Callable[[Sequence[bytes]], Mapping[bytes, bytes]], keys: bytes) -> BlockValues:
    """Look up a block by single keys.

    Examples
    --------
    >>> found = block_from_many(lambda _: {bytes(32): b"value"}, bytes(32) + b"k" * 32)
    >>> found.values, list(found.starts), list(found.sizes)
    (b'value', [0, 5], [5, -1])
    """
    apart = [keys[at : at + KEY_BYTES] for at in range(0, len(keys), KEY_BYTES)]
    there = get_many(apart)
    values = [there.get(key) for key in apart]
    sizes = array("q", [ABSENT if value is None else len(value) for value in values])
    starts = array("q", accumulate((max(0, size) for size in sizes), initial=0))[:-1]
    return BlockValues(b"".join([value for value in values if value is not None]), starts, sizes)


def valid_since(since: float, ttl_s: float | None) -> float:
    """Give the time (epoch seconds) before which nothing counts: what is asked for, or what the age limit says."""
    return since if ttl_s is None else max(since, time.time() - ttl_s)


def validate_seconds(name: str, value: float | None) -> None:
    """Refuse a time that is none.

    Raises
    ------
    InvalidRequestError
        Names the argument and the value.
    """
    good = value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0)
    if not good:
        said = f"{value!r} is no time; give seconds above 0, or None for no limit"
        raise BadRequestError(InvalidRequest(path=name, message=said))


class StoreError(Exception):
    """A store that could not read or write; the run goes on without it."""


class Cache(Protocol):
    """Where answers are kept, as a value: what a hub holds and opens at first use."""

    def open(self) -> Store:
        """Open the store."""
        ...


LEASE_S: Final = 30.0
"""How long a claim lives when nobody can tell whether its owner does."""


HEARTBEAT_S: Final = 5.0
"""How often an owner says that it lives."""


LedgerState: TypeAlias = Literal["reserved", "sent", "done", "error", "ambiguous"]
"""Where a request is; ``ambiguous``: sent, and who sent it is gone without an answer."""


class ClaimRequest(NamedTuple):
    """A key that somebody wants to ask, and the run it is for (16 bytes)."""

    key: bytes
    run: bytes


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """What came of claiming keys: those named nowhere here are granted.

    Parameters
    ----------
    held
        Keys that another owner holds; ask again later.
    unsure
        Keys that an owner sent who is gone without an answer, and the run that sent them first. Granted, too, where
        they may be sent again; left as they are otherwise.
    alone
        Whether nobody else was there since the last claim, so that nobody can have answered anything meanwhile.
    """

    held_elsewhere: frozenset[bytes] = frozenset()
    ambiguous: Mapping[bytes, bytes] = field(default_factory=dict)
    exclusive: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """Keys claimed across processes. The functions block, and may be called from any thread.

    Parameters
    ----------
    claim
        ``claim(wishes, resend, again)`` claims all at once; ``resend`` says whether to take what is ambiguous;
        ``again``, that these were held before, so that most will be still. An answer is filed before its key is given
        back: whoever is granted a key, and was not ``alone``, looks it up once more.
    release
        Gives keys back.
    beat
        Says that the owner lives; due every ``beat_s``.
    """

    claim: Callable[[Sequence[ClaimRequest], bool, bool], ClaimResult]
    release: Callable[[Sequence[bytes]], None]
    heartbeat: Callable[[], None]
    heartbeat_s: float = HEARTBEAT_S


class SentRequest(NamedTuple):
    """A request about to be sent, to which model and when; one that is claimed and no more has neither."""

    key: bytes
    run: bytes
    model: str = ""
    sent_at: float = 0.0


class EndedRequest(NamedTuple):
    """A request that came to an end; tokens as the provider counted them."""

    key: bytes
    run: bytes
    model: str
    served_model: str
    state: LedgerState
    error_type: str
    sent_at: float
    ended_at: float
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None


@dataclass(slots=True)
class LedgerBatch:
    """What is written together: all of it or nothing."""

    sent: list[SentRequest] = field(default_factory=list)
    unsent: list[bytes] = field(default_factory=list)
    ended: list[EndedRequest] = field(default_factory=list)
    released: list[bytes] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Say whether there is anything to write."""
        return bool(self.sent or self.unsent or self.ended or self.released)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """Every request, durable before it is sent. The functions block, and may be called from any thread.

    Parameters
    ----------
    commit
        Writes a batch: it survives the death of this process from then on.
    try_commit
        Writes a batch like ``commit``, but waits for nobody: says no where somebody else is writing. Takes some ten
        microseconds, so it may be called where nothing may wait.
    requests
        Reads every request, ended or not, in the order of their end, those under way last.
    forget
        Takes out requests that ended before a time (epoch seconds); gives their number.
    """

    commit: Callable[[LedgerBatch], None]
    try_commit: Callable[[LedgerBatch], bool]
    requests: Callable[[], Iterator[EndedRequest]]
    delete_before: Callable[[float], int]
