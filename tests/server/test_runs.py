"""Runs outlive their client and the process of the service: nothing is lost, and nothing is paid for twice."""

from __future__ import annotations

import http.client
import io
import json
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import msgspec
import pyarrow as pa
import pytest
from aiohttp import web
from pyarrow import ipc
from returns.result import Result, Success

from llmhub.cache.sqlite import DiskCache
from llmhub.cache.sqlite_access import open_sqlite_access
from llmhub.core.errors import LLMError
from llmhub.core.provider import Endpoint
from llmhub.core.secret import Secret
from llmhub.server.access import Caller
from llmhub.server.access_settings import AccessSettings
from llmhub.server.key_access import KeyAccess
from llmhub.server.result_log import ResultFile
from llmhub.server.routes import HttpRoute
from llmhub.server.running import RunningService
from llmhub.server.runs import Runs
from llmhub.server.server_settings import RunSettings
from llmhub.server.virtual_keys import KeyOptions, KeyRegistry
from llmhub.sim import Latency, Simulator, SimulatorThread
from llmhub.sim import serving as simulating

Serving = Callable[..., RunningService]
ServeOn = Callable[..., AbstractContextManager[RunningService]]
MODEL = "openai/gpt-4o-mini"
STREAM = "application/vnd.apache.arrow.stream"
decode = msgspec.json.Decoder(float_hook=Decimal).decode


def texts(count: int, word: str = "row") -> bytes:
    table = pa.table({"text": [f"{word} {number}" for number in range(count)], "other": range(count)})
    buffer = io.BytesIO()
    with ipc.new_stream(buffer, table.schema) as writer:
        writer.write_table(table)
    return buffer.getvalue()


