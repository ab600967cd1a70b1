"""Scores on the command line: scorers and tasks from options, reports, and thresholds for continuous integration."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from llmhub.cli.console import print_json, print_message, print_result
from llmhub.core.errors import invalid
from llmhub.evals import scorers
from llmhub.evals.report import groups_table

if TYPE_CHECKING:
    from llmhub.evals import Comparison, Evaluation, Scorer

REPORT_VERSION: Final = 1
ROUNDING: Final = 1e-9
"""Differences of scores that are due to binary fractions."""


def build_scorer(args: argparse.Namespace, name: str) -> Scorer:
    """Return the scorer of that name, with the target column and the options that it needs.

    Raises
    ------
    BadRequestError
        An option that the scorer needs is missing.
    """
    match name:
        case "label":
            if not args.label:
                raise invalid("--label", "is missing; --scorer label needs the labels, one --label each")
            return scorers.label(args.label, args.target)
        case "regex":
            if not args.pattern:
                raise invalid("--pattern", "is missing; --scorer regex needs a regular expression")
            return scorers.regex(args.pattern)
        case "json_valid":
            return scorers.json_valid()
        case _:
            scorer: Scorer = getattr(scorers, name)(args.target)
            return scorer


def analysis_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of the analysis that were set, as keyword arguments of `llmhub.compare`."""
    options = {"group": args.group, "baseline": args.baseline_model}
    return {name: value for name, value in options.items() if value is not None}


def report_scores(args: argparse.Namespace, comparison: Comparison, result: Comparison | Evaluation) -> int:
    """Write the reports, and return 1 if a model missed a threshold."""
    baseline = {} if args.baseline is None else _read_baseline(args.baseline)
    groups = None if args.by is None else comparison.by(args.by)
    if args.json:
        print_json(_report(comparison) | ({} if groups is None else {"groups": groups.to_pylist()}))
    elif not args.quiet:
        print_result(str(result))
        if groups is not None:
            print_result(f"\n{groups_table(groups)}")
    if args.html is not None:
        print_message(args.command, f"wrote {result.write_report(args.html, by=args.by)}")
    misses = _misses(args, comparison, baseline)
    for miss in misses:
        print_message(args.command, miss)
    return 1 if misses else 0


def _report(comparison: Comparison) -> dict[str, Any]:
    return {
        "version": REPORT_VERSION,
        "scorers": list(comparison.scorers),
        "models": comparison.models.to_pylist(),
        "pairs": comparison.pairs.to_pylist(),
        "counts": comparison.counts.to_pylist(),
    }


def _misses(args: argparse.Namespace, comparison: Comparison, baseline: Mapping[tuple[str, str], float]) -> list[str]:
    """Return which models missed which threshold; a model without a score misses all of them."""
    first = comparison.scorers[0]
    misses = []
    for row in comparison.ranked(first):
        value, name = row["value"], row["model"]
        shown = "no score" if value is None else f"{value:.4g}"
        if args.fail_under is not None and (value is None or value < args.fail_under - ROUNDING):
            misses.append(f"{name}: {shown} by {first} is below --fail-under {args.fail_under:g}")
    for (name, scorer), before in baseline.items():
        now = {row["model"]: row["value"] for row in comparison.ranked(scorer)} if scorer in comparison.scorers else {}
        if name in now and (now[name] is None or now[name] < before - args.tolerance - ROUNDING):
            shown = "no score" if now[name] is None else f"{now[name]:.4g}"
            misses.append(f"{name}: {shown} by {scorer} is below {before:.4g} of the baseline")
    if args.baseline is not None and not any(
        name == row["model"] for name, scorer in baseline if scorer == first for row in comparison.ranked(first)
    ):
        misses.append(f"--baseline: {str(args.baseline)!r} has no score of these models by {first}")
    return misses


def _read_baseline(path: Path) -> dict[tuple[str, str], float]:
    """Return the scores of a report by model and scorer.

    Raises
    ------
    BadRequestError
        The file cannot be read, or is not a report.
    """
    try:
        report = msgspec.json.decode(path.read_bytes())
        return {
            (row["model"], row["metric"]): float(row["value"])
            for row in report["models"]
            if row["kind"] == "score" and row["value"] is not None
        }
    except OSError as error:
        raise invalid("--baseline", f"{str(path)!r}: {error.strerror or error}") from error
    except (msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
        raise invalid("--baseline", f"{str(path)!r} is not a report; write one with --json") from error
