"""All route groups of the service, in the order in which they are opened."""

from __future__ import annotations

from typing import Final

from llmhub.server import (
    api_routes,
    batch_routes,
    completion_routes,
    embedding_routes,
    health_routes,
    key_routes,
    metrics_route,
    page_routes,
    run_routes,
    table_routes,
)
from llmhub.server.routes import RouteGroup
from llmhub.server.rpc import servers

GROUPS: Final[tuple[RouteGroup, ...]] = (
    key_routes.GROUP,
    health_routes.GROUP,
    completion_routes.GROUP,
    embedding_routes.GROUP,
    table_routes.GROUP,
    run_routes.GROUP,
    batch_routes.GROUP,
    api_routes.GROUP,
    metrics_route.GROUP,
    servers.GROUP,
    page_routes.GROUP,
)
