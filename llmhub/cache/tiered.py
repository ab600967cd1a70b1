"""A cache in two tiers: a fast near store in front of a shared or durable far store."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from llmhub.cache.store import (
    Cache,
    ClaimRequest,
    ClaimResult,
    Claims,
    Entry,
    Ledger,
    LedgerBatch,
    NonblockingPut,
    OnReleased,
    Reach,
    Store,
    StoreError,
    StoreStats,
    has_ledger,
    reach_of,
    valid_since,
)


@dataclass(frozen=True, slots=True)
class TieredCache:
    """Looks up the near cache first, and copies what only the far cache has into the near one.

    Responses are written to both. A failing near cache is ignored; a failing far cache is a failure. Keys are claimed
    in the far cache. The ledger is that of the far cache or, if that has none (`RedisCache`), of the near one, in which
    keys are then claimed as well. Rate limits are shared by the users of the far cache or, if that cannot, of the near
    one.

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

    @property
    def reach(self) -> Reach:
        """Who can open the far store."""
        return reach_of(self.far)

    @property
    def has_ledger(self) -> bool | None:
        """Whether requests are recorded before they are sent; ``None`` if that is known once the stores are open."""
        answers = (has_ledger(self.near), has_ledger(self.far))
        return True if True in answers else None if None in answers else False

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
    claims, ledger = far.claims, far.ledger
    if ledger is None and near.ledger is not None and near.claims is not None:
        both = _ClaimsOfBoth(near.claims, far.claims, near.ledger)
        claims, ledger = both.claims(), both.ledger()
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
        claims=claims,
        ledger=ledger,
        limiter=far.limiter or near.limiter,
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


@dataclass(frozen=True, slots=True)
class _ClaimsOfBoth:
    """Claims in a near store with a ledger and in a far store without one.

    The far store is shared more widely; only the near one knows what a dead process had sent.
    """

    near: Claims
    far: Claims | None
    near_ledger: Ledger

    def claims(self) -> Claims:
        """Return the claims of both stores as one."""
        heartbeat_s = self.near.heartbeat_s if self.far is None else min(self.near.heartbeat_s, self.far.heartbeat_s)
        watches = [claims.watch for claims in (self.near, self.far) if claims is not None]
        return Claims(
            claim=self._claim,
            release=self._release,
            heartbeat=self._heartbeat,
            heartbeat_s=heartbeat_s,
            watch=None if None in watches else self._watch,
        )

    def ledger(self) -> Ledger:
        """Return the near ledger; a commit releases keys in both stores."""
        return replace(self.near_ledger, commit=self._commit, try_commit=self._try_commit)

    def _claim(self, requests: Sequence[ClaimRequest], resend: bool, again: bool) -> ClaimResult:
        held: frozenset[bytes] = frozenset()
        if self.far is not None:
            held = self.far.claim(requests, resend, again).held_elsewhere
            requests = [request for request in requests if request.key not in held]
        if not requests:
            return ClaimResult(held)
        near = self.near.claim(requests, resend, again)
        if near.held_elsewhere and self.far is not None:
            self.far.release(list(near.held_elsewhere))
        return ClaimResult(held | near.held_elsewhere, near.ambiguous, exclusive=near.exclusive and self.far is None)

    def _watch(self, keys: Collection[bytes], on_released: OnReleased) -> Callable[[], None]:
        """Watch the keys in the far store, if there is one, and those that are released there in the near one."""
        watch_near, ends = self.near.watch, list[Callable[[], None]]()
        assert watch_near is not None  # noqa: S101 - checked by `claims`
        if self.far is None or self.far.watch is None:
            return watch_near(keys, on_released)

        def end_all() -> None:
            for end in ends:
                end()

        ends.append(self.far.watch(keys, lambda released: ends.append(watch_near(released, on_released))))
        return end_all

    def _release(self, keys: Sequence[bytes]) -> None:
        self.near.release(keys)
        if self.far is not None:
            self.far.release(keys)

    def _heartbeat(self) -> None:
        self.near.heartbeat()
        if self.far is not None:
            self.far.heartbeat()

    def _commit(self, batch: LedgerBatch) -> None:
        self.near_ledger.commit(batch)
        if batch.released and self.far is not None:
            self.far.release(batch.released)

    def _try_commit(self, batch: LedgerBatch) -> bool:
        # A release in the far store may block.
        return not (batch.released and self.far is not None) and self.near_ledger.try_commit(batch)
