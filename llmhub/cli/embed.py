"""``llmhub embed``: embed a text for every row of a file, and write the vectors beside the rows."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from llmhub.api import embed_table, mode_columns
from llmhub.cli.arguments import BATCH_FLAGS
from llmhub.cli.console import announce_interrupt, ignore_interrupts, print_message, print_result, progress_callback
from llmhub.cli.hub_options import build_hub
from llmhub.cli.run import require_different_files
from llmhub.cli.run_summary import count_statuses, failure_summary
from llmhub.formatting.numbers import format_usd
from llmhub.tables import files, frames, locations
from llmhub.tables.embeddings import COMPACT, embedding_columns, embeddings_schema

INTERRUPTED: Final = 130
OPTIONS: Final = ("dimensions", "kind", "batch_size", "concurrency", "budget_usd", "allow_unpriced", *BATCH_FLAGS)


def run(args: argparse.Namespace) -> int:
    """Embed the rows, write the vectors, print a summary, and return the exit code."""
    output = Path(args.output)
    files.file_format(output, "OUTPUT")
    require_different_files(args.input, output)
    source = locations.read_rows(args.input, "INPUT")
    further = mode_columns({"mode": args.mode})
    names = (*embedding_columns("all" if args.all_columns else "compact"), *further)
    frames.require_no_name_clash(source.column_names, names, args.prefix)
    schema = embeddings_schema(args.dimensions or 1, "", with_mode=bool(further))
    chosen = pa.schema([schema.field(name) for name in names])
    files.require_writable(frames.join_schemas(source.schema, chosen, args.prefix), output, "OUTPUT")
    options: dict[str, Any] = {name: value for name in OPTIONS if (value := getattr(args, name, None)) is not None}
    one_model = argparse.Namespace(**{**vars(args), "model": [args.model]})
    with build_hub(one_model) as hub, announce_interrupt("embed"):
        table = embed_table(
            source, args.prompt, model=args.model, hub=hub, progress=progress_callback(quiet=args.quiet), **options
        )
    with ignore_interrupts():
        results = frames.add_prefix(table.select(list(names)), args.prefix)
        files.write_table(frames.join_rows(source, table.column("row"), [results]), output, "OUTPUT")
    return _report(args, table, output)


def _report(args: argparse.Namespace, table: pa.Table, output: Path) -> int:
    """Print what was written, sent and refused; return the exit code."""
    counts = count_statuses(table)
    if not args.quiet:
        costs = [cost for cost in table.column("cost_usd").to_pylist() if cost is not None]
        price = format_usd(sum(costs)) if costs else "an unknown price"
        dimensions = table.schema.field(COMPACT[0]).type.list_size
        print_result(f"Wrote {len(table):,} rows with vectors of {dimensions:,} dimensions to {output} for {price}")
    if counts["skipped"]:
        print_message("embed", f"note: rows skipped because a value of the prompt is missing: {counts['skipped']:,}")
    if counts["error"]:
        print_message("embed", failure_summary(table))
    if counts["budget"]:
        print_message("embed", f"the budget was spent: {counts['budget']:,} of {len(table):,} rows were not sent")
    if counts["cancelled"]:
        print_message("embed", f"interrupted: {counts['cancelled']:,} of {len(table):,} rows have no vector")
        return INTERRUPTED
    return 1 if counts["error"] or counts["budget"] else 0
