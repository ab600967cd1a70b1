from __future__ import annotations

import json
import statistics
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

import llmhub
from llmhub.bench._run import Measure, run
from llmhub.bench.load import concurrent, constant_rate, one_at_a_time, poisson
from llmhub.bench.summary import SUMMARY, Targets, quantile, summarise_run
from llmhub.cli import main
from llmhub.config import Settings
from llmhub.core.errors import BadRequestError
from llmhub.sim import Faults, Simulator, SimulatorThread, serving
from llmhub.tables.cost_columns import from_nanos
from llmhub.tables.schema import RESULTS

MODEL = "openai/gpt-4o-mini"


FIRST_S, TOKEN_S, TOKENS = 0.4, 0.02, 21


FEW = Measure(requests=6, warmup=1)


@pytest.fixture
def hub(simulator: SimulatorThread) -> Iterator[llmhub.Hub]:
    with llmhub.Hub(endpoints=simulator.endpoints(), cache=llmhub.MemoryCache()) as hub:
        yield hub


def calls(rows: list[dict[str, Any]]) -> pa.Table:
    plain = {
        "status": "ok",
        "latency_s": 1.0,
        "ttft_s": 0.5,
        "output_tokens": 11,
        "queue_s": 0.0,
        "list_cost_usd": 10**6,
    }
    whole = [plain | row for row in rows]
    arrays = []
    for field in RESULTS:
        values = [row.get(field.name) for row in whole]
        if field.name == "list_cost_usd":
            nanos = np.array([value or 0 for value in values], np.int64)
            arrays.append(from_nanos(nanos, np.array([value is not None for value in values], np.bool_)))
        else:
            arrays.append(pa.array(values, field.type))
    return pa.Table.from_arrays(arrays, schema=RESULTS)


FAILED = dict.fromkeys(("ttft_s", "output_tokens", "list_cost_usd")) | {
    "status": "error",
    "error_type": "RateLimited",
    "latency_s": 0.1,
}


class TestSummary:
    def test_figures_are_of_answered_calls(self) -> None:
        table = calls([{"latency_s": float(at)} for at in range(1, 11)] + [FAILED] * 2)
        found = summarise_run(MODEL, concurrent(4), table, 5.0, Targets())
        assert (found["requests"], found["ok"], found["errors"]) == (12, 10, {"RateLimited": 2})
        assert (found["requests_per_s"], found["output_tokens_per_s"]) == (2.0, 22.0)
        assert (found["latency_s_p50"], found["latency_s_p95"]) == (5.0, 10.0)
        assert found["tpot_s_p50"] == pytest.approx((5 - 0.5) / 10)
        assert found["tokens_per_s"] == pytest.approx(10 / 4.5)
        assert found["usd_per_1k_requests"] == pytest.approx(1.0)
        assert found["usd_per_million_output_tokens"] == pytest.approx(0.01 / 110 * 1e6)
        assert (found["goodput_share"], found["goodput_per_s"]) == (None, None)

    def test_good_is_what_keeps_to_every_target(self) -> None:
        rows = [{"latency_s": 1.0}, {"latency_s": 3.0}, {"ttft_s": 0.9}, {"ttft_s": None}, FAILED]
        found = summarise_run(MODEL, one_at_a_time(), calls(rows), 10.0, Targets(latency_s=2, ttft_s=0.6))
        assert (found["goodput_share"], found["goodput_per_s"]) == (pytest.approx(1 / 5), pytest.approx(0.1))

    def test_what_is_not_known_is_null(self) -> None:
        rows = [{"output_tokens": 1, "list_cost_usd": None}, {"ttft_s": None, "list_cost_usd": None}]
        found = summarise_run(MODEL, one_at_a_time(), calls(rows), 1.0, Targets())
        assert found["tpot_s_p50"] is None
        assert found["tokens_per_s"] is None
        assert found["usd_per_1k_requests"] is None
        none = summarise_run(MODEL, one_at_a_time(), calls([FAILED]), 1.0, Targets())
        assert none["latency_s_p50"] is None
        assert pa.Table.from_pylist([found, none], schema=SUMMARY).num_rows == 2

    def test_a_quantile_is_a_call_that_was_made(self) -> None:
        values = np.random.default_rng(0).random(1000)
        assert quantile(values, 0.99) == np.quantile(values, 0.99, method="inverted_cdf")
        assert quantile(np.array([np.nan]), 0.5) is None

    @pytest.mark.parametrize("name", ["latency_s", "ttft_s", "tpot_s"])
    def test_a_target_is_a_time(self, name: str) -> None:
        with pytest.raises(BadRequestError, match=rf"targets.{name}: 0 is not a duration"):
            Targets(**{name: 0})


