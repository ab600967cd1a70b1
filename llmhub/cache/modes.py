"""Cache modes: whether a run reads cached responses, writes new ones, or both, and how old a response may be."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Literal, TypeAlias, cast, get_args

from llmhub.cache.store import (
    BlockValues,
    Entry,
    GetMany,
    NonblockingPut,
    Store,
    block_from_many,
    validate_seconds,
)
from llmhub.core.errors import invalid

Mode: TypeAlias = Literal["read-write", "read-only", "write-only", "refresh", "off"]
MODES: Final[tuple[Mode, ...]] = get_args(Mode)
READING_MODES: Final = frozenset({"read-write", "read-only"})
"""Modes in which cached responses are looked up."""


@dataclass(frozen=True, slots=True)
class CacheMode:
    """How the cache is used, by a hub (``cache_mode``) or by one call (``cache``).

    Parameters
    ----------
    mode
        ``read-write``; ``read-only`` stores nothing; ``write-only`` sends every request and keeps existing entries;
        ``refresh`` sends every request and replaces existing entries; ``off``. In the modes that do not read, an answer
        that another call received since this call began is used too, so that no request is in flight twice (in
        ``read-only`` and ``off``, only between calls of this process that may only read).
    max_age_s
        Entries older than this count as misses.
    strict
        Whether a cache failure stops the run with `llmhub.CacheError`, instead of the run going on without the cache.

    Examples
    --------
    >>> CacheMode("refresh").reads, CacheMode("refresh").writes
    (False, True)
    """

    mode: Mode = "read-write"
    max_age_s: float | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        """Validate the fields."""
        validate_seconds("max_age_s", self.max_age_s)
        if self.mode not in MODES:
            raise invalid("cache", f"must be one of {', '.join(MODES)}, not {self.mode!r}")

    @property
    def reads(self) -> bool:
        """Whether existing entries are looked up."""
        return self.mode in READING_MODES

    @property
    def writes(self) -> bool:
        """Whether new responses are stored."""
        return self.mode not in {"read-only", "off"}

    def valid_since(self, now: float) -> float:
        """Return the earliest time (epoch seconds) of an answer that a call beginning at ``now`` may use."""
        if not self.reads:
            return now
        return 0.0 if self.max_age_s is None else now - self.max_age_s


def resolve_mode(mode: CacheMode | str | None, default: CacheMode) -> CacheMode:
    """Return the mode of a call: ``default`` for ``None``; a name replaces the mode of ``default`` only.

    Raises
    ------
    BadRequestError
        ``mode`` is neither a mode nor the name of one.

    Examples
    --------
    >>> resolve_mode("refresh", CacheMode(strict=True))
    CacheMode(mode='refresh', max_age_s=None, strict=True)
    """
    if mode is None:
        return default
    if isinstance(mode, CacheMode):
        return mode
    given: object = mode
    if isinstance(given, bool):
        meant = "read-write" if given else "off"
        raise invalid("cache", f"must be the name of a mode, not {given}; pass cache={meant!r}")
    if not isinstance(given, str):
        raise invalid("cache", f"must be one of {', '.join(MODES)}, or a CacheMode, not {type(mode).__name__}")
    return replace(default, mode=cast("Mode", mode))  # validated by the constructor


def restrict(store: Store | None, mode: CacheMode, clock: Callable[[], float] = time.time) -> Store | None:
    """Return a view of ``store`` limited to what ``mode`` permits; ``None`` if it permits nothing.

    Examples
    --------
    >>> from llmhub.cache.memory import MemoryCache
    >>> store = MemoryCache().open()
    >>> restrict(store, CacheMode("read-only")).put_many([Entry(b"k", b"v")])
    >>> store.stats().entries
    0
    """
    if store is None or mode.mode == "off":
        return None
    view, began_at = store, clock()
    if not mode.reads:
        view = _ignore_older(store, lambda: began_at)
    elif mode.max_age_s is not None:
        view = _ignore_older(store, lambda: mode.valid_since(clock()))
    if mode.mode == "write-only":
        return replace(view, put_many=partial(_put_absent, store))
    if mode.writes:
        return view
    return replace(view, put_many=_discard, nonblocking_put=NonblockingPut(_discard, _discard_at_once))


def _discard(_entries: Iterable[Entry]) -> None:
    """Store nothing."""


def _discard_at_once(_entries: Sequence[Entry]) -> bool:
    """Store nothing, without blocking."""
    return True


def _put_absent(store: Store, entries: Iterable[Entry]) -> None:
    """Store the entries whose keys are absent."""
    new = tuple(entries)
    present = store.get_many([entry.key for entry in new])
    store.put_many([entry for entry in new if entry.key not in present])


def _ignore_older(store: Store, oldest: Callable[[], float]) -> Store:
    """Return a view without entries older than ``oldest()`` (epoch seconds)."""
    get_many, get_block = store.get_many, store.get_block

    def get_many_since(keys: Sequence[bytes], since: float = 0.0, /) -> Mapping[bytes, bytes]:
        return get_many(keys, max(since, oldest()))

    def get_block_since(keys: bytes, since: float = 0.0, /) -> BlockValues:
        since = max(since, oldest())
        if get_block is not None:
            return get_block(keys, since)
        return block_from_many(partial(_get_since, get_many, since), keys)

    return replace(store, get_many=get_many_since, get_block=get_block_since)


def _get_since(get_many: GetMany, since: float, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
    return get_many(keys, since)
