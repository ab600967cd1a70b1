"""Rows as a function sees them: a mapping from column names to values, read column by column as it asks for them.

Cells that hold more than text: pictures (an address, bytes, a file, a PIL image), and ready conversations.
"""

from __future__ import annotations

import base64
import difflib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, Final, TypeVar

from returns.pipeline import is_successful

from llmhub.core.errors import BadRequestError, InvalidRequest
from llmhub.core.messages import parse_message
from llmhub.core.types import Image, Message
from llmhub.tables import frames

T = TypeVar("T")


class MissingValueError(KeyError):
    """A row has no value in a column that a function reads: the row is skipped unless the function catches it."""


class UnknownColumnError(KeyError):
    """A function reads a column that is not there."""


class FrameColumns:
    """The columns of a frame as Python values, each read once."""

    def __init__(self, frame: Any) -> None:
        self.frame = frames.pandas_or_arrow(frame)
        self.names = frames.pandas_or_arrow_names(self.frame)
        self._values: dict[str, list[Any]] = {}

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
        found = self._values.get(name)
        if found is None:
            frames.require_columns([name], self.frame, argument)
            found = self._values[name] = frames.column_values(self.frame, name)
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
    >>> first, second = FrameColumns(pa.table({"x": [1, None], "y": ["a", "b"]}))
    >>> first["x"], first.y, second.get("x"), "x" in second, list(second)
    (1, 'a', None, True, ['x', 'y'])
    """

    __slots__ = ("_columns", "_index")

    def __init__(self, columns: FrameColumns, at: int) -> None:
        self._columns = columns
        self._index = at

    def __getitem__(self, name: str) -> Any:
        """Give a value."""
        if name not in self._columns.names:
            near = difflib.get_close_matches(str(name), self._columns.names, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            there = ", ".join(map(repr, self._columns.names)) or "none"
            raise UnknownColumnError(f"{name!r} is no column of the frame.{hint} The columns are {there}")
        value = self._columns.column(name)[self._index]
        if value is None:
            raise MissingValueError(f"row {self._index} has no value in {name!r}")
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
        return f"Row({self._index}: {shown})"


def map_over_rows(function: Callable[[Row], T], columns: FrameColumns, argument: str) -> list[T | None]:
    """Give what a function makes of every row; ``None`` where it read a missing value.

    Raises
    ------
    InvalidRequestError
        It read a column that is not there.
    Exception
        Whatever it raised, with a note that says in which row.
    """
    return [call_with_row(function, row, at, argument) for at, row in enumerate(columns)]


def call_with_row(function: Callable[[Row], T], row: Row, index: int, argument: str) -> T | None:
    """Call a function of one row (see `map_over_rows`)."""
    try:
        return function(row)
    except MissingValueError:
        return None
    except UnknownColumnError as unknown:
        raise BadRequestError(InvalidRequest(path=argument, message=unknown.args[0])) from unknown
    except Exception as wrong:
        wrong.add_note(f"{argument}: raised for row {index}")
        raise


MAX_IMAGE_BYTES: Final = 64 << 20
"""Bytes beyond which a file is no picture that any provider takes."""


IMAGE_URL_SCHEMES: Final = ("https://", "http://", "data:", "gs://", "s3://")


WEBP_HEADER_BYTES: Final = 12
"""Bytes that tell a WebP picture from other RIFF files."""


IMAGE_SIGNATURES: Final[tuple[tuple[bytes, str], ...]] = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)
"""What pictures begin with (https://mimesniff.spec.whatwg.org, read 2026-11-27)."""


ACCEPTED_IMAGES: Final = (
    "give an https: or data: URL, a path, the bytes of a PNG, JPEG, GIF or WebP file, or a PIL image"
)


def image_media_type(content: bytes) -> str:
    r"""Say what kind of picture some bytes are; empty where it is none that models take.

    Examples
    --------
    >>> image_media_type(b"\x89PNG\r\n\x1a\n..."), image_media_type(b"RIFF\0\0\0\0WEBPVP8 "), image_media_type(b"%PDF-1.7")
    ('image/png', 'image/webp', '')
    """
    if content[:4] == b"RIFF" and content[8:WEBP_HEADER_BYTES] == b"WEBP":
        return "image/webp"
    return next((kind for sign, kind in IMAGE_SIGNATURES if content.startswith(sign)), "")


def parse_images(value: Any) -> tuple[Image, ...] | InvalidRequest:
    """Read a cell: a picture, or several in a list; a file is read here and now.

    Examples
    --------
    >>> parse_images("https://example.org/a.png")
    (Image(url='https://example.org/a.png', data='', media_type='', detail=''),)
    >>> parse_images("nowhere.png").message
    "'nowhere.png' cannot be read: No such file or directory"
    """
    if isinstance(value, (str, bytes, bytearray, memoryview, os.PathLike, Image, Mapping)) or not _is_list(value):
        one = _parse_image(value)
        return (one,) if isinstance(one, Image) else one
    found = [_parse_image(each) for each in value if each is not None]
    wrong = next((each for each in found if isinstance(each, InvalidRequest)), None)
    return wrong or tuple(each for each in found if isinstance(each, Image))


def _is_list(value: Any) -> bool:
    """Say whether a value is a list of pictures; an array of more than one dimension is no list, but pixels."""
    return isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) == 1


