"""The environment and llmhub.toml as one value: who wins, what is refused, and no key in sight."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import llmhub
from llmhub import config
from llmhub.config import (
    PROXY_VARIABLES,
    SECRET_FIELDS,
    Settings,
    endpoint_variables,
    load_settings,
    parse_settings,
)
from llmhub.core.errors import AuthenticationError, BadRequestError
from llmhub.core.provider import Endpoint
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
    found = parse_settings({**enough, **environ} if name == "azure" else environ | enough_for(name, field))
    assert getattr(found.endpoints[name], field) == KEY


def enough_for(name: str, field: str) -> dict[str, str]:
    """Give what makes a provider usable without setting ``field``."""
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
def test_the_first_variable_that_is_set_wins(environ: dict[str, str], key: str) -> None:
    assert parse_settings(environ).endpoints["google"].api_key == key


@pytest.mark.parametrize("name", sorted(PROVIDERS))
def test_a_provider_is_usable_when_one_group_of_its_variables_is_set(name: str) -> None:
    needs = PROVIDERS[name].required_env
    for group in needs:
        assert name in parse_settings(dict.fromkeys(group, "x")).endpoints
        for missing in group:
            assert name not in parse_settings({variable: "x" for variable in group if variable != missing}).endpoints
        assert name not in parse_settings(dict.fromkeys(group, "")).endpoints
        assert name not in parse_settings(dict.fromkeys(group, "  ")).endpoints
    assert (name in parse_settings({}).endpoints) is not bool(needs)


def test_the_environment_wins_over_the_file_field_by_field() -> None:
    file = {"endpoints": {"openai": {"api_key": "file", "base_url": "http://file/v1", "headers": {"x-team": "a"}}}}
    found = parse_settings({"OPENAI_API_KEY": "environment"}, file)
    endpoint = found.endpoints["openai"]
    assert (endpoint.api_key, endpoint.base_url, endpoint.headers) == ("environment", "http://file/v1", {"x-team": "a"})
    assert found.sources["openai"] == ("OPENAI_API_KEY",)
    assert parse_settings({}, file).sources["openai"] == ("llmhub.toml",)


def test_what_a_provider_needs_may_be_said_partly_here_and_partly_there() -> None:
    file = {"endpoints": {"azure": {"base_url": "https://mine.openai.azure.com"}}}
    assert "azure" not in parse_settings({}, file).endpoints
    assert "azure" in parse_settings({"AZURE_OPENAI_API_KEY": "k"}, file).endpoints
    halves = {"endpoints": {"bedrock": {"access_key_id": "a"}}}
    assert "bedrock" in parse_settings({"AWS_SECRET_ACCESS_KEY": "s"}, halves).endpoints


@pytest.mark.parametrize("name", [name for name, row in PROVIDERS.items() if row.required_env])
def test_every_variable_that_a_provider_needs_sets_a_field(name: str) -> None:
    known = {variable for _, variable in endpoint_variables(name)}
    assert {variable for group in PROVIDERS[name].required_env for variable in group} <= known


@pytest.mark.parametrize(
    ("file", "said"),
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
def test_what_a_file_cannot_say_is_named_by_its_place(file: dict[str, Any], said: str) -> None:
    with pytest.raises(BadRequestError, match=f"^{said}") as caught:
        parse_settings({}, file)
    assert "sk-a-key" not in str(caught.value)


def test_the_file_is_read_from_the_folder(environ: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "openai" not in load_settings().endpoints
    (tmp_path / "llmhub.toml").write_text('[endpoints.openai]\napi_key = "file"\n', encoding="utf-8")
    assert load_settings().endpoints["openai"].api_key == "file"
    assert llmhub.Hub().target("openai/x").endpoint.api_key == "file"


@pytest.mark.parametrize("content", [b"[endpoints", b"\xff\xfe", b"a = 1\na = 2"])
def test_a_file_that_cannot_be_read_is_named(environ: pytest.MonkeyPatch, tmp_path: Path, content: bytes) -> None:
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
def test_the_cache_is_where_the_platform_keeps_caches(
    monkeypatch: pytest.MonkeyPatch, platform: str, environ: dict[str, str], path: str
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    assert parse_settings(environ).cache_path == Path(path).expanduser()


def test_without_a_home_there_is_no_default_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose user has no entry of its own."""

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(config.Path, "home", homeless)
    assert parse_settings({}).cache_path is None
    assert parse_settings({"XDG_CACHE_HOME": "/caches"}).cache_path == Path("/caches/llmhub/answers.db")


