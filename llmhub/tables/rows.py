"""Rows as mappings of column names to values, and cells that hold conversations.

Columns are converted to Python values once, on first use, so a function that reads one column of fifty pays for one.
Reading a missing value raises `MissingValueError`, which makes a row skipped instead of sending the text "None".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from returns.pipeline import is_successful

from llmhub.core.errors import InvalidRequest, invalid
from llmhub.core.messages import parse_message
from llmhub.core.types import Message
from llmhub.tables import frames

T = TypeVar("T")


class MissingValueError(KeyError):
    """Raised where a function reads a missing value; unless the function catches it, the row is skipped."""


class UnknownColumnError(KeyError):
    """Raised where a function reads a column that does not exist."""


class FrameColumns:
    """The columns of a frame as sequences of Python values, each converted once; strings when they are read."""

    def __init__(self, frame: Any) -> None:
        self.frame = frames.pandas_or_arrow(frame)
        self.names = frames.column_names(self.frame)
        self.positions = {name: index for index, name in enumerate(self.names)}
        self._values: dict[str, Sequence[Any]] = {}

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.frame)

    def column(self, name: str, argument: str = "prompt") -> Sequence[Any]:
        """Return a column's values, ``None`` where one is missing.

        Raises
        ------
        BadRequestError
            The column does not exist or occurs twice; the message names the ``argument``.
        """
        values = self._values.get(name)
        if values is None:
            # Names are looked up among all of them only for an error: a frame may have very many.
            index = self.positions.get(name)
            if index is None or len(self.positions) < len(self.names):
                frames.require_columns([name], self.frame, argument)
            index = self.positions[name]
            strings = frames.string_column(self.frame, index)
            values = self._values[name] = frames.values_at(self.frame, index) if strings is None else strings
        return values

    def __iter__(self) -> Iterator[Row]:
        """Iterate over the rows."""
        return (Row(self, index) for index in range(len(self)))


class Row(Mapping[str, Any]):
    """One row: ``row["text"]`` or ``row.text``.

    Reading a missing value skips the row; ``row.get("text")`` returns ``None`` instead, and ``row.get("text", "none")``
    the given default.

    Examples
    --------
    >>> import pyarrow as pa
    >>> first, second = FrameColumns(pa.table({"x": [1, None], "y": ["a", "b"]}))
    >>> first["x"], first.y, second.get("x"), "x" in second, list(second)
    (1, 'a', None, True, ['x', 'y'])
    """

    __slots__ = ("_columns", "_index")

    def __init__(self, columns: FrameColumns, index: int) -> None:
        self._columns = columns
        self._index = index

    def __getitem__(self, name: str) -> Any:
        """Return the value in a column."""
        if name not in self._columns.positions:
            raise UnknownColumnError(frames.missing_column_message(name, self._columns.names))
        value = self._columns.column(name)[self._index]
        if value is None:
            raise MissingValueError(f"row {self._index} has no value in {name!r}")
        return value

    def __getattr__(self, name: str) -> Any:
        """Return the value in a column, as an attribute."""
        try:
            return self[name]
        except UnknownColumnError as error:
            raise AttributeError(error.args[0]) from None

    def __contains__(self, name: object) -> bool:
        """Return whether the column exists, whatever its value."""
        return name in self._columns.positions

    def __iter__(self) -> Iterator[str]:
        """Iterate over the column names."""
        return iter(self._columns.names)

    def __len__(self) -> int:
        """Return the number of columns."""
        return len(self._columns.names)

    def __repr__(self) -> str:
        """Return the position and the values, each shortened."""
        values = ", ".join(f"{name}={self.get(name)!r:.40}" for name in self._columns.names)
        return f"Row({self._index}: {values})"


def map_over_rows(function: Callable[[Row], T], columns: FrameColumns, argument: str) -> list[T | None]:
    """Call a function with every row; ``None`` where it read a missing value.

    Raises
    ------
    BadRequestError
        The function read a column that does not exist.
    Exception
        Any exception of the function, with a note that names the row.
    """
    return [call_with_row(function, row, index, argument) for index, row in enumerate(columns)]


def call_with_row(function: Callable[[Row], T], row: Row, index: int, argument: str) -> T | None:
    """Call a function with one row (see `map_over_rows`)."""
    try:
        return function(row)
    except MissingValueError:
        return None
    except UnknownColumnError as error:
        raise invalid(argument, error.args[0]) from error
    except Exception as error:
        error.add_note(f"{argument}: raised for row {index}")
        raise


# Conversations


def is_list(value: Any) -> bool:
    """Return whether a value is a list of items; arrays of more than one dimension are pixels, not lists."""
    return isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) == 1


def is_conversation(value: Any) -> bool:
    """Return whether a cell is a conversation: a `Message`, or a list of messages or mappings with a role.

    Examples
    --------
    >>> is_conversation([{"role": "user", "content": "Hi"}]), is_conversation({"role": "user"})
    (True, False)
    >>> is_conversation(["Hi"]), is_conversation("Hi")
    (False, False)
    """
    if isinstance(value, Message):
        return True
    if not is_list(value) or not len(value):
        return False
    return all(isinstance(item, Message) or (isinstance(item, Mapping) and "role" in item) for item in value)


def parse_conversation(value: Any) -> tuple[Message, ...] | InvalidRequest:
    """Parse a cell that holds a message, a list of messages, or a chat log as JSON text.

    Examples
    --------
    >>> [message.role for message in parse_conversation('[{"role": "system", "content": "Be brief."}, "Hi"]')]
    ['system', 'user']
    >>> parse_conversation([{"role": "user"}]).message
    "message 0: a message with role 'user' has no content; pass a string, a Message, or a mapping ..."
    """
    if isinstance(value, str) and value.lstrip()[:1] in {"[", "{"} and '"role"' in value:
        with suppress(ValueError, RecursionError):  # not JSON after all: the text of a message
            value = json.loads(value)
    is_single = isinstance(value, (str, Message, Mapping)) or not hasattr(value, "__iter__")
    messages = []
    for index, item in enumerate([value] if is_single else value):
        parsed = parse_message(item)
        if not is_successful(parsed):
            return InvalidRequest(path="messages", message=f"message {index}: {parsed.failure().message}")
        messages.append(parsed.unwrap())
    return tuple(messages) if messages else InvalidRequest(path="messages", message="a conversation has no messages")
