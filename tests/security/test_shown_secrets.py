"""No credential is in what a debugger, a reporter or a server's reply shows: tracebacks with locals, echoes, files."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentry_sdk
from rich.console import Console
from rich.traceback import Traceback
from sentry_sdk.consts import DEFAULT_OPTIONS
from sentry_sdk.utils import event_from_exception

import llmhub
from llmhub.config import Settings, load_settings
from llmhub.core.provider import Endpoint, HttpRequest
from llmhub.engine.transport import Timeout, Transport, TransportConfig
from llmhub.security.credentials.cloud import AwsCredentials
from llmhub.security.credentials.credential_store import CredentialContext, DotenvCredentials
from llmhub.security.credentials.encrypted_file import EncryptedFileCredentials
from llmhub.security.credentials.vault import VaultCredentials
from llmhub.security.masked_secrets import redact_masked

CANARY = "canary-0123456789abcdef"
KEYED = Endpoint(
    base_url="http://127.0.0.1:9/v1",
    api_key=f"{CANARY}-1",
    access_key_id=f"{CANARY}-2",
    secret_access_key=f"{CANARY}-3",
    session_token=f"{CANARY}-4",
    headers={"X-Auth-Token": f"{CANARY}-5"},
)


def by_rich(error: BaseException) -> str:
    out = io.StringIO()
    shown = Traceback.from_exception(
        type(error), error, error.__traceback__, show_locals=True, locals_max_length=40, locals_max_string=None
    )
    Console(file=out, width=2000).print(shown)
    return out.getvalue()


def by_sentry(error: BaseException) -> str:
    """Return the event that Sentry's SDK would send, with the local variables of every frame."""
    event, _ = event_from_exception(error, DEFAULT_OPTIONS)
    return json.dumps(sentry_sdk.serializer.serialize(event), default=repr)


def by_locals(error: BaseException) -> str:
    """Return every local variable of every frame in full, which the others shorten."""
    texts, seen = ["".join(traceback.format_exception(error))], set[int]()
    queue: list[BaseException | None] = [error]
    while queue:
        current = queue.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        queue += [current.__cause__, current.__context__]
        for frame, _ in traceback.walk_tb(current.__traceback__):
            if frame.f_code.co_filename != __file__:
                texts += [repr(value) for value in frame.f_locals.values()]
    return "\n".join(texts)


SHOWN_BY = [by_rich, by_sentry, by_locals]


@pytest.mark.parametrize("show", SHOWN_BY)
def test_these_ways_do_show_a_text(show: Callable[[BaseException], str]) -> None:
    """They would show a credential in a local variable, if there were one."""
    source = compile("def leak(key):\n    raise ValueError\n", "<elsewhere>", "exec")
    namespace: dict[str, Any] = {}
    exec(source, namespace)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        namespace["leak"](CANARY)
    error = caught.value
    assert error.__traceback__ is not None
    error.__traceback__ = error.__traceback__.tb_next
    assert CANARY in show(error)


def fail_in_middleware(path: Path) -> None:
    def broken(send: Any) -> Any:
        async def raising(call: Any) -> Any:
            await send(call)
            raise ZeroDivisionError

        return raising

    with llmhub.Hub(endpoints={"openai": KEYED}, settings=Settings(), middleware=(broken,)) as hub:
        llmhub.complete("hi", model="openai/m", hub=hub)


def fail_to_connect(path: Path) -> None:
    with llmhub.Hub(endpoints={"openai": KEYED}, settings=Settings(), retry=llmhub.Retry(attempts=1)) as hub:
        llmhub.complete("hi", model="openai/m", hub=hub)


def fail_at_an_address_with_credentials(path: Path) -> None:
    endpoint = Endpoint(base_url=f"http://ann:{CANARY}-6@127.0.0.1:9/v1?sig={CANARY}-7")
    with llmhub.Hub(endpoints={"compatible": endpoint}, settings=Settings(), retry=llmhub.Retry(attempts=1)) as hub:
        llmhub.complete("hi", model="compatible/m", hub=hub)


def fail_to_sign(path: Path) -> None:
    with llmhub.Hub(endpoints={"bedrock": KEYED}, settings=Settings(), retry=llmhub.Retry(attempts=1)) as hub:
        llmhub.complete_table({"q": ["a"]}, "{q}", model="bedrock/m", hub=hub, on_error="raise", progress=False)


def fail_to_decrypt(path: Path) -> None:
    EncryptedFileCredentials(path / "c.json", f"{CANARY}-right").set("openai", api_key=f"{CANARY}-key")
    EncryptedFileCredentials(path / "c.json", f"{CANARY}-wrong").set("groq", api_key=f"{CANARY}-other")


