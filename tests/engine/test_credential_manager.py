"""Credentials of calls: read from stores, shared, kept until they expire, and read once more after a refusal."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from returns.result import Failure, Result, Success

import llmhub
from llmhub.config import Settings
from llmhub.core.errors import LLMError, ServerError
from llmhub.core.provider import Endpoint, HttpReply
from llmhub.engine.call import Target
from llmhub.engine.credential_manager import CredentialManager, CredentialPolicy
from llmhub.engine.transport import Transport, TransportConfig
from llmhub.providers.registry import PROVIDERS
from llmhub.security.credentials.credential_store import (
    CredentialContext,
    Credentials,
    CredentialStore,
    DotenvCredentials,
    EnvironmentCredentials,
)

MODEL = "openai/gpt-4o-mini"
OLD, NEW = "key-old-0123456789", "key-new-0123456789"


class KeyServer:
    """A server that accepts one key, which can be rotated, and counts requests by key and status."""

    def __init__(self, start: Any, replies: Any, key: str = OLD) -> None:
        self.key = key
        self.seen = Counter[tuple[str, int]]()
        self._answer = replies.body()
        self._stream = replies.event("Hi", "stop") + b"data: [DONE]\n\n"
        self.url: str = start(self._reply).url

    def _reply(self, _method: str, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, Any, bytes]:
        key = headers.get("authorization", "").removeprefix("Bearer ")
        status = 200 if key == self.key else 401
        self.seen[key, status] += 1
        if status != 200:
            return 401, {"content-type": "application/json"}, b'{"error": {"message": "Incorrect API key provided"}}'
        if b'"stream":true' in body:
            return 200, {"content-type": "text/event-stream"}, self._stream
        return 200, {"content-type": "application/json"}, self._answer


@pytest.fixture
def server(http_service: Any, replies: Any) -> KeyServer:
    return KeyServer(http_service, replies)


class Keys:
    """A function of the provider's name that counts its calls."""

    def __init__(self, *keys: Any) -> None:
        self.keys = list(keys)
        self.calls: list[str] = []
        self.threads: set[str] = set()

    def __call__(self, provider: str) -> Any:
        self.calls.append(provider)
        self.threads.add(threading.current_thread().name)
        key = self.keys.pop(0) if len(self.keys) > 1 else self.keys[0]
        if isinstance(key, Exception):
            raise key
        return key


def hub_with(server: KeyServer, credentials: Any, **options: Any) -> llmhub.Hub:
    endpoints = {"openai": Endpoint(base_url=server.url)}
    return llmhub.Hub(endpoints=endpoints, credentials=credentials, settings=Settings(), **options)


# Functions


@pytest.mark.parametrize("value", [OLD, {"api_key": OLD}, {"OPENAI_API_KEY": OLD}, Credentials(api_key=OLD)])
def test_a_function_returns_a_key(server: KeyServer, value: Any) -> None:
    keys = Keys(value)
    with hub_with(server, keys) as hub:
        table = llmhub.complete_table({"q": list("abcd")}, "{q}", model=MODEL, hub=hub, progress=False)
        assert llmhub.complete("hi", model=MODEL, hub=hub).text == "Hi"
    assert table.column("status").to_pylist() == ["ok"] * 4
    assert keys.calls == ["openai"]
    assert not any("llmhub" in name for name in keys.threads), "a function must not hold up the loop"
    assert server.seen == {(OLD, 200): 5}


def test_a_coroutine_function_is_awaited(server: KeyServer) -> None:
    async def key(provider: str) -> str:
        await asyncio.sleep(0)
        return OLD

    with hub_with(server, key) as hub:
        assert llmhub.complete("hi", model=MODEL, hub=hub).text == "Hi"


