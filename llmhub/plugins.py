"""Plugins: extensions in other distributions, found by their entry points, loaded and validated.

A distribution declares what it adds in its own ``pyproject.toml``::

    [project.entry-points."llmhub.providers"]
    acme = "llmhub_acme:PROVIDER"

Nothing needs to be subclassed: a provider is a `Provider`, a middleware a function of ``send`` or a hook, a store a
function from a URL to a cache, a selector a ranking for `Route`, a scorer anything `llmhub.evals` accepts, a collector
of metrics a `MetricsCollector`, a credential source an object with ``open``. A `ConnectorPlugin` is started with a hub
and stopped with it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, Protocol, runtime_checkable

from llmhub.core.errors import invalid
from llmhub.core.provider import Provider
from llmhub.engine.hooks import is_hook
from llmhub.observability.instruments import MetricsCollector
from llmhub.providers.registry import PROVIDERS
from llmhub.security.credentials.credential_store import CredentialSource

__all__ = ["BrokenPlugin", "ConnectorPlugin", "PluginWarning", "Plugins", "load_plugins"]


@runtime_checkable
class ConnectorPlugin(Protocol):
    """A plugin that runs beside a hub: it exports, monitors, or keeps a resource open.

    ``initialize(hub)`` is called once when a hub with the plugin is made, ``shutdown()`` when that hub is closed or
    garbage-collected.
    """

    id: str

    def initialize(self, hub: Any) -> None:
        """Start."""

    def shutdown(self) -> None:
        """Stop."""


@dataclass(frozen=True, slots=True)
class BrokenPlugin:
    """A plugin that cannot be used: its name, the distribution it belongs to, and the reason."""

    name: str
    distribution: str
    reason: str

    def __str__(self) -> str:
        """Return name, distribution and reason in a line."""
        return f"plugin {self.name!r} of {self.distribution} {self.reason}"


class PluginWarning(UserWarning):
    """Warns of a broken plugin that was skipped."""


@dataclass(frozen=True, slots=True)
class PluginKind:
    """A kind of plugin.

    Parameters
    ----------
    name
        Entry-point group.
    is_valid
        Returns whether an object is a plugin of this kind.
    expected
        Description of a valid object, for messages.
    plugin_id
        Returns the id of a plugin, from its entry point's name and the object.
    """

    name: str
    is_valid: Callable[[Any], bool]
    expected: str
    plugin_id: Callable[[str, Any], str] = lambda name, _: name


PLUGIN_KINDS: Final[Mapping[str, PluginKind]] = {
    "providers": PluginKind(
        "llmhub.providers", lambda value: isinstance(value, Provider), "a Provider", lambda _, value: str(value.name)
    ),
    "middleware": PluginKind(
        "llmhub.middleware", lambda value: callable(value) or is_hook(value), "a function of send, or a hook"
    ),
    "stores": PluginKind("llmhub.stores", callable, "a function from a URL to a cache"),
    "selectors": PluginKind("llmhub.selectors", callable, "a function of candidates and stats"),
    "scorers": PluginKind("llmhub.scorers", callable, "a scorer, or a function that returns one"),
    "metrics": PluginKind(
        "llmhub.metrics",
        lambda value: isinstance(value, MetricsCollector),
        "a MetricsCollector",
        lambda _, value: str(value.name),
    ),
    "credentials": PluginKind(
        "llmhub.credentials",
        lambda value: isinstance(value, CredentialSource) or callable(value),
        "a source of credentials, or a function of a provider's name",
    ),
    "connectors": PluginKind(
        "llmhub.plugins",
        lambda value: isinstance(value, ConnectorPlugin),
        "a ConnectorPlugin",
        lambda _, value: str(value.id),
    ),
}
"""Kinds of plugins, by the field of `Plugins` that holds them."""


@dataclass(frozen=True, slots=True)
class Plugins:
    """Loaded plugins by kind and id, for ``Hub(plugins=load_plugins())``.

    Parameters
    ----------
    providers
        Additional providers: ``model="acme/m"``.
    middleware
        By name: ``Hub(middleware=("redacted",))``.
    stores
        Caches by URL scheme: ``Hub(cache="acme://...")``.
    selectors
        Rankings: ``Route(candidates, rank=plugins.selectors["greenest"])``.
    scorers
        For evaluations.
    metrics
        Collectors of the measurements of a hub.
    credentials
        Sources of credentials by name: ``Hub(credentials="acme")``.
    connectors
        Plugins started with a hub.
    broken
        Plugins that cannot be used.
    strict
        Whether a broken plugin is an error.
    """

    providers: Mapping[str, Provider] = field(default_factory=dict)
    middleware: Mapping[str, Any] = field(default_factory=dict)
    stores: Mapping[str, Callable[[str], Any]] = field(default_factory=dict)
    selectors: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    scorers: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, MetricsCollector] = field(default_factory=dict)
    credentials: Mapping[str, CredentialSource | Callable[[str], Any]] = field(default_factory=dict)
    connectors: Mapping[str, ConnectorPlugin] = field(default_factory=dict)
    broken: tuple[BrokenPlugin, ...] = ()
    strict: bool = False

    def __reduce__(self) -> tuple[Callable[..., Plugins], tuple[bool, ...]]:
        """Pickle as a call of `load_plugins`, so that another process loads the plugins installed there.

        Without plugins it loads none either; looking for them takes as long as a thousand rows.
        """
        return (_no_plugins, ()) if self == NO_PLUGINS else (load_plugins, (self.strict,))


NO_PLUGINS: Final = Plugins()


def _no_plugins() -> Plugins:
    return NO_PLUGINS


def load_plugins(strict: bool = False, entries: Iterable[EntryPoint] | None = None) -> Plugins:
    """Load the plugins of installed distributions.

    Parameters
    ----------
    strict
        Raise for a broken plugin instead of warning and skipping it.
    entries
        Entry points to load instead of the installed ones.

    Raises
    ------
    BadRequestError
        Two plugins have the same id, or a plugin has the id of a built-in provider; with ``strict``, one is broken.

    Warns
    -----
    PluginWarning
        Once for each broken plugin, with its name and distribution.

    Examples
    --------
    >>> load_plugins(entries=()).providers
    {}
    """
    candidates = [*entries] if entries is not None else _installed()
    loaded: dict[str, dict[str, Any]] = {field_name: {} for field_name in PLUGIN_KINDS}
    owners: dict[tuple[str, str], str] = {("providers", name): "llmhub" for name in PROVIDERS}
    broken: list[BrokenPlugin] = []
    for field_name, kind in PLUGIN_KINDS.items():
        of_kind = (entry for entry in candidates if entry.group == kind.name)
        for entry in sorted(of_kind, key=lambda entry: entry.name):
            value = _load(entry, kind)
            if isinstance(value, BrokenPlugin):
                broken.append(value)
                continue
            plugin_id, distribution = kind.plugin_id(entry.name, value), _distribution(entry)
            owner = owners.setdefault((field_name, plugin_id), distribution)
            if plugin_id in loaded[field_name] or owner != distribution:
                message = f"{plugin_id!r} is provided by {owner} and by {distribution}; uninstall one of them"
                raise invalid(f"plugins[{kind.name}]", message)
            loaded[field_name][plugin_id] = value
    for plugin in broken:
        report_broken(plugin, strict=strict)
    return Plugins(**loaded, broken=tuple(broken), strict=strict)


def report_broken(plugin: BrokenPlugin, *, strict: bool) -> None:
    """Raise for a broken plugin if ``strict``, else warn."""
    if strict:
        raise invalid("plugins", f"{plugin}; fix or uninstall it")
    warnings.warn(f"{plugin}; it was skipped", PluginWarning, stacklevel=3)


def _installed() -> list[EntryPoint]:
    """Return the entry points of all distributions, without duplicates from a distribution found twice on the path."""
    groups = {kind.name for kind in PLUGIN_KINDS.values()}
    found = [entry for group in groups for entry in entry_points(group=group)]
    return list({(entry.group, entry.name, entry.value, _distribution(entry)): entry for entry in found}.values())


def _load(entry: EntryPoint, kind: PluginKind) -> Any:
    """Load and validate a plugin; return a `BrokenPlugin` for whatever goes wrong."""
    try:
        value = entry.load()
        if isinstance(value, type):
            value = value()
        is_valid = kind.is_valid(value)
    except Exception as error:  # noqa: BLE001 - a plugin's code may raise anything
        return BrokenPlugin(entry.name, _distribution(entry), f"cannot be loaded: {type(error).__name__}: {error}")
    if not is_valid:
        reason = f"is of type {type(value).__name__}, not {kind.expected} ({kind.name})"
        return BrokenPlugin(entry.name, _distribution(entry), reason)
    return value


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.value.partition(":")[0]


def initialize_connectors(plugins: Plugins, hub: Any) -> tuple[ConnectorPlugin, ...]:
    """Start the connectors of a hub; return those that started, for `shutdown_connectors`.

    Raises
    ------
    BadRequestError
        In strict mode, if one fails; those already started are stopped.
    """
    started: list[ConnectorPlugin] = []
    for name, connector in plugins.connectors.items():
        try:
            connector.initialize(hub)
        except Exception as error:  # noqa: BLE001 - a plugin's code may raise anything
            if plugins.strict:
                shutdown_connectors(started)
            reason = f"cannot be initialized: {type(error).__name__}: {error}"
            report_broken(BrokenPlugin(name, type(connector).__module__, reason), strict=plugins.strict)
        else:
            started.append(connector)
    return tuple(started)


def shutdown_connectors(started: Iterable[ConnectorPlugin]) -> None:
    """Stop connectors in reverse order; warn of one that fails, and stop the others all the same."""
    for connector in reversed(tuple(started)):
        try:
            connector.shutdown()
        except Exception as error:  # noqa: BLE001 - a plugin's code may raise anything
            message = f"plugin {connector.id!r} could not be shut down: {type(error).__name__}: {error}"
            warnings.warn(message, PluginWarning, stacklevel=2)


def resolve_middleware(plugins: Plugins, middleware: Iterable[object]) -> tuple[object, ...]:
    """Replace names in ``middleware`` by the plugins of those names.

    Raises
    ------
    BadRequestError
        No plugin has the name.
    """
    resolved = []
    for index, item in enumerate(middleware):
        if isinstance(item, str) and item not in plugins.middleware:
            available = ", ".join(sorted(plugins.middleware)) or "none"
            message = f"no plugin provides a middleware named {item!r}; available: {available}"
            raise invalid(f"middleware[{index}]", message)
        resolved.append(plugins.middleware[item] if isinstance(item, str) else item)
    return tuple(resolved)


def cache_from_plugin(plugins: Plugins, url: str) -> Any:
    """Return the cache at a URL whose scheme a plugin provides; ``None`` for other schemes."""
    make = plugins.stores.get(url.partition("://")[0]) if "://" in url else None
    return make(url) if make is not None else None
