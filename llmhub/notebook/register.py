"""Registration of ``.llm`` on pandas and polars. It runs right after their import, so it imports nothing until used."""

from __future__ import annotations

from typing import Any


class _LazyAccessor:
    """Descriptor that imports the accessor on first use and creates a new one at each access."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type) -> Any:
        """Return the accessor of a frame, or its class."""
        from llmhub.notebook import accessor  # noqa: PLC0415 - imports Arrow and the engine

        accessor_class = getattr(accessor, self._name)
        return accessor_class if instance is None else accessor_class(instance)


def register(library: Any) -> None:
    """Register the accessors on the DataFrame and Series of pandas or polars, replacing earlier ones of llmhub."""
    for owner, name in ((library.DataFrame, "FrameAccessor"), (library.Series, "SeriesAccessor")):
        owner.llm = _LazyAccessor(name)
        owner._accessors = {*owner._accessors, "llm"}  # noqa: SLF001 - both libraries list accessors there (for dir())
