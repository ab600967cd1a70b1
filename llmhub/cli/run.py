"""``llmhub run``: every row of a file, of every model, and the answers in a file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from llmhub.api import complete_table
from llmhub.api.sink import complete_to_sink
from llmhub.cli.console import announce_interrupt, ignore_interrupts, print_message, print_result, progress_callback
from llmhub.cli.hub_options import build_hub, collect_options
from llmhub.cli.run_summary import count_statuses, failure_summary, summary_table
from llmhub.core.errors import BadRequestError, InvalidRequest
from llmhub.tables import files, frames
from llmhub.tables.files import FILE_FORMATS
from llmhub.tables.schema import RESULTS
from llmhub.tables.streaming_io import STREAM_SUFFIX
from llmhub.tables.templates import parse_template

if TYPE_CHECKING:
    import pyarrow as pa

INTERRUPTED = 130


def act(given: argparse.Namespace) -> int:
    """Ask, write, and say what came of it."""
    # A folder that is named as a file is an oversight.
    folder = given.output.is_dir() and given.output.suffix not in FILE_FORMATS
    if folder or given.output.suffix == STREAM_SUFFIX:
        return _streamed(given)
    files.file_format(given.output, "OUTPUT")
    _expect_apart(given.input, given.output)
    source = files.read_table(given.input, "INPUT")
    if given.columns:
        frames.require_no_name_clash(source.column_names, RESULTS.names, given.prefix)
    kept = source.schema if given.columns else source.schema.empty_table().select([]).schema
    files.require_writable(frames.join_schemas(kept, RESULTS, given.prefix), given.output, "OUTPUT")
    if not parse_template(given.prompt).fields and len(source) > 1:
        print_message(
            "run", f"note: the prompt names no column, so all {len(source):,} rows ask the same; write {{column}}"
        )
    with build_hub(given) as hub, announce_interrupt("run"):
        results = complete_table(
            source,
            given.prompt,
            model=given.model,
            hub=hub,
            progress=progress_callback(quiet=given.quiet),
            **collect_options(given),
        )
    with ignore_interrupts():
        return _finish(given, source.select(kept.names), results)


def _finish(given: argparse.Namespace, source: pa.Table, results: pa.Table) -> int:
    """Write what landed, unless only all or nothing is wanted; say what is missing, and give the exit code."""
    counts = count_statuses(results)
    failed, cancelled = counts["error"], counts["cancelled"]
    held = given.on_error == "raise" and bool(failed or cancelled or counts["budget"])
    if not held:
        try:
            files.write_table(frames.join_results(source, results, given.prefix), given.output, "OUTPUT")
        except OSError as error:
            print_message("run", f"OUTPUT: {str(given.output)!r}: {error.strerror or error}; {_kept(given)}")
            return 1
    if not given.quiet:
        print_result(summary_table(results))
        if not held:
            print_result(f"\nWrote {len(results):,} rows to {given.output}")
    if counts["skipped"]:
        print_message("run", f"note: rows skipped for want of a value that the prompt needs: {counts['skipped']:,}")
    if failed:
        print_message("run", failure_summary(results))
    if held:
        print_message("run", f"no output was written (--on-error raise); {_kept(given)}")
    if counts["budget"]:
        print_message("run", f"the budget was spent: {counts['budget']:,} of {len(results):,} rows were not asked")
    if cancelled:
        print_message("run", f"interrupted: {cancelled:,} of {len(results):,} rows have no answer; {_kept(given)}")
        return INTERRUPTED
    return 1 if failed or counts["budget"] else 0


def _streamed(given: argparse.Namespace) -> int:
    """Write results as they come; the same command goes on where it ended."""
    if given.on_error == "raise":
        said = "--on-error raise needs a whole output; give a file that is not a stream"
        raise BadRequestError(InvalidRequest(path="OUTPUT", message=said))

    def shape(block: pa.Table, results: pa.Table) -> pa.Table:
        if not given.columns:
            block = block.select([])
        frames.require_no_name_clash(block.column_names, RESULTS.names, given.prefix)
        return frames.join_results(block, results, given.prefix)

    with build_hub(given) as hub, announce_interrupt("run"):
        written = complete_to_sink(
            given.output,
            given.input,
            given.prompt,
            shape,
            prefix=given.prefix,
            model=given.model,
            hub=hub,
            **collect_options(given),
        )
    many = written.statuses
    if not given.quiet:
        kept = f"; {written.reused_rows:,} rows of the input were answered there already" if written.reused_rows else ""
        print_result(f"Wrote {written.rows:,} rows to {given.output} for {written.cost_usd:f} USD{kept}")
    if many.get("error"):
        print_message("run", f"rows that failed: {many['error']:,}; the same command asks them again")
    if written.stopped:
        print_message("run", "interrupted: the same command goes on from here")
        return INTERRUPTED
    return 1 if many.get("error") or many.get("budget") else 0


def _kept(given: argparse.Namespace) -> str:
    """Say what becomes of the answers there are."""
    if given.no_cache:
        return "no cache keeps the answers (--no-cache)"
    return "the cache keeps the answers, so the same command asks only for the rest"


def _expect_apart(source: Path, target: Path) -> None:
    """Refuse to write over what is read."""
    same = source.exists() and target.exists() and source.samefile(target)
    if same or source.resolve() == target.resolve():
        said = f"{str(target)!r} is the input; give another file"
        raise BadRequestError(InvalidRequest(path="OUTPUT", message=said))
