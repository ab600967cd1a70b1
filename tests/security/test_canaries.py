"""Keys are planted in every place that has one, and looked for in everything that is left behind.

That is by programs, commands, the service and notebooks, at the lowest level of all loggers, with failures.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nbformat
import pyarrow.parquet as pq
import pytest
from nbclient import NotebookClient

from llmhub.providers.registry import ENVIRONMENT_VARIABLES, PROVIDERS

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent / "canaries"
PROMPT_CANARIES = ("sk-proj-prompt0canary0123456789", "ann.canary@example.org", "4000 0000 0000 0002")
PROMPTS = [f"My key is {PROMPT_CANARIES[0]}.", f"Write to {PROMPT_CANARIES[1]}.", f"Pay with {PROMPT_CANARIES[2]}."]
CREDENTIAL_FIELDS = {"api_key", "access_key_id", "secret_access_key", "session_token"}
FILE = """
[endpoints.compatible]
base_url = "http://{address}/v1?sig={query}"
api_key = "{key}"

[endpoints.compatible.headers]
X-Auth-Token = "{header}"
Helicone-Auth = "Bearer {bearer}"
Ocp-Apim-Subscription-Key = "{subscription}"

[endpoints.vllm]
base_url = "http://ann:{password}@{address}/v1"
"""


class Canaries:
    """The planted keys by the place they are in, and the process environment with them."""

    def __init__(self, url: str) -> None:
        self.by_place: dict[str, str] = {}
        address = url.removeprefix("http://").removesuffix("/v1")
        variables = {
            variable
            for name in PROVIDERS
            for variable in (
                *(each for group in PROVIDERS[name].required_env for each in group),
                *(each for field, each in ENVIRONMENT_VARIABLES.get(name, ()) if field in CREDENTIAL_FIELDS),
                f"{name.upper().replace('-', '_')}_API_KEY",
            )
        }
        variables -= {"CLOUDFLARE_ACCOUNT_ID"}  # no credential
        addresses = {each for rows in ENVIRONMENT_VARIABLES.values() for field, each in rows if field == "base_url"}
        addresses |= {f"{name.upper().replace('-', '_')}_BASE_URL" for name in PROVIDERS}
        plain = {"AWS_REGION": "us-east-1", "GOOGLE_CLOUD_PROJECT": "project", "GOOGLE_CLOUD_LOCATION": "us-east5"}
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.endswith(("_PROXY", "_proxy"))},
            **{name: self.plant(name) for name in sorted(variables - addresses)},
            **{name: f"http://{address}/v1?sig={self.plant(name)}" for name in sorted(addresses)},
            **plain,
            "LLMHUB_LOG": "debug",
            "PYTHONPATH": str(ROOT),
            "PYTHONASYNCIODEBUG": "1",
            "PYTHONWARNINGS": "default",
            "COLUMNS": "400",
        }
        fields = ("password", "query", "key", "header", "bearer", "subscription")
        # An endpoint with a user in its address can have no other authorization.
        for name in ("VLLM_API_KEY", "VLLM_BASE_URL", "COMPATIBLE_API_KEY", "COMPATIBLE_BASE_URL"):
            del self.environment[name]
        self.file = FILE.format(address=address, **{name: self.plant(f"file-{name}") for name in fields})

    def plant(self, place: str) -> str:
        """Return a new canary for a place; none contains another, or looks like a key to a pattern."""
        letters = re.sub("[^a-z]", "", place.lower())
        return self.by_place.setdefault(place, f"{BEGINNING}{letters}.{len(self.by_place):03}.zq7w")

    def found_in(self, data: bytes, *more: str) -> list[str]:
        """Return the places whose key is in ``data``, as it is or encoded."""
        found = []
        if any(mark in data for mark in MARKS):
            found = [place for place, key in self.by_place.items() if any(form in data for form in _forms(key))]
        return found + [text for text in more if text.encode() in data]


BEGINNING = "canary."
USERS = ("", "user:", "ann:")
MARKS = (
    BEGINNING.encode(),
    *(base64.b64encode(f"{user}{BEGINNING}".encode())[: len(user + BEGINNING) // 3 * 4] for user in USERS),
)
"""Beginnings of the forms of all keys: data without them need not be searched for each."""


def _forms(key: str) -> Iterator[bytes]:
    yield key.encode()
    yield quote(key, safe="").encode()
    for prefix in USERS:
        whole = base64.b64encode(f"{prefix}{key}".encode()).rstrip(b"=")[:-1]
        yield whole


@pytest.fixture
def canaries(echo: Any, tmp_path: Path) -> Canaries:
    """Plant keys in the environment and in the file of settings of an empty folder."""
    planted = Canaries(echo.url)
    planted.environment["LLMHUB_CREDENTIALS_PASSPHRASE"] = planted.plant("passphrase")
    planted.environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "caches")}
    planted.environment |= {"JUPYTER_RUNTIME_DIR": str(tmp_path / "jupyter"), "IPYTHONDIR": str(tmp_path / "ipython")}
    planted.environment["MPLCONFIGDIR"] = str(tmp_path / "matplotlib")
    planted.environment["LLMHUB_CREDENTIALS_FILE"] = str(tmp_path / "credentials.json")
    (tmp_path / "llmhub.toml").write_text(planted.file, encoding="utf-8")
    (tmp_path / "prompts.json").write_text(json.dumps(PROMPTS), encoding="utf-8")
    (tmp_path / ".netrc").write_text(f"default login ann password {planted.plant('netrc')}\n", encoding="utf-8")
    return planted


def run(canaries: Canaries, folder: Path, *command: str, timeout_s: float = 110) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=canaries.environment,
        capture_output=True,
        timeout=timeout_s,
        check=False,
    )


PLANTED_FILES = {"llmhub.toml", ".netrc", "prompts.json", "rows.csv"}


def leaks(canaries: Canaries, folder: Path, *, prompts_in: tuple[str, ...] = ()) -> dict[str, list[str]]:
    """Return the keys in each file below ``folder``; prompts may be in files whose name has one of ``prompts_in``."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and path.name not in PLANTED_FILES:
            name = path.relative_to(folder).as_posix()
            may_have_prompts = any(part in name for part in prompts_in)
            hits = canaries.found_in(path.read_bytes(), *(() if may_have_prompts else PROMPT_CANARIES))
            if hits:
                found[name] = hits
    return found


