"""Routes that describe the service: its models, its OpenAPI document, and a page to read that."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from html import escape
from typing import Any, Final

import msgspec
from aiohttp import web
from msgspec import Struct

from llmhub.core.errors import ConnectorError, NotFound, to_exception
from llmhub.engine.event_loop import run_in_thread
from llmhub.providers.prices import listed_models
from llmhub.server.app import json_response
from llmhub.server.context import RequestContext
from llmhub.server.dialects.openai_error_body import encode_openai_error
from llmhub.server.openapi import build_document
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
    return json_response(build_document(service.groups))


async def openapi_page(service: Service, _request: web.Request, _context: RequestContext) -> web.StreamResponse:
    """Return a page that shows the OpenAPI document, without scripts or other files."""
    page = render_page(build_document(service.groups))
    return web.Response(text=page, content_type="text/html", headers={"content-security-policy": PAGE_POLICY})


PAGE_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
PAGE_STYLE: Final = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
details { border: 1px solid color-mix(in srgb, currentColor 20%, transparent); border-radius: 6px; margin: .5rem 0; }
summary { cursor: pointer; padding: .5rem .8rem; }
details > div { padding: 0 .8rem .8rem; }
code, pre { font-family: ui-monospace, monospace; font-size: .9em; }
pre { overflow: auto; max-height: 24rem; padding: .6rem; background: color-mix(in srgb, currentColor 6%, transparent); }
b { display: inline-block; min-width: 4.5rem; }
"""


def render_page(document: dict[str, Any]) -> str:
    """Return the document as HTML: each operation with its parameters and schemas."""
    sections = []
    for tag in document["tags"]:
        operations = [
            _render_operation(method, path, operation)
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
            if tag["name"] in operation["tags"]
        ]
        sections.append(f"<h2>{escape(tag['name'])}</h2>{''.join(operations)}")
    schemas = "".join(
        f"<details><summary><code>{escape(name)}</code></summary><div>{_json(schema)}</div></details>"
        for name, schema in document["components"]["schemas"].items()
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>llmhub API</title>'
        f'<meta name="viewport" content="width=device-width"><style>{PAGE_STYLE}</style></head><body>'
        f"<h1>llmhub API {escape(document['info']['version'])}</h1>"
        '<p>The document itself: <a href="openapi.json">openapi.json</a>.</p>'
        f"{''.join(sections)}<h2>Schemas</h2>{schemas}</body></html>"
    )


def _render_operation(method: str, path: str, operation: dict[str, Any]) -> str:
    parameters = "".join(
        f"<li><code>{escape(each['name'])}</code> ({escape(each['in'])}) {escape(each['description'])}</li>"
        for each in operation.get("parameters", ())
    )
    bodies: Iterable[tuple[str, Any]] = [
        ("Request", operation.get("requestBody", {}).get("content", {})),
        *((f"Response {status}", reply.get("content", {})) for status, reply in operation["responses"].items()),
    ]
    shown = "".join(f"<h4>{escape(name)}</h4>{_json(content)}" for name, content in bodies if content)
    scope = operation.get("x-scope")
    needs = f"<p>Needs a key with the scope <code>{escape(scope)}</code>.</p>" if scope else ""
    head = f"<b>{method.upper()}</b> <code>{escape(path)}</code> {escape(operation['summary'])}"
    return (
        f"<details><summary>{head}</summary>"
        f"<div>{needs}{f'<ul>{parameters}</ul>' if parameters else ''}{shown}</div></details>"
    )


def _json(value: object) -> str:
    return f"<pre>{escape(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())}</pre>"


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
        HttpRoute(
            "GET", "/docs", openapi_page, summary="A page that shows this document", response_types=("text/html",)
        ),
    ),
)
