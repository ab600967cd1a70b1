"""Cache URLs: parsing, errors, and passwords that must not show."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

import llmhub
import llmhub.hub
from llmhub.cache.redis import redact_url
from llmhub.cache.urls import cache_from_url
from llmhub.config import parse_settings
from llmhub.core.errors import BadRequestError
from llmhub.core.secret import Secret


@pytest.mark.parametrize(
    ("url", "cache"),
    [
        ("memory://", llmhub.MemoryCache()),
        ("memory://?max_entries=5&ttl_s=1.5", llmhub.MemoryCache(max_entries=5, ttl_s=1.5)),
        ("sqlite:///runs.db", llmhub.DiskCache("runs.db")),
        ("sqlite:////var/runs.db?busy_s=1", llmhub.DiskCache("/var/runs.db", busy_s=1.0)),
        ("sqlite:///~/a%20b.db", llmhub.DiskCache("~/a b.db")),
        ("runs.db", llmhub.DiskCache("runs.db")),
        (Path("a/runs.db"), llmhub.DiskCache(Path("a/runs.db"))),
        ("C:\\runs.db", llmhub.DiskCache("C:\\runs.db")),
        ("redis://h:1/2?namespace=n", llmhub.RedisCache("redis://h:1/2", namespace="n")),
        ("rediss://h", llmhub.RedisCache("rediss://h")),
        ("unix:///tmp/s", llmhub.RedisCache("unix:///tmp/s")),
        ("memory://,sqlite:///a,b.db", llmhub.TieredCache(llmhub.MemoryCache(), llmhub.DiskCache("a,b.db"))),
    ],
)
def test_cache_of_each_url(url: Any, cache: Any) -> None:
    assert cache_from_url(url) == cache


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("mongo://x", "memory://, sqlite:///runs.db"),
        ("sqlite://runs.db", "sqlite:///runs.db"),
        ("sqlite:///", "names no file"),
        ("memory://?max_entry=5", "max_entries"),
        ("memory://?max_entries=five", "must be a number, not 'five'"),
        ("memory://?ttl_s=-1", "ttl_s"),
        ("redis://h?max_entries=5", "namespace"),
    ],
)
def test_invalid_urls_are_rejected(url: str, text: str) -> None:
    with pytest.raises(BadRequestError, match=f"^cache: .*{text}"):
        cache_from_url(url)


PASSWORDS = st.text("abcXYZ019@:/#?%[] !", min_size=6, max_size=12).map(lambda text: f"s3cr{text}3t")


@given(PASSWORDS)
def test_passwords_are_never_shown(password: str) -> None:
    url = f"redis://me:{password}@localhost:6379/0"
    hub = llmhub.Hub(cache=llmhub.RedisCache(url), settings=parse_settings({}))
    text = [redact_url(url), repr(hub.cache), repr(hub)]
    text.append(repr(parse_settings({"LLMHUB_CACHE": url})))
    try:
        llmhub.RedisCache(url).open()
    except BadRequestError as error:
        text.append(str(error))
    fragments = {password, *(fragment for fragment in (password[:6], password[-4:]))}
    assert not [shown for shown in text for fragment in fragments if fragment in shown]


def test_llmhub_cache_may_be_a_url(environ: pytest.MonkeyPatch) -> None:
    environ.setenv("LLMHUB_CACHE", "redis://localhost:1/0")
    settings = parse_settings({"LLMHUB_CACHE": "redis://localhost:1/0"})
    assert (settings.cache_path, settings.cache_url) == (None, "redis://localhost:1/0")
    assert llmhub.hub.hub_from_environment().cache == llmhub.RedisCache("redis://localhost:1/0")
    assert parse_settings({"LLMHUB_CACHE": "runs.db"}).cache_url == ""


def test_a_redis_password_is_in_no_representation_of_the_cache() -> None:
    cache = llmhub.RedisCache("redis://me:s3c%2Fret@h:1/2")
    assert "s3c" not in f"{cache!r} {dataclasses.asdict(cache)} {cache.url} {vars_of(cache)}"
    assert cache.url == "redis://me@h:1/2"
    assert isinstance(cache.password, Secret)
    assert cache.password.reveal() == "s3c/ret"
    assert cache == llmhub.RedisCache("redis://me@h:1/2", password="s3c/ret") == pickle.loads(pickle.dumps(cache))


def vars_of(value: object) -> dict[str, object]:
    return {name: getattr(value, name) for name in type(value).__dataclass_fields__}  # type: ignore[attr-defined]


def test_the_server_gets_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    connections: list[Any] = []
    monkeypatch.setattr(redis.Redis, "from_url", lambda url, **options: connections.append((url, options)))
    llmhub.RedisCache("redis://me:s3c%2Fret@h:1/2").open()
    assert connections[0][0] == "redis://me@h:1/2"
    assert connections[0][1]["password"] == "s3c/ret"
