"""The writer of a run's cache: what is queued is written before further requests are sent, and soon in any case."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

import llmhub
from llmhub.cache.store import Entry, Store
from llmhub.engine.cache_writer import FLUSH_DELAY_S, CacheWriter
from llmhub.engine.store_access import StoreAccess

SIZE = 1 << 20
"""Size of a value; two of them are too large to be written on the event loop."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = llmhub.DiskCache(tmp_path / "c.db").open()
    yield opened
    opened.close()


def entry(number: int) -> Entry:
    return Entry(number.to_bytes(32, "big"), bytes(SIZE), "m", 1.0)


def stored(store: Store) -> int:
    return store.stats().entries


async def test_nothing_waits_when_a_request_is_recorded(store: Store) -> None:
    """What is queued is written before the next request is recorded, however much there is."""
    writer = CacheWriter(StoreAccess(store=store), lambda: None)
    for number in range(3):
        writer.enqueue_entry(entry(number))
    assert not writer.try_flush()
    await writer.flush_pending()
    assert stored(store) == 3
    await writer.finish()


async def test_what_waits_is_written_soon_all_the_same(store: Store) -> None:
    writer = CacheWriter(StoreAccess(store=store), lambda: None)
    for number in range(2):
        writer.enqueue_entry(entry(number))
    async with asyncio.timeout(30):
        while stored(store) < 2:  # noqa: ASYNC110 - a thread writes
            await asyncio.sleep(FLUSH_DELAY_S)
    await writer.finish()
