"""Registers ``.llm`` on the frames of pandas, polars and DuckDB, whether they are imported before or after llmhub.

A library that is imported later is found by a meta path finder, whose loader runs the library's own loader and then
registers the accessors. Nothing is imported that the user did not import.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Final

FRAME_LIBRARIES: Final = {"pandas": "DataFrame", "polars": "DataFrame", "duckdb": "DuckDBPyRelation"}
"""Libraries, and a class that each has once it is loaded."""


class _FrameLibraryFinder(importlib.abc.MetaPathFinder):
    """Finds a frame library as the path finder does, and wraps its loader."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the library's spec with a wrapped loader; ``None`` for other modules and loaded libraries."""
        if fullname not in FRAME_LIBRARIES or _is_loaded(fullname):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisteringLoader(spec.loader)
        return spec


class _RegisteringLoader(importlib.abc.Loader):
    """Loads a module with its own loader, then registers the accessors."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> object:
        """Delegate to the module's own loader: resources, source, data."""
        return getattr(self._loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """Create the module with its own loader."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module, restore its own loader, and register the accessors."""
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        _register(module)


def install() -> None:
    """Register the accessors on loaded libraries, and arrange it for those loaded later."""
    for name in FRAME_LIBRARIES:
        library = sys.modules.get(name)
        if library is not None:
            _register(library)
    if not all(map(sys.modules.get, FRAME_LIBRARIES)):
        sys.meta_path.insert(0, _FrameLibraryFinder())


def _is_loaded(name: str) -> bool:
    return getattr(sys.modules.get(name), FRAME_LIBRARIES[name], None) is not None


def _register(library: ModuleType) -> None:
    importlib.import_module("llmhub.notebook.register").register(library)