def test_every_form_of_a_key_is_found(canaries: Canaries) -> None:
    for place, key in canaries.by_place.items():
        assert all(canaries.found_in(b"before " + form + b" after") == [place] for form in _forms(key))


def test_programs(echo: Any, canaries: Canaries, tmp_path: Path) -> None:
    names = ("openai", "anthropic", "google", "bedrock", "azure", "compatible", "vllm")
    done = run(canaries, tmp_path, "-X", "faulthandler", str(HERE / "program.py"), *names)
    assert done.returncode == 0, done.stderr.decode()
    assert canaries.found_in(done.stdout + done.stderr, *PROMPT_CANARIES) == []
    assert leaks(canaries, tmp_path, prompts_in=("locals/",)) == {}
    # The keys are in use: otherwise nothing of this would show anything.
    assert set(canaries.found_in(json.dumps(echo.headers).encode())) >= {
        "OPENAI_API_KEY", "OPENAI_BASE_URL", "file-key", "file-query", "file-header", "file-bearer",
        "file-subscription", "file-password",
    }  # fmt: skip
    written = (tmp_path / "artefacts" / "all.log").read_text(encoding="utf-8")
    assert "llmhub.calls" in written or "asyncio" in written
    assert (tmp_path / "artefacts" / "metrics.txt").stat().st_size > 1000
    assert (tmp_path / "artefacts" / "spans.json").stat().st_size > 1000


def test_commands(echo: Any, canaries: Canaries, tmp_path: Path) -> None:
    """Every command once, in one process, with what it prints; some fail as the server says."""
    rows = "".join(f"{index},say yes {index},yes,{PROMPT_CANARIES[0]}\n" for index in range(4))
    (tmp_path / "rows.csv").write_text(f"id,text,label,key\n{rows}", encoding="utf-8")
    done = run(canaries, tmp_path, str(HERE / "commands.py"))
    output = (done.stdout + done.stderr).decode()
    codes = dict(re.findall(r"^== (.*) -> (\d+)$", output, re.MULTILINE))
    assert done.returncode == 0, output
    assert len(codes) >= 28, output
    assert {code for command, code in codes.items() if "fail" not in command} <= {"0"}, output
    assert canaries.found_in(output.encode(), *PROMPT_CANARIES) == []
    errors = pq.read_table(tmp_path / "out" / "failed.parquet").column("error").to_pylist()
    assert "[redacted]" in errors[0]
    assert not canaries.found_in("".join(errors).encode(), *PROMPT_CANARIES)
    # Tables and datasets have the columns of their input.
    assert (
        leaks(
            canaries,
            tmp_path,
            prompts_in=("out/run", "out/failed", "out/vectors", "out/none", "out/frozen", "out/evaluation"),
        )
        == {}
    )


