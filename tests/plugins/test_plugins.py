"""Plugins: a small distribution that is really installed, and entry points of all kinds that go wrong."""

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
    how = [
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "--no-cache-dir",
    ]
    command = [sys.executable, "-m", "pip", "install", *how, "--target", str(folder), str(HERE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    return folder


def python(program: str, site: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(site), str(ROOT)])
    command = [sys.executable, "-c", textwrap.dedent(program)]
    environment = {**os.environ, "PYTHONPATH": path, **variables}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)


def test_what_is_installed_is_found_used_and_let_go(site: Path, scripted: Any, speech: Any, tmp_path: Path) -> None:
    server = scripted([speech.answer("Hello")])
    done = python(
        """
        import json, llmhub
        hub = llmhub.current_hub()
        print(llmhub.complete("Say hi", model="acme/m").text)
        plugins = hub.plugins
        with llmhub.Hub(plugins=plugins, settings=hub.settings, middleware=("polite",), cache="acme://any/7") as made:
            print(made.cache)
            llmhub.complete("Say hi", model="acme/m", hub=made)
        print(json.dumps([sorted(getattr(plugins, kind)) for kind in ("stores", "selectors", "scorers", "connectors")]))
        print(len(plugins.broken), plugins.broken[0])
        """,
        site,
        ACME_API_KEY="k",
        ACME_BASE_URL=server.url,
        LLMHUB_CACHE=str(tmp_path / "runs.db"),
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[:4] == [
        "hello ['acme']",
        "Hello",
        "hello ['acme']",
        "MemoryCache(max_entries=7, max_bytes=1073741824, ttl_s=None)",
    ]
    assert said[4] == "goodbye"
    assert json.loads(said[5]) == [["acme"], ["last"], ["polite"], ["clerk"]]
    assert said[6].startswith("1 plugin 'missing' of llmhub-acme cannot be loaded: AttributeError")
    assert said[7:] == ["goodbye"], "at the end of the process, for the hub that nobody closed"
    assert "PluginWarning: plugin 'missing' of llmhub-acme cannot be loaded" in done.stderr
    assert [b"please" in body for body in server.bodies] == [False, True]


@pytest.mark.parametrize(
    ("wanted", "code", "said"),
    [
        ("strict", 1, "fix or uninstall it"),
        ("off", 1, "no provider is named"),
        ("loud", 1, "LLMHUB_PLUGINS: must be one of on, strict, off, not 'loud'"),
    ],
)
def test_the_environment_says_how_plugins_are_taken(site: Path, wanted: str, code: int, said: str) -> None:
    program = 'import llmhub; llmhub.complete("Say hi", model="acme/m")'
    done = python(program, site, LLMHUB_PLUGINS=wanted, ACME_API_KEY="k", ACME_BASE_URL="http://127.0.0.1:9")
    assert done.returncode == code
    assert said in done.stderr.splitlines()[-1]


def test_the_command_line_takes_them_too(site: Path, scripted: Any, speech: Any, tmp_path: Path) -> None:
    server = scripted([speech.answer("Hello")])
    (tmp_path / "in.csv").write_text("t\nhi\n", encoding="utf-8")
    source, target = str(tmp_path / "in.csv"), str(tmp_path / "out.csv")
    arguments = ["run", source, target, "--prompt", "{t}", "--model", "acme/m", "--no-cache", "--quiet"]
    program = f"import sys; from llmhub.cli import main; sys.exit(main({arguments!r}))"
    done = python(program, site, ACME_API_KEY="k", ACME_BASE_URL=server.url)
    assert done.returncode == 0, done.stderr
    assert "Hello" in (tmp_path / "out.csv").read_text(encoding="utf-8")


# Entry points that are not installed


@pytest.fixture
def brought(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[EntryPoint]]:
    """Give entry points by kind, name and value: ``brought(("providers", "acme", PROVIDER))``."""

    def make(*rows: tuple[str, str, Any]) -> list[EntryPoint]:
        entries = []
        for at, (kind, name, value) in enumerate(rows):
            module = types.ModuleType(f"llmhub_test_{at}")
            module.VALUE = value  # type: ignore[attr-defined]
            monkeypatch.setitem(sys.modules, module.__name__, module)
            entries.append(EntryPoint(name, f"{module.__name__}:VALUE", PLUGIN_KINDS[kind].name))
        return entries

    return make


class Tracked:
    """A connector that notes what becomes of it."""

    def __init__(self, plugin_id: str, notes: list[str], fails: str = "") -> None:
        self.id = plugin_id
        self.notes = notes
        self.fails = fails

    def initialize(self, hub: Any) -> None:
        assert isinstance(hub.resolver, ModelResolver), "the hub is whole"
        self.notes.append(f"begin {self.id}")
        if self.fails == "begin":
            raise ZeroDivisionError("by nought")

    def shutdown(self) -> None:
        self.notes.append(f"end {self.id}")
        if self.fails == "end":
            raise OSError("gone")


def provider(name: str) -> Any:
    from dataclasses import replace  # noqa: PLC0415 - of this helper

    return replace(PROVIDERS["compatible"], name=name)


@pytest.mark.parametrize("kind", ["providers", "connectors"])
def test_ids_that_are_there_twice_are_an_error_though_the_names_differ(brought: Any, kind: str) -> None:
    one = provider("acme") if kind == "providers" else Tracked("acme", [])
    with pytest.raises(BadRequestError, match="'acme' is provided by llmhub_test_0 and by llmhub_test_1; uninstall"):
        load_plugins(entries=brought((kind, "one", one), (kind, "two", one)))


def test_names_that_are_there_twice_are_an_error(brought: Any) -> None:
    with pytest.raises(BadRequestError, match="'same' is provided by"):
        load_plugins(entries=brought(("scorers", "same", print), ("scorers", "same", repr)))


def test_a_provider_of_llmhub_cannot_be_replaced(brought: Any) -> None:
    with pytest.raises(BadRequestError, match="'openai' is provided by llmhub and by"):
        load_plugins(entries=brought(("providers", "mine", provider("openai"))))


def test_one_name_may_stand_for_several_kinds(brought: Any) -> None:
    found = load_plugins(entries=brought(("scorers", "same", print), ("selectors", "same", print)))
    assert list(found.scorers) == list(found.selectors) == ["same"]


WRONG = [
    ("providers", 3),
    ("middleware", "x"),
    ("stores", None),
    ("selectors", []),
    ("scorers", {}),
    ("connectors", print),
]


@pytest.mark.parametrize(("kind", "value"), WRONG)
def test_what_is_not_of_its_kind_is_named_and_left_out_or_fails_the_start(brought: Any, kind: str, value: Any) -> None:
    entries = brought((kind, "bad", value), ("scorers", "good", print))
    expected = rf"plugin 'bad' of llmhub_test_0 is of type \w+, not .*{PLUGIN_KINDS[kind].name}"
    with pytest.warns(PluginWarning, match=expected):
        found = load_plugins(entries=entries)
    assert "bad" not in getattr(found, kind)
    assert list(found.scorers) == ["good"]
    assert [one.name for one in found.broken] == ["bad"]
    with pytest.raises(BadRequestError, match=r"plugins: plugin 'bad' .*; fix or uninstall it"):
        load_plugins(strict=True, entries=entries)


def test_a_plugin_whose_code_fails_is_named(brought: Any) -> None:
    class Failing:
        def __init__(self) -> None:
            raise RuntimeError("no licence")

    with pytest.warns(PluginWarning, match="plugin 'bad' of llmhub_test_0 cannot be loaded: RuntimeError: no licence"):
        assert load_plugins(entries=brought(("connectors", "bad", Failing))).connectors == {}
    gone = [EntryPoint("gone", "llmhub_no_such_module:X", "llmhub.scorers")]
    with pytest.warns(PluginWarning, match="'gone' of llmhub_no_such_module cannot be loaded: ModuleNotFoundError"):
        load_plugins(entries=gone)


# What lives beside a hub


def test_connectors_begin_with_their_hub_and_end_with_it_in_reverse(brought: Any) -> None:
    notes: list[str] = []
    found = load_plugins(entries=brought(*(("connectors", name, Tracked(name, notes)) for name in "ab")))
    made = llmhub.Hub(plugins=found, settings=Settings())
    assert notes == ["begin a", "begin b"]
    made.close()
    made.close()
    assert notes[2:] == ["end b", "end a"]
    notes.clear()
    llmhub.Hub(plugins=found, settings=Settings())
    gc.collect()
    assert notes == ["begin a", "begin b", "end b", "end a"]


def test_a_connector_that_cannot_begin_is_left_out_or_fails_the_start(brought: Any) -> None:
    notes: list[str] = []
    rows = [("connectors", name, Tracked(name, notes, "begin" if name == "b" else "")) for name in "abc"]
    with pytest.warns(PluginWarning, match=r"'b' of .* cannot be initialized: ZeroDivisionError: by nought; it was"):
        made = llmhub.Hub(plugins=load_plugins(entries=brought(*rows)), settings=Settings())
    made.close()
    assert notes == ["begin a", "begin b", "begin c", "end c", "end a"]
    notes.clear()
    with pytest.raises(BadRequestError, match=r"plugin 'b' of .* cannot be initialized"):
        llmhub.Hub(plugins=load_plugins(strict=True, entries=brought(*rows)), settings=Settings())
    assert notes == ["begin a", "begin b", "end a"], "who had begun is ended"


def test_a_connector_that_cannot_end_keeps_no_other_from_it(brought: Any) -> None:
    notes: list[str] = []
    rows = [("connectors", name, Tracked(name, notes, "end" if name == "b" else "")) for name in "ab"]
    made = llmhub.Hub(plugins=load_plugins(entries=brought(*rows)), settings=Settings())
    with pytest.warns(PluginWarning, match="plugin 'b' could not be shut down: OSError: gone"):
        made.close()
    assert notes[2:] == ["end b", "end a"]


def test_a_hook_may_be_a_plugin_and_a_name_that_none_has_is_refused(brought: Any, scripted: Any, speech: Any) -> None:
    class Counting:
        seen = 0

        def on_request(self, call: Any) -> None:
            Counting.seen += 1

    found = load_plugins(entries=brought(("middleware", "counting", Counting)))
    server = scripted([speech.answer()])
    endpoints = {"compatible": llmhub.Endpoint(base_url=server.url)}
    with llmhub.Hub(plugins=found, endpoints=endpoints, settings=Settings(), middleware=("counting",)) as made:
        llmhub.complete("hi", model="compatible/m", hub=made)
    assert Counting.seen == 1
    with pytest.raises(BadRequestError, match=r"middleware\[0\]: no plugin provides a middleware named 'counting'"):
        llmhub.Hub(settings=Settings(), middleware=("counting",))
    with pytest.raises(BadRequestError, match="plugins: must be load_plugins\\(\\), not a value of type list"):
        llmhub.Hub(settings=Settings(), plugins=[])  # type: ignore[arg-type]


def test_another_process_finds_its_own(brought: Any) -> None:
    found = load_plugins(entries=brought(("scorers", "local", lambda row, text: True)))
    again = pickle.loads(pickle.dumps(found))
    assert isinstance(again, Plugins)
    assert "local" not in again.scorers


def test_nothing_is_looked_for_unless_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(**_: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr("llmhub.plugins.entry_points", never)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert llmhub.Hub(settings=Settings()).plugins is NO_PLUGINS
