"""``llmhub compare``: score models on the same rows, and compare them."""

from __future__ import annotations

import argparse
from typing import Any

from llmhub.cli.console import announce_interrupt, print_message, progress_callback
from llmhub.cli.hub_options import build_hub, collect_options
from llmhub.cli.score_report import analysis_options, build_scorer, report_scores
from llmhub.core.errors import invalid
from llmhub.datasets import freeze
from llmhub.evals import compare
from llmhub.tables import locations


def run(args: argparse.Namespace) -> int:
    """Print the comparison, and return the exit code."""
    if bool(args.prompt) != bool(args.model):
        missing = "--model" if args.prompt else "--prompt"
        raise invalid(missing, "is missing; pass both --prompt and --model, or neither for a file of results")
    args.model = args.model or []
    scorers = [build_scorer(args, name) for name in args.scorer]
    source = locations.read_rows(args.input, "INPUT")
    analysis = analysis_options(args)
    options: Any = {**collect_options(args), **analysis}
    with build_hub(args) as hub, announce_interrupt("compare"):
        if args.prompt:
            options["progress"] = progress_callback(quiet=args.quiet or args.json)
            comparison = compare(source, args.prompt, model=args.model, scorers=scorers, hub=hub, **options)
        else:
            comparison = compare(source, scorers=scorers, hub=hub, **analysis)
        if args.freeze is not None:
            print_message("compare", f"froze {args.freeze}: {freeze(comparison, args.freeze).digest}")
    return report_scores(args, comparison, comparison)
