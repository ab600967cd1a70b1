"""The command line: ``llmhub demo | run | plan | bench | sim | doctor | cache``.

Exit codes: 0, all is well; 1, some rows failed, or nothing can be asked; 2, wrong usage or input, and nothing was
sent; 130, interrupted. Results go to standard output, all else to standard error.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Final, cast

from llmhub.cli.arguments import SIM_COMMAND, build_parser
from llmhub.cli.console import print_message
from llmhub.cli.error_messages import error_line
from llmhub.core.errors import ConnectorError

USAGE: Final = 2
INTERRUPTED: Final = 130
PIPE_BROKE: Final = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line asks; give the exit code.

    Examples
    --------
    >>> main(["cache", "stats", "--cache", "no-such.db"])
    no-such.db: not there yet
    0
    """
    asked = list(sys.argv[1:] if argv is None else argv)
    if asked[:1] == [SIM_COMMAND]:
        from llmhub.sim.__main__ import main as simulate  # noqa: PLC0415 - it has a command line of its own

        return simulate(asked[1:])
    given = build_parser().parse_args(asked)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_args, **_named: print_message(given.command, f"note: {message}")
        return _acted(given)


def _acted(given: argparse.Namespace) -> int:
    """Run one command; what a user can put right is said in a line."""
    command: str = given.command
    try:
        code = cast("int", importlib.import_module(f"llmhub.cli.{command}").act(given))
        sys.stdout.flush()
    except ConnectorError as error:
        print_message(command, error_line(error))
        return USAGE
    except KeyboardInterrupt:
        print_message(command, "interrupted; nothing was written")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read has gone: Python would complain again when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_BROKE
    return code
