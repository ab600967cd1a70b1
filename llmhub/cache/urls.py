"""Caches by address: ``memory://``, ``sqlite:///runs.db``, ``redis://host:6379/0``, or a plain path."""

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
from llmhub.core.errors import BadRequestError, InvalidRequest

URL_EXAMPLES: Final = "memory://, sqlite:///runs.db, redis://localhost:6379/0, or a path"


_NEXT: Final = re.compile(r",(?=[a-z]+://)")


_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


def cache_from_url(url: str | Path) -> Cache:
    """Give the cache at an address; nothing is opened yet.

    Parameters
    ----------
    url
        ``memory://``, ``sqlite:///relative.db``, ``sqlite:////absolute.db``, ``redis://host:6379/0`` (``rediss://``
        over TLS, ``unix://path``), or a path to an SQLite file. ``?name=value`` sets what the cache takes
        (``ttl_s``, ``max_entries``, ``max_bytes``, ``namespace``, ``timeout_s``, ``lease_s``,
        ``busy_s``). Two with a comma between are a tier, the near one first.

    Raises
    ------
    InvalidRequestError
        For what is no address, or names something the cache does not take.

    Examples
    --------
    >>> cache_from_url("memory://?max_entries=10")
    MemoryCache(max_entries=10, max_bytes=1073741824, ttl_s=None)
    >>> cache_from_url("memory://,sqlite:///runs.db?ttl_s=3600").far
    DiskCache(path='runs.db', ttl_s=3600.0, busy_s=30.0)
    """
    if isinstance(url, Path) or not _SCHEME.match(url):
        return DiskCache(url)
    one, *more = _NEXT.split(url)
    if more:
        return TieredCache(cache_from_url(one), cache_from_url(",".join(more)))
    parts = urlsplit(url)
    opener = CACHE_BY_SCHEME.get(parts.scheme)
    if opener is None:
        said = f"{redact_url(url)!r} is no address of a cache; give {URL_EXAMPLES}"
        raise BadRequestError(InvalidRequest(path="cache", message=said))
    return _with_options(opener(url.partition("?")[0]), dict(parse_qsl(parts.query)))


def _file(url: str) -> DiskCache:
    """Take three slashes before a relative path and four before an absolute one, as SQLAlchemy does."""
    parts = urlsplit(url)
    path = unquote(parts.path.removeprefix("/"))
    if parts.netloc or not path:
        said = f"{url!r} names no file; write sqlite:///runs.db, or sqlite:////var/runs.db for an absolute path"
        raise BadRequestError(InvalidRequest(path="cache", message=said))
    return DiskCache(path)


CACHE_BY_SCHEME: Final[Mapping[str, Callable[[str], Any]]] = {
    "memory": lambda _: MemoryCache(),
    "sqlite": _file,
    "redis": RedisCache,
    "rediss": RedisCache,
    "unix": RedisCache,
}
"""What begins an address, and what it opens."""


QUERY_OPTIONS: Final[Mapping[str, Callable[[str], Any]]] = {
    "ttl_s": float,
    "busy_s": float,
    "timeout_s": float,
    "lease_s": float,
    "max_entries": int,
    "max_bytes": int,
    "namespace": str,
}
"""What may stand behind the question mark, and how it is read."""


def _with_options(cache: Any, said: Mapping[str, str]) -> Cache:
    known = [name for name in QUERY_OPTIONS if name in cache.__dataclass_fields__]
    for name, value in said.items():
        if name not in known:
            wrong = f"{name!r} is nothing that {type(cache).__name__} takes; there are {', '.join(known)}"
            raise BadRequestError(InvalidRequest(path="cache", message=wrong))
        try:
            cache = replace(cache, **{name: QUERY_OPTIONS[name](value)})
        except ValueError as error:
            wrong = f"{name}={value!r} is no number" if not isinstance(error, BadRequestError) else str(error)
            raise BadRequestError(InvalidRequest(path="cache", message=wrong)) from error
    found: Cache = cache
    return found
