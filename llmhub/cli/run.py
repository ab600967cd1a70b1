"""``llmhub run``: send a prompt for every row of a file to every model, and write the results to a file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

from llmhub.api import complete_table
from llmhub.api.sink import complete_to_sink
from llmhub.cli.console import announce_interrupt, ignore_interrupts, print_message, print_result, progress_callback
from llmhub.cli.hub_options import build_hub, collect_options
from llmhub.cli.run_summary import count_statuses, failure_summary, summary_table
from llmhub.core.errors import invalid
from llmhub.tables import files, frames
from llmhub.tables.files import FILE_FORMATS
from llmhub.tables.schema import RESULTS
from llmhub.tables.streaming_io import STREAM_SUFFIX

if TYPE_CHECKING:
    import pyarrow as pa

INTERRUPTED: Final = 130


def run(args: argparse.Namespace) -> int:
    """Complete the rows, write the results, print a summary, and return the exit code."""
    # A folder whose name ends like a file is taken for a mistyped file name.
    is_folder = args.output.is_dir() and args.output.suffix not in FILE_FORMATS
    if is_folder or args.output.suffix == STREAM_SUFFIX:
        return _run_to_sink(args)
    files.file_format(args.output, "OUTPUT")
    _require_different_files(args.input, args.output)
    source = files.read_table(args.input, "INPUT")
    if args.columns:
        frames.require_no_name_clash(source.column_names, RESULTS.names, args.prefix)
    kept = source.schema if args.columns else source.schema.empty_table().select([]).schema
    files.require_writable(frames.join_schemas(kept, RESULTS, args.prefix), args.output, "OUTPUT")
    with build_hub(args) as hub, announce_interrupt("run"):
        results = complete_table(
            source,
            args.prompt,
            model=args.model,
            hub=hub,
            progress=progress_callback(quiet=args.quiet),
            **collect_options(args),
        )
    with ignore_interrupts():
        return _finish(args, source.select(kept.names), results)


def _finish(args: argparse.Namespace, source: pa.Table, results: pa.Table) -> int:
    """Write the results unless ``--on-error raise`` forbids it, print a summary, and return the exit code."""
    counts = count_statuses(results)
    failed, cancelled, unbudgeted = counts["error"], counts["cancelled"], counts["budget"]
    withheld = args.on_error == "raise" and bool(failed or cancelled or unbudgeted)
    if not withheld:
        try:
            files.write_table(frames.join_results(source, results, args.prefix), args.output, "OUTPUT")
        except OSError as error:
            reason = error.strerror or error
            print_message("run", f"OUTPUT: {str(args.output)!r}: {reason}; {_cache_note(args)}")
            return 1
    if not args.quiet:
        print_result(summary_table(results))
        if not withheld:
            print_result(f"\nWrote {len(results):,} rows to {args.output}")
    if counts["skipped"]:
        print_message("run", f"note: rows skipped because a value of the prompt is missing: {counts['skipped']:,}")
    if failed:
        print_message("run", failure_summary(results))
    if withheld:
        print_message("run", f"no output was written (--on-error raise); {_cache_note(args)}")
    if unbudgeted:
        print_message("run", f"the budget was spent: {unbudgeted:,} of {len(results):,} rows were not sent")
    if cancelled:
        print_message("run", f"interrupted: {cancelled:,} of {len(results):,} rows have no answer; {_cache_note(args)}")
        return INTERRUPTED
    return 1 if failed or unbudgeted else 0


def _run_to_sink(args: argparse.Namespace) -> int:
    """Write results as they arrive. The same command continues a stopped run."""
    if args.on_error == "raise":
        raise invalid("OUTPUT", "--on-error raise needs a file that is written at the end, not a folder or a stream")

    def shape(block: pa.Table, results: pa.Table) -> pa.Table:
        if not args.columns:
            block = block.select([])
        frames.require_no_name_clash(block.column_names, RESULTS.names, args.prefix)
        return frames.join_results(block, results, args.prefix)

    with build_hub(args) as hub, announce_interrupt("run"):
        written = complete_to_sink(
            args.output,
            args.input,
            args.prompt,
            shape,
            prefix=args.prefix,
            model=args.model,
            hub=hub,
            **collect_options(args),
        )
    counts = written.statuses
    if not args.quiet:
        reused = f"; {written.reused_rows:,} input rows had results there already" if written.reused_rows else ""
        print_result(f"Wrote {written.rows:,} rows to {args.output} for {written.cost_usd:f} USD{reused}")
    if counts.get("error"):
        print_message("run", f"rows that failed: {counts['error']:,}; the same command sends them again")
    if written.stopped:
        print_message("run", "interrupted: the same command continues from here")
        return INTERRUPTED
    return 1 if counts.get("error") or counts.get("budget") else 0


def _cache_note(args: argparse.Namespace) -> str:
    """Return whether the answers so far are kept."""
    if args.no_cache:
        return "answers are not cached (--no-cache)"
    return "answers are cached, so the same command sends the other rows only"


def _require_different_files(source: Path, target: Path) -> None:
    """Raise if the output would overwrite the input."""
    same = source.exists() and target.exists() and source.samefile(target)
    if same or source.resolve() == target.resolve():
        raise invalid("OUTPUT", f"{str(target)!r} is the input file; pass another file")
