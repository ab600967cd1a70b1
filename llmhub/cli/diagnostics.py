"""What `llmhub doctor` looks at: providers and their addresses, the cache, and the packages' versions."""

from __future__ import annotations

import platform
from collections.abc import Collection
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from llmhub import __version__, config
from llmhub.cache.store import StoreError
from llmhub.cache.urls import cache_from_url
from llmhub.core.errors import ConnectorError
from llmhub.core.provider import Endpoint, Provider
from llmhub.core.types import CompletionRequest
from llmhub.engine.event_loop import run_sync
from llmhub.engine.health import DEFAULT_TIMEOUT, Health, health_checks
from llmhub.engine.transport import TransportConfig
from llmhub.providers.registry import PROVIDERS

PACKAGES: Final = (
    "aiohttp",
    "genai-prices",
    "ipywidgets",
    "joblib",
    "matplotlib",
    "msgspec",
    "nest-asyncio",
    "pandas",
    "pyarrow",
    "returns",
    "tiktoken",
    "uvloop",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderStatus:
    """What is known of one provider: where its credentials come from, where it is, and whether it answers there."""

    name: str
    credentials: tuple[str, ...]
    ready: bool
    address: str
    health: Health | None = None

    @property
    def usable(self) -> bool:
        """Whether it can be asked now."""
        return self.health is not None and self.health.ok


def check_providers(found: config.Settings, only: Collection[str]) -> list[ProviderStatus]:
    """Look at every provider, or at some; those that have credentials are asked for what costs nothing."""
    rows = [
        ProviderStatus(
            name=name,
            credentials=found.sources.get(name, ()),
            ready=name in found.endpoints,
            address=_address(provider, found.endpoints.get(name, Endpoint())),
        )
        for name, provider in PROVIDERS.items()
        if not only or name in only
    ]
    asked = {row.name: (PROVIDERS[row.name], found.endpoints[row.name]) for row in rows if row.ready}
    bound = TransportConfig(timeout=DEFAULT_TIMEOUT, use_proxy_settings=found.use_proxy_settings)
    health = run_sync(lambda _: health_checks(asked, bound)) if asked else {}
    return [replace(row, health=health.get(row.name), address=_redact_url(row.address)) for row in rows]


def _address(provider: Provider, endpoint: Endpoint) -> str:
    """Give a provider's address: what was set, or else the origin of what would be asked."""
    if endpoint.base_url or not provider.base_url:
        return endpoint.base_url
    parts = urlsplit(provider.locate(endpoint, CompletionRequest(model="any", messages=()), False))
    return f"{parts.scheme}://{parts.netloc}"


def _redact_url(url: str) -> str:
    """Take what may be secret out of an address: a user's name and password, and the query.

    Examples
    --------
    >>> _redact_url("https://me:secret@localhost:8000/v1?key=secret")
    'https://localhost:8000/v1'
    """
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def package_versions() -> dict[str, str]:
    """Give the packages' versions without importing any."""
    found = {"python": platform.python_version(), "llmhub": __version__}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def check_cache(found: config.Settings) -> dict[str, Any]:
    """Look at the default cache, without making it."""
    path = found.cache_path
    said: dict[str, Any] = {"path": str(path), "entries": None, "size_bytes": 0, "error": ""}
    if not found.cache_url and (path is None or not path.exists()):
        return said
    if path is not None:
        said["size_bytes"] = path.stat().st_size
    try:
        cache: Any = cache_from_url(found.cache_url or str(path))
        said["path"] = repr(cache) if found.cache_url else str(path)
        store = cache.open()
        try:
            held = store.stats()
        finally:
            store.close()
    except (ConnectorError, StoreError) as error:
        return {**said, "error": str(error)}
    return {**said, "entries": held.entries, "size_bytes": held.size_bytes}
