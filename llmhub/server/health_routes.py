"""Routes for orchestrators: ``/healthz``, ``/readyz`` and ``/drain``."""

from __future__ import annotations

from typing import Final

from aiohttp import web
from msgspec import Struct

from llmhub.server.app import json_response
from llmhub.server.context import RequestContext
from llmhub.server.routes import HttpRoute, RouteGroup
from llmhub.server.service import Service


class ServiceHealth(Struct):
    """State of the service: ``starting``, ``ready``, ``draining`` or ``stopped``, and the requests in progress."""

    status: str
    active_requests: int


async def healthz(service: Service, _request: web.Request, _context: RequestContext) -> web.StreamResponse:
    """Return 200 as long as the process answers."""
    return json_response(_health(service))


async def readyz(service: Service, _request: web.Request, _context: RequestContext) -> web.StreamResponse:
    """Return 200 if new requests are accepted, else 503."""
    return json_response(_health(service), status=200 if service.accepts_work else 503)


async def drain(service: Service, _request: web.Request, _context: RequestContext) -> web.StreamResponse:
    """Stop accepting requests; those in progress go on. Ends with the process."""
    service.begin_drain()
    return json_response(_health(service), status=202)


def _health(service: Service) -> ServiceHealth:
    return ServiceHealth(service.state, service.active_requests)


GROUP: Final = RouteGroup(
    name="health",
    routes=(
        HttpRoute("GET", "/healthz", healthz, summary="Whether the process answers", response=ServiceHealth),
        HttpRoute(
            "GET",
            "/readyz",
            readyz,
            summary="Whether new requests are accepted",
            response=ServiceHealth,
            statuses={200: "Ready", 503: "Not ready"},
        ),
        HttpRoute(
            "POST",
            "/drain",
            drain,
            scope="admin",
            summary="Stop accepting new requests, before the process is ended",
            response=ServiceHealth,
            statuses={202: "Draining"},
        ),
    ),
)
