"""Argument parsers of all commands.

Only the standard library is imported here, so that ``-h`` and usage errors are answered at once.
"""

from __future__ import annotations

import argparse
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import urlsplit

from llmhub import __version__

SIM_COMMAND: Final = "sim"
HELP_FORMATTER: Final = argparse.RawDescriptionHelpFormatter
REQUEST_FLAGS: Final = ("system", "temperature", "top_p", "max_tokens", "stop", "seed", "unsupported")
"""Options that are request parameters."""
RUN_FLAGS: Final = ("n", "concurrency", "stream", "budget_usd", "allow_unpriced")
"""Options of the execution of a run."""
FILE_TYPES: Final = ".csv, .jsonl, .ndjson, .parquet, .arrow, .feather or .ipc"
CACHE_URLS: Final = "a file, sqlite:///..., redis://..."
UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
EXAMPLES: Final = {
    "": "llmhub demo\n  llmhub run reviews.csv answers.parquet --prompt 'Summarise: {text}' --model openai/gpt-4o-mini",
    "demo": "llmhub demo --out demo\n"
    "  llmhub demo --rows 300 --model openai/gpt-4o-mini --model google/gemini-2.5-flash",
    "run": "llmhub run reviews.csv answers.parquet --prompt 'Summarise: {text}' \\\n"
    "      --model openai/gpt-4o-mini --model anthropic/claude-haiku-4-5\n"
    "  llmhub run reviews.csv answers.csv --prompt 'Summarise: {text}' --model openai/gpt-4o-mini \\\n"
    "      --simulator http://127.0.0.1:8000      (against a simulator: see llmhub sim)",
    "plan": "llmhub plan reviews.csv --prompt 'Summarise: {text}' --model openai/gpt-4o-mini --max-tokens 200",
    "sim": "llmhub sim --port 8000 --latency 0.2",
    "bench": "llmhub bench --model openai/gpt-4o-mini --model anthropic/claude-haiku-4-5\n"
    "  llmhub bench --model openai/gpt-4o-mini --workers 1 --workers 8 --workers 32 --target 2 --plot load.png",
    "doctor": "llmhub doctor\n  llmhub doctor --simulator http://127.0.0.1:8000",
    "cache": "llmhub cache stats\n  llmhub cache export --model 'openai/*' --out answers.parquet\n"
    "  llmhub cache purge --older-than 90d --yes\n  llmhub cache verify --cache redis://localhost:6379/0",
}
CODES: Final = (
    "exit codes:\n  0  every row was answered    1  some rows failed, as their status column shows\n"
    "  2  wrong usage or input, nothing was sent    130  interrupted, the answers so far were written"
)


class CommandParser(argparse.ArgumentParser):
    """Parser that reports a usage error in one line."""

    def error(self, message: str) -> NoReturn:
        """Exit with the error and a reference to the help."""
        self.exit(2, f"{self.prog}: {message.removeprefix('argument ')}\nSee '{self.prog} -h'.\n")


def build_parser() -> CommandParser:
    """Return the parser of the command line."""
    about = "Send a prompt for every row of a table to one or more models, and get one table back."
    parser = CommandParser(
        prog="llmhub", description=about, epilog=_epilog(""), formatter_class=HELP_FORMATTER, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"llmhub {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=CommandParser)
    for name, (short, describe) in COMMANDS.items():
        describe(
            commands.add_parser(
                name,
                help=short,
                description=short[0].upper() + short[1:] + ".",
                epilog=_epilog(name),
                formatter_class=HELP_FORMATTER,
                allow_abbrev=False,
            )
        )
    return parser


def _epilog(name: str) -> str:
    return f"examples:\n  {EXAMPLES[name]}" + (f"\n\n{CODES}" if name == "run" else "")


def _demo(parser: CommandParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("demo"), metavar="DIR", help="output folder (%(default)s)")
    parser.add_argument("--rows", type=positive_int, default=120, metavar="N", help="number of prompts (%(default)s)")
    parser.add_argument(
        "--model", action="append", metavar="PROVIDER/MODEL", help="instead of the models of the demo; may be repeated"
    )
    parser.add_argument("--seed", type=int, default=7, help="seed of the simulated answers (%(default)s)")
    parser.add_argument(
        "--real", action="store_true", help="call the real providers whose keys are set; this costs money"
    )
    _quiet_argument(parser)


def _run(parser: CommandParser) -> None:
    parser.add_argument("input", type=Path, metavar="INPUT", help=FILE_TYPES)
    parser.add_argument(
        "output",
        type=Path,
        metavar="OUTPUT",
        help="a file of the same types, with the input columns beside the results; a folder (of Parquet files) or a "
        "file ending in .arrows is written during the run, with little memory, and continued by the same command",
    )
    _request_arguments(parser)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--columns",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="write the input columns, too (yes)",
    )
    output.add_argument("--prefix", default="", metavar="TEXT", help="prefix of the names of the result columns")
    output.add_argument(
        "--on-error",
        choices=("row", "raise"),
        default="row",
        help="record failed rows in the output (row), or write no output unless every row is answered (raise); answers "
        "are cached in both cases",
    )
    _connection_arguments(parser)
    _quiet_argument(parser)


