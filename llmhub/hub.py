"""A hub: one frozen value that says who can be asked, and how calls are made."""

from __future__ import annotations

import importlib
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, cast

from llmhub import config
from llmhub.cache.modes import CacheMode, resolve_mode
from llmhub.cache.store import Cache
from llmhub.cache.urls import cache_from_url
from llmhub.core.budget import Budget, parse_budget
from llmhub.core.errors import BadRequestError, InvalidRequest
from llmhub.core.provider import Endpoint, Provider
from llmhub.engine.call import Middleware, Target
from llmhub.engine.circuit_breaker import Breaker
from llmhub.engine.client import Client
from llmhub.engine.decision_log import Decision
from llmhub.engine.hooks import is_hook, to_middleware
from llmhub.engine.limits import Limit
from llmhub.engine.model_resolver import ModelResolver, routes_by_name, unknown_provider_message
from llmhub.engine.retry import Retry
from llmhub.engine.routing_policy import Route
from llmhub.engine.runtime import Runtime
from llmhub.engine.transport import Timeout, TransportConfig
from llmhub.engine.write_ahead import AMBIGUOUS_POLICIES, AmbiguousPolicy
from llmhub.plugins import (
    NO_PLUGINS,
    Plugins,
    cache_from_plugin,
    initialize_connectors,
    load_plugins,
    resolve_middleware,
    shutdown_connectors,
)
from llmhub.providers.registry import PROVIDERS

if TYPE_CHECKING:
    from llmhub.tables.plan import Plan

DEFAULT_POOL_SIZE: Final = 1024
"""Connections a provider, unless told otherwise."""


