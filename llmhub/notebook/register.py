"""Puts ``.llm`` on pandas. It runs right after pandas is imported, so it loads nothing else until it is used."""

from __future__ import annotations

import sys
from typing import Any

import pandas as pd


class _Deferred:
    """A property that makes the accessor anew at each access, and loads it at the first."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type) -> Any:
        """Give the accessor of a frame, or its class."""
        from llmhub.notebook import accessor  # noqa: PLC0415 - loads Arrow and the engine

        made = getattr(accessor, self._name)
        return made if instance is None else made(instance)


def register(pandas: Any) -> None:
    """Put the accessors on DataFrame and Series, in place of any earlier ones of llmhub's."""
    for owner, name in ((pandas.DataFrame, "FrameAccessor"), (pandas.Series, "SeriesAccessor")):
        owner.llm = _Deferred(name)
        owner._accessors = {*owner._accessors, "llm"}  # noqa: SLF001 - how pandas lists accessors in dir()


register(sys.modules.get("pandas", pd))