def fail_to_write(path: Path) -> None:
    file = EncryptedFileCredentials(path / "c.json", f"{CANARY}-right")
    file.set("openai", api_key=f"{CANARY}-key")
    (path / "c.json").unlink()
    (path / "c.json").mkdir()
    (path / "c.json" / "x").touch()
    file.set("openai", api_key=f"{CANARY}-key")


def fail_in_function(path: Path) -> None:
    def reads(provider: str) -> str:
        key = f"{CANARY}-local"
        raise ValueError(key)

    with llmhub.Hub(credentials=reads, settings=Settings()) as hub:
        llmhub.complete("hi", model="openai/m", hub=hub)


def fail_at_vault(path: Path) -> None:
    source = VaultCredentials(address="http://127.0.0.1:9", role_id=f"{CANARY}-role", secret_id=f"{CANARY}-id")
    with llmhub.Hub(credentials=source, settings=Settings(), retry=llmhub.Retry(attempts=1)) as hub:
        llmhub.complete("hi", model="openai/m", hub=hub)


def fail_to_read_toml(path: Path) -> None:
    text = f'[profiles.work.endpoints.openai]\napi_key = "{CANARY}"\nbase_url = 5\n'
    (path / "llmhub.toml").write_text(text, encoding="utf-8")
    load_settings(path, profile="work")


def fail_to_read_dotenv(path: Path) -> None:
    (path / ".env").write_bytes(f"OPENAI_API_KEY={CANARY}\n".encode() + b"\xff")
    load_settings(path)


def fail_to_open_dotenv(path: Path) -> None:
    (path / ".env").write_bytes(f"OPENAI_API_KEY={CANARY}\n".encode() + b"\xff")
    llmhub.Hub(credentials=DotenvCredentials(path / ".env"), settings=Settings())


def fail_to_pickle(path: Path) -> None:
    pickle.dumps(llmhub.Hub(credentials=EncryptedFileCredentials(path / "c.json", CANARY), settings=Settings()))


def fail_of_a_profile(path: Path) -> None:
    (path / "aws").write_text(f"[default]\naws_access_key_id = A\naws_secret_access_key = {CANARY}\n", encoding="utf-8")
    with llmhub.Hub(credentials=AwsCredentials("other"), settings=Settings()) as hub:
        llmhub.complete("hi", model="bedrock/m", hub=hub)


FAILURES = [
    fail_in_middleware,
    fail_to_connect,
    fail_at_an_address_with_credentials,
    fail_to_sign,
    fail_to_decrypt,
    fail_to_write,
    fail_in_function,
    fail_at_vault,
    fail_to_read_toml,
    fail_to_read_dotenv,
    fail_to_open_dotenv,
    fail_to_pickle,
    fail_of_a_profile,
]


@pytest.fixture
def surroundings(environ: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    environ.setenv("DATABASE_PASSWORD", f"{CANARY}-of-another-program")
    environ.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "aws"))
    environ.setattr("llmhub.security.credentials.encrypted_file.SCRYPT_COST", {"n": 2**10, "r": 8, "p": 1})
    return tmp_path


@pytest.mark.parametrize("fail", FAILURES)
def test_tracebacks_with_locals_hold_no_credential(surroundings: Path, fail: Callable[[Path], None]) -> None:
    # The exception must not be that of this file's own frames, which hold what they are given.
    with pytest.raises(Exception) as caught:  # noqa: PT011 - of many kinds
        fail(surroundings)
    error: BaseException = caught.value
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    error.__traceback__ = frames
    for show in SHOWN_BY:
        assert CANARY not in show(error), show.__name__


FAILING_TEST = """
import llmhub
from llmhub.config import Settings

def test_it(key):
    llmhub.complete("hi", model="openai/m", hub=key)
"""
CONFTEST = """
import llmhub, pytest
from llmhub.config import Settings

@pytest.fixture
def key():
    with open("key") as file:
        endpoint = llmhub.Endpoint(base_url="http://127.0.0.1:9/v1", api_key=file.read())
    retry = llmhub.Retry(attempts=1)
    with llmhub.Hub(endpoints={"openai": endpoint}, settings=Settings(), retry=retry) as hub:
        yield hub
"""


def test_pytest_with_locals_shows_none(tmp_path: Path) -> None:
    for name, text in (("test_it.py", FAILING_TEST), ("conftest.py", CONFTEST), ("key", CANARY)):
        (tmp_path / name).write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-l", "-vv", "--tb=long", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "APIConnectionError" in done.stdout
    assert CANARY not in done.stdout + done.stderr


