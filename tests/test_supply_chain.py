"""What the package and its tests bring along from others: dependencies, recordings, and checks of both."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
FIXTURES = ROOT / "tests" / "fixtures"
SUMS = FIXTURES / "SHA256SUMS"


def load_script() -> Any:
    """Import the script of CI, which is no package."""
    spec = importlib.util.spec_from_file_location("supply_chain", ROOT / ".ci" / "supply_chain.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CLEAN = {"name": "a", "version": "1", "vulns": []}
SKIPPED = {"name": "b", "skip_reason": "Dependency not found on PyPI and could not be audited: b (1)"}
VULNERABLE = {"name": "c", "version": "2", "vulns": [{"id": "PYSEC-2026-1", "fix_versions": ["2.1"]}]}


@pytest.mark.parametrize(
    ("report", "is_clean", "text"),
    [
        (json.dumps({"dependencies": [CLEAN, SKIPPED]}), True, "no known vulnerability in 1 packages; not audited: b"),
        (json.dumps({"dependencies": [CLEAN, VULNERABLE]}), False, r"c 2: PYSEC-2026-1 \(fixed in 2.1\)"),
        (json.dumps({"dependencies": [SKIPPED]}), True, "NOT AUDITED"),
        ("", True, "NOT AUDITED"),
        ("ERROR: connection refused", True, "NOT AUDITED"),
    ],
)
def test_a_finding_fails_and_an_unreachable_service_is_said(report: str, is_clean: bool, text: str) -> None:
    clean, shown = load_script().judge(report)
    assert clean == is_clean
    assert re.search(text, shown)


def test_files_of_others_are_as_they_were() -> None:
    """As ``sha256sum --check`` does; a file that is changed on purpose gets a new line."""
    lines = SUMS.read_text(encoding="utf-8").splitlines()
    expected = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    files = {path.relative_to(FIXTURES).as_posix(): path for path in FIXTURES.rglob("*") if path.is_file()}
    files = {name: path for name, path in files.items() if path != SUMS and "__pycache__" not in path.parts}
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()} == expected


def test_upper_bounds_have_a_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    bounded = [entry for group in groups for entry in group if re.search(r"<|==|~=", entry.partition(";")[0])]
    assert [entry for entry in bounded if not re.search(re.escape(f'"{entry}",') + r"\s+#\s\w+", text)] == []


def test_rules_for_security_are_on() -> None:
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["lint"]
    assert "ALL" in lint["select"]
    assert not [rule for rule in lint["ignore"] if re.fullmatch(r"S\d*", rule)]
    exempt = [pattern for pattern, rules in lint["per-file-ignores"].items() if "S" in rules]
    assert not [pattern for pattern in exempt if pattern.startswith("llmhub")]
