"""A cache in memory: the least recently used entry leaves first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from llmhub.cache.store import Entry, Store, StoreStats


@dataclass(frozen=True, slots=True)
class MemoryCache:
    """Keeps answers for the life of the hub, bounded by entries and by bytes.

    Parameters
    ----------
    max_entries
        Most entries kept.
    max_bytes
        Most bytes of values kept.

    Examples
    --------
    >>> store = MemoryCache(max_entries=1).open()
    >>> store.put_many([Entry(b"a", b"1"), Entry(b"b", b"2")])
    >>> store.get_many([b"a", b"b"])
    {b'b': b'2'}
    """

    max_entries: int = 100_000
    max_bytes: int = 1 << 30

    def open(self) -> Store:
        """Open an empty store."""
        shelf = _Shelf(self.max_entries, self.max_bytes)
        return Store(
            get_many=shelf.get_many,
            put_many=shelf.put_many,
            delete=shelf.delete,
            clear=shelf.clear,
            stats=shelf.stats,
            close=shelf.clear,
        )


class _Shelf:
    """The entries in order of last use, and their size."""

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._values: OrderedDict[bytes, bytes] = OrderedDict()
        self._bytes = self._hits = self._misses = self._evictions = 0
        self._lock = threading.Lock()

    def get_many(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        with self._lock:
            found = {key: self._values[key] for key in keys if key in self._values}
            for key in found:
                self._values.move_to_end(key)
            self._hits += len(found)
            self._misses += len(keys) - len(found)
            return found

    def put_many(self, entries: Iterable[Entry]) -> None:
        with self._lock:
            for entry in entries:
                self._drop(entry.key)
                self._values[entry.key] = entry.value
                self._bytes += len(entry.value)
            while self._values and (len(self._values) > self._max_entries or self._bytes > self._max_bytes):
                self._drop(next(iter(self._values)))
                self._evictions += 1

    def delete(self, keys: Sequence[bytes]) -> None:
        with self._lock:
            for key in keys:
                self._drop(key)

    def clear(self) -> None:
        with self._lock:
            self._values.clear()
            self._bytes = 0

    def stats(self) -> StoreStats:
        with self._lock:
            return StoreStats(
                entries=len(self._values),
                size_bytes=self._bytes,
                hits=self._hits,
                misses=self._misses,
                evictions=self._evictions,
            )

    def _drop(self, key: bytes) -> None:
        value = self._values.pop(key, None)
        if value is not None:
            self._bytes -= len(value)
