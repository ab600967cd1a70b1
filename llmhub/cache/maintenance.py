"""Maintenance of a store, entry by entry: statistics by model, purging, export and integrity checks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any, Final

from returns.pipeline import is_successful
from returns.result import Result

from llmhub.cache.store import Entry, Store
from llmhub.core.errors import LLMError
from llmhub.core.serialization import from_stored_response, is_corrupt, unpack
from llmhub.core.vector_serialization import is_vector, unpack_vector

DELETE_KEYS: Final = 500
"""Keys deleted in one call."""

INTACT, DAMAGED, NEWER = "intact", "damaged", "newer"
"""Results of `check_entry`; a newer entry was written by a later version of llmhub, and cannot be judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryFilter:
    """A selection of entries; all of them by default.

    Parameters
    ----------
    before
        Select entries stored before this time (epoch seconds).
    model
        Select entries whose ``provider/model`` matches this pattern, in which ``*`` stands for anything.
    damaged
        Select entries that cannot be decoded.
    """

    before: float | None = None
    model: str = "*"
    damaged: bool = False

    def matches(self, entry: Entry) -> bool:
        """Return whether the filter selects an entry.

        Examples
        --------
        >>> EntryFilter(model="openai/*", before=10.0).matches(Entry(b"k", b"v", "openai/gpt-4o-mini", 9.0))
        True
        """
        return (
            (self.before is None or entry.created_at < self.before)
            and fnmatchcase(entry.model, self.model)
            and (not self.damaged or check_entry(entry) == DAMAGED)
        )


def check_entry(entry: Entry) -> str:
    """Decode an entry; return `INTACT`, `DAMAGED` or `NEWER`."""
    stored: Result[object, LLMError] = (
        unpack_vector(entry.value, entry.key) if is_vector(entry.value) else unpack(entry.value, entry.key)
    )
    if is_successful(stored):
        return INTACT
    return DAMAGED if is_corrupt(stored.failure()) else NEWER


@dataclass(slots=True)
class ModelEntries:
    """Entries of one model: their number, size, and the times (epoch seconds) of the oldest and the newest."""

    entries: int = 0
    size_bytes: int = 0
    oldest: float = field(default=float("inf"))
    newest: float = 0.0


def entries_by_model(entries: Iterable[Entry]) -> dict[str, ModelEntries]:
    """Sum entries by model, sorted by the model's name."""
    by_model: dict[str, ModelEntries] = {}
    for entry in entries:
        total = by_model.setdefault(entry.model, ModelEntries())
        total.entries += 1
        total.size_bytes += len(entry.value)
        total.oldest = min(total.oldest, entry.created_at)
        total.newest = max(total.newest, entry.created_at)
    return dict(sorted(by_model.items()))


def purge(store: Store, where: EntryFilter) -> int:
    """Delete the entries that ``where`` selects; return their number."""
    keys: Iterator[bytes] = (entry.key for entry in store.scan() if where.matches(entry))
    count = 0
    while batch := tuple(islice(keys, DELETE_KEYS)):
        store.delete(batch)
        count += len(batch)
    return count


def entry_to_row(entry: Entry) -> dict[str, Any]:
    """Convert an entry to an export row; fields of a response that cannot be decoded are ``None``."""
    if is_vector(entry.value):
        return _vector_to_row(entry)
    unpacked = unpack(entry.value, entry.key)
    stored = unpacked.unwrap() if is_successful(unpacked) else None
    response = from_stored_response(stored) if stored is not None else None
    return {
        "request_key": entry.key.hex(),
        "model": entry.model,
        "created_at": datetime.fromtimestamp(entry.created_at, UTC).isoformat(timespec="seconds"),
        "served_model": response.served_model if response else None,
        "response": response.text if response else None,
        "finish_reason": response.finish_reason if response else None,
        "input_tokens": response.usage.input_tokens if response else None,
        "output_tokens": response.usage.output_tokens if response else None,
        "latency_s": stored.latency_s if stored else None,
        "size_bytes": len(entry.value),
    }


def _vector_to_row(entry: Entry) -> dict[str, Any]:
    """Convert the entry of an embedding to an export row, without its numbers."""
    unpacked = unpack_vector(entry.value, entry.key)
    stored = unpacked.unwrap() if is_successful(unpacked) else None
    response = stored.response if stored is not None else None
    return {
        "request_key": entry.key.hex(),
        "model": entry.model,
        "created_at": datetime.fromtimestamp(entry.created_at, UTC).isoformat(timespec="seconds"),
        "served_model": response.served_model if response else None,
        "response": f"{response.dimensions} dimensions" if response else None,
        "finish_reason": None,
        "input_tokens": response.usage.input_tokens if response else None,
        "output_tokens": response.usage.output_tokens if response else None,
        "latency_s": stored.latency_s if stored else None,
        "size_bytes": len(entry.value),
    }
