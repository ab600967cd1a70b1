"""Images in cells: URLs, bytes, PIL images, and local files as far as a hub permits them.

Data may come from anybody, so a path in it is not trusted. Only regular files are opened, never a pipe or a device. A
file system that does not respond costs `FILE_TIMEOUT_S` once and not the run. `Hub(local_files=...)` restricts paths to
a folder, or refuses them.
"""

from __future__ import annotations

import base64
import os
import stat
import threading
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, Final, TypeAlias

from llmhub.core.errors import InvalidRequest
from llmhub.core.types import Image
from llmhub.tables.rows import is_list

LocalFiles: TypeAlias = bool | str | os.PathLike[str]
"""Whether paths are read (``True``, ``False``), or the folder in which they are."""
FILE_TIMEOUT_S: Final = 10.0
"""Longest wait for one file; others in its folder are then refused at once."""
MAX_IMAGE_BYTES: Final = 64 << 20
"""Larger files are rejected unread: no provider accepts an image of this size."""
IMAGE_URL_SCHEMES: Final = ("https://", "http://", "data:", "gs://", "s3://")
WEBP_HEADER_BYTES: Final = 12
"""Length of the header that distinguishes WebP from other RIFF files."""
IMAGE_SIGNATURES: Final[tuple[tuple[bytes, str], ...]] = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)
"""First bytes of image files and their media types (https://mimesniff.spec.whatwg.org, read 2026-11-27)."""
ACCEPTED_IMAGES: Final = (
    "pass an https: or data: URL, a path, the bytes of a PNG, JPEG, GIF or WebP file, or a PIL image"
)
OPEN_FLAGS: Final = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def image_media_type(content: bytes) -> str:
    r"""Return the media type of image bytes; empty unless they are PNG, JPEG, GIF or WebP.

    Examples
    --------
    >>> image_media_type(b"\x89PNG\r\n\x1a\n..."), image_media_type(b"RIFF\0\0\0\0WEBPVP8 ")
    ('image/png', 'image/webp')
    >>> image_media_type(b"%PDF-1.7")
    ''
    """
    if content[:4] == b"RIFF" and content[8:WEBP_HEADER_BYTES] == b"WEBP":
        return "image/webp"
    return next((media_type for signature, media_type in IMAGE_SIGNATURES if content.startswith(signature)), "")


def parse_images(value: Any, local_files: LocalFiles = True) -> tuple[Image, ...] | InvalidRequest:
    """Parse a value that holds an image or a list of images (see `ImageParser`).

    Examples
    --------
    >>> parse_images("https://example.org/a.png")
    (Image(url='https://example.org/a.png', data='', media_type='', detail=''),)
    >>> parse_images("nowhere.png").message
    "'nowhere.png' cannot be read: No such file or directory"
    >>> parse_images("nowhere.png", local_files=False).message
    'paths of local files are not read (Hub(local_files=False)); pass URLs or the bytes of the images'
    """
    return ImageParser(local_files).parse(value)