class TestBench:
    def test_warm_up_is_sent_and_left_out(self, hub: llmhub.Hub, simulator: SimulatorThread) -> None:
        found = run(
            [MODEL, "anthropic/claude-haiku-4-5"], load=[concurrent(2), constant_rate(500)], hub=hub, measure=FEW
        )
        assert simulator.counts()["requests"] == 2 * 2 * (6 + 1)
        assert found.summary.schema.equals(SUMMARY)
        assert found.summary.column("requests").to_pylist() == [6] * 4
        assert found.summary.column("load").to_pylist() == ["2 at a time", "500/s"] * 2
        assert found.results.num_rows == 24
        assert found.results.schema.names == RESULTS.names
        assert set(found.results.column("status").to_pylist()) == {"ok"}
        assert all(found.results.column("ttft_s").is_valid().to_pylist())

    def test_the_cache_neither_answers_nor_learns(self, hub: llmhub.Hub, simulator: SimulatorThread) -> None:
        for _ in range(2):
            run(MODEL, prompts=["The same."], hub=hub, measure=FEW)
        assert simulator.counts()["requests"] == 14
        store = hub.runtime.store
        assert store is not None
        assert store.stats().entries == 0

    def test_a_refusal_is_measured_and_not_tried_again(self) -> None:
        with (
            serving(Simulator(seed=3, faults=Faults(rate_500=1.0))) as served,
            llmhub.Hub(endpoints=served.endpoints()) as hub,
        ):
            found = run(MODEL, load=poisson(500), hub=hub, measure=FEW)
            assert served.counts()["requests"] == 7
        (row,) = found.summary.to_pylist()
        assert (row["ok"], row["errors"]) == (0, [("ServerError", 6)])
        assert "0/6 (ServerError 6)" in str(found)

    def test_people_can_read_it(self, hub: llmhub.Hub) -> None:
        found = run(MODEL, hub=hub, measure=Measure(requests=4, warmup=0, targets=Targets(latency_s=60)))
        assert found.to_markdown().splitlines()[2].startswith(f"| {MODEL} | 1 at a time | 4/4 |")
        assert "100.0 %" in str(found)
        assert f">{MODEL}</bdi></td>" in found._repr_html_()
        ax = found.plot()
        (line,) = (line for line in ax.lines if line.get_label() == MODEL)
        assert line.get_xdata()[0] == found.summary.column("requests_per_s")[0].as_py()
        assert line.get_ydata()[0] == found.summary.column("latency_s_p50")[0].as_py()

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"model": "gpt-4o-mini"}, "names no provider"),
            ({"temperature": 9.0}, "temperature"),
        ],
    )
    def test_odd_input_is_refused_before_anything_is_sent(
        self, hub: llmhub.Hub, simulator: SimulatorThread, options: dict[str, Any], said: str
    ) -> None:
        with pytest.raises(BadRequestError, match=said):
            run(options.pop("model", MODEL), hub=hub, **options)
        assert simulator.counts()["requests"] == 0

    @pytest.mark.parametrize(("name", "value", "least"), [("requests", 0, 1), ("warmup", -1, 0), ("requests", 1.5, 1)])
    def test_what_measures_nothing_is_refused(self, name: str, value: Any, least: int) -> None:
        with pytest.raises(BadRequestError, match=f"{name}: {value} is not an integer >= {least}"):
            Measure(**{name: value})

    def test_the_command_line_measures_and_writes(
        self, simulator: SimulatorThread, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out, plot = tmp_path / "calls.parquet", tmp_path / "load.png"
        code = main(
            ["bench", "--model", MODEL, "--workers", "2", "--poisson", "400", "--requests", "5", "--warmup", "0",
             "--target", "30", "--simulator", simulator.url, "--out", str(out), "--plot", str(plot)]
        )  # fmt: skip
        said = capsys.readouterr().out
        assert code == 0
        assert "2 at a time" in said
        assert "Poisson 400/s" in said
        assert parquet.read_table(out).num_rows == 10
        assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def timed() -> Iterator[str]:
    command = [
        sys.executable,
        str(Path(__file__).with_name("timed_server.py")),
        str(FIRST_S),
        str(TOKEN_S),
        str(TOKENS),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://{process.stdout.readline().strip()}"
        process.kill()


@pytest.mark.slow
def test_times_are_those_that_the_provider_took(timed: str) -> None:
    """Against what the server itself noted, so that a busy machine is not taken for a bias."""
    endpoint = llmhub.Endpoint(base_url=f"{timed}/v1", api_key="k")
    with llmhub.Hub(endpoints={"openai": endpoint}, settings=Settings()) as hub:
        found = run(MODEL, load=poisson(8), hub=hub, measure=Measure(requests=32, warmup=2))
    with urllib.request.urlopen(f"{timed}/diary") as reply:
        diary = json.loads(reply.read())[2:]
    (row,) = found.summary.to_pylist()
    assert row["ok"] == 32
    first, whole = (statistics.median(each[at] for each in diary) for at in (0, 1))
    assert row["ttft_s_p50"] == pytest.approx(first, abs=max(0.001, first * 0.01))
    assert row["latency_s_p50"] == pytest.approx(whole, abs=max(0.001, whole * 0.01))
    assert row["tpot_s_p50"] == pytest.approx((whole - first) / (TOKENS - 1), abs=0.001)
    assert row["output_tokens_per_s"] == pytest.approx(32 * TOKENS / row["duration_s"])
