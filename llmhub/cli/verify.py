"""``llmhub verify``: check whether a frozen dataset is unchanged."""

from __future__ import annotations

import argparse

from llmhub.cli.console import print_result
from llmhub.datasets import verify


def run(args: argparse.Namespace) -> int:
    """Print the result of the check, and return 1 if anything changed."""
    verification = verify(args.folder, expect=args.expect, public_key=args.public_key)
    print_result(str(verification))
    return 0 if verification else 1
