"""The one record every store is: bytes by key, looked up and written in bulk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class Entry(NamedTuple):
    """What is filed: the key (32 bytes), the value, who answered, and when (epoch seconds)."""

    key: bytes
    value: bytes
    model: str = ""
    created_at: float = 0.0


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
    """

    get_many: Callable[[Sequence[bytes]], Mapping[bytes, bytes]]
    put_many: Callable[[Iterable[Entry]], None]
    delete: Callable[[Sequence[bytes]], None]
    clear: Callable[[], None]
    stats: Callable[[], StoreStats]
    close: Callable[[], None]


class StoreError(Exception):
    """A store that could not read or write; the run goes on without it."""


class Cache(Protocol):
    """Where answers are kept, as a value: what a hub holds and opens at first use."""

    def open(self) -> Store:
        """Open the store."""
        ...
