"""``llmhub bench``: models as machines, under one load or several."""

from __future__ import annotations

import argparse
from typing import Any, Final

from llmhub.bench._run import Bench, Measure, run
from llmhub.bench.load import Load, concurrent, constant_rate, poisson
from llmhub.bench.summary import Targets
from llmhub.cli.console import print_result
from llmhub.cli.hub_options import build_hub, collect_options
from llmhub.core.errors import BadRequestError, InvalidRequest
from llmhub.plots import save
from llmhub.tables import files

FAILED: Final = 1


def act(given: argparse.Namespace) -> int:
    """Measure and print; write what was asked for."""
    options: Any = {name: value for name, value in collect_options(given).items() if name != "concurrency"}
    measure = Measure(
        requests=given.requests,
        warmup=given.warmup,
        targets=Targets(latency_s=given.target, ttft_s=given.target_first),
    )
    if given.out is not None:
        files.file_format(given.out, "--out")
    with build_hub(given) as hub:
        found = run(given.model, load=_loads(given), prompts=given.prompt or (), measure=measure, hub=hub, **options)
    print_result(str(found))
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
            files.write_table(found.results, given.out, "--out")
        except OSError as error:
            said = f"{given.out} cannot be written: {error.strerror or error}"
            raise BadRequestError(InvalidRequest(path="--out", message=said)) from error
        print_result(f"\nwrote {given.out}  {found.results.num_rows:,} calls")
    if given.plot is not None:
        print_result(f"wrote {save(found.plot(), given.plot)}")
