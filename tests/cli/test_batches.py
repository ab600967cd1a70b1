"""``llmhub run --batch`` and ``llmhub batches``."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import llmhub
from llmhub.cli import main
from llmhub.config import Settings
from llmhub.sim import Simulator, serving
from llmhub.sim.batch_store import SimBatches

MODEL = "openai/gpt-4o-mini"


def test_a_command_waits_and_batches_are_listed_collected_and_cancelled(
    tmp_path: Path, environ: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pq.write_table(pa.table({"q": ["a", "b"]}), tmp_path / "in.parquet")
    connection = ["--cache", str(tmp_path / "c.db"), "--simulator"]
    with serving(Simulator(batches=SimBatches(duration_s=1000.0))) as served:
        run = ["run", str(tmp_path / "in.parquet"), str(tmp_path / "out.parquet"), "-p", "{q}", "-m", MODEL, "--batch"]
        assert main([*run, "--deadline", "0.01s", "--quiet", *connection, served.url]) == 1
        assert pq.read_table(tmp_path / "out.parquet").column("status").to_pylist() == ["pending", "pending"]
        assert "2 of 2 rows wait in batches" in capsys.readouterr().err
        assert main(["batches", "ls", *connection, served.url]) == 0
        assert "open (" in capsys.readouterr().out
        assert main(["batches", "collect", *connection, served.url]) == 1
        capsys.readouterr()
        served.advance_clock(2000.0)
        assert main(["batches", "collect", *connection, served.url]) == 0
        assert "state: collected" in capsys.readouterr().out
        sent = served.counts()["requests"]
        assert main([*run, "--quiet", *connection, served.url]) == 0
        assert pq.read_table(tmp_path / "out.parquet").column("cache_hit").to_pylist() == [True, True]
        assert served.counts()["requests"] == sent
        pq.write_table(pa.table({"q": ["c"]}), tmp_path / "in.parquet")
        assert main([*run, "--deadline", "0.01s", "--quiet", *connection, served.url]) == 1
        assert main(["batches", "ls", "--json", *connection, served.url]) == 0
        name = json.loads(capsys.readouterr().out)[-1]["id"]
        assert main(["batches", "cancel", name, *connection, served.url]) == 0
        assert served.batches()[-1].cancelled is not None
        assert main(["batches", "show", "no-such", *connection, served.url]) == 2
        assert "names no batch" in capsys.readouterr().err


def test_batches_of_a_hub(tmp_path: Path) -> None:
    settings = Simulator(batches=SimBatches(duration_s=1000.0))
    cache = llmhub.DiskCache(tmp_path / "c.db")
    with serving(settings) as served:
        hub = llmhub.Hub(endpoints=served.endpoints(), settings=Settings(), cache=cache)
        assert repr(llmhub.batches(hub=hub)) == "no batches"
        options = {"model": MODEL, "hub": hub, "mode": "batch", "progress": False}
        llmhub.complete_table({"q": ["a", "b"]}, "{q}", deadline=0.01, **options)
        (batch,) = llmhub.batches(hub=hub)
        assert (batch.state, batch.rows, batch.model) == ("open", 2, MODEL)
        assert batch.refresh().state == "open"
        served.advance_clock(2000.0)
        assert batch.collect(poll_s=0.02).state == "collected"
        assert llmhub.complete_table({"q": ["a"]}, "{q}", **options).column("cache_hit").to_pylist() == [True]
        assert "collected" in repr(llmhub.batches(hub=hub))
        hub.close()
