"""Templates: a prompt with places for columns, read once and rendered row by row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from string import Formatter
from typing import Any, Final, Generic, TypeVar

from llmhub.core.errors import BadRequestError, InvalidRequest

S_co = TypeVar("S_co", covariant=True)

CONVERSIONS: Final[Mapping[str, Callable[[Any], str]]] = {"s": str, "r": repr, "a": ascii}
SERIES_FIELD: Final = "value"
"""Names the one column that a series is."""


@dataclass(frozen=True, slots=True)
class Template(Generic[S_co]):
    """What a row says, with places for columns.

    Parameters
    ----------
    fields
        Columns it names, each once.
    render
        Values of those columns, in that order, to what is said.
    formats
        Whether it formats values, which not every value may take.
    """

    fields: tuple[str, ...]
    render: Callable[[tuple[Any, ...]], S_co]
    has_format_specs: bool = False


def parse_template(template: Any, argument: str = "prompt") -> Template[str]:
    """Read ``"Summarise: {text}"``; ``{{`` and ``}}`` are braces, ``{x:.2f}`` and ``{x!r}`` format.

    Raises
    ------
    InvalidRequestError
        Broken braces, or a field that is more than a column's name; names the ``argument``.

    Examples
    --------
    >>> parse_template("{a} and {b} in {{}}").render((1, "x"))
    '1 and x in {}'
    """
    if not isinstance(template, str):
        raise _invalid_template(
            argument, f"{type(template).__name__} is no template; give a string such as 'Summarise: {{text}}'"
        )
    try:
        pieces = list(Formatter().parse(template))
    except ValueError as bad:
        raise _invalid_template(argument, f"{template!r}: {bad}; write {{{{ and }}}} for braces") from bad
    fields = tuple(dict.fromkeys(name for _, name, _, _ in pieces if name is not None))
    for name in fields:
        if not name or name.isdigit():
            raise _invalid_template(argument, f"{template!r}: {{{name}}} names no column; write {{column}}")
    for _, field_name, _, conversion in pieces:
        if conversion and conversion not in CONVERSIONS:
            said = f"{template!r}: {{{field_name}!{conversion}}} has no such conversion; there are !s, !r and !a"
            raise _invalid_template(argument, said)
    if any(spec or conversion for _, _, spec, conversion in pieces):
        return Template(fields, partial(_render_formatted, tuple(pieces), fields, argument), has_format_specs=True)
    places = "".join(text.replace("%", "%%") + ("" if name is None else "%s") for text, name, _, _ in pieces)
    order = [fields.index(name) for _, name, _, _ in pieces if name is not None]
    if order == list(range(len(fields))):
        return Template(fields, places.__mod__)
    return Template(fields, lambda values: places % tuple(values[at] for at in order))


def _render_formatted(
    pieces: Sequence[tuple[str, str | None, str | None, str | None]],
    fields: tuple[str, ...],
    argument: str,
    values: tuple[Any, ...],
) -> str:
    """Render with format specifications."""
    said: list[str] = []
    for text, name, spec, conversion in pieces:
        said.append(text)
        if name is not None:
            value = values[fields.index(name)]
            try:
                said.append(format(CONVERSIONS[conversion](value) if conversion else value, spec or ""))
            except (ValueError, TypeError) as bad:
                wrong = f"{{{name}:{spec}}} cannot format {value!r}, which is {type(value).__name__}: {bad}"
                raise _invalid_template(argument, wrong) from bad
    return "".join(said)


def parse_series_template(prompt: Any) -> Template[str]:
    r"""Read a series' prompt: the value in the place of ``{}``, or after the text, whose braces then are braces.

    Raises
    ------
    InvalidRequestError
        The prompt has a place for something else.

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
        return parse_template(prompt)  # says what is wrong with it
    if not any(name == "" for _, name, _, _ in pieces):
        return Template((SERIES_FIELD,), partial(_append_value, prompt))
    template = parse_template("".join(_unparse(*piece) for piece in pieces))
    if template.fields != (SERIES_FIELD,):
        said = f"{prompt!r}: a Series has one value to say; write {{}} for it, and {{{{ and }}}} for braces"
        raise _invalid_template("prompt", said)
    return template


def _unparse(text: str, name: str | None, spec: str | None, conversion: str | None) -> str:
    """Write a piece of a template again, the nameless place under the value's name."""
    plain = text.replace("{", "{{").replace("}", "}}")
    if name is None:
        return plain
    return f"{plain}{{{name or SERIES_FIELD}{f'!{conversion}' if conversion else ''}{f':{spec}' if spec else ''}}}"


def _append_value(prompt: str, values: tuple[Any, ...]) -> str:
    return f"{prompt}\n\n{values[0]}" if prompt else str(values[0])


def _invalid_template(argument: str, said: str) -> BadRequestError:
    return BadRequestError(InvalidRequest(path=argument, message=said))
