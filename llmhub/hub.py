"""The hub: one immutable value that holds providers, credentials, cache and policies of calls.

The file is long because every field of a hub is documented and validated beside it.
"""

from __future__ import annotations

import importlib
import os
import secrets
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal
from functools import lru_cache, partial
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeAlias, cast, get_args

from llmhub import config
from llmhub.cache.modes import CacheMode, resolve_mode
from llmhub.cache.sqlite import DiskCache, is_unwritable_file
from llmhub.cache.store import Cache, has_ledger
from llmhub.cache.urls import cache_from_url
from llmhub.core.budget import Budget, parse_budget
from llmhub.core.errors import BadRequestError, invalid
from llmhub.core.provider import Endpoint, Provider
from llmhub.core.proxies import NO_PROXIES
from llmhub.core.secret import Secret
from llmhub.engine.call import Middleware, Target
from llmhub.engine.circuit_breaker import Breaker
from llmhub.engine.client import Client
from llmhub.engine.credential_manager import CredentialPolicy
from llmhub.engine.decision_log import Decision
from llmhub.engine.hooks import is_hook, to_middleware
from llmhub.engine.limits import Limit
from llmhub.engine.model_resolver import ModelResolver, routes_by_name, unknown_provider_message
from llmhub.engine.observer import Observers
from llmhub.engine.retry import Retry
from llmhub.engine.routing_policy import Route
from llmhub.engine.runtime import Runtime
from llmhub.engine.spending import SharedBudget
from llmhub.engine.store_budget import StoreBudget
from llmhub.engine.transport import Timeout, TransportConfig
from llmhub.engine.write_ahead import AMBIGUOUS_POLICIES, NO_LEDGER, AmbiguousPolicy
from llmhub.observability.logging import configure_from_setting
from llmhub.observability.metrics import metrics_dispatcher
from llmhub.observability.subscriptions import current_observers, observers_and
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
from llmhub.security.credentials.credential_store import (
    CredentialSource,
    SettingsCredentials,
    credential_sources,
    credentials_of,
    export_source,
    import_source,
    known_providers,
)
from llmhub.security.credentials.declared import default_credentials
from llmhub.security.redaction import Redactor, resolve_redactor

if TYPE_CHECKING:
    from llmhub.tables.plan import Plan

DEFAULT_POOL_SIZE: Final = 1024
"""Connections per provider."""
MIDDLEWARE_FORMS: Final = "a function send -> send, or an object with on_request, on_response or on_error"
PickledKeys: TypeAlias = Literal["worker", "carry"]
"""What a pickled hub says about credentials."""
CredentialArgument: TypeAlias = (
    CredentialSource | Callable[[str], Any] | str | Sequence[CredentialSource | Callable[[str], Any] | str] | None
)
"""What `Hub` takes as ``credentials``."""
SERVICE_DECIDES: Final = (
    *("endpoints", "simulator", "cache", "limits", "route", "middleware", "budget_usd", "allow_unpriced", "providers"),
    *("credentials", "redact"),
)
"""Fields that a hub with a service cannot set."""
COUNT_FIELDS: Final = ("concurrency", "pool_size", "max_reply_bytes")
"""Fields that must be integers from 1."""


def _no_op() -> None:
    return None


