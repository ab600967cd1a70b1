"""Registration of ``.llm`` on pandas, polars and DuckDB, right after their import; it imports nothing until used."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Final

ACCESSORS: Final[Mapping[str, Mapping[str, str]]] = {
    "pandas": {"DataFrame": "accessor.FrameAccessor", "Series": "series_accessor.SeriesAccessor"},
    "polars": {
        "DataFrame": "accessor.FrameAccessor",
        "LazyFrame": "accessor.FrameAccessor",
        "Series": "series_accessor.SeriesAccessor",
        "Expr": "expression.ExprAccessor",
    },
    "duckdb": {"DuckDBPyRelation": "accessor.FrameAccessor"},
}
"""By library: classes that get ``.llm``, and the accessor of each, as module and class in this package."""


class _LazyAccessor:
    """Descriptor that imports the accessor on first use and creates a new one at each access."""

    def __init__(self, path: str) -> None:
        self._module, _, self._name = path.partition(".")

    def __get__(self, instance: object, owner: type) -> Any:
        """Return the accessor of a frame, or its class."""
        accessor_class = getattr(importlib.import_module(f"llmhub.notebook.{self._module}"), self._name)
        return accessor_class if instance is None else accessor_class(instance)


def register(library: Any) -> None:
    """Register the accessors on the classes of a library, replacing earlier ones of llmhub."""
    for class_name, path in ACCESSORS[library.__name__].items():
        owner = getattr(library, class_name)
        owner.llm = _LazyAccessor(path)
        if hasattr(owner, "_accessors"):  # where pandas and polars list accessors, for dir()
            owner._accessors = {*owner._accessors, "llm"}  # noqa: SLF001 - see above
