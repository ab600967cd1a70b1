"""``llmhub run``: send a prompt for every row of a file to every model, and write the results to a file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from llmhub.api import complete_table
from llmhub.api.raising import unwrap_or_raise
from llmhub.api.sink import complete_to_sink
from llmhub.cli.console import announce_interrupt, ignore_interrupts, print_message, print_result, progress_callback
from llmhub.cli.hub_options import build_hub, collect_options, read_schema
from llmhub.cli.run_summary import count_statuses, failure_summary, summary_table
from llmhub.core.errors import invalid
from llmhub.tables import files, frames, locations
from llmhub.tables.files import FILE_FORMATS
from llmhub.tables.schema import MODE_FIELD, RESULTS
from llmhub.tables.streaming_io import STREAM_SUFFIX
from llmhub.tables.structured_outputs import (
    LABEL_FIELD,
    extract_labels,
    output_schema,
    parse_labels,
    with_label_options,
)

INTERRUPTED: Final = 130


def run(args: argparse.Namespace) -> int:
    """Complete the rows, write the results, print a summary, and return the exit code."""
    args.output = _output(args)
    if isinstance(args.output, str):
        return _run_to_sink(args)
    # A folder whose name ends like a file is taken for a mistyped file name.
    is_folder = args.output.is_dir() and args.output.suffix not in FILE_FORMATS
    if is_folder or args.output.suffix == STREAM_SUFFIX:
        return _run_to_sink(args)
    files.file_format(args.output, "OUTPUT")
    require_different_files(args.input, args.output)
    source = locations.read_rows(args.input, "INPUT")
    kept = source.schema if args.columns else source.schema.empty_table().select([]).schema
    structured = _structured_output(args)
    schema = structured.schema(RESULTS.append(MODE_FIELD) if args.mode == "batch" else RESULTS)
    frames.require_no_name_clash(kept.names, schema.names, args.prefix)
    joined = frames.join_schemas(kept, schema, args.prefix)
    chosen = _require_columns(args, joined.names)
    files.require_writable(pa.schema([joined.field(name) for name in chosen]), args.output, "OUTPUT")
    with build_hub(args) as hub, announce_interrupt("run"):
        results = complete_table(
            source,
            args.prompt,
            model=args.model,
            hub=hub,
            progress=progress_callback(quiet=args.quiet),
            **structured.options(_content_options(args)),
        )
    results = structured.parse(results)
    with ignore_interrupts():
        return _finish(args, source.select(kept.names), results, chosen)


def _output(args: argparse.Namespace) -> Path | str:
    """Return the output, which may be given in two places.

    Raises
    ------
    BadRequestError
        It is given in none of them, or in both.
    """
    if args.output is not None and args.output_option is not None:
        raise invalid("OUTPUT", f"is given twice: {str(args.output)!r} and --output {str(args.output_option)!r}")
    output = args.output or args.output_option
    if output is None:
        raise invalid("OUTPUT", "is missing; pass it after INPUT, or as --output")
    found: Path | str = output
    return found


@dataclass(frozen=True, slots=True)
class _StructuredOutput:
    """How answers are constrained and parsed: as text, by a JSON schema, or as labels."""

    response_schema: dict[str, Any] | None = None
    labels: dict[str, Any] | None = None

    def options(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return the options of a run with those of the structured output."""
        if self.labels is not None:
            return with_label_options(self.labels, list(self.labels), options)
        return options if self.response_schema is None else {**options, "schema": self.response_schema}

    def schema(self, results: pa.Schema) -> pa.Schema:
        """Return the schema of the results: with a label, or with the type of the parsed answers."""
        if self.labels is not None:
            return results.append(pa.field(LABEL_FIELD, pa.string()))
        if self.response_schema is None:
            return results
        index = results.get_field_index("parsed")
        parsed_type = unwrap_or_raise(output_schema(self.response_schema)).arrow_type
        return results.set(index, results.field(index).with_type(parsed_type))

    def parse(self, results: pa.Table) -> pa.Table:
        """Return results with a column of labels, if there are any."""
        if self.labels is None:
            return results
        table, values = extract_labels(results, self.labels)
        return table.append_column(LABEL_FIELD, values)


