"""Files that version 0.1.0 wrote are still read: its cache, its ledger and its frozen dataset."""

from __future__ import annotations

import importlib.util
import json
import shutil
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import llmhub

HERE = Path(__file__).parent


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Copy the recorded files to a folder where they may be changed."""
    shutil.copytree(HERE / "files", tmp_path / "files")
    return tmp_path / "files"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionRefusedError("nothing may be sent")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)


@pytest.fixture
def recorder() -> Any:
    spec = importlib.util.spec_from_file_location("record", HERE / "record.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_cache_answers_and_nothing_is_sent(files: Path, offline: None, recorder: Any) -> None:
    expected = json.loads((files / "answers.json").read_text(encoding="utf-8"))
    with recorder.make_hub(f"http://127.0.0.1:{recorder.PORT}", files / "cache.db") as hub:
        results = recorder.run_all(hub)
    assert results["streamed"] == expected["streamed"]
    assert results["called"] == expected["called"]
    assert [row["request_key"] for row in results["rows"]] == [row["request_key"] for row in expected["rows"]]
    for row, recorded, hit in zip(results["rows"], expected["rows"], results["hits"], strict=True):
        assert (row == recorded and hit) or (recorded["status"] == "error" and row["error_type"] == "Disconnected")
    assert Counter(row["status"] for row in expected["rows"]) == {"ok": 8, "error": 8}


def test_the_ledger_is_listed(files: Path, recorder: Any) -> None:
    with llmhub.Hub(cache=llmhub.DiskCache(files / "cache.db")) as hub:
        table = llmhub.ledger(hub=hub)
    assert Counter(table["state"].to_pylist()) == {"done": 11, "error": 8, "ambiguous": 1}
    assert set(table["error_type"].to_pylist()) == {None, "ServerError", "Malformed"}
    assert table["run_id"].to_pylist()[-1] == b"golden-run-00001".hex()
    assert {model: table["model"].to_pylist().count(model) for model in recorder.MODELS} == {
        "openai/gpt-4o-mini": 11,
        "anthropic/claude-haiku-4-5": 9,
    }


def test_the_frozen_dataset_is_verified_and_replayed(files: Path, offline: None) -> None:
    assert llmhub.verify(files / "frozen")
    assert llmhub.replay(files / "frozen")
