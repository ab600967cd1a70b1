"""Plugins: a small distribution that is installed, and broken entry points of every kind."""

from __future__ import annotations

import gc
import json
import os
import pickle
import subprocess
import sys
import textwrap
import types
import warnings
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

import llmhub
from llmhub.config import Settings
from llmhub.core.errors import BadRequestError
from llmhub.engine.model_resolver import ModelResolver
from llmhub.plugins import NO_PLUGINS, PLUGIN_KINDS, Plugins, PluginWarning, load_plugins
from llmhub.providers.registry import PROVIDERS

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent / "distribution"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the distribution into a folder, without a network."""
    folder = tmp_path_factory.mktemp("site")
    options = [
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "--no-cache-dir",
    ]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(folder), str(HERE)]
    completed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert completed.returncode == 0, completed.stderr
    return folder


def run_python(program: str, site: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(site), str(ROOT)])
    command = [sys.executable, "-c", textwrap.dedent(program)]
    environment = {**os.environ, "PYTHONPATH": path, **variables}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)


def test_installed_plugins_are_loaded_used_and_shut_down(
    site: Path, scripted: Any, replies: Any, tmp_path: Path
) -> None:
    server = scripted([replies.answer("Hello")])
    completed = run_python(
        """
        import json, llmhub
        hub = llmhub.current_hub()
        print(llmhub.complete("Say hi", model="acme/m").text)
        plugins = hub.plugins
        with llmhub.Hub(plugins=plugins, settings=hub.settings, middleware=("polite",), cache="acme://any/7") as other:
            print(other.cache)
            llmhub.complete("Say hi", model="acme/m", hub=other)
        print(json.dumps([sorted(getattr(plugins, kind)) for kind in ("stores", "selectors", "scorers", "connectors")]))
        print(len(plugins.broken), plugins.broken[0])
        """,
        site,
        ACME_API_KEY="k",
        ACME_BASE_URL=server.url,
        LLMHUB_CACHE=str(tmp_path / "runs.db"),
    )
    assert completed.returncode == 0, completed.stderr
    lines = completed.stdout.splitlines()
    assert lines[:4] == [
        "hello ['acme']",
        "Hello",
        "hello ['acme']",
        "MemoryCache(max_entries=7, max_bytes=1073741824, ttl_s=None)",
    ]
    assert lines[4] == "goodbye"
    assert json.loads(lines[5]) == [["acme"], ["last"], ["polite"], ["clerk"]]
    assert lines[6].startswith("1 plugin 'missing' of llmhub-acme cannot be loaded: AttributeError")
    assert lines[7:] == ["goodbye"], "at exit, for the hub that was not closed"
    assert "PluginWarning: plugin 'missing' of llmhub-acme cannot be loaded" in completed.stderr
    assert [b"please" in body for body in server.bodies] == [False, True]


@pytest.mark.parametrize(
    ("policy", "code", "expected"),
    [
        ("strict", 1, "fix or uninstall it"),
        ("off", 1, "no provider is named"),
        ("loud", 1, "LLMHUB_PLUGINS: must be one of on, strict, off, not 'loud'"),
    ],
)
def test_plugin_policy_of_the_environment(site: Path, policy: str, code: int, expected: str) -> None:
    program = 'import llmhub; llmhub.complete("Say hi", model="acme/m")'
    completed = run_python(program, site, LLMHUB_PLUGINS=policy, ACME_API_KEY="k", ACME_BASE_URL="http://127.0.0.1:9")
    assert completed.returncode == code
    assert expected in completed.stderr.splitlines()[-1]


def test_command_line_loads_plugins(site: Path, scripted: Any, replies: Any, tmp_path: Path) -> None:
    server = scripted([replies.answer("Hello")])
    (tmp_path / "in.csv").write_text("t\nhi\n", encoding="utf-8")
    source, target = str(tmp_path / "in.csv"), str(tmp_path / "out.csv")
    arguments = ["run", source, target, "--prompt", "{t}", "--model", "acme/m", "--no-cache", "--quiet"]
    program = f"import sys; from llmhub.cli import main; sys.exit(main({arguments!r}))"
    completed = run_python(program, site, ACME_API_KEY="k", ACME_BASE_URL=server.url)
    assert completed.returncode == 0, completed.stderr
    assert "Hello" in (tmp_path / "out.csv").read_text(encoding="utf-8")


# Entry points that are not installed


@pytest.fixture
def make_entries(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[EntryPoint]]:
    """Return a function that makes entry points: ``make_entries(("providers", "acme", PROVIDER))``."""

    def make(*rows: tuple[str, str, Any]) -> list[EntryPoint]:
        entries = []
        for index, (kind, name, value) in enumerate(rows):
            module = types.ModuleType(f"llmhub_test_{index}")
            module.VALUE = value  # type: ignore[attr-defined]
            monkeypatch.setitem(sys.modules, module.__name__, module)
            entries.append(EntryPoint(name, f"{module.__name__}:VALUE", PLUGIN_KINDS[kind].name))
        return entries

    return make


class RecordingConnector:
    """A connector that records its calls."""

    def __init__(self, plugin_id: str, events: list[str], fails_in: str = "") -> None:
        self.id = plugin_id
        self.events = events
        self.fails_in = fails_in

    def initialize(self, hub: Any) -> None:
        assert isinstance(hub.resolver, ModelResolver), "the hub is complete"
        self.events.append(f"start {self.id}")
        if self.fails_in == "start":
            raise ZeroDivisionError("by nought")

    def shutdown(self) -> None:
        self.events.append(f"stop {self.id}")
        if self.fails_in == "stop":
            raise OSError("gone")


def provider(name: str) -> Any:
    from dataclasses import replace  # noqa: PLC0415 - for this helper

    return replace(PROVIDERS["compatible"], name=name)


@pytest.mark.parametrize("kind", ["providers", "connectors"])
def test_duplicate_ids_are_rejected(make_entries: Any, kind: str) -> None:
    plugin = provider("acme") if kind == "providers" else RecordingConnector("acme", [])
    with pytest.raises(BadRequestError, match="'acme' is provided by llmhub_test_0 and by llmhub_test_1; uninstall"):
        load_plugins(entries=make_entries((kind, "plugin", plugin), (kind, "two", plugin)))


def test_duplicate_names_are_rejected(make_entries: Any) -> None:
    with pytest.raises(BadRequestError, match="'same' is provided by"):
        load_plugins(entries=make_entries(("scorers", "same", print), ("scorers", "same", repr)))


def test_built_in_providers_cannot_be_replaced(make_entries: Any) -> None:
    with pytest.raises(BadRequestError, match="'openai' is provided by llmhub and by"):
        load_plugins(entries=make_entries(("providers", "mine", provider("openai"))))


def test_a_name_may_be_used_for_several_kinds(make_entries: Any) -> None:
    plugins = load_plugins(entries=make_entries(("scorers", "same", print), ("selectors", "same", print)))
    assert list(plugins.scorers) == list(plugins.selectors) == ["same"]


INVALID = [
    ("providers", 3),
    ("middleware", "x"),
    ("stores", None),
    ("selectors", []),
    ("scorers", {}),
    ("connectors", print),
]


@pytest.mark.parametrize(("kind", "value"), INVALID)
def test_plugin_of_a_wrong_type_is_skipped_or_raises(make_entries: Any, kind: str, value: Any) -> None:
    entries = make_entries((kind, "bad", value), ("scorers", "good", print))
    expected = rf"plugin 'bad' of llmhub_test_0 is of type \w+, not .*{PLUGIN_KINDS[kind].name}"
    with pytest.warns(PluginWarning, match=expected):
        plugins = load_plugins(entries=entries)
    assert "bad" not in getattr(plugins, kind)
    assert list(plugins.scorers) == ["good"]
    assert [plugin.name for plugin in plugins.broken] == ["bad"]
    with pytest.raises(BadRequestError, match=r"plugins: plugin 'bad' .*; fix or uninstall it"):
        load_plugins(strict=True, entries=entries)


def test_plugin_whose_code_fails_is_named(make_entries: Any) -> None:
    class Failing:
        def __init__(self) -> None:
            raise RuntimeError("no licence")

    with pytest.warns(PluginWarning, match="plugin 'bad' of llmhub_test_0 cannot be loaded: RuntimeError: no licence"):
        assert load_plugins(entries=make_entries(("connectors", "bad", Failing))).connectors == {}
    missing = [EntryPoint("gone", "llmhub_no_such_module:X", "llmhub.scorers")]
    with pytest.warns(PluginWarning, match="'gone' of llmhub_no_such_module cannot be loaded: ModuleNotFoundError"):
        load_plugins(entries=missing)


# Connectors


def test_connectors_start_with_the_hub_and_stop_in_reverse(make_entries: Any) -> None:
    events: list[str] = []
    plugins = load_plugins(
        entries=make_entries(*(("connectors", name, RecordingConnector(name, events)) for name in "ab"))
    )
    hub = llmhub.Hub(plugins=plugins, settings=Settings())
    assert events == ["start a", "start b"]
    hub.close()
    hub.close()
    assert events[2:] == ["stop b", "stop a"]
    events.clear()
    llmhub.Hub(plugins=plugins, settings=Settings())
    gc.collect()
    assert events == ["start a", "start b", "stop b", "stop a"]


def test_connector_that_fails_to_start_is_skipped_or_raises(make_entries: Any) -> None:
    events: list[str] = []
    rows = [("connectors", name, RecordingConnector(name, events, "start" if name == "b" else "")) for name in "abc"]
    with pytest.warns(PluginWarning, match=r"'b' of .* cannot be initialized: ZeroDivisionError: by nought; it was"):
        hub = llmhub.Hub(plugins=load_plugins(entries=make_entries(*rows)), settings=Settings())
    hub.close()
    assert events == ["start a", "start b", "start c", "stop c", "stop a"]
    events.clear()
    with pytest.raises(BadRequestError, match=r"plugin 'b' of .* cannot be initialized"):
        llmhub.Hub(plugins=load_plugins(strict=True, entries=make_entries(*rows)), settings=Settings())
    assert events == ["start a", "start b", "stop a"], "started connectors are stopped"


def test_connector_that_fails_to_stop_does_not_affect_others(make_entries: Any) -> None:
    events: list[str] = []
    rows = [("connectors", name, RecordingConnector(name, events, "stop" if name == "b" else "")) for name in "ab"]
    hub = llmhub.Hub(plugins=load_plugins(entries=make_entries(*rows)), settings=Settings())
    with pytest.warns(PluginWarning, match="plugin 'b' could not be shut down: OSError: gone"):
        hub.close()
    assert events[2:] == ["stop b", "stop a"]


def test_middleware_by_name(make_entries: Any, scripted: Any, replies: Any) -> None:
    class Counting:
        seen = 0

        def on_request(self, call: Any) -> None:
            Counting.seen += 1

    plugins = load_plugins(entries=make_entries(("middleware", "counting", Counting)))
    server = scripted([replies.answer()])
    endpoints = {"compatible": llmhub.Endpoint(base_url=server.url)}
    with llmhub.Hub(plugins=plugins, endpoints=endpoints, settings=Settings(), middleware=("counting",)) as hub:
        llmhub.complete("hi", model="compatible/m", hub=hub)
    assert Counting.seen == 1
    with pytest.raises(BadRequestError, match=r"middleware\[0\]: no plugin provides a middleware named 'counting'"):
        llmhub.Hub(settings=Settings(), middleware=("counting",))
    with pytest.raises(BadRequestError, match="plugins: must be load_plugins\\(\\), not a value of type list"):
        llmhub.Hub(settings=Settings(), plugins=[])  # type: ignore[arg-type]


def test_hub_without_plugins_has_none_in_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    pickled = pickle.dumps(NO_PLUGINS)
    monkeypatch.setattr("llmhub.plugins.entry_points", lambda **_: pytest.fail("plugins were looked for"))
    assert pickle.loads(pickled) == NO_PLUGINS


def test_unpickled_plugins_are_loaded_again(make_entries: Any) -> None:
    plugins = load_plugins(entries=make_entries(("scorers", "local", lambda row, text: True)))
    unpickled = pickle.loads(pickle.dumps(plugins))
    assert isinstance(unpickled, Plugins)
    assert "local" not in unpickled.scorers


def test_plugins_are_not_loaded_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_if_called(**_: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr("llmhub.plugins.entry_points", raise_if_called)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert llmhub.Hub(settings=Settings()).plugins is NO_PLUGINS
