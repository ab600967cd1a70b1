"""Hubs on a simulator: ``Hub(simulator=...)``, ``simulate()`` and ``rehearsal``, and what they cache and forecast."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import llmhub
from llmhub import config
from llmhub.cli import main
from llmhub.core.errors import BadRequestError
from llmhub.core.provider import Endpoint
from llmhub.engine.call import SIMULATED_PREFIX
from llmhub.progress.text import progress_line
from llmhub.providers.registry import PROVIDERS
from llmhub.sim import FAKE_PROVIDERS, Simulator, SimulatorThread, endpoints, serving

MODEL = "openai/gpt-4o-mini"
FRAME = {"city": ["Bonn", "Graz", "Bern", "Oslo"]}


@pytest.fixture
def simulator() -> Iterator[SimulatorThread]:
    with serving(Simulator(seed=3)) as served:
        yield served


def test_hub_of_a_running_simulator(simulator: SimulatorThread, environ: pytest.MonkeyPatch) -> None:
    environ.setenv("OPENAI_API_KEY", "a-secret")
    with llmhub.Hub(simulator=f"{simulator.url}/") as hub:
        assert llmhub.complete("Hi", model=MODEL, hub=hub).text
        assert simulator.counts()["requests"] == 1
        assert hub.target(MODEL).endpoint.simulated
        assert set(FAKE_PROVIDERS) <= set(hub.available_providers())
        assert pickle.loads(pickle.dumps(hub)).simulator == hub.simulator


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "", "http://", 8000])
def test_simulator_is_an_address(address: object) -> None:
    with pytest.raises(BadRequestError, match=r"simulator: expected the address of a simulator, such as 'http://"):
        llmhub.Hub(simulator=address)  # type: ignore[arg-type]


def test_endpoints_given_take_precedence(simulator: SimulatorThread) -> None:
    own = Endpoint(base_url="http://127.0.0.1:9/v1", api_key="k")
    with llmhub.Hub(simulator=simulator.url, endpoints={"openai": own}) as hub:
        assert hub.target(MODEL).endpoint == own
        assert not hub.target(MODEL).endpoint.simulated


def test_no_provider_is_reached_that_is_not_simulated(simulator: SimulatorThread) -> None:
    """A provider that needs no key would be called at its real address."""
    unsimulated = next(iter(PROVIDERS))
    custom = {"mine": PROVIDERS[unsimulated]}
    with (
        llmhub.Hub(simulator=simulator.url, providers=custom) as hub,
        pytest.raises(BadRequestError, match="'mine/m': 'mine' is not simulated; simulated are alibaba, anthropic"),
    ):
        hub.target("mine/m", allow_unconfigured=True)


def test_deployments_of_any_name_answer_the_responses_api(simulator: SimulatorThread) -> None:
    with llmhub.Hub(simulator=simulator.url) as hub:
        assert llmhub.complete("Hi", model="openai-responses/my-model", hub=hub).text
        assert llmhub.complete("Hi", model="azure-responses/my-deployment", hub=hub).text


def test_plans_of_the_real_model_ignore_simulated_answers(simulator: SimulatorThread, tmp_path: Path) -> None:
    cache = llmhub.DiskCache(tmp_path / "answers.db")
    with llmhub.Hub(simulator=simulator.url, cache=cache) as hub:
        llmhub.complete_table(FRAME, "Describe {city}", model=MODEL, hub=hub, progress=False)
        other = llmhub.plan(FRAME, "Describe {city} briefly", model=MODEL, hub=hub)
        assert other.models[0].basis == "model"
    with llmhub.Hub(cache=cache, endpoints={"openai": Endpoint(api_key="k")}) as hub:
        estimate = llmhub.plan(FRAME, "Describe {city} briefly", model=MODEL, hub=hub)
        assert (estimate.models[0].basis, estimate.models[0].observations) == ("bound", 0)
        assert llmhub.plan(FRAME, "Describe {city}", model=MODEL, hub=hub).models[0].cache_hits == 0
    store = cache.open()
    assert {entry.model for entry in store.scan()} == {SIMULATED_PREFIX + MODEL}
    store.close()


def test_simulated_requests_are_never_counted_as_real_money(simulator: SimulatorThread, tmp_path: Path) -> None:
    cache = llmhub.DiskCache(tmp_path / "answers.db")
    with llmhub.Hub(simulator=simulator.url, cache=cache) as hub:
        llmhub.complete_table(FRAME, "Describe {city}", model=MODEL, hub=hub, progress=False)
        simulated = llmhub.ledger(hub=hub)
    assert simulated.column("model").to_pylist() == [SIMULATED_PREFIX + MODEL] * 4
    assert simulated.column("cost_usd").to_pylist() == [0] * 4
    # The same server under an address that is not marked: the ledger of both in one file.
    real = {"openai": Endpoint(base_url=endpoints(simulator.url)["openai"].base_url, api_key="k")}
    with llmhub.Hub(endpoints=real, settings=config.Settings(), cache=cache) as hub:
        llmhub.complete_table(FRAME, "Describe {city} again", model=MODEL, hub=hub, progress=False)
        both = llmhub.ledger(hub=hub).to_pylist()
    assert sorted(row["model"] for row in both) == [MODEL] * 4 + [SIMULATED_PREFIX + MODEL] * 4
    assert [row["cost_usd"] > 0 for row in both] == [row["model"] == MODEL for row in both]


def test_simulated_runs_of_the_command_line_have_a_cache_of_their_own(
    simulator: SimulatorThread, tmp_path: Path, environ: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environ.setenv("LLMHUB_CACHE", str(tmp_path / "answers.db"))
    pd.DataFrame(FRAME).to_csv(tmp_path / "cities.csv", index=False)
    command = [str(tmp_path / "cities.csv"), "--prompt", "Describe {city}", "--model", MODEL]
    main(["plan", *command])
    before = capsys.readouterr().out
    assert main(["run", *command[:1], str(tmp_path / "out.csv"), *command[1:], "--simulator", simulator.url]) == 0
    capsys.readouterr()
    main(["plan", *command])
    assert capsys.readouterr().out == before
    store = llmhub.DiskCache(tmp_path / "answers.db").open()
    assert list(store.scan()) == []
    store.close()
    main(["plan", *command, "--simulator", simulator.url])
    assert capsys.readouterr().out != before
    assert (tmp_path / "answers-simulated.db").exists()


def test_cache_of_simulated_runs_beside_a_redis_server(environ: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environ.setenv("LLMHUB_CACHE", "redis://localhost:6379/0")
    environ.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = config.simulated_cache_path(config.load_settings())
    assert path is not None
    assert path.name == "answers-simulated.db"


def test_results_are_marked_as_simulated(simulator: SimulatorThread) -> None:
    with llmhub.Hub(simulator=simulator.url) as hub:
        table = llmhub.complete_table(FRAME, "Describe {city}", model=MODEL, hub=hub, progress=False)
        frame = pd.DataFrame(FRAME).llm.complete("Describe {city}", model=MODEL, hub=hub, progress=False)
        batches = list(
            llmhub.complete_record_batches([pa.record_batch(FRAME)], "Describe {city}", model=MODEL, hub=hub)
        )
    assert table.schema.metadata[b"simulated"] == b"true"
    assert batches[0].schema.metadata[b"simulated"] == b"true"
    assert frame.attrs == {"simulated": True}
    assert "(simulated)" in frame.llm.plot.cost_by_model().get_title(loc="left")


def test_polars_and_duckdb_frames_keep_the_mark(simulator: SimulatorThread, tmp_path: Path) -> None:
    with llmhub.Hub(simulator=simulator.url) as hub:
        frame = pl.DataFrame(FRAME).llm.complete("Describe {city}", model=MODEL, hub=hub, progress=False)  # type: ignore[attr-defined]
        relation = duckdb.connect().query("SELECT 'Bonn' AS city")
        answered = llmhub.llm(relation).complete("Describe {city}", model=MODEL, hub=hub, progress=False)
    frame.write_parquet(tmp_path / "answers.parquet")
    kept = (
        frame,
        frame.filter(pl.col("city") != "Bonn").join(
            pl.DataFrame({"city": ["Graz"], "population": [300_000]}), on="city"
        ),
        frame.lazy().sort("latency_s").collect(),
        pl.read_parquet(tmp_path / "answers.parquet"),
        answered,
        answered.filter("status = 'ok'"),
    )
    for each in kept:
        accessor = llmhub.llm(each)
        assert "(simulated)" in accessor.plot.cost_by_model().get_title(loc="left")
        assert repr(accessor.show()).splitlines()[0].endswith("; simulated")
    assert (frame["status"] == "ok").all()
    assert frame["cost_usd"].sum() == sum(frame["cost_usd"].to_list())


def test_everything_that_shows_costs_says_that_they_are_simulated(
    simulator: SimulatorThread, environ: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines: list[str] = []
    with llmhub.Hub(simulator=simulator.url) as hub:
        given: dict[str, Any] = {"model": MODEL, "hub": hub}
        completion = llmhub.complete("Hi", **given)
        estimate = llmhub.plan(FRAME, "Describe {city}", **given)
        results = pd.DataFrame(FRAME).llm.complete(
            "Describe {city}", progress=lambda progress: lines.append(progress_line(progress)), **given
        )
        load = llmhub.bench.run(
            MODEL, hub=hub, load=llmhub.bench.concurrent(2), measure=llmhub.bench.Measure(requests=4, warmup=0)
        )
    assert repr(completion).endswith("simulated)")
    assert "simulated" in completion._repr_html_()
    assert "Simulated providers: costs are list prices, and nothing is billed." in str(estimate)
    assert lines[-1].endswith(" USD (simulated)")
    view = results.llm.show()
    assert "; simulated" in repr(view).splitlines()[0]
    assert "USD billed" not in repr(view)
    assert "USD simulated" in repr(view)
    assert "Simulated responses: " in repr(
        llmhub.compare(results.assign(truth="x"), scorers=[llmhub.scorers.exact("truth")])
    )
    assert "Simulated providers" in str(load)
    assert "Simulated providers" in load._repr_html_()
    assert load.plot().get_title(loc="left") == "Latency under load (simulated)"
    pd.DataFrame(FRAME).to_csv(tmp_path / "cities.csv", index=False)
    paths = [str(tmp_path / "cities.csv"), str(tmp_path / "out.csv")]
    main(["run", *paths, "--prompt", "Describe {city}", "--model", MODEL, "--simulator", simulator.url])
    printed = capsys.readouterr().out
    assert "simulated cost" in printed
    assert "billed" not in printed


def test_routes_of_simulated_models_are_simulated(simulator: SimulatorThread) -> None:
    route = {"fast": llmhub.Failover(MODEL, "anthropic/claude-haiku-4-5")}
    with llmhub.Hub(simulator=simulator.url, route=route) as hub:
        table = llmhub.complete_table(FRAME, "Describe {city}", model="fast", hub=hub, progress=False)
    assert table.schema.metadata[b"simulated"] == b"true"


def test_only_endpoints_of_a_simulator_are_marked() -> None:
    assert not Endpoint(base_url="http://127.0.0.1:8000").simulated
    assert all(endpoint.simulated for endpoint in endpoints("http://127.0.0.1:8000").values())


def test_rehearsal_takes_one_model_as_a_string() -> None:
    with llmhub.rehearsal(MODEL) as run:
        assert run.models == (MODEL,)


def test_rehearsal_simulates_providers_that_need_no_credentials() -> None:
    with llmhub.rehearsal(["compatible/my-model"]) as run:
        assert not run.real
        assert llmhub.complete("Hi", model=run.models[0], hub=run.hub).text


def test_rehearsal_calls_a_local_provider_whose_address_is_set(environ: pytest.MonkeyPatch) -> None:
    environ.setenv("COMPATIBLE_BASE_URL", "http://127.0.0.1:9/v1")
    with llmhub.rehearsal(["compatible/my-model"]) as run:
        assert run.real


def test_rehearsal_refuses_a_provider_that_is_not_simulated() -> None:
    with pytest.raises(BadRequestError, match=r"'mine' is not simulated"):
        llmhub.rehearsal(["mine/m"], providers={"mine": PROVIDERS["openai"]})


def test_simulate_has_a_cache_of_its_own(tmp_path: Path, environ: pytest.MonkeyPatch) -> None:
    environ.setenv("LLMHUB_CACHE", str(tmp_path / "answers.db"))
    with llmhub.simulate() as simulation:
        assert llmhub.complete("Hi", model=MODEL).text
        assert simulation.hub.simulator == simulation.simulator.url
    assert not (tmp_path / "answers.db").exists()
