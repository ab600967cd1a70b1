"""Resolution of model names: ``provider/model`` or a route to the targets that can answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from llmhub.core.errors import AuthenticationError, AuthFailed, Hint, invalid
from llmhub.core.provider import Endpoint, HttpRequest, Provider
from llmhub.engine.call import Target
from llmhub.engine.routing import ResolvedRoute
from llmhub.engine.routing_policy import Route
from llmhub.providers.prices import provider_of_model
from llmhub.providers.registry import PROVIDER_ALIASES

ROUTE_PROVIDER: Final = "route"
"""The provider of routes with names of their own: ``route/fast``."""


@dataclass(frozen=True, slots=True)
class ModelResolver:
    """Resolves model names to targets.

    ``allow_unconfigured`` in its methods permits missing credentials and addresses, for calls that are not sent.

    Parameters
    ----------
    providers
        All known providers by name.
    endpoints
        The configured endpoints by provider name, or by ``provider/model`` for a single model.
    routes
        Routes by the name they are requested under: a name of their own, or ``provider/model``.
    is_simulated
        Whether providers without an endpoint are refused, because a simulator takes the place of all providers.
    stored_providers
        Providers whose credentials are in a credential store; ``None`` if that is not known before one is asked.
    """

    providers: Mapping[str, Provider]
    endpoints: Mapping[str, Endpoint]
    routes: Mapping[str, Route] = field(default_factory=dict)
    is_simulated: bool = False
    stored_providers: frozenset[str] | None = frozenset()
    _resolved: dict[str, ResolvedRoute | None] = field(default_factory=dict, init=False, repr=False, compare=False)

    def resolve(self, model: str, *, allow_unconfigured: bool = False) -> Target:
        """Return the target of ``provider/model``, or a placeholder target for a route with a name of its own.

        Raises
        ------
        BadRequestError
            The name has no provider, or an unknown one.
        AuthenticationError
            The provider has no credentials; the hint names the variables to set.
        """
        route = self.resolve_route(model, allow_unconfigured=allow_unconfigured) if self._is_route_name(model) else None
        return _route_target(route) if route is not None else self._target(model, allow_unconfigured=allow_unconfigured)

    def resolve_all(self, model: str, *, allow_unconfigured: bool = False) -> tuple[Target, ...]:
        """Return all targets that may answer calls for ``model``: the candidates of its route, or its own target."""
        route = self.resolve_route(model, allow_unconfigured=allow_unconfigured)
        if route is None:
            return (self._target(model, allow_unconfigured=allow_unconfigured),)
        return tuple(route.targets.values())

    def resolve_route(self, model: str, *, allow_unconfigured: bool = False) -> ResolvedRoute | None:
        """Return the route of calls for ``model``; ``None`` if they take none.

        Raises
        ------
        ConnectorError
            A candidate cannot be resolved (see `resolve`).
        """
        if model in self._resolved:
            return self._resolved[model]
        name = model.removeprefix(f"{ROUTE_PROVIDER}/")
        route = self.routes.get(name)
        resolved = None
        if route is not None:
            # A candidate that was requested by name comes first.
            names = sorted(route.candidates, key=lambda candidate: candidate != model)
            targets = {name: self._target(name, allow_unconfigured=allow_unconfigured) for name in names}
            resolved = ResolvedRoute(name, route, targets)
        if not allow_unconfigured:
            self._resolved[model] = resolved
        return resolved

    def resolve_provider(self, model: str) -> tuple[Provider, str]:
        """Return the provider of ``provider/model`` and the provider's own name of the model.

        The provider need not be configured.

        Raises
        ------
        BadRequestError
            The name has no provider, or an unknown one.
        """
        given: object = model
        if not isinstance(given, str):
            raise invalid("model", f"expected 'provider/model', such as 'openai/gpt-4o-mini', not {given!r:.80}")
        route = self.resolve_route(model) if self._is_route_name(model) else None
        if route is not None:
            return _route_target(route).provider, route.name
        name, _, rest = model.partition("/")
        if not name or not rest:
            example = self._with_provider(model.strip("/")) or "openai/gpt-4o-mini"
            named = sorted(route for route in self.routes if "/" not in route)
            routes = f", or a route: {', '.join(named)}" if named else ""
            raise invalid("model", f"{model!r} names no provider; write 'provider/model', such as {example!r}{routes}")
        if name not in self.providers:
            alias = PROVIDER_ALIASES.get(name.lower().replace(" ", "_"), "")
            if alias in self.providers:
                raise invalid("model", f"{model!r}: no provider is named {name!r}; did you mean '{alias}/{rest}'?")
            raise invalid("model", f"{model!r}: {unknown_provider_message(name, self.providers)}")
        return self.providers[name], rest

    def _with_provider(self, model: str) -> str:
        """Return ``provider/model`` for a bare or colon-separated name; empty if its provider is not known."""
        before, colon, after = model.partition(":")
        provider = PROVIDER_ALIASES.get(before.lower(), before.lower())
        if colon and after and provider in self.providers:
            return f"{provider}/{after}"
        provider = provider_of_model(model, self.providers)
        return f"{provider}/{model}" if provider else ""

    def _is_route_name(self, model: object) -> bool:
        """Return whether ``model`` is a route's own name, with or without the prefix ``route/``."""
        name = model.removeprefix(f"{ROUTE_PROVIDER}/") if isinstance(model, str) else ""
        return "/" not in name and name in self.routes

    def _target(self, model: str, *, allow_unconfigured: bool) -> Target:
        """Return the target of ``provider/model``, ignoring routes."""
        provider, rest = self.resolve_provider(model)
        name = model.partition("/")[0]
        # An endpoint of the model itself takes precedence over its provider's.
        endpoint = self.endpoints.get(model) or self.endpoints.get(name)
        if endpoint is None and self.is_simulated:
            simulated = ", ".join(sorted(self.endpoints))
            raise invalid("model", f"{model!r}: {name!r} is not simulated; simulated are {simulated}")
        is_stored = self.stored_providers is None or name in self.stored_providers
        if endpoint is None and provider.required_env and not (allow_unconfigured or is_stored):
            raise AuthenticationError(
                AuthFailed(
                    provider=name,
                    path="model",
                    message=f"{model!r} needs credentials; the simulator (`llmhub sim`) needs none",
                    hint=Hint("api_key", provider=name, environment=provider.required_env),
                )
            )
        endpoint = endpoint or Endpoint()
        if not (endpoint.base_url or provider.base_url or allow_unconfigured):
            raise invalid("model", f"{model!r}: {name!r} has no public address", hint=Hint("base_url", provider=name))
        return Target(provider, endpoint, rest, model)


