"""``llmhub serve``: run the hub as a service until SIGTERM or the interrupt key."""

from __future__ import annotations

import argparse
from typing import Any

from llmhub.cli.console import print_message, print_result
from llmhub.server.rpc.servers import check_protocols
from llmhub.server.running import serve
from llmhub.server.server_settings import load_server_settings
from llmhub.server.service import Service, open_service

OVERRIDES = ("host", "port", "simulator", "cache")
PROTOCOLS = ("grpc", "flight")
"""Protocols beside HTTP, which are served at ``--NAME-port``."""


def run(args: argparse.Namespace) -> int:
    """Serve, and return 1 if requests in progress were cut off at the end."""
    overrides: dict[str, Any] = {name: value for name in OVERRIDES if (value := getattr(args, name)) is not None}
    for name in PROTOCOLS:
        if (port := getattr(args, f"{name}_port")) is not None:
            overrides[name] = {"port": port}
    if args.keys:
        overrides["access"] = {"keys": True}
    settings = load_server_settings(args.config, overrides)
    check_protocols(settings)
    service = open_service(settings, args.config)
    if args.check:
        service.hub.close()
        print_result("the settings are valid")
        return 0
    completed = serve(service, on_start=lambda url: print_message("serve", _listening(service, url)))
    if not completed:
        print_message("serve", "stopped; requests that did not end in time were cut off")
    return 0 if completed else 1


def _listening(service: Service, url: str) -> str:
    """Return the addresses of a service."""
    others = [f"{name} on {address}" for name, address in service.addresses.items()]
    return "; ".join([f"listening on {url}", *others])
