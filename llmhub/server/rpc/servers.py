"""The route group of the protocols beside HTTP: their servers start and end with the service."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from llmhub.core.optional_imports import import_optional
from llmhub.server.routes import RouteGroup
from llmhub.server.rpc.tls_files import read_tls_files
from llmhub.server.server_settings import ServerSettings
from llmhub.server.service import Service

GRPC_LIBRARIES: Final = (
    "grpc",
    "google.protobuf",
    "google.rpc.status_pb2",
    "grpc_health.v1",
    "grpc_reflection.v1alpha",
)
FLIGHT_LIBRARIES: Final = ("pyarrow.flight",)


def check_protocols(settings: ServerSettings) -> None:
    """Check that what the protocols of the settings need is here.

    Raises
    ------
    BadRequestError
        The extra is not installed, or a file of the TLS settings cannot be read.
    """
    for name, protocol, libraries in (
        ("grpc", settings.grpc, GRPC_LIBRARIES),
        ("flight", settings.flight, FLIGHT_LIBRARIES),
    ):
        if protocol is not None:
            for library in libraries:
                import_optional(library, name)
            read_tls_files(protocol, f"server.{name}")


@asynccontextmanager
async def serve_protocols(service: Service) -> AsyncIterator[None]:
    """Serve the protocols that the settings name for an ``async with`` block.

    Raises
    ------
    BadRequestError
        The extra is not installed, or the server cannot start.
    """
    settings = service.settings
    check_protocols(settings)
    async with AsyncExitStack() as stack:
        if settings.grpc is not None:
            grpc_server = importlib.import_module("llmhub.server.rpc.grpc_server")  # needs the extra
            await stack.enter_async_context(grpc_server.grpc_serving(service, settings.grpc))
        if settings.flight is not None:
            flight_server = importlib.import_module("llmhub.server.rpc.flight_server")  # as above
            await stack.enter_async_context(flight_server.flight_serving(service, settings.flight))
        yield


GROUP: Final = RouteGroup(name="rpc", routes=(), lifespan=serve_protocols)
