"""Rows as a function sees them: a mapping from column names to values, read column by column as it asks for them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from llmhub.core.errors import InvalidRequest, InvalidRequestError
from llmhub.tables import frames

T = TypeVar("T")


class MissingValueError(KeyError):
    """A row has no value in a column that a function reads: the row is skipped unless the function catches it."""


class UnknownColumnError(KeyError):
    """A function reads a column that is not there."""


class Columns:
    """The columns of a frame as Python values, each read once."""

    def __init__(self, frame: Any) -> None:
        self.frame = frames.arrow(frame)
        self.names = frames.names(self.frame)
        self._read: dict[str, list[Any]] = {}

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.frame)

    def column(self, name: str, argument: str = "prompt") -> list[Any]:
        """Give a column's values, ``None`` where one is missing.

        Raises
        ------
        InvalidRequestError
            It is no column, or two have its name; names the ``argument``.
        """
        found = self._read.get(name)
        if found is None:
            frames.expect_columns([name], self.frame, argument)
            found = self._read[name] = frames.column(self.frame, name)
        return found

    def __iter__(self) -> Iterator[Row]:
        """Give the rows."""
        return (Row(self, at) for at in range(len(self)))


class Row(Mapping[str, Any]):
    """One row: ``row["text"]``, or ``row.text``.

    Reading a value that is missing skips the row; ``row.get("text")`` gives ``None`` and ``row.get("text", "none")``
    another value in its place.

    Examples
    --------
    >>> import pyarrow as pa
    >>> first, second = Columns(pa.table({"x": [1, None], "y": ["a", "b"]}))
    >>> first["x"], first.y, second.get("x"), "x" in second, list(second)
    (1, 'a', None, True, ['x', 'y'])
    """

    __slots__ = ("_at", "_columns")

    def __init__(self, columns: Columns, at: int) -> None:
        self._columns = columns
        self._at = at

    def __getitem__(self, name: str) -> Any:
        """Give a value."""
        if name not in self._columns.names:
            near = difflib.get_close_matches(str(name), self._columns.names, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            there = ", ".join(map(repr, self._columns.names)) or "none"
            raise UnknownColumnError(f"{name!r} is no column of the frame.{hint} The columns are {there}")
        value = self._columns.column(name)[self._at]
        if value is None:
            raise MissingValueError(f"row {self._at} has no value in {name!r}")
        return value

    def __getattr__(self, name: str) -> Any:
        """Give a value by a column's name."""
        try:
            return self[name]
        except UnknownColumnError as unknown:
            raise AttributeError(unknown.args[0]) from None

    def __contains__(self, name: object) -> bool:
        """Say whether there is such a column."""
        return name in self._columns.names

    def __iter__(self) -> Iterator[str]:
        """Name the columns."""
        return iter(self._columns.names)

    def __len__(self) -> int:
        """Count the columns."""
        return len(self._columns.names)

    def __repr__(self) -> str:
        """Show the row."""
        shown = ", ".join(f"{name}={self.get(name)!r:.40}" for name in self._columns.names)
        return f"Row({self._at}: {shown})"


def mapped(function: Callable[[Row], T], columns: Columns, argument: str) -> list[T | None]:
    """Give what a function makes of every row; ``None`` where it read a missing value.

    Raises
    ------
    InvalidRequestError
        It read a column that is not there.
    Exception
        Whatever it raised, with a note that says in which row.
    """
    return [of_row(function, row, at, argument) for at, row in enumerate(columns)]


def of_row(function: Callable[[Row], T], row: Row, at: int, argument: str) -> T | None:
    """Call a function of one row (see `mapped`)."""
    try:
        return function(row)
    except MissingValueError:
        return None
    except UnknownColumnError as unknown:
        raise InvalidRequestError(InvalidRequest(path=argument, message=unknown.args[0])) from unknown
    except Exception as wrong:
        wrong.add_note(f"{argument}: raised for row {at}")
        raise
