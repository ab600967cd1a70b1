"""What lies in a store, looked through entry by entry: which of it is meant, what it says, whether it is whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any, Final

from returns.pipeline import is_successful

from llmhub.cache.store import Entry, Store
from llmhub.core.serialization import from_stored_response, is_corrupt, unpack

DELETE_KEYS: Final = 500
"""Entries taken out at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryFilter:
    """Which entries are meant; all, unless something is said.

    Parameters
    ----------
    before
        Those filed before this time (epoch seconds).
    model
        Those of models whose ``provider/model`` is like this: ``*`` stands for anything.
    damaged
        Those that cannot be read back.
    """

    before: float | None = None
    model: str = "*"
    damaged: bool = False

    def matches(self, entry: Entry) -> bool:
        """Say whether an entry is meant.

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


INTACT, DAMAGED, NEWER = "whole", "damaged", "later"
"""What can be said of an entry; one of a later version is somebody else's to judge."""


def check_entry(entry: Entry) -> str:
    """Say whether an entry can be read back."""
    kept = unpack(entry.value, entry.key)
    if is_successful(kept):
        return INTACT
    return DAMAGED if is_corrupt(kept.failure()) else NEWER


@dataclass(slots=True)
class ModelEntries:
    """What a store holds of one model: entries, their bytes, and when the first and the last were filed."""

    entries: int = 0
    size_bytes: int = 0
    oldest: float = field(default=float("inf"))
    newest: float = 0.0


def entries_by_model(entries: Iterable[Entry]) -> dict[str, ModelEntries]:
    """Add entries up by model."""
    found: dict[str, ModelEntries] = {}
    for entry in entries:
        share = found.setdefault(entry.model, ModelEntries())
        share.entries += 1
        share.size_bytes += len(entry.value)
        share.oldest = min(share.oldest, entry.created_at)
        share.newest = max(share.newest, entry.created_at)
    return dict(sorted(found.items()))


def purge(store: Store, where: EntryFilter) -> int:
    """Take out what is meant, and count it."""
    keys: Iterator[bytes] = (entry.key for entry in store.scan() if where.matches(entry))
    many = 0
    while some := tuple(islice(keys, DELETE_KEYS)):
        store.delete(some)
        many += len(some)
    return many


def entry_to_row(entry: Entry) -> dict[str, Any]:
    """Give an entry as a row for people: what was answered, by whom and when. What cannot be read back is null."""
    kept = unpack(entry.value, entry.key)
    answer = kept.unwrap() if is_successful(kept) else None
    response = from_stored_response(answer) if answer is not None else None
    return {
        "request_key": entry.key.hex(),
        "model": entry.model,
        "created_at": datetime.fromtimestamp(entry.created_at, UTC).isoformat(timespec="seconds"),
        "served_model": response.served_model if response else None,
        "response": response.text if response else None,
        "finish_reason": response.finish_reason if response else None,
        "input_tokens": response.usage.input_tokens if response else None,
        "output_tokens": response.usage.output_tokens if response else None,
        "latency_s": answer.latency_s if answer else None,
        "size_bytes": len(entry.value),
    }
