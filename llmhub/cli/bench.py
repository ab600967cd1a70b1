"""``llmhub bench``: load tests of models."""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from typing import Any, Final

from llmhub.bench._run import Bench, Measure
from llmhub.bench._run import run as run_bench
from llmhub.bench.load import Load, concurrent, constant_rate, one_at_a_time, poisson
from llmhub.bench.summary import Targets
from llmhub.cli.console import print_json, print_message, print_result
from llmhub.cli.hub_options import build_hub, collect_options
from llmhub.core.errors import invalid
from llmhub.plots import save
from llmhub.tables import files

FAILED: Final = 1


def run(args: argparse.Namespace) -> int:
    """Run the load tests, print their summary, write the requested files, and return the exit code."""
    options: Any = {name: value for name, value in collect_options(args).items() if name != "concurrency"}
    measure = Measure(
        requests=args.requests,
        warmup=args.warmup,
        targets=Targets(latency_s=args.target, ttft_s=args.target_first, tpot_s=args.target_token),
        duration_s=args.duration,
        input_tokens=args.input_tokens,
        output_tokens=args.output_tokens,
    )
    if args.out is not None:
        files.file_format(args.out, "--out")
    with build_hub(args) as hub:
        result = run_bench(
            args.model, load=_loads(args), prompts=args.prompt or (), measure=measure, hub=hub, **options
        )
    if args.json:
        print_json(result.summary.to_pylist())
    else:
        print_result(str(result))
    _write(args, result)
    return 0 if all(row["ok"] == row["requests"] for row in result.summary.to_pylist()) else FAILED


def _loads(args: argparse.Namespace) -> list[Load]:
    """Return the requested loads: closed loops, then constant rates, then Poisson arrivals."""
    loads = [concurrent(count) for count in args.workers or ()]
    loads += [constant_rate(rate_per_s) for rate_per_s in args.rate or ()]
    loads += [poisson(rate_per_s, random_state=args.seed or 0) for rate_per_s in args.poisson or ()]
    ramp_s = args.ramp or 0.0
    return [replace(load, ramp_s=ramp_s) for load in loads or [one_at_a_time()]]


def _write(args: argparse.Namespace, result: Bench) -> None:
    """Write the table of calls and the plot."""
    say = partial(print_message, "bench") if args.json else print_result
    if args.out is not None:
        try:
            files.write_table(result.results, args.out, "--out")
        except OSError as error:
            raise invalid("--out", f"{args.out} cannot be written: {error.strerror or error}") from error
        say(f"wrote {args.out}  {result.results.num_rows:,} calls")
    if args.plot is not None:
        say(f"wrote {save(result.plot(), args.plot)}")
