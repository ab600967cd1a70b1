"""A hub with a service makes the calls of a notebook there, with the results of a run in this process."""

from __future__ import annotations

import io
import json
import pickle
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pytest
from aiohttp import web
from returns.result import Failure, Result, Success

import llmhub
from llmhub.api import acomplete_table, complete_series, stream_table
from llmhub.cache.sqlite_access import open_sqlite_access
from llmhub.cli import main
from llmhub.core.errors import AuthFailed, LLMError, Overloaded
from llmhub.hub import Hub, PortableHub
from llmhub.server.access import Caller
from llmhub.server.access_settings import AccessSettings
from llmhub.server.context import RequestContext
from llmhub.server.key_access import KeyAccess, token_of
from llmhub.server.lanes import Lanes
from llmhub.server.routes import HttpRoute
from llmhub.server.running import RunningService
from llmhub.server.server_settings import BatchSettings, RunSettings
from llmhub.server.service import Service
from llmhub.server.virtual_keys import KeyOptions, KeyRegistry
from llmhub.sim import Latency, SimBatches, Simulator, SimulatorThread
from llmhub.sim import serving as simulating
from tests.server.test_batches_client import wait_for_spend
from tests.server.test_runs import ask, decode, state_of, texts
from tests.server.test_stress import until

Serving = Callable[..., RunningService]
ServeOn = Callable[..., AbstractContextManager[RunningService]]
MODEL = "openai/gpt-4o-mini"
OTHER = "anthropic/claude-haiku-4-5"
KEY = "sk-canary-0123456789"
SAME = ("row", "sample", "provider", "model", "status", "response", "parsed", "error_type", "cost_usd", "input_tokens")
PIXEL = bytes.fromhex("89504e470d0a1a0a0000000d49484452")


@dataclass
class Person:
    """Something to extract."""

    name: str
    age: int


class Keyed:
    """Access by one key, which remembers what it was shown."""

    async def authenticate(self, request: web.Request, _route: HttpRoute) -> Result[Caller, LLMError]:
        if token_of(request.headers) != KEY:
            return Failure(AuthFailed(message="no such key"))
        return Success(Caller(key_id="k1", team="t"))


def named_tool(city: str) -> str:
    """Return the weather."""
    return city


def conversation(row: Any) -> list[dict[str, str]] | None:
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": row["text"]}]


CALLS: list[tuple[Any, dict[str, Any]]] = [
    ("Say {text}", {}),
    ("Say {text}", {"model": [MODEL, OTHER], "n": 2, "temperature": 0.5, "stop": ["x"], "max_tokens": 50}),
    ("Say {text}", {"system": "Answer in {{}} {language}", "examples": [("a", "b"), {"input": "c", "output": "d"}]}),
    ("Say {text}", {"system": "Answer in {{}}."}),
    ("Who? {text}", {"schema": Person, "model": [MODEL, OTHER]}),
    (lambda row: f"Say {row['text']}", {}),
    (conversation, {}),
    ("What is {text}?", {"images": "image"}),
    (None, {"messages": "chat"}),
    ("Say {text}", {"tools": [llmhub.types.Tool("f", "does it", {"type": "object"})], "tool_choice": "auto"}),
]


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "text": ["a", None, "c {x}"],
            "language": ["French", "Latin", "Greek"],
            "image": [PIXEL, PIXEL, "nowhere.png"],
            "chat": [[{"role": "user", "content": "Hi"}], "Hello", None],
        },
        index=[7, 7, 9],
    )


