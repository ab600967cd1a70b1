"""``llmhub diff``: compare two runs row by row."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from llmhub.cli.console import print_json, print_result
from llmhub.datasets import diff
from llmhub.tables import files


def run(args: argparse.Namespace) -> int:
    """Print the differences, and return 1 if there are any."""
    difference = diff(_source(args.before, "BEFORE"), _source(args.after, "AFTER"))
    if args.json:
        print_json({"same": difference.same, **difference.counts(), "tests": difference.tests.to_pylist()})
    else:
        print_result(str(difference))
    if args.fail_on == "regression":
        return int(any(row["significant"] and row["difference"] < 0 for row in difference.tests.to_pylist()))
    return 0 if difference.same else 1


def _source(path: Path, name: str) -> Any:
    """Return the folder of a frozen dataset, or the table of a file."""
    return path if path.is_dir() else files.read_table(path, name)
