"""Two stores as one: a near one that is quick, before a far one that keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from llmhub.cache.store import Cache, Entry, NonblockingPut, Store, StoreError, StoreStats, valid_since


@dataclass(frozen=True, slots=True)
class TieredCache:
    """Looks into the near cache first; what only the far one has is put into the near one too.

    Everything is filed in both. A near cache that cannot be read is done without; a far one that fails has failed.

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
        """Open both."""
        far = self.far.open()
        try:
            return tiered_store(self.near.open(), far)
        except BaseException:
            far.close()
            raise


def tiered_store(near: Store, far: Store) -> Store:
    """Make two open stores one."""

    def get_many(keys: Sequence[bytes], since: float = 0.0, /) -> Mapping[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        with suppress(StoreError):
            found.update(near.get_many(keys, valid_since(since, far.ttl_s)))
        rest = [key for key in keys if key not in found]
        entries = far.get_entries(rest, since) if rest else ()
        if entries:
            with suppress(StoreError):
                near.put_many(entries)
            found.update((entry.key, entry.value) for entry in entries)
        return found

    def put_many(entries: Iterable[Entry]) -> None:
        every = tuple(entries)
        _both(lambda store: store.put_many(every))

    def try_put(entries: Sequence[Entry]) -> bool:
        # What only the near one took is filed in both by whoever files it again.
        return near.try_put(entries) and far.try_put(entries)

    def delete(keys: Sequence[bytes]) -> None:
        _both(lambda store: store.delete(keys))

    def stats() -> StoreStats:
        close, distant = near.stats(), far.stats()
        return StoreStats(
            entries=distant.entries,
            size_bytes=close.size_bytes + distant.size_bytes,
            hits=close.hits + distant.hits,
            misses=distant.misses,
            evictions=close.evictions + distant.evictions,
        )

    def _both(act: Callable[[Store], None]) -> None:
        """Do it to both, whatever becomes of the first."""
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
        clear=lambda: _both(lambda store: store.clear()),
        stats=stats,
        close=lambda: _both(lambda store: store.close()),
    )