@lru_cache(maxsize=1)
def process_job(_pid: int) -> str:
    """Return the name of the job of a process and of those to which it pickles its hubs."""
    return secrets.token_hex(8)


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
class Hub:
    """Providers, credentials, cache and policies: everything that decides how calls are made.

    A hub is immutable and can be pickled; connections and the cache are opened at first use. A pickle contains no key:
    the process that unpickles it reads its own variables and settings (see ``keys``). Equal hubs that a process
    unpickles share connections, limits and cache.

    Parameters
    ----------
    endpoints
        Base URL and credentials by provider. An entry replaces what the environment says about that provider.
    simulator
        Address of a running simulator (``llmhub sim``), such as ``"http://127.0.0.1:8000"``. It answers for every
        provider, whatever the environment says; entries of ``endpoints`` take precedence. Its responses are cached
        under other keys and names than real ones.
    cache
        Where responses are stored: `DiskCache`, `MemoryCache`, `RedisCache`, `TieredCache`, the URL of one
        (``sqlite:///runs.db``, ``redis://localhost:6379/0``: see `llmhub.cache.urls.cache_from_url`), or ``None``.
    cache_mode
        How the cache is used: a `CacheMode`, or its name (``read-only``, ``refresh``, ...). A call may override it
        (``cache="refresh"``).
    limits
        `Limit` by provider (``openai``) or model (``openai/gpt-4o-mini``); where both are given, both apply. Processes
        with the same cache use them together (see `Limit`).
    adaptive
        Whether to adapt concurrency and pace to providers that declare no limit, starting slowly and backing off when
        a provider refuses requests.
    breaker
        When to stop sending to a provider that keeps failing, until a probe succeeds; ``None`` never stops.
    retry
        When to retry.
    route
        Which of several candidate models to call: `Failover`, `RoundRobin`, `LowLatency`, `CostOptimized`, `Weighted`,
        or a `Route` with a ranking of your own. A single route applies to every call for one of its candidates. A
        mapping names routes: ``model="fast"`` uses the route of that name. The ``served_model`` column tells which
        model answered.
    middleware
        Functions ``send -> send`` around every call, outermost first; or hooks, objects with ``on_request``,
        ``on_response`` or ``on_error``; or names of installed plugins.
    budget_usd
        Maximum cost in USD of all calls of this hub, in all processes of ``n_jobs``. A call that could exceed it is not
        sent. A copy of a pickle may spend what was left when it was pickled.
    allow_unpriced
        With a budget, whether to send calls of unknown price without counting them, instead of refusing them.
    ambiguous
        What to do with a request sent by a process that died before the response arrived, and which may have been
        charged: ``"resend"`` sends it again and warns, ``"error"`` fails it. Needs a cache with a ledger: `DiskCache`,
        or a `TieredCache` with one.
    credentials
        Where credentials are read, for providers without any in ``endpoints``: a source such as
        `llmhub.credentials.VaultCredentials`, a function of the provider's name that returns a key, the name of a
        plugin, or a list of these, asked in order. They take precedence over the environment's. A provider's refusal
        (401) asks them again, once: a rotated key needs no restart. Without it, keys of the environment, ``.env`` and
        ``llmhub.toml`` are read again after a refusal.
    providers
        Additional providers by name.
    plugins
        Extensions by other distributions, from `llmhub.load_plugins`. The default hub loads those installed, unless
        ``LLMHUB_PLUGINS=off``; with ``LLMHUB_PLUGINS=strict`` a broken plugin is an error.
    concurrency
        Default number of calls in flight at once.
    timeout
        How long to wait for a connection and for a response.
    pool_size
        Maximum number of connections per provider.
    max_reply_bytes
        Maximum size of a response; a larger one is an error.
    tune_gc
        Whether a run over more than 256 rows raises the threshold of Python's garbage collector until it ends, if the
        program has left it at its default (see `llmhub.engine.gc_tuning`). Saves up to a sixth of a run's time.
    redact
        What requests send as placeholders, which are put back into the answers: ``True`` for credentials and personal
        data of every kind that `llmhub.security.redaction` recognizes, names of kinds (``["EMAIL_ADDRESS",
        "IBAN_CODE"]``), or a `Redactor` with patterns of your own. Cache and ledger hold the placeholders only. Texts
        to embed are redacted for good.
    keys
        What a pickle of this hub says about credentials. ``"worker"``: nothing; the process that unpickles it uses its
        own environment and settings. ``"carry"``: all of them, so that the pickle is as secret as they are.
    job
        Name of the job that this hub works for. Jobs that share a limit get equal shares of it, however many processes
        each has. By default, the process that made the hub and those to which it was pickled are one job.
    local_files
        Whether paths in ``images=`` are read: ``True``, ``False``, or the folder in which they are, for data that you
        do not trust. Relative paths begin in that folder.
    settings
        Settings of the environment; read if not given.
    service
        Address of a service (``llmhub serve``) that makes all calls, such as ``"https://llm.team.example"``: with the
        credentials, cache, limits and budgets of the team. Tables are sent as runs, which go on there if this process
        ends, and which an equal call attaches to. Nothing but ``service_key``, ``timeout``, ``retry``, ``concurrency``,
        ``pool_size``, ``max_reply_bytes`` and ``local_files`` can be set beside it.
    service_key
        Key for the service, which is never shown; that in ``LLMHUB_SERVICE_KEY`` if not given.

    Examples
    --------
    >>> hub = Hub(endpoints={"openai": Endpoint(base_url="http://localhost:8000/v1", api_key="secret")})
    >>> hub.target("openai/gpt-4o-mini").model
    'gpt-4o-mini'
    """

    endpoints: Mapping[str, Endpoint] = field(default_factory=dict)
    simulator: str | None = None
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
    credentials: CredentialArgument = None
    providers: Mapping[str, Provider] = field(default_factory=dict)
    plugins: Plugins = field(default=NO_PLUGINS, repr=False)
    concurrency: int = 64
    timeout: Timeout = field(default_factory=Timeout)
    pool_size: int = DEFAULT_POOL_SIZE
    max_reply_bytes: int = 64 << 20
    tune_gc: bool = True
    local_files: bool | str | os.PathLike[str] = True
    redact: bool | str | Sequence[str] | Redactor | None = None
    keys: PickledKeys = "worker"
    job: str = field(default_factory=lambda: process_job(os.getpid()), repr=False)
    settings: config.Settings = field(default_factory=config.load_settings, repr=False)
    service: str | None = None
    service_key: str | Secret | None = field(default=None, repr=False)
    resolver: ModelResolver = field(init=False, repr=False, compare=False)
    runtime: Runtime = field(init=False, repr=False, compare=False)
    _is_copy: bool = field(default=False, init=False, repr=False, compare=False)
    _identity: str = field(default_factory=lambda: secrets.token_hex(8), init=False, repr=False, compare=False)
    _shutdown_plugins: Callable[[], Any] = field(default=_no_op, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Validate the fields, and build the resolver and the runtime."""
        plugins = self.plugins if isinstance(self.plugins, Plugins) else NO_PLUGINS  # rejected by _validate_types
        known = {**PROVIDERS, **plugins.providers, **self.providers}
        if self.service is not None:
            known = self._use_service(self.service)
        _validate_names(self, known)
        if isinstance(self.cache, (str, Path)):
            plugin_cache = cache_from_plugin(plugins, str(self.cache))
            object.__setattr__(self, "cache", cache_from_url(self.cache) if plugin_cache is None else plugin_cache)
        object.__setattr__(self, "cache_mode", resolve_mode(self.cache_mode, CacheMode()))
        if isinstance(self.cache, DiskCache) and is_unwritable_file(self.cache.path):
            is_read_only = not cast("CacheMode", self.cache_mode).writes
            object.__setattr__(self, "cache", replace(self.cache, read_only=self.cache.read_only or is_read_only))
        object.__setattr__(self, "middleware", resolve_middleware(plugins, self.middleware))
        object.__setattr__(self, "redact", resolve_redactor(self.redact))
        _validate_types(self)
        if self.ambiguous == "error" and has_ledger(cast("Cache | None", self.cache)) is False:
            raise invalid("ambiguous", NO_LEDGER)
        sources = credential_sources(self.credentials, plugins.credentials)
        object.__setattr__(self, "credentials", sources)
        routes = routes_by_name(self.route)
        stored = known_providers(sources)
        partial_endpoints = {} if self.simulator is not None else self.settings.partial_endpoints
        completed = {name: value for name, value in partial_endpoints.items() if stored is None or name in stored}
        endpoints = {**completed, **self._default_endpoints(), **self.endpoints}
        resolver = ModelResolver(
            known,
            endpoints,
            routes,
            is_simulated=self.simulator is not None,
            stored_providers=stored,
        )
        for candidate in {name: None for route in routes.values() for name in route.candidates}:
            resolver.resolve_provider(candidate)
        object.__setattr__(self, "resolver", resolver)
        object.__setattr__(self, "runtime", self._make_runtime())
        if self.plugins.connectors:
            initialized = initialize_connectors(self.plugins, self)
            object.__setattr__(self, "_shutdown_plugins", weakref.finalize(self, shutdown_connectors, initialized))

    def _use_service(self, service: str) -> dict[str, Provider]:
        """Validate the address of the service, keep its key hidden, and return the providers that it stands for."""
        from llmhub.providers.hub_service import service_providers  # noqa: PLC0415 - for the hubs of a service only

        given: object = service
        if not isinstance(given, str) or not given.startswith(("http://", "https://")) or "@" in given:
            shown = repr(given) if isinstance(given, str) and "@" not in given else type(given).__name__
            raise invalid(
                "service", f"must be the address of a service, such as 'https://llm.example', not {shown:.80}"
            )
        object.__setattr__(self, "service", given.rstrip("/"))
        object.__setattr__(self, "service_key", _service_secret(self.service_key))
        name = next((name for name in SERVICE_DECIDES if getattr(self, name)), None)
        if name is not None:
            raise invalid(name, "is decided by the service; omit it, or omit service")
        object.__setattr__(self, "credentials", ())
        return dict(service_providers())

    def _default_endpoints(self) -> Mapping[str, Endpoint]:
        """Return the endpoints of the service or the simulator, or those of the environment."""
        if self.service is not None:
            endpoint = Endpoint(base_url=f"{self.service}/v1", api_key=self.service_key or "")
            return dict.fromkeys(PROVIDERS, endpoint)
        if self.simulator is None:
            return self.settings.endpoints
        from llmhub.sim.threaded import endpoints  # noqa: PLC0415 - a server, which few hubs need

        try:
            return endpoints(self.simulator)
        except BadRequestError as error:
            raise invalid("simulator", error.error.message) from None

    def _make_runtime(self) -> Runtime:
        configure_from_setting(config.log_setting())
        observers: Observers = current_observers
        if self.plugins.metrics:
            observers = observers_and(metrics_dispatcher(tuple(self.plugins.metrics.values())).subscription)
        open_client = partial(
            Client,
            transport=TransportConfig(
                timeout=self.timeout,
                pool_size=self.pool_size,
                max_reply_bytes=self.max_reply_bytes,
                proxies=self.settings.proxies if self.simulator is None else NO_PROXIES,
                ca_file=self.settings.ca_file,
            ),
            cache=cast("Cache | None", self.cache),
            resolver=self.resolver,
            limits=self.limits,
            adaptive=bool(self.adaptive),
            retry=self.retry,
            breaker=self.breaker,
            middleware=[to_middleware(item, self.resolver.resolve) for item in self.middleware],
            ambiguous=self.ambiguous,
            job=self.job,
            redactor=self.redactor,
            credentials=self._credential_policy(),
        )
        return Runtime(
            open_client,
            cache_mode=cast("CacheMode", self.cache_mode),
            budget=None if self.budget_usd is None else parse_budget(self.budget_usd),
            allow_unpriced=self.allow_unpriced,
            observers=observers,
        )

    @property
    def redactor(self) -> Redactor | None:
        """The redactor of requests; ``None`` without."""
        return cast("Redactor | None", self.redact)

    def _credential_policy(self) -> CredentialPolicy:
        """Return where credentials are read, and for which endpoints."""
        sources = cast("tuple[CredentialSource, ...]", self.credentials)
        # A key of the environment goes to no address that an endpoint in code has in place of the environment's.
        own = {name for name, endpoint in self.endpoints.items() if not sources or credentials_of(endpoint)}
        read = {} if self.simulator is not None else self.settings.endpoints
        with_source = {name for name, names in self.settings.sources.items() if names and self.settings.files}
        named = with_source & set(read) - set(self.endpoints)
        refreshed = {name: read[name].base_url for name in named}
        return CredentialPolicy(
            sources=sources,
            fallback=SettingsCredentials(files=self.settings.files, addresses=refreshed),
            own=frozenset(own),
            refreshed=frozenset(refreshed),
        )

    def target(self, model: str, *, allow_unconfigured: bool = False) -> Target:
        """Return the provider, endpoint and model that ``provider/model`` stands for.

        Parameters
        ----------
        model
            ``provider/model``, or the name of a route.
        allow_unconfigured
            Accept a provider without credentials, for planning.

        Raises
        ------
        BadRequestError
            ``model`` names no provider, or an unknown one.
        AuthenticationError
            The provider has no credentials; the message names the variables to set.
        """
        return self.resolver.resolve(model, allow_unconfigured=allow_unconfigured)

    def targets(self, model: str, *, allow_unconfigured: bool = False) -> tuple[Target, ...]:
        """Return the targets that may answer calls for ``model``: the candidates of its route, or the one target."""
        return self.resolver.resolve_all(model, allow_unconfigured=allow_unconfigured)

    def plan(self, frame: Any, prompt: Any = None, *, model: Any, pilot: int = 0, **options: Any) -> Plan:
        """Estimate tokens, cost, duration and cache hits of a run with this hub (see `llmhub.plan`)."""
        api = importlib.import_module("llmhub.api")  # a layer above the hub
        plan: Plan = api.plan(frame, prompt, model=model, hub=self, pilot=pilot, **options)
        return plan

    def provider(self, model: str) -> tuple[Provider, str]:
        """Return the provider of ``provider/model``, with or without credentials, and its own name of the model.

        Raises
        ------
        BadRequestError
            ``model`` names no provider, or an unknown one.
        """
        return self.resolver.resolve_provider(model)

    def __reduce__(self) -> tuple[Callable[..., Hub], tuple[dict[str, Any]]]:
        """Pickle the arguments and what is spent of the budget; another process opens its own connections.

        A copy may spend what was left when it was pickled. It does not know what this hub and other copies spend later:
        runs with ``n_jobs`` share one budget, and so do the workers of a `llmhub.distributed.job` that share a cache;
        copies that a program sends to processes by itself do not.

        A pickle has no credentials, unless ``keys="carry"``: the other process reads its own. Equal copies in one
        process share one runtime.
        """
        return _unpickle_hub, (_pickled_arguments(self, carry=self.keys == "carry"),)

    def __copy__(self) -> Self:
        """Return the hub itself, which is immutable."""
        return self

    def __deepcopy__(self, _memo: object) -> Self:
        """Return the hub itself, which is immutable."""
        return self

    def spending(self) -> Budget | None:
        """Return the state of the hub's budget; ``None`` without one.

        It includes what processes of ``n_jobs`` have spent, and workers of a job up to its latest ``progress()``.
        """
        shared = self.runtime.shared_budget
        return shared.budget if shared is not None else None

    def decisions(self) -> tuple[Decision, ...]:
        """Return the logged decisions of the engine, oldest first: waits, retries, learned limits, open circuits."""
        return self.runtime.decisions.read()

    def available_providers(self) -> tuple[str, ...]:
        """Return the names of the providers with an endpoint, or with credentials in a store that lists them."""
        stored = self.resolver.stored_providers or frozenset()
        return tuple(sorted({name.partition("/")[0] for name in self.resolver.endpoints} | stored))

    def close(self) -> None:
        """Stop its plugins, and close connections and the cache. The next call opens connections and cache again."""
        self._shutdown_plugins()  # first, since they may complete calls
        self.runtime.close()

    def __enter__(self) -> Self:
        """Return the hub; leaving the block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close connections and the cache."""
        self.close()


@dataclass(frozen=True, slots=True)
class PortableHub:
    """A hub that is pickled with all its credentials, for processes that this one starts and sends it to directly.

    Those may have been started before a variable was set, so that their environment lacks it.
    """

    hub: Hub

    def __reduce__(self) -> tuple[Callable[..., PortableHub], tuple[dict[str, Any]]]:
        """Pickle the arguments of the hub, credentials included."""
        return _unpickle_portable_hub, (_pickled_arguments(self.hub, carry=True),)


def _pickled_arguments(hub: Hub, *, carry: bool) -> dict[str, Any]:
    arguments = {field.name: getattr(hub, field.name) for field in fields(hub) if field.init}
    arguments["endpoints"] = {
        name: config.export_endpoint(name, endpoint, carry=carry) for name, endpoint in hub.endpoints.items()
    }
    sources = cast("tuple[CredentialSource, ...]", hub.credentials)
    arguments["credentials"] = [export_source(source, carry=carry) for source in sources]
    arguments["settings"] = config.export_settings(hub.settings, carry=carry)
    key = hub.service_key
    arguments["service_key"] = key.reveal() if carry and isinstance(key, Secret) and key else None
    arguments[IDENTITY] = hub._identity  # noqa: SLF001 - of this module
    shared = hub.runtime.shared_budget
    if isinstance(shared, StoreBudget) and hub.budget_usd is not None:
        arguments[SPENT] = parse_budget(hub.budget_usd).limit - shared.whole.limit
    elif shared is not None:
        arguments[SPENT] = shared.budget.spent + shared.budget.reserved  # calls in flight may be charged in full
        arguments[SPENT_BY_COPIES] = shared.spent_by_copies
    return arguments


SPENT: Final = "spent_nano_usd"
"""Key of a pickle: what the hub had spent of its budget."""
SPENT_BY_COPIES: Final = "spent_by_copies_nano_usd"
"""Key of a pickle: how much of that copies have spent, which is in the store."""
IDENTITY: Final = "identity"
"""Key of a pickle: the hub that it is a copy of."""


def _unpickle_hub(arguments: dict[str, Any]) -> Hub:
    """Return the hub of a pickle: an equal one that was unpickled in this process before, or a new one."""
    spent, by_copies = arguments.pop(SPENT, 0), arguments.pop(SPENT_BY_COPIES, 0)
    identity = arguments.pop(IDENTITY, "")
    endpoints = {name: config.import_endpoint(values) for name, values in arguments["endpoints"].items()}
    settings = config.import_settings(arguments["settings"])
    sources = tuple(import_source(exported) for exported in arguments["credentials"])
    hub = Hub(**{**arguments, "endpoints": endpoints, "credentials": sources, "settings": settings})
    object.__setattr__(hub, "_identity", identity)
    object.__setattr__(hub, "_is_copy", True)
    shared = hub.runtime.shared_budget
    if shared is not None:
        shared.budget, shared.spent_by_copies = replace(shared.budget, spent=spent), by_copies
    return _UNPICKLED.intern(hub, spent, by_copies)


MAX_UNPICKLED_HUBS: Final = 8
"""Unpickled hubs that are kept open."""


class _UnpickledHubs:
    """The hubs that this process unpickled, the latest ones, so that equal ones share connections, limits and budget.

    An engine that ships a function with each task would otherwise open all connections again for each.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hubs: deque[tuple[Hub, int, int]] = deque(maxlen=MAX_UNPICKLED_HUBS)

    def intern(self, hub: Hub, spent: int, by_copies: int) -> Hub:
        """Return the equal hub that is known, or ``hub``; what was spent, also by copies, is what its pickle says."""
        with self._lock:
            for index, (known, *before) in enumerate(self._hubs):
                if not _is_same(known, hub):
                    continue
                shared = known.runtime.shared_budget
                # What was spent elsewhere since the earlier pickle; what copies have spent is in the store.
                if isinstance(shared, StoreBudget):
                    spent_since = max(spent - by_copies - before[0] + before[1], 0)
                    shared.whole = replace(shared.whole, limit=max(shared.whole.limit - spent_since, 0))
                elif shared is not None and spent > before[0]:
                    shared.budget = replace(shared.budget, spent=shared.budget.spent + spent - before[0])
                    shared.spent_by_copies = by_copies
                del self._hubs[index]
                self._hubs.append((known, *((spent, by_copies) if spent > before[0] else before)))
                return known
            self._hubs.append((hub, spent, by_copies))
            return hub

    def share_budget(self, hub: Hub) -> StoreBudget | None:
        """Return the budget of a copy, booked in the store from now on; ``None`` without one, or without a store."""
        with self._lock:
            shared, limits = hub.runtime.shared_budget, hub.runtime.shared_limits
            if shared is None or limits is None or not hub._is_copy:  # noqa: SLF001 - of this module
                return None
            if not isinstance(shared, StoreBudget):
                left = shared.budget.limit - shared.budget.spent + shared.spent_by_copies
                shared = StoreBudget(limits.limiter, budget_of_copies(hub), Budget(max(left, 0)))
                hub.runtime.use_budget(shared)
            return shared

    def reset_after_fork(self) -> None:
        """Make a new lock: another thread of the parent may hold it."""
        self._lock = threading.Lock()


def _is_same(known: Hub, hub: Hub) -> bool:
    """Return whether two unpickled hubs may share a runtime.

    Functions that are pickled by value, such as a middleware of a notebook, are never equal; then the hub that both are
    copies of decides.
    """
    if known == hub:
        return True
    same_origin = known._identity == hub._identity != ""  # noqa: SLF001 - of this module
    return same_origin and known.endpoints == hub.endpoints and known.settings == hub.settings


_UNPICKLED: Final = _UnpickledHubs()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_UNPICKLED.reset_after_fork)


