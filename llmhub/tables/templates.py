"""Prompt templates with ``{column}`` placeholders, parsed once and rendered row by row.

Templates without format specifications are compiled to a ``%`` format, which renders faster than `str.format`.
Braces in values are never interpreted, and attribute or index access (``{row.text}``, ``{0}``) is not supported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from string import Formatter
from typing import Any, Final, Generic, TypeVar

from llmhub.core.errors import invalid
from llmhub.core.validation import exceeds

S_co = TypeVar("S_co", covariant=True)

CONVERSIONS: Final[Mapping[str, Callable[[Any], str]]] = {"s": str, "r": repr, "a": ascii}
SERIES_FIELD: Final = "value"
"""Name of the single column of a series."""
MAX_FORMATTED_LENGTH: Final = 1_000_000
"""Largest width, and largest precision of a number, that a format specification may have."""
FORMAT_SPEC: Final = re.compile(
    r"(?:.?[<>=^])?[-+ ]?z?#?(?P<width>\d*)[,_]?(?:\.(?P<precision>\d+)[,_]?)?(?P<type>\w|%)?"
)
"""The standard format specification; types such as dates have their own. A leading zero is part of the width."""


@dataclass(frozen=True, slots=True)
class Template(Generic[S_co]):
    """A function of some columns' values.

    Parameters
    ----------
    fields
        Names of the columns it uses, each once.
    render
        Function of a tuple of their values, in that order.
    has_format_specs
        Whether rendering may raise for values that a format specification does not accept.
    """

    fields: tuple[str, ...]
    render: Callable[[tuple[Any, ...]], S_co]
    has_format_specs: bool = False


def parse_template(template: Any, argument: str = "prompt") -> Template[str]:
    """Parse a template such as ``"Summarise: {text}"``; ``{{`` and ``}}`` are braces, ``{x:.2f}`` and ``{x!r}`` format.

    Raises
    ------
    BadRequestError
        Unbalanced braces, or a placeholder that is not a column name; the message names the ``argument``.

    Examples
    --------
    >>> parse_template("{a} and {b} in {{}}").render((1, "x"))
    '1 and x in {}'
    """
    if not isinstance(template, str):
        message = f"{type(template).__name__} is not a template; pass a string such as 'Summarise: {{text}}'"
        raise invalid(argument, message)
    try:
        pieces = list(Formatter().parse(template))
    except ValueError as error:
        raise invalid(argument, f"{template!r}: {error}; double the braces of text: {{{{ and }}}}") from None
    fields = tuple(dict.fromkeys(name for _, name, _, _ in pieces if name is not None))
    for name in fields:
        if looks_like_json(name):
            text = f"{{{name}: ...}} looks like JSON and not like a column; double the braces of text: {{{{ and }}}}"
            raise invalid(argument, text)
        if not name or name.isdigit():
            raise invalid(argument, f"{template!r}: {{{name}}} is not a column name; write {{column}}")
    for _, field_name, spec, conversion in pieces:
        _check_format(template, field_name, spec, conversion, argument)
    if any(spec or conversion for _, _, spec, conversion in pieces):
        return Template(fields, partial(_render_formatted, tuple(pieces), fields, argument), has_format_specs=True)
    percent_format = "".join(text.replace("%", "%%") + ("" if name is None else "%s") for text, name, _, _ in pieces)
    index_of = {name: index for index, name in enumerate(fields)}
    order = [index_of[name] for _, name, _, _ in pieces if name is not None]
    if order == list(range(len(fields))):
        return Template(fields, percent_format.__mod__)
    return Template(fields, lambda values: percent_format % tuple(values[index] for index in order))


def _check_format(template: str, name: str | None, spec: str | None, conversion: str | None, argument: str) -> None:
    """Raise for an unknown conversion, and for a format specification that makes a text of any length of each value."""
    if conversion and conversion not in CONVERSIONS:
        raise invalid(argument, f"{template!r}: {{{name}!{conversion}}} has an unknown conversion; use !s, !r or !a")
    if not spec:
        return
    source = f"{{{name}{f'!{conversion}' if conversion else ''}:{spec:.40}}}"
    if "{" in spec:
        raise invalid(argument, f"{source} has a placeholder in its format; write the number itself, as in {{x:>8.2f}}")
    matched = FORMAT_SPEC.fullmatch(spec)
    if matched is None:
        return
    lengths = [matched["width"]]
    if matched["type"] not in {None, "s"}:  # those cut a text off
        lengths.append(matched["precision"])
    if any(exceeds(digits or "", MAX_FORMATTED_LENGTH) for digits in lengths):
        limit = f"{MAX_FORMATTED_LENGTH:,}"
        raise invalid(argument, f"{source} formats a value to more than {limit} characters; write a smaller number")


def looks_like_json(field: str) -> bool:
    """Return whether a placeholder is the beginning of a JSON object or another literal that was meant as text.

    Examples
    --------
    >>> looks_like_json('"name"'), looks_like_json("my column")
    (True, False)
    """
    return bool(field) and (field.lstrip()[:1] in {'"', "'", "{", "["} or "\n" in field)


def _render_formatted(
    pieces: Sequence[tuple[str, str | None, str | None, str | None]],
    fields: tuple[str, ...],
    argument: str,
    values: tuple[Any, ...],
) -> str:
    """Render a template with format specifications."""
    rendered: list[str] = []
    value_of = dict(zip(fields, values, strict=True))
    for text, name, spec, conversion in pieces:
        rendered.append(text)
        if name is not None:
            value = value_of[name]
            try:
                rendered.append(format(CONVERSIONS[conversion](value) if conversion else value, spec or ""))
            except Exception as error:  # noqa: BLE001 - the formatting of a value's own type may raise anything
                reason = str(error) or type(error).__name__
                message = f"{{{name}:{spec}}} cannot format {value!r} of type {type(value).__name__}: {reason}"
                raise invalid(argument, message) from None
    return "".join(rendered)


def parse_series_template(prompt: Any) -> Template[str]:
    r"""Parse the prompt of a series: values replace ``{}``, or follow the prompt if it has no ``{}``.

    Without ``{}``, all other braces are literal text.

    Raises
    ------
    BadRequestError
        The prompt has a placeholder other than ``{}``.

    Examples
    --------
    >>> parse_series_template("Repeat {} twice.").render(("hi",)), parse_series_template("Repeat.").render(("hi",))
    ('Repeat hi twice.', 'Repeat.\n\nhi')
    """
    try:
        pieces = list(Formatter().parse(prompt))
    except (ValueError, TypeError):
        pieces = []
    if not isinstance(prompt, str) or (not pieces and "{}" in prompt):
        return parse_template(prompt)  # raises with the reason
    if not any(name == "" for _, name, _, _ in pieces):
        named = [name for _, name, _, _ in pieces if name and name.isidentifier()]
        if named:
            message = (
                f"{{{named[0]}}} names a column, but a Series has one value per row; write {{}} for it, use the frame "
                f"(df.llm.complete), or double the braces of text: {{{{{named[0]}}}}}"
            )
            raise invalid("prompt", message)
        return Template((SERIES_FIELD,), partial(_append_value, prompt))
    template = parse_template("".join(_unparse(*piece) for piece in pieces))
    if template.fields != (SERIES_FIELD,):
        message = f"{prompt!r}: a Series has one value per row; write {{}} for it, and {{{{ and }}}} for braces"
        raise invalid("prompt", message)
    return template


def _unparse(text: str, name: str | None, spec: str | None, conversion: str | None) -> str:
    """Return the source of a parsed piece, with the nameless placeholder named `SERIES_FIELD`."""
    literal = text.replace("{", "{{").replace("}", "}}")
    if name is None:
        return literal
    return f"{literal}{{{name or SERIES_FIELD}{f'!{conversion}' if conversion else ''}{f':{spec}' if spec else ''}}}"


def _append_value(prompt: str, values: tuple[Any, ...]) -> str:
    return f"{prompt}\n\n{values[0]}" if prompt else str(values[0])
