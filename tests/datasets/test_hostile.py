"""Datasets from elsewhere: no header or key is written, and nothing outside the folder is read, written or awaited."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import llmhub
from llmhub.core.errors import BadRequestError, ConnectorError
from llmhub.datasets import Recipe, freeze, read, replay, verify
from llmhub.sim import SimulatorThread

GOLDEN = Path(__file__).parents[1] / "goldens" / "files" / "frozen"
SECRET_HEADERS = {
    "Ocp-Apim-Subscription-Key": "hidden-apim",
    "Helicone-Auth": "Bearer hidden-helicone",
    "x-portkey-api-key": "hidden-portkey",
    "cf-aig-authorization": "Bearer hidden-cloudflare",
    "X-Auth-Token": "hidden-token",
    "X-Team": "hidden-team",
}


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    """Copy a frozen dataset that can be replayed."""
    shutil.copytree(GOLDEN, tmp_path / "golden")
    return tmp_path / "golden"


def edit_lock(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    lock = json.loads((folder / "lock.json").read_text())
    edit(lock)
    (folder / "lock.json").write_text(json.dumps(lock))


# Credentials


@pytest.fixture
def secretive(simulator: SimulatorThread) -> dict[str, llmhub.Endpoint]:
    """Return endpoints with secrets in headers, in the query and in the user part of the address."""
    made = {}
    for name, endpoint in simulator.endpoints().items():
        url = endpoint.base_url.replace("http://", "http://hidden-user:hidden-word@")
        made[name] = llmhub.Endpoint(base_url=url, api_key="hidden-key", headers=SECRET_HEADERS)
    return made


def test_no_header_value_query_or_key_is_written(secretive: dict[str, llmhub.Endpoint], tmp_path: Path) -> None:
    from llmhub.datasets.provenance import endpoint_settings  # noqa: PLC0415 - beside the dataset of the same settings

    with llmhub.Hub(endpoints=secretive) as hub:
        frame = pd.DataFrame({"q": ["one"]})
        results = frame.llm.complete("{q}", model="openai/gpt-4o-mini", hub=hub, progress=False, columns="all")
        freeze(results, tmp_path / "set", recipe=Recipe(prompt="{q}", models=("openai/gpt-4o-mini",)), hub=hub)
        lock = read(tmp_path / "set").lock
        assert lock["endpoints"]["openai"]["headers"] == []
    for path in (tmp_path / "set").iterdir():
        assert b"hidden" not in path.read_bytes(), path.name
    signed = {
        "openai": llmhub.Endpoint(base_url="https://host/v1?sig=hidden-sig&version=2#hidden", api_key="hidden-key")
    }
    with llmhub.Hub(endpoints=signed) as hub:
        recorded = endpoint_settings(hub, ["openai/gpt-4o-mini"])["openai"]
    assert recorded == {
        "base_url": "https://host/v1",
        "project": "",
        "api_version": "",
        "region": "",
        "headers": [],
        "query": ["version"],
    }


def test_headers_that_are_not_stored_come_from_the_hub_at_replay(simulator: SimulatorThread, tmp_path: Path) -> None:
    endpoints = {
        name: llmhub.Endpoint(
            base_url=endpoint.base_url,
            api_key="k",
            headers={"X-Model-Variant": "large", "X-Persona": "pirate", "Helicone-Auth": "hidden"},
            cache_key_names=["x-persona"],
        )
        for name, endpoint in simulator.endpoints().items()
    }
    with llmhub.Hub(endpoints=endpoints) as hub:
        frame = pd.DataFrame({"q": ["one", "two"]})
        results = frame.llm.complete("{q}", model="openai/gpt-4o-mini", hub=hub, progress=False, columns="all")
        freeze(results, tmp_path / "set", recipe=Recipe(prompt="{q}", models=("openai/gpt-4o-mini",)), hub=hub)
        with pytest.raises(BadRequestError, match=r"hub: requests to 'openai' had 'X-Model-Variant', 'X-Persona' in"):
            replay(tmp_path / "set")
        assert replay(tmp_path / "set", hub=hub)


def test_dataset_of_keys_with_every_header_is_replayed(
    secretive: dict[str, llmhub.Endpoint], simulator: SimulatorThread, tmp_path: Path
) -> None:
    """In earlier versions keys covered every header, and the lock file named them all."""
    plain = {name: endpoint.base_url for name, endpoint in simulator.endpoints().items()}
    endpoints = {
        name: llmhub.Endpoint(
            base_url=plain[name], api_key="k", headers=endpoint.headers, cache_key_names=list(SECRET_HEADERS)
        )
        for name, endpoint in secretive.items()
    }
    with llmhub.Hub(endpoints=endpoints) as hub:
        frame = pd.DataFrame({"q": ["one", "two"]})
        results = frame.llm.complete("{q}", model="openai/gpt-4o-mini", hub=hub, progress=False, columns="all")
        freeze(results, tmp_path / "set", recipe=Recipe(prompt="{q}", models=("openai/gpt-4o-mini",)), hub=hub)
        assert read(tmp_path / "set").lock["endpoints"]["openai"]["headers"] == sorted(SECRET_HEADERS)
    without_names = {name: llmhub.Endpoint(plain[name], "k", headers=SECRET_HEADERS) for name in endpoints}
    with llmhub.Hub(endpoints=without_names) as hub:
        assert replay(tmp_path / "set", hub=hub)


# Files


@pytest.mark.parametrize("name", ["/etc/hostname", "../data.parquet", "sub/data.parquet", "..", "", "a\\b"])
def test_names_outside_the_folder_are_refused(golden: Path, name: str) -> None:
    edit_lock(golden, lambda lock: lock["files"].update({name: "0" * 64}))
    for function in (verify, read, replay):
        with pytest.raises(BadRequestError, match="not a plain name in the folder"):
            function(golden)


@pytest.mark.parametrize("name", ["data.parquet", "rows.lock"])
@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_files_that_are_not_regular_are_not_read(golden: Path, tmp_path: Path, name: str, kind: str) -> None:
    outside = tmp_path / "outside"
    (golden / name).rename(outside)
    if kind == "link":
        (golden / name).symlink_to(outside)
    elif kind == "pipe":
        os.mkfifo(golden / name)
    else:
        (golden / name).mkdir()
    verification = verify(golden)
    assert not verification
    assert any(f"{name}: is " in problem for problem in verification.problems)
    if name == "data.parquet":
        with pytest.raises(BadRequestError, match=r"data\.parquet cannot be read"):
            read(golden)


def test_lock_that_is_a_pipe_or_link_is_refused(golden: Path, tmp_path: Path) -> None:
    (golden / "lock.json").rename(tmp_path / "lock.json")
    (golden / "lock.json").symlink_to(tmp_path / "lock.json")
    with pytest.raises(BadRequestError, match="symbolic link"):
        verify(golden)
    (golden / "lock.json").unlink()
    os.mkfifo(golden / "lock.json")
    with pytest.raises(BadRequestError, match="not a regular file"):
        verify(golden)


# Recipes


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("parameters", {"sink": "/tmp/written.parquet"}, r"sets parameters\['sink'\]"),
        ("parameters", {"n_jobs": 8}, r"sets parameters\['n_jobs'\]"),
        ("parameters", {"images": "question"}, "reads local files"),
        ("parameters", {"progress": True}, r"sets parameters\['progress'\]"),
        ("design", {"sink": "written"}, r"sets design\['sink'\]"),
        ("design", {"resamples": 10**12}, r"sets design\['resamples'\]"),
        ("samples", 100_000, "100,000 samples"),
    ],
)
def test_recipe_that_is_not_one_of_requests_is_refused(golden: Path, part: str, value: Any, message: str) -> None:
    edit_lock(golden, lambda lock: lock["recipe"].update({part: value}))
    with pytest.raises(BadRequestError, match=message):
        replay(golden)


def test_judge_with_options_that_are_not_of_requests_is_refused(golden: Path) -> None:
    judge = {"model": "openai/gpt-4o", "rubric": "?", "pairwise": False, "prompt": "{response}", "low": 1, "high": 5}
    recorded = {"name": "j", "version": "1", "parameters": {**judge, "n": 1, "options": {"sink": "written"}}}
    edit_lock(golden, lambda lock: lock["recipe"].update({"scorers": [recorded]}))
    with pytest.raises(BadRequestError, match="the judge 'j' has the option 'sink'"):
        replay(golden)


# Any JSON

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values in a JSON value, containers included."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, item in items for found in leaves(item, (*path, key)))][0 if path else 1 :]


PATHS = leaves(json.loads((GOLDEN / "lock.json").read_text()))


def only_connector_errors(folder: Path) -> None:
    for function in (verify, read, replay):
        try:
            function(folder)
        except ConnectorError:
            continue


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lock=JSON)
def test_any_json_as_lock_raises_a_clear_error(golden: Path, lock: Any) -> None:
    (golden / "lock.json").write_text(json.dumps(lock))
    for function in (verify, read, replay):
        with pytest.raises(BadRequestError, match="is not a frozen dataset"):
            function(golden)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from(PATHS), value=JSON | st.none(), remove=st.booleans())
def test_any_edit_of_a_lock_raises_a_clear_error_or_none(
    golden: Path, path: tuple[Any, ...], value: Any, remove: bool
) -> None:
    lock = json.loads((GOLDEN / "lock.json").read_text())
    parent = lock
    for key in path[:-1]:
        parent = parent[key]
    if remove:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    (golden / "lock.json").write_text(json.dumps(lock))
    only_connector_errors(golden)


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe", b"", b"nul", b'{"version": 1e400}']
)
def test_any_bytes_as_lock_raise_a_clear_error(golden: Path, content: bytes) -> None:
    (golden / "lock.json").write_bytes(content)
    for function in (verify, read, replay):
        with pytest.raises(BadRequestError, match="is not a frozen dataset"):
            function(golden)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"\0" * 64 + b"PAR1", b"x" * 100])
def test_any_bytes_as_data_raise_a_clear_error(golden: Path, content: bytes) -> None:
    (golden / "data.parquet").write_bytes(content)
    assert not verify(golden)
    for function in (read, replay):
        with pytest.raises(BadRequestError):
            function(golden)
