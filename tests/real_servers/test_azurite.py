"""Runs from and to Azure's object store, as Microsoft's own emulator has it: patterns, partitions, sinks and keys."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pytest
from pyarrow import csv, dataset, parquet

import llmhub
from llmhub.cli import main
from llmhub.config import Settings
from llmhub.sim import SimulatorThread
from llmhub.tables import locations, streaming_io

pytestmark = pytest.mark.real_servers

MODEL = "openai/gpt-4o-mini"
# Of the account that every Azurite has: https://github.com/Azure/Azurite#default-storage-account (read 2026-11-30).
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def rows(start: int, stop: int) -> pa.Table:
    return pa.table({"text": [f"row {n}" for n in range(start, stop)]})


@pytest.fixture
def box(azurite: str, environ: pytest.MonkeyPatch) -> tuple[Any, str, str]:
    """Return the file system of a container with a partitioned folder, and what a URL has before and after a path."""
    environ.setenv("AZURE_STORAGE_KEY", KEY)
    before, after = f"abfs://{ACCOUNT}@{azurite}/box", "?enable_tls=false"
    system, _ = locations.open_location(f"{before}/in{after}", "frame")
    for year in (2025, 2026):
        system.create_dir(f"box/in/year={year}", recursive=True)
        with system.open_output_stream(f"box/in/year={year}/rows.parquet") as stream:
            parquet.write_table(rows(0, 30), stream)
    return system, before, after


def test_a_run_reads_and_writes_and_is_continued(
    box: Any, simulator: SimulatorThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, before, after = box
    monkeypatch.setattr(streaming_io, "BLOCK_ROWS", 20)
    for path, years in {"in": 2, "in/*/rows.parquet": 2, "in/year=2026/*.parquet": 1}.items():
        table = pa.concat_tables(locations.read_location(f"{before}/{path}{after}", "frame"))
        assert (table.num_rows, len(set(table.column("year").to_pylist()))) == (30 * years, years)
    common: Any = {"model": MODEL, "sink": f"{before}/out{after}"}
    with llmhub.Hub(simulator=simulator.url, settings=Settings()) as hub:
        written = llmhub.complete_table(f"{before}/in{after}", "{year}: {text}", hub=hub, **common)
        assert (written.rows, simulator.counts()["requests"]) == (60, 60)
        done = dataset.dataset("box/out", filesystem=system, format="parquet").to_table().sort_by("row")
        assert done.column("row").to_pylist() == list(range(60))
        assert set(done.column("status").to_pylist()) == {"ok"}
        system.delete_file("box/out/part-000000000020.parquet")
        again = llmhub.complete_table(f"{before}/in/*/*.parquet{after}", "{year}: {text}", hub=hub, **common)
        assert (again.rows, again.reused_rows, simulator.counts()["requests"]) == (20, 40, 80)
        with pytest.raises(llmhub.BadRequestError, match="other requests"):
            llmhub.complete_table(f"{before}/in{after}", "Other {text}", hub=hub, **common)


def test_the_command_takes_urls_with_the_key_or_without(
    box: Any, azurite: str, simulator: SimulatorThread, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    system, before, after = box
    monkeypatch.delenv("AZURE_STORAGE_KEY")
    with_key = before.replace("@", f":{quote(KEY, safe='')}@")
    with system.open_output_stream("box/command.csv") as stream:
        csv.write_csv(rows(0, 5), stream)
    options = ["--prompt", "{text}", "--model", MODEL, "--simulator", simulator.url, "--no-cache"]
    for asked in (5, 5):  # the second time, the sink has all rows
        assert main(["run", f"{with_key}/command.csv{after}", f"{with_key}/sink{after}", *options]) == 0
        assert simulator.counts()["requests"] == asked
    done = dataset.dataset("box/sink", filesystem=system, format="parquet").to_table()
    assert done.column("text").to_pylist() == rows(0, 5).column("text").to_pylist()
    wrong = before.replace("@", f":{quote('d3Jvbmc=', safe='')}@")
    for location in (f"{wrong}/command.csv{after}", f"{with_key}/none/*.csv{after}", f"{with_key}/none.csv{after}"):
        assert main(["run", location, f"{with_key}/other{after}", *options]) == 2
    shown = "".join(capsys.readouterr())
    assert f"{ACCOUNT}:***@{azurite}/box/sink" in shown
    assert "5 input rows had results there already" in shown
    assert KEY[:12] not in shown
    assert "d3Jvbmc" not in shown