@pytest.mark.parametrize("name", PROXY_VARIABLES)
def test_proxies_are_used_when_they_are_set(name: str) -> None:
    assert parse_settings({name: "http://proxy"}).use_proxy_settings
    assert not parse_settings({name: ""}).use_proxy_settings


def test_an_endpoint_that_is_given_takes_nothing_over_from_the_environment() -> None:
    """A key of one address must not travel to another."""
    found = parse_settings({"OPENAI_API_KEY": KEY})
    local = Endpoint(base_url="http://localhost:8000/v1")
    hub = llmhub.Hub(settings=found, endpoints={"openai": local})
    assert hub.target("openai/x").endpoint.api_key == ""
    assert hub_with_endpoints(llmhub.Hub(settings=found), {"openai": local}).target("openai/x").endpoint.api_key == ""


def test_settings_and_hubs_show_no_key() -> None:
    environ = {
        variable: KEY for rows in ENVIRONMENT_VARIABLES.values() for field, variable in rows if field in SECRET_FIELDS
    }
    found = parse_settings(environ)
    hub = llmhub.Hub(settings=found, endpoints={"groq": Endpoint(api_key=KEY, headers={"x-key": KEY})})
    targets = [hub.target(f"{name}/m") for name in ("openai", "anthropic", "google", "bedrock", "groq")]
    assert KEY not in repr(hub)
    assert KEY not in repr(targets)
    assert KEY not in repr(found)


def test_the_default_hub_keeps_its_answers(environ: pytest.MonkeyPatch, tmp_path: Path) -> None:
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
def test_a_name_is_a_provider_and_its_own_name_of_the_model(model: str, provider: str, rest: str) -> None:
    target = llmhub.Hub(settings=Settings(), endpoints={provider: Endpoint(api_key="k")}).target(model)
    assert (target.provider.name, target.model, target.name) == (provider, rest, model)


@pytest.mark.parametrize("model", ["gpt-4o", "/gpt-4o", "openai/", "", "/"])
def test_a_name_without_a_provider_says_how_to_write_it(model: str) -> None:
    with pytest.raises(BadRequestError, match=r"^model: .*write 'provider/model', such as 'openai/"):
        llmhub.Hub(settings=Settings()).target(model)


def test_a_provider_without_an_address_says_how_to_give_one() -> None:
    with pytest.raises(BadRequestError, match=r"'compatible' has no public address; pass Hub\(endpoints="):
        llmhub.Hub(settings=Settings()).target("compatible/x")


@pytest.mark.parametrize("name", [name for name, row in PROVIDERS.items() if row.required_env])
def test_a_missing_key_names_every_variable_that_would_do(name: str) -> None:
    with pytest.raises(AuthenticationError) as caught:
        llmhub.Hub(settings=Settings()).target(f"{name}/x")
    assert all(variable in str(caught.value) for group in PROVIDERS[name].required_env for variable in group)


def test_a_row_of_ones_own_is_a_provider_like_any() -> None:
    from dataclasses import replace  # noqa: PLC0415 - of this one test

    mine = replace(PROVIDERS["compatible"], name="mine", base_url="http://localhost:9/v1", required_env=())
    hub = llmhub.Hub(settings=Settings(), providers={"mine": mine}, limits={"mine": llmhub.Limit(rpm=60)})
    assert hub.target("mine/x").provider is mine
    assert "mine" not in PROVIDERS
