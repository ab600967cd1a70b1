"""``llmhub cache``: statistics, listing, export, verification and deletion of cached responses."""

from __future__ import annotations

import argparse
import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
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
from llmhub.cli.console import print_json, print_message, print_result
from llmhub.core.errors import invalid
from llmhub.formatting.numbers import format_megabytes

USAGE: Final = 2
MAX_DAMAGED: Final = 20
"""Damaged entries that ``verify`` lists."""
MAX_TEXT_CHARS: Final = 48
"""Characters of a response that ``ls`` shows."""


def run(args: argparse.Namespace) -> int:
    """Run the requested action, and return the exit code."""
    settings = config.load_settings()
    default = config.simulated_cache_path(settings) if args.simulated else settings.cache_url or settings.cache_path
    url = args.cache or default
    cache = cache_from_url(url) if url else None
    if cache is None or (isinstance(cache, DiskCache) and not Path(cache.path).expanduser().exists()):
        print_result(f"{url}: does not exist yet")
        return 0
    name = str(cache.path) if isinstance(cache, DiskCache) else repr(cache)
    before = None if args.older_than is None else time.time() - args.older_than
    entry_filter = EntryFilter(before=before, model=args.model or "*", damaged=args.damaged)
    with _open(cache) as store:
        return ACTIONS[args.action](_CacheCommand(store, entry_filter, args, name))


@contextmanager
def _open(cache: Any) -> Iterator[Store]:
    """Open a cache; its errors are reported as errors of ``--cache``."""
    store = cache.open()
    try:
        yield store
    except StoreError as error:
        raise invalid("cache", str(error)) from error
    finally:
        store.close()


@dataclass(frozen=True, slots=True)
class _CacheCommand:
    """An open store, the entries that the options select, the options, and the name of the store."""

    store: Store
    filter: EntryFilter
    args: argparse.Namespace
    name: str

    def entries(self) -> Iterator[Entry]:
        """Iterate over the selected entries."""
        return filter(self.filter.matches, self.store.scan())

    @property
    def selects_all(self) -> bool:
        """Whether no option restricts the entries."""
        return self.filter == EntryFilter()


def _stats(command: _CacheCommand) -> int:
    by_model = entries_by_model(command.entries())
    entries = sum(group.entries for group in by_model.values())
    size = sum(group.size_bytes for group in by_model.values())
    if command.args.json:
        models = [{"model": model, **asdict(group)} for model, group in by_model.items()]
        print_json({"cache": command.name, "entries": entries, "size_bytes": size, "models": models})
        return 0
    total_bytes = command.store.stats().size_bytes if command.selects_all else size
    print_result(f"{command.name}: {entries:,} responses, {format_megabytes(total_bytes)}")
    width = max(map(len, by_model), default=0)
    for model, group in by_model.items():
        period = f"{_date(group.oldest)} to {_date(group.newest)}"
        print_result(
            f"  {model or '-':<{width}}  {group.entries:>10,}  {format_megabytes(group.size_bytes):>12}  {period}"
        )
    return 0


def _ls(command: _CacheCommand) -> int:
    newest = heapq.nlargest(command.args.limit, command.entries(), key=lambda entry: (entry.created_at, entry.key))
    if command.args.json:
        for entry in newest:
            print_result(msgspec.json.encode(entry_to_row(entry)).decode())
        return 0
    width = max((len(entry.model) for entry in newest), default=0)
    for entry in newest:
        row = entry_to_row(entry)
        text = "(damaged)" if row["response"] is None else " ".join(row["response"].split())
        short = text if len(text) <= MAX_TEXT_CHARS else f"{text[: MAX_TEXT_CHARS - 1]}\N{HORIZONTAL ELLIPSIS}"
        print_result(f"{row['request_key'][:12]}  {row['created_at'][:19]}  {entry.model:<{width}}  {short}")
    return 0


def _export(command: _CacheCommand) -> int:
    rows = (entry_to_row(entry) for entry in command.entries())
    if command.args.out is None:
        for row in rows:
            print_result(msgspec.json.encode(row).decode())
        return 0
    import pyarrow as pa  # noqa: PLC0415 - imports Arrow

    from llmhub.tables import files  # noqa: PLC0415 - imports Arrow

    table = pa.Table.from_pylist(list(rows), schema=_export_schema(pa))
    files.write_table(table, command.args.out, "--out")
    print_result(f"{command.args.out}: {table.num_rows:,} responses from {command.name}")
    return 0


def _export_schema(pa: Any) -> Any:
    types = {
        "input_tokens": pa.int64(),
        "output_tokens": pa.int64(),
        "latency_s": pa.float64(),
        "size_bytes": pa.int64(),
    }
    names = entry_to_row(Entry(b"", b"")).keys()
    return pa.schema([(name, types.get(name, pa.string())) for name in names])


def _purge(command: _CacheCommand) -> int:
    if command.selects_all:
        print_message("cache", "purge needs --older-than, --model or --damaged; `clear` deletes everything")
        return USAGE
    if not command.args.yes:
        count = sum(1 for _ in command.entries())
        print_message(
            "cache", f"pass --yes to delete {count:,} responses from {command.name!r}; getting them again costs money"
        )
        return USAGE
    count = maintenance.purge(command.store, command.filter)
    command.store.compact()
    print_result(f"{command.name}: deleted {count:,} responses")
    return 0


def _clear(command: _CacheCommand) -> int:
    if not command.selects_all:
        print_message("cache", "clear deletes everything; use `purge` with --older-than, --model or --damaged")
        return USAGE
    if not command.args.yes:
        print_message(
            "cache", f"pass --yes to delete all responses from {command.name!r}; getting them again costs money"
        )
        return USAGE
    count = command.store.stats().entries
    command.store.clear()
    command.store.compact()
    print_result(f"{command.name}: deleted {count:,} responses")
    return 0


def _verify(command: _CacheCommand) -> int:
    counts: Counter[str] = Counter()
    for entry in command.entries():
        state = check_entry(entry)
        counts[state] += 1
        if state == DAMAGED and counts[DAMAGED] <= MAX_DAMAGED:
            print_result(f"{entry.key.hex()}  {_date(entry.created_at)}  {entry.model}  damaged")
    if counts[DAMAGED] > MAX_DAMAGED:
        print_result(f"... and {counts[DAMAGED] - MAX_DAMAGED:,} more")
    newer = f", {counts[NEWER]:,} of a later version" if counts[NEWER] else ""
    print_result(f"{command.name}: {counts[INTACT]:,} responses intact, {counts[DAMAGED]:,} damaged{newer}")
    if counts[DAMAGED]:
        print_message(
            "cache", "requests with damaged responses are sent again; delete them: llmhub cache purge --damaged --yes"
        )
    return 1 if counts[DAMAGED] else 0


def _date(timestamp: float) -> str:
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%d")


ACTIONS: Final[Mapping[str, Callable[[_CacheCommand], int]]] = {
    "stats": _stats,
    "ls": _ls,
    "export": _export,
    "purge": _purge,
    "verify": _verify,
    "clear": _clear,
}
