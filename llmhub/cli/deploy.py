"""``llmhub deploy export``: write a container file, Kubernetes manifests and a compose file for the service."""

from __future__ import annotations

import argparse

from llmhub.cli.console import print_result
from llmhub.core.errors import invalid
from llmhub.server.deployment import export


def run(args: argparse.Namespace) -> int:
    """Write the files, print their paths, and return the exit code."""
    try:
        paths = export(args.folder)
    except OSError as error:
        raise invalid("DIR", f"cannot write to {str(args.folder)!r} ({error.strerror})") from error
    for path in paths:
        print_result(str(path))
    return 0