def _route_target(route: ResolvedRoute) -> Target:
    """Return the placeholder target of a route, which a candidate replaces before anything is sent.

    Its address lists the candidates, so that requests to a route with other candidates have other keys.
    """
    first = next(iter(route.targets.values()))
    address = f"{ROUTE_PROVIDER}:{','.join(route.targets)}"

    def locate(*_: Any) -> str:
        return address

    def unsigned(_endpoint: Endpoint, request: HttpRequest, _now: float) -> HttpRequest:
        return request

    provider = Provider(ROUTE_PROVIDER, first.provider.wire, address, locate, unsigned)
    endpoint = Endpoint(simulated=all(target.endpoint.simulated for target in route.targets.values()))
    return Target(provider, endpoint, route.name, f"{ROUTE_PROVIDER}/{route.name}")


def routes_by_name(route: Route | Mapping[str, Route] | None) -> dict[str, Route]:
    """Return a hub's routes by the names they are requested under.

    A single route without a name is taken by calls for any of its candidates.

    Raises
    ------
    BadRequestError
        The value is not a route, or a name cannot be one of a route.
    """
    if route is None:
        return {}
    if isinstance(route, Route):
        return dict.fromkeys(route.candidates, route)
    given: Any = route
    if not isinstance(given, Mapping):
        expected = "a route, such as Failover('provider/model', ...), or a dict of routes by name"
        raise invalid("route", f"expected {expected}, not a {type(route).__name__}")
    for name, named in given.items():
        if not isinstance(name, str) or not name.strip("/") or not isinstance(named, Route):
            expected = "a name, such as 'fast', with a route, such as Failover('provider/model', ...)"
            raise invalid(f"route[{name!r}]", f"expected {expected}")
    return dict(given)


def unknown_provider_message(name: str, known: Iterable[str]) -> str:
    """Return the message for a provider name that is not known.

    Examples
    --------
    >>> unknown_provider_message("opnai", ["anthropic", "openai"])
    "no provider is named 'opnai'. Did you mean 'openai'? Known providers: anthropic, openai"
    """
    import difflib  # noqa: PLC0415 - only on the way to an error

    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    suggestion = f" Did you mean {near[0]!r}?" if near else ""
    return f"no provider is named {name!r}.{suggestion} Known providers: {', '.join(known)}"
