"""Errors in the words of the command line: arguments instead of parameters, remedies that can be typed."""

from __future__ import annotations

import re
from typing import Final

from llmhub.cli.arguments import REQUEST_FLAGS, RUN_FLAGS
from llmhub.core.errors import ConnectorError

OPTIONS: Final = frozenset({"model", "prompt", "prefix", "cache", *REQUEST_FLAGS, *RUN_FLAGS})
"""Parameters that are options here."""


PATHS: Final = (("endpoints[", "--base-url"), ("limits[", "--rpm"))


HINTS: Final = (
    (r"set (.+?) in the environment, or give Hub\(endpoints=\{'[^']*': Endpoint\(api_key=\.\.\.\)\}\)", r"set \1"),
    (r"the simulator \(`llmhub sim`, `llmhub demo`\) needs none", "the simulator needs none (--simulator URL)"),
    (r"give Hub\(endpoints=\{'([^']*)': Endpoint\(base_url=\.\.\.\)\}\)", r"give --base-url \1=URL"),
    (r"give prefix='(\w+)'", r"give --prefix \1"),
    (r"\(cache=None\)", "(--no-cache)"),
    (r"say unsupported='drop'", "give --unsupported drop"),
    (r"give n=", "give --n"),
)
"""Remedies of the Python interface, and what they are here."""


def error_line(error: ConnectorError) -> str:
    """Say in a line what is wrong with which argument, and what helps.

    Examples
    --------
    >>> from llmhub.core.errors import Unsupported, to_exception
    >>> error_line(to_exception(Unsupported(path="$.top_k", provider="openai", message="it does not take top_k")))
    'top_k: openai: it does not take top_k'
    """
    value = error.error
    said = " ".join(value.message.split()) or type(value).__name__
    for pattern, words in HINTS:
        said = re.sub(pattern, words, said)
    path = value.path.removeprefix("$.")
    where = next((option for start, option in PATHS if path.startswith(start)), path)
    where = f"--{where.replace('_', '-')}" if where in OPTIONS else where
    who = "" if not value.provider or where == "--model" else f"{value.provider}: "
    return f"{where}: {who}{said}" if where else f"{who}{said}"
