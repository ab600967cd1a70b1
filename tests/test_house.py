"""The house in order: what is declared is used, what is listed twice agrees, and the arrows point down."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
IMPORTS = {
    "genai-prices": "genai_prices",
    "google-genai": "google.genai",
    "lazy-loader": "lazy_loader",
    "nest-asyncio": "nest_asyncio",
    "pytest-asyncio": "pytest_asyncio",
    "rouge-score": "rouge_score",
}
"""Distributions that are imported under another name."""
NAMED = {
    "aiohttp",
    "pandas",
    "pyarrow",
    "ipywidgets",
    "nest-asyncio",
    "joblib",
    "tiktoken",
    "returns",
    "matplotlib",
    "pytest-asyncio",
}
"""What the project is built on."""
PLUGINS = {"pytest-asyncio": "asyncio_mode", "pytest-timeout": "\ntimeout = "}
"""Distributions that are used by being configured."""
CONDA = {"matplotlib-base": "matplotlib", "redis-py": "redis"}


def named(requirement: str) -> tuple[str, str]:
    """Part a requirement into its name and its bounds."""
    name, bounds = re.fullmatch(r"([A-Za-z0-9_.\-]+)(?:\[[^]]*])?([^;]*)(?:;.*)?", requirement.strip()).groups()  # type: ignore[union-attr]
    return name.lower(), bounds.strip()


def environment() -> dict[str, str]:
    """Read the requirements of environment.yml: its layout is flat, so no parser is needed."""
    found: dict[str, str] = {}
    for line in (ROOT / "environment.yml").read_text(encoding="utf-8").split("dependencies:")[1].splitlines():
        entry = re.fullmatch(r"\s+- ([A-Za-z0-9_.\-]+)([^:]*)", line)
        if entry and not entry[1].startswith("-"):
            found[CONDA.get(entry[1], entry[1])] = entry[2].strip()
    return found


def test_the_environment_file_agrees_with_the_project() -> None:
    wanted = dict(map(named, PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]))
    given = environment()
    assert given.pop("python") == PROJECT["requires-python"]
    given.pop("pip")
    assert given == wanted


def imported() -> set[str]:
    """Name all modules that the project, its tests, benchmarks and notebooks import."""
    names: set[str] = set()
    for path in [*ROOT.glob("llmhub/**/*.py"), *ROOT.glob("tests/**/*.py"), *ROOT.glob("notebooks/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module)
                names.update(f"{node.module}.{alias.name}" for alias in node.names)
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "import_optional" and node.args:
                # How a library of an extra is imported: `llmhub.evals.optional_imports.import_optional`.
                names.update(arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant))
    return names


def test_what_is_required_is_used() -> None:
    used = imported()
    config = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    required = [named(entry)[0] for entry in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]]
    unused = [
        name
        for name in required
        if not any(
            found == IMPORTS.get(name, name) or found.startswith(IMPORTS.get(name, name) + ".") for found in used
        )
        and PLUGINS.get(name, "\0") not in config
        and name not in {"ipykernel", "jupyterlab"}  # in which notebooks run
    ]
    assert unused == []
    assert set(required) >= NAMED


def test_what_is_used_is_required() -> None:
    """Nothing is imported that only happens to be there."""
    declared = {
        IMPORTS.get(name, name).split(".")[0]
        for group in [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
        for name, _ in map(named, group)
    }
    brought = {"IPython", "tiktoken_ext"}  # by ipywidgets and tiktoken
    own = {"llmhub", "__future__", *sys.stdlib_module_names}
    outside = {
        name.split(".")[0]
        for path in ROOT.glob("llmhub/**/*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom) and not node.level
            else []
        )
    }
    assert outside - own - declared - brought == set()


def test_the_readme_has_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(re.findall(r"^python3 -m venv .*/llmhub demo$", readme, re.MULTILINE)) == 1
    assert len(re.findall(r"^python3 -m venv .*pytest -q$", readme, re.MULTILINE)) == 1


def test_the_project_speaks_of_itself_alone() -> None:
    """No path of somebody's machine and no registry's host in what is shipped."""
    foreign = re.compile(r"/(?:work|root|home/\w+)/(?!\.)|files\.pythonhosted|pypi\.org/simple")
    shipped = [
        path
        for pattern in ("llmhub/**/*.py", "benchmarks/*.py", "notebooks/*", "*.md", "*.toml", "*.yml")
        for path in ROOT.glob(pattern)
    ]
    found = [
        str(path.relative_to(ROOT))
        for path in shipped
        if path.is_file() and foreign.search(path.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.slow
def test_the_arrows_point_down() -> None:
    command = shutil.which("lint-imports", path=str(Path(sys.executable).parent)) or shutil.which("lint-imports")
    if command is None:
        pytest.skip("import-linter is of the dev extra; the build runs it by itself")
    done = subprocess.run([command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
