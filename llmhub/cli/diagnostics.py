"""Checks of `llmhub doctor`: providers, the cache, and versions of packages."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from returns.pipeline import is_successful
from returns.result import Result

from llmhub import __version__, config
from llmhub.cache.store import StoreError
from llmhub.cache.urls import cache_from_url
from llmhub.core.errors import ConnectorError, LLMError
from llmhub.core.provider import Endpoint, Provider, public_url
from llmhub.core.types import CompletionRequest
from llmhub.engine.event_loop import StopSignal, run_sync
from llmhub.engine.health import DEFAULT_TIMEOUT, Health, health_checks
from llmhub.engine.transport import TransportConfig
from llmhub.hub import Hub
from llmhub.providers.registry import PROVIDERS
from llmhub.security.credentials.credential_store import CredentialSource

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
    """Status of one provider.

    Parameters
    ----------
    name
        Name of the provider.
    credentials
        Environment variables or files that the credentials come from; never their values.
    ready
        Whether the credentials are complete.
    address
        Base URL without credentials.
    configured
        Whether a key, an address or the like is set.
    health
        Result of the health check; ``None`` if it was not made.
    """

    name: str
    credentials: tuple[str, ...]
    ready: bool
    address: str
    configured: bool = True
    health: Health | None = None

    @property
    def usable(self) -> bool:
        """Whether the provider is reachable and accepts the credentials."""
        return self.health is not None and self.health.ok


def read_stores(
    settings: config.Settings, sources: Sequence[CredentialSource]
) -> tuple[config.Settings, dict[str, LLMError]]:
    """Return settings with the credentials in stores that list their providers, and the errors of reading them."""
    listed = {name: source for source in reversed(sources) for name in source.providers or ()}
    if not listed:
        return settings, {}
    hub = Hub(settings=settings, credentials=sources)

    async def read(name: str) -> Result[Endpoint, LLMError]:
        return await hub.runtime.client.credentials.endpoint(hub.target(f"{name}/any", allow_unconfigured=True))

    async def read_all(_: StopSignal) -> list[Result[Endpoint, LLMError]]:
        return await asyncio.gather(*map(read, listed))

    with hub:
        results = dict(zip(listed, run_sync(read_all), strict=True))
    found = {name: result.unwrap() for name, result in results.items() if is_successful(result)}
    errors = {name: result.failure() for name, result in results.items() if not is_successful(result)}
    stored = {name: (store_name(source),) for name, source in listed.items()}
    found |= {name: settings.endpoints.get(name) or settings.partial_endpoints.get(name, Endpoint()) for name in errors}
    endpoints, sources_by_name = {**settings.endpoints, **found}, {**settings.sources, **stored}
    return replace(settings, endpoints=endpoints, sources=sources_by_name), errors


def store_name(source: CredentialSource) -> str:
    """Return what a store is called in the table of providers: its file, or its kind.

    Examples
    --------
    >>> from llmhub.security.credentials.cloud import AwsCredentials
    >>> store_name(AwsCredentials())
    'AwsCredentials'
    """
    path = getattr(source, "path", None)
    return path.name if isinstance(path, Path) else type(source).__name__


def check_providers(
    settings: config.Settings, names: Collection[str], sources: Sequence[CredentialSource] = ()
) -> list[ProviderStatus]:
    """Return the status of all providers, or of those in ``names``; providers with credentials are sent a request.

    The request is free of charge (such as the list of models). ``sources`` are the stores of credentials beside the
    settings.
    """
    settings, errors = read_stores(settings, sources)
    statuses = [
        ProviderStatus(
            name=name,
            credentials=settings.sources.get(name, ()),
            ready=name in settings.endpoints,
            address=_address(provider, settings.endpoints.get(name, Endpoint())),
            configured=settings.endpoints.get(name, Endpoint()) != Endpoint(),
        )
        for name, provider in PROVIDERS.items()
        if not names or name in names
    ]
    ready = {
        status.name: (PROVIDERS[status.name], settings.endpoints[status.name]) for status in statuses if status.ready
    }
    transport = TransportConfig(timeout=DEFAULT_TIMEOUT, proxies=settings.proxies, ca_file=settings.ca_file)
    health = run_sync(lambda _: health_checks(ready, transport)) if ready else {}
    for name in errors.keys() & ready.keys():
        health[name] = Health(provider=name, error=errors[name])
    return [replace(status, health=health.get(status.name), address=public_url(status.address)) for status in statuses]


def _address(provider: Provider, endpoint: Endpoint) -> str:
    """Return the configured base URL of a provider, or the origin of its requests."""
    if endpoint.base_url or not provider.base_url:
        return endpoint.base_url
    parts = urlsplit(provider.locate(endpoint, CompletionRequest(model="any", messages=()), False))
    return f"{parts.scheme}://{parts.netloc}"


def package_versions() -> dict[str, str]:
    """Return the versions of Python, llmhub and its dependencies, without importing them."""
    versions = {"python": platform.python_version(), "llmhub": __version__}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def check_cache(settings: config.Settings) -> dict[str, Any]:
    """Return path, number of entries, size in bytes and error of the default cache, without creating it."""
    path = settings.cache_path
    status: dict[str, Any] = {"path": str(path), "entries": None, "size_bytes": 0, "error": ""}
    if not settings.cache_url and (path is None or not path.exists()):
        return status
    if path is not None:
        status["size_bytes"] = path.stat().st_size
    try:
        cache: Any = cache_from_url(settings.cache_url or str(path))
        status["path"] = repr(cache) if settings.cache_url else str(path)
        store = cache.open()
        try:
            stats = store.stats()
        finally:
            store.close()
    except (ConnectorError, StoreError) as error:
        return {**status, "error": str(error)}
    return {**status, "entries": stats.entries, "size_bytes": stats.size_bytes}