def ask(
    url: str, method: str, path: str, body: bytes | None = None, *, key: str = "", **query: Any
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    target = f"{path}?{urlencode(query, doseq=True)}" if query else path
    headers = {"authorization": f"Bearer {key}"} if key else {}
    connection.request(method, target, body, headers if body is None else {**headers, "content-type": STREAM})
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    return reply.status, {name.lower(): value for name, value in reply.getheaders()}, content


def begin(url: str, body: bytes, **query: Any) -> dict[str, Any]:
    status, headers, content = ask(url, "POST", "/v1/runs", body, **{"model": MODEL, "prompt": "Say {text}", **query})
    assert status in {200, 201}, content
    run: dict[str, Any] = decode(content)
    assert headers["location"] == f"/v1/runs/{run['id']}"
    return run


def state_of(url: str, run_id: str, key: str = "") -> dict[str, Any]:
    status, _, content = ask(url, "GET", f"/v1/runs/{run_id}", key=key)
    assert status == 200, content
    state: dict[str, Any] = decode(content)
    return state


def rows_after(url: str, run_id: str, after: int, wait_s: float = 20.0, **query: Any) -> tuple[pa.Table, bool]:
    """Return results after a position, and whether there are no more."""
    status, headers, content = ask(url, "GET", f"/v1/runs/{run_id}/rows", after=after, wait_s=wait_s, **query)
    assert status == 200, content
    table = ipc.open_stream(content).read_all()
    assert headers["x-llmhub-next"] == str(after + len(table))
    return table, headers["x-llmhub-complete"] == "true"


def download(url: str, run_id: str, tables: list[pa.Table] | None = None) -> pa.Table:
    """Return all results of a run, continuing after those that were downloaded before."""
    tables = [] if tables is None else tables
    is_complete = False
    while not is_complete:
        table, is_complete = rows_after(url, run_id, sum(map(len, tables)))
        tables.append(table)
    return pa.concat_tables(tables)


class TestLife:
    def test_run_is_watched_downloaded_and_listed(self, serving: Serving, simulator: SimulatorThread) -> None:
        url = serving().url
        run = begin(url, texts(20), name="greetings", n=2)
        assert (run["name"], run["rows"], run["total"]) == ("greetings", 20, 40)
        results = download(url, run["id"])
        assert Counter(results.column("row").to_pylist()) == dict.fromkeys(range(20), 2)
        assert results.schema.metadata[b"run_id"].decode() == run["id"]
        state = state_of(url, run["id"])
        assert (state["state"], state["done"], state["results"]) == ("done", 40, 40)
        assert state["spent_usd"] == sum(results.column("cost_usd").to_pylist())
        assert state["models"][0]["ok"] == 40
        assert state["ended_at"] >= state["started_at"] >= state["created_at"]
        assert simulator.counts()["requests"] == 40
        second = begin(url, texts(1))
        listed = decode(ask(url, "GET", "/v1/runs", limit=1)[2])
        assert ([each["id"] for each in listed["data"]], listed["has_more"]) == ([second["id"]], True)
        listed = decode(ask(url, "GET", "/v1/runs", before=second["id"])[2])
        assert ([each["id"] for each in listed["data"]], listed["has_more"]) == ([run["id"]], False)
        assert [len(rows_after(url, run["id"], after, limit=15)[0]) for after in (0, 15, 30, 40, 99)] == [
            15,
            15,
            10,
            0,
            0,
        ]

    def test_equal_run_that_has_not_ended_is_joined(self, serve_on: ServeOn) -> None:
        with simulating(Simulator(latency=Latency(0.2))) as simulator, serve_on(simulator.url) as running:
            first, second = begin(running.url, texts(5)), begin(running.url, texts(5))
            assert first["id"] == second["id"]
            assert begin(running.url, texts(5), temperature=1)["id"] != first["id"]
            download(running.url, first["id"])
            assert begin(running.url, texts(5))["id"] != first["id"]

    def test_stop_leaves_rows_cancelled_and_the_state_says_what_binds(self, serve_on: ServeOn) -> None:
        with simulating(Simulator(latency=Latency(0.3))) as simulator, serve_on(simulator.url) as running:
            run = begin(running.url, texts(9000), concurrency=2)
            while (state := state_of(running.url, run["id"]))["in_flight"] < 2 or state["forecast"] is None:
                threading.Event().wait(0.01)
            assert (state["state"], state["limited_by"]) == ("running", "concurrency")
            assert state["forecast"]["calls"] == 9000
            assert 0 < state["forecast"]["low_usd"] < state["forecast"]["expected_usd"]
            assert ask(running.url, "DELETE", f"/v1/runs/{run['id']}")[0] == 200
            results = download(running.url, run["id"])
            assert sorted(results.column("row").to_pylist()) == list(range(9000))
            statuses = Counter(results.column("status").to_pylist())
            assert statuses["ok"] == simulator.counts()["requests"]
            assert statuses["cancelled"] == 9000 - statuses["ok"]
            state = state_of(running.url, run["id"])
            assert (state["state"], state["models"][0]["cancelled"]) == ("stopped", statuses["cancelled"])
            assert ask(running.url, "DELETE", f"/v1/runs/{run['id']}")[0] == 200

    def test_run_of_another_team_is_not_there(self, serving: Serving) -> None:
        class OneCaller:
            team = "a"

            async def authenticate(self, _request: web.Request, _route: HttpRoute) -> Result[Caller, LLMError]:
                return Success(Caller(key_id=f"key-{self.team}", team=self.team))

        access = OneCaller()
        url = serving(access=access).url
        run = begin(url, texts(2))
        download(url, run["id"])
        access.team = "b"
        for method, path in (("GET", ""), ("GET", "/rows"), ("DELETE", "")):
            status, headers, content = ask(url, method, f"/v1/runs/{run['id']}{path}")
            error = json.loads(content)
            assert (status, error["error"]["type"]) == (404, "NotFound")
            assert error["request_id"] == headers["x-request-id"]
        assert decode(ask(url, "GET", "/v1/runs")[2])["data"] == []
        access.team = "a"
        assert state_of(url, run["id"])["state"] == "done"

    def test_budget_of_a_run_holds(self, serving: Serving) -> None:
        url = serving().url
        run = begin(url, texts(60), budget_usd="0.001", max_tokens=100)
        statuses = Counter(download(url, run["id"]).column("status").to_pylist())
        assert statuses["ok"] + statuses["budget"] == 60
        assert statuses["ok"]
        assert statuses["budget"]
        assert state_of(url, run["id"])["spent_usd"] <= Decimal("0.001")

    @pytest.mark.parametrize("query", [{"after": -1}, {"after": "x"}, {"limit": 0}, {"wait_s": 1000}])
    def test_positions_are_checked(self, serving: Serving, query: dict[str, Any]) -> None:
        url = serving().url
        run = begin(url, texts(1))
        status, _, content = ask(url, "GET", f"/v1/runs/{run['id']}/rows", **query)
        assert (status, json.loads(content)["error"]["path"]) == (400, next(iter(query)))

    def test_too_many_runs_are_refused(self, serve_on: ServeOn) -> None:
        with (
            simulating(Simulator(latency=Latency(30.0))) as simulator,
            serve_on(simulator.url, runs=RunSettings(max_active=1, max_unfinished=2), drain_timeout_s=0.1) as running,
        ):
            begin(running.url, texts(1, "a"))
            waiting = begin(running.url, texts(1, "b"))
            assert state_of(running.url, waiting["id"])["limited_by"] == "other runs"
            status, headers, _ = ask(running.url, "POST", "/v1/runs", texts(1), model=MODEL, prompt="{text}")
            assert (status, int(headers["retry-after"])) == (503, 30)


class TestLog:
    def test_incomplete_piece_is_cut_off(self, tmp_path: Path) -> None:
        log = ResultFile(tmp_path / "log", writable=True)
        log.append(pa.table({"x": [1, 2]}))
        log.append(pa.table({"x": [3]}))
        log.close()
        whole = (tmp_path / "log").read_bytes()
        for size in (*range(0, len(whole), 23), len(whole) - 1):
            (tmp_path / "log").write_bytes(whole[:size])
            log = ResultFile(tmp_path / "log", writable=True)
            before = [] if log.rows == 0 else [1, 2]
            log.append(pa.table({"x": [9]}))
            log.close()
            log = ResultFile(tmp_path / "log")
            found = log.read(0)
            assert found.column("x").to_pylist() == [*before, 9]
            log.close()


def another_key(registry: KeyRegistry, team: str) -> str:
    """Return another key of a team."""
    return registry.create(KeyOptions(team=team)).token


ROWS = 300
CONCURRENCY = 16


def begin_and_read(url: str, simulator: SimulatorThread) -> tuple[dict[str, Any], list[pa.Table]]:
    """Begin a run and download its first results; return it while it is in the midst."""
    run = begin(url, texts(ROWS), concurrency=CONCURRENCY)
    tables = [rows_after(url, run["id"], 0)[0]]
    while simulator.counts()["requests"] < ROWS // 3:
        threading.Event().wait(0.005)
    return run, tables


def require_whole(url: str, run: dict[str, Any], tables: list[pa.Table]) -> None:
    """Go on with a download; each row is there once, and the costs are those paid, once for each row."""
    assert 0 < sum(map(len, tables)) < ROWS
    results = download(url, run["id"], tables)
    state = state_of(url, run["id"])
    assert sorted(results.column("row").to_pylist()) == list(range(ROWS))
    assert set(results.column("status").to_pylist()) == {"ok"}
    assert (state["state"], state["results"]) == ("done", ROWS)
    assert state["spent_usd"] == sum(results.column("list_cost_usd").to_pylist())
    assert state["spent_usd"] == sum(results.column("cost_usd").to_pylist())


class TestRestarts:
    @pytest.mark.parametrize("cache", ["file", "none"])
    def test_kill_loses_nothing_and_pays_nothing_twice(
        self, process_on: Callable[..., Any], tmp_path: Path, cache: str
    ) -> None:
        store = tmp_path / "c.db"
        arguments = ["--cache", str(store) if cache == "file" else "none"]
        variables = {"LLMHUB_SERVER_RUNS_FOLDER": str(tmp_path / "runs")}
        with simulating(Simulator(latency=Latency(0.1))) as simulator:
            with process_on(simulator.url, *arguments, variables=variables) as served:
                run, tables = begin_and_read(served.url, simulator)
                served.process.kill()
                served.process.wait(30)
            with process_on(simulator.url, *arguments, variables=variables) as served:
                require_whole(served.url, run, tables)
            requests = simulator.counts()["requests"]
        # Only a request whose answer was on its way at the kill is sent again: the ledger knows which those are.
        assert requests >= ROWS
        if cache == "file":
            opened = DiskCache(store).open()
            assert opened.ledger is not None
            entries = Counter(entry.state for entry in opened.ledger.requests())
            opened.close()
            assert entries["done"] == ROWS
            assert entries["ambiguous"] <= CONCURRENCY
            assert requests <= ROWS + entries["ambiguous"]

    def test_end_of_the_service_leaves_the_rest_to_the_next(self, serve_on: ServeOn, tmp_path: Path) -> None:
        """What is in flight is awaited and logged, so that every row is sent once."""
        runs = RunSettings(folder=str(tmp_path))
        with simulating(Simulator(latency=Latency(0.1))) as simulator:
            with serve_on(simulator.url, runs=runs) as running:
                run, tables = begin_and_read(running.url, simulator)
            before = simulator.counts()["requests"]
            assert before < ROWS
            with serve_on(simulator.url, runs=runs) as running:
                require_whole(running.url, run, tables)
            assert simulator.counts()["requests"] == ROWS

    def test_key_pays_for_its_run_across_a_restart_unless_it_was_revoked(
        self, serve_on: ServeOn, tmp_path: Path
    ) -> None:
        registry = KeyRegistry(open_sqlite_access(tmp_path / "keys.db"))
        paying, revoked = (registry.create(KeyOptions(team=team, budget_usd=Decimal(1))) for team in ("a", "b"))

        def options() -> dict[str, Any]:
            settings = AccessSettings(keys=True, admin_key=Secret("a" * 40), refresh_s=0.0)
            access = KeyAccess(settings, open_sqlite_access(tmp_path / "keys.db"))
            return {"access": access, "runs": RunSettings(folder=str(tmp_path / "runs")), "concurrency": 4}

        with simulating(Simulator(latency=Latency(0.03))) as simulator:
            with serve_on(simulator.url, **options()) as running:
                runs = [
                    begin(running.url, texts(40, name), key=key.token) for name, key in (("a", paying), ("b", revoked))
                ]
                while not all(
                    state_of(running.url, run["id"], key.token)["results"]
                    for run, key in zip(runs, (paying, revoked), strict=True)
                ):
                    threading.Event().wait(0.01)
            registry.revoke(revoked.key.id)
            with serve_on(simulator.url, **options()) as running:
                while (state := state_of(running.url, runs[0]["id"], paying.token))["ended_at"] is None:
                    threading.Event().wait(0.01)
                others = decode(ask(running.url, "GET", "/v1/runs", key=another_key(registry, "b"))[2])
            assert (state["state"], state["models"][0]["ok"]) == ("done", 40)
            assert [(run["state"], revoked.key.id in run["error"]) for run in others["data"]] == [("failed", True)]
            spent = {key.id: key.spent_usd for key in registry.describe_all()}
            assert spent[paying.key.id] == state["spent_usd"]

    def test_services_on_one_folder_share_their_runs(self, serve_on: ServeOn, tmp_path: Path) -> None:
        runs = RunSettings(folder=str(tmp_path))
        with (
            simulating(Simulator(latency=Latency(0.05))) as simulator,
            serve_on(simulator.url, runs=runs) as first,
            serve_on(simulator.url, runs=runs) as second,
        ):
            run = begin(first.url, texts(400), concurrency=2)
            tables = [rows_after(second.url, run["id"], 0)[0]]
            assert 0 < len(tables[0]) < 400
            while not state_of(second.url, run["id"])["done"]:
                threading.Event().wait(0.05)
            assert ask(second.url, "DELETE", f"/v1/runs/{run['id']}")[0] == 200
            results = download(second.url, run["id"], tables)
            assert sorted(results.column("row").to_pylist()) == list(range(400))
            assert state_of(second.url, run["id"])["state"] == "stopped"
            statuses = Counter(results.column("status").to_pylist())
            assert statuses["ok"] == simulator.counts()["requests"] < 400

    def test_run_of_a_simulator_is_not_taken_up_by_another_service(self, serve_on: ServeOn, tmp_path: Path) -> None:
        runs = RunSettings(folder=str(tmp_path))
        with simulating(Simulator(latency=Latency(30.0))) as simulator:
            with serve_on(simulator.url, runs=runs, drain_timeout_s=0.1) as running:
                run = begin(running.url, texts(1))
            hub = {"simulator": None, "endpoints": {"openai": Endpoint(base_url=simulator.base_url("openai"))}}
            with serve_on("", runs=runs, hub=hub) as running:
                assert state_of(running.url, run["id"])["state"] in {"queued", "running"}
                assert Runs not in running.service.resources or not running.service.resources[Runs].active
