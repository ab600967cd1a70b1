"""Settings from the environment and llmhub.toml: precedence, errors, and keys that must not show."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import llmhub
from llmhub import config
from llmhub.config import (
    Settings,
    endpoint_variables,
    load_settings,
    parse_settings,
)
from llmhub.core.errors import AuthenticationError, BadRequestError
from llmhub.core.provider import SECRET_FIELDS, Endpoint
from llmhub.core.proxies import NO_PROXIES, PROXY_VARIABLES
from llmhub.hub import hub_from_environment, hub_with_endpoints
from llmhub.providers.registry import ENVIRONMENT_VARIABLES, PROVIDERS

KEY = "key-0123456789abcdef"


@pytest.mark.parametrize(
    ("name", "field", "variable"), [(n, f, v) for n, rows in ENVIRONMENT_VARIABLES.items() for f, v in rows]
)
def test_each_variable_sets_its_field(name: str, field: str, variable: str) -> None:
    enough = {needed: "x" for group in PROVIDERS[name].required_env for needed in group if needed != variable}
    others = {other for other_field, other in ENVIRONMENT_VARIABLES[name] if other_field == field}
    environ = {needed: value for needed, value in enough.items() if needed not in others} | {variable: f" {KEY}\n"}
    settings = parse_settings({**enough, **environ} if name == "azure" else environ | required_fields(name, field))
    assert getattr(settings.endpoints[name], field) == KEY


def required_fields(name: str, field: str) -> dict[str, str]:
    """Return variables that configure a provider without setting ``field``."""
    for group in PROVIDERS[name].required_env:
        fields = {variable: set_ for set_, variable in ENVIRONMENT_VARIABLES[name]}
        if all(fields.get(variable) != field for variable in group):
            return dict.fromkeys(group, "x")
    rest = (variable for group in PROVIDERS[name].required_env for variable in group)
    return {v: "x" for v in rest if (field, v) not in ENVIRONMENT_VARIABLES[name]}


@pytest.mark.parametrize(
    ("environ", "key"),
    [
        ({"GEMINI_API_KEY": "a", "GOOGLE_API_KEY": "b"}, "b"),
        ({"GEMINI_API_KEY": "a"}, "a"),
        ({"GEMINI_API_KEY": "a", "GOOGLE_API_KEY": ""}, "a"),
    ],
)
def test_the_first_set_variable_wins(environ: dict[str, str], key: str) -> None:
    assert parse_settings(environ).endpoints["google"].api_key == key


@pytest.mark.parametrize("name", sorted(PROVIDERS))
def test_one_group_of_required_variables_is_enough(name: str) -> None:
    needs = PROVIDERS[name].required_env
    for group in needs:
        assert name in parse_settings(dict.fromkeys(group, "x")).endpoints
        for missing in group:
            assert name not in parse_settings({variable: "x" for variable in group if variable != missing}).endpoints
        assert name not in parse_settings(dict.fromkeys(group, "")).endpoints
        assert name not in parse_settings(dict.fromkeys(group, "  ")).endpoints
    assert (name in parse_settings({}).endpoints) is not bool(needs)


def test_variables_override_the_file_field_by_field() -> None:
    file = {"endpoints": {"openai": {"api_key": "file", "base_url": "http://file/v1", "headers": {"x-team": "a"}}}}
    settings = parse_settings({"OPENAI_API_KEY": "environment"}, file)
    endpoint = settings.endpoints["openai"]
    assert (endpoint.api_key, endpoint.base_url, dict(endpoint.headers)) == (
        "environment",
        "http://file/v1",
        {"x-team": "a"},
    )
    assert settings.sources["openai"] == ("OPENAI_API_KEY",)
    assert parse_settings({}, file).sources["openai"] == ("llmhub.toml",)


def test_required_fields_may_come_from_both_sources() -> None:
    file = {"endpoints": {"azure": {"base_url": "https://mine.openai.azure.com"}}}
    assert "azure" not in parse_settings({}, file).endpoints
    assert "azure" in parse_settings({"AZURE_OPENAI_API_KEY": "k"}, file).endpoints
    halves = {"endpoints": {"bedrock": {"access_key_id": "a"}}}
    assert "bedrock" in parse_settings({"AWS_SECRET_ACCESS_KEY": "s"}, halves).endpoints


@pytest.mark.parametrize("name", [name for name, row in PROVIDERS.items() if row.required_env])
def test_every_required_variable_sets_a_field(name: str) -> None:
    known = {variable for _, variable in endpoint_variables(name)}
    assert {variable for group in PROVIDERS[name].required_env for variable in group} <= known


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ({"endpoints": {"opnai": {}}}, r"llmhub\.toml: endpoints\.opnai: unknown provider"),
        ({"endpoints": {"openai": {"key": "x"}}}, r"llmhub\.toml: endpoints\.openai\.key: unknown field.*api_key"),
        ({"endpoints": {"openai": {"api_key": 5}}}, r"llmhub\.toml: endpoints\.openai\.api_key"),
        ({"endpoints": {"openai": {"headers": {"x": 5}}}}, r"llmhub\.toml: endpoints\.openai\.headers"),
        ({"endpoints": {"openai": {"headers": "x"}}}, r"llmhub\.toml: endpoints\.openai\.headers"),
        ({"endpoints": {"openai": "sk-a-key-of-mine"}}, r"llmhub\.toml: endpoints\.openai"),
        ({"endpoints": ["openai"]}, r"llmhub\.toml: endpoints"),
        ({"endpoint": {"openai": {}}}, r"llmhub\.toml: endpoint"),
    ],
)
def test_invalid_entries_of_the_file_are_named(file: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequestError, match=f"^{message}") as caught:
        parse_settings({}, file)
    assert "sk-a-key" not in str(caught.value)


def test_file_is_read_from_the_folder(environ: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "openai" not in load_settings().endpoints
    (tmp_path / "llmhub.toml").write_text('[endpoints.openai]\napi_key = "file"\n', encoding="utf-8")
    assert load_settings().endpoints["openai"].api_key.reveal() == "file"
    assert llmhub.Hub().target("openai/x").endpoint.api_key.reveal() == "file"


@pytest.mark.parametrize("content", [b"[endpoints", b"\xff\xfe", b"a = 1\na = 2"])
def test_unreadable_file_is_named(environ: pytest.MonkeyPatch, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "llmhub.toml").write_bytes(content)
    with pytest.raises(BadRequestError, match=r"llmhub\.toml: cannot be read"):
        load_settings()


@pytest.mark.parametrize(
    ("platform", "environ", "path"),
    [
        ("linux", {}, "~/.cache/llmhub/answers.db"),
        ("linux", {"XDG_CACHE_HOME": "/caches"}, "/caches/llmhub/answers.db"),
        ("darwin", {}, "~/Library/Caches/llmhub/answers.db"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/llmhub/answers.db"),
        ("win32", {}, "~/AppData/Local/llmhub/answers.db"),
        ("linux", {"LLMHUB_CACHE": "~/mine.db", "XDG_CACHE_HOME": "/caches"}, "~/mine.db"),
    ],
)
def test_default_cache_is_in_the_platform_folder(
    monkeypatch: pytest.MonkeyPatch, platform: str, environ: dict[str, str], path: str
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    assert parse_settings(environ).cache_path == Path(path).expanduser()


def test_no_default_cache_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose user is not in the password database."""

    def raise_no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(config.Path, "home", raise_no_home)
    assert parse_settings({}).cache_path is None
    assert parse_settings({"XDG_CACHE_HOME": "/caches"}).cache_path == Path("/caches/llmhub/answers.db")