def _plan(parser: CommandParser) -> None:
    parser.add_argument("input", type=Path, metavar="INPUT", help=FILE_TYPES)
    parser.add_argument(
        "--pilot",
        type=positive_int,
        default=0,
        metavar="N",
        help="send N rows to each model to improve the estimate: needs credentials, costs money, is reused by the run",
    )
    _request_arguments(parser)
    _connection_arguments(parser)


def _bench(parser: CommandParser) -> None:
    parser.add_argument("--model", action="append", required=True, metavar="PROVIDER/MODEL", help="may be repeated")
    load = parser.add_argument_group("load (one call at a time if omitted; repeat an option for a sweep)")
    load.add_argument("--workers", type=positive_int, action="append", metavar="N", help="calls in flight")
    load.add_argument(
        "--rate", type=positive_float, action="append", metavar="PER_S", help="calls per second at constant intervals"
    )
    load.add_argument(
        "--poisson",
        type=positive_float,
        action="append",
        metavar="PER_S",
        help="calls per second at random intervals (Poisson)",
    )
    load.add_argument("--requests", type=positive_int, default=100, metavar="N", help="calls per load (%(default)s)")
    load.add_argument("--warmup", type=int, default=3, metavar="N", help="calls before the measurement (%(default)s)")
    load.add_argument("--target", type=positive_float, metavar="S", help="target latency in seconds")
    load.add_argument(
        "--target-first", type=positive_float, metavar="S", help="target time to the first token in seconds"
    )
    request = parser.add_argument_group("request")
    request.add_argument(
        "--prompt", action="append", metavar="TEXT", help="instead of short explanations; may be repeated"
    )
    request.add_argument("--max-tokens", type=positive_int, metavar="N", help="maximum output tokens (256)")
    request.add_argument("--temperature", type=float, metavar="X")
    request.add_argument(
        "--seed", type=int, metavar="N", help="seed of random intervals, and of providers that accept one"
    )
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=Path, metavar="FILE", help=f"write a table of all calls: {FILE_TYPES}")
    output.add_argument("--plot", type=Path, metavar="FILE", help="plot latency over load: .png, .svg or .pdf")
    _connection_arguments(parser)


def _sim(parser: CommandParser) -> None:
    """Add nothing, because the simulator parses its own arguments."""


def _doctor(parser: CommandParser) -> None:
    parser.add_argument("--json", action="store_true", help="write JSON")
    parser.add_argument("--simulator", type=http_url, metavar="URL", help="check a simulator instead of the providers")


