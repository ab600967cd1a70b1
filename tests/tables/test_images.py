"""Images named by paths in untrusted data: what is opened, what is told, and that nothing waits for them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import llmhub
from llmhub.config import Settings
from llmhub.core.errors import BadRequestError, InvalidRequest
from llmhub.sim import SimulatorThread
from llmhub.tables import images
from llmhub.tables.images import ImageParser, parse_images

MODEL = "openai/gpt-4o-mini"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(16)


def message(value: Any, local_files: Any = True) -> str:
    parsed = parse_images(value, local_files)
    assert isinstance(parsed, InvalidRequest)
    return parsed.message


@pytest.fixture
def hub(simulator: SimulatorThread) -> Iterator[llmhub.Hub]:
    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings()) as opened:
        yield opened


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a picture and links out of it, beside another picture."""
    folder = tmp_path / "root"
    (folder / "sub").mkdir(parents=True)
    for path in (folder / "a.png", folder / "sub" / "b.png", tmp_path / "secret.png"):
        path.write_bytes(PNG)
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "dead.png").symlink_to(tmp_path / "missing.png")
    (folder / "inside.png").symlink_to(folder / "a.png")
    return folder


def test_pipes_devices_and_folders_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, "/dev/zero", "/dev/null"):
        assert message(str(path)) == f"{str(path)!r} is not a regular file"


def test_file_that_becomes_a_pipe_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the check and the opening: the path leads elsewhere."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "a.png").write_bytes(PNG)
    regular = (tmp_path / "a.png").stat()
    monkeypatch.setattr(Path, "stat", lambda _: regular)
    assert message(str(tmp_path / "pipe")).endswith("is not a regular file")


def test_pipe_fails_its_own_row_and_no_other(hub: llmhub.Hub, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "a.png").write_bytes(PNG)
    columns = {"img": [str(tmp_path / "a.png"), str(tmp_path / "pipe.png"), str(tmp_path / "a.png")]}
    table = llmhub.complete_table(columns, "Describe.", images="img", model=MODEL, hub=hub, progress=False)
    assert table["status"].to_pylist() == ["ok", "error", "ok"]
    assert "is not a regular file" in table["error"][1].as_py()


def test_silent_file_system_is_waited_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release, opened = threading.Event(), []

    def read(path: Path, _root: Path | None) -> bytes:
        opened.append(path.name)
        if path.parent.name == "stuck":
            release.wait(10)
        return PNG

    monkeypatch.setattr(images, "_read", read)
    monkeypatch.setattr(images, "FILE_TIMEOUT_S", 0.01)
    parser = ImageParser()
    for name in ("a.png", "b.png"):
        silent = parser.parse(str(tmp_path / "stuck" / name))
        assert isinstance(silent, InvalidRequest)
        assert silent.message.endswith("cannot be read: its file system does not respond")
    monkeypatch.setattr(images, "FILE_TIMEOUT_S", 10.0)
    assert isinstance(parser.parse(str(tmp_path / "other" / "c.png")), tuple)
    release.set()
    assert opened == ["a.png", "c.png"]


def test_loop_goes_on_while_a_file_is_read(hub: llmhub.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, release = threading.Event(), threading.Event()

    def read(_path: Path, _root: Path | None) -> bytes:
        reading.set()
        assert release.wait(10)
        return PNG

    monkeypatch.setattr(images, "_read", read)
    job = llmhub.submit({"img": [str(tmp_path / "a.png")]}, "Describe.", images="img", model=MODEL, hub=hub)
    assert reading.wait(10)
    assert llmhub.complete("hi", model=MODEL, hub=hub).text
    release.set()
    assert job.result()["status"].to_pylist() == ["ok"]


def test_run_that_is_stopped_while_a_file_is_read_ends(
    hub: llmhub.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, release = threading.Event(), threading.Event()

    def read(_path: Path, _root: Path | None) -> bytes:
        reading.set()
        assert release.wait(10)
        return PNG

    monkeypatch.setattr(images, "_read", read)
    job = llmhub.submit({"img": ["a.png", "b.png"]}, "Describe.", images="img", model=MODEL, hub=hub)
    assert reading.wait(10)
    job.stop()
    job.stop()
    release.set()
    assert job.result()["status"].to_pylist() == ["cancelled", "cancelled"]


# What a hub permits


def test_paths_are_read_by_default(root: Path) -> None:
    for name in ("a.png", "link.png"):
        assert isinstance(parse_images(str(root / name)), tuple)


def test_paths_can_be_refused(root: Path) -> None:
    for value in (str(root / "a.png"), root / "a.png", {"path": str(root / "a.png")}, [str(root / "a.png")], "no.png"):
        assert message(value, local_files=False) == (
            "paths of local files are not read (Hub(local_files=False)); pass URLs or the bytes of the images"
        )
    for value in ("https://x.org/a.png", PNG, {"bytes": PNG, "path": "a.png"}):
        assert isinstance(parse_images(value, local_files=False), tuple)


@pytest.mark.parametrize("name", ["a.png", "sub/b.png", "sub/../a.png", "./a.png", "inside.png"])
@pytest.mark.parametrize("absolute", [True, False])
def test_files_of_the_folder_are_read(root: Path, name: str, absolute: bool) -> None:
    assert isinstance(parse_images(str(root / name) if absolute else name, root), tuple)


@pytest.mark.parametrize(
    "name",
    [
        "../secret.png",
        "../missing.png",
        "sub/../../secret.png",
        "/etc/passwd",
        "/no/such/file",
        "link.png",
        "dead.png",
        "..",
    ],
)
def test_nothing_is_told_of_files_outside_of_the_folder(root: Path, name: str) -> None:
    assert message(name, root) == f"the path is not in the folder {str(root)!r} of Hub(local_files=...)"


def test_hub_decides_for_tables_and_single_calls(simulator: SimulatorThread, root: Path) -> None:
    for local_files, statuses in ((True, ["ok", "ok"]), (False, ["error", "error"]), (str(root), ["ok", "error"])):
        with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), local_files=local_files) as hub:
            columns = {"img": [str(root / "a.png"), str(root.parent / "secret.png")]}
            table = llmhub.complete_table(columns, "Describe.", images="img", model=MODEL, hub=hub, progress=False)
            assert table["status"].to_pylist() == statuses
            if local_files is not True:
                with pytest.raises(BadRequestError, match="local_files"):
                    llmhub.complete("Describe.", images=columns["img"][1], model=MODEL, hub=hub)


@pytest.mark.parametrize("value", [None, 1, "", ["a"]])
def test_other_values_are_refused(value: Any) -> None:
    with pytest.raises(BadRequestError, match="local_files: must be True, False or a folder"):
        llmhub.Hub(settings=Settings(), local_files=value)
