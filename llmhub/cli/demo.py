"""``llmhub demo``: the main job on simulated providers, over real HTTP, with what comes of it in a folder."""

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
from llmhub.core.errors import BadRequestError, InvalidRequest
from llmhub.core.provider import Endpoint
from llmhub.engine.retry import Retry
from llmhub.formatting.numbers import format_usd as money
from llmhub.hub import Hub
from llmhub.plots import save
from llmhub.plots.bars import cost_by_model
from llmhub.plots.latency import latency_ecdf
from llmhub.providers.registry import PROVIDERS
from llmhub.sim import FAKE_PROVIDERS, Faults, Latency, Simulator, serving
from llmhub.tables import files, frames

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.axes import Axes

INTERRUPTED: Final = 130
MAX_TOKENS: Final = 300
"""Tokens of a real answer at most."""
NEXT: Final = """Your own rows, rehearsed first on a simulator that costs nothing:
  llmhub sim --port 8000 &
  llmhub run rows.csv answers.parquet --prompt '{column}' --model PROVIDER/MODEL \\
      --simulator http://127.0.0.1:8000"""


@dataclass(frozen=True, slots=True)
class DemoModel:
    """A model that plays in the demo, and how long its simulated answers take."""

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
"""How long other models take."""
FAULT_ROWS: Final[Mapping[int, str]] = {
    16: "[[sim:500 always]]",
    41: "[[sim:429 once]]",
    67: "[[sim:malformed always]]",
    88: "[[sim:reset once]]",
}
"""Rows, and what the simulator is told to do with their questions."""


def act(given: argparse.Namespace) -> int:
    """Ask, write, draw, and say what came of it."""
    if given.rows > MAX_PROMPTS:
        raise BadRequestError(InvalidRequest(path="--rows", message=f"{given.rows} is outside 1..{MAX_PROMPTS}"))
    folder = _folder(given.out)
    frame = demo_prompts(given.rows)
    with ExitStack() as stack:
        if given.real:
            hub, models = _real(given)
        else:
            hub, models = stack.enter_context(_simulated(given))
            frame["question"] = [_with_fault(row, text) for row, text in enumerate(frame["question"])]
        for model in models:
            hub.target(model)
        stack.enter_context(hub)
        stack.enter_context(announce_interrupt("demo"))
        options: Any = {"max_tokens": MAX_TOKENS} if given.real else {}
        if not given.quiet:
            print_result(
                f"{given.rows:,} questions x {len(models)} models = {given.rows * len(models):,} calls over HTTP."
            )
            print_result(_cost_notice(given, hub, frame, models))
        results = complete_table(
            frame, TEMPLATE, model=models, hub=hub, progress=progress_callback(quiet=given.quiet), **options
        )
    with ignore_interrupts():
        written = _write(folder, frame, results, simulated_run=not given.real)
    if not given.quiet:
        _print_summary(results, written, simulated_run=not given.real)
    counts = count_statuses(results)
    if counts["cancelled"]:
        print_message("demo", f"interrupted: {counts['cancelled']:,} of {len(results):,} rows have no answer")
        return INTERRUPTED
    return 1 if given.real and counts["error"] else 0


def _folder(out: Path) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        said = f"{str(out)!r}: cannot be made: {error.strerror or error}"
        raise BadRequestError(InvalidRequest(path="--out", message=said)) from error
    return out


@contextmanager
def _simulated(given: argparse.Namespace) -> Iterator[tuple[Hub, Sequence[str]]]:
    """Run a simulator for each provider, since each has its own pace; give a hub that reaches nobody else."""
    paces = {part.model: part.latency for part in DEMO_MODELS}
    models = given.model or list(paces)
    there: dict[str, Endpoint] = {}
    with ExitStack() as stack:
        for model in models:
            name = model.partition("/")[0]
            if name in FAKE_PROVIDERS and name not in there:
                settings = Simulator(
                    seed=given.seed, latency=paces.get(model, DEFAULT_LATENCY), faults=Faults(retry_after_s=0.3)
                )
                there[name] = stack.enter_context(serving(settings)).endpoints()[name]
        found = simulated_settings(config.load_settings(), there, models)
        yield Hub(settings=found, retry=Retry(attempts=3, base_s=0.2)), models


