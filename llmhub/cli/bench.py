"""``llmhub bench``: models as machines, under one load or several."""

from __future__ import annotations

import argparse
from typing import Any, Final

from llmhub.cli.hubs import hub_of, options_of
from llmhub.cli.terminal import say
from llmhub.core.errors import InvalidRequest, InvalidRequestError
from llmhub.engine.load import Load, concurrent, constant_rate, poisson
from llmhub.evals.bench import Bench, Measure, bench
from llmhub.evals.load_summary import Targets
from llmhub.notebook.plots import save
from llmhub.tables import files

FAILED: Final = 1


def act(given: argparse.Namespace) -> int:
    """Measure and print; write what was asked for."""
    options: Any = {name: value for name, value in options_of(given).items() if name != "concurrency"}
    measure = Measure(
        requests=given.requests,
        warmup=given.warmup,
        targets=Targets(latency_s=given.target, ttft_s=given.target_first),
    )
    if given.out is not None:
        files.format_of(given.out, "--out")
    with hub_of(given) as hub:
        found = bench(given.model, load=_loads(given), prompts=given.prompt or (), measure=measure, hub=hub, **options)
    say(str(found))
    _written(given, found)
    return 0 if all(row["ok"] == row["requests"] for row in found.summary.to_pylist()) else FAILED


def _loads(given: argparse.Namespace) -> list[Load]:
    """Read the loads, in the order: closed, constant, random."""
    loads = [concurrent(many) for many in given.workers or ()]
    loads += [constant_rate(per_s) for per_s in given.rate or ()]
    loads += [poisson(per_s, seed=given.seed or 0) for per_s in given.poisson or ()]
    return loads


def _written(given: argparse.Namespace, found: Bench) -> None:
    """Write the calls and the plot."""
    if given.out is not None:
        try:
            files.write(found.results, given.out, "--out")
        except OSError as error:
            said = f"{given.out} cannot be written: {error.strerror or error}"
            raise InvalidRequestError(InvalidRequest(path="--out", message=said)) from error
        say(f"\nwrote {given.out}  {found.results.num_rows:,} calls")
    if given.plot is not None:
        say(f"wrote {save(found.plot(), given.plot)}")
