"""Stores to try."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import llmhub
from llmhub.cache.store import Store

KINDS = ("memory", "disk", "redis", "tier")


@pytest.fixture
def cache_of(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Any]:
    """Make a cache of a kind, by its name."""

    def make(kind: str, **more: Any) -> Any:
        match kind:
            case "memory":
                return llmhub.MemoryCache(**more)
            case "disk":
                return llmhub.DiskCache(tmp_path / "deep" / "er" / "runs.db", **more)
            case "redis":
                return llmhub.RedisCache(request.getfixturevalue("redis_server").url, **more)
            case _:
                return llmhub.TieredCache(llmhub.MemoryCache(max_entries=100), make("disk", **more))

    return make


@pytest.fixture(params=KINDS)
def cache(request: pytest.FixtureRequest, cache_of: Callable[..., Any]) -> Any:
    """Give a cache of each kind in turn."""
    return cache_of(request.param)


@pytest.fixture
def store(cache: Any) -> Iterator[Store]:
    """Give an open store of each kind in turn."""
    opened = cache.open()
    yield opened
    opened.close()
