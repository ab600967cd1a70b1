from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from llmhub.config import parse_settings
from llmhub.providers.registry import ENVIRONMENT_VARIABLES, PROVIDERS
from llmhub.sim import FAKE_PROVIDERS, Simulator, SimulatorThread, serving

Shell: TypeAlias = Callable[..., Any]
Script: TypeAlias = Callable[..., Any]

KEYS = {
    "OPENAI_API_KEY": "sk-proj-0123456789secret",
    "ANTHROPIC_API_KEY": "plainwordsonly",
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG",
    "AWS_SESSION_TOKEN": "session-token-value",
    "GROQ_API_KEY": "gsk_0123456789abcdef0123",
}


def test_a_simulator_answers_for_all_its_providers(shell: Shell, simulator: SimulatorThread) -> None:
    said = shell("doctor", "--simulator", simulator.url)
    assert said.code == 0
    lines = [line for line in said.out.splitlines() if simulator.url in line]
    assert len(lines) == len(FAKE_PROVIDERS)
    assert all("yes, key taken, " in line for line in lines)
    assert max(map(len, said.out.splitlines())) <= 100
    assert simulator.counts()["tokens"] == {"input": 0, "output": 0}


def test_without_keys_it_says_what_to_set(shell: Shell, environ: pytest.MonkeyPatch) -> None:
    environ.setenv("OLLAMA_BASE_URL", "http://127.0.0.1:1/v1")
    said = shell("doctor")
    assert said.code == 1
    assert said.err.startswith("llmhub doctor: no provider can be asked: set OPENAI_API_KEY")
    assert "`llmhub demo` needs no key" in said.err
    assert "ollama: cannot connect to http://127.0.0.1:1" in said.out
    assert "AWS_BEARER_TOKEN_BEDROCK or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in " ".join(said.out.split())


def test_a_key_that_is_refused_is_said_and_not_shown(shell: Shell, environ: pytest.MonkeyPatch) -> None:
    with serving(Simulator(api_key="right-key-0123456789")) as served:
        for name, variable in {"openai": "OPENAI", "anthropic": "ANTHROPIC"}.items():
            environ.setenv(f"{variable}_BASE_URL", served.base_url(name))
        environ.setenv("OPENAI_API_KEY", KEYS["OPENAI_API_KEY"])
        environ.setenv("ANTHROPIC_API_KEY", "right-key-0123456789")
        plain, said = shell("doctor"), shell("doctor", "--json")
        found = {row["name"]: row for row in json.loads(said.out)["providers"]}
        assert served.counts()["tokens"] == {"input": 0, "output": 0}
    assert plain.code == said.code == 0
    assert found["openai"]["credentials"] == ["OPENAI_API_KEY"]
    assert (found["openai"]["health"]["status"], found["openai"]["health"]["key_accepted"]) == (401, False)
    assert (found["anthropic"]["health"]["key_accepted"], found["anthropic"]["usable"]) == (True, True)
    assert not found["openai"]["usable"]
    assert found["google"]["needs"] == [["GEMINI_API_KEY"], ["GOOGLE_API_KEY"]]
    assert "openai: AuthFailed" in plain.out or "Incorrect API key" in plain.out
    assert "key refused, " in plain.out
    for secret in (KEYS["OPENAI_API_KEY"], "right-key"):
        assert secret not in plain.out + said.out + said.err


def test_what_a_provider_says_of_a_key_is_not_repeated(
    shell: Shell, environ: pytest.MonkeyPatch, scripted: Script, speech: Any
) -> None:
    said = f"Incorrect API key provided: {KEYS['ANTHROPIC_API_KEY']}".encode()
    server = scripted([speech.reply(b'{"error":{"message":"%b"}}' % said, status=401)])
    environ.setenv("ANTHROPIC_API_KEY", KEYS["ANTHROPIC_API_KEY"])
    environ.setenv("ANTHROPIC_BASE_URL", server.url)
    found = shell("doctor")
    assert found.code == 1
    assert "key refused" in found.out
    assert "no provider takes its key" in found.err
    assert KEYS["ANTHROPIC_API_KEY"] not in found.out + found.err


def test_an_endpoint_that_lacks_something_is_not_asked(shell: Shell, environ: pytest.MonkeyPatch) -> None:
    environ.setenv("OPENAI_API_KEY", " broken\nkey ")
    environ.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    found = shell("doctor", "--json")
    health = {row["name"]: row["health"] for row in json.loads(found.out)["providers"]}["openai"]
    assert "white space" in health["error"] or "line break" in health["error"]
    assert health["status"] is None


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_no_key_is_ever_shown(
    shell: Shell, environ: pytest.MonkeyPatch, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    for name, value in KEYS.items():
        environ.setenv(name, value)
    for name in PROVIDERS:
        address = next(
            (variable for field, variable in ENVIRONMENT_VARIABLES.get(name, ()) if field == "base_url"), None
        )
        environ.setenv(
            address or f"{name.upper()}_BASE_URL", "http://user:hunter22hunter@127.0.0.1:1/v1?key=inthequery"
        )
    (tmp_path / "llmhub.toml").write_text('[endpoints.mistral]\napi_key = "fromthefile"\n', encoding="utf-8")
    said = shell("doctor", *arguments)
    assert said.code == 1
    for secret in (*KEYS.values(), "hunter22", "inthequery", "fromthefile"):
        assert secret not in said.out + said.err
    for name in KEYS:
        assert name in said.out
    assert "llmhub.toml" in said.out
    assert "no provider answers" in said.err


def test_it_looks_at_the_cache_and_does_not_make_one(
    shell: Shell, environ: pytest.MonkeyPatch, simulator: SimulatorThread, rows: Path, tmp_path: Path
) -> None:
    where = ("--simulator", simulator.url)
    assert "answers.db: not there yet" in " ".join(shell("doctor", *where).out.split())
    assert not (tmp_path / "caches").exists()
    shell("run", rows, "out.csv", "--prompt", "{text}", "--model", "openai/gpt-4o-mini", *where)
    assert json.loads(shell("doctor", *where, "--json").out)["cache"]["entries"] == 2
    environ.setenv("LLMHUB_CACHE", str(rows))
    assert "cannot be used: " in " ".join(shell("doctor", *where).out.split())
    assert rows.read_text(encoding="utf-8").startswith("id,zip,text")


def test_it_knows_its_versions(shell: Shell, simulator: SimulatorThread) -> None:
    versions = json.loads(shell("doctor", "--json", "--simulator", simulator.url).out)["versions"]
    assert versions["llmhub"] == shell("--version").out.split()[1]
    assert {"python", "aiohttp", "pyarrow", "pandas"} <= set(versions)


def test_sources_name_variables_and_the_file_but_no_values() -> None:
    found = parse_settings(
        {**KEYS, "AWS_BEARER_TOKEN_BEDROCK": "bearer-key-value", "AWS_REGION": "eu-west-1"},
        {"endpoints": {"mistral": {"api_key": "fromthefile"}, "openai": {"api_key": "overridden"}}},
    )
    assert found.sources["openai"] == ("OPENAI_API_KEY",)
    assert found.sources["mistral"] == ("llmhub.toml",)
    assert set(found.sources["bedrock"]) == {
        "AWS_BEARER_TOKEN_BEDROCK", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
    }  # fmt: skip
    assert found.sources["ollama"] == ()
    assert "google" not in found.sources
