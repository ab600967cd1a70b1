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
from llmhub.bench.summary import SUMMARY, Targets, quantile_if_any, summarise_run
from llmhub.cli import main
from llmhub.config import Settings
from llmhub.core.errors import BadRequestError
from llmhub.sim import Faults, Simulator, SimulatorThread, serving
from llmhub.tables.cost_columns import from_nanos
from llmhub.tables.schema import RESULTS

MODEL = "openai/gpt-4o-mini"


FIRST_S, TOKEN_S, TOKENS = 0.4, 0.02, 21


FEW_CALLS = Measure(requests=6, warmup=1)


@pytest.fixture
def hub(simulator: SimulatorThread) -> Iterator[llmhub.Hub]:
    with llmhub.Hub(endpoints=simulator.endpoints(), cache=llmhub.MemoryCache()) as hub:
        yield hub


def results_of(rows: list[dict[str, Any]]) -> pa.Table:
    defaults = {
        "status": "ok",
        "latency_s": 1.0,
        "ttft_s": 0.5,
        "output_tokens": 11,
        "queue_s": 0.0,
        "list_cost_usd": 10**6,
    }
    complete_rows = [defaults | row for row in rows]
    arrays = []
    for field in RESULTS:
        values = [row.get(field.name) for row in complete_rows]
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
        table = results_of([{"latency_s": float(index)} for index in range(1, 11)] + [FAILED] * 2)
        result = summarise_run(MODEL, concurrent(4), table, 5.0, Targets())
        assert (result["requests"], result["ok"], result["errors"]) == (12, 10, {"RateLimited": 2})
        assert (result["requests_per_s"], result["output_tokens_per_s"]) == (2.0, 22.0)
        assert (result["latency_s_p50"], result["latency_s_p95"]) == (5.0, 10.0)
        assert result["tpot_s_p50"] == pytest.approx((5 - 0.5) / 10)
        assert result["tokens_per_s"] == pytest.approx(10 / 4.5)
        assert result["usd_per_1k_requests"] == pytest.approx(1.0)
        assert result["usd_per_million_output_tokens"] == pytest.approx(0.01 / 110 * 1e6)
        assert (result["goodput_share"], result["goodput_per_s"]) == (None, None)

    def test_goodput_counts_calls_that_meet_every_target(self) -> None:
        rows = [{"latency_s": 1.0}, {"latency_s": 3.0}, {"ttft_s": 0.9}, {"ttft_s": None}, FAILED]
        result = summarise_run(MODEL, one_at_a_time(), results_of(rows), 10.0, Targets(latency_s=2, ttft_s=0.6))
        assert (result["goodput_share"], result["goodput_per_s"]) == (pytest.approx(1 / 5), pytest.approx(0.1))

    def test_unknown_figures_are_null(self) -> None:
        rows = [{"output_tokens": 1, "list_cost_usd": None}, {"ttft_s": None, "list_cost_usd": None}]
        result = summarise_run(MODEL, one_at_a_time(), results_of(rows), 1.0, Targets())
        assert result["tpot_s_p50"] is None
        assert result["tokens_per_s"] is None
        assert result["usd_per_1k_requests"] is None
        without_answers = summarise_run(MODEL, one_at_a_time(), results_of([FAILED]), 1.0, Targets())
        assert without_answers["latency_s_p50"] is None
        assert pa.Table.from_pylist([result, without_answers], schema=SUMMARY).num_rows == 2

    def test_quantile_is_an_observed_value(self) -> None:
        values = np.random.default_rng(0).random(1000)
        assert quantile_if_any(values, 0.99) == np.quantile(values, 0.99, method="inverted_cdf")
        assert quantile_if_any(np.array([np.nan]), 0.5) is None

    @pytest.mark.parametrize("name", ["latency_s", "ttft_s", "tpot_s"])
    def test_invalid_target_raises(self, name: str) -> None:
        with pytest.raises(BadRequestError, match=rf"targets.{name}: 0 is not a duration"):
            Targets(**{name: 0})


