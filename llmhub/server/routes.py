"""Records of routes: what the application registers, and what the OpenAPI document describes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from llmhub.core.errors import LLMError
from llmhub.core.types import Payload
from llmhub.server.context import Lane, RequestContext
from llmhub.server.error_replies import encode_error

if TYPE_CHECKING:
    from aiohttp import web

    from llmhub.server.service import Service

Handler: TypeAlias = "Callable[[Service, web.Request, RequestContext], Awaitable[web.StreamResponse]]"
ErrorEncoder: TypeAlias = Callable[[LLMError, int, str], Payload]
"""From an error, its status and the request id to a body in the shape of an API."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A parameter of a route in its path, its query or its headers, for the OpenAPI document.

    Parameters
    ----------
    schema
        JSON schema of its value.
    """

    name: str
    place: Literal["path", "query", "header"] = "query"
    description: str = ""
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})
    required: bool = False


@dataclass(frozen=True, slots=True)
class HttpRoute:
    """One route.

    Parameters
    ----------
    method, path
        As aiohttp writes them (``/v1/runs/{id}``).
    handler
        Answers the request.
    scope
        Scope that the caller needs, of `llmhub.server.access.SCOPES`; empty if the route needs no key.
    summary
        One line for the OpenAPI document.
    request, response
        Types of the bodies for the OpenAPI document: anything that `msgspec.json.schema` describes; ``None`` for no
        body, or for one that is no JSON.
    request_types, response_types
        Media types of the bodies. A request of another type is refused.
    statuses
        Status of success, and others that are not errors, with their meaning.
    parameters
        Parameters in the path, the query and the headers.
    lane
        Lane of its calls, unless the client chooses one by ``x-llmhub-lane``.
    encode_error
        Encodes errors in the shape of the route's API.
    timeout_s
        Longest duration of a request; that of the settings if ``None``, no limit if 0.
    """

    method: str
    path: str
    handler: Handler
    scope: str = ""
    summary: str = ""
    request: Any = None
    response: Any = None
    request_types: tuple[str, ...] = ()
    response_types: tuple[str, ...] = ("application/json",)
    statuses: Mapping[int, str] = field(default_factory=lambda: {200: "Success"})
    parameters: tuple[Parameter, ...] = ()
    lane: Lane = "interactive"
    encode_error: ErrorEncoder = encode_error
    timeout_s: float | None = None

    @property
    def name(self) -> str:
        """``METHOD /path``."""
        return f"{self.method} {self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteGroup:
    """Routes that belong together, and what has to be open while they are served.

    Parameters
    ----------
    name
        Name of the group in the OpenAPI document.
    lifespan
        Opens what the group needs; entered before the first request, left after the last one, in reverse order.
    """

    name: str
    routes: tuple[HttpRoute, ...]
    lifespan: Callable[[Service], AbstractAsyncContextManager[None]] = lambda _: nullcontext()
