"""Import of libraries that come with an optional extra."""

from __future__ import annotations

import importlib
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
        library = module.partition(".")[0]
        message = f"{library} is not installed; install the extra {extra!r}: pip install 'llmhub[{extra}]'"
        raise invalid(library, message) from error
