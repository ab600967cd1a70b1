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

    def get_many(keys: Sequence[bytes], since: float = 0.0, /) -> Mapping[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        with suppress(StoreError):
            found.update(near.get_many(keys, valid_since(since, far.ttl_s)))
        missing = [key for key in keys if key not in found]
        entries = far.get_entries(missing, since) if missing else ()
        if entries:
            with suppress(StoreError):
                near.put_many(entries)
            found.update((entry.key, entry.value) for entry in entries)
        return found

    def put_many(entries: Iterable[Entry]) -> None:
        batch = tuple(entries)
        on_both(lambda store: store.put_many(batch))

    def try_put(entries: Sequence[Entry]) -> bool:
        # If only the near store takes them, the caller falls back to put_many, which writes both.
        return near.try_put(entries) and far.try_put(entries)

    def delete(keys: Sequence[bytes]) -> None:
        on_both(lambda store: store.delete(keys))

    def stats() -> StoreStats:
        near_stats, far_stats = near.stats(), far.stats()
        return StoreStats(
            entries=far_stats.entries,
            size_bytes=near_stats.size_bytes + far_stats.size_bytes,
            hits=near_stats.hits + far_stats.hits,
            misses=far_stats.misses,
            evictions=near_stats.evictions + far_stats.evictions,
        )

    def on_both(act: Callable[[Store], None]) -> None:
        """Act on both stores, on the far one even if the near one fails."""
        try:
            act(near)
        finally:
            act(far)

    return replace(
        far,
        get_many=get_many,
        get_block=None,
        releases_gil=False,
        put_many=put_many,
        nonblocking_put=NonblockingPut(put_many, try_put),
        delete=delete,
        clear=lambda: on_both(lambda store: store.clear()),
        stats=stats,
        close=lambda: on_both(lambda store: store.close()),
    )
