"""Puts ``.llm`` on pandas and polars. It runs right after they are imported, so it loads nothing else until used."""

from __future__ import annotations

from typing import Any


class _Deferred:
    """A property that makes the accessor anew at each access, and loads it at the first."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type) -> Any:
        """Give the accessor of a frame, or its class."""
        from llmhub.notebook import accessor  # noqa: PLC0415 - loads Arrow and the engine

        made = getattr(accessor, self._name)
        return made if instance is None else made(instance)


def register(library: Any) -> None:
    """Put the accessors on the library's DataFrame and Series, in place of any earlier ones of llmhub's.

    Both libraries note the names of their accessors in the same way.
    """
    for owner, name in ((library.DataFrame, "FrameAccessor"), (library.Series, "SeriesAccessor")):
        owner.llm = _Deferred(name)
        owner._accessors = {*owner._accessors, "llm"}  # noqa: SLF001 - how both list accessors, pandas in dir()