def _parse_image(value: Any) -> Image | InvalidRequest:
    if isinstance(value, Mapping):  # as data sets keep them: a struct of bytes and path
        held = value.get("bytes") or value.get("path") or value.get("url")
        return (
            _parse_image(held)
            if held and not isinstance(held, Mapping)
            else _invalid_image("a mapping without bytes or path")
        )
    read = next((read for kind, read in IMAGE_READERS if isinstance(value, kind)), None)
    if read is None and type(value).__module__.partition(".")[0] == "PIL" and hasattr(value, "save"):
        read = _image_from_pil
    return _invalid_image(f"{type(value).__name__} is no picture") if read is None else read(value)


def _image_from_text(value: str) -> Image | InvalidRequest:
    return Image(url=value) if value.lower().startswith(IMAGE_URL_SCHEMES) else _image_from_file(value)


def _image_from_bytes(content: bytes, name: str = "the bytes") -> Image | InvalidRequest:
    kind = image_media_type(content)
    if not kind:
        return _invalid_image(f"{name} ({len(content):,} bytes) are no picture that models take")
    return Image(data=base64.b64encode(content).decode(), media_type=kind)


def _image_from_file(name: str | os.PathLike[str]) -> Image | InvalidRequest:
    path = name if isinstance(name, Path) else Path(name)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_IMAGE_BYTES + 1)
    except (OSError, ValueError) as error:
        return _invalid_image(
            f"{str(path)!r:.200} cannot be read: {getattr(error, 'strerror', None) or error}", remedy=False
        )
    if len(content) > MAX_IMAGE_BYTES:
        return _invalid_image(f"{str(path)!r} is larger than {MAX_IMAGE_BYTES >> 20} MiB", remedy=False)
    return _image_from_bytes(content, f"the contents of {str(path)!r}")


def _image_from_pil(picture: Any) -> Image | InvalidRequest:
    """Write a PIL image as PNG, which loses nothing."""
    held = BytesIO()
    plain = picture if picture.mode in {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"} else picture.convert("RGB")
    try:
        plain.save(held, format="PNG")
    except (OSError, ValueError) as error:
        return _invalid_image(f"a PIL image cannot be written: {error}", remedy=False)
    return Image(data=base64.b64encode(held.getvalue()).decode(), media_type="image/png")


IMAGE_READERS: Final[tuple[tuple[type | tuple[type, ...], Callable[[Any], Image | InvalidRequest]], ...]] = (
    (Image, lambda value: value),
    (str, _image_from_text),
    (os.PathLike, _image_from_file),
    ((bytes, bytearray, memoryview), lambda value: _image_from_bytes(bytes(value))),
)
"""How a value is read that is one picture."""


def _invalid_image(said: str, *, remedy: bool = True) -> InvalidRequest:
    return InvalidRequest(path="images", message=f"{said}; {ACCEPTED_IMAGES}" if remedy else said)


def is_conversation(value: Any) -> bool:
    """Say whether a cell is a conversation: turns in a list, each a `Message` or a mapping with a role.

    Examples
    --------
    >>> is_conversation([{"role": "user", "content": "Hi"}]), is_conversation({"role": "user"}), is_conversation(["Hi"]), is_conversation("Hi")
    (True, False, False, False)
    """
    if isinstance(value, Message):
        return True
    if not _is_list(value) or not len(value):
        return False
    return all(isinstance(turn, Message) or (isinstance(turn, Mapping) and "role" in turn) for turn in value)


def parse_conversation(value: Any) -> tuple[Message, ...] | InvalidRequest:
    """Read a cell that holds a conversation: a turn, several, or a chat log as JSON text.

    Examples
    --------
    >>> [turn.role for turn in parse_conversation('[{"role": "system", "content": "Be brief."}, "Hi"]')]
    ['system', 'user']
    >>> parse_conversation([{"role": "user"}]).message
    "message 0: a message with role 'user' has no content; pass a string, a Message, or a mapping ..."
    """
    if isinstance(value, str) and value.lstrip()[:1] in {"[", "{"} and '"role"' in value:
        with suppress(ValueError, RecursionError):  # a text that looks like a log is still a text
            value = json.loads(value)
    alone = isinstance(value, (str, Message, Mapping)) or not hasattr(value, "__iter__")
    messages = []
    for index, item in enumerate([value] if alone else value):
        parsed = parse_message(item)
        if not is_successful(parsed):
            return InvalidRequest(path="messages", message=f"message {index}: {parsed.failure().message}")
        messages.append(parsed.unwrap())
    return tuple(messages) if messages else InvalidRequest(path="messages", message="a conversation has no messages")
