"""``llmhub deploy export``: write a container file, Kubernetes manifests and a compose file for the service."""

from __future__ import annotations

import argparse

from llmhub.cli.console import export_files
from llmhub.server.deployment import export


def run(args: argparse.Namespace) -> int:
    """Write the files, and return the exit code."""
    return export_files(args.folder, export)
