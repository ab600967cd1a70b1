"""Routes that describe the service: its models and its OpenAPI document."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from aiohttp import web
from msgspec import Struct

from llmhub.core.errors import ConnectorError, NotFound, to_exception
from llmhub.engine.event_loop import run_in_thread
from llmhub.providers.prices import listed_models
from llmhub.server.app import json_response
from llmhub.server.context import RequestContext
from llmhub.server.dialects.openai_error_body import encode_openai_error
from llmhub.server.routes import HttpRoute, Parameter, RouteGroup
from llmhub.server.service import Service

GEMINI_KEY_HEADER: Final = "x-goog-api-key"
HOUR_S: Final = 3600


class ModelEntry(Struct):
    """A model, with the fields that OpenAI's and Anthropic's clients read."""

    id: str
    display_name: str
    owned_by: str
    object: str = "model"
    type: str = "model"
    created: int = 0
    created_at: str = "1970-01-01T00:00:00Z"


class ModelList(Struct):
    """All models that the caller may use and that have a known price, aliases and routes included."""

    data: list[ModelEntry]
    first_id: str | None
    last_id: str | None
    object: str = "list"
    has_more: bool = False


async def list_models(service: Service, request: web.Request, context: RequestContext) -> web.StreamResponse:
    """List models, in the shape that the client's headers ask for."""
    names = await _names(service, context)
    if GEMINI_KEY_HEADER in request.headers or request.path.startswith("/v1beta"):
        actions = ["generateContent", "streamGenerateContent", "countTokens"]
        return json_response(
            {
                "models": [
                    {"name": f"models/{name}", "displayName": name, "supportedGenerationMethods": actions}
                    for name in names
                ]
            }
        )
    entries = [_entry(name) for name in names]
    first, last = (names[0], names[-1]) if names else (None, None)
    return json_response(ModelList(entries, first, last))


async def read_model(service: Service, request: web.Request, context: RequestContext) -> web.StreamResponse:
    """Return one model; any that the caller may use, whether or not it is listed."""
    name = request.match_info["model"]
    try:
        target = service.target(name, context)
    except ConnectorError:
        raise to_exception(NotFound(path="model", message=f"no model is named {name!r:.200}")) from None
    if request.path.startswith("/v1beta"):
        return json_response({"name": f"models/{name}", "displayName": target.name})
    return json_response(_entry(name))


def _entry(name: str) -> ModelEntry:
    return ModelEntry(name, name, name.partition("/")[0])


async def _names(service: Service, context: RequestContext) -> list[str]:
    """Return the names of aliases, routes and listed models of the configured providers."""
    resolver = service.hub.resolver
    providers = [name for name in service.hub.available_providers() if name in resolver.providers]
    listed = await run_in_thread(_listed, tuple(providers), int(time.time() // HOUR_S))
    named = [*service.settings.models, *(name for name in resolver.routes if "/" not in name), *listed]
    return [name for name in dict.fromkeys(named) if context.caller.may_use(service.resolve_model(name))]


@lru_cache(maxsize=4)
def _listed(providers: Sequence[str], hour: int) -> tuple[str, ...]:
    """Return the models with a price in an hour: there are thousands, and reading them takes a second."""
    when = datetime.fromtimestamp(hour * HOUR_S, UTC)
    return tuple(f"{model.provider}/{model.model}" for model in listed_models(providers, when))


async def openapi_document(service: Service, _request: web.Request, _context: RequestContext) -> web.StreamResponse:
    """Return the OpenAPI document."""
    from llmhub.server.openapi import build_document  # noqa: PLC0415 - not before it is asked for

    return json_response(build_document(service.groups))


MODEL_PARAMETER: Final = Parameter(name="model", place="path", description="provider/model", required=True)
GROUP: Final = RouteGroup(
    name="api",
    routes=(
        *(
            route
            for version in ("v1", "v1beta")
            for route in (
                HttpRoute(
                    "GET",
                    f"/{version}/models",
                    list_models,
                    scope="completions",
                    summary="List the models that the key may use",
                    response=ModelList if version == "v1" else dict[str, Any],
                    encode_error=encode_openai_error,
                ),
                HttpRoute(
                    "GET",
                    f"/{version}/models/{{model:.+}}",
                    read_model,
                    scope="completions",
                    summary="Describe one model",
                    response=ModelEntry if version == "v1" else dict[str, Any],
                    parameters=(MODEL_PARAMETER,),
                    encode_error=encode_openai_error,
                ),
            )
        ),
        HttpRoute("GET", "/openapi.json", openapi_document, summary="This document", response=dict[str, Any]),
    ),
)
