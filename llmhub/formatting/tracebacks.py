"""Short tracebacks: the lines of the user's own code and the message, without the frames of libraries."""

from __future__ import annotations

import linecache
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

PACKAGE_FOLDER: Final = str(Path(__file__).parents[1])
LIBRARY_FOLDERS: Final = ("site-packages", "dist-packages", "<frozen", "/lib/python3.", "\\lib\\")
MAX_USER_FRAMES: Final = 4


def is_user_file(name: str) -> bool:
    """Return whether a file is the user's own: neither llmhub's, nor an installed library's or Python's.

    Examples
    --------
    >>> is_user_file("analysis.py"), is_user_file("/usr/lib/python3.12/runpy.py"), is_user_file(__file__)
    (True, False, False)
    """
    return not name.startswith(PACKAGE_FOLDER) and not any(folder in name for folder in LIBRARY_FOLDERS)


def user_traceback(error: BaseException) -> list[str]:
    """Return the lines of an exception for a notebook: where the user's code called, and the message with its notes."""
    return [*user_lines(error.__traceback__), *message_lines(error)]


def message_lines(error: BaseException) -> list[str]:
    """Return the name and message of an exception, and its notes."""
    notes: Sequence[str] = getattr(error, "__notes__", ())
    return [f"{type(error).__name__}: {error}", *notes]


def user_lines(traceback: TracebackType | None) -> list[str]:
    """Return place and source of the user's innermost frames, outermost first."""
    places: list[tuple[str, int, str]] = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if is_user_file(code.co_filename):
            places.append((code.co_filename, traceback.tb_lineno, code.co_name))
        traceback = traceback.tb_next
    lines = []
    for file, line, function in places[-MAX_USER_FRAMES:]:
        source = linecache.getline(file, line).strip()
        inside = "" if function == "<module>" else f", in {function}"
        lines += [f"{_place(file)}, line {line}{inside}", f"    {source}", ""]
    return lines


def _place(file: str) -> str:
    """Return a file's name; a cell of a notebook is called so."""
    is_cell = "ipykernel_" in file or file.startswith("<ipython-input")
    return "In this notebook" if is_cell else f"File {file}"