class TestBench:
    def test_warmup_calls_are_sent_and_discarded(self, hub: llmhub.Hub, simulator: SimulatorThread) -> None:
        result = run(
            [MODEL, "anthropic/claude-haiku-4-5"], load=[concurrent(2), constant_rate(500)], hub=hub, measure=FEW_CALLS
        )
        assert simulator.counts()["requests"] == 2 * 2 * (6 + 1)
        assert result.summary.schema.equals(SUMMARY)
        assert result.summary.column("requests").to_pylist() == [6] * 4
        assert result.summary.column("load").to_pylist() == ["2 at a time", "500/s"] * 2
        assert result.results.num_rows == 24
        assert result.results.schema.names == RESULTS.names
        assert set(result.results.column("status").to_pylist()) == {"ok"}
        assert all(result.results.column("ttft_s").is_valid().to_pylist())

    def test_cache_is_bypassed(self, hub: llmhub.Hub, simulator: SimulatorThread) -> None:
        for _ in range(2):
            run(MODEL, prompts=["The same."], hub=hub, measure=FEW_CALLS)
        assert simulator.counts()["requests"] == 14
        store = hub.runtime.store
        assert store is not None
        assert store.stats().entries == 0

    def test_failed_calls_are_measured_and_not_retried(self) -> None:
        with (
            serving(Simulator(seed=3, faults=Faults(rate_500=1.0))) as served,
            llmhub.Hub(endpoints=served.endpoints()) as hub,
        ):
            result = run(MODEL, load=poisson(500), hub=hub, measure=FEW_CALLS)
            assert served.counts()["requests"] == 7
        (row,) = result.summary.to_pylist()
        assert (row["ok"], row["errors"]) == (0, [("ServerError", 6)])
        assert "0/6 (ServerError 6)" in str(result)

    def test_reports_and_plot(self, hub: llmhub.Hub) -> None:
        result = run(MODEL, hub=hub, measure=Measure(requests=4, warmup=0, targets=Targets(latency_s=60)))
        assert result.to_markdown().splitlines()[2].startswith(f"| {MODEL} | 1 at a time | 4/4 |")
        assert "100.0 %" in str(result)
        assert f">{MODEL}</bdi></td>" in result._repr_html_()
        ax = result.plot()
        (line,) = (line for line in ax.lines if line.get_label() == MODEL)
        assert line.get_xdata()[0] == result.summary.column("requests_per_s")[0].as_py()
        assert line.get_ydata()[0] == result.summary.column("latency_s_p50")[0].as_py()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"model": "gpt-4o-mini"}, "names no provider"),
            ({"temperature": 9.0}, "temperature"),
        ],
    )
    def test_invalid_options_raise_before_anything_is_sent(
        self, hub: llmhub.Hub, simulator: SimulatorThread, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(BadRequestError, match=message):
            run(options.pop("model", MODEL), hub=hub, **options)
        assert simulator.counts()["requests"] == 0

    @pytest.mark.parametrize(
        ("name", "value", "minimum"), [("requests", 0, 1), ("warmup", -1, 0), ("requests", 1.5, 1)]
    )
    def test_invalid_measure_raises(self, name: str, value: Any, minimum: int) -> None:
        with pytest.raises(BadRequestError, match=f"{name}: {value} is not an integer >= {minimum}"):
            Measure(**{name: value})

    def test_command_line_takes_lengths_duration_and_ramp(
        self, simulator: SimulatorThread, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "calls.parquet"
        code = main(
            ["bench", "--model", MODEL, "--poisson", "400", "--requests", "5", "--warmup", "0", "--ramp", "0.05",
             "--duration", "30", "--input-tokens", "12", "--output-tokens", "8", "--target-token", "5", "--json",
             "--simulator", simulator.url, "--out", str(out)]
        )  # fmt: skip
        captured = capsys.readouterr()
        assert code == 0
        (row,) = json.loads(captured.out)
        assert row["load"] == "Poisson 400/s, ramp of 0.05 s"
        assert row["output_tokens_mean"] <= 8
        assert row["goodput_share"] == 1.0
        assert f"wrote {out}" in captured.err

    def test_command_line_writes_calls_and_plot(
        self, simulator: SimulatorThread, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out, plot = tmp_path / "calls.parquet", tmp_path / "load.png"
        code = main(
            ["bench", "--model", MODEL, "--workers", "2", "--poisson", "400", "--requests", "5", "--warmup", "0",
             "--target", "30", "--simulator", simulator.url, "--out", str(out), "--plot", str(plot)]
        )  # fmt: skip
        message = capsys.readouterr().out
        assert code == 0
        assert "2 at a time" in message
        assert "Poisson 400/s" in message
        assert parquet.read_table(out).num_rows == 10
        assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def timed_server_url() -> Iterator[str]:
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
def test_times_equal_those_of_the_provider(timed_server_url: str) -> None:
    """Compared with the times recorded by the server, call by call in order of their length.

    A busy machine delays some calls, but never all, and makes none shorter: the smallest difference is that of the
    clock alone.
    """
    endpoint = llmhub.Endpoint(base_url=f"{timed_server_url}/v1", api_key="k")
    with llmhub.Hub(endpoints={"openai": endpoint}, settings=Settings()) as hub:
        result = run(MODEL, load=poisson(8), hub=hub, measure=Measure(requests=32, warmup=2))
    with urllib.request.urlopen(f"{timed_server_url}/times") as reply:
        served_times = json.loads(reply.read())[2:]
    (row,) = result.summary.to_pylist()
    assert row["ok"] == 32
    for index, name in enumerate(("ttft_s", "latency_s")):
        served = sorted(item[index] for item in served_times)
        measured = sorted(result.results.column(name).to_pylist())
        differences = [mine - theirs for mine, theirs in zip(measured, served, strict=True)]
        assert min(differences) == pytest.approx(0.0, abs=max(0.001, served[0] * 0.01))
        # The summary counts from the time a call was due.
        assert 0 <= row[f"{name}_p50"] - statistics.median(measured) <= 0.025
    first, total = (statistics.median(item[index] for item in served_times) for index in (0, 1))
    assert row["tpot_s_p50"] == pytest.approx((total - first) / (TOKENS - 1), abs=0.001)
    assert row["output_tokens_per_s"] == pytest.approx(32 * TOKENS / row["duration_s"])
