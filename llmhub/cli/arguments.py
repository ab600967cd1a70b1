"""The arguments of every command. Nothing heavy is imported here, so that ``-h`` and mistakes are answered at once."""

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
"""Options that shape an answer."""
RUN_FLAGS: Final = ("n", "concurrency", "stream", "budget_usd", "allow_unpriced")
"""Options that shape a run."""
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
    "      --simulator http://127.0.0.1:8000      (a rehearsal: see llmhub sim)",
    "plan": "llmhub plan reviews.csv --prompt 'Summarise: {text}' --model openai/gpt-4o-mini --max-tokens 200",
    "sim": "llmhub sim --port 8000 --latency 0.2",
    "bench": "llmhub bench --model openai/gpt-4o-mini --model anthropic/claude-haiku-4-5\n"
    "  llmhub bench --model openai/gpt-4o-mini --workers 1 --workers 8 --workers 32 --target 2 --plot load.png",
    "doctor": "llmhub doctor\n  llmhub doctor --simulator http://127.0.0.1:8000",
    "cache": "llmhub cache stats\n  llmhub cache export --model 'openai/*' --out answers.parquet\n"
    "  llmhub cache purge --older-than 90d --yes\n  llmhub cache verify --cache redis://localhost:6379/0",
}
CODES: Final = (
    "exit codes:\n  0  every row was answered    1  some rows failed, the output says which\n"
    "  2  nothing was sent: wrong usage or input    130  interrupted, what landed was written"
)


class CommandParser(argparse.ArgumentParser):
    """A parser that says what is wrong in a line."""

    def error(self, message: str) -> NoReturn:
        """Say it, and where help is."""
        self.exit(2, f"{self.prog}: {message.removeprefix('argument ')}\nSee '{self.prog} -h'.\n")


def build_parser() -> CommandParser:
    """Describe the command line."""
    about = "Ask many models about every row of a table, and get one table back."
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
    parser.add_argument("--out", type=Path, default=Path("demo"), metavar="DIR", help="folder to write (%(default)s)")
    parser.add_argument("--rows", type=positive_int, default=120, metavar="N", help="prompts (%(default)s)")
    parser.add_argument("--model", action="append", metavar="PROVIDER/MODEL", help="instead of the demo's own; repeat")
    parser.add_argument("--seed", type=int, default=7, help="decides what the simulator says (%(default)s)")
    parser.add_argument(
        "--real", action="store_true", help="ask the real providers whose keys are set; this costs money"
    )
    _quiet(parser)


def _run(parser: CommandParser) -> None:
    parser.add_argument("input", type=Path, metavar="INPUT", help=FILE_TYPES)
    parser.add_argument(
        "output",
        type=Path,
        metavar="OUTPUT",
        help="the same kinds, the input's columns beside the answers'; a folder (Parquet parts) or a file ending with "
        ".arrows is written as answers come, holds no more in memory, and is gone on with by the same command",
    )
    _question(parser)
    rows = parser.add_argument_group("the output")
    rows.add_argument(
        "--columns",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="the input's columns beside the answers' (yes)",
    )
    rows.add_argument("--prefix", default="", metavar="TEXT", help="put before the names of the answers' columns")
    rows.add_argument(
        "--on-error",
        choices=("row", "raise"),
        default="row",
        help="a failed row says so in the output (row), or there is no output at all unless every row is answered "
        "(raise); the cache keeps what was answered",
    )
    _connection(parser)
    _quiet(parser)


def _plan(parser: CommandParser) -> None:
    parser.add_argument("input", type=Path, metavar="INPUT", help=FILE_TYPES)
    parser.add_argument(
        "--pilot",
        type=positive_int,
        default=0,
        metavar="N",
        help="ask so many rows of each model to find out: needs credentials, costs money, counts towards the run",
    )
    _question(parser)
    _connection(parser)


def _bench(parser: CommandParser) -> None:
    parser.add_argument("--model", action="append", required=True, metavar="PROVIDER/MODEL", help="repeat for several")
    shape = parser.add_argument_group("the load, or several; one call at a time unless given")
    shape.add_argument(
        "--workers", type=positive_int, action="append", metavar="N", help="calls under way; repeat to sweep"
    )
    shape.add_argument(
        "--rate", type=positive_float, action="append", metavar="PER_S", help="calls a second, evenly apart"
    )
    shape.add_argument("--poisson", type=positive_float, action="append", metavar="PER_S", help="the same, at random")
    shape.add_argument(
        "--requests", type=positive_int, default=100, metavar="N", help="calls of each load (%(default)s)"
    )
    shape.add_argument("--warmup", type=int, default=3, metavar="N", help="calls before, left out (%(default)s)")
    shape.add_argument("--target", type=positive_float, metavar="S", help="seconds that a good answer takes at most")
    shape.add_argument("--target-first", type=positive_float, metavar="S", help="seconds to its first token at most")
    asked = parser.add_argument_group("the question")
    asked.add_argument("--prompt", action="append", metavar="TEXT", help="instead of short explanations; repeat")
    asked.add_argument("--max-tokens", type=positive_int, metavar="N", help="longest answer (256)")
    asked.add_argument("--temperature", type=float, metavar="X")
    asked.add_argument("--seed", type=int, metavar="N", help="of random gaps, and for providers that take one")
    kept = parser.add_argument_group("the output")
    kept.add_argument("--out", type=Path, metavar="FILE", help=f"write every call: {FILE_TYPES}")
    kept.add_argument("--plot", type=Path, metavar="FILE", help="draw latency over load: .png, .svg or .pdf")
    _connection(parser)


def _sim(parser: CommandParser) -> None:
    """Leave its arguments to the simulator, which has a command line of its own."""


