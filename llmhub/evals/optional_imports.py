"""Libraries that not everybody needs, and what is said where one is absent."""

from __future__ import annotations

import importlib
from typing import Any

from llmhub.core.errors import BadRequestError, InvalidRequest


def import_optional(module: str, extra: str) -> Any:
    """Import a library of an extra.

    Raises
    ------
    InvalidRequestError
        It is not installed; names the extra.

    Examples
    --------
    >>> import_optional("nothing_like_it", "evals")
    Traceback (most recent call last):
        ...
    llmhub.core.errors.BadRequestError: ...
    """
    try:
        return importlib.import_module(module)
    except ImportError as absent:
        root = module.partition(".")[0]
        said = f"{root} is not installed; it comes with the extra {extra!r}: pip install 'llmhub[{extra}]'"
        raise BadRequestError(InvalidRequest(path=root, message=said)) from absent
