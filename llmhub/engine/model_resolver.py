"""Who is meant by a name: ``provider/model`` to a target, with what is known of where it is."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from llmhub.core.errors import AuthenticationError, AuthFailed, BadRequestError, Hint, InvalidRequest, invalid
from llmhub.core.provider import Endpoint, HttpRequest, Provider
from llmhub.engine.call import Target
from llmhub.engine.routing import ResolvedRoute
from llmhub.engine.routing_policy import Route

ROUTE_PROVIDER: Final = "route"
"""The provider under which routes with names of their own go: ``route/fast``."""


@dataclass(frozen=True, slots=True)
class ModelResolver:
    """Who can be asked.

    Parameters
    ----------
    providers
        All that are known, by name.
    endpoints
        Where those are that can be asked.
    routes
        Routes by what a caller asks for: a name of its own, or ``provider/model``.
    """

    providers: Mapping[str, Provider]
    endpoints: Mapping[str, Endpoint]
    routes: Mapping[str, Route] = field(default_factory=dict)
    _paths: dict[str, ResolvedRoute | None] = field(default_factory=dict, init=False, repr=False, compare=False)

    def resolve_route(self, model: str, *, allow_unconfigured: bool = False) -> ResolvedRoute | None:
        """Find the route that calls for ``model`` take, and its candidates; ``None`` where they take none.

        Raises
        ------
        ConnectorError
            A candidate cannot be asked (see `target`).
        """
        if model in self._paths:
            return self._paths[model]
        name = model.removeprefix(f"{ROUTE_PROVIDER}/")
        route = self.routes.get(name)
        found = None
        if route is not None:
            # Whoever was asked by name comes first.
            order = sorted(route.candidates, key=lambda candidate: candidate != model)
            found = ResolvedRoute(
                name, route, {one: self._single(one, allow_unconfigured=allow_unconfigured) for one in order}
            )
        if not allow_unconfigured:
            self._paths[model] = found
        return found

    def resolve_all(self, model: str, *, allow_unconfigured: bool = False) -> tuple[Target, ...]:
        """Find everybody who may answer calls for ``model``: the candidates of its route, or it alone."""
        path = self.resolve_route(model, allow_unconfigured=allow_unconfigured)
        return (
            tuple(path.targets.values())
            if path is not None
            else (self._single(model, allow_unconfigured=allow_unconfigured),)
        )

    def resolve(self, model: str, *, allow_unconfigured: bool = False) -> Target:
        """Find whom ``provider/model`` names; a route with a name of its own stands as one, too.

        With ``allow_unconfigured``, credentials and addresses may be missing: for what is not to be sent.

        Raises
        ------
        InvalidRequestError
            No provider is named, or none by that name is known.
        AuthFailedError
            The provider has no credentials; says which variables to set.
        """
        path = self.resolve_route(model, allow_unconfigured=allow_unconfigured) if self._names_route(model) else None
        return _route_target(path) if path is not None else self._single(model, allow_unconfigured=allow_unconfigured)

    def _names_route(self, model: object) -> bool:
        """Say whether a name is a route's own, and nobody else's."""
        name = model.removeprefix(f"{ROUTE_PROVIDER}/") if isinstance(model, str) else ""
        return "/" not in name and name in self.routes

    def _single(self, model: str, *, allow_unconfigured: bool = False) -> Target:
        provider, rest = self.resolve_provider(model)
        name = model.partition("/")[0]
        endpoint = self.endpoints.get(name)
        if endpoint is None and provider.required_env and not allow_unconfigured:
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

    def resolve_provider(self, model: str) -> tuple[Provider, str]:
        """Find the provider that ``provider/model`` names, be there credentials or not, and its name of the model.

        Raises
        ------
        InvalidRequestError
            No provider is named, or none by that name is known.
        """
        asked: object = model
        if not isinstance(asked, str):
            said = f"{asked!r:.80} is no model; write 'provider/model', such as 'openai/gpt-4o-mini'"
            raise BadRequestError(InvalidRequest(path="model", message=said))
        name, slash, rest = model.partition("/")
        path = self.resolve_route(model) if self._names_route(model) else None
        if path is not None:
            return _route_target(path).provider, path.name
        if not slash or not rest or not name:
            example = f"openai/{model.strip('/') or 'gpt-4o-mini'}"
            named = sorted(route for route in self.routes if "/" not in route)
            routes = f"; of routes there are {', '.join(named)}" if named else ""
            said = f"{model!r} names no provider; write 'provider/model', such as {example!r}{routes}"
            raise BadRequestError(InvalidRequest(path="model", message=said))
        if name not in self.providers:
            said = f"{model!r}: {unknown_provider_message(name, self.providers)}"
            raise BadRequestError(InvalidRequest(path="model", message=said))
        return self.providers[name], rest


def _route_target(path: ResolvedRoute) -> Target:
    """Give the target that a route stands as until a candidate takes its place; it is never asked itself.

    Its address names the candidates, so that questions put to other candidates have other keys.
    """
    first = next(iter(path.targets.values()))
    address = f"{ROUTE_PROVIDER}:{','.join(path.targets)}"

    def locate(*_: Any) -> str:
        return address

    def as_it_is(_endpoint: Endpoint, request: HttpRequest, _now: float) -> HttpRequest:
        return request

    provider = Provider(ROUTE_PROVIDER, first.provider.wire, address, locate, as_it_is)
    return Target(provider, Endpoint(), path.name, f"{ROUTE_PROVIDER}/{path.name}")


def routes_by_name(route: Route | Mapping[str, Route] | None) -> dict[str, Route]:
    """Give the routes of a hub by what is asked for: a single one is taken by calls for any of its candidates.

    Raises
    ------
    InvalidRequestError
        It is no route, or a name cannot be one.
    """
    if route is None:
        return {}
    if isinstance(route, Route):
        return dict.fromkeys(route.candidates, route)
    given: Any = route
    if not isinstance(given, Mapping):
        said = f"a {type(route).__name__} is no route; give Failover('provider/model', ...) or {{name: Failover(...)}}"
        raise BadRequestError(InvalidRequest(path="route", message=said))
    for name, one in given.items():
        if not isinstance(name, str) or not name.strip("/") or not isinstance(one, Route):
            said = "give a name, such as 'fast', and Failover('provider/model', ...) or another route for it"
            raise BadRequestError(InvalidRequest(path=f"route[{name!r}]", message=said))
    return dict(given)


def unknown_provider_message(name: str, known: Iterable[str]) -> str:
    """Say that no provider has this name, and which there are.

    Examples
    --------
    >>> unknown_provider_message("opnai", ["anthropic", "openai"])
    "no provider is named 'opnai'. Did you mean 'openai'? There are anthropic, openai"
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"no provider is named {name!r}.{hint} There are {', '.join(known)}"
