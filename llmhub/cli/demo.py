"""``llmhub demo``: a complete run against simulated providers over real HTTP, with tables and plots in a folder."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llmhub import config
from llmhub.api import complete_table, plan
from llmhub.cli.console import announce_interrupt, ignore_interrupts, print_message, print_result, progress_callback
from llmhub.cli.demo_prompts import MAX_PROMPTS, TEMPLATE, demo_prompts
from llmhub.cli.hub_options import simulated_settings
from llmhub.cli.run_summary import count_statuses, failure_summary, summary_table
from llmhub.core.errors import invalid
from llmhub.core.provider import Endpoint
from llmhub.engine.retry import Retry
from llmhub.formatting.numbers import format_usd
from llmhub.hub import Hub
from llmhub.plots import cost_by_model, latency_ecdf, save
from llmhub.providers.registry import PROVIDERS
from llmhub.sim import SIMULATED, Faults, Latency, Simulator, serving
from llmhub.tables import files, frames

if TYPE_CHECKING:
    import pyarrow as pa

INTERRUPTED: Final = 130
MAX_TOKENS: Final = 300
"""Maximum output tokens of a real call."""
NEXT_STEPS: Final = """Try your own rows against a simulator, which costs nothing:
  llmhub sim --port 8000 &
  llmhub run rows.csv answers.parquet --prompt '{column}' --model PROVIDER/MODEL \\
      --simulator http://127.0.0.1:8000"""


@dataclass(frozen=True, slots=True)
class DemoModel:
    """A model of the demo, and its latency when it is simulated."""

    model: str
    latency: Latency


DEMO_MODELS: Final = (
    DemoModel("openai/gpt-4o-mini", Latency(0.34, 0.35)),
    DemoModel("anthropic/claude-haiku-4-5", Latency(0.52, 0.28)),
    DemoModel("google/gemini-2.5-flash", Latency(0.30, 0.60)),
    DemoModel("bedrock/amazon.nova-lite-v1:0", Latency(0.22, 0.25)),
    DemoModel("azure/gpt-4o", Latency(0.75, 0.40)),
)
DEFAULT_LATENCY: Final = Latency(0.4, 0.4)
"""Latency of simulated models that are not in `DEMO_MODELS`."""
FAULT_ROWS: Final[Mapping[int, str]] = {
    16: "[[sim:500 always]]",
    41: "[[sim:429 once]]",
    67: "[[sim:malformed always]]",
    88: "[[sim:reset once]]",
}
"""Instructions to the simulator that are appended to the prompts of some rows, so that the demo shows failures."""


def run(args: argparse.Namespace) -> int:
    """Run the demo, write tables and plots, print a summary, and return the exit code."""
    if args.rows > MAX_PROMPTS:
        raise invalid("--rows", f"must be between 1 and {MAX_PROMPTS}, not {args.rows}")
    folder = _create_folder(args.out)
    frame = demo_prompts(args.rows)
    with ExitStack() as stack:
        if args.real:
            hub, models = _real_hub(args)
        else:
            hub, models = stack.enter_context(_simulated_hub(args))
            frame["question"] = [_with_fault(row, text) for row, text in enumerate(frame["question"])]
        for model in models:
            hub.target(model)
        stack.enter_context(hub)
        stack.enter_context(announce_interrupt("demo"))
        options: Any = {"max_tokens": MAX_TOKENS} if args.real else {}
        if not args.quiet:
            calls = args.rows * len(models)
            print_result(f"{args.rows:,} questions x {len(models)} models = {calls:,} calls over HTTP.")
            print_result(_cost_notice(args, hub, frame, models))
        results = complete_table(
            frame, TEMPLATE, model=models, hub=hub, progress=progress_callback(quiet=args.quiet), **options
        )
    with ignore_interrupts():
        written = _write_files(folder, frame, results)
    if not args.quiet:
        _print_summary(results, written, simulated=not args.real)
    counts = count_statuses(results)
    if counts["cancelled"]:
        print_message("demo", f"interrupted: {counts['cancelled']:,} of {len(results):,} rows have no answer")
        return INTERRUPTED
    return 1 if args.real and counts["error"] else 0


