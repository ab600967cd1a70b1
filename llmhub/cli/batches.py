"""``llmhub batches``: list the batches at providers, show, collect or cancel them."""

from __future__ import annotations

import argparse

from llmhub.api.provider_batches import batches, find_batch
from llmhub.cli.console import print_json, print_result
from llmhub.cli.hub_options import build_hub
from llmhub.core.errors import invalid
from llmhub.hub import Hub


def run(args: argparse.Namespace) -> int:
    """Run the requested action, and return the exit code: 1 if a batch failed or is still open."""
    args.model = []
    with build_hub(args) as hub:
        if args.action == "ls":
            listed = batches(hub=hub)
            if args.json:
                print_json([batch.summary() for batch in listed])
            else:
                print_result(repr(listed))
            return 0
        return max([_act(args, hub, name) for name in _names(args, hub)], default=0)


def _names(args: argparse.Namespace, hub: Hub) -> list[str]:
    """Return the batches to act on: those named, or for ``collect`` all open ones."""
    if args.id:
        return list(args.id)
    if args.action == "collect":
        return [batch.record.token for batch in batches(hub=hub) if batch.state in {"intent", "open"}]
    raise invalid("id", f"is missing; `llmhub batches ls` lists them, and `{args.action}` takes one or more")


def _act(args: argparse.Namespace, hub: Hub, name: str) -> int:
    batch = find_batch(name, hub)
    if args.action == "cancel":
        batch = batch.cancel()
    elif args.action == "collect":
        batch = batch.collect(poll_s=args.poll) if args.wait else batch.refresh()
    elif batch.state in {"intent", "open"}:
        batch = batch.refresh()
    if args.json:
        print_json(batch.summary())
    else:
        print_result("\n".join(f"{key}: {value}" for key, value in batch.summary().items()))
    return 0 if batch.state == "collected" or args.action == "show" else 1
