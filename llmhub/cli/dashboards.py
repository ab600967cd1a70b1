"""``llmhub dashboards export``: write dashboards for Grafana, and rules and a scrape configuration for Prometheus."""

from __future__ import annotations

import argparse

from llmhub.cli.console import export_files
from llmhub.observability.dashboards import export


def run(args: argparse.Namespace) -> int:
    """Write the files, and return the exit code."""
    return export_files(args.folder, export)