def _unpickle_portable_hub(arguments: dict[str, Any]) -> PortableHub:
    return PortableHub(_unpickle_hub(arguments))


def _service_secret(key: object) -> Secret:
    """Return the key for a service, given or of the environment, so that it is not shown from here on."""
    if key is None:
        return Secret(config.service_key(), source="LLMHUB_SERVICE_KEY")
    if not isinstance(key, (str, Secret)):
        raise invalid("service_key", f"must be a string, not {type(key).__name__}")
    return key if isinstance(key, Secret) else Secret(key)


def _validate_names(hub: Hub, known: Mapping[str, Provider]) -> None:
    """Raise for endpoints and limits of unknown providers."""
    for argument, names in (("endpoints", hub.endpoints), ("limits", hub.limits)):
        for name in names:
            provider = name.partition("/")[0]
            if provider not in known:
                raise invalid(f"{argument}[{name!r}]", unknown_provider_message(provider, known))


def _validate_types(hub: Hub) -> None:
    """Raise for values of a wrong type when the hub is made, rather than at the first call."""
    endpoint, limit = "Endpoint(base_url=...)", "Limit(rpm=...)"
    policies = " or ".join(map(repr, AMBIGUOUS_POLICIES))
    checks = (
        *(
            (f"endpoints[{name!r}]", value, isinstance(value, Endpoint), endpoint)
            for name, value in hub.endpoints.items()
        ),
        *((f"limits[{name!r}]", value, isinstance(value, Limit), limit) for name, value in hub.limits.items()),
        *(
            (f"middleware[{index}]", item, callable(item) or is_hook(item), MIDDLEWARE_FORMS)
            for index, item in enumerate(hub.middleware)
        ),
        (
            "cache",
            hub.cache,
            hub.cache is None or hasattr(hub.cache, "open"),
            "a cache, or the URL of one",
        ),
        ("plugins", hub.plugins, isinstance(hub.plugins, Plugins), "load_plugins()"),
        ("ambiguous", hub.ambiguous, hub.ambiguous in AMBIGUOUS_POLICIES, policies),
        ("keys", hub.keys, hub.keys in get_args(PickledKeys), "'worker' or 'carry'"),
        ("job", hub.job, isinstance(hub.job, str), "a name"),
        ("breaker", hub.breaker, hub.breaker is None or isinstance(hub.breaker, Breaker), "Breaker(failures=...)"),
        ("retry", hub.retry, isinstance(hub.retry, Retry), "Retry(attempts=...)"),
        (
            "local_files",
            hub.local_files,
            isinstance(hub.local_files, (bool, str, os.PathLike)) and hub.local_files != "",
            "True, False or a folder",
        ),
        ("timeout", hub.timeout, isinstance(hub.timeout, Timeout), "Timeout(total_s=...)"),
        *((name, getattr(hub, name), _is_count(getattr(hub, name)), "an integer from 1") for name in COUNT_FIELDS),
    )
    for path, value, is_valid, expected in checks:
        if not is_valid:
            # Only numbers are shown: any other value may be a key.
            shown = repr(value) if isinstance(value, (int, float)) else f"a value of type {type(value).__name__}"
            raise invalid(path, f"must be {expected}, not {shown}")