async def test_cancelled_request_of_another_kind_shows_none(scripted: Any) -> None:
    """Health checks, batches, uploads and requests to stores."""
    server = scripted(["hang"])
    transport = Transport(TransportConfig(timeout=Timeout(total_s=60.0)))
    request = HttpRequest("POST", server.url, {"x-vault-token": CANARY}, f'{{"secret_id": "{CANARY}"}}'.encode())

    async def body() -> Any:
        yield CANARY.encode()

    async def ignore(_piece: bytes) -> None:
        return

    sends = [
        lambda: transport.fetch("p", request, Endpoint()),
        lambda: transport.upload("p", request, Endpoint(), body(), len(CANARY)),
        lambda: transport.download("p", request, Endpoint(), ignore),
    ]
    for send in sends:
        server.received.clear()
        task = asyncio.create_task(send())  # type: ignore[arg-type]
        assert await asyncio.to_thread(server.received.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert CANARY not in by_locals(caught.value)
    await transport.close()


# Echoes


def test_key_in_the_request_id_of_a_good_reply_is_removed(scripted: Any, replies: Any) -> None:
    server = scripted([replies.answer(**{"x-request-id": f"req-{CANARY}"})])
    endpoint = Endpoint(base_url=server.url, api_key=CANARY)
    with llmhub.Hub(endpoints={"openai": endpoint}, settings=Settings()) as hub:
        table = llmhub.complete_table({"q": ["a"]}, "{q}", model="openai/m", hub=hub, progress=False)
    assert CANARY not in str(table.to_pylist())
    assert table.column("request_id").to_pylist() == ["req-[redacted]"]


@pytest.mark.parametrize("at", [1, 5, 22])
def test_key_that_a_stream_splits_is_removed(scripted: Any, replies: Any, at: int) -> None:
    event = replies.event(f"your key is {CANARY}.", "stop")
    cut = event.index(CANARY.encode()) + at
    server = scripted([replies.stream() + event[:cut], event[cut:] + b"data: [DONE]\n\n", "close"])
    endpoint = Endpoint(base_url=server.url, api_key=CANARY)
    with llmhub.Hub(endpoints={"openai": endpoint}, settings=Settings()) as hub:
        text = "".join(chunk.text for chunk in llmhub.stream("hi", model="openai/m", hub=hub))
    assert text == "your key is [redacted]."


@pytest.mark.parametrize(
    "echo",
    ["{s}*****{e}", "{s}...{e}", "{s}…{e}", "Bearer {s}••••{e}", "{s}********", "********{e}", "'{s}****{e}'"],
)
def test_masked_echo_is_removed(scripted: Any, replies: Any, echo: str) -> None:
    text = echo.format(s=CANARY[:8], e=CANARY[-4:])
    body = json.dumps({"error": {"message": f"Incorrect key: {text} given"}}, ensure_ascii=False).encode()
    server = scripted([replies.reply(body, status=401)])
    endpoint = Endpoint(base_url=server.url, api_key=CANARY)
    with llmhub.Hub(endpoints={"openai": endpoint}, settings=Settings()) as hub:
        table = llmhub.complete_table({"q": ["a"]}, "{q}", model="openai/m", hub=hub, progress=False)
    (message,) = table.column("error").to_pylist()
    assert "Incorrect key: " in message
    assert CANARY[:8] not in message
    assert CANARY[-4:] not in message


def test_ordinary_text_with_dots_is_kept() -> None:
    for text in ("wait ... then go", "a*b**c", "1...n", "see https://host/a...b", "canary ... cdef", "**bold** cdef"):
        assert redact_masked(text, [CANARY]) == text


def test_debug_logs_of_stores_hold_no_credential(
    surroundings: Path, caplog: pytest.LogCaptureFixture, scripted: Any
) -> None:
    server = scripted([b"HTTP/1.1 403 x\r\ncontent-length: 0\r\n\r\n"])
    (surroundings / ".env").write_text(f"GROQ_API_KEY={CANARY}-env\n", encoding="utf-8")
    file = EncryptedFileCredentials(surroundings / "c.json", f"{CANARY}-passphrase")
    file.set("groq", api_key=f"{CANARY}-key")
    vault = VaultCredentials(address=server.url, role_id=f"{CANARY}-role", secret_id=f"{CANARY}-id")
    with caplog.at_level(logging.DEBUG):
        for source in (DotenvCredentials(".env"), file, vault):
            endpoints = {"groq": Endpoint(base_url=server.url)}
            with llmhub.Hub(endpoints=endpoints, credentials=source, settings=Settings()) as hub:
                table = llmhub.complete_table({"q": ["a"]}, "{q}", model="groq/m", hub=hub, progress=False)
                assert table.column("status").to_pylist() == ["error"]
                shown = f"{table.to_pylist()} {hub!r} {hub.decisions()} {source!r}"
                assert CANARY not in shown
    assert CANARY not in caplog.text


async def test_context_and_stores_show_none() -> None:
    async def send(*_: object) -> Any:
        raise AssertionError

    context = CredentialContext(send, asyncio.to_thread, lambda: 0.0)
    source = VaultCredentials(address="http://h", token=CANARY)
    store = source.open(context)
    assert CANARY not in f"{store!r} {source!r} {source} {vars(store.fetch.__self__)}"  # type: ignore[attr-defined]
