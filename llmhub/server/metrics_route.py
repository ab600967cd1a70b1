"""The route for Prometheus, ``GET /metrics``: collected while the service runs, and rendered in a thread."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web

from llmhub.core.errors import BadRequestError, Unsupported, to_exception
from llmhub.engine.event_loop import run_in_thread
from llmhub.observability.metrics import CONTENT_TYPE, PrometheusCollector, collect
from llmhub.server.context import RequestContext
from llmhub.server.routes import HttpRoute, RouteGroup
from llmhub.server.service import Service

NOT_INSTALLED: Final = "metrics need the extra 'metrics': pip install 'llmhub[metrics]'"


@asynccontextmanager
async def collecting(service: Service) -> AsyncIterator[None]:
    """Collect metrics while the service runs, if ``prometheus-client`` is installed."""
    try:
        service.metrics = PrometheusCollector()
    except BadRequestError:
        yield
        return
    stop = collect(service.metrics)
    try:
        yield
    finally:
        await run_in_thread(stop)


async def metrics(service: Service, _request: web.Request, _context: RequestContext) -> web.StreamResponse:
    """Return the metrics in the text format of Prometheus."""
    if service.metrics is None:
        raise to_exception(Unsupported(message=NOT_INSTALLED, status=501))
    page = await run_in_thread(service.metrics.render)
    return web.Response(body=page, headers={"content-type": CONTENT_TYPE})


GROUP: Final = RouteGroup(
    name="metrics",
    routes=(
        HttpRoute(
            "GET",
            "/metrics",
            metrics,
            scope="metrics",
            summary="Metrics for Prometheus",
            response_types=("text/plain",),
            statuses={200: "Metrics in the text format of Prometheus", 501: "prometheus-client is not installed"},
        ),
    ),
    lifespan=collecting,
)
