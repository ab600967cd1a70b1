"""``llmhub completion``: write a script that completes commands, options and file names in a shell."""

from __future__ import annotations

import argparse

import shtab

from llmhub.cli.arguments import build_parser
from llmhub.cli.console import print_result


def run(args: argparse.Namespace) -> int:
    """Print the script, and return the exit code."""
    print_result(shtab.complete(build_parser(), shell=args.shell))
    return 0