@pytest.mark.parametrize("name", PROXY_VARIABLES)
def test_proxy_variables_are_detected(name: str) -> None:
    scheme = "http" if name.lower() == "http_proxy" else "https"
    proxy = parse_settings({name: "http://proxy:1"}).proxies.for_url(f"{scheme}://host/v1")
    assert proxy is not None
    assert (proxy.address, proxy.variable) == ("http://proxy:1", name)
    assert parse_settings({name: ""}).proxies == NO_PROXIES


def test_explicit_endpoint_inherits_no_key_from_the_environment() -> None:
    """A key must not be sent to another base URL."""
    settings = parse_settings({"OPENAI_API_KEY": KEY})
    local = Endpoint(base_url="http://localhost:8000/v1")
    hub = llmhub.Hub(settings=settings, endpoints={"openai": local})
    assert hub.target("openai/x").endpoint.api_key.reveal() == ""
    assert (
        hub_with_endpoints(llmhub.Hub(settings=settings), {"openai": local})
        .target("openai/x")
        .endpoint.api_key.reveal()
        == ""
    )


def test_settings_and_hubs_show_no_key() -> None:
    environ = {
        variable: KEY for rows in ENVIRONMENT_VARIABLES.values() for field, variable in rows if field in SECRET_FIELDS
    }
    settings = parse_settings(environ)
    hub = llmhub.Hub(settings=settings, endpoints={"groq": Endpoint(api_key=KEY, headers={"x-key": KEY})})
    targets = [hub.target(f"{name}/m") for name in ("openai", "anthropic", "google", "bedrock", "groq")]
    assert KEY not in repr(hub)
    assert KEY not in repr(targets)
    assert KEY not in repr(settings)


