"""Files and batches through the official client: any model, resumed after any end of the process, owned by teams."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import openai
import pytest

from llmhub.cache.memory import MemoryCache
from llmhub.cache.sqlite import DiskCache
from llmhub.cache.sqlite_access import open_sqlite_access
from llmhub.core.secret import Secret
from llmhub.engine.event_loop import background_loop, submit
from llmhub.hub import Hub
from llmhub.server.access import OpenAccess
from llmhub.server.access_settings import AccessSettings
from llmhub.server.batch_folder import BatchFolder, LineLog
from llmhub.server.batch_jobs import BatchJobs
from llmhub.server.key_access import KeyAccess
from llmhub.server.running import RunningService
from llmhub.server.server_settings import BatchSettings, ServerSettings
from llmhub.server.service import Service
from llmhub.server.virtual_keys import KeyOptions, KeyRegistry
from llmhub.sim import Latency, SimBatches, Simulator, SimulatorThread
from llmhub.sim import serving as simulating
from tests.server.test_service import fetch

Serving = Callable[..., RunningService]
ENDED: Final = {"completed", "failed", "expired", "cancelled"}
PATIENCE_S: Final = 60.0


OPENED: Final[list[openai.OpenAI]] = []
"""Clients of the current test."""


@pytest.fixture(autouse=True)
def closed_clients() -> Iterator[None]:
    yield
    for opened in OPENED:
        opened.close()
    OPENED.clear()


def client_of(url: str, key: str = "any") -> openai.OpenAI:
    opened = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
    OPENED.append(opened)
    return opened


def chat_line(name: str, model: str = "openai/gpt-4o-mini", **body: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"Tell me about {name}"}]
    body = {"model": model, "messages": messages, "max_tokens": 20, **body}
    return {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}


def upload(client: openai.OpenAI, lines: list[Any]) -> str:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    return client.files.create(file=("lines.jsonl", text.encode()), purpose="batch").id


def create(client: openai.OpenAI, lines: list[Any], endpoint: Any = "/v1/chat/completions", **options: Any) -> str:
    file_id = upload(client, lines)
    batch = client.batches.create(input_file_id=file_id, endpoint=endpoint, completion_window="24h", **options)
    return batch.id


def wait(
    client: openai.OpenAI, batch_id: str, until: Callable[[Any], bool] = lambda batch: batch.status in ENDED
) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not until(batch := client.batches.retrieve(batch_id)):
        assert time.monotonic() < deadline, batch
        time.sleep(0.02)
    return batch


def results(client: openai.OpenAI, file_id: str | None) -> dict[str, Any]:
    if file_id is None:
        return {}
    lines = [json.loads(line) for line in client.files.content(file_id).text.splitlines()]
    by_id = {line["custom_id"]: line for line in lines}
    assert len(by_id) == len(lines)
    return by_id


@pytest.fixture
def client(serving: Serving) -> openai.OpenAI:
    return client_of(serving(hub={"cache": MemoryCache()}).url)


class TestBatch:
    def test_lines_are_answered_by_any_model_and_errors_have_a_file(self, client: openai.OpenAI) -> None:
        lines = [
            chat_line("a"),
            chat_line("b", "anthropic/claude-haiku-4-5"),
            chat_line("c", "google/gemini-2.5-flash"),
            chat_line("wrong model", "nobody/m"),
            chat_line("streamed", stream=True),
            chat_line("wrong field", temperature="hot"),
        ]
        batch = wait(client, create(client, lines, metadata={"project": "reviews"}))
        assert (batch.status, batch.metadata) == ("completed", {"project": "reviews"})
        assert batch.request_counts.model_dump() == {"total": 6, "completed": 3, "failed": 3}
        answered = results(client, batch.output_file_id)
        assert set(answered) == {"a", "b", "c"}
        for line in answered.values():
            assert line["response"]["status_code"] == 200
            assert line["response"]["body"]["choices"][0]["message"]["role"] == "assistant"
        assert answered["b"]["response"]["body"]["model"] == "anthropic/claude-haiku-4-5"
        failed = {name: line["response"] for name, line in results(client, batch.error_file_id).items()}
        assert {name: reply["status_code"] for name, reply in failed.items()} == {
            "wrong model": 400, "streamed": 400, "wrong field": 400,
        }  # fmt: skip
        assert "temperature" in failed["wrong field"]["body"]["error"]["message"]
        assert batch.cost_usd > 0
        costs = [Decimal(str(line["llmhub"]["cost_usd"])) for line in answered.values()]
        assert Decimal(str(batch.cost_usd)) == sum(costs)

    def test_answers_are_those_of_single_calls(self, client: openai.OpenAI) -> None:
        single = client.chat.completions.create(**chat_line("a")["body"])
        batch = wait(client, create(client, [chat_line("a")]))
        line = results(client, batch.output_file_id)["a"]
        assert line["llmhub"] == {"cost_usd": 0, "cache_hit": True}
        assert line["response"]["body"]["choices"][0]["message"]["content"] == single.choices[0].message.content

    @pytest.mark.parametrize(
        ("endpoint", "body"),
        [
            ("/v1/responses", {"model": "openai/gpt-4o-mini", "input": "Say hi"}),
            ("/v1/embeddings", {"model": "openai/text-embedding-3-small", "input": ["hi", "ho"], "dimensions": 8}),
        ],
    )
    def test_other_endpoints(self, client: openai.OpenAI, endpoint: str, body: dict[str, Any]) -> None:
        line = {"custom_id": "a", "method": "POST", "url": endpoint, "body": body}
        batch = wait(client, create(client, [line], endpoint))
        reply = results(client, batch.output_file_id)["a"]["response"]["body"]
        assert reply["object"] == ("list" if "embeddings" in endpoint else "response")

    def test_wrong_lines_fail_the_batch_before_anything_is_sent(
        self, client: openai.OpenAI, simulator: SimulatorThread
    ) -> None:
        before = simulator.counts()["requests"]
        lines: list[Any] = [
            chat_line("a"), chat_line("a"), "no json", {**chat_line("b"), "url": "/v1/embeddings"}, {"custom_id": "c"},
        ]  # fmt: skip
        batch = wait(client, create(client, lines))
        assert batch.status == "failed"
        found = [(problem.line, problem.code, problem.param) for problem in batch.errors.data]
        assert found == [
            (2, "duplicate_custom_id", "custom_id"),
            (3, "invalid_json_line", None),
            (4, "mismatched_endpoint", "url"),
            (5, "invalid_line", "url"),
        ]
        assert simulator.counts()["requests"] == before

    def test_empty_file_fails(self, client: openai.OpenAI) -> None:
        assert wait(client, create(client, [""])).errors.data[0].code == "empty_file"

    @pytest.mark.parametrize(
        "change",
        [
            {"endpoint": "/v1/images"}, {"completion_window": "soon"}, {"input_file_id": "file-none"},
            {"metadata": {"llmhub_mode": "magic"}},
        ],
    )  # fmt: skip
    def test_wrong_arguments_are_refused(self, client: openai.OpenAI, change: dict[str, Any]) -> None:
        given = {"input_file_id": upload(client, [chat_line("a")]), "endpoint": "/v1/chat/completions"}
        arguments: Any = {**given, "completion_window": "24h", **change}
        with pytest.raises((openai.BadRequestError, openai.NotFoundError)):
            client.batches.create(**arguments)

    def test_cancelled_batch_keeps_its_answers_and_names_the_rest(
        self, serve_on: Callable[..., AbstractContextManager[RunningService]]
    ) -> None:
        with (
            simulating(Simulator(latency=Latency(0.05))) as slow,
            serve_on(slow.url, batches=BatchSettings(concurrency=2)) as running,
        ):
            client = client_of(running.url)
            batch_id = create(client, [chat_line(f"n{number}") for number in range(200)])
            wait(client, batch_id, lambda batch: batch.request_counts.completed >= 2)
            assert client.batches.cancel(batch_id).status == "cancelling"
            batch = wait(client, batch_id)
            assert batch.status == "cancelled"
            answered, unsent = results(client, batch.output_file_id), results(client, batch.error_file_id)
            assert len(answered) == slow.counts()["requests"]
            assert len(answered) + len(unsent) == batch.request_counts.total == 200
            assert {line["error"]["code"] for line in unsent.values()} == {"batch_cancelled"}

    def test_expired_batch_names_the_rest(self, serving: Serving) -> None:
        running = serving()
        client = client_of(running.url)
        jobs = running.service.resources[BatchJobs]
        jobs._executing = asyncio.Semaphore(0)
        batch_id = create(client, [chat_line("a")])
        active = jobs.active[batch_id]
        active.batch.expires_at = 0
        wait(client, batch_id, lambda _: active.ends_as == "expired")
        background_loop().call_soon_threadsafe(jobs._executing.release)
        batch = wait(client, batch_id)
        assert batch.status == "expired"
        assert results(client, batch.error_file_id)["a"]["error"]["code"] == "batch_expired"


class TestFiles:
    def test_files_are_listed_described_downloaded_and_deleted(self, client: openai.OpenAI) -> None:
        ids = [upload(client, [chat_line(name)]) for name in "abc"]
        assert [file.id for file in client.files.list(limit=2)] == ids[::-1]
        assert [file.id for file in client.files.list(order="asc", purpose="batch")] == ids
        found = client.files.retrieve(ids[0])
        text = client.files.content(ids[0]).text
        assert (found.filename, found.purpose, found.bytes) == ("lines.jsonl", "batch", len(text))
        assert json.loads(text) == chat_line("a")
        assert client.files.delete(ids[0]).deleted
        with pytest.raises(openai.NotFoundError):
            client.files.content(ids[0])

    def test_batches_are_listed_by_pages(self, client: openai.OpenAI) -> None:
        ids = [create(client, [chat_line(name)]) for name in "abc"]
        assert [batch.id for batch in client.batches.list(limit=2)] == ids[::-1]

    def test_deleted_input_does_not_stop_a_batch(self, client: openai.OpenAI) -> None:
        file_id = upload(client, [chat_line("a")])
        batch = client.batches.create(input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h")
        client.files.delete(file_id)
        assert wait(client, batch.id).status == "completed"

    def test_sizes_are_limited(self, serving: Serving) -> None:
        settings = BatchSettings(max_file_bytes=2000, max_team_bytes=3000, max_lines=3)
        client = client_of(serving(batches=settings).url)
        with pytest.raises(openai.APIStatusError) as long:
            client.files.create(file=("a", b"x" * 2001), purpose="batch")
        assert long.value.status_code == 413
        client.files.create(file=("a", b"x" * 1800), purpose="batch")
        with pytest.raises(openai.APIStatusError) as much:
            client.files.create(file=("a", b"x" * 1800), purpose="batch")
        assert much.value.status_code == 413
        assert (
            wait(client, create(client, [chat_line(name) for name in "abcd"])).errors.data[0].code == "too_many_lines"
        )

    @pytest.mark.parametrize(
        "form",
        [
            {"file": ("a", b"{}"), "purpose": "fine-tune"},
            {"file": ("a", b"{}"), "purpose": "batch", "expires_after": {"anchor": "created_at", "seconds": -5}},
        ],
    )
    def test_wrong_forms_are_refused(self, client: openai.OpenAI, form: dict[str, Any]) -> None:
        with pytest.raises(openai.BadRequestError):
            client.files.create(**form)

    @pytest.mark.parametrize("path", ["/v1/files", "/v1/tables"])
    def test_malformed_forms_are_refused(self, serving: Serving, path: str) -> None:
        part = b'--b\r\nContent-Disposition: form-data; name="\x08"\r\n\r\n{}\r\n--b--\r\n'
        form = {"content-type": "multipart/form-data; boundary=b"}
        assert fetch(serving().url, path, part, headers=form)[0] == 400

    def test_line_that_was_cut_off_is_removed(self, tmp_path: Path) -> None:
        path = tmp_path / "lines"
        path.write_bytes(b"one\n" + b"t" * 100_000)
        log = LineLog(path)
        log.append(b"two\n")
        log.close()
        assert path.read_bytes() == b"one\ntwo\n"


class TestTeams:
    @pytest.fixture
    def teams(self, serving: Serving, tmp_path: Path) -> tuple[openai.OpenAI, openai.OpenAI]:
        store = open_sqlite_access(tmp_path / "keys.db")
        url = serving(access=KeyAccess(AccessSettings(keys=True, admin_key=Secret("a" * 40)), store)).url
        registry = KeyRegistry(store)
        red = registry.create(KeyOptions(team="red", models=("openai/*",), budget_usd=Decimal("0.0001")))
        blue = registry.create(KeyOptions(team="blue"))
        return client_of(url, red.token), client_of(url, blue.token)

    def test_a_team_sees_its_own_files_and_batches_only(self, teams: tuple[openai.OpenAI, openai.OpenAI]) -> None:
        red, blue = teams
        batch = wait(red, create(red, [chat_line("a")]))
        assert list(blue.files.list()) == []
        assert list(blue.batches.list()) == []
        for ask in (
            lambda: blue.files.content(batch.output_file_id),
            lambda: blue.files.delete(batch.input_file_id),
            lambda: blue.batches.retrieve(batch.id),
            lambda: blue.batches.cancel(batch.id),
            lambda: create(blue, []) and blue.batches.create(
                input_file_id=batch.input_file_id, endpoint="/v1/chat/completions", completion_window="24h"
            ),
        ):  # fmt: skip
            with pytest.raises(openai.NotFoundError):
                ask()

    def test_models_and_budget_of_the_key_hold(self, teams: tuple[openai.OpenAI, openai.OpenAI]) -> None:
        red, _ = teams
        lines = [chat_line("foreign", "anthropic/claude-haiku-4-5"), *(chat_line(f"n{number}") for number in range(40))]
        batch = wait(red, create(red, lines))
        failed = results(red, batch.error_file_id)
        codes = Counter(line["response"]["status_code"] for line in failed.values())
        assert failed["foreign"]["response"]["status_code"] == 403
        assert codes[402] > 0, codes
        assert batch.request_counts.completed + batch.request_counts.failed == 41
        assert 0 < batch.cost_usd <= Decimal("0.0001")

    def test_batch_of_a_revoked_key_ends(self, serving: Serving, tmp_path: Path) -> None:
        store = open_sqlite_access(tmp_path / "keys.db")
        registry = KeyRegistry(store)
        made, other = registry.create(KeyOptions(team="red")), registry.create(KeyOptions(team="red"))
        access = KeyAccess(AccessSettings(keys=True, admin_key=Secret("a" * 40), refresh_s=0.0), store)
        running = serving(access=access)
        jobs = running.service.resources[BatchJobs]
        jobs._executing = asyncio.Semaphore(0)
        batch_id = create(client_of(running.url, made.token), [chat_line("a")])
        registry.revoke(made.key.id)
        background_loop().call_soon_threadsafe(jobs._executing.release)
        batch = wait(client_of(running.url, other.token), batch_id)
        assert (batch.status, batch.errors.data[0].code) == ("failed", "batch_failed")
        assert "revoked" in batch.errors.data[0].message


class TestEndsOfTheProcess:
    LINES: Final = 120

    def begin(self, url: str) -> tuple[openai.OpenAI, str]:
        client = client_of(url)
        batch_id = create(client, [chat_line(f"n{number}") for number in range(self.LINES)])
        wait(client, batch_id, lambda batch: batch.request_counts.completed >= 10)
        return client, batch_id

    @pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
    def test_batch_goes_on_in_the_next_process_and_nothing_is_paid_twice(
        self, end: signal.Signals, tmp_path: Path, process_on: Callable[..., Any]
    ) -> None:
        variables = {
            "LLMHUB_SERVER_BATCHES_FOLDER": str(tmp_path / "batches"),
            "LLMHUB_SERVER_BATCHES_CONCURRENCY": "4",
        }
        with simulating(Simulator(latency=Latency(0.02))) as slow:
            with process_on(slow.url, variables=variables) as first:
                _, batch_id = self.begin(first.url)
                first.process.send_signal(end)
                first.process.wait(20)
            with process_on(slow.url, variables=variables) as second:
                client = client_of(second.url)
                batch = wait(client, batch_id)
                answered = results(client, batch.output_file_id)
            requests = slow.counts()["requests"]
        assert (batch.status, len(answered)) == ("completed", self.LINES)
        assert batch.request_counts.model_dump() == {"total": self.LINES, "completed": self.LINES, "failed": 0}
        in_flight = 4 if end == signal.SIGKILL else 0
        assert self.LINES <= requests <= self.LINES + in_flight
        costs = [Decimal(str(line["llmhub"]["cost_usd"])) for line in answered.values()]
        assert Decimal(str(batch.cost_usd)) == sum(costs)

    @pytest.mark.parametrize("end", ["cancelled", "expired"])
    def test_what_ended_a_batch_holds_in_the_next_process(
        self, end: str, tmp_path: Path, simulator: SimulatorThread, serve_on: Callable[..., Any]
    ) -> None:
        before = simulator.counts()["requests"]
        with serve_on(simulator.url, batches=BatchSettings(folder=str(tmp_path))) as first:
            jobs = first.service.resources[BatchJobs]
            jobs._executing = asyncio.Semaphore(0)
            client = client_of(first.url)
            batch_id = create(client, [chat_line("a"), chat_line("b")])
            if end == "cancelled":
                client.batches.cancel(batch_id)
            else:
                jobs.active[batch_id].batch.expires_at = 0
        with serve_on(simulator.url, batches=BatchSettings(folder=str(tmp_path))) as second:
            batch = wait(client_of(second.url), batch_id)
        assert batch.status == end
        assert batch.request_counts.model_dump() == {"total": 2, "completed": 0, "failed": 2}
        assert simulator.counts()["requests"] == before

    def test_batch_of_a_simulator_is_not_taken_up_for_real_providers(
        self, tmp_path: Path, serving: Serving, simulator: SimulatorThread
    ) -> None:
        running = serving(batches=BatchSettings(folder=str(tmp_path)))
        jobs = running.service.resources[BatchJobs]
        jobs._executing = asyncio.Semaphore(0)
        create(client_of(running.url), [chat_line("a")])
        (row,) = jobs.store.open_batches()
        submit(jobs.close()).result()
        real = Service(Hub(endpoints={}, local_files=False), ServerSettings(port=0), OpenAccess())
        folder = BatchFolder(tmp_path)
        other = BatchJobs(real, folder)
        submit(other._take_up(row)).result()
        assert other.active == {}
        submit(other.close()).result()

    def test_two_services_of_one_folder_send_each_line_once(
        self, tmp_path: Path, serve_on: Callable[..., AbstractContextManager[RunningService]]
    ) -> None:
        settings = BatchSettings(folder=str(tmp_path), concurrency=4)
        with (
            simulating(Simulator(latency=Latency(0.03))) as slow,
            serve_on(slow.url, batches=settings) as one,
            serve_on(slow.url, batches=settings) as two,
        ):
            first, other = client_of(one.url), client_of(two.url)
            batch_id = create(first, [chat_line(f"n{number}") for number in range(40)])
            batch = wait(other, batch_id)
            assert len(results(other, batch.output_file_id)) == slow.counts()["requests"] == 40
            second = create(other, [chat_line(f"m{number}") for number in range(400)])
            wait(other, second, lambda batch: batch.request_counts.completed > 0)
            first.batches.cancel(second)
            assert wait(first, second).status == "cancelled"


class TestBatchesOfProviders:
    """Lines are passed on to the providers' own Batch APIs, where the batch asks for it."""

    MODELS: Final = ("openai/gpt-4o-mini", "anthropic/claude-haiku-4-5")
    ASKED: Final = {"llmhub_mode": "provider"}

    @pytest.fixture
    def provider(self) -> Iterator[SimulatorThread]:
        with simulating(Simulator(batches=SimBatches(duration_s=3600.0))) as served:
            yield served

    def lines(self) -> list[Any]:
        return [chat_line(f"{model} {number}", model) for model in self.MODELS for number in range(5)]

    def wait_for_batches(self, served: SimulatorThread) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while len(served.batches()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def test_rows_are_batched_at_their_provider_at_its_price(
        self, provider: SimulatorThread, serve_on: Callable[..., AbstractContextManager[RunningService]], tmp_path: Path
    ) -> None:
        hub = {"cache": DiskCache(tmp_path / "runs.db")}
        with serve_on(provider.url, hub=hub, batches=BatchSettings(provider_poll_s=0.02)) as running:
            client = client_of(running.url)
            lines = [*self.lines(), chat_line("no batches", "ollama/llama3.2")]
            batch_id = create(client, lines, metadata=self.ASKED)
            self.wait_for_batches(provider)
            provider.advance_clock(4000.0)
            batch = wait(client, batch_id)
            answered, failed = results(client, batch.output_file_id), results(client, batch.error_file_id)
            assert len(answered) == 10
            assert "no Batch API" in failed["no batches"]["response"]["body"]["error"]["message"]
            single = client.chat.completions.with_raw_response.create(
                **chat_line(f"{self.MODELS[0]} 0")["body"], extra_headers={"x-llmhub-cache": "off"}
            )
        full = Decimal(single.headers["x-llmhub-cost-usd"])
        assert Decimal(str(answered[f"{self.MODELS[0]} 0"]["llmhub"]["cost_usd"])) == full / 2

    def test_key_pays_for_rows_and_for_no_more_than_its_budget(
        self, provider: SimulatorThread, serve_on: Callable[..., AbstractContextManager[RunningService]], tmp_path: Path
    ) -> None:
        store = open_sqlite_access(tmp_path / "keys.db")
        key = KeyRegistry(store).create(KeyOptions(team="red", budget_usd=Decimal("0.00003")))
        access = KeyAccess(AccessSettings(keys=True, admin_key=Secret("a" * 40)), store)
        hub, batches = {"cache": DiskCache(tmp_path / "runs.db")}, BatchSettings(provider_poll_s=0.02)
        with serve_on(provider.url, access=access, hub=hub, batches=batches) as running:
            client = client_of(running.url, key.token)
            batch_id = create(client, [chat_line(f"n{number}") for number in range(12)], metadata=self.ASKED)
            wait(client, batch_id, lambda _: len(provider.batches()) == 1)
            provider.advance_clock(4000.0)
            batch = wait(client, batch_id)
            codes = {line["response"]["status_code"] for line in results(client, batch.error_file_id).values()}
            assert (batch.request_counts.completed > 0, codes) == (True, {402})
            assert batch.request_counts.completed + batch.request_counts.failed == 12
            spent = wait_for_spend(access, key.key.id)
        assert spent == Decimal(str(batch.cost_usd)) <= Decimal("0.00003")

    def test_killed_process_leaves_its_rows_to_the_next(
        self, provider: SimulatorThread, tmp_path: Path, process_on: Callable[..., Any]
    ) -> None:
        cache = ("--cache", f"sqlite:///{tmp_path}/runs.db")
        variables = {"LLMHUB_SERVER_BATCHES_PROVIDER_POLL_S": "0.02"}
        with process_on(provider.url, *cache, variables=variables) as first:
            batch_id = create(client_of(first.url), self.lines(), metadata=self.ASKED)
            self.wait_for_batches(provider)
            first.process.kill()
            first.process.wait()
        with process_on(provider.url, *cache, variables=variables) as second:
            provider.advance_clock(4000.0)
            client = client_of(second.url)
            batch = wait(client, batch_id)
            assert len(results(client, batch.output_file_id)) == 10
        assert set(provider.batch_rows().values()) == {1}

    def test_it_needs_a_ledger(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.BadRequestError, match="needs a cache with a ledger"):
            create(client, self.lines(), metadata=self.ASKED)


def wait_for_spend(access: KeyAccess, key_id: str) -> Decimal:
    """Return what a key has spent, once nothing of it is reserved."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        (found,) = [key for key in access.registry.describe_all() if key.id == key_id]
        if found.spent_usd and not found.reserved_usd:
            return found.spent_usd
        assert time.monotonic() < deadline
        time.sleep(0.02)
