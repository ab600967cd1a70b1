"""What other distributions bring: found by their entry points, looked at, and said so where something is wrong.

A distribution names what it brings in its own ``pyproject.toml``::

    [project.entry-points."llmhub.providers"]
    acme = "llmhub_acme:PROVIDER"

Nobody subclasses: a provider is a `Provider`, a middleware a function of ``send`` or a hook, a store a function of an
address to a cache, a selector a ranking for `Route`, a scorer whatever `llmhub.evals` takes. A `ConnectorPlugin` has a
life of its own beside a hub.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, Protocol, runtime_checkable

from llmhub.core.errors import BadRequestError, InvalidRequest
from llmhub.core.provider import Provider
from llmhub.engine.hooks import is_hook
from llmhub.providers.registry import PROVIDERS

__all__ = ["BrokenPlugin", "ConnectorPlugin", "PluginWarning", "Plugins", "load_plugins"]


@runtime_checkable
class ConnectorPlugin(Protocol):
    """A plugin that does something of its own while a hub lives: it exports, watches, or keeps something open.

    ``initialize(hub)`` is called once for each hub that holds it, when the hub is made; ``shutdown()`` when that hub
    is closed or let go.
    """

    id: str

    def initialize(self, hub: Any) -> None:
        """Begin."""

    def shutdown(self) -> None:
        """End."""


@dataclass(frozen=True, slots=True)
class BrokenPlugin:
    """A plugin that could not be used: its name, the distribution that brings it, and why."""

    name: str
    distribution: str
    reason: str

    def __str__(self) -> str:
        """Say it in a line."""
        return f"plugin {self.name!r} of {self.distribution} {self.reason}"


class PluginWarning(UserWarning):
    """A plugin is broken and was left out."""


@dataclass(frozen=True, slots=True)
class PluginKind:
    """A kind of plugin: where its entry points are, what they must be, and how to say so."""

    name: str
    is_valid: Callable[[Any], bool]
    expected: str
    plugin_id: Callable[[str, Any], str] = lambda name, _: name


PLUGIN_KINDS: Final[Mapping[str, PluginKind]] = {
    "providers": PluginKind(
        "llmhub.providers", lambda one: isinstance(one, Provider), "a Provider", lambda _, one: str(one.name)
    ),
    "middleware": PluginKind(
        "llmhub.middleware", lambda one: callable(one) or is_hook(one), "a function of send, or a hook"
    ),
    "stores": PluginKind("llmhub.stores", callable, "a function of an address that gives a cache"),
    "selectors": PluginKind("llmhub.selectors", callable, "a function of candidates and stats"),
    "scorers": PluginKind("llmhub.scorers", callable, "a scorer, or a function that gives one"),
    "connectors": PluginKind(
        "llmhub.plugins", lambda one: isinstance(one, ConnectorPlugin), "a ConnectorPlugin", lambda _, one: str(one.id)
    ),
}
"""Kinds of plugins, by the field of `Plugins` that holds them."""


@dataclass(frozen=True, slots=True)
class Plugins:
    """What was found, by kind and id; a hub takes it as ``Hub(plugins=load_plugins())``.

    Parameters
    ----------
    providers
        Rows beside those of llmhub: ``model="acme/m"``.
    middleware
        By name: ``Hub(middleware=("redacted",))``.
    stores
        By the scheme of an address: ``Hub(cache="acme://...")``.
    selectors
        Rankings: ``Route(candidates, rank=plugins.selectors["greenest"])``.
    scorers
        For evaluations.
    connectors
        What lives beside a hub.
    broken
        What could not be used.
    strict
        Whether what is broken fails the start.
    """

    providers: Mapping[str, Provider] = field(default_factory=dict)
    middleware: Mapping[str, Any] = field(default_factory=dict)
    stores: Mapping[str, Callable[[str], Any]] = field(default_factory=dict)
    selectors: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    scorers: Mapping[str, Any] = field(default_factory=dict)
    connectors: Mapping[str, ConnectorPlugin] = field(default_factory=dict)
    broken: tuple[BrokenPlugin, ...] = ()
    strict: bool = False

    def __reduce__(self) -> tuple[Callable[..., Plugins], tuple[bool]]:
        """Pickle the wish alone: another process finds its own."""
        return load_plugins, (self.strict,)


NO_PLUGINS: Final = Plugins()


def load_plugins(strict: bool = False, entries: Iterable[EntryPoint] | None = None) -> Plugins:
    """Find and load what other distributions bring.

    Parameters
    ----------
    strict
        Fail for a plugin that is broken, instead of warning and going on without it.
    entries
        Entry points to take instead of those that are installed.

    Raises
    ------
    InvalidRequestError
        Two plugins have the same id, or one that of a provider of llmhub; or, with ``strict``, one is broken.

    Warns
    -----
    PluginWarning
        Once for each plugin that is broken, with its name and that of its distribution.

    Examples
    --------
    >>> load_plugins(entries=()).providers
    {}
    """
    there = [*entries] if entries is not None else _installed()
    found: dict[str, dict[str, Any]] = {kind: {} for kind in PLUGIN_KINDS}
    owners: dict[tuple[str, str], str] = {("providers", name): "llmhub" for name in PROVIDERS}
    broken: list[BrokenPlugin] = []
    for kind, group in PLUGIN_KINDS.items():
        for entry in sorted((one for one in there if one.group == group.name), key=lambda one: one.name):
            value = _loaded(entry, group)
            if isinstance(value, BrokenPlugin):
                broken.append(value)
                continue
            plugin_id = group.plugin_id(entry.name, value)
            brought_by = _distribution(entry)
            before = owners.setdefault((kind, plugin_id), brought_by)
            if plugin_id in found[kind] or before != brought_by:
                said = f"{plugin_id!r} is brought by {before} and by {brought_by}; uninstall one of them"
                raise BadRequestError(InvalidRequest(path=f"plugins[{group.name}]", message=said))
            found[kind][plugin_id] = value
    for one in broken:
        report_broken(one, strict=strict)
    return Plugins(**found, broken=tuple(broken), strict=strict)


def report_broken(broken: BrokenPlugin, *, strict: bool) -> None:
    """Warn of a plugin that is broken, or refuse to go on."""
    if strict:
        raise BadRequestError(InvalidRequest(path="plugins", message=f"{broken}; mend or uninstall it"))
    warnings.warn(f"{broken}; it is left out", PluginWarning, stacklevel=3)


def _installed() -> list[EntryPoint]:
    """Name the entry points of all distributions; one that is found twice on the path counts once."""
    names = {group.name for group in PLUGIN_KINDS.values()}
    every = [one for name in names for one in entry_points(group=name)]
    return list({(one.group, one.name, one.value, _distribution(one)): one for one in every}.values())


def _loaded(entry: EntryPoint, group: PluginKind) -> Any:
    """Load one plugin, or say why it cannot be used: whatever its code does, it is not ours."""
    try:
        value = entry.load()
        if isinstance(value, type):
            value = value()
        good = group.is_valid(value)
    except Exception as wrong:  # noqa: BLE001 - somebody else's code may raise anything
        return BrokenPlugin(entry.name, _distribution(entry), f"cannot be loaded: {type(wrong).__name__}: {wrong}")
    if not good:
        said = f"is a {type(value).__name__}, not {group.expected} ({group.name})"
        return BrokenPlugin(entry.name, _distribution(entry), said)
    return value


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.value.partition(":")[0]


def initialize_connectors(plugins: Plugins, hub: Any) -> tuple[ConnectorPlugin, ...]:
    """Let every connector begin beside a hub; give those that did, for `shutdown_connectors`.

    Raises
    ------
    InvalidRequestError
        In strict mode, when one fails; those that had begun are ended.
    """
    begun: list[ConnectorPlugin] = []
    for name, connector in plugins.connectors.items():
        try:
            connector.initialize(hub)
        except Exception as wrong:  # noqa: BLE001 - somebody else's code may raise anything
            if plugins.strict:
                shutdown_connectors(begun)
            said = f"cannot begin: {type(wrong).__name__}: {wrong}"
            report_broken(BrokenPlugin(name, type(connector).__module__, said), strict=plugins.strict)
        else:
            begun.append(connector)
    return tuple(begun)


def shutdown_connectors(begun: Iterable[ConnectorPlugin]) -> None:
    """End connectors, the last first; one that fails keeps no other from it."""
    for connector in reversed(tuple(begun)):
        try:
            connector.shutdown()
        except Exception as wrong:  # noqa: BLE001 - somebody else's code may raise anything
            said = f"plugin {connector.id!r} could not end: {type(wrong).__name__}: {wrong}"
            warnings.warn(said, PluginWarning, stacklevel=2)


def resolve_middleware(plugins: Plugins, middleware: Iterable[object]) -> tuple[object, ...]:
    """Put the plugin in the place of each middleware that is given by name.

    Raises
    ------
    InvalidRequestError
        No plugin brings a middleware of that name.
    """
    given = []
    for at, one in enumerate(middleware):
        if isinstance(one, str) and one not in plugins.middleware:
            there = ", ".join(sorted(plugins.middleware)) or "none"
            said = f"no plugin brings a middleware named {one!r}; there are {there}"
            raise BadRequestError(InvalidRequest(path=f"middleware[{at}]", message=said))
        given.append(plugins.middleware[one] if isinstance(one, str) else one)
    return tuple(given)


def cache_from_plugin(plugins: Plugins, address: str) -> Any:
    """Open the way to a plugin's store by its address; ``None`` where the scheme is no plugin's."""
    opener = plugins.stores.get(address.partition("://")[0]) if "://" in address else None
    return opener(address) if opener is not None else None
