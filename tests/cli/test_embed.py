"""``llmhub embed``: vectors beside the rows of a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llmhub.sim import SimulatorThread

MODEL = ("--model", "openai/text-embedding-3-small", "--dimensions", "8")


def test_vectors_are_written_beside_the_rows(
    shell: Callable[..., Any], simulator: SimulatorThread, rows: Path, tmp_path: Path
) -> None:
    output = tmp_path / "vectors.parquet"
    options = ("--prompt", "{text}", *MODEL, "--simulator", simulator.url)
    result = shell("embed", rows, output, *options)
    assert result.code == 0
    assert "vectors of 8 dimensions" in result.out
    written = pq.read_table(output)
    assert written.schema.field("embedding").type.list_size == 8
    assert "text" in written.column_names
    sent = simulator.counts()["requests"]
    assert shell("embed", rows, output, *options, "--all-columns", "--prefix", "e_", "--quiet").out == ""
    assert "e_price_id" in pq.read_table(output).column_names
    assert simulator.counts()["requests"] == sent


def test_wrong_files_are_refused_before_anything_is_sent(
    shell: Callable[..., Any], simulator: SimulatorThread, rows: Path
) -> None:
    for output in ("out.txt", rows):
        result = shell("embed", rows, output, "--prompt", "{text}", *MODEL, "--simulator", simulator.url)
        assert result.code == 2
        assert "OUTPUT" in result.err
    assert simulator.counts()["requests"] == 0


def test_texts_that_are_refused_are_counted(
    shell: Callable[..., Any], simulator: SimulatorThread, tmp_path: Path
) -> None:
    source, output = tmp_path / "in.parquet", tmp_path / "out.parquet"
    pq.write_table(pa.table({"text": ["a", "long " * 10_000, None]}), source)
    result = shell("embed", source, output, "--prompt", "text", *MODEL, "--simulator", simulator.url)
    assert result.code == 1
    assert "ContextTooLong" in result.err
    assert "skipped" in result.err
    assert pq.read_table(output).column("status").to_pylist() == ["ok", "error", "skipped"]
