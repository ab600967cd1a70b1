"""Argument parsers of all commands.

Only the standard library is imported here, so that ``-h`` and usage errors are answered at once. The file is long
because all commands are in it, which share most of their options.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Collection, Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit

from llmhub import __version__
from llmhub.cli.color import shows_color

SIM_COMMAND: Final = "sim"
HELP_FORMATTER: Final = argparse.RawDescriptionHelpFormatter
REQUEST_FLAGS: Final = ("system", "temperature", "top_p", "max_tokens", "stop", "seed", "unsupported")
"""Options that are request parameters."""
BATCH_FLAGS: Final = ("mode", "late", "deadline", "batch_tokens", "batch_storage", "batch_role")
RUN_FLAGS: Final = ("n", "concurrency", "stream", "budget_usd", "allow_unpriced", *BATCH_FLAGS)
"""Options of the execution of a run."""
URL: Final = re.compile("[a-z][a-z0-9+.-]+://", re.IGNORECASE)
FILE_TYPES: Final = ".csv, .jsonl, .ndjson, .parquet, .arrow, .feather or .ipc"
CACHE_URLS: Final = "a file, sqlite:///..., redis://..."
UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
EXAMPLES: Final = {
    "": "llmhub demo\n  llmhub run reviews.csv answers.parquet --prompt 'Summarise: {text}' --model openai/gpt-4o-mini",
    "complete": "llmhub complete 'Say hi' -m openai/gpt-4o-mini\n"
    "  git diff | llmhub complete 'Write a commit message:' -m anthropic/claude-haiku-4-5",
    "demo": "llmhub demo --out demo\n"
    "  llmhub demo --rows 300 --model openai/gpt-4o-mini --model google/gemini-2.5-flash",
    "run": "llmhub run reviews.csv answers.parquet --prompt 'Summarise: {text}' \\\n"
    "      --model openai/gpt-4o-mini --model anthropic/claude-haiku-4-5\n"
    "  llmhub run reviews.csv answers.csv --prompt 'Summarise: {text}' --model openai/gpt-4o-mini \\\n"
    "      --simulator http://127.0.0.1:8000      (against a simulator: see llmhub sim)\n"
    "  llmhub run reviews.csv answers.csv --prompt 'Summarise: {text}' --model openai/gpt-4o-mini \\\n"
    "      --service https://llm.team.example     (at a service of the team: see llmhub serve)",
    "embed": "llmhub embed articles.csv vectors.parquet --prompt '{title}: {body}' \\\n"
    "      --model openai/text-embedding-3-small",
    "plan": "llmhub plan reviews.csv --prompt 'Summarise: {text}' --model openai/gpt-4o-mini --max-tokens 200",
    "evaluate": "llmhub evaluate reviews.csv --task classification --label good --label bad -m openai/gpt-4o-mini\n"
    "  llmhub evaluate sums.jsonl --task numeric -m openai/gpt-4o-mini --fail-under 0.9 --freeze runs/today",
    "compare": "llmhub compare questions.csv -p '{question}' -m openai/gpt-4o-mini -m google/gemini-2.5-flash \\\n"
    "      --scorer exact --target answer --json > report.json\n"
    "  llmhub compare questions.csv -p '{question}' -m openai/gpt-4o-mini --scorer exact --target answer \\\n"
    "      --baseline report.json --fail-under 0.8",
    "freeze": "llmhub freeze answers.parquet runs/today",
    "verify": "llmhub verify runs/today --expect SHA256",
    "replay": "llmhub replay runs/today",
    "diff": "llmhub diff runs/yesterday runs/today",
    "models": "llmhub models anthropic\n  llmhub models --json | jq '.[] | select(.input_usd_per_mtok < 0.2)'",
    "dashboards": "llmhub dashboards export monitoring",
    "deploy": "llmhub deploy export deployment",
    "completion": "llmhub completion bash > ~/.local/share/bash-completion/completions/llmhub\n"
    "  llmhub completion zsh > ~/.zfunc/_llmhub",
    "sim": "llmhub sim --port 8000 --latency 0.2",
    "bench": "llmhub bench --model openai/gpt-4o-mini --model anthropic/claude-haiku-4-5\n"
    "  llmhub bench --model openai/gpt-4o-mini --workers 1 --workers 8 --workers 32 --target 2 --plot load.png",
    "serve": "llmhub serve\n  llmhub serve --port 0 --simulator http://127.0.0.1:8000 --cache none\n"
    "  llmhub serve --config /etc/llmhub.toml --check",
    "keys": "llmhub keys create --name ada --team research --budget-per-month 50\n  llmhub keys list\n"
    "  llmhub keys rotate k7x2m4n8p3qa --grace 1d",
    "doctor": "llmhub doctor\n  llmhub doctor --simulator http://127.0.0.1:8000",
    "credentials": "llmhub credentials set openai\n  llmhub credentials list\n  llmhub credentials rotate openai",
    "batches": "llmhub batches ls\n  llmhub batches collect --wait\n  llmhub batches cancel batch_6780bb2f",
    "cache": "llmhub cache stats\n  llmhub cache export --model 'openai/*' --out answers.parquet\n"
    "  llmhub cache purge --older-than 90d --yes\n  llmhub cache verify --cache redis://localhost:6379/0",
}
CODES: Final = {
    "run": "exit codes:\n  0  every row was answered    1  some rows failed, as their status column shows\n"
    "  2  wrong usage or input, nothing was sent    130  interrupted, the answers so far were written",
    **dict.fromkeys(
        ("evaluate", "compare"),
        "exit codes:\n  0  no threshold was missed    1  a model scored below --fail-under, or below --baseline\n"
        "  2  wrong usage or input, nothing was sent    130  interrupted",
    ),
    "verify": "exit codes:\n  0  unchanged    1  changed    2  wrong usage, or not a frozen dataset",
    "replay": "exit codes:\n  0  the same results    1  other results    2  wrong usage, or not a frozen dataset",
    "diff": "exit codes:\n  0  the same    1  different    2  wrong usage or input",
}
SCORERS: Final = (
    "exact",
    "normalised",
    "contains",
    "numeric",
    "choice",
    "label",
    "json_valid",
    "json_equal",
    "regex",
    "math",
)
TASKS: Final = ("classification", "choice", "numeric", "arc", "gsm8k", "mmlu")
SHELLS: Final = ("bash", "zsh", "tcsh")


class CommandParser(argparse.ArgumentParser):
    """Parser that reports a usage error in one line, and colours its help where a terminal shows colours."""

    def format_help(self) -> str:
        """Return the help, with headings and options in colour if standard output shows colours."""
        text = super().format_help()
        return color_help(text) if shows_color(is_terminal=sys.stdout.isatty()) else text

    def error(self, message: str) -> NoReturn:
        """Exit with the error and a reference to the help."""
        self.exit(2, f"{self.prog}: {message.removeprefix('argument ')}\nSee '{self.prog} -h'.\n")


def build_parser(command: str = "") -> CommandParser:
    """Return the parser of the command line; if ``command`` is one, only that one's arguments are described."""
    about = "Send a prompt for every row of a table to one or more models, and get one table back."
    parser = CommandParser(
        prog="llmhub", description=about, epilog=_epilog(""), formatter_class=HELP_FORMATTER, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"llmhub {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=CommandParser)
    for name, (short, describe) in COMMANDS.items():
        subparser = commands.add_parser(
            name,
            help=short,
            description=short[0].upper() + short[1:] + ".",
            epilog=_epilog(name),
            formatter_class=HELP_FORMATTER,
            allow_abbrev=False,
        )
        if name == command or command not in COMMANDS:
            describe(subparser)
    return parser


def _epilog(name: str) -> str:
    return f"examples:\n  {EXAMPLES[name]}" + (f"\n\n{CODES[name]}" if name in CODES else "")


def color_help(text: str) -> str:
    r"""Colour the headings of a help text, and the options and commands at the beginning of a line.

    Examples
    --------
    >>> color_help("options:\n  -h, --help  show").replace("\x1b", "E")
    'E[1moptions:E[0m\n  E[36m-h, --helpE[0m  show'
    """
    text = re.sub(r"(?m)^([a-z][^\n:]*:)(?=$| )", "\x1b[1m\\1\x1b[0m", text)
    return re.sub(r"(?m)^(  (?:-|  (?=[a-z]+(?:  |$))))(.*?)(?=  |$)", _colored, text)


def _colored(match: re.Match[str]) -> str:
    indent = len(match[0]) - len(match[0].lstrip())
    return f"{match[0][:indent]}\x1b[36m{match[0][indent:]}\x1b[0m"


def _complete(parser: CommandParser) -> None:
    parser.add_argument(
        "prompt", nargs="?", metavar="PROMPT", help="text of the prompt; standard input is added below it if piped"
    )
    request = parser.add_argument_group("request")
    request.add_argument("-m", "--model", required=True, metavar="PROVIDER/MODEL")
    request.add_argument("--messages", type=Path, metavar="FILE", help="JSON conversation, sent before the prompt")
    request.add_argument("--image", action="append", metavar="FILE", help="path or URL of an image; may be repeated")
    request.add_argument("--schema", type=Path, metavar="FILE", help="JSON schema of the answer")
    _parameter_arguments(request)
    parser.add_argument("--json", action="store_true", help="write the answer with cost, tokens and times as JSON")
    parser.add_argument("--no-stream", action="store_true", help="write the answer when it is complete")
    connection = parser.add_argument_group("connection")
    _cache_arguments(connection)
    _endpoint_arguments(connection)
    _budget_arguments(connection)


def _demo(parser: CommandParser) -> None:
    parser.add_argument(
        "-o", "--out", type=Path, default=Path("demo"), metavar="DIR", help="output folder (%(default)s)"
    )
    parser.add_argument("--rows", type=positive_int, default=120, metavar="N", help="number of prompts (%(default)s)")
    parser.add_argument(
        "-m",
        "--model",
        action="append",
        metavar="PROVIDER/MODEL",
        help="instead of the models of the demo; may be repeated",
    )
    parser.add_argument("--seed", type=int, default=7, help="seed of the simulated answers (%(default)s)")
    parser.add_argument(
        "--real", action="store_true", help="call the real providers whose keys are set; this costs money"
    )
    _quiet_argument(parser)


def _run(parser: CommandParser) -> None:
    parser.add_argument("input", type=location, metavar="INPUT", help=FILE_TYPES)
    parser.add_argument(
        "output",
        type=location,
        nargs="?",
        metavar="OUTPUT",
        help="a file of the same types, with the input columns beside the results; a folder (of Parquet files) or a "
        "file ending in .arrows is written during the run, with little memory, and continued by the same command",
    )
    _request_arguments(parser)
    content = parser.add_argument_group("structured output and content")
    kind = content.add_mutually_exclusive_group()
    kind.add_argument("--schema", type=Path, metavar="FILE", help="JSON schema of the answers, parsed into a column")
    kind.add_argument(
        "--labels", type=comma_separated, metavar="A,B", help="answer with one of these labels, in the column `label`"
    )
    content.add_argument("--images", metavar="COLUMN", help="column of images: paths or URLs")
    content.add_argument("--messages", metavar="COLUMN", help="column of conversations, sent before the prompt")
    output = parser.add_argument_group("output")
    output.add_argument(
        "-o", "--output", type=location, dest="output_option", metavar="OUTPUT", help="instead of OUTPUT"
    )
    output.add_argument(
        "--columns",
        type=comma_separated,
        nargs="?",
        const=True,
        default=True,
        metavar="A,B",
        help="columns to write, of the input and of the results (all)",
    )
    output.add_argument(
        "--no-columns", dest="columns", action="store_false", help="write the result columns without the input columns"
    )
    output.add_argument("--prefix", default="", metavar="TEXT", help="prefix of the names of the result columns")
    output.add_argument(
        "--on-error",
        choices=("row", "raise"),
        default="row",
        help="record failed rows in the output (row), or write no output unless every row is answered (raise); answers "
        "are cached in both cases",
    )
    _batch_arguments(parser)
    _connection_arguments(parser)
    _quiet_argument(parser)


def _batch_arguments(parser: CommandParser) -> None:
    batch = parser.add_argument_group("batches")
    batch.add_argument(
        "--batch",
        dest="mode",
        action="store_const",
        const="batch",
        help="send the rows through the provider's Batch API: cheaper, within a day; the same command goes on waiting",
    )
    batch.add_argument("--late", choices=("wait", "live", "error"), help="rows that a batch did not process (wait)")
    batch.add_argument("--deadline", metavar="TIME", help="when rows of a batch are late: 90m, 6h, 1d")
    batch.add_argument(
        "--batch-tokens", type=positive_int, metavar="N", help="estimated prompt tokens of a batch, at most"
    )
    batch.add_argument(
        "--batch-storage", metavar="URL", help="bucket and folder for Bedrock (s3://) and Vertex AI (gs://)"
    )
    batch.add_argument("--batch-role", metavar="ARN", help="role by which Bedrock reads and writes the storage")


def _embed(parser: CommandParser) -> None:
    parser.add_argument("input", type=location, metavar="INPUT", help=FILE_TYPES)
    parser.add_argument("output", type=local_path, metavar="OUTPUT", help=FILE_TYPES)
    request = parser.add_argument_group("request")
    request.add_argument(
        "-p", "--prompt", required=True, metavar="TEMPLATE", help="a column, or a template: '{title}: {body}'"
    )
    request.add_argument("-m", "--model", required=True, metavar="PROVIDER/MODEL")
    request.add_argument("--dimensions", type=positive_int, metavar="N", help="length of the vectors (the model's own)")
    request.add_argument("--kind", choices=("document", "query"), help="what the texts are to a search")
    request.add_argument("--batch-size", type=positive_int, metavar="N", help="maximum texts of a request (256)")
    output = parser.add_argument_group("output")
    output.add_argument("--all-columns", action="store_true", help="write every column of the results")
    output.add_argument("--prefix", default="", metavar="TEXT", help="prefix of the names of the result columns")
    _batch_arguments(parser)
    _connection_arguments(parser, streams=False)
    _quiet_argument(parser)


def _plan(parser: CommandParser) -> None:
    parser.add_argument("input", type=location, metavar="INPUT", help=FILE_TYPES)
    parser.add_argument(
        "--pilot",
        type=positive_int,
        default=0,
        metavar="N",
        help="send N rows to each model to improve the estimate: needs credentials, costs money, is reused by the run",
    )
    parser.add_argument("--json", action="store_true", help="write JSON")
    _request_arguments(parser)
    _batch_arguments(parser)
    _connection_arguments(parser)


def _evaluate(parser: CommandParser) -> None:
    parser.add_argument("input", type=location, metavar="INPUT", help=FILE_TYPES)
    task = parser.add_argument_group("task")
    task.add_argument("--task", choices=TASKS, required=True, help="prompt and scoring")
    task.add_argument("--text", metavar="COLUMN", help="column of the text or question")
    task.add_argument("--target", metavar="COLUMN", help="column of the correct answer")
    task.add_argument("--label", action="append", metavar="LABEL", help="label or option; may be repeated")
    _models_argument(task)
    _parameter_arguments(task)
    _threshold_arguments(parser)
    parser.add_argument("--freeze", type=Path, metavar="DIR", help="write a frozen dataset (see llmhub freeze)")
    _connection_arguments(parser)
    _quiet_argument(parser)


def _compare(parser: CommandParser) -> None:
    parser.add_argument(
        "input", type=location, metavar="INPUT", help=f"rows, or without --prompt results of llmhub run: {FILE_TYPES}"
    )
    request = parser.add_argument_group("request")
    request.add_argument("-p", "--prompt", metavar="TEMPLATE", help="template with columns in braces: 'Answer: {text}'")
    request.add_argument("-m", "--model", action="append", metavar="PROVIDER/MODEL", help="may be repeated")
    _parameter_arguments(request)
    scoring = parser.add_argument_group("scoring")
    scoring.add_argument(
        "--scorer", action="append", required=True, choices=SCORERS, help="may be repeated; the first one ranks"
    )
    scoring.add_argument("--target", default="target", metavar="COLUMN", help="column of the answer (%(default)s)")
    scoring.add_argument("--label", action="append", metavar="LABEL", help="label of --scorer label; may be repeated")
    scoring.add_argument("--pattern", metavar="REGEX", help="pattern of --scorer regex")
    _threshold_arguments(parser)
    parser.add_argument("--freeze", type=Path, metavar="DIR", help="write a frozen dataset (see llmhub freeze)")
    _connection_arguments(parser)
    _quiet_argument(parser)


def _threshold_arguments(parser: CommandParser) -> None:
    analysis = parser.add_argument_group("analysis")
    analysis.add_argument("--group", metavar="COLUMN", help="column of clusters of rows that depend on each other")
    analysis.add_argument("--baseline-model", metavar="MODEL", help="compare the other models with this one only")
    report = parser.add_argument_group("report and thresholds")
    report.add_argument("--json", action="store_true", help="write JSON")
    report.add_argument("--html", type=Path, metavar="FILE", help="write a report with all responses as one HTML file")
    report.add_argument("--by", metavar="COLUMN", help="also report the scores of each group of rows")
    report.add_argument(
        "--fail-under", type=float, metavar="SCORE", help="exit with 1 if a model scores less by the first scorer"
    )
    report.add_argument(
        "--baseline",
        type=Path,
        metavar="FILE",
        help="report of an earlier run (--json); exit with 1 if a model scores less than it did there",
    )
    report.add_argument(
        "--tolerance", type=float, default=0.0, metavar="SCORE", help="how much less than the baseline (%(default)s)"
    )


def _freeze(parser: CommandParser) -> None:
    parser.add_argument(
        "results", type=local_path, metavar="RESULTS", help="file with input and results that run has written"
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="new folder")
    parser.add_argument("--layout", choices=("parquet", "jsonl"), default="parquet", help="format of the rows")
    parser.add_argument("--overwrite", action="store_true", help="replace a frozen dataset in the folder")
    parser.add_argument("--signing-key", type=Path, metavar="FILE", help="Ed25519 private key (PEM)")


def _verify(parser: CommandParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="frozen dataset")
    parser.add_argument("--expect", metavar="SHA256", help="digest that freeze printed")
    parser.add_argument("--public-key", type=Path, metavar="FILE", help="Ed25519 public key of the signer (PEM)")


def _replay(parser: CommandParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="frozen dataset; nothing is sent")


def _diff(parser: CommandParser) -> None:
    source = "frozen dataset, or file of results with their inputs"
    parser.add_argument("before", type=local_path, metavar="BEFORE", help=source)
    parser.add_argument("after", type=local_path, metavar="AFTER", help=source)
    parser.add_argument("--json", action="store_true", help="write JSON")
    parser.add_argument(
        "--fail-on",
        choices=("any", "regression"),
        default="any",
        help="exit with 1 if anything differs, or only if a score is significantly lower (%(default)s)",
    )


def _models(parser: CommandParser) -> None:
    parser.add_argument("provider", nargs="*", metavar="PROVIDER", help="all if omitted")
    parser.add_argument("--json", action="store_true", help="write JSON")


def _exported(parser: CommandParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    export = actions.add_parser("export", help="write the files to a folder")
    export.add_argument("folder", type=Path, metavar="DIR", help="folder to write to; made if it is not there")


def _completion(parser: CommandParser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="shell to write a completion script for")


def _bench(parser: CommandParser) -> None:
    parser.add_argument(
        "-m", "--model", action="append", required=True, metavar="PROVIDER/MODEL", help="may be repeated"
    )
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
    load.add_argument(
        "--ramp", type=positive_float, metavar="S", help="seconds in which each load rises to its full size"
    )
    load.add_argument("--requests", type=positive_int, default=100, metavar="N", help="calls per load (%(default)s)")
    load.add_argument("--duration", type=positive_float, metavar="S", help="end each load after so many seconds")
    load.add_argument("--warmup", type=int, default=3, metavar="N", help="calls before the measurement (%(default)s)")
    load.add_argument("--target", type=positive_float, metavar="S", help="target latency in seconds")
    load.add_argument(
        "--target-first", type=positive_float, metavar="S", help="target time to the first token in seconds"
    )
    load.add_argument(
        "--target-token", type=positive_float, metavar="S", help="target time per output token in seconds"
    )
    request = parser.add_argument_group("request")
    request.add_argument(
        "-p", "--prompt", action="append", metavar="TEXT", help="instead of short explanations; may be repeated"
    )
    request.add_argument("--max-tokens", type=positive_int, metavar="N", help="maximum output tokens (256)")
    request.add_argument(
        "--input-tokens", type=positive_int, metavar="N", help="length of every prompt, of random words"
    )
    request.add_argument(
        "--output-tokens",
        type=positive_int,
        metavar="N",
        help="length of every response, as far as the server keeps it",
    )
    request.add_argument("--temperature", type=float, metavar="X", help="randomness, from 0")
    request.add_argument(
        "--seed", type=int, metavar="N", help="seed of random intervals, and of providers that accept one"
    )
    output = parser.add_argument_group("output")
    output.add_argument("-o", "--out", type=Path, metavar="FILE", help=f"write a table of all calls: {FILE_TYPES}")
    output.add_argument("--plot", type=Path, metavar="FILE", help="plot latency over load: .png, .svg or .pdf")
    output.add_argument("--json", action="store_true", help="write the summary as JSON")
    _connection_arguments(parser)


def _sim(parser: CommandParser) -> None:
    """Add nothing, because the simulator parses its own arguments."""


def _serve(parser: CommandParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings (llmhub.toml in the working directory)")
    parser.add_argument("--host", metavar="ADDRESS", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, metavar="N", help="port to listen on (8080); 0 for any free one")
    parser.add_argument("--grpc-port", type=int, metavar="N", help="serve gRPC too, on this port; 0 for any free one")
    parser.add_argument("--flight-port", type=int, metavar="N", help="serve Arrow Flight too, on this port; 0 likewise")
    parser.add_argument("--simulator", metavar="URL", help="send nothing to real providers, but to this simulator")
    parser.add_argument("--cache", metavar="URL", help=f"{CACHE_URLS}, or none")
    parser.add_argument("--keys", action="store_true", default=None, help="require keys (see llmhub keys)")
    parser.add_argument("--check", action="store_true", help="check the settings, and exit")


def _doctor(parser: CommandParser) -> None:
    parser.add_argument("--json", action="store_true", help="write JSON")
    parser.add_argument("--simulator", type=http_url, metavar="URL", help="check a simulator instead of the providers")


SELECTION: Final = ("--cache", "--simulated", "--older-than", "--model", "--damaged")
CACHE_ACTIONS: Final[Mapping[str, tuple[str, Collection[str]]]] = {
    "stats": ("count the responses of each model", (*SELECTION, "--json")),
    "ls": ("list the newest responses", (*SELECTION, "--limit", "--json")),
    "export": ("write responses as rows", (*SELECTION, "--out")),
    "purge": ("delete some responses", (*SELECTION, "--yes")),
    "verify": ("check for damaged responses", SELECTION),
    "clear": ("delete all responses", ("--cache", "--simulated", "--yes")),
}
"""What each action of ``llmhub cache`` does, and the options in its help."""
CACHE_OPTIONS: Final = (*SELECTION, "--limit", "--out", "--yes", "--json")


def _cache(parser: CommandParser) -> None:
    _cache_options(parser, shown=CACHE_OPTIONS)
    parser.set_defaults(cache=None, simulated=False, older_than=None, model=None, damaged=False, limit=20)
    parser.set_defaults(out=None, yes=False, json=False)
    actions = parser.add_subparsers(dest="action", metavar=f"{{{','.join(CACHE_ACTIONS)}}}", parser_class=CommandParser)
    for name, (short, options) in CACHE_ACTIONS.items():
        action = actions.add_parser(name, help=short, description=f"{short[0].upper()}{short[1:]}.", allow_abbrev=False)
        _cache_options(action, shown=options)


def _cache_options(parser: CommandParser, shown: Collection[str]) -> None:
    """Add the options of all actions, because each takes those of the others; only those ``shown`` are in its help."""

    def add(group: argparse._ActionsContainer, *flags: str, text: str, **options: Any) -> None:
        # Suppressed defaults keep what was given before the action.
        shown_text = text if flags[-1] in shown else argparse.SUPPRESS
        group.add_argument(*flags, help=shown_text, default=argparse.SUPPRESS, **options)

    location = parser.add_mutually_exclusive_group()
    add(location, "--cache", metavar="ADDRESS", text=f"instead of the default cache: {CACHE_URLS}")
    add(location, "--simulated", action="store_true", text="the cache of simulated responses")
    add(
        parser,
        "--older-than",
        type=age_seconds,
        metavar="AGE",
        text="only responses older than this: 90m, 12h, 30d, 2w",
    )
    add(parser, "-m", "--model", metavar="PROVIDER/MODEL", text="only this model; * matches any characters")
    add(parser, "--damaged", action="store_true", text="only responses that cannot be decoded")
    add(parser, "--limit", type=positive_int, metavar="N", text="number of responses that ls shows (20)")
    add(parser, "-o", "--out", type=Path, metavar="FILE", text=f"output file of export: {FILE_TYPES}")
    add(parser, "--yes", action="store_true", text="confirm purge or clear")
    add(parser, "--json", action="store_true", text="write JSON (stats, ls)")


BATCH_ACTIONS: Final = {
    "ls": "list the batches that the cache remembers",
    "show": "ask the providers for the state of batches",
    "collect": "store the answers of batches that have ended",
    "cancel": "cancel batches, and store what they have answered",
}
"""What each action of ``llmhub batches`` does."""


def _batches(parser: CommandParser) -> None:
    parser.add_argument(
        "action", choices=tuple(BATCH_ACTIONS), help="; ".join(f"{k}: {v}" for k, v in BATCH_ACTIONS.items())
    )
    parser.add_argument(
        "id", nargs="*", metavar="ID", help="id of a batch, or its beginning; collect takes all without"
    )
    parser.add_argument("--wait", action="store_true", help="wait until the batches to collect have ended")
    parser.add_argument("--poll", type=positive_float, default=30.0, metavar="S", help="seconds between polls (30)")
    parser.add_argument("--json", action="store_true", help="write JSON")
    connection = parser.add_argument_group("connection")
    _cache_arguments(connection)
    _endpoint_arguments(connection)


KEY_ACTIONS: Final = {
    "create": "make a key, and write it: nothing shows it again",
    "list": "list the keys, with what they have spent",
    "revoke": "revoke a key for good",
    "rotate": "make a new secret for a key, and write it",
}
"""What each action of ``llmhub keys`` does."""


def _keys(parser: CommandParser) -> None:
    actions = parser.add_subparsers(
        dest="action", required=True, metavar=f"{{{','.join(KEY_ACTIONS)}}}", parser_class=CommandParser
    )
    for name, short in KEY_ACTIONS.items():
        action = actions.add_parser(name, help=short, description=f"{short[0].upper()}{short[1:]}.", allow_abbrev=False)
        if name in {"revoke", "rotate"}:
            action.add_argument("id", metavar="ID", help="id of the key")
        if name == "create":
            _new_key_arguments(action)
        if name == "rotate":
            action.add_argument("--grace", type=age_seconds, metavar="AGE", help="accept the old one as well: 1h, 1d")
        if name != "revoke":
            action.add_argument("--json", action="store_true", help="write JSON")
        action.add_argument("--config", type=Path, metavar="FILE", help="settings of the service (llmhub.toml)")
        action.add_argument("--store", metavar="URL", help="where keys are kept: a file, sqlite:///..., redis://...")


def _new_key_arguments(parser: CommandParser) -> None:
    parser.add_argument("--name", metavar="NAME", help="whose key it is, or what for")
    parser.add_argument("--team", metavar="NAME", help="its team (default)")
    parser.add_argument("--scope", dest="scopes", action="append", metavar="NAME", help="what it may be used for")
    parser.add_argument(
        "-m", "--model", dest="models", action="append", metavar="PATTERN", help="models it may use (*)"
    )
    parser.add_argument("--expires", dest="expires_in_s", type=age_seconds, metavar="AGE", help="such as 12h, 30d")
    parser.add_argument("--rpm", type=positive_float, metavar="N", help="requests a minute")
    parser.add_argument("--tpm", type=positive_float, metavar="N", help="tokens a minute")
    parser.add_argument("--budget", dest="budget_usd", type=usd_amount, metavar="USD", help="budget in all")
    for period in ("day", "month"):
        field = f"budget_usd_per_{period}"
        parser.add_argument(f"--budget-per-{period}", dest=field, type=usd_amount, metavar="USD", help=f"per {period}")
    parser.add_argument("--weight", type=positive_float, metavar="X", help="share among keys that wait (1)")
    parser.add_argument(
        "--cache-scope", choices=("key", "team", "all"), help="who shares its cached responses (as the settings say)"
    )
    parser.add_argument("--must-sign", action="store_true", default=None, help="accept signed requests only")


CREDENTIAL_ACTIONS: Final = {
    "set": "store a credential of a provider, read from a prompt or standard input",
    "list": "list the providers with stored credentials",
    "rm": "remove a provider",
    "rotate": "replace a stored credential; without a provider, encrypt the file with a new key",
}
"""What each action of ``llmhub credentials`` does."""


def _credentials(parser: CommandParser) -> None:
    parser.add_argument(
        "action", choices=tuple(CREDENTIAL_ACTIONS), help="; ".join(f"{k}: {v}" for k, v in CREDENTIAL_ACTIONS.items())
    )
    parser.add_argument("provider", nargs="?", metavar="PROVIDER", help="such as openai")
    parser.add_argument(
        "--field", default="api_key", metavar="NAME", help="credential to store (api_key); for AWS access_key_id, ..."
    )
    parser.add_argument(
        "--file", type=Path, metavar="FILE", help="encrypted file (LLMHUB_CREDENTIALS_FILE, or in the user's folder)"
    )
    parser.add_argument(
        "--passphrase", action="store_true", help="encrypt with a passphrase instead of a key in the system's keyring"
    )
    parser.add_argument("--json", action="store_true", help="write JSON (list)")


COMMANDS: Final = {
    "complete": ("send one prompt, and write the answer", _complete),
    "demo": ("run 120 prompts against simulated providers, and write tables and plots", _demo),
    "run": ("send a prompt for every row of a file to one or more models", _run),
    "embed": ("embed a text for every row of a file", _embed),
    "plan": ("estimate what a run would send and cost; nothing is sent", _plan),
    "evaluate": ("run a task with several models, score and compare them", _evaluate),
    "compare": ("score models on the same rows, and compare them", _compare),
    "freeze": ("write results as a dataset that can be verified and replayed", _freeze),
    "verify": ("check whether a frozen dataset is unchanged", _verify),
    "replay": ("run a frozen evaluation again from its own answers", _replay),
    "diff": ("compare two runs row by row", _diff),
    "models": ("list models with a known price", _models),
    "bench": ("load-test models: latency, throughput and cost", _bench),
    SIM_COMMAND: ("simulate providers on this machine (llmhub sim -h)", _sim),
    "serve": ("run the hub as a service: the APIs of OpenAI, Anthropic and Gemini before any model", _serve),
    "keys": ("make, list, revoke and rotate the keys of a service", _keys),
    "doctor": ("check which providers are available, and what is missing", _doctor),
    "batches": ("list, collect or cancel batches at providers", _batches),
    "credentials": ("store credentials in an encrypted file, list, remove or rotate them", _credentials),
    "cache": ("inspect, check, export or delete cached responses", _cache),
    "dashboards": ("write dashboards for Grafana, and rules for Prometheus", _exported),
    "deploy": ("write a container file, manifests and a compose file for the service", _exported),
    "completion": ("write a script that completes commands in a shell", _completion),
}
"""Description of each command, and the function that adds its arguments."""


def _request_arguments(parser: CommandParser) -> None:
    request = parser.add_argument_group("request")
    request.add_argument(
        "-p", "--prompt", required=True, metavar="TEMPLATE", help="template with columns in braces: 'Summarise: {text}'"
    )
    _models_argument(request)
    _parameter_arguments(request)
    request.add_argument("--n", type=positive_int, metavar="N", help="responses per row (1)")


def _models_argument(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-m", "--model", action="append", required=True, metavar="PROVIDER/MODEL", help="may be repeated"
    )


def _parameter_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--system", metavar="TEXT", help="system message")
    group.add_argument("--temperature", type=float, metavar="X", help="randomness, from 0")
    group.add_argument("--top-p", type=float, metavar="X", help="share of the most probable tokens to choose from")
    group.add_argument("--max-tokens", type=positive_int, metavar="N", help="maximum output tokens")
    group.add_argument("--stop", action="append", metavar="TEXT", help="stop sequence; may be repeated")
    group.add_argument("--seed", type=int, metavar="N", help="for providers that accept one")
    group.add_argument("--unsupported", choices=("error", "drop"), help="if a model does not support an option")


def _connection_arguments(parser: CommandParser, *, streams: bool = True) -> None:
    connection = parser.add_argument_group("connection")
    _cache_arguments(connection)
    _endpoint_arguments(connection)
    connection.add_argument(
        "--concurrency", type=positive_int, metavar="N", help="maximum number of calls in flight (64)"
    )
    connection.add_argument("--rpm", type=positive_float, metavar="N", help="requests per minute and model")
    connection.add_argument("--tpm", type=positive_float, metavar="N", help="tokens per minute and model")
    if streams:
        connection.add_argument(
            "--stream", action="store_true", default=None, help="measure the time to the first token"
        )
    _budget_arguments(connection)


def _cache_arguments(group: argparse._ArgumentGroup) -> None:
    cache = group.add_mutually_exclusive_group()
    cache.add_argument("--cache", metavar="ADDRESS", help=f"instead of the default cache: {CACHE_URLS}")
    cache.add_argument("--no-cache", action="store_true", help="neither read nor write a cache")


def _endpoint_arguments(group: argparse._ArgumentGroup) -> None:
    endpoint = group.add_mutually_exclusive_group()
    endpoint.add_argument(
        "--simulator", type=http_url, metavar="URL", help="send all requests to a simulator (llmhub sim)"
    )
    endpoint.add_argument(
        "--service",
        type=http_url,
        metavar="URL",
        help="make all calls at a service (llmhub serve), with the key in LLMHUB_SERVICE_KEY",
    )
    endpoint.add_argument(
        "--base-url",
        type=provider_url,
        action="append",
        default=[],
        metavar="PROVIDER=URL",
        help="base URL of a provider",
    )


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


def local_path(text: str) -> Path:
    """Return a path; a URL is refused, and not shown, since it may have a password."""
    if URL.match(text):
        raise argparse.ArgumentTypeError("is a URL; pass the path of a file or folder of this computer")
    return Path(text)


def location(text: str) -> Path | str:
    """Return the URL of an object store or a pattern of file names as text, and anything else as a path."""
    is_url = URL.match(text) is not None
    is_pattern = re.search(r"[*?\[]", text) is not None and not Path(text).exists()
    return text if is_url or is_pattern else Path(text)


def comma_separated(text: str) -> list[str]:
    """Parse names that commas separate.

    Examples
    --------
    >>> comma_separated("good, bad")
    ['good', 'bad']
    """
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text!r} has an empty name; pass names separated by commas, such as a,b")
    return names


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