def _real(given: argparse.Namespace) -> tuple[Hub, Sequence[str]]:
    """Give a hub of the real providers, and those models whose keys are set."""
    found = config.load_settings()
    ours = [part.model for part in DEMO_MODELS if found.sources.get(part.model.partition("/")[0])]
    if not given.model and not ours:
        needs = [PROVIDERS[part.model.partition("/")[0]].required_env[0][0] for part in DEMO_MODELS]
        said = f"no key is set; set {' or '.join(needs)}, or leave --real out: the simulator needs none"
        raise BadRequestError(InvalidRequest(path="--real", message=said))
    return Hub(settings=found), given.model or ours


def _cost_notice(given: argparse.Namespace, hub: Hub, frame: Mapping[str, Sequence[str]], models: Sequence[str]) -> str:
    """Say who is asked, and what that costs."""
    if not given.real:
        return (
            "Simulated providers on loopback: nothing leaves this machine and nothing is paid. The costs below\n"
            "are what the real models would charge for such token counts. (--real asks the real ones.)\n"
        )
    # The price of every answer at its longest.
    usd = plan(frame, TEMPLATE, model=models, hub=hub, max_tokens=MAX_TOKENS).usd
    cost = "what that costs is not known" if usd is None else f"it costs {money(float(usd.high))} at most"
    return f"Real providers: {', '.join(models)}; {cost}.\n"


def _with_fault(row: int, question: str) -> str:
    return f"{question} {FAULT_ROWS[row]}" if row in FAULT_ROWS else question


def _write(
    folder: Path, frame: Mapping[str, Sequence[str]], results: pa.Table, *, simulated_run: bool
) -> list[tuple[Path, str]]:
    """Write the tables and the plots, which say when they show a simulation; give what they are."""
    table, asked = folder / "results.parquet", folder / "questions.csv"
    files.write_table(results, table, "--out")
    files.write_table(frames.pandas_or_arrow(frame), asked, "--out")
    spent, took = cost_by_model(results), latency_ecdf(results)
    if simulated_run:
        _note(spent, "simulated: what the real models would charge")
        _note(took, "simulated")
    cost, latency = save(spent, folder / "cost.png"), save(took, folder / "latency.png")
    return [
        (table, f"{len(results):,} rows x {results.num_columns} columns, one a call"),
        (asked, "the questions"),
        (cost, "what each model costs"),
        (latency, "how long each takes"),
    ]


def _note(ax: Axes, note: str) -> None:
    """Put a note at the right above a plot, in the subtitle's line, and say of nothing that it was paid."""
    place: Any = {"xycoords": "axes fraction", "textcoords": "offset points", "annotation_clip": False}
    ax.annotate(note, (1, 1), xytext=(0, 8), ha="right", fontsize=9, style="italic", **place)
    title = ax.get_title(loc="left")
    for text in ax.findobj(lambda each: getattr(each, "get_text", str)() == title):
        text.set(text=title.removesuffix(" paid"))


def _print_summary(results: pa.Table, written: Sequence[tuple[Path, str]], *, simulated_run: bool) -> None:
    """Print the summary, what went wrong, and where everything is."""
    print_result(f"\n{summary_table(results)}\n")
    if count_statuses(results)["error"]:
        print_result(failure_summary(results))
        if simulated_run:
            print_result(
                "(On purpose: their questions tell the simulator to fail, as [[sim:500 always]] does. A failed row"
            )
            print_result("costs no other row anything; its status, error_type and error columns say what happened.)")
        print_result("")
    wide = max(len(str(path)) for path, _ in written)
    for path, about in written:
        print_result(f"wrote {str(path).ljust(wide)}  {about}")
    print_result(f"\n{NEXT}")
