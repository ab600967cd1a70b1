"""Import of libraries that come with an optional extra."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any

from llmhub.core.errors import invalid


def import_optional(module: str, extra: str) -> Any:
    """Import and return a module that comes with an extra.

    Raises
    ------
    BadRequestError
        The library is not installed; the message names the extra to install.

    Examples
    --------
    >>> import_optional("no_such_library", "evals")
    Traceback (most recent call last):
        ...
    llmhub.core.errors.BadRequestError: ...
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise _missing(module, extra) from error


def require_optional(module: str, extra: str) -> None:
    """Check that a top-level module of an extra is installed, without importing it.

    Raises
    ------
    BadRequestError
        The library is not installed; the message names the extra to install.

    Examples
    --------
    >>> require_optional("no_such_library", "evals")
    Traceback (most recent call last):
        ...
    llmhub.core.errors.BadRequestError: ...
    """
    if find_spec(module) is None:
        raise _missing(module, extra)


def _missing(module: str, extra: str) -> Exception:
    library = module.partition(".")[0]
    return invalid(library, f"{library} is not installed; install the extra {extra!r}: pip install 'llmhub[{extra}]'")