def _no_op() -> None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
class Hub:
    """Who can be asked, and how calls are made.

    Parameters
    ----------
    endpoints
        Where and as whom a provider is reached, by its name; laid over what the environment says.
    cache
        Where answers are kept: `DiskCache`, `MemoryCache`, `RedisCache`, `TieredCache`, the address of one
        (``sqlite:///runs.db``, ``redis://localhost:6379/0``: see `llmhub.cache.urls.cache_from_url`), or ``None``.
    cache_mode
        What may be done with it: a `CacheMode`, or its name (``read-only``, ``refresh``, ...). A call may say
        otherwise (``cache="refresh"``).
    limits
        `Limit` by provider (``openai``) or by model (``openai/gpt-4o-mini``); both hold where both are given.
    adaptive
        Whether to find out how many calls a provider takes at once, and how fast, where it says nothing and no limit
        is declared: it begins slowly and goes slower when it is refused.
    breaker
        When a provider that keeps failing is asked no more, until a probe is answered; ``None`` asks it always.
    retry
        When to try again.
    route
        Whom to ask: `Failover`, `RoundRobin`, `LowLatency`, `CostOptimized`, `Weighted` or a `Route` with a ranking of
        your own. One route is taken by every call for one of its candidates; a mapping names routes, and
        ``model="fast"`` takes the one of that name. Rows say in ``served_model`` who answered.
    middleware
        Functions ``send -> send`` around every call, the first outermost; or hooks: objects with ``on_request``,
        ``on_response`` or ``on_error``.
    budget_usd
        What all calls of this hub may cost together; a call that could exceed it is not sent.
    allow_unpriced
        With a budget, let calls pass uncounted whose price is not known, instead of refusing them.
    ambiguous
        What to do with a request that a process sent which died before the answer came, so that nobody knows whether
        it was charged: send it again (``"resend"``, with a warning that counts them), or fail it (``"error"``).
    providers
        Further providers by name.
    plugins
        What other distributions bring (`llmhub.load_plugins`): the default hub takes what is installed, unless
        ``LLMHUB_PLUGINS=off``; with ``LLMHUB_PLUGINS=strict`` one that is broken fails the start.
    concurrency
        Calls under way at once, unless a call says otherwise.
    timeout
        How long to wait for a connection and for an answer.
    pool_size
        Connections a provider at most.
    max_reply_bytes
        A longer answer is refused.
    tune_gc
        Whether a run over more than 256 rows raises the threshold of Python's garbage collector until it ends, if the
        program has left it at its default (see `llmhub.engine.gc_tuning`). Saves up to a sixth of a run's time.
    settings
        What the environment says; read when it is not given.

    Examples
    --------
    >>> hub = Hub(endpoints={"openai": Endpoint(base_url="http://localhost:8000/v1", api_key="secret")})
    >>> hub.target("openai/gpt-4o-mini").model
    'gpt-4o-mini'
    """

    endpoints: Mapping[str, Endpoint] = field(default_factory=dict)
    cache: Cache | str | Path | None = None
    cache_mode: CacheMode | str = field(default_factory=CacheMode)
    limits: Mapping[str, Limit] = field(default_factory=dict)
    adaptive: bool = True
    breaker: Breaker | None = field(default_factory=Breaker)
    retry: Retry = field(default_factory=Retry)
    route: Route | Mapping[str, Route] | None = None
    middleware: tuple[Middleware | object | str, ...] = ()
    budget_usd: float | Decimal | None = None
    allow_unpriced: bool = False
    ambiguous: AmbiguousPolicy = "resend"
    providers: Mapping[str, Provider] = field(default_factory=dict)
    plugins: Plugins = field(default=NO_PLUGINS, repr=False)
    concurrency: int = 64
    timeout: Timeout = field(default_factory=Timeout)
    pool_size: int = DEFAULT_POOL_SIZE
    max_reply_bytes: int = 64 << 20
    tune_gc: bool = True
    settings: config.Settings = field(default_factory=config.load_settings, repr=False)
    directory: ModelResolver = field(init=False, repr=False, compare=False)
    runtime: Runtime = field(init=False, repr=False, compare=False)
    _ended: Callable[[], Any] = field(default=_no_op, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the names, and make what will hold the open connections."""
        brought = self.plugins if isinstance(self.plugins, Plugins) else NO_PLUGINS  # refused below
        known = {**PROVIDERS, **brought.providers, **self.providers}
        for argument, names in (("endpoints", self.endpoints), ("limits", self.limits)):
            for name in names:
                first = name.partition("/")[0]
                if first not in known:
                    said = unknown_provider_message(first, known)
                    raise BadRequestError(InvalidRequest(path=f"{argument}[{name!r}]", message=said))
        if isinstance(self.cache, (str, Path)):
            found = cache_from_plugin(brought, str(self.cache))
            object.__setattr__(self, "cache", found if found is not None else cache_from_url(self.cache))
        object.__setattr__(self, "cache_mode", resolve_mode(self.cache_mode, CacheMode()))
        object.__setattr__(self, "middleware", resolve_middleware(brought, self.middleware))
        _validate_types(self)
        routes = routes_by_name(self.route)
        directory = ModelResolver(known, {**self.settings.endpoints, **self.endpoints}, routes)
        for candidate in {name: None for route in routes.values() for name in route.candidates}:
            directory.resolve_provider(candidate)
        object.__setattr__(self, "directory", directory)
        open_client = partial(
            Client,
            transport=TransportConfig(
                timeout=self.timeout,
                pool_size=self.pool_size,
                max_reply_bytes=self.max_reply_bytes,
                use_proxy_settings=self.settings.use_proxy_settings,
            ),
            cache=cast("Cache | None", self.cache),
            resolver=directory,
            limits=self.limits,
            adaptive=bool(self.adaptive),
            retry=self.retry,
            breaker=self.breaker,
            middleware=[to_middleware(one, directory.resolve) for one in self.middleware],
            ambiguous=self.ambiguous,
        )
        runtime = Runtime(
            open_client,
            cache_mode=cast("CacheMode", self.cache_mode),
            budget=None if self.budget_usd is None else parse_budget(self.budget_usd),
            allow_unpriced=self.allow_unpriced,
        )
        object.__setattr__(self, "runtime", runtime)
        if self.plugins.connectors:
            begun = initialize_connectors(self.plugins, self)
            object.__setattr__(self, "_ended", weakref.finalize(self, shutdown_connectors, begun))

    def target(self, model: str, *, bare: bool = False) -> Target:
        """Find whom ``provider/model`` names; with ``bare`` without asking for credentials, to plan with.

        Raises
        ------
        InvalidRequestError
            No provider is named, or none by that name is known.
        AuthFailedError
            The provider has no credentials; says which variables to set.
        """
        return self.directory.resolve(model, allow_unconfigured=bare)

    def targets(self, model: str, *, bare: bool = False) -> tuple[Target, ...]:
        """Find everybody who may answer calls for ``model``: its route's candidates, or it alone (see `target`)."""
        return self.directory.resolve_all(model, allow_unconfigured=bare)

    def plan(self, frame: Any, prompt: Any = None, *, model: Any, pilot: int = 0, **options: Any) -> Plan:
        """Say what a run would do with this hub: see `llmhub.plan`."""
        # The door stands above the hub, and is opened when somebody goes through it.
        door = importlib.import_module("llmhub.api")
        made: Plan = door.plan(frame, prompt, model=model, hub=self, pilot=pilot, **options)
        return made

    def provider(self, model: str) -> tuple[Provider, str]:
        """Find the provider that ``provider/model`` names, be there credentials or not, and its name of the model.

        Raises
        ------
        InvalidRequestError
            No provider is named, or none by that name is known.
        """
        return self.directory.resolve_provider(model)

    def __reduce__(self) -> tuple[Callable[..., Hub], tuple[dict[str, Any]]]:
        """Pickle what was said, not what is open: a process makes connections of its own."""
        return _unpickle_hub, ({field.name: getattr(self, field.name) for field in fields(self) if field.init},)

    def spending(self) -> Budget | None:
        """Give what became of the hub's budget so far; ``None`` where it has none."""
        wallet = self.runtime.shared_budget
        return wallet.budget if wallet is not None else None

    def decisions(self) -> tuple[Decision, ...]:
        """Give what the engine decided and why, oldest first: waits, retries, limits learned, circuits opened."""
        return self.runtime.decisions.read()

    def available_providers(self) -> tuple[str, ...]:
        """Name the providers that can be asked."""
        return tuple(sorted({*self.endpoints, *self.settings.endpoints}))

    def close(self) -> None:
        """Close connections and the cache; the next call opens them again."""
        self.runtime.close()
        self._ended()

    def __enter__(self) -> Self:
        """Give the hub; leaving the block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close connections and the cache."""
        self.close()


def _unpickle_hub(said: dict[str, Any]) -> Hub:
    return Hub(**said)


def _validate_types(hub: Hub) -> None:
    """Refuse what a hub cannot use when it is made, not when the first call stumbles over it."""
    address, limit = "Endpoint(base_url=...)", "Limit(rpm=...)"
    checks = (
        *((f"endpoints[{name!r}]", at, isinstance(at, Endpoint), address) for name, at in hub.endpoints.items()),
        *((f"limits[{name!r}]", most, isinstance(most, Limit), limit) for name, most in hub.limits.items()),
        *(
            (f"middleware[{at}]", one, callable(one) or is_hook(one), MIDDLEWARE_FORMS)
            for at, one in enumerate(hub.middleware)
        ),
        ("cache", hub.cache, hub.cache is None or hasattr(hub.cache, "open"), "DiskCache(path) or an address"),
        ("plugins", hub.plugins, isinstance(hub.plugins, Plugins), "load_plugins()"),
        ("ambiguous", hub.ambiguous, hub.ambiguous in AMBIGUOUS_POLICIES, " or ".join(map(repr, AMBIGUOUS_POLICIES))),
        ("breaker", hub.breaker, hub.breaker is None or isinstance(hub.breaker, Breaker), "Breaker(failures=...)"),
        ("retry", hub.retry, isinstance(hub.retry, Retry), "Retry(attempts=...)"),
        ("timeout", hub.timeout, isinstance(hub.timeout, Timeout), "Timeout(total_s=...)"),
        *((name, getattr(hub, name), _is_count(getattr(hub, name)), "a whole number from 1") for name in COUNT_FIELDS),
    )
    for path, value, good, remedy in checks:
        if not good:
            # The value itself stays unsaid unless it is a number: it may well be a key.
            shown = repr(value) if isinstance(value, (int, float)) else f"a {type(value).__name__}"
            raise BadRequestError(InvalidRequest(path=path, message=f"{shown} cannot be used; give {remedy}"))


MIDDLEWARE_FORMS: Final = "a function send -> send, or an object with on_request, on_response or on_error"
COUNT_FIELDS: Final = ("concurrency", "pool_size", "max_reply_bytes")


def _is_count(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, Integral) and int(value) >= 1


def hub_from_environment() -> Hub:
    """Make the hub that the environment describes, with a cache in the user's cache folder."""
    plugins = load_enabled_plugins()
    found = config.load_settings(plugin_providers=plugins.providers)
    return Hub(settings=found, plugins=plugins, cache=found.cache_url or found.cache_path)


def load_enabled_plugins() -> Plugins:
    """Load the plugins that are installed, as the environment wants it."""
    wanted = config.plugin_policy()
    return NO_PLUGINS if wanted == "off" else load_plugins(strict=wanted == "strict")


def hub_with_endpoints(hub: Hub, endpoints: Mapping[str, Endpoint]) -> Hub:
    """Give a hub like ``hub`` that reaches these providers elsewhere: at a simulator, say."""
    return replace(hub, endpoints={**hub.endpoints, **endpoints})
