"""``llmhub freeze``: write results as a dataset that can be verified."""

from __future__ import annotations

import argparse

from llmhub.cli.console import print_result
from llmhub.datasets import freeze
from llmhub.tables import files


def run(args: argparse.Namespace) -> int:
    """Freeze the results, print the digest, and return the exit code."""
    table = files.read_table(args.results, "RESULTS")
    frozen = freeze(table, args.folder, layout=args.layout, overwrite=args.overwrite, signing_key=args.signing_key)
    print_result(f"Froze {table.num_rows:,} rows in {args.folder}\nsha256 {frozen.digest}")
    return 0
