"""The encrypted file of credentials: nothing readable, nothing lost, nothing accepted that was changed."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import keyring
import keyring.backend
import keyring.errors
import pytest

import llmhub
from llmhub.cli import main
from llmhub.core.errors import BadRequestError
from llmhub.core.provider import Endpoint
from llmhub.hub import hub_from_environment
from llmhub.security.credentials import encrypted_file
from llmhub.security.credentials.credential_store import CredentialContext, Credentials
from llmhub.security.credentials.encrypted_file import EncryptedFileCredentials

CANARY = "canary-0123456789abcdef"
PASSPHRASE = "correct horse battery staple"


class MemoryKeyring(keyring.backend.KeyringBackend):
    """A keyring in memory, in place of the desktop's, which needs a session."""

    priority = 1

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.passwords: dict[tuple[str, str], str] = {}
        self.is_locked = False

    def get_password(self, service: str, username: str) -> str | None:
        if self.is_locked:
            raise keyring.errors.KeyringLocked(CANARY)
        return self.passwords.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        if self.is_locked:
            raise keyring.errors.KeyringLocked(CANARY)
        self.passwords[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.passwords[service, username]


@pytest.fixture
def desktop() -> Iterator[MemoryKeyring]:
    earlier, own = keyring.get_keyring(), MemoryKeyring()
    keyring.set_keyring(own)
    yield own
    keyring.set_keyring(earlier)


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encrypted_file, "SCRYPT_COST", {"n": 2**10, "r": 8, "p": 1})


@pytest.fixture
def path(environ: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    chosen = tmp_path / "folder" / "credentials.json"
    environ.setenv("LLMHUB_CREDENTIALS_FILE", str(chosen))
    return chosen


def stored_key(path: Path, provider: str = "openai", passphrase: str = PASSPHRASE) -> str:
    """Return the key that a hub reads from the file."""

    async def send(*_: object) -> Any:
        raise AssertionError

    async def read() -> Credentials | None:
        source = EncryptedFileCredentials(path, passphrase)
        store = source.open(CredentialContext(send, asyncio.to_thread, time.time))
        return (await store.fetch(provider)).unwrap()

    found = asyncio.run(read())
    assert found is not None
    return found.api_key.reveal()


def test_round_trip(path: Path, simulator: Any) -> None:
    file = EncryptedFileCredentials(path, PASSPHRASE)
    endpoint = simulator.endpoints()["openai"]
    file.set("openai", api_key=CANARY)
    file.set("bedrock", access_key_id="AKIA0", secret_access_key=f"{CANARY}-aws")
    file.set("bedrock", session_token="t")
    assert [(item.name, item.fields) for item in file.list()] == [
        ("bedrock", ("access_key_id", "secret_access_key", "session_token")),
        ("openai", ("api_key",)),
    ]
    text = path.read_text(encoding="utf-8")
    assert CANARY not in text
    assert CANARY.encode() not in base64.b64decode(json.loads(text)["ciphertext"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not list(path.parent.glob(".*")), "temporary files are left"
    hub = llmhub.Hub(endpoints={"openai": Endpoint(base_url=endpoint.base_url)}, credentials=file)
    with hub:
        assert llmhub.complete("hi", model="openai/gpt-4o-mini", hub=hub).text
    assert CANARY not in repr(hub) + repr(file)


def test_size_does_not_tell_the_length_of_keys(tmp_path: Path) -> None:
    sizes = set()
    for length in (20, 50, 100):
        file = EncryptedFileCredentials(tmp_path / f"{length}.json", PASSPHRASE)
        file.set("openai", api_key="k" * length)
        sizes.add((tmp_path / f"{length}.json").stat().st_size)
    assert len(sizes) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document["providers"].update({"groq": document["providers"]["openai"]}),
        lambda document: document.update(ciphertext=document["ciphertext"][:-8] + "AAAAAAA="),
        lambda document: document.update(nonce=base64.b64encode(b"0" * 12).decode()),
        lambda document: document["key"].update(salt=base64.b64encode(b"0" * 16).decode()),
    ],
)
def test_changed_file_is_refused(path: Path, change: Any) -> None:
    file = EncryptedFileCredentials(path, PASSPHRASE)
    file.set("openai", api_key=CANARY)
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(BadRequestError, match="cannot be decrypted") as caught:
        file.set("openai", api_key="new")
    assert PASSPHRASE not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", "null", '{"format": "llmhub-credentials", "version": 2}', "[" * 100_000, "\x00"]
    + [
        json.dumps({"format": "llmhub-credentials", "version": 1, "key": key, "providers": providers,
                    "nonce": "AAAAAAAAAAAAAAAA", "ciphertext": ""})
        for key, providers in [
            ({"kind": "scrypt", "salt": "AAAA", "n": 2**40, "r": 8, "p": 1}, {}),
            ({"kind": "scrypt", "salt": "AAAA", "n": True, "r": 8, "p": 1}, {}),
            ({"kind": "scrypt", "salt": "?", "n": 2, "r": 8, "p": 1}, {}),
            ({"kind": "other"}, {}),
            ({"kind": "keyring", "id": 5}, {}),
            ({"kind": "keyring", "id": "x"}, {"openai": {"fields": [1], "updated_at": ""}}),
            ({"kind": "keyring", "id": "x"}, []),
        ]
    ],
    ids=range(14),
)  # fmt: skip
def test_hostile_file_is_refused(path: Path, text: str) -> None:
    path.parent.mkdir()
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadRequestError, match="is not a credentials file of version 1, or is damaged"):
        EncryptedFileCredentials(path, PASSPHRASE).list()


