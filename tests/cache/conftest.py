"""Fixtures: a cache, and an open store, of each kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import llmhub
from llmhub.cache.store import Store

KINDS = ("memory", "disk", "redis", "tier")


@pytest.fixture
def make_cache(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Any]:
    """Return a function that makes a cache by the name of its kind."""

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
def cache(request: pytest.FixtureRequest, make_cache: Callable[..., Any]) -> Any:
    """Return a cache of each kind in turn."""
    return make_cache(request.param)


@pytest.fixture
def store(cache: Any) -> Iterator[Store]:
    """Open a store of each kind in turn."""
    opened = cache.open()
    yield opened
    opened.close()
