"""Engines are tested where they are installed. ``LLMHUB_TEST_ENGINES=spark,ray`` names those that must be."""

from __future__ import annotations

import importlib.util
import os

import pytest

MODULES = {"spark": "pyspark", "ray": "ray", "dask": "distributed", "daft": "daft"}
REQUIRED = [name for name in os.environ.get("LLMHUB_TEST_ENGINES", "").split(",") if name]
# joblib is everywhere, and its tests take a while: they run where they are asked for.
ENGINES = REQUIRED or [name for name, module in MODULES.items() if importlib.util.find_spec(module) is not None]

collect_ignore = ["workers"] if ENGINES else ["workers", "test_engines.py"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests of engines with each of them; those of one engine together."""
    if "engine" in metafunc.fixturenames:
        metafunc.parametrize("engine", ENGINES, indirect=True, scope="module")
