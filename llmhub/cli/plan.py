"""``llmhub plan``: what a run would send and cost, before anything is sent."""

from __future__ import annotations

import argparse
from typing import Any

from llmhub.api import plan
from llmhub.cache.store import StoreError
from llmhub.cli.console import print_result
from llmhub.cli.hub_options import build_hub, collect_options
from llmhub.core.errors import BadRequestError, InvalidRequest
from llmhub.tables import files
from llmhub.tables.forecast import format_usd_interval as dollars


def act(given: argparse.Namespace) -> int:
    """Plan and print."""
    source = files.read_table(given.input, "INPUT")
    options: Any = collect_options(given)
    with build_hub(given) as hub:
        try:
            made = plan(source, given.prompt, model=given.model, hub=hub, pilot=given.pilot, **options)
        except StoreError as error:
            raise BadRequestError(
                InvalidRequest(path="cache", message=f"{error}; give another, or --no-cache")
            ) from error
    usd = made.usd
    cost = "at a cost that is not known" if usd is None else f"for ${dollars(usd)}"
    print_result(str(made))
    sent = f"The pilot made {made.pilot:,} calls; what it was told counts." if given.pilot else "Nothing was sent."
    print_result(f"\n{sent} A run would make {made.calls:,} calls {cost}.")
    return 0
