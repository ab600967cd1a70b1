"""``llmhub run``: every row of a file, of every model, and the answers in a file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from llmhub.api import complete_table
from llmhub.api.writing import complete_into
from llmhub.cli.hubs import hub_of, options_of
from llmhub.cli.summary import count_statuses, failures, summary
from llmhub.cli.terminal import complain, interruptible, progress, say, uninterrupted
from llmhub.core.errors import InvalidRequest, InvalidRequestError
from llmhub.tables import files, kinds
from llmhub.tables.formats import FORMATS
from llmhub.tables.schema import RESULTS
from llmhub.tables.sinks import STREAM
from llmhub.tables.templates import parse

if TYPE_CHECKING:
    import pyarrow as pa

INTERRUPTED = 130


def act(given: argparse.Namespace) -> int:
    """Ask, write, and say what came of it."""
    # A folder that is named as a file is an oversight.
    folder = given.output.is_dir() and given.output.suffix not in FORMATS
    if folder or given.output.suffix == STREAM:
        return _streamed(given)
    files.format_of(given.output, "OUTPUT")
    _expect_apart(given.input, given.output)
    source = files.read(given.input, "INPUT")
    if given.columns:
        kinds.clash_free(source.column_names, RESULTS.names, given.prefix)
    kept = source.schema if given.columns else source.schema.empty_table().select([]).schema
    files.expect_writable(kinds.joined_schema(kept, RESULTS, given.prefix), given.output, "OUTPUT")
    if not parse(given.prompt).fields and len(source) > 1:
        complain("run", f"note: the prompt names no column, so all {len(source):,} rows ask the same; write {{column}}")
    with hub_of(given) as hub, interruptible("run"):
        results = complete_table(
            source,
            given.prompt,
            model=given.model,
            hub=hub,
            progress=progress(quiet=given.quiet),
            **options_of(given),
        )
    with uninterrupted():
        return _finish(given, source.select(kept.names), results)


def _finish(given: argparse.Namespace, source: pa.Table, results: pa.Table) -> int:
    """Write what landed, unless only all or nothing is wanted; say what is missing, and give the exit code."""
    counts = count_statuses(results)
    failed, cancelled = counts["error"], counts["cancelled"]
    held = given.on_error == "raise" and bool(failed or cancelled or counts["budget"])
    if not held:
        try:
            files.write(files.beside(source, results, given.prefix), given.output, "OUTPUT")
        except OSError as error:
            complain("run", f"OUTPUT: {str(given.output)!r}: {error.strerror or error}; {_kept(given)}")
            return 1
    if not given.quiet:
        say(summary(results))
        if not held:
            say(f"\nWrote {len(results):,} rows to {given.output}")
    if counts["skipped"]:
        complain("run", f"note: rows skipped for want of a value that the prompt needs: {counts['skipped']:,}")
    if failed:
        complain("run", failures(results))
    if held:
        complain("run", f"no output was written (--on-error raise); {_kept(given)}")
    if counts["budget"]:
        complain("run", f"the budget was spent: {counts['budget']:,} of {len(results):,} rows were not asked")
    if cancelled:
        complain("run", f"interrupted: {cancelled:,} of {len(results):,} rows have no answer; {_kept(given)}")
        return INTERRUPTED
    return 1 if failed or counts["budget"] else 0


def _streamed(given: argparse.Namespace) -> int:
    """Write results as they come; the same command goes on where it ended."""
    if given.on_error == "raise":
        said = "--on-error raise needs a whole output; give a file that is not a stream"
        raise InvalidRequestError(InvalidRequest(path="OUTPUT", message=said))

    def shape(block: pa.Table, results: pa.Table) -> pa.Table:
        if not given.columns:
            block = block.select([])
        kinds.clash_free(block.column_names, RESULTS.names, given.prefix)
        return files.beside(block, results, given.prefix)

    with hub_of(given) as hub, interruptible("run"):
        written = complete_into(
            given.output,
            given.input,
            given.prompt,
            shape,
            prefix=given.prefix,
            model=given.model,
            hub=hub,
            **options_of(given),
        )
    many = written.statuses
    if not given.quiet:
        kept = f"; {written.kept:,} rows of the input were answered there already" if written.kept else ""
        say(f"Wrote {written.rows:,} rows to {given.output} for {written.cost_usd:f} USD{kept}")
    if many.get("error"):
        complain("run", f"rows that failed: {many['error']:,}; the same command asks them again")
    if written.stopped:
        complain("run", "interrupted: the same command goes on from here")
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
        raise InvalidRequestError(InvalidRequest(path="OUTPUT", message=said))
