"""Credentials are in nothing that is shown: representations, copies, tracebacks with locals, pickles, errors."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import io
import json
import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import llmhub
from llmhub.config import Settings, load_settings, parse_settings
from llmhub.core.errors import AuthFailed, BadRequestError, RateLimited
from llmhub.core.provider import Endpoint
from llmhub.core.secret import Secret
from llmhub.engine.transport import redact_error
from llmhub.hub import PortableHub

CANARY = "canary-0123456789abcdef"
ENDPOINT = Endpoint(
    base_url=f"https://ann:{CANARY}-1@host/v1?sig={CANARY}-2",
    api_key=f"{CANARY}-3",
    access_key_id=f"{CANARY}-4",
    secret_access_key=f"{CANARY}-5",
    session_token=f"{CANARY}-6",
    headers={"X-Auth-Token": f"{CANARY}-7"},
)


def shown_with_locals(error: BaseException) -> str:
    """Return a traceback as pytest, rich and Sentry show it: with the local variables of every frame."""
    texts = ["".join(traceback.format_exception(error))]
    seen: list[BaseException] = []
    queue: list[BaseException | None] = [error]
    while queue:
        current = queue.pop()
        if current is None or current in seen:
            continue
        seen.append(current)
        queue += [current.__cause__, current.__context__]
        texts.append(repr(vars(current)))
        for frame, _ in traceback.walk_tb(current.__traceback__):
            if "/llmhub/" in frame.f_code.co_filename or "aiohttp" in frame.f_code.co_filename:
                texts += [repr(value) for value in frame.f_locals.values()]
    return "\n".join(texts)


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        lambda endpoint: f"{endpoint} {endpoint.api_key} {endpoint.api_key!r} {endpoint.headers}",
        dataclasses.asdict,
        lambda endpoint: repr(
            dataclasses.asdict(Settings(endpoints={"openai": endpoint}))["endpoints"]["openai"]["headers"]
        ),
        lambda endpoint: [endpoint.api_key, endpoint.headers],
        copy.deepcopy,
    ],
    ids=["repr", "str", "format", "asdict", "settings", "list", "copy"],
)
def test_no_representation_shows_a_credential(show: Callable[[Endpoint], Any]) -> None:
    shown = show(ENDPOINT)
    assert CANARY not in str(shown)
    assert CANARY not in repr(shown)


def test_rich_shows_no_credential() -> None:
    out = io.StringIO()
    Console(file=out, width=400).print(ENDPOINT, ENDPOINT.headers, {"endpoint": ENDPOINT})
    assert CANARY not in out.getvalue()


@pytest.mark.parametrize("dump", [json.dumps, pickle.dumps])
@pytest.mark.parametrize("value", [ENDPOINT.api_key, ENDPOINT.headers])
def test_credentials_are_not_encoded(dump: Callable[[Any], object], value: object) -> None:
    with pytest.raises(TypeError) as caught:
        dump(value)
    assert CANARY not in str(caught.value)


def test_secret_equals_its_text() -> None:
    assert Secret("k") == "k" == Secret("k")
    assert hash(Secret("k")) == hash("k")
    assert Secret("k") != Secret("l")
    assert Secret("k") != 5
    assert not Secret()
    assert Secret("k").reveal() == "k"


# What an endpoint is given


def test_unset_values_are_empty() -> None:
    unset = os.environ.get("LLMHUB_TEST_UNSET")
    endpoint = Endpoint(unset, unset, unset, unset, unset, unset, unset, unset, None)
    assert endpoint == Endpoint()
    assert endpoint.api_key == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"api_key": 5}, r"^api_key: must be a string, not int; write it in quotes$"),
        (
            {"api_key": b"canary-0123456789abcdef"},
            r"^api_key: must be a string, not bytes; decode it: value\.decode\(\)$",
        ),
        ({"session_token": ["canary-0123456789abcdef"]}, r"^session_token: must be a string, not list"),
        ({"base_url": Path("/x")}, r"^base_url: must be a string, not \w*Path; pass str\(value\)$"),
        ({"region": 1.5}, r"^region: must be a string, not float"),
        ({"headers": {"X": 5}}, r"^headers\['X'\]: must be a string, not int; write it in quotes$"),
        ({"headers": {"X": "\ud800"}}, r"^headers\['X'\]: must not contain half of a surrogate pair"),
        ({"headers": {"X\udfff": "x"}}, r"^headers: must not contain half of a surrogate pair"),
        ({"api_key": "\ud800"}, r"^api_key: must not contain half of a surrogate pair"),
        ({"headers": {"X": None}}, r"^headers\['X'\]: must be a string, not None; omit the header$"),
        ({"headers": {b"X": "y"}}, r"^headers: must have strings as names, not bytes"),
        ({"headers": "X: canary-0123456789abcdef"}, r"^headers: must be a mapping of names to strings, not str"),
    ],
)
def test_other_types_are_refused_when_the_endpoint_is_made(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequestError, match=message) as caught:
        Endpoint(**arguments)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("field", ["api_key", "session_token"])
def test_unset_credential_survives_an_error_reply(scripted: Any, replies: Any, field: str) -> None:
    server = scripted([replies.reply(b'{"error":{"message":"no key"}}', status=401)])
    endpoint = Endpoint(base_url=server.url, **{field: None})  # type: ignore[arg-type]
    with llmhub.Hub(endpoints={"compatible": endpoint}, settings=Settings()) as hub:
        table = llmhub.complete_table({"q": ["a", "b"]}, "{q}", model="compatible/m", hub=hub, progress=False)
    assert table.column("error_type").to_pylist() == ["AuthFailed"] * 2


# Tracebacks


@pytest.mark.parametrize(
    "content",
    [
        f'[endpoints.openai]\napi_key = "{CANARY}-file"\nunknown = 1\n',
        f'[endpoints.openai]\napi_key = "{CANARY}-file"\n[endpoints',
        f'[endpoints]\nopenai = "{CANARY}-file"\n',
        f'[endpoints.openai]\nbase_url = 5\napi_key = "{CANARY}-file"\n',
    ],
)
def test_wrong_file_shows_neither_environment_nor_file(
    environ: pytest.MonkeyPatch, tmp_path: Path, content: str
) -> None:
    environ.setenv("OPENAI_API_KEY", f"{CANARY}-key")
    environ.setenv("DATABASE_PASSWORD", f"{CANARY}-of-another-program")
    (tmp_path / "llmhub.toml").write_text(content, encoding="utf-8")
    for read in (load_settings, llmhub.Hub):
        with pytest.raises(BadRequestError, match=r"llmhub\.toml") as caught:
            read()
        assert CANARY not in shown_with_locals(caught.value)


async def test_cancelled_call_shows_no_key(scripted: Any) -> None:
    from llmhub.core.types import CompletionRequest, Message  # noqa: PLC0415 - of this test
    from llmhub.engine.call import Call, Target  # noqa: PLC0415
    from llmhub.engine.transport import Transport, TransportConfig  # noqa: PLC0415
    from llmhub.providers.registry import PROVIDERS  # noqa: PLC0415

    server = scripted(["hang"])
    endpoint = Endpoint(base_url=server.url, api_key=CANARY, headers={"X-Token": CANARY})
    transport = Transport(TransportConfig())
    call = Call(
        Target(PROVIDERS["compatible"], endpoint, "m", "compatible/m"),
        CompletionRequest(model="m", messages=(Message("user", "hi"),)),
    )
    task = asyncio.create_task(transport.send(call))
    assert await asyncio.to_thread(server.received.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert CANARY not in shown_with_locals(caught.value)
    await transport.close()


# Errors


def test_every_text_of_an_error_is_redacted() -> None:
    error = RateLimited(message=f"key {CANARY}", code=f"c-{CANARY}", request_id=f"r-{CANARY}", path=f"$.{CANARY}")
    redacted = redact_error(error, Endpoint(api_key=CANARY))
    assert CANARY not in repr(redacted)
    assert (redacted.message, redacted.code) == ("key [redacted]", "c-[redacted]")


@pytest.mark.parametrize("secret", [f"ann:{CANARY}@", f"{CANARY}@"])
def test_password_and_query_of_the_address_are_redacted(secret: str) -> None:
    endpoint = Endpoint(base_url=f"https://{secret}host/v1?sig=query-{CANARY}&api-version=2024-10-21")
    error = AuthFailed(message=f"no {CANARY}, query-{CANARY}; 2024-10-21 is not served")
    assert redact_error(error, endpoint).message == "no [redacted], [redacted]; 2024-10-21 is not served"


def test_control_characters_of_a_provider_are_escaped(scripted: Any, replies: Any) -> None:
    body = json.dumps({"error": {"message": "\x1b]0;owned\x07\x1b[2J\x9b31m\u202ereversed\ttab\nline"}}).encode()
    server = scripted([replies.reply(body, status=400)])
    with (
        llmhub.Hub(endpoints={"compatible": Endpoint(base_url=server.url)}, settings=Settings()) as hub,
        pytest.raises(BadRequestError) as caught,
    ):
        llmhub.complete("hi", model="compatible/m", hub=hub)
    shown = "".join(traceback.format_exception(caught.value)) + str(caught.value)
    assert not set(shown) & {"\x1b", "\x07", "\x9b", "\u202e"}
    assert r"\x1b]0;owned\x07" in shown
    assert "reversed\ttab\nline" in shown


def ask_in_batch(url: str, folder: Path, **credentials: Any) -> None:
    endpoints = {"openai": Endpoint(base_url=url, api_key="" if credentials else CANARY)}
    with llmhub.Hub(endpoints=endpoints, settings=Settings(), cache=folder / "c", **credentials) as hub:
        options: dict[str, Any] = {"mode": "batch", "poll_s": 0.02, "on_error": "raise", "progress": False}
        llmhub.complete_table({"q": ["a"]}, "{q}", model="openai/m", hub=hub, **options)


def ask_with_a_key_of_a_store(url: str, folder: Path) -> None:
    ask_in_batch(url, folder, credentials=lambda _: CANARY)


def ask_service(url: str, folder: Path) -> None:
    with llmhub.Hub(service=url, service_key=CANARY) as hub:
        llmhub.submit({"q": ["a"]}, "{q}", model="openai/m", hub=hub, progress=False).result()


@pytest.mark.parametrize("ask", [ask_in_batch, ask_with_a_key_of_a_store, ask_service])
@pytest.mark.parametrize("kind", ["InvalidRequest", "no type"])
def test_control_characters_of_other_errors_are_escaped(
    http_service: Any, tmp_path: Path, ask: Callable[[str, Path], None], kind: str
) -> None:
    error = {"type": kind, "message": f"refused \x1b[2J, not {CANARY}", "code": "a\x1b[2Jb"}
    body = json.dumps({"error": error}, ensure_ascii=kind == "InvalidRequest").encode()
    service = http_service(lambda *_: (400, {"content-type": "application/json", "x-request-id": CANARY}, body))
    with pytest.raises(llmhub.ConnectorError) as caught:
        ask(service.url, tmp_path)
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value.error)
    assert "\x1b" not in shown + caught.value.error.code
    assert r"refused \x1b[2J" in str(caught.value).replace("\\u001b", r"\x1b")
    assert CANARY not in shown


def test_health_check_shows_no_echoed_key(scripted: Any) -> None:
    """A broken server that repeats the request in its status line."""
    server = scripted([f"HTTP/1.1 {CANARY} {CANARY}\r\n\r\n".encode(), "close"])
    endpoint = Endpoint(base_url=server.url, api_key=CANARY)
    with llmhub.Hub(endpoints={"openai": endpoint, "ollama": endpoint}, settings=Settings()) as hub:
        for provider in ("openai", "ollama"):
            health = llmhub.health_check(provider, hub=hub)
            assert health.error is not None
            assert CANARY not in repr(health)
            assert health.error.message.endswith("was lost: the reply is not HTTP")


# Pickles


def test_pickled_hub_reads_the_environment_of_the_process_it_is_in(environ: pytest.MonkeyPatch) -> None:
    environ.setenv("OPENAI_API_KEY", CANARY)
    environ.setenv("HTTPS_PROXY", f"http://ann:{CANARY}@proxy:1")
    pickled = pickle.dumps(llmhub.Hub())
    assert CANARY.encode() not in pickled
    environ.setenv("OPENAI_API_KEY", "of-the-worker")
    assert pickle.loads(pickled).target("openai/m").endpoint.api_key == "of-the-worker"
    environ.delenv("OPENAI_API_KEY")
    with pytest.raises(llmhub.AuthenticationError, match="OPENAI_API_KEY"):
        pickle.loads(pickled).target("openai/m")


def test_pickled_hub_has_no_key_that_was_given_in_code(environ: pytest.MonkeyPatch) -> None:
    endpoint = Endpoint(base_url="http://localhost:1/v1", api_key=CANARY)
    pickled = pickle.dumps(llmhub.Hub(endpoints={"openai": endpoint}, settings=Settings()))
    assert CANARY.encode() not in pickled
    with pytest.raises(llmhub.AuthenticationError, match=r"'openai'.*keys='carry'"):
        pickle.loads(pickled)
    environ.setenv("OPENAI_API_KEY", "of-the-worker")
    again = pickle.loads(pickled).target("openai/m").endpoint
    assert (again.api_key, again.base_url) == ("of-the-worker", "http://localhost:1/v1")


def test_pickled_hub_has_no_key_of_a_file(environ: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "llmhub.toml").write_text(f'[endpoints.openai]\napi_key = "{CANARY}"\n', encoding="utf-8")
    pickled = pickle.dumps(llmhub.Hub())
    assert CANARY.encode() not in pickled
    assert pickle.loads(pickled).target("openai/m").endpoint.api_key == CANARY  # the process reads the file itself
    (tmp_path / "llmhub.toml").unlink()
    with pytest.raises(llmhub.AuthenticationError):
        pickle.loads(pickled).target("openai/m")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("base_url", f"http://ann:{CANARY}@localhost:1"),
        ("headers", {"X-Auth-Token": CANARY}),
        ("headers", {"Cookie": "c"}),
    ],
)
def test_a_hub_with_credentials_in_a_url_or_header_is_not_pickled_without_them(field: str, value: Any) -> None:
    hub = llmhub.Hub(endpoints={"openai": Endpoint(**{field: value})}, settings=Settings())
    with pytest.raises(llmhub.BadRequestError, match=field) as caught:
        pickle.dumps(hub)
    assert "carry" in str(caught.value)
    assert CANARY not in str(caught.value)


def test_pickled_hub_carries_keys_if_it_is_told_to() -> None:
    hub = llmhub.Hub(endpoints={"openai": ENDPOINT}, settings=Settings(), keys="carry")
    assert pickle.loads(pickle.dumps(hub)).endpoints == {"openai": ENDPOINT}
    with pytest.raises(llmhub.BadRequestError, match="keys"):
        llmhub.Hub(keys="all")  # type: ignore[arg-type]


def test_endpoint_with_a_key_of_the_environment_names_the_variable(environ: pytest.MonkeyPatch) -> None:
    environ.setenv("OPENAI_API_KEY", CANARY)
    moved = dataclasses.replace(load_settings().endpoints["openai"], base_url="http://localhost:1")
    pickled = pickle.dumps(llmhub.Hub(endpoints={"openai": moved}))
    assert CANARY.encode() not in pickled
    assert pickle.loads(pickled).target("openai/m").endpoint == moved
    environ.delenv("OPENAI_API_KEY")
    with pytest.raises(llmhub.AuthenticationError, match=r"OPENAI_API_KEY was set.*keys='carry'"):
        pickle.loads(pickled)


def test_portable_hub_carries_the_environment_too(environ: pytest.MonkeyPatch) -> None:
    environ.setenv("OPENAI_API_KEY", CANARY)
    environ.setenv("HTTPS_PROXY", "http://proxy:1")
    hub = llmhub.Hub()
    pickled = pickle.dumps(PortableHub(hub))
    environ.delenv("OPENAI_API_KEY")
    environ.delenv("HTTPS_PROXY")
    again = pickle.loads(pickled).hub
    assert again.target("openai/m").endpoint.api_key == CANARY
    assert again.settings.proxies == hub.settings.proxies


WORKER = """
import pickle, sys
hub = pickle.load(sys.stdin.buffer)
print(hub.target("openai/m").endpoint.api_key.reveal())
"""


def test_another_process_reads_its_own_environment(environ: pytest.MonkeyPatch) -> None:
    environ.setenv("OPENAI_API_KEY", CANARY)
    pickled = pickle.dumps(llmhub.Hub())
    done = subprocess.run(
        [sys.executable, "-c", WORKER],
        input=pickled,
        env={**os.environ, "OPENAI_API_KEY": "of-the-worker"},
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode().strip() == "of-the-worker"


def test_jobs_work_with_keys_that_were_set_after_the_workers_started(
    environ: pytest.MonkeyPatch, simulator: Any
) -> None:
    import joblib  # noqa: PLC0415 - slow to import

    joblib.Parallel(n_jobs=2)(joblib.delayed(os.getpid)() for _ in range(2))
    endpoint = simulator.endpoints()["openai"]
    environ.setenv("OPENAI_API_KEY", endpoint.api_key.reveal())
    environ.setenv("OPENAI_BASE_URL", endpoint.base_url)
    with llmhub.Hub() as hub:
        table = llmhub.complete_table(
            {"q": ["a", "b"]}, "{q}", model="openai/gpt-4o-mini", hub=hub, progress=False, n_jobs=2
        )
    assert table.column("status").to_pylist() == ["ok", "ok"]


def test_settings_name_where_credentials_come_from() -> None:
    settings = parse_settings({"OPENAI_API_KEY": CANARY}, {"endpoints": {"anthropic": {"api_key": CANARY}}})
    assert repr(settings.endpoints["openai"].api_key) == "Secret(source='OPENAI_API_KEY')"
    assert repr(settings.endpoints["anthropic"].api_key) == "Secret(source='llmhub.toml')"


# Terminals


@pytest.mark.parametrize(("is_terminal", "shown"), [(True, r"a\x1b[2J\x07b"), (False, "a\x1b[2J\x07b")])
def test_text_of_a_provider_does_not_command_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_terminal: bool, shown: str
) -> None:
    from llmhub.cli.console import print_message, print_result  # noqa: PLC0415 - of this test

    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    print_result("a\x1b[2J\x07b")
    print_message("run", "\nline \x1b]0;title\x07")
    captured = capsys.readouterr()
    assert captured.out == f"{shown}\n"
    assert captured.err == "\nllmhub run: line \\x1b]0;title\\x07\n"
