"""``llmhub doctor``: reachability, credentials without their values, the cache, versions."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from llmhub.config import parse_settings
from llmhub.providers.registry import ENVIRONMENT_VARIABLES, PROVIDERS
from llmhub.sim import FAKE_PROVIDERS, SIMULATED, Simulator, SimulatorThread, serving

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


def test_simulator_answers_for_all_its_providers(shell: Shell, simulator: SimulatorThread) -> None:
    result = shell("doctor", "--simulator", simulator.url)
    assert result.code == 0
    lines = [line for line in result.out.splitlines() if simulator.url in line]
    assert len(lines) == len(SIMULATED)
    assert all("yes, " in line for line in lines)
    assert sum("yes, key accepted, " in line for line in lines) >= len(FAKE_PROVIDERS)
    assert max(len(line) for line in result.out.splitlines() if "answers-simulated.db" not in line) <= 110
    assert simulator.counts()["tokens"] == {"input": 0, "output": 0}


def test_without_keys_variables_are_suggested(shell: Shell, environ: pytest.MonkeyPatch) -> None:
    environ.setenv("OLLAMA_BASE_URL", "http://127.0.0.1:1/v1")
    result = shell("doctor")
    assert result.code == 1
    expected = "llmhub doctor: no provider has credentials: set OPENAI_API_KEY or ANTHROPIC_API_KEY or "
    assert result.err.startswith(expected)
    assert "`llmhub demo` needs no key" in result.err
    assert "ollama: cannot connect to http://127.0.0.1:1" in result.out
    assert "ollama: ollama:" not in result.out
    absent = " ".join(result.out.split()).partition("not found ")[2]
    assert "vllm (VLLM_BASE_URL)" in absent
    assert [line.split()[0] for line in result.out.splitlines() if "none needed" in line] == ["ollama", "ollama-native"]
    assert "AWS_BEARER_TOKEN_BEDROCK or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in " ".join(result.out.split())


def test_rejected_key_is_reported_and_not_shown(shell: Shell, environ: pytest.MonkeyPatch) -> None:
    with serving(Simulator(api_key="right-key-0123456789")) as served:
        for name, variable in {"openai": "OPENAI", "anthropic": "ANTHROPIC"}.items():
            environ.setenv(f"{variable}_BASE_URL", served.base_url(name))
        environ.setenv("OPENAI_API_KEY", KEYS["OPENAI_API_KEY"])
        environ.setenv("ANTHROPIC_API_KEY", "right-key-0123456789")
        text, report = shell("doctor"), shell("doctor", "--json")
        by_name = {row["name"]: row for row in json.loads(report.out)["providers"]}
        assert served.counts()["tokens"] == {"input": 0, "output": 0}
    assert text.code == report.code == 0
    assert by_name["openai"]["credentials"] == ["OPENAI_API_KEY"]
    assert (by_name["openai"]["health"]["status"], by_name["openai"]["health"]["key_accepted"]) == (
        401,
        False,
    )
    assert (by_name["anthropic"]["health"]["key_accepted"], by_name["anthropic"]["usable"]) == (True, True)
    assert not by_name["openai"]["usable"]
    assert by_name["google"]["needs"] == [["GEMINI_API_KEY"], ["GOOGLE_API_KEY"]]
    assert "openai: AuthFailed" in text.out or "Incorrect API key" in text.out
    assert "key rejected, " in text.out
    for secret in (KEYS["OPENAI_API_KEY"], "right-key"):
        assert secret not in text.out + report.out + report.err


def test_key_in_an_error_message_is_not_shown(
    shell: Shell, environ: pytest.MonkeyPatch, scripted: Script, replies: Any
) -> None:
    message = f"Incorrect API key provided: {KEYS['ANTHROPIC_API_KEY']}".encode()
    server = scripted([replies.reply(b'{"error":{"message":"%b"}}' % message, status=401)])
    environ.setenv("ANTHROPIC_API_KEY", KEYS["ANTHROPIC_API_KEY"])
    environ.setenv("ANTHROPIC_BASE_URL", server.url)
    result = shell("doctor")
    assert result.code == 1
    assert "key rejected" in result.out
    assert "no provider accepts its key" in result.err
    assert KEYS["ANTHROPIC_API_KEY"] not in result.out + result.err


def test_address_without_a_list_of_models_is_no_plain_yes(
    shell: Shell, environ: pytest.MonkeyPatch, scripted: Script, replies: Any
) -> None:
    server = scripted([replies.reply(b'{"detail":"Not Found"}', status=404)])
    environ.setenv("OPENAI_API_KEY", KEYS["OPENAI_API_KEY"])
    environ.setenv("OPENAI_BASE_URL", server.url)
    assert "yes, no list (404), " in shell("doctor").out


def test_invalid_endpoint_is_not_sent_a_request(shell: Shell, environ: pytest.MonkeyPatch) -> None:
    environ.setenv("OPENAI_API_KEY", " broken\nkey ")
    environ.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    result = shell("doctor", "--json")
    health = {row["name"]: row["health"] for row in json.loads(result.out)["providers"]}["openai"]
    assert "white space" in health["error"] or "line break" in health["error"]
    assert health["status"] is None


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_no_key_is_shown(shell: Shell, environ: pytest.MonkeyPatch, tmp_path: Path, arguments: tuple[str, ...]) -> None:
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
    result = shell("doctor", *arguments)
    assert result.code == 1
    for secret in (*KEYS.values(), "hunter22", "inthequery", "fromthefile"):
        assert secret not in result.out + result.err
    for name in KEYS:
        assert name in result.out
    assert "llmhub.toml" in result.out
    assert "no provider is reachable" in result.err


def test_cache_is_checked_and_not_created(
    shell: Shell, environ: pytest.MonkeyPatch, simulator: SimulatorThread, rows: Path, tmp_path: Path
) -> None:
    options = ("--simulator", simulator.url)
    assert "answers-simulated.db: does not exist yet" in " ".join(shell("doctor", *options).out.split())
    assert not (tmp_path / "caches").exists()
    shell("run", rows, "out.csv", "--prompt", "{text}", "--model", "openai/gpt-4o-mini", *options)
    assert json.loads(shell("doctor", *options, "--json").out)["cache"]["entries"] == 2
    environ.setenv("LLMHUB_CACHE", str(rows))
    assert "cannot be used: " in " ".join(shell("doctor").out.split())
    assert rows.read_text(encoding="utf-8").startswith("id,zip,text")


def test_versions(shell: Shell, simulator: SimulatorThread) -> None:
    versions = json.loads(shell("doctor", "--json", "--simulator", simulator.url).out)["versions"]
    assert versions["llmhub"] == shell("--version").out.split()[1]
    assert {"python", "aiohttp", "pyarrow", "pandas"} <= set(versions)


def test_sources_have_names_without_values() -> None:
    result = parse_settings(
        {**KEYS, "AWS_BEARER_TOKEN_BEDROCK": "bearer-key-value", "AWS_REGION": "eu-west-1"},
        {"endpoints": {"mistral": {"api_key": "fromthefile"}, "openai": {"api_key": "overridden"}}},
    )
    assert result.sources["openai"] == ("OPENAI_API_KEY",)
    assert result.sources["mistral"] == ("llmhub.toml",)
    assert set(result.sources["bedrock"]) == {
        "AWS_BEARER_TOKEN_BEDROCK", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
    }  # fmt: skip
    assert result.sources["ollama"] == ()
    assert "google" not in result.sources


def test_remedy_names_each_variable_once(shell: Shell) -> None:
    variables = re.findall(r"[A-Z]+(?:_[A-Z]+)+", shell("doctor").err)
    assert len(variables) == len(set(variables)) >= 3