class TestTables:
    def test_results_are_those_of_a_run_here(
        self, serving: Serving, simulator: SimulatorThread, frame: pd.DataFrame
    ) -> None:
        at_service = Hub(service=serving().url)
        with Hub(simulator=simulator.url) as here, at_service:
            for prompt, options in CALLS:
                arguments: dict[str, Any] = {"model": MODEL, "progress": False, **options}
                expected = llmhub.complete_table(frame, prompt, hub=here, **arguments)
                results = llmhub.complete_table(frame, prompt, hub=at_service, **arguments)
                assert results.schema.equals(expected.schema), (prompt, options)
                for name in SAME:
                    assert results.column(name).to_pylist() == expected.column(name).to_pylist(), (name, options)
                assert results.schema.metadata[b"simulated"] == b"true"

    def test_frames_series_plans_jobs_and_streams(self, serving: Serving, frame: pd.DataFrame) -> None:
        with Hub(service=serving().url) as hub:
            assert frame.llm.plan("Say {text}", model=MODEL, hub=hub).calls == 2
            results = frame.llm.complete("Say {text}", model=MODEL, hub=hub)
            assert list(results.index) == [7, 7, 9]
            assert list(results["status"]) == ["ok", "skipped", "ok"]
            labels = frame.llm.classify("{text}", labels=["x", "y"], model=MODEL, hub=hub)
            assert set(labels["label"].dropna()) <= {"x", "y"}
            assert complete_series(frame["text"], "Say", model=MODEL, hub=hub, progress=False).num_rows == 3
            job = frame.llm.submit("Tell {text}", model=MODEL, hub=hub)
            assert list(job.result(20)["status"]) == ["ok", "skipped", "ok"]
            assert len(job.table()) == 3
            assert job.progress.finished
            assert job.progress.done == 2
            rows = list(frame.llm.stream("Sing {text}", model=MODEL, hub=hub))
            assert sorted(row["row"] for row in rows) == [0, 1, 2]
            tables = list(stream_table(frame, "Hum {text}", model=MODEL, hub=hub))
            assert sum(table.num_rows for table in tables) == 3

    async def test_awaited(self, serving: Serving, frame: pd.DataFrame) -> None:
        with Hub(service=serving().url) as hub:
            table = await acomplete_table(frame, "Say {text}", model=MODEL, hub=hub)
            assert table.column("status").to_pylist() == ["ok", "skipped", "ok"]
            assert (await llmhub.acomplete("Say hi", model=OTHER, hub=hub)).text

    def test_names_of_the_service_are_models(self, serving: Serving, frame: pd.DataFrame) -> None:
        with Hub(service=serving(models={"fast": MODEL}).url) as hub:
            table = llmhub.complete_table(frame, "Say {text}", model="fast", hub=hub, progress=False)
        assert set(table.column("model").to_pylist()) == {"gpt-4o-mini"}

    def test_stopped_job_has_what_was_answered(self, serve_on: ServeOn) -> None:
        with (
            simulating(Simulator(latency=Latency(0.3))) as simulator,
            serve_on(simulator.url) as running,
            Hub(service=running.url) as hub,
        ):
            frame = pa.table({"text": [str(number) for number in range(200)]})
            job = llmhub.submit(frame, "Say {text}", model=MODEL, hub=hub, concurrency=2, progress=False)
            while not len(job.table()):
                threading.Event().wait(0.01)
            job.stop()
            statuses = job.result(20).column("status").to_pylist()
        assert 0 < statuses.count("ok") < 200
        assert statuses.count("ok") + statuses.count("cancelled") == 200

    def test_notebook_outlives_a_restart_of_the_service(self, serve_on: ServeOn, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        runs = RunSettings(folder=str(tmp_path))
        frame = pa.table({"text": [str(number) for number in range(120)]})
        with simulating(Simulator(latency=Latency(0.05))) as simulator, Hub(service=f"http://127.0.0.1:{port}") as hub:
            with serve_on(simulator.url, runs=runs, port=port, concurrency=1):
                job = llmhub.submit(frame, "Say {text}", model=MODEL, hub=hub, progress=False)
                while not len(job.table()):
                    threading.Event().wait(0.01)
            assert not job.done
            with serve_on(simulator.url, runs=runs, port=port):
                table = job.result(30)
            assert table.column("status").to_pylist() == ["ok"] * 120
            assert table.column("row").to_pylist() == list(range(120))
            assert simulator.counts()["requests"] == 120

    def test_service_that_drains_is_waited_for(
        self, serving: Serving, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        running, requests, begin = serving(), Counter[str](), Service.request_started

        def until_the_second(self: Service) -> None:
            requests[self.state] += 1
            self.state = "ready" if requests.total() > 1 else "draining"
            begin(self)

        running.service.state = "draining"
        monkeypatch.setattr(Service, "request_started", until_the_second)
        with Hub(service=running.url) as hub:
            results = llmhub.complete_table(frame, "Say {text}", model=MODEL, hub=hub, progress=False)
        assert results.column("status").to_pylist() == ["ok", "skipped", "ok"]
        assert requests["draining"] == 2


class TestRowsOfThisProcess:
    """Results for a sink and calls of functions of this process: rows are sent one by one, in the bulk lane."""

    @pytest.fixture
    def lanes(self, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
        """Return the lanes of the calls of all services of this process."""
        seen, acquire = Counter[str](), Lanes.acquire

        async def counted(lanes: Lanes, context: RequestContext, *, bounded: bool = True) -> Overloaded | None:
            seen[context.lane] += 1
            return await acquire(lanes, context, bounded=bounded)

        monkeypatch.setattr(Lanes, "acquire", counted)
        return seen

    def test_sink_is_written_here_and_continued(
        self, serving: Serving, simulator: SimulatorThread, tmp_path: Path, lanes: Counter[str]
    ) -> None:
        frame = pa.table({"text": [f"row {number}" for number in range(6)]})
        with Hub(service=serving().url) as hub:
            written = [
                llmhub.complete_table(rows, "Say {text}", model=MODEL, hub=hub, sink=tmp_path / "out")
                for rows in (frame.slice(0, 4), frame)
            ]
        assert [(each.rows, each.reused_rows) for each in written] == [(4, 0), (2, 4)]
        assert simulator.counts()["requests"] == 6
        assert lanes == {"bulk": 6}
        results = pd.read_parquet(tmp_path / "out")
        assert results["row"].tolist() == list(range(6))
        assert sum(results["cost_usd"]) == sum(each.cost_usd for each in written) > 0

    def test_functions_run_here_turn_by_turn(
        self, serving: Serving, simulator: SimulatorThread, lanes: Counter[str]
    ) -> None:
        cities: list[str] = []

        def weather(city: str) -> str:
            """Return the weather of a city."""
            cities.append(city)
            return "sunny"

        frame = pd.DataFrame({"text": ["a", "b"]})
        prompt = "Weather of {text}? [[sim:tool weather]]"
        with Hub(service=serving().url) as hub, Hub(simulator=simulator.url) as here:
            rows, expected = (
                frame.llm.complete(prompt, model=MODEL, hub=each, tools=[weather], columns="all")
                for each in (hub, here)
            )
            job = llmhub.submit(frame, prompt, model=MODEL, hub=hub, tools=[weather], progress=False)
            assert job.result(20).column("status").to_pylist() == ["ok", "ok"]
        assert len(cities) == 6
        assert rows["turns"].tolist() == [2, 2]
        assert rows["response"].tolist() == expected["response"].tolist()
        assert rows["cost_usd"].tolist() == expected["cost_usd"].tolist()
        assert lanes == {"bulk": 8}


class TestSingleCalls:
    def test_complete_stream_embed_and_cost(self, serving: Serving, simulator: SimulatorThread) -> None:
        with Hub(service=serving().url) as hub, Hub(simulator=simulator.url) as here:
            expected = llmhub.complete("Say hi", model=OTHER, hub=here)
            reply = llmhub.complete("Say hi", model=OTHER, hub=hub)
            assert (reply.text, reply.cost_usd) == (expected.text, expected.cost_usd)
            assert "".join(chunk.text for chunk in llmhub.stream("Say hi", model=OTHER, hub=hub)) == expected.text
            vectors = [
                llmhub.embed(["a", "b"], model="openai/text-embedding-3-small", hub=each).tolist()
                for each in (hub, here)
            ]
            assert vectors[0] == vectors[1]


class TestCommand:
    def test_run_and_plan_at_a_service(
        self, serving: Serving, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "in.csv").write_text("text\na\nb\n", encoding="utf-8")
        monkeypatch.setenv("LLMHUB_SERVICE_KEY", KEY)
        url = serving(access=Keyed()).url
        given = ["--prompt", "Say {text}", "--model", MODEL, "--service", url]
        assert main(["plan", str(tmp_path / "in.csv"), *given]) == 0
        assert "2 calls" in capsys.readouterr().out
        assert main(["run", str(tmp_path / "in.csv"), str(tmp_path / "out.parquet"), *given]) == 0
        assert pd.read_parquet(tmp_path / "out.parquet")["status"].tolist() == ["ok", "ok"]
        assert main(["run", str(tmp_path / "in.csv"), str(tmp_path / "x.csv"), *given, "--cache", "a.db"]) != 0
        printed = capsys.readouterr()
        assert "service" in printed.err
        assert KEY not in printed.out + printed.err


class TestErrors:
    def test_errors_of_the_service_are_exceptions(self, serving: Serving, frame: pd.DataFrame) -> None:
        with Hub(service=serving().url) as hub:
            with pytest.raises(llmhub.errors.BadRequestError, match="nobody"):
                llmhub.complete_table(frame, "Say {text}", model="nobody/x", hub=hub)
            with pytest.raises(llmhub.errors.BadRequestError, match="missing"):
                llmhub.complete_table(frame, "Say {missing}", model=MODEL, hub=hub)
            with pytest.raises(llmhub.errors.BudgetExceededError):
                llmhub.complete_table(frame, "Say {text}", model=MODEL, hub=hub, budget_usd=1e-8)

    def test_first_failed_row_is_raised_on_request(self, serve_on: ServeOn, frame: pd.DataFrame) -> None:
        with simulating(Simulator()) as simulator, serve_on(simulator.url) as running, Hub(service=running.url) as hub:
            with pytest.raises(llmhub.errors.NotFoundError) as raised:
                llmhub.complete_table(frame, "{text}", model="openai/does-not-exist", hub=hub, on_error="raise")
            assert raised.value.table.column("status").to_pylist() == ["error", "skipped", "error"]

    @pytest.mark.parametrize(
        "options",
        [
            {"n_jobs": 2},
            {"poll_s": 1.0},
            {"engine": "dask"},
            {"max_turns": 2},
            {"sink": "out", "n_jobs": 2},
            {"tools": [named_tool], "mode": "batch"},
        ],
    )
    def test_options_of_this_process_are_refused(self, frame: pd.DataFrame, options: dict[str, Any]) -> None:
        with Hub(service="http://127.0.0.1:9") as hub, pytest.raises(llmhub.errors.BadRequestError, match="service"):
            llmhub.complete_table(frame, "Say {text}", model=MODEL, hub=hub, **options)

    @pytest.mark.parametrize("options", [{"cache": "a.db"}, {"budget_usd": 1}, {"endpoints": {"openai": None}}])
    def test_what_the_service_decides_is_refused(self, options: dict[str, Any]) -> None:
        with pytest.raises(llmhub.errors.BadRequestError, match="service"):
            Hub(service="http://127.0.0.1:9", **options)

    @pytest.mark.parametrize("service", ["llm.example", "ftp://x", "https://ann:pw@llm.example", 7])
    def test_address_is_checked(self, service: Any) -> None:
        with pytest.raises(llmhub.errors.BadRequestError, match="service") as raised:
            Hub(service=service)
        assert "pw" not in str(raised.value)

    def test_service_that_is_not_there_is_named(self, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("llmhub.api.service_runs.CREATE_PATIENCE_S", 0.1)
        with Hub(service="http://127.0.0.1:9") as hub, pytest.raises(llmhub.errors.APIConnectionError, match="9"):
            llmhub.complete_table(frame, "Say {text}", model=MODEL, hub=hub)


class TestKey:
    def test_key_is_sent_and_never_shown(
        self, serving: Serving, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        url = serving(access=Keyed()).url
        with Hub(service=url) as without, pytest.raises(llmhub.errors.AuthenticationError, match="no such key"):
            llmhub.complete_table(frame, "Say {text}", model=MODEL, hub=without)
        monkeypatch.setenv("LLMHUB_SERVICE_KEY", KEY)
        for hub in (Hub(service=url), Hub(service=url, service_key=KEY)):
            with hub:
                results = llmhub.complete_table(frame, "Say {text}", model=MODEL, hub=hub, progress=False)
                assert results.column("status").to_pylist() == ["ok", "skipped", "ok"]
                assert llmhub.complete("Say hi", model=MODEL, hub=hub).text
                shown = [repr(hub), str(hub.service_key), repr(hub.target(MODEL)), repr(pickle.dumps(hub))]
                buffer = io.StringIO()
                json.dump({name: str(getattr(hub, name)) for name in ("service", "service_key")}, buffer)
                assert KEY not in "".join([*shown, buffer.getvalue(), str(results.to_pylist())])
        carried = pickle.loads(pickle.dumps(PortableHub(Hub(service=url, service_key=KEY)))).hub
        assert carried.service_key.reveal() == KEY
        assert KEY not in caplog.text


class TestBatches:
    """``mode="batch"`` is a run of that mode at the service, which sends the rows to the provider's Batch API."""

    OPTIONS: Final[Mapping[str, Any]] = {"model": [MODEL, OTHER], "mode": "batch", "progress": False}

    @contextmanager
    def served(self, serve_on: ServeOn, folder: Path) -> Iterator[tuple[SimulatorThread, str, Hub]]:
        """Serve before a provider whose batches take an hour of its clock; yield it, the address and a hub."""
        settings = {
            "hub": {"cache": llmhub.DiskCache(folder / "served.db")},
            "batches": BatchSettings(provider_poll_s=0.02),
            "runs": RunSettings(max_active=1),
        }
        with (
            simulating(Simulator(batches=SimBatches(duration_s=3600.0))) as provider,
            serve_on(provider.url, **settings) as running,
            Hub(service=running.url) as hub,
        ):
            yield provider, running.url, hub

    def test_results_and_plan_are_those_of_a_batch_here(
        self, serve_on: ServeOn, frame: pd.DataFrame, tmp_path: Path
    ) -> None:
        with (
            self.served(serve_on, tmp_path) as (provider, url, hub),
            Hub(simulator=provider.url, cache=llmhub.DiskCache(tmp_path / "here.db")) as here,
        ):
            table = pa.Table.from_pandas(frame[["text"]])
            plan = frame.llm.plan("Say {text}", hub=hub, **self.OPTIONS)
            assert (plan.mode, plan.calls) == ("batch", 4)
            job = llmhub.submit(table, "Say {text}", hub=hub, late="error", deadline="20h", **self.OPTIONS)
            assert until(lambda: len(provider.batches()) == 2)
            (listed,) = decode(ask(url, "GET", "/v1/runs")[2])["data"]
            assert (listed["mode"], listed["state"]) == ("batch", "running")
            live = llmhub.complete_table(table, "Sing {text}", model=MODEL, hub=hub, progress=False)
            assert live.column("status").to_pylist() == ["ok", "skipped", "ok"]  # it waits for no batch
            provider.advance_clock(4000.0)
            results = job.result(20)
            local = llmhub.submit(table, "Say {text}", hub=here, poll_s=0.02, **self.OPTIONS)
            assert until(lambda: len(provider.batches()) == 4)
            provider.advance_clock(4000.0)
            expected = local.result(20)
            again = llmhub.complete_table(table, "Say {text}", hub=hub, **self.OPTIONS)
        assert [each for each in results.column("mode").to_pylist() if each] == ["batch"] * 4
        assert results.schema.equals(expected.schema)
        for name in (*SAME, "mode"):
            assert results.column(name).to_pylist() == expected.column(name).to_pylist(), name
        assert again.column("cache_hit").to_pylist().count(True) == 4

    def test_stopped_batch_is_cancelled_at_its_provider(self, serve_on: ServeOn, tmp_path: Path) -> None:
        with self.served(serve_on, tmp_path) as (provider, _, hub):
            job = llmhub.submit(pa.table({"text": ["a", "b"]}), "Say {text}", hub=hub, model=MODEL, mode="batch")
            assert until(lambda: len(provider.batches()) == 1)
            job.stop()
            table = job.result(20)
        assert set(table.column("status").to_pylist()) == {"cancelled"}

    def test_what_a_service_cannot_do_is_refused_with_the_remedy(self, serving: Serving, frame: pd.DataFrame) -> None:
        url = serving().url
        with Hub(service=url) as hub:
            for options, message in (
                ({}, "needs a cache with a ledger.*pass mode='live'"),
                ({"sink": "out", "mode": "batch"}, "sent to the service one by one; omit it"),
                ({"batch_storage": "s3://bucket"}, "has no object storage.*without a service, or omit it"),
                ({"n_jobs": 2}, "the service sends the rows.*omit it"),
                ({"engine": "ray"}, "the service sends the rows.*omit it"),
            ):
                with pytest.raises(llmhub.ConnectorError, match=message):
                    llmhub.complete_table(frame, "Say {text}", hub=hub, **{**self.OPTIONS, **options})
        status, _, body = ask(url, "POST", "/v1/tables", texts(1), model=MODEL, prompt="hi", mode="batch")
        assert (status, b"begin a run (POST /v1/runs)" in body) == (400, True)

    def test_key_pays_for_a_batch_that_the_next_process_collects(self, serve_on: ServeOn, tmp_path: Path) -> None:
        with closing(open_sqlite_access(tmp_path / "keys.db")) as store:
            key = KeyRegistry(store).create(KeyOptions(budget_usd=Decimal("0.00006")))

        def serve(url: str) -> AbstractContextManager[RunningService]:
            access = KeyAccess(AccessSettings(keys=True), open_sqlite_access(tmp_path / "keys.db"))
            hub = {"cache": llmhub.DiskCache(tmp_path / "served.db")}
            return serve_on(url, access=access, hub=hub, batches=BatchSettings(provider_poll_s=0.02))

        fields = {"model": MODEL, "prompt": "Say {text}", "mode": "batch", "max_tokens": 20}
        with simulating(Simulator(batches=SimBatches(duration_s=3600.0))) as provider:
            with serve(provider.url) as first:
                run = decode(ask(first.url, "POST", "/v1/runs", texts(12), key=key.token, **fields)[2])
                assert until(lambda: len(provider.batches()) == 1)
            provider.advance_clock(4000.0)
            with serve(provider.url) as second:
                assert until(lambda: state_of(second.url, run["id"], key.token)["state"] == "done")
                state = state_of(second.url, run["id"], key.token)
                access = second.service.access
                assert isinstance(access, KeyAccess)
                spent = wait_for_spend(access, key.key.id)
            assert (len(provider.batches()), set(provider.batch_rows().values())) == (1, {1})
        (model,) = state["models"]
        assert model["ok"] > 0 < model["over_budget"]
        assert spent == state["spent_usd"] <= Decimal("0.00006")