def _doctor(parser: CommandParser) -> None:
    parser.add_argument("--json", action="store_true", help="write JSON")
    parser.add_argument("--simulator", type=http_url, metavar="URL", help="look at a simulator instead")


def _cache(parser: CommandParser) -> None:
    parser.add_argument(
        "action",
        choices=("stats", "ls", "export", "purge", "verify", "clear"),
        help="what it holds; its newest answers; answers as rows; take some out; can all be read back; take all out",
    )
    parser.add_argument("--cache", metavar="ADDRESS", help=f"instead of the default cache: {CACHE_URLS}")
    parser.add_argument(
        "--older-than", type=age_seconds, metavar="AGE", help="only answers older than this: 90m, 12h, 30d, 2w"
    )
    parser.add_argument("--model", metavar="PROVIDER/MODEL", help="only this model's; * stands for anything")
    parser.add_argument("--damaged", action="store_true", help="only answers that cannot be read back")
    parser.add_argument(
        "--limit", type=positive_int, default=20, metavar="N", help="answers that ls shows (%(default)s)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"write the export here: {FILE_TYPES}")
    parser.add_argument("--yes", action="store_true", help="do purge or clear")


COMMANDS: Final = {
    "demo": ("ask simulated providers 120 questions, and see what comes of it", _demo),
    "run": ("ask models about every row of a file", _run),
    "plan": ("say what a run would send and cost; nothing is sent", _plan),
    "bench": ("measure models as machines: tokens, times and cost under a load", _bench),
    SIM_COMMAND: ("simulated providers on loopback, to rehearse on (llmhub sim -h)", _sim),
    "doctor": ("say which providers can be asked, and what is missing", _doctor),
    "cache": ("say what the cache holds, check it, export it, take something out", _cache),
}
"""What each does in a line, and its arguments."""


def _question(parser: CommandParser) -> None:
    asked = parser.add_argument_group("the question")
    asked.add_argument(
        "--prompt", required=True, metavar="TEMPLATE", help="with columns in braces: 'Summarise: {text}'"
    )
    asked.add_argument("--model", action="append", required=True, metavar="PROVIDER/MODEL", help="repeat for several")
    asked.add_argument("--system", metavar="TEXT", help="system turn before each prompt")
    asked.add_argument("--temperature", type=float, metavar="X")
    asked.add_argument("--top-p", type=float, metavar="X")
    asked.add_argument("--max-tokens", type=positive_int, metavar="N", help="longest answer")
    asked.add_argument("--stop", action="append", metavar="TEXT", help="ends an answer; repeat for several")
    asked.add_argument("--seed", type=int, metavar="N", help="for providers that take one")
    asked.add_argument("--unsupported", choices=("error", "drop"), help="what to do with an option a model lacks")
    asked.add_argument("--n", type=positive_int, metavar="N", help="answers a row (1)")


def _connection(parser: CommandParser) -> None:
    way = parser.add_argument_group("the way there")
    kept = way.add_mutually_exclusive_group()
    kept.add_argument(
        "--cache", metavar="ADDRESS", help=f"keep answers here instead of the default cache: {CACHE_URLS}"
    )
    kept.add_argument("--no-cache", action="store_true", help="neither look answers up nor keep them")
    where = way.add_mutually_exclusive_group()
    where.add_argument("--simulator", type=http_url, metavar="URL", help="ask a simulator (llmhub sim) for every model")
    where.add_argument(
        "--base-url", type=provider_url, action="append", default=[], metavar="PROVIDER=URL", help="reach it elsewhere"
    )
    way.add_argument("--concurrency", type=positive_int, metavar="N", help="calls under way at once (64)")
    way.add_argument("--rpm", type=positive_float, metavar="N", help="requests a minute, for each model")
    way.add_argument("--tpm", type=positive_float, metavar="N", help="tokens a minute, for each model")
    way.add_argument("--stream", action="store_true", default=None, help="measure the time to the first token")
    _budget(way)


def _budget(way: argparse._ArgumentGroup) -> None:
    way.add_argument(
        "--budget",
        dest="budget_usd",
        type=usd_amount,
        metavar="USD",
        help="what it may cost; rows that could exceed it are not asked",
    )
    way.add_argument(
        "--allow-unpriced",
        action="store_true",
        default=None,
        help="with a budget, ask models of unknown price, too, uncounted",
    )


def _quiet(parser: CommandParser) -> None:
    parser.add_argument("-q", "--quiet", action="store_true", help="say only what went wrong")


def age_seconds(text: str) -> float:
    """Read an age in seconds.

    Examples
    --------
    >>> age_seconds("90m"), age_seconds("2w")
    (5400.0, 1209600.0)
    """
    number, unit = text[:-1], UNITS_S.get(text[-1:])
    if unit is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no age; give a number and s, m, h, d or w, such as 30d")
    return positive_float(number) * unit


def positive_int(text: str) -> int:
    """Read a whole number from 1 up."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 up")
    return int(text)


def positive_float(text: str) -> float:
    """Read a number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return number


def usd_amount(text: str) -> Decimal:
    """Read an amount of US dollars, with or without the sign.

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
        raise argparse.ArgumentTypeError(f"{text!r} is no amount of dollars; give one such as 2.50")
    return amount


def http_url(text: str) -> str:
    """Read an HTTP address.

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
        raise argparse.ArgumentTypeError(f"{text!r} is no address; give one such as http://127.0.0.1:8000")
    return text.rstrip("/")


def provider_url(text: str) -> tuple[str, str]:
    """Read ``PROVIDER=URL``."""
    name, equals, url = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not PROVIDER=URL, such as openai=http://localhost:8000/v1")
    return name, http_url(url)
