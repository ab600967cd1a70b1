"""The interface of every response store: values by 32-byte key, read and written in bulk, with claims and a ledger.

A store is a record of functions (`Store`) that block and may be called from any thread. Stores shared by processes also
offer claims, so that no two processes send the same request at once, and a ledger, in which each request is recorded
before it is sent. After a crash the ledger tells a request that was only claimed, and so never sent, from one that was
sent and may have been charged.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias

from llmhub.cache.shared_limiter import SharedLimiter
from llmhub.core.errors import invalid

KEY_BYTES: Final = 32
"""Length of a key, and the stride of a block of keys."""
ABSENT: Final = -1
"""Size of a value that is not in the store."""
LEASE_S: Final = 15.0
"""Lifetime of a claim whose owner cannot be checked for being alive."""
HEARTBEAT_S: Final = 5.0
"""Interval at which an owner renews its lease."""


class Entry(NamedTuple):
    """A stored value: its key (32 bytes), the value, the model that answered, and the time (epoch seconds)."""

    key: bytes
    value: bytes
    model: str = ""
    created_at: float = 0.0


class BlockValues(NamedTuple):
    """Values of a block of keys: all values concatenated, and for each key the offset and the size of its value.

    The size is `ABSENT` for a key without a value. Offsets and sizes are arrays of 64-bit integers (`array` or numpy).
    """

    values: bytes
    starts: Any
    sizes: Any


class GetMany(Protocol):
    """Look up keys; values stored before ``since`` (epoch seconds) are ignored."""

    def __call__(self, keys: Sequence[bytes], since: float = 0.0, /) -> Mapping[bytes, bytes]:
        """Return the values present, by key."""
        ...


class GetEntries(Protocol):
    """Look up keys and return whole entries (see `GetMany`)."""

    def __call__(self, keys: Sequence[bytes], since: float = 0.0, /) -> Sequence[Entry]:
        """Return the entries present."""
        ...


class GetBlock(Protocol):
    """Look up a block of concatenated 32-byte keys (see `GetMany`)."""

    def __call__(self, keys: bytes, since: float = 0.0, /) -> BlockValues:
        """Return the values of the block."""
        ...


class NonblockingGet(NamedTuple):
    """A variant of ``get_many`` that may be called on an event loop.

    Parameters
    ----------
    blocking_get
        The ``get_many`` it stands for. A store whose ``get_many`` was replaced has no nonblocking variant any more.
    try_get
        Returns the values of a few keys, or ``None`` if the look-up could take long.
    """

    blocking_get: GetMany
    try_get: Callable[[Sequence[bytes]], Mapping[bytes, bytes] | None]


class NonblockingPut(NamedTuple):
    """A variant of ``put_many`` that may be called on an event loop.

    Parameters
    ----------
    blocking_put
        The ``put_many`` it stands for. A store whose ``put_many`` was replaced has no nonblocking variant any more.
    try_put
        Stores entries and returns true, or returns false if the store is locked or the write would take long.
    """

    blocking_put: Callable[[Iterable[Entry]], None]
    try_put: Callable[[Sequence[Entry]], bool]


LedgerState: TypeAlias = Literal["reserved", "sent", "done", "error", "ambiguous", "batched"]
"""State of a request.