def _structured_output(args: argparse.Namespace) -> _StructuredOutput:
    if args.labels:
        return _StructuredOutput(labels=parse_labels(args.labels))
    return _StructuredOutput(response_schema=None if args.schema is None else read_schema(args.schema))


def _content_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of a run, with the columns of images and conversations."""
    content = {name: getattr(args, name) for name in ("images", "messages") if getattr(args, name) is not None}
    return {**collect_options(args), **content}


def _require_columns(args: argparse.Namespace, existing: Sequence[str]) -> list[str]:
    """Return the columns to write.

    Raises
    ------
    BadRequestError
        One of ``--columns`` does not exist.
    """
    if isinstance(args.columns, bool):
        return list(existing)
    for name in args.columns:
        if name not in existing:
            raise invalid("--columns", frames.missing_column_message(name, existing))
    return list(args.columns)


def _finish(  # noqa: C901 - one case for each status
    args: argparse.Namespace, source: pa.Table, results: pa.Table, columns: Sequence[str]
) -> int:
    """Write the results unless ``--on-error raise`` forbids it, print a summary, and return the exit code."""
    counts = count_statuses(results)
    failed, cancelled, unbudgeted = counts["error"], counts["cancelled"], counts["budget"]
    withheld = args.on_error == "raise" and bool(failed or cancelled or unbudgeted)
    if not withheld:
        try:
            joined = frames.join_results(source, results, args.prefix)
            files.write_table(joined.select(columns), args.output, "OUTPUT")
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
    if pending := counts["pending"]:
        waiting = "the same command collects them, as does llmhub batches collect"
        print_message("run", f"{pending:,} of {len(results):,} rows wait in batches; {waiting}")
    if cancelled:
        print_message("run", f"interrupted: {cancelled:,} of {len(results):,} rows have no answer; {_cache_note(args)}")
        return INTERRUPTED
    return 1 if failed or unbudgeted or pending else 0


def _run_to_sink(args: argparse.Namespace) -> int:
    """Write results as they arrive. The same command continues a stopped run."""
    if args.on_error == "raise":
        raise invalid("OUTPUT", "--on-error raise needs a file that is written at the end, not a folder or a stream")
    if args.mode == "batch":
        raise invalid("OUTPUT", "--batch needs a file that is written at the end, not a folder or a stream")
    structured = _structured_output(args)

    def shape(block: pa.Table, results: pa.Table) -> pa.Table:
        if not args.columns:
            block = block.select([])
        results = structured.parse(results)
        frames.require_no_name_clash(block.column_names, results.column_names, args.prefix)
        joined = frames.join_results(block, results, args.prefix)
        return joined.select(_require_columns(args, joined.column_names))

    with build_hub(args) as hub, announce_interrupt("run"):
        written = complete_to_sink(
            args.output,
            args.input,
            args.prompt,
            shape,
            prefix=args.prefix,
            model=args.model,
            hub=hub,
            **structured.options(_content_options(args)),
        )
    counts = written.statuses
    if not args.quiet:
        reused = f"; {written.reused_rows:,} input rows had results there already" if written.reused_rows else ""
        print_result(f"Wrote {written.rows:,} rows to {written.path} for {written.cost_usd:f} USD{reused}")
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


def require_different_files(source: Path | str, target: Path) -> None:
    """Raise if the output would overwrite the input."""
    if isinstance(source, str):
        return
    same = source.exists() and target.exists() and source.samefile(target)
    if same or source.resolve() == target.resolve():
        raise invalid("OUTPUT", f"{str(target)!r} is the input file; pass another file")
