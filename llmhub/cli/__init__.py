"""The command line: ``llmhub complete | run | plan | evaluate | compare | freeze | ...``; ``llmhub -h`` lists all.

Results are written to standard output, everything else to standard error. Exit codes: 0 success; 1 some rows failed, or
no provider is available; 2 wrong usage or input, and nothing was sent; 130 interrupted; 141 the reader of standard
output has closed it.

A command is a module of this package with a function ``run(args)`` that returns the exit code.
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
BROKEN_PIPE: Final = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line, and return the exit code.

    Examples
    --------
    >>> main(["cache", "stats", "--cache", "no-such.db"])
    no-such.db: does not exist yet
    0
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == [SIM_COMMAND]:
        from llmhub.sim.__main__ import main as simulate  # noqa: PLC0415 - the simulator parses its own arguments

        return simulate(arguments[1:])
    args = build_parser(arguments[0] if arguments else "").parse_args(arguments)
    if args.command is None or (args.command == "cache" and args.action is None):
        build_parser().parse_args([*arguments, "-h"])
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = lambda message, *_args, **_kwargs: print_message(args.command, f"note: {message}")
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    """Run a command; errors that the user can correct are written as one line."""
    command: str = args.command
    try:
        code = cast("int", importlib.import_module(f"llmhub.cli.{command}").run(args))
        sys.stdout.flush()
    except ConnectorError as error:
        print_message(command, error_line(error))
        return USAGE
    except KeyboardInterrupt:
        print_message(command, "interrupted; nothing was written")
        return INTERRUPTED
    except BrokenPipeError:
        # Redirected, because Python flushes standard output at exit and would report the error again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return code