def _create_folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise invalid("--out", f"{str(path)!r}: cannot be created: {error.strerror or error}") from error
    return path


@contextmanager
def _simulated_hub(args: argparse.Namespace) -> Iterator[tuple[Hub, Sequence[str]]]:
    """Start a simulator per provider, because each has its own latency, and yield a hub and the models."""
    latencies = {demo_model.model: demo_model.latency for demo_model in DEMO_MODELS}
    models = args.model or list(latencies)
    simulated: dict[str, Endpoint] = {}
    with ExitStack() as stack:
        for model in models:
            name = model.partition("/")[0]
            if name in SIMULATED and name not in simulated:
                simulator = Simulator(
                    seed=args.seed, latency=latencies.get(model, DEFAULT_LATENCY), faults=Faults(retry_after_s=0.3)
                )
                simulated[name] = stack.enter_context(serving(simulator)).endpoints()[name]
        settings = simulated_settings(config.load_settings(), simulated, models)
        yield Hub(settings=settings, retry=Retry(attempts=3, base_s=0.2)), models


def _real_hub(args: argparse.Namespace) -> tuple[Hub, Sequence[str]]:
    """Return a hub of the real providers, and the models whose credentials are set."""
    settings = config.load_settings()
    names = [demo_model.model for demo_model in DEMO_MODELS]
    available = [model for model in names if settings.sources.get(model.partition("/")[0])]
    if not args.model and not available:
        variables = [PROVIDERS[model.partition("/")[0]].required_env[0][0] for model in names]
        raise invalid("--real", f"no key is set; set {' or '.join(variables)}, or omit --real to use the simulator")
    return Hub(settings=settings), args.model or available


def _cost_notice(args: argparse.Namespace, hub: Hub, frame: Mapping[str, Sequence[str]], models: Sequence[str]) -> str:
    """Return which providers are called, and the maximum cost."""
    if not args.real:
        return (
            "Simulated providers on this machine: nothing is sent elsewhere and nothing is billed. Costs are what\n"
            "the real models would charge for these token counts. (--real calls the real ones.)\n"
        )
    # Estimated as if every answer had the maximum length.
    usd = plan(frame, TEMPLATE, model=models, hub=hub, max_tokens=MAX_TOKENS).usd
    cost = "the cost is unknown" if usd is None else f"at most {format_usd(usd.high)}"
    return f"Real providers: {', '.join(models)}; {cost}.\n"


def _with_fault(row: int, question: str) -> str:
    return f"{question} {FAULT_ROWS[row]}" if row in FAULT_ROWS else question


def _write_files(folder: Path, frame: Mapping[str, Sequence[str]], results: pa.Table) -> list[tuple[Path, str]]:
    """Write tables and plots, and return each path with a description."""
    results_path, questions_path = folder / "results.parquet", folder / "questions.csv"
    files.write_table(results, results_path, "--out")
    files.write_table(frames.pandas_or_arrow(frame), questions_path, "--out")
    return [
        (results_path, f"{len(results):,} rows x {results.num_columns} columns, one row per call"),
        (questions_path, "the questions"),
        (save(cost_by_model(results), folder / "cost.png"), "cost by model"),
        (save(latency_ecdf(results), folder / "latency.png"), "latency by model"),
    ]


def _print_summary(results: pa.Table, written: Sequence[tuple[Path, str]], *, simulated: bool) -> None:
    """Print totals, failures, and the written files."""
    print_result(f"\n{summary_table(results)}\n")
    if count_statuses(results)["error"]:
        print_result(failure_summary(results))
        if simulated:
            print_result("(Intended: these prompts tell the simulator to fail, with [[sim:500 always]] for example. A")
            print_result("failed row does not affect others; see its columns status, error_type and error.)")
        print_result("")
    width = max(len(str(path)) for path, _ in written)
    for path, description in written:
        print_result(f"wrote {str(path).ljust(width)}  {description}")
    print_result(f"\n{NEXT_STEPS}")
