"""Cells that hold more than text: pictures (an address, bytes, a file, a PIL image), and ready conversations."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, Final

from llmhub.core.errors import InvalidRequest
from llmhub.core.turns import turn_of
from llmhub.core.types import Image, Message

LARGEST: Final = 64 << 20
"""Bytes beyond which a file is no picture that any provider takes."""
ADDRESSES: Final = ("https://", "http://", "data:", "gs://", "s3://")
RIFF: Final = 12
"""Bytes that tell a WebP picture from other RIFF files."""
SIGNS: Final[tuple[tuple[bytes, str], ...]] = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)
"""What pictures begin with (https://mimesniff.spec.whatwg.org, read 2026-11-27)."""
KINDS: Final = "give an https: or data: URL, a path, the bytes of a PNG, JPEG, GIF or WebP file, or a PIL image"


def media_type(content: bytes) -> str:
    r"""Say what kind of picture some bytes are; empty where it is none that models take.

    Examples
    --------
    >>> media_type(b"\x89PNG\r\n\x1a\n..."), media_type(b"RIFF\0\0\0\0WEBPVP8 "), media_type(b"%PDF-1.7")
    ('image/png', 'image/webp', '')
    """
    if content[:4] == b"RIFF" and content[8:RIFF] == b"WEBP":
        return "image/webp"
    return next((kind for sign, kind in SIGNS if content.startswith(sign)), "")


def pictures_of(value: Any) -> tuple[Image, ...] | InvalidRequest:
    """Read a cell: a picture, or several in a list; a file is read here and now.

    Examples
    --------
    >>> pictures_of("https://example.org/a.png")
    (Image(url='https://example.org/a.png', data='', media_type='', detail=''),)
    >>> pictures_of("nowhere.png").message
    "'nowhere.png' cannot be read: No such file or directory"
    """
    if isinstance(value, (str, bytes, bytearray, memoryview, os.PathLike, Image, Mapping)) or not _several(value):
        one = _picture(value)
        return (one,) if isinstance(one, Image) else one
    found = [_picture(each) for each in value if each is not None]
    wrong = next((each for each in found if isinstance(each, InvalidRequest)), None)
    return wrong or tuple(each for each in found if isinstance(each, Image))


def _several(value: Any) -> bool:
    """Say whether a value is a list of pictures; an array of more than one dimension is no list, but pixels."""
    return isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) == 1


def _picture(value: Any) -> Image | InvalidRequest:
    if isinstance(value, Mapping):  # as data sets keep them: a struct of bytes and path
        held = value.get("bytes") or value.get("path") or value.get("url")
        return _picture(held) if held and not isinstance(held, Mapping) else _wrong("a mapping without bytes or path")
    read = next((read for kind, read in READERS if isinstance(value, kind)), None)
    if read is None and type(value).__module__.partition(".")[0] == "PIL" and hasattr(value, "save"):
        read = _of_pil
    return _wrong(f"{type(value).__name__} is no picture") if read is None else read(value)


def _of_text(value: str) -> Image | InvalidRequest:
    return Image(url=value) if value.lower().startswith(ADDRESSES) else _of_file(value)


def _of_bytes(content: bytes, name: str = "the bytes") -> Image | InvalidRequest:
    kind = media_type(content)
    if not kind:
        return _wrong(f"{name} ({len(content):,} bytes) are no picture that models take")
    return Image(data=base64.b64encode(content).decode(), media_type=kind)


def _of_file(name: str | os.PathLike[str]) -> Image | InvalidRequest:
    path = name if isinstance(name, Path) else Path(name)
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        return _wrong(f"{str(path)!r:.200} cannot be read: {getattr(error, 'strerror', None) or error}", remedy=False)
    if len(content) > LARGEST:
        return _wrong(f"{str(path)!r} is larger than {LARGEST >> 20} MiB", remedy=False)
    return _of_bytes(content, f"the contents of {str(path)!r}")


def _of_pil(picture: Any) -> Image | InvalidRequest:
    """Write a PIL image as PNG, which loses nothing."""
    held = BytesIO()
    plain = picture if picture.mode in {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"} else picture.convert("RGB")
    try:
        plain.save(held, format="PNG")
    except (OSError, ValueError) as error:
        return _wrong(f"a PIL image cannot be written: {error}", remedy=False)
    return Image(data=base64.b64encode(held.getvalue()).decode(), media_type="image/png")


READERS: Final[tuple[tuple[type | tuple[type, ...], Callable[[Any], Image | InvalidRequest]], ...]] = (
    (Image, lambda value: value),
    (str, _of_text),
    (os.PathLike, _of_file),
    ((bytes, bytearray, memoryview), lambda value: _of_bytes(bytes(value))),
)
"""How a value is read that is one picture."""


def _wrong(said: str, *, remedy: bool = True) -> InvalidRequest:
    return InvalidRequest(path="images", message=f"{said}; {KINDS}" if remedy else said)


def is_log(value: Any) -> bool:
    """Say whether a cell is a conversation: turns in a list, each a `Message` or a mapping with a role.

    Examples
    --------
    >>> is_log([{"role": "user", "content": "Hi"}]), is_log({"role": "user"}), is_log(["Hi"]), is_log("Hi")
    (True, False, False, False)
    """
    if isinstance(value, Message):
        return True
    if not _several(value) or not len(value):
        return False
    return all(isinstance(turn, Message) or (isinstance(turn, Mapping) and "role" in turn) for turn in value)


def turns_of(value: Any) -> tuple[Message, ...] | InvalidRequest:
    """Read a cell that holds a conversation: a turn, several, or a chat log as JSON text.

    Examples
    --------
    >>> [turn.role for turn in turns_of('[{"role": "system", "content": "Be brief."}, "Hi"]')]
    ['system', 'user']
    >>> turns_of([{"role": "user"}]).message
    "turn 0: a turn of 'user' without content; give a string, a Message, or a mapping ..."
    """
    if isinstance(value, str) and value.lstrip()[:1] in {"[", "{"} and '"role"' in value:
        with suppress(ValueError, RecursionError):  # a text that looks like a log is still a text
            value = json.loads(value)
    alone = isinstance(value, (str, Message, Mapping)) or not hasattr(value, "__iter__")
    turns = [turn_of(turn) for turn in ([value] if alone else value)]
    wrong = next((f"turn {at}: {turn}" for at, turn in enumerate(turns) if isinstance(turn, str)), "")
    if wrong or not turns:
        return InvalidRequest(path="messages", message=wrong or "a conversation without turns")
    return tuple(turn for turn in turns if isinstance(turn, Message))
