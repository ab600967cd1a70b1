"""``llmhub plan``: what a run would send and cost."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from llmhub.api import plan
from llmhub.cache.store import StoreError
from llmhub.cli.console import print_json, print_result
from llmhub.cli.hub_options import build_hub, collect_options
from llmhub.core.errors import invalid
from llmhub.tables import locations
from llmhub.tables.forecast import format_expected_usd

if TYPE_CHECKING:
    from llmhub.tables.plan import Plan


def run(args: argparse.Namespace) -> int:
    """Print the plan of a run, and return the exit code."""
    source = locations.read_rows(args.input, "INPUT")
    options: Any = collect_options(args)
    with build_hub(args) as hub:
        try:
            estimate = plan(source, args.prompt, model=args.model, hub=hub, pilot=args.pilot, **options)
        except StoreError as error:
            raise invalid("cache", f"{error}; pass another cache, or --no-cache") from error
    if args.json:
        print_json(_to_json(estimate))
        return 0
    cost = "at an unknown cost" if estimate.usd is None else f"for ${format_expected_usd(estimate.usd)}"
    print_result(str(estimate))
    sent = (
        f"The pilot made {estimate.pilot:,} calls; the run will reuse their responses."
        if args.pilot
        else "Nothing was sent."
    )
    print_result(f"\n{sent} A run would make {estimate.calls:,} calls {cost}.")
    return 0


def _to_json(estimate: Plan) -> dict[str, Any]:
    """Return a plan as JSON values, with its totals."""
    totals = {"calls": estimate.calls, "usd": None if estimate.usd is None else asdict(estimate.usd)}
    return {**asdict(estimate), **totals}
