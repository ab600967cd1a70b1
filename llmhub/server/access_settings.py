"""Settings of access: the section ``[server.access]``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from llmhub import config
from llmhub.cache.access_store import AccessStore
from llmhub.cache.redis import RedisCache
from llmhub.cache.redis_access import open_redis_access
from llmhub.cache.sqlite import DiskCache
from llmhub.cache.sqlite_access import open_sqlite_access
from llmhub.cache.tiered import TieredCache
from llmhub.cache.urls import cache_from_url
from llmhub.core.errors import invalid
from llmhub.core.secret import Secret
from llmhub.server.jupyterhub_access import JupyterHubSettings
from llmhub.server.virtual_keys import Allowance, CacheScope

MIN_SECRET_CHARACTERS: Final = 32
KEYS_FILE: Final = "keys.db"


class TeamSettings(Allowance, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits that the keys of a team share."""


class AccessSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of access.

    Parameters
    ----------
    keys
        Whether requests need a key. Without, the service can only be bound to a loopback address.
    store
        Where keys and their spending are kept: a file, ``sqlite:///keys.db``, or ``redis://...``, which replicas share.
        By default that is the Redis server of the cache, or a file in the user's data folder.
    admin_key
        A key with every scope, of at least 32 characters, to make the first keys with
        (``LLMHUB_SERVER_ACCESS_ADMIN_KEY``).
    cache_scope
        Who shares cached responses, unless a key says otherwise: each ``key``, each ``team``, or ``all``.
    store_lost
        If the store cannot be reached: ``closed`` refuses requests; ``local`` lets each replica use its part of each
        limit, ``limit / replicas``, and the keys that it knows.
    refresh_s
        How long a replica uses a key before it reads it again: a key is revoked everywhere after that time.
    allow_unpriced
        Whether keys with a budget may use models without a known price, uncounted.
    teams
        Limits by team.
    signing_secret
        From it, a secret of at least 32 characters, every key gets a secret to sign requests with. Replicas have the
        same (``LLMHUB_SERVER_ACCESS_SIGNING_SECRET``); without it no signed request is accepted.
    signature_window_s
        How far the time of a signature may be from the service's; within that time no request is accepted twice.
    jupyterhub
        A JupyterHub whose users need no key.
    """

    keys: bool = False
    store: str = ""
    admin_key: Secret = Secret()
    cache_scope: CacheScope = "team"
    store_lost: Literal["closed", "local"] = "closed"
    refresh_s: Annotated[float, Meta(ge=0)] = 5.0
    allow_unpriced: bool = False
    teams: dict[str, TeamSettings] = {}
    signing_secret: Secret = Secret()
    signature_window_s: Annotated[float, Meta(gt=0, le=3600)] = 300.0
    jupyterhub: JupyterHubSettings = JupyterHubSettings()

    def __post_init__(self) -> None:
        """Raise for a short secret."""
        for name in ("admin_key", "signing_secret"):
            secret: Secret = getattr(self, name)
            if secret and len(secret.reveal()) < MIN_SECRET_CHARACTERS:
                raise ValueError(f"{name} must have at least {MIN_SECRET_CHARACTERS} characters")


def decode_secret(kind: type, value: Any) -> Any:
    """Return a secret of the settings."""
    if kind is Secret and isinstance(value, (str, Secret)):
        return Secret(value) if isinstance(value, str) else value
    raise NotImplementedError


def open_access_store(store: str, cache: str = "") -> AccessStore:
    """Open the store that settings name.

    Parameters
    ----------
    store
        Its URL or file; empty for the default.
    cache
        URL or file of the cache, whose Redis server is the default.

    Raises
    ------
    BadRequestError
        The URL is wrong, or the file cannot be used.
    """
    if not store:
        cached = cache_from_url(cache) if "://" in cache else None
        while isinstance(cached, TieredCache):
            cached = cached.far
        return open_redis_access(cached) if isinstance(cached, RedisCache) else _open_file(default_store_file())
    described = cache_from_url(store)
    if isinstance(described, RedisCache):
        return open_redis_access(described)
    if isinstance(described, DiskCache):
        return _open_file(Path(described.path))
    raise invalid("access.store", "must be a file, sqlite:///keys.db or redis://host:6379/0")


def _open_file(path: Path) -> AccessStore:
    return open_sqlite_access(path)


def default_store_file() -> Path:
    """Return the file in which keys are kept unless the settings say otherwise."""
    return config.data_folder() / KEYS_FILE