def test_wrong_and_missing_passphrase(path: Path) -> None:
    EncryptedFileCredentials(path, PASSPHRASE).set("openai", api_key=CANARY)
    for passphrase, message in (("wrong", "cannot be decrypted"), ("", "set LLMHUB_CREDENTIALS_PASSPHRASE")):
        hub = llmhub.Hub(credentials=EncryptedFileCredentials(path, passphrase))
        with hub, pytest.raises(llmhub.AuthenticationError, match=message):
            llmhub.complete("hi", model="openai/m", hub=hub)


def test_key_in_the_keyring(path: Path, desktop: MemoryKeyring) -> None:
    file = EncryptedFileCredentials(path)
    file.set("openai", api_key=CANARY)
    (old,) = desktop.passwords
    assert stored_key(path, passphrase="") == CANARY
    file.rotate()
    assert old not in desktop.passwords, "the replaced key is left in the keyring"
    assert len(desktop.passwords) == 1
    assert stored_key(path, passphrase="") == CANARY
    assert file.rotate(PASSPHRASE).needs_passphrase
    assert desktop.passwords == {}
    assert stored_key(path) == CANARY


def test_locked_keyring_names_the_alternative(path: Path, desktop: MemoryKeyring) -> None:
    desktop.is_locked = True
    with pytest.raises(BadRequestError, match=r"keyring cannot be used \(KeyringLocked\); use a passphrase") as caught:
        EncryptedFileCredentials(path).set("openai", api_key=CANARY)
    assert CANARY not in str(caught.value)
    assert not path.exists()


WRITER = """
import sys
from llmhub.security.credentials import encrypted_file
encrypted_file.SCRYPT_COST = {"n": 2**10, "r": 8, "p": 1}
for number in range(5):
    encrypted_file.EncryptedFileCredentials(sys.argv[1], "p").set(f"{sys.argv[2]}-{number}", api_key="k")
"""


def test_processes_that_write_at_the_same_time_lose_nothing(path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), name]) for name in "ab"]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert len(EncryptedFileCredentials(path, "p").list()) == 10


def test_failed_write_keeps_the_earlier_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = EncryptedFileCredentials(path, PASSPHRASE)
    file.set("openai", api_key=CANARY)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(BadRequestError, match="cannot be written: No space left"):
        file.set("groq", api_key="k")
    assert path.read_bytes() == before
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["credentials.json", "credentials.json.lock"]


# The command


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Any:
    def put(text: str) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO(text))

    return put


def test_command(
    path: Path, environ: pytest.MonkeyPatch, typed: Any, capsys: pytest.CaptureFixture[str], simulator: Any
) -> None:
    environ.setenv("LLMHUB_CREDENTIALS_PASSPHRASE", PASSPHRASE)
    typed(f"{CANARY}\n")
    assert main(["credentials", "set", "openai"]) == 0
    assert main(["credentials", "list"]) == 0
    assert "api_key" in capsys.readouterr().out
    assert stored_key(path) == CANARY
    typed("new-key\n")
    assert main(["credentials", "rotate", "openai"]) == 0
    assert stored_key(path) == "new-key"
    typed("another passphrase\n")
    assert main(["credentials", "rotate", "--passphrase"]) == 0
    assert stored_key(path, passphrase="another passphrase") == "new-key"
    environ.setenv("LLMHUB_CREDENTIALS_PASSPHRASE", "another passphrase")
    environ.setenv("OPENAI_BASE_URL", simulator.endpoints()["openai"].base_url)
    with hub_from_environment() as hub:
        assert "openai" in hub.available_providers()
        assert [source.path for source in cast("Any", hub.credentials)] == [path]
    assert main(["credentials", "rm", "openai"]) == 0
    assert main(["credentials", "list", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out[captured.out.rindex("[") :]) == []
    assert CANARY not in captured.out + captured.err


@pytest.mark.parametrize(
    ("argv", "text", "message"),
    [
        (["set"], "k\n", "provider: is missing"),
        (["set", "opnai"], "k\n", "Did you mean 'openai'?"),
        (["set", "openai", "--field", "session_token"], "k\n", "openai has none named 'session_token'; it has api_key"),
        (["set", "openai"], "\n", "value: is empty"),
        (["rotate", "openai"], "k\n", "has no credentials of 'openai'"),
        (["rm", "openai"], "", "has no credentials of 'openai'"),
        (["rotate"], "", "does not exist"),
    ],
)
def test_wrong_use_of_the_command(
    path: Path,
    environ: pytest.MonkeyPatch,
    typed: Any,
    capsys: pytest.CaptureFixture[str],
    argv: list[str],
    text: str,
    message: str,
) -> None:
    environ.setenv("LLMHUB_CREDENTIALS_PASSPHRASE", PASSPHRASE)
    typed(text)
    assert main(["credentials", *argv]) == 2
    assert message in capsys.readouterr().err
    assert not path.exists()


def test_value_on_the_command_line_is_refused(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["credentials", "set", "openai", CANARY])
    assert not path.exists()


def test_doctor_checks_stored_credentials(
    path: Path, environ: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], simulator: Any
) -> None:
    environ.setenv("LLMHUB_CREDENTIALS_PASSPHRASE", PASSPHRASE)
    environ.setenv("OPENAI_BASE_URL", simulator.endpoints()["openai"].base_url)
    EncryptedFileCredentials(path, PASSPHRASE).set("openai", api_key=CANARY)
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"openai +credentials\.json +\S+ +yes, key accepted", shown)
    assert CANARY not in shown
    environ.setenv("LLMHUB_CREDENTIALS_PASSPHRASE", "wrong")
    assert main(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert "cannot be decrypted" in shown