def test_service(echo: Any, canaries: Canaries, tmp_path: Path) -> None:
    """The service with keys, metrics and failures, which is then killed so that it dumps its threads."""
    admin = canaries.plant("administrator-of-the-service")
    canaries.environment |= {
        "LLMHUB_SERVER_ACCESS_KEYS": "true",
        "LLMHUB_SERVER_ACCESS_ADMIN_KEY": admin,
        "LLMHUB_SERVER_ACCESS_SIGNING_SECRET": canaries.plant("signing-secret-of-the-service"),
        "LLMHUB_SERVER_ACCESS_STORE": str(tmp_path / "keys.db"),
        "XDG_DATA_HOME": str(tmp_path / "data"),
    }
    command = [sys.executable, "-X", "faulthandler", "-m", "llmhub", "serve", "--port", "0"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=canaries.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output = b""
    try:
        assert process.stdout is not None
        for line in process.stdout:
            output += line
            if found := re.search(rb"listening on (http\S+?);?\s", output):
                break
        else:
            pytest.fail(output.decode())
        url = found[1].decode()
        texts = []
        for model in ("openai/ok", "openai/fail", "anthropic/fail", "vllm/ok", "none/none"):
            for key in (admin, "wrong-key"):
                for stream in (False, True):
                    body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": "hi"}]}
                    texts.append(_fetch(f"{url}/v1/chat/completions", key, body))
        texts += [_fetch(f"{url}{path}", key) for path in ("/metrics", "/healthz", "/readyz") for key in (admin, "")]
        texts += [_fetch(f"{url}/v1/models?key={admin}", admin), _fetch(f"{url}/v1/keys", admin)]
        assert any(b"hi" in text for text in texts)
        assert [canaries.found_in(text) for text in texts if canaries.found_in(text)] == []
        process.send_signal(signal.SIGABRT)
        output += process.stdout.read()
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    assert b"Current thread" in output or b"Thread 0x" in output
    assert canaries.found_in(output, "wrong-key") == []
    assert leaks(canaries, tmp_path) == {}


def _fetch(url: str, key: str, body: Mapping[str, Any] | None = None) -> bytes:
    """Return headers and body of a reply, whatever its status."""
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=20) as reply:
            return str(reply.headers).encode() + reply.read()
    except urllib.error.HTTPError as error:
        with error:
            return str(error.headers).encode() + error.read()


TABLE = """frame = pd.DataFrame({'text': ['a', 'b']})
frame.llm.complete('{text}', model=['openai/ok', 'anthropic/fail'], hub=hub, columns='all')"""
CELLS = (
    "import logging, pandas as pd, llmhub\nlogging.basicConfig(level=0)\nhub = llmhub.Hub(cache='notebook.db')\nhub",
    "hub.settings, hub.endpoints",
    "llmhub.complete('hi', model='openai/ok', hub=hub)",
    TABLE,
    "llmhub.complete('hi', model='anthropic/fail', hub=hub)",
    "%xmode Verbose",
    "llmhub.complete('hi', model='compatible/fail', hub=hub)",
    "frame.llm.complete('{text}', model='google/fail', hub=hub, on_error='raise')",
    "hub.decisions()",
    "hub.close()",
)


def test_notebooks(canaries: Canaries, tmp_path: Path) -> None:
    """Cells that show hubs, results and failures, in a kernel of its own; the notebook is what it would save."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    log = tmp_path / "kernel.log"
    with log.open("wb") as output:
        client = NotebookClient(notebook, timeout=60, allow_errors=True)
        client.execute(env=canaries.environment, cwd=str(tmp_path), stdout=output, stderr=output)
    saved = nbformat.writes(notebook).encode()
    assert b"BadRequestError" in saved
    assert canaries.found_in(saved) == []
    assert leaks(canaries, tmp_path) == {}
