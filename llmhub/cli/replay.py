"""``llmhub replay``: run a frozen evaluation again from its own answers, without network access."""

from __future__ import annotations

import argparse

from llmhub.cli.console import print_result
from llmhub.datasets import replay


def run(args: argparse.Namespace) -> int:
    """Print the result, and return 1 if it is not that of the frozen run."""
    again = replay(args.folder)
    print_result(str(again))
    return 0 if again else 1
