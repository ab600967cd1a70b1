"""The route group of the protocols beside HTTP: their servers start and end with the service."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from llmhub.core.optional_imports import import_optional
from llmhub.server.routes import RouteGroup
from llmhub.server.service import Service

GRPC_LIBRARIES: Final = (
    "grpc",
    "google.protobuf",
    "google.rpc.status_pb2",
    "grpc_health.v1",
    "grpc_reflection.v1alpha",
)


@asynccontextmanager
async def serve_protocols(service: Service) -> AsyncIterator[None]:
    """Serve the protocols that the settings name for an ``async with`` block.

    Raises
    ------
    BadRequestError
        The extra is not installed, or the server cannot start.
    """
    settings = service.settings
    async with AsyncExitStack() as stack:
        if settings.grpc is not None:
            for library in GRPC_LIBRARIES:
                import_optional(library, "grpc")
            grpc_server = importlib.import_module("llmhub.server.rpc.grpc_server")
            await stack.enter_async_context(grpc_server.grpc_serving(service, settings.grpc))
        if settings.flight is not None:
            import_optional("pyarrow.flight", "flight")
            flight_server = importlib.import_module("llmhub.server.rpc.flight_server")
            await stack.enter_async_context(flight_server.flight_serving(service, settings.flight))
        yield


GROUP: Final = RouteGroup(name="rpc", routes=(), lifespan=serve_protocols)
