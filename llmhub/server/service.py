"""The service: one hub for all callers, and the one way by which completions are answered for them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from returns.pipeline import is_successful
from returns.result import Failure

from llmhub.cache.memory import MemoryCache
from llmhub.cache.modes import CacheMode
from llmhub.cache.sqlite import DiskCache
from llmhub.config import load_settings
from llmhub.core.errors import ConnectorError, LLMError, PermissionDenied, ServerError, invalid, to_exception
from llmhub.core.prepared import with_model
from llmhub.core.pricing import Price, compute_cost
from llmhub.core.stream import Delta
from llmhub.core.types import CompletionRequest
from llmhub.engine.call import Answer, Call, Target
from llmhub.engine.event_loop import StopSignal
from llmhub.engine.scheduling import BULK_LANE
from llmhub.engine.spending import Budgets, TargetPrices
from llmhub.hub import Hub, load_enabled_plugins
from llmhub.observability.metrics import PrometheusCollector
from llmhub.providers.batch_prices import batch_price
from llmhub.providers.prices import provider_of_model
from llmhub.security.credentials.declared import default_credentials
from llmhub.server.access import Access, Caller
from llmhub.server.activity import Activity
from llmhub.server.context import RequestContext
from llmhub.server.deadlines import Deadlines
from llmhub.server.input_token_estimate import estimate_input_tokens
from llmhub.server.key_access import access_from_settings
from llmhub.server.lanes import Lanes
from llmhub.server.prepared_requests import PreparedRequests
from llmhub.server.routes import RouteGroup
from llmhub.server.run_views import RunSource
from llmhub.server.server_settings import ServerSettings

State: TypeAlias = Literal["starting", "ready", "draining", "stopped"]
OnDeltas: TypeAlias = Callable[[Sequence[Delta]], None]
NO_CACHE: Final = "none"
"""Value of the setting ``cache`` for a service without one."""


class Costs(NamedTuple):
    """Cost of an answer in US dollars: as billed, and without llmhub's cache."""

    billed_usd: Decimal | None
    listed_usd: Decimal | None


NO_COSTS: Final = Costs(None, None)


