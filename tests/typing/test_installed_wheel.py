"""A built wheel in an environment of its own: type checkers see its types, and it imports without the source tree."""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow

PROGRAM = """\
import pandas as pd

import llmhub
from llmhub.errors import RateLimitError
from llmhub.types import Message, Text

hub = llmhub.Hub(cache=llmhub.DiskCache("runs.db"), limits={"openai": llmhub.Limit(rpm=500)})
reveal_type(llmhub.complete([Message("user", [Text("hi")])], model="openai/gpt-4o-mini", hub=hub).text)
reveal_type([chunk.text for chunk in llmhub.stream("hi", model="openai/gpt-4o-mini")])
frame = pd.DataFrame({"text": ["a", "b"]})
reveal_type(llmhub.llm(frame).complete("Summarise: {text}", model="openai/gpt-4o-mini"))
reveal_type(llmhub.llm(frame).plan("Summarise: {text}", model="openai/gpt-4o-mini").calls)
try:
    llmhub.complete("hi", model="openai/gpt-4o-mini")
except (RateLimitError, llmhub.NotFoundError) as error:
    reveal_type(error.error.retry_after_s)
reveal_type(llmhub.current_hub().available_providers())
"""
EXPECTED = ["str", "list[str]", "DataFrame", "int", "float | None", "tuple[str, ...]"]
WRONG = """\
import llmhub
llmhub.complete("hi", model="openai/gpt-4o-mini", tempature=1)
llmhub.Limit(rpm="many")
llmhub.compare({"a": [1]}, "{a}", model="openai/gpt-4o-mini", level="high")
llmhub.llm({"a": [1]}).classify("{a}", labels=["x"], model="openai/gpt-4o-mini", tempature=1)
llmhub.plan({"a": [1]}, "{a}", model="openai/gpt-4o-mini", max_tokens="many")
"""
WRONG_LINES = ["2", "3", "4", "5", "6"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="needs hatchling (extra dev)")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-cache-dir"]
    options = ["--disable-pip-version-check", "--wheel-dir", str(folder), str(ROOT)]
    completed = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def interpreter(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of a new environment with the wheel, which finds its dependencies in this environment."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    packages = next(folder.glob("lib*/python*/site-packages"), folder / "Lib" / "site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()), encoding="utf-8")
    return folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"


def check(command: list[str], tmp_path: Path, program: str) -> str:
    if shutil.which(command[0], path=str(Path(sys.executable).parent)) is None:
        pytest.skip(f"needs {command[0]} (extra dev)")
    (tmp_path / "program.py").write_text(program, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "MYPYPATH"}}
    run = [sys.executable, "-m", *command, "program.py"]
    return subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False).stdout


def test_wheel_holds_the_stub_and_the_marker(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {"llmhub/py.typed", "llmhub/__init__.pyi"} <= set(names)
    assert not [name for name in names if not name.startswith("llmhub")]


def test_wheel_is_imported_from_its_environment(interpreter: Path, tmp_path: Path) -> None:
    code = "import json, llmhub; print(json.dumps([llmhub.__file__, llmhub.Limit(rpm=1).rpm, llmhub.__version__]))"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    output = subprocess.run(
        [interpreter, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    ).stdout
    file, rpm, _ = json.loads(output)
    assert Path(file).is_relative_to(interpreter.parents[1])
    assert rpm == 1


def test_mypy_strict(interpreter: Path, tmp_path: Path) -> None:
    command = [
        "mypy",
        "--strict",
        "--no-error-summary",
        "--cache-dir",
        str(tmp_path),
        f"--python-executable={interpreter}",
    ]
    lines = check(command, tmp_path, PROGRAM).splitlines()
    types = [line.rpartition("Revealed type is ")[2].strip('"').replace("builtins.", "") for line in lines]
    assert [name.rpartition(".")[2] if "[" not in name else name for name in types] == EXPECTED, lines
    wrong = check(command, tmp_path, WRONG).splitlines()
    assert [line.split(":")[1] for line in wrong if " error: " in line] == WRONG_LINES, wrong


def test_pyright(interpreter: Path, tmp_path: Path) -> None:
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}', encoding="utf-8")
    command = ["pyright", "--pythonpath", str(interpreter)]
    lines = [line for line in check(command, tmp_path, PROGRAM).splitlines() if "program.py:" in line]
    types = [line.rpartition(' is "')[2].strip('"') for line in lines]
    assert types == EXPECTED, lines
    wrong = check(command, tmp_path, WRONG).splitlines()
    assert sorted({line.split(":")[1] for line in wrong if " error: " in line}) == WRONG_LINES, wrong