``ambiguous``: it was sent, and its sender ended without recording an answer; ``batched``: it is in a batch whose
results are not stored yet.
"""
BatchState: TypeAlias = Literal["draft", "intent", "open", "collected", "failed"]
"""State of a batch: its rows are being written; it is about to be created; its provider has it; its results are stored;
its provider refused it."""
OPEN_BATCH_STATES: Final = frozenset({"intent", "open"})
"""States of batches whose rows may be paid for."""


class ClaimRequest(NamedTuple):
    """A key to claim, and the id of the run it is claimed for (16 bytes)."""

    key: bytes
    run: bytes


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """The outcome of claiming keys. Keys named in none of the fields are granted.

    Parameters
    ----------
    held_elsewhere
        Keys claimed by another owner; try again later.
    ambiguous
        Keys that an owner sent before it died, with the id of the run that sent them first. They are granted if the
        claim allowed resending, and left as they are otherwise.
    exclusive
        Whether no other owner existed since the last claim, or the first look-up, so that the store cannot hold new
        answers.
    """

    held_elsewhere: frozenset[bytes] = frozenset()
    ambiguous: Mapping[bytes, bytes] = field(default_factory=dict)
    exclusive: bool = False


OnReleased: TypeAlias = Callable[[Collection[bytes]], None]
"""Called with keys that may be claimed again."""
Watch: TypeAlias = Callable[[Collection[bytes], OnReleased], Callable[[], None]]
"""Watches keys (see `Claims`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """Claims on keys across processes. The functions block and may be called from any thread.

    Parameters
    ----------
    claim
        ``claim(requests, resend, again)`` claims all keys in one transaction. ``resend`` grants ambiguous keys too;
        ``again`` tells that the keys were held elsewhere before, and most probably still are. An answer is stored
        before its key is released: a caller that is granted a key and was not ``exclusive`` looks it up once more.
    release
        Releases keys.
    heartbeat
        Renews the owner's lease; due every ``heartbeat_s`` seconds.
    try_claim
        ``try_claim(requests, resend)`` claims a few keys like ``claim``, or returns ``None`` if the store is locked. It
        may be called on an event loop.
    watch
        ``watch(keys, on_released)`` calls ``on_released``, in any thread, with those of the keys that may be claimed
        again, each once; it returns a function that ends the watch. Without it, callers try again from time to time.
    """

    claim: Callable[[Sequence[ClaimRequest], bool, bool], ClaimResult]
    release: Callable[[Sequence[bytes]], None]
    heartbeat: Callable[[], None]
    heartbeat_s: float = HEARTBEAT_S
    try_claim: Callable[[Sequence[ClaimRequest], bool], ClaimResult | None] | None = None
    watch: Watch | None = None


class SentRequest(NamedTuple):
    """A request about to be sent: the model and the time (epoch seconds). Both are empty for one only claimed."""

    key: bytes
    run: bytes
    model: str = ""
    sent_at: float = 0.0


class EndedRequest(NamedTuple):
    """A finished request; tokens as the provider counted them, and what decides their cost beside their number.

    Later fields are missing in what earlier versions wrote. ``reported_cost_usd`` is a decimal number as text.
    """

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
    cache_write_1h_tokens: int | None = None
    service_tier: str = ""
    reported_cost_usd: str = ""
    billed_units: tuple[tuple[str, int], ...] = ()


@dataclass(slots=True)
class LedgerBatch:
    """Changes written in one transaction.

    Parameters
    ----------
    sent
        Requests about to be sent.
    unsent
        Keys recorded as sent that were not sent after all; they stay claimed.
    ended
        Requests that finished.
    released
        Keys whose claim ends.
    """

    sent: list[SentRequest] = field(default_factory=list)
    unsent: list[bytes] = field(default_factory=list)
    ended: list[EndedRequest] = field(default_factory=list)
    released: list[bytes] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Return whether there is anything to write."""
        return bool(self.sent or self.unsent or self.ended or self.released)


class BatchRecord(NamedTuple):
    """A batch in the ledger.

    ``model`` is ``provider/model``, ``values`` what the provider returned (``id`` is its name of the batch). Times are
    epoch seconds; ``intent_at`` is when the request that creates the batch was about to be sent.
    """

    token: str
    model: str
    state: BatchState
    base_url: str = ""
    row_url: str = ""
    rows: int = 0
    created_at: float = 0.0
    intent_at: float = 0.0
    ended_at: float = 0.0
    run: bytes = b""
    values: dict[str, str] = {}  # noqa: RUF012 - never changed in place
    label: str = ""
    succeeded: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLedger:
    """A durable record of batches and of the keys in them. The functions block and may be called from any thread.

    Parameters
    ----------
    put
        Stores a record, replacing one with its token.
    get
        Returns the record of a token, or ``None``.
    records
        Returns all records, oldest first.
    add_rows
        ``add_rows(token, keys)`` puts keys into a batch, and returns the token of each key that another batch has.
    find
        Returns the batch of each key that is in one.
    rows
        Returns the keys in a batch.
    remove_rows
        Takes keys out of a batch.
    finish
        Stores a record and takes all keys out of its batch.
    remove
        Deletes a record and its keys.
    """

    put: Callable[[BatchRecord], None]
    get: Callable[[str], BatchRecord | None]
    records: Callable[[], list[BatchRecord]]
    add_rows: Callable[[str, Sequence[bytes]], Mapping[bytes, str]]
    find: Callable[[Sequence[bytes]], Mapping[bytes, str]]
    rows: Callable[[str], list[bytes]]
    remove_rows: Callable[[str, Sequence[bytes]], None]
    finish: Callable[[BatchRecord], None]
    remove: Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """A durable record of every request. The functions block and may be called from any thread.

    Parameters
    ----------
    commit
        Writes a batch durably: it survives the death of this process.
    try_commit
        Writes a batch like ``commit``, or returns false if the store is locked. Takes about ten microseconds, so it may
        be called on an event loop.
    requests
        Iterates over all requests in the order they ended, those in flight last.
    delete_before
        Deletes requests that ended before a time (epoch seconds) and returns their number.
    batches
        The ledger of batches, if the store keeps one.
    """

    commit: Callable[[LedgerBatch], None]
    try_commit: Callable[[LedgerBatch], bool]
    requests: Callable[[], Iterator[EndedRequest]]
    delete_before: Callable[[float], int]
    batches: BatchLedger | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStats:
    """Size of a store, and hits and misses since it was opened."""

    entries: int = 0
    size_bytes: int = 0
    hits: int = 0
    misses: int = 0
    evictions: int = 0


def _empty_scan() -> Iterator[Entry]:
    return iter(())


def _no_op() -> None:
    pass


def _no_entries(_keys: Sequence[bytes], _since: float = 0.0, /) -> Sequence[Entry]:
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """An open store. Its functions block and may be called from any thread.

    Parameters
    ----------
    get_many
        Returns the values of keys.
    get_entries
        Returns the entries of keys, with model and time.
    put_many
        Stores entries; the last entry of a key wins.
    delete
        Deletes keys; absent keys are ignored.
    clear
        Deletes everything.
    stats
        Returns size, hits and misses.
    close
        Releases resources; the store is not used afterwards.
    scan
        Iterates over all entries.
    compact
        Returns the space of deleted entries to the system, if the store can.
    get_block
        Looks up a block of keys, if the store does so faster than ``get_many``.
    releases_gil
        Whether ``get_block`` lets other Python threads run.
    nonblocking_put, nonblocking_get
        Store and look up a few entries without blocking, if the store can.
    ttl_s
        Age limit of entries in seconds.
    claims
        Claims across processes, if the store offers them. A store composed of others passes on the claims of the one
        shared most widely; a store restricted to reading or writing has none.
    ledger
        The ledger of requests, if the store keeps one.
    limiter
        The rate limiter that all processes on the store share, if it has one.
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
    nonblocking_get: NonblockingGet | None = None
    ttl_s: float | None = None
    claims: Claims | None = None
    ledger: Ledger | None = None
    limiter: SharedLimiter | None = None

    def try_get(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes] | None:
        """Look up a few keys if that does not block; ``None`` if it might."""
        get = self.nonblocking_get
        return get.try_get(keys) if get is not None and get.blocking_get == self.get_many else None

    def try_put(self, entries: Sequence[Entry]) -> bool:
        """Store entries if that does not block; return whether they were stored."""
        put = self.nonblocking_put
        return put is not None and put.blocking_put == self.put_many and put.try_put(entries)


class StoreError(Exception):
    """Raised by a store that cannot read or write. A run continues without the store unless the cache is strict."""


def as_store_error(error: Exception) -> StoreError:
    """Return any exception of a store as a `StoreError`: a plugin's store may raise anything.

    Examples
    --------
    >>> as_store_error(ValueError("no such shard"))
    StoreError('ValueError: no such shard')
    """
    if isinstance(error, StoreError):
        return error
    return StoreError(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)


class Cache(Protocol):
    """A description of a store, which a hub opens at first use.

    It may have the attributes ``has_ledger``, whether its store keeps a ledger, and ``reach`` (see `Reach`).
    """

    def open(self) -> Store:
        """Open the store."""
        ...


Reach: TypeAlias = Literal["process", "host", "machines"]
"""Who can open the same store: this process alone, processes of this host, or those of other machines as well."""


def reach_of(cache: Cache | None) -> Reach:
    """Return who can share the store of a cache; a plugin's cache is asked for its ``reach``.

    Examples
    --------
    >>> from llmhub.cache.memory import MemoryCache
    >>> reach_of(MemoryCache()), reach_of(None)
    ('process', 'process')
    """
    reach: Reach = getattr(cache, "reach", "process")
    return reach


def has_ledger(cache: Cache | None) -> bool | None:
    """Return whether the store of a cache keeps a ledger; ``None`` if the cache does not tell before it is opened."""
    found: bool | None = False if cache is None else getattr(cache, "has_ledger", None)
    return found


def lookup_block(store: Store, keys: bytes) -> BlockValues:
    """Look up concatenated 32-byte keys in any store."""
    return store.get_block(keys) if store.get_block is not None else block_from_many(store.get_many, keys)


def block_from_many(get_many: Callable[[Sequence[bytes]], Mapping[bytes, bytes]], keys: bytes) -> BlockValues:
    """Look up a block of keys with a function that takes single keys.

    Examples
    --------
    >>> block = block_from_many(lambda _: {bytes(32): b"value"}, bytes(32) + b"k" * 32)
    >>> block.values, list(block.starts), list(block.sizes)
    (b'value', [0, 5], [5, -1])
    """
    split = [keys[start : start + KEY_BYTES] for start in range(0, len(keys), KEY_BYTES)]
    found = get_many(split)
    values = [found.get(key) for key in split]
    sizes = array("q", [ABSENT if value is None else len(value) for value in values])
    starts = array("q", accumulate((max(0, size) for size in sizes), initial=0))[:-1]
    return BlockValues(b"".join([value for value in values if value is not None]), starts, sizes)


def valid_since(since: float, ttl_s: float | None) -> float:
    """Return the time (epoch seconds) before which entries are ignored: ``since`` or the age limit, the later one."""
    return since if ttl_s is None else max(since, time.time() - ttl_s)


def validate_seconds(name: str, value: float | None) -> None:
    """Raise `BadRequestError` unless ``value`` is ``None`` or a positive number; ``name`` is the argument."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is not None and not (is_number and value > 0):
        raise invalid(name, f"must be seconds above 0, or None for no limit, not {value!r}")