def _is_count(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, Integral) and int(value) >= 1


def hub_from_environment() -> Hub:
    """Return the hub that the environment describes, with a cache in the user's cache folder."""
    plugins = load_enabled_plugins()
    settings = config.load_settings(plugin_providers=plugins.providers)
    cache = settings.cache_url or settings.cache_path
    return Hub(
        settings=settings, plugins=plugins, cache=cache, credentials=default_credentials(settings, plugins.credentials)
    )


def load_enabled_plugins() -> Plugins:
    """Load the installed plugins as ``LLMHUB_PLUGINS`` says."""
    policy = config.plugin_policy()
    return NO_PLUGINS if policy == "off" else load_plugins(strict=policy == "strict")


def budget_of_copies(hub: Hub) -> str:
    """Return the name in a store of the budget that all copies of a hub share."""
    return f"hub {hub._identity}"  # noqa: SLF001 - of this module


def share_budget_of_copies(hub: Hub) -> StoreBudget | None:
    """Return the budget of a hub that was unpickled, which it shares with all other copies from now on.

    ``None`` for a hub without a budget or a shared cache, and for one that is not a copy.
    """
    return _UNPICKLED.share_budget(hub)


def hub_with_keys(hub: Hub, keys: PickledKeys) -> Hub:
    """Return a hub that is pickled in another way, with the runtime and the budget of ``hub``."""
    view = replace(hub, keys=keys)
    for name in ("_identity", "_is_copy"):
        object.__setattr__(view, name, getattr(hub, name))
    view.runtime.share_client(hub.runtime)
    if hub.runtime.shared_budget is not None:
        view.runtime.use_budget(hub.runtime.shared_budget)
    return view


def hub_with_budget(hub: Hub, budget: SharedBudget) -> Hub:
    """Return a hub with the runtime of ``hub`` and another budget in place of its own."""
    view = replace(hub, budget_usd=budget.budget.limit_usd)
    view.runtime.share_client(hub.runtime)
    view.runtime.use_budget(budget)
    return view


def hub_with_endpoints(hub: Hub, endpoints: Mapping[str, Endpoint]) -> Hub:
    """Return a copy of ``hub`` with other endpoints for some providers, such as a simulator's."""
    return replace(hub, endpoints={**hub.endpoints, **endpoints})