class ImageParser:
    """Parses cells that hold an image or a list of images; files are read when they are parsed.

    Parameters
    ----------
    local_files
        ``True`` to read any file, ``False`` to refuse paths, or the folder in which files may be read. Relative paths
        then begin in that folder, and whether a file outside of it exists is not told.
    """

    def __init__(self, local_files: LocalFiles = True) -> None:
        self._local_files = local_files
        self._silent_folders: set[Path] = set()

    def parse(self, value: Any) -> tuple[Image, ...] | InvalidRequest:
        """Return the images of a cell, or the error of the first one that is invalid."""
        single_types = (str, bytes, bytearray, memoryview, os.PathLike, Image, Mapping)
        if isinstance(value, single_types) or not is_list(value):
            image = self._parse_one(value)
            return (image,) if isinstance(image, Image) else image
        parsed = [self._parse_one(item) for item in value if item is not None]
        error = next((item for item in parsed if isinstance(item, InvalidRequest)), None)
        return error or tuple(item for item in parsed if isinstance(item, Image))

    def _parse_one(self, value: Any) -> Image | InvalidRequest:  # noqa: PLR0911 - one for each form
        if isinstance(value, Mapping):  # the image type of Hugging Face datasets: a struct of bytes and path
            content = value.get("bytes") or value.get("path") or value.get("url")
            if content and not isinstance(content, Mapping):
                return self._parse_one(content)
            return _invalid_image("a mapping without bytes, path or url")
        if isinstance(value, Image):
            return value
        if isinstance(value, str):
            return Image(url=value) if value.lower().startswith(IMAGE_URL_SCHEMES) else self._read_file(value)
        if isinstance(value, os.PathLike):
            return self._read_file(value)
        if isinstance(value, (bytes, bytearray, memoryview)):
            return _image_from_bytes(bytes(value))
        if type(value).__module__.partition(".")[0] == "PIL" and hasattr(value, "save"):
            return _image_from_pil(value)  # recognized without importing PIL
        return _invalid_image(f"{type(value).__name__} is not an image")

    def _read_file(self, name: str | os.PathLike[str]) -> Image | InvalidRequest:
        if self._local_files is False:
            message = "paths of local files are not read (Hub(local_files=False)); pass URLs or the bytes of the images"
            return _invalid_image(message, remedy=False)
        root = None if self._local_files is True else Path(self._local_files)
        path = Path(name) if root is None else Path(os.path.normpath(root / name))
        if root is not None and not path.is_relative_to(os.path.normpath(root)):
            return _outside(root)
        is_silent = path.parent in self._silent_folders
        content = None if is_silent else _read_within(FILE_TIMEOUT_S, path, root)
        if content is None:
            self._silent_folders.add(path.parent)
            message = f"{str(path)!r:.200} cannot be read: its file system does not respond"
            content = _invalid_image(message, remedy=False)
        if isinstance(content, InvalidRequest):
            return content
        if len(content) > MAX_IMAGE_BYTES:
            return _invalid_image(f"{str(path)!r} is larger than {MAX_IMAGE_BYTES >> 20} MiB", remedy=False)
        return _image_from_bytes(content, f"the contents of {str(path)!r}")


def _read_within(timeout_s: float, path: Path, root: Path | None) -> bytes | InvalidRequest | None:
    """Return the content of a file, read in a thread that is left behind if it takes longer: then ``None``."""
    results: list[bytes | InvalidRequest] = []
    thread = threading.Thread(target=lambda: results.append(_read(path, root)), name="llmhub-image", daemon=True)
    thread.start()
    thread.join(timeout_s)
    return results[0] if results else None


def _read(path: Path, root: Path | None) -> bytes | InvalidRequest:
    """Return the content of a regular file, one byte more than `MAX_IMAGE_BYTES` at most."""
    try:
        if root is not None:
            path = path.resolve()
            if not path.is_relative_to(root.resolve()):
                return _outside(root)  # by a symbolic link
        # Opening a device may have effects of its own, so that it is not opened to find out.
        if not stat.S_ISREG(path.stat().st_mode):
            return _invalid_image(f"{str(path)!r:.200} is not a regular file", remedy=False)
        with open(os.open(path, OPEN_FLAGS), "rb") as file:  # noqa: PTH123 - does not block if it is a pipe by now
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return _invalid_image(f"{str(path)!r:.200} is not a regular file", remedy=False)
            return file.read(MAX_IMAGE_BYTES + 1)
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        return _invalid_image(f"{str(path)!r:.200} cannot be read: {reason}", remedy=False)


def _image_from_bytes(content: bytes, name: str = "the bytes") -> Image | InvalidRequest:
    media_type = image_media_type(content)
    if not media_type:
        return _invalid_image(f"{name} ({len(content):,} bytes) are not an image of a supported format")
    return Image(data=base64.b64encode(content).decode(), media_type=media_type)


def _image_from_pil(picture: Any) -> Image | InvalidRequest:
    """Encode a PIL image as PNG, which is lossless."""
    buffer = BytesIO()
    encodable = picture if picture.mode in {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"} else picture.convert("RGB")
    try:
        encodable.save(buffer, format="PNG")
    except (OSError, ValueError) as error:
        return _invalid_image(f"a PIL image cannot be encoded as PNG: {error}", remedy=False)
    return Image(data=base64.b64encode(buffer.getvalue()).decode(), media_type="image/png")


def _outside(root: Path) -> InvalidRequest:
    """Return the same error for every path outside of the folder, whether or not there is a file."""
    return _invalid_image(f"the path is not in the folder {str(root)!r} of Hub(local_files=...)", remedy=False)


def _invalid_image(message: str, *, remedy: bool = True) -> InvalidRequest:
    return InvalidRequest(path="images", message=f"{message}; {ACCEPTED_IMAGES}" if remedy else message)
