"""Errors as the command line words them: options instead of arguments, and remedies that can be typed."""

from __future__ import annotations

from typing import Final

from llmhub.cli.arguments import REQUEST_FLAGS, RUN_FLAGS
from llmhub.core.errors import ConnectorError, Hint

OPTIONS: Final = frozenset({"model", "prompt", "prefix", "cache", *REQUEST_FLAGS, *RUN_FLAGS})
"""Arguments of the Python interface that are options of the command line."""
OPTION_BY_PATH: Final = (("endpoints[", "--base-url"), ("limits[", "--rpm"))
"""Beginnings of error paths, and the options that set what they name."""


def error_line(error: ConnectorError) -> str:
    """Return one line with the option that is wrong, the reason and the remedy.

    Examples
    --------
    >>> from llmhub.core.errors import DROP_HINT, Unsupported, to_exception
    >>> value = Unsupported(path="$.top_k", provider="openai", message="it does not take top_k", hint=DROP_HINT)
    >>> error_line(to_exception(value))
    'top_k: openai: it does not take top_k; pass --unsupported drop to omit it'
    """
    value = error.error
    message = " ".join(value.message.split()) or type(value).__name__
    remedy = "" if value.hint is None else f"; {hint_text(value.hint)}"
    path = value.path.removeprefix("$.")
    name = next((option for start, option in OPTION_BY_PATH if path.startswith(start)), path)
    name = _flag(name) if name in OPTIONS else name
    provider = "" if not value.provider or name == "--model" else f"{value.provider}: "
    return f"{f'{name}: ' if name else ''}{provider}{message}{remedy}"


def hint_text(hint: Hint) -> str:
    """Return the remedy in terms of environment variables and options.

    Examples
    --------
    >>> hint_text(Hint("api_key", provider="openai", environment=(("OPENAI_API_KEY",),)))
    'set OPENAI_API_KEY, or pass --simulator URL'
    >>> hint_text(Hint("base_url", provider="ollama")), hint_text(Hint("cache", None))
    ('pass --base-url ollama=URL', 'pass --no-cache')
    """
    if hint.environment:
        return f"set {hint.variables}, or pass --simulator URL"
    if hint.provider:
        option = f"{_flag(hint.argument)} {hint.provider}=URL"
    elif hint.value is None:
        option = f"--no-{hint.argument}"
    else:
        option = _flag(hint.argument) if hint.value is ... else f"{_flag(hint.argument)} {hint.value}"
    return f"pass {option}{f' to {hint.purpose}' if hint.purpose else ''}"


def _flag(argument: str) -> str:
    return f"--{argument.replace('_', '-')}"
