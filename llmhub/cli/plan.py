"""``llmhub plan``: what a run would send and cost, before anything is sent."""

from __future__ import annotations

import argparse
from typing import Any

from llmhub.api import plan
from llmhub.cache.store import StoreError
from llmhub.cli.hubs import hub_of, options_of
from llmhub.cli.terminal import say
from llmhub.core.errors import InvalidRequest, InvalidRequestError
from llmhub.tables import files
from llmhub.tables.layout import money as dollars


def act(given: argparse.Namespace) -> int:
    """Plan and print."""
    source = files.read(given.input, "INPUT")
    options: Any = options_of(given)
    with hub_of(given) as hub:
        try:
            made = plan(source, given.prompt, model=given.model, hub=hub, pilot=given.pilot, **options)
        except StoreError as error:
            raise InvalidRequestError(
                InvalidRequest(path="cache", message=f"{error}; give another, or --no-cache")
            ) from error
    usd = made.usd
    cost = "at a cost that is not known" if usd is None else f"for ${dollars(usd)}"
    say(str(made))
    sent = f"The pilot made {made.pilot:,} calls; what it was told counts." if given.pilot else "Nothing was sent."
    say(f"\n{sent} A run would make {made.calls:,} calls {cost}.")
    return 0
