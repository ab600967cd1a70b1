"""Audit the dependencies of an environment for known vulnerabilities, and write its bill of materials.

Run ``python .ci/supply_chain.py PYTHON TOOLS SBOM``: the interpreter of the environment, the folder with ``pip-audit``
and ``cyclonedx-py``, and the file to write (CycloneDX 1.6, JSON). A vulnerability is a failure. A service of advisories
that cannot be reached is none, and is said: then nothing was audited.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

OWN = "llmhub"
AUDIT_TIMEOUT_S = 300


def judge(report: str) -> tuple[bool, str]:
    """Return whether the JSON report of pip-audit is free of findings, and what to say of it."""
    try:
        dependencies: list[dict[str, Any]] = json.loads(report)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return True, "NOT AUDITED: the service of advisories cannot be reached from here"
    audited = [each for each in dependencies if "vulns" in each]
    skipped = [each["name"] for each in dependencies if "vulns" not in each]
    found = [
        f"{each['name']} {each['version']}: {vulnerability['id']}"
        f" (fixed in {', '.join(vulnerability.get('fix_versions') or ['no release'])})"
        for each in audited
        for vulnerability in each["vulns"]
    ]
    if found:
        return False, "\n".join(["vulnerable dependencies:", *found])
    if not audited:
        return True, "NOT AUDITED: the service of advisories knows none of the packages, or cannot be reached from here"
    note = f"; not audited: {', '.join(skipped)}" if skipped else ""
    return True, f"no known vulnerability in {len(audited)} packages{note}"


def run(*command: str | Path, timeout_s: float = AUDIT_TIMEOUT_S) -> str:
    """Return what a command prints, whatever its exit code; empty if it takes too long."""
    try:
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout


def audit(tools: Path, pins: list[str]) -> tuple[bool, str]:
    """Audit pinned requirements; the first alone at first, because each one that cannot be looked up takes its time."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "requirements.txt"
        command = (tools / "pip-audit", "-r", file, "--no-deps", "--disable-pip", "-f", "json", "--timeout", "5")
        is_clean, text = True, ""
        for part in (pins[:1], pins):
            file.write_text("\n".join(part), encoding="utf-8")
            is_clean, text = judge(run(*command, "--progress-spinner", "off"))
            if not is_clean or text.startswith("NOT AUDITED"):
                break
        return is_clean, text


def main(python: str, tools: str, sbom: str) -> int:
    """Print both results; return 1 for a vulnerability, or a bill of materials that lacks a package."""
    freeze = run(python, "-m", "pip", "list", "--format=freeze", "--exclude-editable").split()
    pins = [pin for pin in freeze if pin.partition("==")[0] not in {OWN, "pip", "setuptools"}]
    is_clean, text = audit(Path(tools), pins)
    print(text)
    run(Path(tools) / "cyclonedx-py", "environment", python, "--pyproject", "pyproject.toml", "-o", sbom)
    components = json.loads(Path(sbom).read_text(encoding="utf-8"))["components"]
    listed = {component["name"].lower().replace("_", "-") for component in components}
    missing = [pin for pin in pins if pin.partition("==")[0].lower().replace("_", "-") not in listed]
    print(f"bill of materials: {len(components)} components" + (f"; MISSING: {missing}" if missing else ""))
    return int(not is_clean or bool(missing))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
