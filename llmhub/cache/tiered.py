"""A cache in two tiers: a fast near store in front of a shared or durable far store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from llmhub.cache.store import Cache, Entry, NonblockingPut, Store, StoreError, StoreStats, valid_since


@dataclass(frozen=True, slots=True)
class TieredCache:
    """Looks up the near cache first, and copies what only the far cache has into the near one.

    Responses are written to both. A failing near cache is ignored; a failing far cache is a failure.

    Parameters
    ----------
    near, far
        Any two caches, such as `MemoryCache` before `DiskCache`, or `DiskCache` before `RedisCache`.

    Examples
    --------
    >>> from llmhub.cache.memory import MemoryCache
    >>> store = TieredCache(MemoryCache(max_entries=1), MemoryCache()).open()
    >>> store.put_many([Entry(b"a", b"1"), Entry(b"b", b"2")])
    >>> sorted(store.get_many([b"a", b"b"]).items())
    [(b'a', b'1'), (b'b', b'2')]
    """

    near: Cache
    far: Cache

    def open(self) -> Store:
        """Open both stores."""
        far = self.far.open()
        try:
            return tiered_store(self.near.open(), far)
        except BaseException:
            far.close()
            raise


def tiered_store(near: Store, far: Store) -> Store:
    """Combine two open stores."""
    tiers = _Tiers(near, far)
    return replace(
        far,
        get_many=tiers.get_many,
        get_block=None,
        releases_gil=False,
        put_many=tiers.put_many,
        nonblocking_put=NonblockingPut(tiers.put_many, tiers.try_put),
        delete=tiers.delete,
        clear=tiers.clear,
        stats=tiers.stats,
        close=tiers.close,
    )


@dataclass(frozen=True, slots=True)
class _Tiers:
    """The functions of a tiered store."""

    near: Store
    far: Store

    def get_many(self, keys: Sequence[bytes], since: float = 0.0, /) -> Mapping[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        with suppress(StoreError):
            found.update(self.near.get_many(keys, valid_since(since, self.far.ttl_s)))
        missing = [key for key in keys if key not in found]
        entries = self.far.get_entries(missing, since) if missing else ()
        if entries:
            with suppress(StoreError):
                self.near.put_many(entries)
            found.update((entry.key, entry.value) for entry in entries)
        return found

    def put_many(self, entries: Iterable[Entry]) -> None:
        batch = tuple(entries)
        self._on_both(lambda store: store.put_many(batch))

    def try_put(self, entries: Sequence[Entry]) -> bool:
        # If only the near store takes them, the caller falls back to put_many, which writes both.
        return self.near.try_put(entries) and self.far.try_put(entries)

    def delete(self, keys: Sequence[bytes]) -> None:
        self._on_both(lambda store: store.delete(keys))

    def clear(self) -> None:
        self._on_both(lambda store: store.clear())

    def close(self) -> None:
        self._on_both(lambda store: store.close())

    def stats(self) -> StoreStats:
        near, far = self.near.stats(), self.far.stats()
        return StoreStats(
            entries=far.entries,
            size_bytes=near.size_bytes + far.size_bytes,
            hits=near.hits + far.hits,
            misses=far.misses,
            evictions=near.evictions + far.evictions,
        )

    def _on_both(self, act: Callable[[Store], None]) -> None:
        """Act on both stores, on the far one even if the near one fails."""
        try:
            act(self.near)
        finally:
            act(self.far)
