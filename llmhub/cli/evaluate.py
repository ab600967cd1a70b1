"""``llmhub evaluate``: run a task with several models, score the answers, and compare the models."""

from __future__ import annotations

import argparse
from typing import Any

from llmhub.cli.console import announce_interrupt, print_message, progress_callback
from llmhub.cli.hub_options import build_hub, collect_options
from llmhub.cli.score_report import analysis_options, report_scores
from llmhub.core.errors import invalid
from llmhub.datasets import freeze
from llmhub.evals import Task, evaluate, tasks
from llmhub.tables import locations


def run(args: argparse.Namespace) -> int:
    """Print the comparison, and return the exit code."""
    task = _build_task(args)
    source = locations.read_rows(args.input, "INPUT")
    options: Any = {
        **collect_options(args),
        **analysis_options(args),
        "progress": progress_callback(quiet=args.quiet or args.json),
    }
    with build_hub(args) as hub, announce_interrupt("evaluate"):
        evaluation = evaluate(source, task, args.model, hub=hub, **options)
        if args.freeze is not None:
            print_message("evaluate", f"froze {args.freeze}: {freeze(evaluation, args.freeze).digest}")
    return report_scores(args, evaluation.comparison, evaluation)


def _build_task(args: argparse.Namespace) -> Task:
    """Return the task of the options.

    Raises
    ------
    BadRequestError
        The task needs labels, and none is given.
    """
    columns: dict[str, Any] = {} if args.target is None else {"target": args.target}
    text = "text" if args.task == "classification" else "question"
    if args.text is not None:
        columns[text] = args.text
    match args.task:
        case "classification":
            if not args.label:
                raise invalid("--label", "is missing; --task classification needs the labels, one --label each")
            return tasks.classification(args.label, **columns)
        case "choice":
            return tasks.choice(**columns, **({"options": args.label} if args.label else {}))
        case "arc" | "gsm8k" | "mmlu":
            if columns or args.label:
                raise invalid(
                    "--task", f"{args.task!r} reads the columns of its dataset; remove --text, --target and --label"
                )
            task: Task = getattr(tasks, args.task)()
            return task
        case _:
            return tasks.numeric(**columns)
