"""The one record every store is: bytes by key, looked up and written in bulk."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from llmhub.core.errors import InvalidRequest, InvalidRequestError

if TYPE_CHECKING:
    from llmhub.cache.ledger import Claims, Ledger

KEY_BYTES: Final = 32
"""Length of the keys that are looked up in a block."""
ABSENT: Final = -1


class Entry(NamedTuple):
    """What is filed: the key (32 bytes), the value, who answered, and when (epoch seconds)."""

    key: bytes
    value: bytes
    model: str = ""
    created_at: float = 0.0


class Found(NamedTuple):
    """What a block of keys has: the values together in some order, and for each key where its own begins, and its size.

    The size is `ABSENT` where there is none. Both are arrays of 64-bit integers, of Python's or numpy's.
    """

    values: bytes
    starts: Any
    sizes: Any


class Lookup(Protocol):
    """Keys to the values that are there; what was filed before ``since`` (epoch seconds) is not."""

    def __call__(self, keys: Sequence[bytes], since: float = 0.0, /) -> Mapping[bytes, bytes]:
        """Look up."""
        ...


class EntryLookup(Protocol):
    """Keys to the whole entries that are there (see `Lookup`)."""

    def __call__(self, keys: Sequence[bytes], since: float = 0.0, /) -> Sequence[Entry]:
        """Look up."""
        ...


class BlockLookup(Protocol):
    """Keys of 32 bytes, one after another, to their values (see `Lookup`)."""

    def __call__(self, keys: bytes, since: float = 0.0, /) -> Found:
        """Look up."""
        ...


class AtOnce(NamedTuple):
    """Files entries as ``of`` does, a ``put_many``, but so that it may be called where nothing may wait.

    It says no where somebody else is writing, or where it would take long. A store that is given another ``put_many``
    has none any more.
    """

    of: Callable[[Iterable[Entry]], None]
    put: Callable[[Sequence[Entry]], bool]


def _nothing() -> Iterator[Entry]:
    return iter(())


def _as_it_is() -> None:
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
        Claims on keys across processes (`llmhub.cache.ledger`), of a store that can give them. A store made of others
        passes on those of the one that is shared most widely; one that is not to be read or written has none.
    ledger
        Where every request is written down before it is sent, of a store that has such a place.
    """

    get_many: Lookup
    put_many: Callable[[Iterable[Entry]], None]
    delete: Callable[[Sequence[bytes]], None]
    clear: Callable[[], None]
    stats: Callable[[], StoreStats]
    close: Callable[[], None]
    scan: Callable[[], Iterator[Entry]] = _nothing
    compact: Callable[[], None] = _as_it_is
    get_entries: EntryLookup = _no_entries
    get_block: BlockLookup | None = None
    beside: bool = False
    at_once: AtOnce | None = None
    ttl_s: float | None = None
    claims: Claims | None = None
    ledger: Ledger | None = None

    def try_put(self, entries: Sequence[Entry]) -> bool:
        """File entries, where that takes no waiting; say whether it did."""
        return self.at_once is not None and self.at_once.of == self.put_many and self.at_once.put(entries)


def look_up_block(store: Store, keys: bytes) -> Found:
    """Look up keys of 32 bytes that lie one after another, whatever the store."""
    return store.get_block(keys) if store.get_block is not None else block_of(store.get_many, keys)


def block_of(get_many: Callable[[Sequence[bytes]], Mapping[bytes, bytes]], keys: bytes) -> Found:
    """Look up a block by single keys.

    Examples
    --------
    >>> found = block_of(lambda _: {bytes(32): b"value"}, bytes(32) + b"k" * 32)
    >>> found.values, list(found.starts), list(found.sizes)
    (b'value', [0, 5], [5, -1])
    """
    apart = [keys[at : at + KEY_BYTES] for at in range(0, len(keys), KEY_BYTES)]
    there = get_many(apart)
    values = [there.get(key) for key in apart]
    sizes = array("q", [ABSENT if value is None else len(value) for value in values])
    starts = array("q", accumulate((max(0, size) for size in sizes), initial=0))[:-1]
    return Found(b"".join([value for value in values if value is not None]), starts, sizes)


def counted_since(since: float, ttl_s: float | None) -> float:
    """Give the time (epoch seconds) before which nothing counts: what is asked for, or what the age limit says."""
    return since if ttl_s is None else max(since, time.time() - ttl_s)


def expect_seconds(name: str, value: float | None) -> None:
    """Refuse a time that is none.

    Raises
    ------
    InvalidRequestError
        Names the argument and the value.
    """
    good = value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0)
    if not good:
        said = f"{value!r} is no time; give seconds above 0, or None for no limit"
        raise InvalidRequestError(InvalidRequest(path=name, message=said))


class StoreError(Exception):
    """A store that could not read or write; the run goes on without it."""


class Cache(Protocol):
    """Where answers are kept, as a value: what a hub holds and opens at first use."""

    def open(self) -> Store:
        """Open the store."""
        ...
