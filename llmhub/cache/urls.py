"""Caches by URL: ``memory://``, ``sqlite:///runs.db``, ``redis://host:6379/0``, or a plain path."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from llmhub.cache.memory import MemoryCache
from llmhub.cache.redis import RedisCache, redact_url
from llmhub.cache.sqlite import DiskCache
from llmhub.cache.store import Cache
from llmhub.cache.tiered import TieredCache
from llmhub.core.errors import BadRequestError, invalid

URL_EXAMPLES: Final = "memory://, sqlite:///runs.db, redis://localhost:6379/0, or a path"
_NEXT_URL: Final = re.compile(r",(?=[a-z]+://)")
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


def cache_from_url(url: str | Path) -> Cache:
    """Return the cache at a URL. Nothing is opened yet.

    Parameters
    ----------
    url
        ``memory://``, ``sqlite:///relative.db``, ``sqlite:////absolute.db``, ``redis://host:6379/0`` (``rediss://`` for
        TLS, ``unix://path``), or a path to an SQLite file. A query sets options of the cache, as in ``?ttl_s=3600``:
        ``ttl_s``, ``max_entries``, ``max_bytes``, ``namespace``, ``timeout_s``, ``lease_s``, ``busy_s``. Two URLs
        separated by a comma are a `TieredCache`, the near one first.

    Raises
    ------
    BadRequestError
        The URL cannot be parsed, or names an option that the cache does not have.

    Examples
    --------
    >>> cache_from_url("memory://?max_entries=10")
    MemoryCache(max_entries=10, max_bytes=1073741824, ttl_s=None)
    >>> cache_from_url("memory://,sqlite:///runs.db?ttl_s=3600").far
    DiskCache(path='runs.db', ttl_s=3600.0, busy_s=30.0, read_only=False)
    """
    if isinstance(url, Path) or not _SCHEME.match(url):
        return DiskCache(url)
    first, *others = _NEXT_URL.split(url)
    if others:
        return TieredCache(cache_from_url(first), cache_from_url(",".join(others)))
    parts = urlsplit(url)
    make = CACHE_BY_SCHEME.get(parts.scheme)
    if make is None:
        raise invalid("cache", f"unknown URL scheme in {redact_url(url)!r}; pass {URL_EXAMPLES}")
    return _with_options(make(url.partition("?")[0]), dict(parse_qsl(parts.query)))


def _sqlite_cache(url: str) -> DiskCache:
    """Parse three slashes before a relative path and four before an absolute one, as SQLAlchemy does."""
    parts = urlsplit(url)
    path = unquote(parts.path.removeprefix("/"))
    if parts.netloc or not path:
        message = f"{url!r} names no file; write sqlite:///runs.db, or sqlite:////var/runs.db for an absolute path"
        raise invalid("cache", message)
    return DiskCache(path)


CACHE_BY_SCHEME: Final[Mapping[str, Callable[[str], Any]]] = {
    "memory": lambda _: MemoryCache(),
    "sqlite": _sqlite_cache,
    "redis": RedisCache,
    "rediss": RedisCache,
    "unix": RedisCache,
}
QUERY_OPTIONS: Final[Mapping[str, Callable[[str], Any]]] = {
    "ttl_s": float,
    "busy_s": float,
    "timeout_s": float,
    "lease_s": float,
    "max_entries": int,
    "max_bytes": int,
    "namespace": str,
}
"""Options that a query may set, with their parsers."""


def _with_options(cache: Any, options: Mapping[str, str]) -> Cache:
    known = [name for name in QUERY_OPTIONS if name in cache.__dataclass_fields__]
    for name, value in options.items():
        if name not in known:
            raise invalid("cache", f"{type(cache).__name__} has no option {name!r}; options are {', '.join(known)}")
        try:
            cache = replace(cache, **{name: QUERY_OPTIONS[name](value)})
        except ValueError as error:
            message = str(error) if isinstance(error, BadRequestError) else f"{name} must be a number, not {value!r}"
            raise invalid("cache", message) from error
    configured: Cache = cache
    return configured