def _cache(parser: CommandParser) -> None:
    parser.add_argument(
        "action",
        choices=("stats", "ls", "export", "purge", "verify", "clear"),
        help="statistics; newest responses; export as rows; delete some; check for damage; delete all",
    )
    location = parser.add_mutually_exclusive_group()
    location.add_argument("--cache", metavar="ADDRESS", help=f"instead of the default cache: {CACHE_URLS}")
    location.add_argument("--simulated", action="store_true", help="the cache of simulated responses")
    parser.add_argument(
        "--older-than", type=age_seconds, metavar="AGE", help="only responses older than this: 90m, 12h, 30d, 2w"
    )
    parser.add_argument(
        "--model", metavar="PROVIDER/MODEL", help="only responses of this model; * matches any characters"
    )
    parser.add_argument("--damaged", action="store_true", help="only responses that cannot be decoded")
    parser.add_argument(
        "--limit", type=positive_int, default=20, metavar="N", help="number of responses that ls shows (%(default)s)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"output file of export: {FILE_TYPES}")
    parser.add_argument("--yes", action="store_true", help="confirm purge or clear")


COMMANDS: Final = {
    "demo": ("run 120 prompts against simulated providers, and write tables and plots", _demo),
    "run": ("send a prompt for every row of a file to one or more models", _run),
    "plan": ("estimate what a run would send and cost; nothing is sent", _plan),
    "bench": ("load-test models: latency, throughput and cost", _bench),
    SIM_COMMAND: ("simulate providers on this machine (llmhub sim -h)", _sim),
    "doctor": ("check which providers are available, and what is missing", _doctor),
    "cache": ("inspect, check, export or delete cached responses", _cache),
}
"""Description of each command, and the function that adds its arguments."""


def _request_arguments(parser: CommandParser) -> None:
    request = parser.add_argument_group("request")
    request.add_argument(
        "--prompt", required=True, metavar="TEMPLATE", help="template with columns in braces: 'Summarise: {text}'"
    )
    request.add_argument("--model", action="append", required=True, metavar="PROVIDER/MODEL", help="may be repeated")
    request.add_argument("--system", metavar="TEXT", help="system message")
    request.add_argument("--temperature", type=float, metavar="X")
    request.add_argument("--top-p", type=float, metavar="X")
    request.add_argument("--max-tokens", type=positive_int, metavar="N", help="maximum output tokens")
    request.add_argument("--stop", action="append", metavar="TEXT", help="stop sequence; may be repeated")
    request.add_argument("--seed", type=int, metavar="N", help="for providers that accept one")
    request.add_argument("--unsupported", choices=("error", "drop"), help="if a model does not support an option")
    request.add_argument("--n", type=positive_int, metavar="N", help="responses per row (1)")


def _connection_arguments(parser: CommandParser) -> None:
    connection = parser.add_argument_group("connection")
    cache = connection.add_mutually_exclusive_group()
    cache.add_argument("--cache", metavar="ADDRESS", help=f"instead of the default cache: {CACHE_URLS}")
    cache.add_argument("--no-cache", action="store_true", help="neither read nor write a cache")
    endpoint = connection.add_mutually_exclusive_group()
    endpoint.add_argument(
        "--simulator", type=http_url, metavar="URL", help="send all requests to a simulator (llmhub sim)"
    )
    endpoint.add_argument(
        "--base-url",
        type=provider_url,
        action="append",
        default=[],
        metavar="PROVIDER=URL",
        help="base URL of a provider",
    )
    connection.add_argument(
        "--concurrency", type=positive_int, metavar="N", help="maximum number of calls in flight (64)"
    )
    connection.add_argument("--rpm", type=positive_float, metavar="N", help="requests per minute and model")
    connection.add_argument("--tpm", type=positive_float, metavar="N", help="tokens per minute and model")
    connection.add_argument("--stream", action="store_true", default=None, help="measure the time to the first token")
    _budget_arguments(connection)


def _budget_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--budget",
        dest="budget_usd",
        type=usd_amount,
        metavar="USD",
        help="maximum cost; rows that could exceed it are not sent",
    )
    group.add_argument(
        "--allow-unpriced",
        action="store_true",
        default=None,
        help="with a budget, call models without a known price as well, uncounted",
    )


def _quiet_argument(parser: CommandParser) -> None:
    parser.add_argument("-q", "--quiet", action="store_true", help="write errors only")


def age_seconds(text: str) -> float:
    """Parse an age into seconds.

    Examples
    --------
    >>> age_seconds("90m"), age_seconds("2w")
    (5400.0, 1209600.0)
    """
    number, unit = text[:-1], UNITS_S.get(text[-1:])
    if unit is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not an age; pass a number and s, m, h, d or w, such as 30d")
    return positive_float(number) * unit


def positive_int(text: str) -> int:
    """Parse an integer of 1 or more."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of 1 or more, not {text!r}")
    return int(text)


def positive_float(text: str) -> float:
    """Parse a number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return number


def usd_amount(text: str) -> Decimal:
    """Parse an amount of US dollars, with or without the sign.

    Examples
    --------
    >>> usd_amount("$2.50")
    Decimal('2.50')
    """
    try:
        amount = Decimal(text.removeprefix("$"))
    except InvalidOperation:
        amount = Decimal(-1)
    if not amount.is_finite() or amount < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not an amount of US dollars; pass one such as 2.50")
    return amount


def http_url(text: str) -> str:
    """Parse an HTTP URL.

    Examples
    --------
    >>> http_url("http://127.0.0.1:8000/")
    'http://127.0.0.1:8000'
    """
    try:
        parts = urlsplit(text)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise argparse.ArgumentTypeError(f"{text!r} is not an HTTP URL; pass one such as http://127.0.0.1:8000")
    return text.rstrip("/")


def provider_url(text: str) -> tuple[str, str]:
    """Parse ``PROVIDER=URL``."""
    name, equals, url = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not PROVIDER=URL, such as openai=http://localhost:8000/v1")
    return name, http_url(url)
