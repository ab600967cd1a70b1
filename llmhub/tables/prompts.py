"""Columns and a template to questions: rendered lazily, keyed without being made, made only when needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from string import Formatter
from typing import Any, Final

from llmhub.core.errors import InvalidRequest, InvalidRequestError
from llmhub.core.splice import Asking, TextKeyer, TextPreparer, asking, text_keyer, text_preparer
from llmhub.core.types import CompletionRequest
from llmhub.engine.call import Call, Spliced, Target
from llmhub.engine.run import CHUNK, Item
from llmhub.tables import frames

CONVERSIONS: Final[Mapping[str, Callable[[Any], str]]] = {"s": str, "r": repr, "a": ascii}


@dataclass(frozen=True, slots=True)
class Template:
    """A prompt with places for columns.

    Parameters
    ----------
    fields
        Columns it names, each once.
    render
        Values of those columns, in that order, to the text.
    formats
        Whether it formats values, which not every value may take.
    """

    fields: tuple[str, ...]
    render: Callable[[tuple[Any, ...]], str]
    formats: bool = False


def parse(template: Any) -> Template:
    """Read ``"Summarise: {text}"``; ``{{`` and ``}}`` are braces, ``{x:.2f}`` and ``{x!r}`` format.

    Raises
    ------
    InvalidRequestError
        Broken braces, or a field that is more than a column's name.

    Examples
    --------
    >>> parse("{a} and {b} in {{}}").render((1, "x"))
    '1 and x in {}'
    """
    if not isinstance(template, str):
        said = f"{type(template).__name__} is no template; give a string such as 'Summarise: {{text}}'"
        raise InvalidRequestError(InvalidRequest(path="prompt", message=said))
    try:
        pieces = list(Formatter().parse(template))
    except ValueError as bad:
        raise InvalidRequestError(
            InvalidRequest(path="prompt", message=f"{template!r}: {bad}; write {{{{ and }}}} for braces")
        ) from bad
    fields = tuple(dict.fromkeys(name for _, name, _, _ in pieces if name is not None))
    for name in fields:
        if not name or name.isdigit():
            raise InvalidRequestError(
                InvalidRequest(path="prompt", message=f"{template!r}: {{{name}}} names no column; write {{column}}")
            )
    for _, field_name, _, conversion in pieces:
        if conversion and conversion not in CONVERSIONS:
            said = f"{template!r}: {{{field_name}!{conversion}}} has no such conversion; there are !s, !r and !a"
            raise InvalidRequestError(InvalidRequest(path="prompt", message=said))
    if any(spec or conversion for _, _, spec, conversion in pieces):
        return Template(fields, partial(_formatted, tuple(pieces), fields), formats=True)
    places = "".join(text.replace("%", "%%") + ("" if name is None else "%s") for text, name, _, _ in pieces)
    order = [fields.index(name) for _, name, _, _ in pieces if name is not None]
    if order == list(range(len(fields))):
        return Template(fields, lambda values: places % values)
    return Template(fields, lambda values: places % tuple(values[at] for at in order))


def _formatted(
    pieces: Sequence[tuple[str, str | None, str | None, str | None]], fields: tuple[str, ...], values: tuple[Any, ...]
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
                raise InvalidRequestError(InvalidRequest(path="prompt", message=wrong)) from bad
    return "".join(said)


@dataclass(frozen=True, slots=True)
class Ask:
    """How one target is asked a text: the request around it, how it is keyed, made and prepared."""

    target: Target
    request: CompletionRequest
    key: TextKeyer
    make: Asking
    prepare: TextPreparer
    stream: bool = False

    def call(self, text: str) -> Call:
        """Make the call that asks ``text``."""
        request = self.make(text)
        return Call(self.target, request, None, self.stream, Spliced(request, self.prepare, text))


def ask(target: Target, request: CompletionRequest, *, stream: bool = False) -> Ask:
    """Prepare to ask ``target`` many texts; ``request`` holds the parameters and any system turn."""
    own = replace(request, model=target.model)
    make = asking(own)
    provider, endpoint = target.provider, target.endpoint
    return Ask(
        target=target,
        request=own,
        key=text_keyer(provider, endpoint, make),
        make=make,
        prepare=text_preparer(provider, endpoint, make, stream=stream),
        stream=stream,
    )


@dataclass(frozen=True, slots=True)
class Questions:
    """Rows x targets x samples, in that order, each a position from 0.

    Parameters
    ----------
    rows
        Values of the template's columns, one list a column.
    size
        Number of rows.
    template
        How a row becomes a text.
    asks
        Whom to ask.
    samples
        How often each.

    Notes
    -----
    ``keys`` and ``skipped`` fill as `chunks` is drawn from.
    """

    rows: Sequence[Sequence[Any]]
    size: int
    template: Template
    asks: tuple[Ask, ...]
    samples: int = 1
    keys: list[bytes | None] = field(init=False)
    skipped: bytearray = field(init=False)

    def __post_init__(self) -> None:
        """Make room for what is learned while drawing."""
        object.__setattr__(self, "keys", [None] * len(self))
        object.__setattr__(self, "skipped", bytearray(self.size))

    def __len__(self) -> int:
        """Count the positions."""
        return self.size * len(self.asks) * self.samples

    def chunks(self) -> Iterator[list[Item]]:
        """Draw the items, lazily; a row with a missing value has none."""
        render, keys = self.template.render, self.keys
        chunk: list[Item] = []
        position = 0
        step = len(self.asks) * self.samples
        for row, values in enumerate(zip(*self.rows, strict=True) if self.rows else ((),) * self.size):
            if None in values:
                self.skipped[row] = 1
                position += step
                continue
            text = render(values)
            for one in self.asks:
                for sample in range(self.samples):
                    key = keys[position] = one.key(text, sample)
                    chunk.append((position, key, one.call, text))
                    position += 1
            if len(chunk) >= CHUNK:
                yield chunk
                chunk = []
        if chunk:
            yield chunk

    def texts(self) -> Iterator[str]:
        """Render every row that has all its values."""
        rows = zip(*self.rows, strict=True) if self.rows else ((),) * self.size
        return (self.template.render(values) for values in rows if None not in values)


def of_frame(frame: Any, prompt: str, asks: Sequence[Ask], samples: int) -> Questions:
    """Ask every row of a frame.

    Raises
    ------
    InvalidRequestError
        A field of the template is no column, or a value cannot be formatted as the template says.
    """
    template = parse(prompt)
    source = frames.arrow(frame)
    frames.expect_columns(template.fields, source, "prompt")
    columns = [frames.column(source, name) for name in template.fields]
    questions = Questions(columns, len(source), template, tuple(asks), samples)
    if template.formats:
        # All of them are tried before any is sent.
        deque(questions.texts(), maxlen=0)
    return questions


def of_series(values: Any, prompt: str, asks: Sequence[Ask]) -> Questions:
    """Ask every value of a series: in the place of ``{}``, or after the prompt and an empty line."""
    there = frames.series(values)
    inside = prompt.replace("{}", "{value}") if "{}" in prompt else ""
    template = parse(inside) if inside else Template(("value",), partial(_appended, prompt))
    return Questions([there], len(there), template, tuple(asks))


def _appended(prompt: str, values: tuple[Any, ...]) -> str:
    return f"{prompt}\n\n{values[0]}" if prompt else str(values[0])