def test_sources_are_asked_in_order(server: KeyServer, environ: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environ.setenv("ANTHROPIC_API_KEY", "other")
    (tmp_path / ".env").write_text(f"OPENAI_API_KEY='{OLD}'\n", encoding="utf-8")
    nothing = Keys(None)
    chain = [nothing, EnvironmentCredentials(), DotenvCredentials(tmp_path / ".env")]
    with hub_with(server, chain) as hub:
        assert llmhub.complete("hi", model=MODEL, hub=hub).text == "Hi"
    assert nothing.calls == ["openai"]


def test_a_store_without_the_provider_names_what_to_set(server: KeyServer) -> None:
    with hub_with(server, lambda _: None) as hub, pytest.raises(llmhub.AuthenticationError) as caught:
        llmhub.complete("hi", model=MODEL, hub=hub)
    assert "no store has credentials of 'openai'; set OPENAI_API_KEY" in str(caught.value)
    assert not server.seen


def test_an_exception_of_a_function_shows_no_text(server: KeyServer) -> None:
    failing = Keys(RuntimeError(f"cannot decrypt {OLD}"))
    expected = pytest.raises(llmhub.AuthenticationError, match=r"'openai'\) raised RuntimeError")
    with hub_with(server, failing) as hub, expected as caught:
        llmhub.complete("hi", model=MODEL, hub=hub)
    assert OLD not in str(caught.value)


@pytest.mark.parametrize("value", [5, b"key", {"api_key": 5}])
def test_other_values_are_refused_without_being_shown(server: KeyServer, value: Any) -> None:
    with hub_with(server, lambda _: value) as hub, pytest.raises(llmhub.AuthenticationError) as caught:
        llmhub.complete("hi", model=MODEL, hub=hub)
    assert "key'" not in str(caught.value)


@pytest.mark.parametrize("value", ["sk-0123456789abcdef", 5, [object()]])
def test_other_arguments_are_refused_without_being_shown(value: Any) -> None:
    with pytest.raises(llmhub.BadRequestError, match=r"^credentials\[0\]: must be a credential source") as caught:
        llmhub.Hub(credentials=value, settings=Settings())
    assert "0123456789" not in str(caught.value)


# Rotation


def test_rotated_key_is_read_again_once(server: KeyServer) -> None:
    keys = Keys(OLD, NEW)
    server.key = NEW
    with hub_with(server, keys) as hub:
        table = llmhub.complete_table(
            {"q": [f"{n}" for n in range(40)]}, "{q}", model=MODEL, hub=hub, concurrency=20, progress=False
        )
        decisions = [(decision.kind, decision.detail) for decision in hub.decisions()]
    assert set(table.column("status").to_pylist()) == {"ok"}
    assert keys.calls == ["openai"] * 2
    assert server.seen[NEW, 200] == 40
    assert server.seen[OLD, 401] <= 20
    assert max(table.column("attempts").to_pylist()) == 2
    assert decisions.count(("credentials", "renewed")) == 1


def test_a_key_that_stays_wrong_is_not_asked_for_by_every_row(server: KeyServer) -> None:
    keys = Keys("wrong-key-0123456789")
    with hub_with(server, keys) as hub:
        table = llmhub.complete_table({"q": list("abcdefgh")}, "{q}", model=MODEL, hub=hub, progress=False)
    assert set(table.column("error_type").to_pylist()) == {"AuthFailed"}
    assert keys.calls == ["openai"] * 2
    assert "wrong-key" not in str(table.to_pydict())


def test_a_store_that_fails_after_a_refusal_is_named(server: KeyServer) -> None:
    server.key = NEW
    expected = pytest.raises(llmhub.AuthenticationError, match=r"Incorrect API key.*not read again.*RuntimeError")
    with hub_with(server, Keys(OLD, RuntimeError())) as hub, expected:
        llmhub.complete("hi", model=MODEL, hub=hub)


@pytest.mark.parametrize("place", ["environment", "dotenv", "file", "profile"])
def test_rotated_settings_need_no_restart(
    server: KeyServer, environ: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    environ.chdir(tmp_path)

    def put(key: str) -> None:
        match place:
            case "environment":
                environ.setenv("OPENAI_API_KEY", key)
                environ.setenv("OPENAI_BASE_URL", server.url)
            case "dotenv":
                text = f'export OPENAI_API_KEY="{key}"\nOPENAI_BASE_URL={server.url}\n'
                (tmp_path / ".env").write_text(text, encoding="utf-8")
            case _:
                profile = "profiles.work." if place == "profile" else ""
                environ.setenv("LLMHUB_PROFILE", "work" if profile else "")
                text = f'[{profile}endpoints.openai]\napi_key = "{key}"\nbase_url = "{server.url}"\n'
                (tmp_path / "llmhub.toml").write_text(text, encoding="utf-8")

    put(OLD)
    with llmhub.Hub() as hub:
        assert llmhub.complete("hi", model=MODEL, hub=hub).text == "Hi"
        server.key = NEW
        put(NEW)
        assert llmhub.complete("hi", model=MODEL, hub=hub).attempts == 2
        pieces = [chunk.text for chunk in llmhub.stream("hi", model=MODEL, hub=hub)]
    assert "".join(pieces) == "Hi"
    assert server.seen == {(OLD, 200): 1, (OLD, 401): 1, (NEW, 200): 2}


def test_new_key_is_not_sent_to_an_old_address(server: KeyServer, environ: pytest.MonkeyPatch) -> None:
    environ.setenv("OPENAI_API_KEY", "first-key-0123456789")
    environ.setenv("OPENAI_BASE_URL", server.url)
    with llmhub.Hub() as hub:
        environ.setenv("OPENAI_API_KEY", OLD)
        environ.setenv("OPENAI_BASE_URL", "http://localhost:9/v1")
        with pytest.raises(llmhub.AuthenticationError):
            llmhub.complete("hi", model=MODEL, hub=hub)
    assert (OLD, 200) not in server.seen


def test_key_of_the_environment_is_not_sent_to_an_address_given_in_code(
    server: KeyServer, environ: pytest.MonkeyPatch
) -> None:
    environ.setenv("OPENAI_API_KEY", OLD)
    endpoints = {"openai": Endpoint(base_url=server.url)}
    with llmhub.Hub(endpoints=endpoints) as hub, pytest.raises(llmhub.AuthenticationError):
        llmhub.complete("hi", model=MODEL, hub=hub)
    assert server.seen == {("", 401): 1}


def test_key_given_in_code_wins(server: KeyServer) -> None:
    keys = Keys(NEW)
    endpoint = Endpoint(base_url=server.url, api_key=OLD)
    with llmhub.Hub(endpoints={"openai": endpoint}, credentials=keys, settings=Settings()) as hub:
        assert llmhub.complete("hi", model=MODEL, hub=hub).text == "Hi"
    assert keys.calls == []


def test_only_affected_calls_wait(server: KeyServer, http_service: Any, replies: Any) -> None:
    other, reading, release = KeyServer(http_service, replies), threading.Event(), threading.Event()
    endpoints = {"openai": Endpoint(base_url=server.url), "groq": Endpoint(base_url=other.url)}

    def slow(provider: str) -> str:
        if provider == "openai":
            reading.set()
            assert release.wait(20)
        return OLD

    with llmhub.Hub(endpoints=endpoints, credentials=slow, settings=Settings()) as hub:
        waiting = llmhub.submit({"q": ["a"]}, "{q}", model=MODEL, hub=hub, progress=False)
        assert reading.wait(20)
        assert llmhub.complete("hi", model="groq/m", hub=hub).text == "Hi"
        assert not server.seen
        release.set()
        assert waiting.result().column("status").to_pylist() == ["ok"]


# Expiry, with a clock of our own


class Store:
    """A source whose store returns scripted results."""

    providers = None

    def __init__(self, *results: Result[Credentials | None, LLMError]) -> None:
        self.results = list(results)
        self.asked = 0
        self.gate: asyncio.Event | None = None

    def open(self, _context: CredentialContext) -> CredentialStore:
        async def fetch(_provider: str) -> Result[Credentials | None, LLMError]:
            self.asked += 1
            if self.gate is not None:
                await self.gate.wait()
            return self.results.pop(0) if len(self.results) > 1 else self.results[0]

        return CredentialStore("scripted", fetch)


TARGET = Target(PROVIDERS["openai"], Endpoint(), "m", "openai/m")


def manager_of(store: Any, clock: Callable[[], float]) -> CredentialManager:
    policy = CredentialPolicy(sources=(store,))
    return CredentialManager(policy, Transport(TransportConfig()), {}, lambda *_, **__: None, clock)


async def key_now(manager: CredentialManager) -> str:
    result = await manager.endpoint(TARGET)
    return result.unwrap().api_key.reveal() if isinstance(result, Success) else result.failure().message


def lasting(key: str, until: float) -> Result[Credentials | None, LLMError]:
    return Success(Credentials(api_key=key, expires_at=until))


async def test_credentials_are_read_again_before_they_expire_and_no_call_waits() -> None:
    now = 0.0
    store = Store(lasting(OLD, 1000.0), lasting(NEW, 2000.0))
    manager = manager_of(store, lambda: now)
    assert await key_now(manager) == OLD
    now = 899.0
    assert (await key_now(manager), store.asked) == (OLD, 1)
    now, store.gate = 901.0, asyncio.Event()
    assert await key_now(manager) == OLD
    await asyncio.sleep(0)
    assert (await key_now(manager), store.asked) == (OLD, 2)
    store.gate.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert (await key_now(manager), store.asked) == (NEW, 2)


async def test_expired_credentials_are_waited_for_by_all_calls_together() -> None:
    now = 0.0
    store = Store(lasting(OLD, 1000.0), lasting(NEW, 2000.0))
    manager = manager_of(store, lambda: now)
    assert await key_now(manager) == OLD
    now = 1001.0
    assert await asyncio.gather(*(key_now(manager) for _ in range(5))) == [NEW] * 5
    assert store.asked == 2


async def test_a_failing_store_keeps_valid_credentials_and_is_not_stormed() -> None:
    now = 0.0
    down: Result[Credentials | None, LLMError] = Failure(ServerError(message="sealed", status=503))
    store = Store(lasting(OLD, 1000.0), down)
    manager = manager_of(store, lambda: now)
    assert await key_now(manager) == OLD
    now = 950.0
    for _ in range(10):
        assert await key_now(manager) == OLD
        await asyncio.sleep(0)
    assert store.asked == 2
    now = 1000.5
    assert await asyncio.gather(*(key_now(manager) for _ in range(5))) == ["sealed"] * 5
    assert await key_now(manager) == "sealed"
    assert store.asked == 3
    now = 1002.0
    assert (await key_now(manager), store.asked) == ("sealed", 4)


async def test_a_caller_that_is_cancelled_leaves_the_read_to_the_others() -> None:
    store = Store(Success(Credentials(api_key=OLD)))
    store.gate = asyncio.Event()
    manager = manager_of(store, lambda: 0.0)
    first, second = (asyncio.create_task(key_now(manager)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    store.gate.set()
    assert await second == OLD
    assert store.asked == 1
    await manager.close()


# Pickles


def test_pickled_hub_keeps_its_sources(environ: pytest.MonkeyPatch) -> None:
    hub = llmhub.Hub(credentials=[EnvironmentCredentials(), DotenvCredentials("x.env")], settings=Settings())
    again = pickle.loads(pickle.dumps(hub))
    assert again.credentials == hub.credentials


@pytest.mark.parametrize("kind", ["embeddings", "batch", "tokens"])
def test_other_requests_use_the_stores(simulator: Any, kind: str, tmp_path: Path) -> None:
    model = "anthropic/claude-haiku-4-5" if kind == "tokens" else "openai/text-embedding-3-small"
    provider = model.partition("/")[0]
    endpoint = simulator.endpoints()[provider]
    server_key = endpoint.api_key.reveal()
    keys = Keys(server_key)
    hub = llmhub.Hub(
        endpoints={provider: Endpoint(base_url=endpoint.base_url)},
        credentials=keys,
        settings=Settings(),
        cache=llmhub.DiskCache(tmp_path / "cache.db"),
    )
    with hub:
        match kind:
            case "embeddings":
                assert len(llmhub.embed(["a", "b"], model=model, hub=hub)) == 2
                assert llmhub.health_check("openai", hub=hub).ok
            case "batch":
                options: Any = {"mode": "batch", "hub": hub, "progress": False}
                table = llmhub.complete_table({"q": ["a", "b"]}, "{q}", model="openai/gpt-4o-mini", **options)
                assert table.column("status").to_pylist() == ["ok", "ok"]
            case _:
                assert llmhub.plan({"q": ["a"]}, "{q}", model=model, hub=hub, count_tokens=1).counted == 1
    assert keys.calls == [provider]


async def test_other_requests_are_sent_once_more_after_a_refusal() -> None:
    store = Store(Success(Credentials(api_key=OLD)), Success(Credentials(api_key=NEW)))
    manager = manager_of(store, lambda: 0.0)
    sent: list[str] = []

    async def send(endpoint: Endpoint) -> Result[HttpReply, LLMError]:
        sent.append(endpoint.api_key.reveal())
        return Success(HttpReply(200 if endpoint.api_key == NEW else 401, {}, b"{}"))

    assert (await manager.send(TARGET, send)).unwrap().status == 200
    assert (await manager.send(TARGET, send)).unwrap().status == 200
    assert (sent, store.asked) == ([OLD, NEW, NEW], 2)
