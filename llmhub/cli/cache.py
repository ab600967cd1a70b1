"""``llmhub cache``: what the cache holds, whether it is whole, and how to take something out of it."""

from __future__ import annotations

import argparse
import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from llmhub import config
from llmhub.cache import maintenance
from llmhub.cache.maintenance import DAMAGED, INTACT, NEWER, EntryFilter, check_entry, entries_by_model, entry_to_row
from llmhub.cache.sqlite import DiskCache
from llmhub.cache.store import Entry, Store, StoreError
from llmhub.cache.urls import cache_from_url
from llmhub.cli.console import print_message, print_result
from llmhub.core.errors import BadRequestError, InvalidRequest

MAX_DAMAGED: Final = 20
"""Damaged entries that are named."""
MAX_TEXT_CHARS: Final = 48
"""Characters of an answer in a list."""


def act(given: argparse.Namespace) -> int:
    """Do to the cache what is asked."""
    found = config.load_settings()
    said = given.cache or found.cache_url or found.cache_path
    cache = cache_from_url(said) if said else None
    if cache is None or (isinstance(cache, DiskCache) and not Path(cache.path).expanduser().exists()):
        print_result(f"{said}: not there yet")
        return 0
    name = str(cache.path) if isinstance(cache, DiskCache) else repr(cache)
    before = None if given.older_than is None else time.time() - given.older_than
    meant = EntryFilter(before=before, model=given.model or "*", damaged=given.damaged)
    with _opened(cache) as store:
        return ACTIONS[given.action](_CacheCommand(store, meant, given, name))


@contextmanager
def _opened(cache: Any) -> Iterator[Store]:
    """Open a cache, and say what goes wrong with it as a mistake that can be put right."""
    store = cache.open()
    try:
        yield store
    except StoreError as error:
        raise BadRequestError(InvalidRequest(path="cache", message=str(error))) from error
    finally:
        store.close()


@dataclass(frozen=True, slots=True)
class _CacheCommand:
    """What is to be done: with an open store, with which of its entries, how, and what the store is called."""

    store: Store
    meant: EntryFilter
    given: argparse.Namespace
    name: str

    def entries(self) -> Iterator[Entry]:
        """Give the entries that are meant."""
        return filter(self.meant.matches, self.store.scan())


def _stats(asked: _CacheCommand) -> int:
    by_model = entries_by_model(asked.entries())
    entries = sum(share.entries for share in by_model.values())
    size = sum(share.size_bytes for share in by_model.values())
    everything = asked.meant == EntryFilter()
    print_result(
        f"{asked.name}: {entries:,} answers, {(asked.store.stats().size_bytes if everything else size) / 1e6:,.1f} MB"
    )
    wide = max(map(len, by_model), default=0)
    for model, share in by_model.items():
        since, until = _day(share.oldest), _day(share.newest)
        print_result(
            f"  {model or '-':<{wide}}  {share.entries:>10,}  {share.size_bytes / 1e6:>9,.1f} MB  {since} to {until}"
        )
    return 0


def _ls(asked: _CacheCommand) -> int:
    newest = heapq.nlargest(asked.given.limit, asked.entries(), key=lambda entry: (entry.created_at, entry.key))
    wide = max((len(entry.model) for entry in newest), default=0)
    for entry in newest:
        row = entry_to_row(entry)
        text = "(damaged)" if row["response"] is None else " ".join(row["response"].split())
        short = text if len(text) <= MAX_TEXT_CHARS else f"{text[: MAX_TEXT_CHARS - 1]}\N{HORIZONTAL ELLIPSIS}"
        print_result(f"{row['request_key'][:12]}  {row['created_at'][:19]}  {entry.model:<{wide}}  {short}")
    return 0


def _export(asked: _CacheCommand) -> int:
    records = (entry_to_row(entry) for entry in asked.entries())
    if asked.given.out is None:
        for row in records:
            print_result(msgspec.json.encode(row).decode())
        return 0
    import pyarrow as pa  # noqa: PLC0415 - only an export to a file needs it

    from llmhub.tables import files  # noqa: PLC0415

    table = pa.Table.from_pylist(list(records), schema=_schema(pa))
    files.write_table(table, asked.given.out, "--out")
    print_result(f"{asked.given.out}: {table.num_rows:,} answers of {asked.name}")
    return 0


def _schema(pa: Any) -> Any:
    """Give the columns of an export."""
    kinds = {
        "input_tokens": pa.int64(),
        "output_tokens": pa.int64(),
        "latency_s": pa.float64(),
        "size_bytes": pa.int64(),
    }
    names = entry_to_row(Entry(b"", b"")).keys()
    return pa.schema([(name, kinds.get(name, pa.string())) for name in names])


def _purge(asked: _CacheCommand) -> int:
    if asked.meant == EntryFilter():
        print_message("cache", "give --older-than, --model or --damaged to say what to take out; `clear` takes out all")
        return 2
    if not asked.given.yes:
        many = sum(1 for _ in asked.entries())
        print_message(
            "cache", f"--yes: give it to take {many:,} answers out of {asked.name!r}; they would be paid for anew"
        )
        return 2
    many = maintenance.purge(asked.store, asked.meant)
    asked.store.compact()
    print_result(f"{asked.name}: took out {many:,} answers")
    return 0


def _clear(asked: _CacheCommand) -> int:
    if asked.meant != EntryFilter():
        print_message(
            "cache", "clear takes out everything; to choose, give --older-than, --model or --damaged to `purge`"
        )
        return 2
    if not asked.given.yes:
        print_message(
            "cache", f"--yes: give it to take every answer out of {asked.name!r}; they would be paid for again"
        )
        return 2
    many = asked.store.stats().entries
    asked.store.clear()
    asked.store.compact()
    print_result(f"{asked.name}: took out {many:,} answers")
    return 0


def _verify(asked: _CacheCommand) -> int:
    counts: Counter[str] = Counter()
    for entry in asked.entries():
        found = check_entry(entry)
        counts[found] += 1
        if found == DAMAGED and counts[DAMAGED] <= MAX_DAMAGED:
            print_result(f"{entry.key.hex()}  {_day(entry.created_at)}  {entry.model}  damaged")
    if counts[DAMAGED] > MAX_DAMAGED:
        print_result(f"... and {counts[DAMAGED] - MAX_DAMAGED:,} more")
    later = f", {counts[NEWER]:,} of a later version" if counts[NEWER] else ""
    print_result(f"{asked.name}: {counts[INTACT]:,} answers are whole, {counts[DAMAGED]:,} damaged{later}")
    if counts[DAMAGED]:
        print_message("cache", "damaged answers are asked again; `llmhub cache purge --damaged --yes` takes them out")
    return 1 if counts[DAMAGED] else 0


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")


ACTIONS: Final[Mapping[str, Callable[[_CacheCommand], int]]] = {
    "stats": _stats,
    "ls": _ls,
    "export": _export,
    "purge": _purge,
    "verify": _verify,
    "clear": _clear,
}
"""What can be done."""
