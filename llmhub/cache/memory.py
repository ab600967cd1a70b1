"""A cache in memory that evicts the least recently used entry."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from llmhub.cache.store import Entry, NonblockingPut, Store, StoreStats, valid_since, validate_seconds


@dataclass(frozen=True, slots=True)
class MemoryCache:
    """Keeps responses for the life of the hub, bounded in entries and bytes.

    Parameters
    ----------
    max_entries
        Maximum number of entries.
    max_bytes
        Maximum total size of the values.
    ttl_s
        Age limit in seconds; an older entry is a miss and is evicted.

    Examples
    --------
    >>> store = MemoryCache(max_entries=1).open()
    >>> store.put_many([Entry(b"a", b"1"), Entry(b"b", b"2")])
    >>> store.get_many([b"a", b"b"])
    {b'b': b'2'}
    """

    max_entries: int = 100_000
    max_bytes: int = 1 << 30
    ttl_s: float | None = None

    def __post_init__(self) -> None:
        """Validate the age limit."""
        validate_seconds("ttl_s", self.ttl_s)

    @property
    def has_ledger(self) -> bool:
        """Whether requests are recorded before they are sent."""
        return False

    def open(self) -> Store:
        """Open an empty store."""
        lru = _LruStore(self.max_entries, self.max_bytes, self.ttl_s)
        return Store(
            get_many=lru.get_many,
            put_many=lru.put_many,
            nonblocking_put=NonblockingPut(lru.put_many, lru.try_put),
            delete=lru.delete,
            clear=lru.clear,
            stats=lru.stats,
            close=lru.clear,
            scan=lru.scan,
            get_entries=lru.get_entries,
            ttl_s=self.ttl_s,
        )


class _LruStore:
    """Entries in the order of last use, and their total size."""

    def __init__(self, max_entries: int, max_bytes: int, ttl_s: float | None) -> None:
        self._ttl_s = ttl_s
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()
        self._bytes = self._hits = self._misses = self._evictions = 0
        self._lock = threading.Lock()

    def get_many(self, keys: Sequence[bytes], since: float = 0.0, /) -> Mapping[bytes, bytes]:
        return {entry.key: entry.value for entry in self.get_entries(keys, since)}

    def get_entries(self, keys: Sequence[bytes], since: float = 0.0, /) -> Sequence[Entry]:
        expires_before = valid_since(0.0, self._ttl_s)
        found: list[Entry] = []
        with self._lock:
            for key in keys:
                entry = self._entries.get(key)
                if entry is None:
                    continue
                if entry.created_at < expires_before:
                    self._drop(key)
                    self._evictions += 1
                elif entry.created_at >= since:
                    found.append(entry)
                    self._entries.move_to_end(key)
            self._hits += len(found)
            self._misses += len(keys) - len(found)
        return found

    def put_many(self, entries: Iterable[Entry]) -> None:
        now = time.time()
        with self._lock:
            for entry in entries:
                self._drop(entry.key)
                self._entries[entry.key] = entry if entry.created_at else entry._replace(created_at=now)
                self._bytes += len(entry.value)
            while self._entries and (len(self._entries) > self._max_entries or self._bytes > self._max_bytes):
                self._drop(next(iter(self._entries)))
                self._evictions += 1

    def try_put(self, entries: Sequence[Entry]) -> bool:
        self.put_many(entries)
        return True

    def scan(self) -> Iterator[Entry]:
        with self._lock:
            return iter(tuple(self._entries.values()))

    def delete(self, keys: Sequence[bytes]) -> None:
        with self._lock:
            for key in keys:
                self._drop(key)

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
            self._bytes = 0

    def stats(self) -> StoreStats:
        with self._lock:
            return StoreStats(
                entries=len(self._entries),
                size_bytes=self._bytes,
                hits=self._hits,
                misses=self._misses,
                evictions=self._evictions,
            )

    def _drop(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= len(entry.value)