def test_default_hub_has_a_cache(environ: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environ.setenv("LLMHUB_CACHE", str(tmp_path / "mine.db"))
    hub = hub_from_environment()
    assert hub.cache == llmhub.DiskCache(tmp_path / "mine.db")
    assert not (tmp_path / "mine.db").exists()


# Whom a model's name names


@pytest.mark.parametrize(
    ("model", "provider", "rest"),
    [
        ("openai/gpt-4o", "openai", "gpt-4o"),
        ("bedrock/us.anthropic.claude-sonnet-4-5-v1:0", "bedrock", "us.anthropic.claude-sonnet-4-5-v1:0"),
        ("openrouter/meta-llama/llama-3", "openrouter", "meta-llama/llama-3"),
    ],
)
def test_model_name_is_split_at_the_first_slash(model: str, provider: str, rest: str) -> None:
    target = llmhub.Hub(settings=Settings(), endpoints={provider: Endpoint(api_key="k")}).target(model)
    assert (target.provider.name, target.model, target.name) == (provider, rest, model)


@pytest.mark.parametrize("model", ["gpt-4o", "/gpt-4o", "openai/", "", "/"])
def test_model_without_a_provider_is_rejected(model: str) -> None:
    with pytest.raises(BadRequestError, match=r"^model: .*write 'provider/model', such as 'openai/"):
        llmhub.Hub(settings=Settings()).target(model)


def test_provider_without_a_base_url_is_rejected() -> None:
    with pytest.raises(BadRequestError, match=r"'compatible' has no public address; pass Hub\(endpoints="):
        llmhub.Hub(settings=Settings()).target("compatible/x")


@pytest.mark.parametrize("name", [name for name, row in PROVIDERS.items() if row.required_env])
def test_missing_credentials_name_all_variables(name: str) -> None:
    with pytest.raises(AuthenticationError) as caught:
        llmhub.Hub(settings=Settings()).target(f"{name}/x")
    assert all(variable in str(caught.value) for group in PROVIDERS[name].required_env for variable in group)


def test_additional_provider() -> None:
    from dataclasses import replace  # noqa: PLC0415 - for this test

    mine = replace(PROVIDERS["compatible"], name="mine", base_url="http://localhost:9/v1", required_env=())
    hub = llmhub.Hub(settings=Settings(), providers={"mine": mine}, limits={"mine": llmhub.Limit(rpm=60)})
    assert hub.target("mine/x").provider is mine
    assert "mine" not in PROVIDERS