@dataclass(slots=True)
class Service:
    """A running service. Use it on the engine's loop only.

    Parameters
    ----------
    hub
        Sends the calls; it is closed with the service.
    settings
        Settings of the service.
    access
        Authenticates requests.
    groups
        The route groups that are served.
    metrics
        Metrics of the calls, while they are collected.
    addresses
        Addresses of the protocols beside HTTP that are served (``grpc``, ``flight``).
    activity
        What the page shows of the calls, while they are counted.
    run_sources
        Where the page finds runs and batches; the lifespan of a route group adds its own.
    resources
        What the lifespans of route groups have opened for their handlers, by type.
    """

    hub: Hub
    settings: ServerSettings
    access: Access
    groups: Sequence[RouteGroup] = ()
    metrics: PrometheusCollector | None = None
    addresses: dict[str, str] = field(default_factory=dict)
    activity: Activity | None = None
    run_sources: list[RunSource] = field(default_factory=list)
    state: State = "starting"
    active_requests: int = 0
    lanes: Lanes = field(init=False)
    prices: TargetPrices = field(default_factory=lambda: TargetPrices(time.time))
    deadlines: Deadlines = field(default_factory=Deadlines)
    prepared: PreparedRequests = field(default_factory=PreparedRequests)
    stop: StopSignal = field(default_factory=StopSignal)
    resources: dict[type[Any], Any] = field(default_factory=dict)
    _on_drain: list[Callable[[], object]] = field(default_factory=list)
    _idle: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        """Open the lanes."""
        self.lanes = Lanes(self.settings.concurrency, self.settings.max_queue)
        self._idle.set()

    @property
    def accepts_work(self) -> bool:
        """Whether new requests are answered."""
        return self.state == "ready"

    def on_drain(self, callback: Callable[[], object]) -> None:
        """Call ``callback`` on the loop when the service begins to drain: stop taking work, and save its state."""
        self._on_drain.append(callback)

    def begin_drain(self) -> None:
        """Refuse new work and report not ready; requests in progress go on."""
        if self.state in {"starting", "ready"}:
            self.state = "draining"
            for callback in tuple(self._on_drain):
                callback()

    def request_started(self) -> None:
        """Count a request in progress."""
        self.active_requests += 1
        self._idle.clear()

    def request_ended(self) -> None:
        """Uncount it."""
        self.active_requests -= 1
        if not self.active_requests:
            self._idle.set()

    async def wait_idle(self, timeout_s: float) -> bool:
        """Wait until no request is in progress; return whether that was so in time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def budgets_of(self, caller: Caller) -> Budgets | None:
        """Return the budgets that calls of a caller must fit into: its own and the hub's."""
        own, shared = caller.budgets, self.hub.runtime.shared_budget
        return own if own is None or shared is None else Budgets((*own.shared, shared), own.allow_unpriced)

    def kept_folder(self, configured: str, name: str) -> Path | None:
        """Return the folder of work that outlives the process: the configured one, or one beside the cache.

        It is ``None`` if neither is kept.
        """
        if configured:
            return Path(configured).expanduser()
        cache = self.hub.cache
        if isinstance(cache, DiskCache):
            path = Path(cache.path)
            return path.with_name(f"{path.name}-{name}")
        if cache is None or isinstance(cache, MemoryCache) or self.hub.settings.cache_path is None:
            return None
        return self.hub.settings.cache_path.with_name(f"service-{name}")

    def resolve_model(self, name: str) -> str:
        """Return ``provider/model`` for a name of the settings, a bare model name or a full one."""
        name = self.settings.models.get(name, name)
        if "/" in name or name in self.hub.resolver.routes:
            return name
        provider = provider_of_model(name, self.hub.resolver.providers)
        return f"{provider}/{name}" if provider else name

    async def send(
        self,
        request: CompletionRequest,
        context: RequestContext,
        *,
        on_deltas: OnDeltas | None = None,
        cache_mode: CacheMode | str | None = None,
        target: Target | None = None,
    ) -> Answer:
        """Answer a completion for a caller: from the cache, from an equal call in flight, or from the provider.

        Cancelling it cancels the provider's request. Every failure is an outcome, not an exception.

        Parameters
        ----------
        request
            The request, with ``provider/model`` or a name that `resolve_model` knows.
        context
            Whose request it is, and in which lane it waits.
        on_deltas
            Called with the content of a stream as it arrives. A response of the cache is not passed to it.
        cache_mode
            Overrides that of the hub.
        target
            The target of the request's model, if `target` has returned it already.
        """
        if target is None:
            try:
                target = self.target(request.model, context)
            except ConnectorError as error:
                return Answer(Failure(error.error))
        counted, refusal = await self.admit(request, context)
        if refusal is not None:
            return Answer(Failure(refusal))
        request = with_model(request, target.model)
        call = Call(
            target,
            request,
            prepared=self.prepared.find(target, request) if on_deltas is None else None,
            budgets=self.budgets_of(context.caller),
            requested_target=target,
            on_deltas=on_deltas,
            cache_scope=context.caller.cache_scope,
        )
        if context.lane == "bulk":
            BULK_LANE.set(True)
        slot = await self.lanes.acquire(context)
        if slot is not None:
            return Answer(Failure(slot))
        try:
            run_id = random.randbytes(16)  # noqa: S311 - an id, no secret
            result = await self.hub.runtime.send(call, self.stop, cache_mode=cache_mode, run_id=run_id)
        finally:
            self.lanes.release(context)
        if result.stopped_by_store_failure:
            return Answer(Failure(ServerError(message=f"the cache failed: {result.store_error}", should_retry=True)))
        self.charge(counted, result.answer, context)
        return result.answer

    async def admit(self, request: CompletionRequest, context: RequestContext) -> tuple[int, LLMError | None]:
        """Count a request in the caller's rate limits; return the tokens counted, and the error of one too many.

        A bulk call waits until it is admitted.
        """
        limits = context.caller.limits
        tokens = estimate_input_tokens(request) if limits is not None and limits.counts_tokens else 0
        return tokens, await self.admit_tokens(tokens, context)

    async def admit_tokens(self, tokens: int, context: RequestContext) -> LLMError | None:
        """Count a request of so many tokens in the caller's rate limits; return the error of one too many."""
        limits = context.caller.limits
        if limits is None:
            return None
        loop = asyncio.get_running_loop()
        while True:
            refusal = await limits.admit(tokens)
            if refusal is None or context.lane != "bulk" or refusal.retry_after_s is None:
                return refusal
            if loop.time() + refusal.retry_after_s > context.deadline:
                return refusal
            await asyncio.sleep(refusal.retry_after_s)

    def charge(self, counted: int, answer: Answer, context: RequestContext) -> None:
        """Count the tokens of an answer in the caller's rate limits, in place of those that `admit` has counted."""
        if counted and context.caller.limits is not None and is_successful(answer.outcome):
            usage = answer.outcome.unwrap().usage
            used = 0 if answer.cache_hit else (usage.input_tokens or 0) + (usage.output_tokens or 0)
            context.caller.limits.charge(used - counted)

    def costs(self, target: Target, answer: Answer) -> Costs:
        """Return the cost of an answer as billed and at list price; ``None`` where a price is unknown."""
        if not is_successful(answer.outcome):
            return NO_COSTS
        served_by, response = answer.target or target, answer.outcome.unwrap()
        listed = compute_cost(response.usage, self.prices.lookup(served_by, response.served_model))
        if answer.cache_hit:
            return Costs(Decimal(0), listed)
        if answer.mode == "batch":
            return Costs(compute_cost(response.usage, self.batch_price(served_by, response.served_model)), listed)
        if not answer.billed_failures:
            return Costs(listed, listed)
        billed = [listed]
        billed += [compute_cost(each.usage, self.prices.lookup(each.target)) for each in answer.billed_failures]
        known = [cost for cost in billed if cost is not None]
        return Costs(sum(known, Decimal(0)) if len(known) == len(billed) else None, listed)

    def batch_price(self, target: Target, served_model: str = "") -> Price | None:
        """Return the price of a row of a provider's batch; that of a call if batches have none of their own."""
        full = self.prices.lookup(target, served_model)
        return batch_price(target.provider.name, target.model, full) or full

    def target(self, model: str, context: RequestContext) -> Target:
        """Return the target of a model's name.

        Raises
        ------
        ConnectorError
            There is no such model, it has no credentials, or the caller may not use it.
        """
        if not model:
            raise invalid("model", "missing; pass 'provider/model'")
        name = self.resolve_model(model)
        target = self.hub.target(name)
        if not context.caller.may_use(target.name):
            message = f"the key {context.key_id} may not use {target.name!r}"
            raise to_exception(PermissionDenied(path="model", message=message))
        return target


def open_service(settings: ServerSettings, config_file: Path | None = None) -> Service:
    """Return the service that settings, ``llmhub.toml`` and the environment describe.

    Raises
    ------
    BadRequestError
        A setting is wrong, or the service would be open to other machines without keys.
    """
    plugins = load_enabled_plugins()
    environment = load_settings(plugin_providers=plugins.providers, file=config_file)
    access = access_from_settings(settings, environment.cache_url)
    cache = settings.cache or environment.cache_url or environment.cache_path
    hub = Hub(
        settings=environment,
        plugins=plugins,
        simulator=settings.simulator or None,
        cache=None if cache == NO_CACHE else cache,
        credentials=None if settings.simulator else default_credentials(environment, plugins.credentials),
        limits={name: limit.to_limit() for name, limit in settings.limits.items()},
        concurrency=settings.concurrency,
        pool_size=max(settings.concurrency, 1024),
        local_files=False,
        redact=settings.redact,
    )
    return Service(hub, settings, access)
