"""What a run may do with a cache: a mode as a value, and a store narrowed to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Literal, TypeAlias, get_args

from llmhub.cache.store import BlockValues, Entry, Store, block_from_many, validate_seconds
from llmhub.core.errors import BadRequestError, InvalidRequest

Mode: TypeAlias = Literal["read-write", "read-only", "write-only", "refresh", "off"]


MODES: Final[tuple[Mode, ...]] = get_args(Mode)


READING_MODES: Final = frozenset({"read-write", "read-only"})
"""Modes in which answers are looked up."""


@dataclass(frozen=True, slots=True)
class CacheMode:
    """What may be done with a cache: on a hub (``cache_mode``) or for one call (``cache``).

    Parameters
    ----------
    mode
        ``read-write``; ``read-only``, to file nothing; ``write-only``, to ask anew, and keep what is filed
        already; ``refresh``, to ask anew, and put the new answers in the place of the old; ``off``. What somebody else
        asked since the call began is new, too: nothing is asked twice at the same time (where nothing may be filed,
        by calls of this process that may only read).
    max_age_s
        Answers older than this count as misses.
    strict
        Whether a cache that fails stops the run with `llmhub.CacheFailedError`, instead of being done without.

    Examples
    --------
    >>> CacheMode("refresh").reads, CacheMode("refresh").writes
    (False, True)
    """

    mode: Mode = "read-write"
    max_age_s: float | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        """Refuse what is no mode."""
        validate_seconds("max_age_s", self.max_age_s)
        if self.mode not in MODES:
            said = f"{self.mode!r} is no mode of a cache; there are {', '.join(MODES)}"
            raise BadRequestError(InvalidRequest(path="cache", message=said))

    @property
    def reads(self) -> bool:
        """Whether answers are looked up that were there before."""
        return self.mode in READING_MODES

    @property
    def writes(self) -> bool:
        """Whether fresh answers are filed."""
        return self.mode not in {"read-only", "off"}

    def valid_since(self, now: float) -> float:
        """Say from when on what anybody asked may answer a call that begins ``now`` (epoch seconds)."""
        if not self.reads:
            return now
        return 0.0 if self.max_age_s is None else now - self.max_age_s


def resolve_mode(mode: CacheMode | str | None, default: CacheMode) -> CacheMode:
    """Read what a call says about the cache: a mode's name changes the mode alone.

    Raises
    ------
    InvalidRequestError
        For what is no mode.

    Examples
    --------
    >>> resolve_mode("refresh", CacheMode(strict=True))
    CacheMode(mode='refresh', max_age_s=None, strict=True)
    """
    said: Any = mode
    if said is None:
        return default
    if isinstance(said, CacheMode):
        return said
    if not isinstance(said, str):
        wrong = f"a {type(said).__name__} is no mode of a cache; give one of {', '.join(MODES)}, or CacheMode(...)"
        raise BadRequestError(InvalidRequest(path="cache", message=wrong))
    return replace(default, mode=said)  # type: ignore[arg-type] # checked as it is made


def restrict(store: Store | None, mode: CacheMode, clock: Callable[[], float] = time.time) -> Store | None:
    """Give a store that does what the mode permits, and no more; nothing where nothing is permitted.

    Examples
    --------
    >>> from llmhub.cache.memory import MemoryCache
    >>> shelf = MemoryCache().open()
    >>> restrict(shelf, CacheMode("read-only")).put_many([Entry(b"k", b"v")])
    >>> shelf.stats().entries
    0
    """
    if store is None or mode.mode == "off":
        return None
    narrow, began = store, clock()
    if not mode.reads:
        narrow = _fresh(store, lambda: began)
    elif mode.max_age_s is not None:
        narrow = _fresh(store, lambda: mode.valid_since(clock()))
    if mode.mode == "write-only":
        return replace(narrow, put_many=partial(_add, store))
    return narrow if mode.writes else replace(narrow, put_many=_drop)


def _drop(_entries: Iterable[Entry]) -> None:
    """File nothing."""


def _add(store: Store, entries: Iterable[Entry]) -> None:
    """File new answers only where there are none."""
    new = tuple(entries)
    there = store.get_many([entry.key for entry in new])
    store.put_many([entry for entry in new if entry.key not in there])


def _fresh(store: Store, oldest: Callable[[], float]) -> Store:
    """Look up what was asked no earlier than ``oldest`` says."""
    get_many, get_block = store.get_many, store.get_block

    def fresh_many(keys: Sequence[bytes], since: float = 0.0, /) -> Mapping[bytes, bytes]:
        return get_many(keys, max(since, oldest()))

    def fresh_block(keys: bytes, since: float = 0.0, /) -> BlockValues:
        since = max(since, oldest())
        return block_from_many(partial(_since, get_many, since), keys) if get_block is None else get_block(keys, since)

    return replace(store, get_many=fresh_many, get_block=fresh_block)


def _since(get_many: Any, since: float, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
    found: Mapping[bytes, bytes] = get_many(keys, since)
    return found
